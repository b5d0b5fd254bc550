"""Resample labelled recordings, split them and write the parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json; with
--dataset challenge20, ptbxl or table, the same of other recordings.
"""

import argparse
from pathlib import Path
from typing import Any

from utils import cli, names

# Flags that not all data sets have, with their defaults; `...` has to be given.
OWN = {
    "challenge17": {"source": ..., "labels": ..., "test_size": 0.2},
    "challenge20": {"source": ..., "test_size": 0.2},
    "ptbxl": {
        "source": ..., "category": "rhythm", "ptbxl_rate": 500, "val_folds": [9],
        "test_folds": [10],
    },
    "table": {
        "source": None, "table": ..., "record_fs": None, "unit": None, "gain": None,
        "test_size": 0.2,
    },
}  # fmt: skip


def parse_arguments() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Flags of this command, checked; what the data set's reader takes apart."""
    parser = cli.Parser(prog="python -m finetuning.prepare", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--dataset", choices=names.DATASETS, default="challenge17", help="layout of --source")
    flag(
        "--source",
        type=cli.existing,
        help="folder of the recordings; [challenge17] training2017, or its zip; [table] that the"
        " paths start from (default: the table's)",
    )
    flag(
        "--labels",
        type=_labels,
        metavar="{zip,v3,FILE}",
        help="[challenge17] zip: REFERENCE.csv of the source, for reproductions; v3:"
        " REFERENCE-v3.csv in or beside the source, for new work; or a file of 'record,class'"
        " lines",
    )
    flag(
        "--category",
        choices=names.PTBXL_CATEGORIES,
        help="[ptbxl] statements to classify (default: rhythm)",
    )
    flag(
        "--ptbxl-rate",
        type=int,
        choices=names.PTBXL_RATES,
        help="[ptbxl] Hz of the recordings to read (default: 500)",
    )
    flag("--val-folds", type=cli.id_list, help="[ptbxl] to validate on (default: 9)")
    flag("--test-folds", type=cli.id_list, help="[ptbxl] to test on (default: 10); others train")
    flag("--table", type=cli.file, help="[table] CSV file: file, label and more, see the README")
    flag("--record-fs", type=cli.positive, help="[table] Hz, where neither table nor file says")
    flag("--unit", choices=names.UNITS, help="[table] where neither table nor file says")
    flag("--gain", type=cli.positive, help="[table] units per mV, with --unit adu")
    flag("--fs", type=_rate, default=250, help="sampling rate to write, whole Hz")
    flag(
        "--test-size",
        type=cli.share,
        help="share of the records in the test set; not for ptbxl (default: 0.2)",
    )
    flag("--seed", type=cli.seed, default=0, help="of the split")
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    flag(
        "--out",
        type=_prefix,
        help="beginning of the file names (default: data/physionet of challenge17, data/DATASET)",
    )
    flag("--overwrite", action="store_true", help="replace files that are there")
    args = parser.parse_args()
    default = "physionet" if args.dataset == "challenge17" else args.dataset
    args.out = args.out or Path("data") / default
    own = own_flags(parser, args)
    args.test_size = own.pop("test_size", None)
    return args, own


def own_flags(parser: cli.Parser, args: argparse.Namespace) -> dict[str, Any]:
    """Flags that the data set has and others may not; ends where one of those is given."""
    own = dict(OWN[args.dataset])
    for name in dict.fromkeys(name for flags in OWN.values() for name in flags):
        flag, value = f"--{name.replace('_', '-')}", getattr(args, name)
        if value is not None and name not in own:
            parser.error(f"{flag} is not for --dataset {args.dataset}")
        if value is not None:
            own[name] = value
        if own.get(name) is ...:
            parser.error(f"--dataset {args.dataset} needs {flag}")
    return own


def _labels(text: str) -> str | Path:
    if text not in ("zip", "v3") and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is neither zip nor v3 nor a file")
    return text if text in ("zip", "v3") else Path(text)


def _rate(text: str) -> int:
    value = cli.count(text)
    if not 50 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{value} must be from 50 to 1000 Hz")
    return value


def _prefix(text: str) -> Path:
    path = Path(text)
    if path.name in ("", "..") or text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{text} must end with the beginning of a file name")
    return path


def main() -> None:
    args, own = parse_arguments()
    # Only now, so that --help and a mistyped flag are answered at once.
    from finetuning.preparation import prepare

    prepare(args, own)


if __name__ == "__main__":
    cli.run(main)
