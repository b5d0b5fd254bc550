"""Resample labelled recordings, split them and write the parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json; with
--dataset challenge20, ptbxl or table, the same of other recordings.
"""

import argparse
from pathlib import Path
from typing import Any

from recordings import UNITS, as_unit
from recordings.resampling import METHODS
from utils import cli, names, presets

OUT = {"challenge17": "physionet"}  # where --out is not the name of the data set
DRAWING = ["test_size", "seed"]  # for data sets that come without a split
# Flags that not all data sets have.
NEEDED = {
    "challenge17": ["source", "labels"],
    "challenge20": ["source"],
    "ptbxl": ["source"],
    "table": ["table"],
}
OPTIONAL = {
    "challenge17": DRAWING,
    "challenge20": DRAWING,
    "ptbxl": ["category", "ptbxl_rate", "val_folds", "test_folds"],
    "table": ["source", "record_fs", "unit", "gain", *DRAWING],
}


def parse_arguments() -> tuple[argparse.Namespace, dict[str, Any]]:
    """Flags of this command, checked, and those that the reader takes."""
    parser = cli.Parser(prog="python -m finetuning.prepare", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--dataset", choices=names.DATASETS, default="challenge17", help="layout of --source")
    add_dataset_flags(parser)
    flag("--fs", type=_rate, default=250, help="sampling rate to write, whole Hz")
    flag(
        "--resampling",
        choices=METHODS,
        default="polyphase",
        help="fft: over the whole recording at once, as the replication did",
    )
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    flag(
        "--out",
        type=_prefix,
        help="beginning of the file names; by default data/physionet of challenge17, data/DATASET",
    )
    flag("--overwrite", action="store_true", help="replace files that are there")
    cli.add_preset_flag(parser)
    args = parser.parse_with_preset(presets.PREPARE)
    own = check_dataset_flags(parser, args)
    args.out = args.out or Path("data", OUT.get(args.dataset, args.dataset))
    args.drawing = sorted(parser.given() & set(DRAWING))
    return args, {name: getattr(args, name) for name in own if name not in DRAWING}


def add_dataset_flags(parser: cli.Parser) -> None:
    """Flags of `NEEDED` and `OPTIONAL`."""
    flag = parser.add_argument
    flag(
        "--source",
        type=cli.existing,
        help="folder of the recordings; [challenge17] training2017, or its zip; [table] where the"
        " paths start, by default beside the table",
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
        default="rhythm",
        help="[ptbxl] statements to classify",
    )
    flag(
        "--ptbxl-rate",
        type=int,
        choices=names.PTBXL_RATES,
        default=500,
        help="[ptbxl] Hz of the recordings to read",
    )
    flag("--val-folds", type=cli.id_list, default="9", help="[ptbxl] to validate on")
    flag("--test-folds", type=cli.id_list, default="10", help="[ptbxl] to test on; others train")
    flag("--table", type=cli.file, help="[table] CSV file: file, label and more, see the README")
    flag("--record-fs", type=cli.positive, help="[table] Hz, where neither table nor file says")
    flag(
        "--unit",
        type=as_unit,
        choices=UNITS,
        help="[table] where neither table nor file says",
    )
    flag("--gain", type=cli.positive, help="[table] units per mV, with --unit adu")
    flag(
        "--test-size",
        type=cli.proper_share,
        default=0.2,
        help="[without a split] share of the records in the test set",
    )
    flag("--seed", type=cli.seed, default=0, help="[without a split] of the one that is drawn")


def check_dataset_flags(parser: cli.Parser, args: argparse.Namespace) -> list[str]:
    """Names of the flags that `args.dataset` has; refuses others, and to do without one."""
    own = NEEDED[args.dataset] + OPTIONAL[args.dataset]
    others = set().union(*NEEDED.values(), *OPTIONAL.values()) - set(own)
    parser.refuse(others, f"not for --dataset {args.dataset}")
    for name in NEEDED[args.dataset]:
        if getattr(args, name) is None:
            parser.error(f"--dataset {args.dataset} needs --{name}")
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
