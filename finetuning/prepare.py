"""Resample the Challenge 2017 recordings, split them and write both parts as arrays.

    python -m finetuning.prepare --source training2017.zip --labels zip --out data/physionet

Writes data/physionet_train.npz, data/physionet_test.npz and data/physionet_manifest.json.
"""

import argparse
from pathlib import Path

from utils import cli


def parse_arguments() -> argparse.Namespace:
    """Flags of this command, checked."""
    parser = cli.Parser(prog="python -m finetuning.prepare", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--source", type=cli.existing, required=True, help="folder training2017, or its zip")
    flag(
        "--labels",
        type=_labels,
        required=True,
        metavar="{zip,v3,FILE}",
        help="zip: REFERENCE.csv of the source, for reproductions; v3: REFERENCE-v3.csv in or"
        " beside the source, for new work; or a file of 'record,class' lines",
    )
    flag("--fs", type=_rate, default=250, help="sampling rate to write, whole Hz")
    flag("--test-size", type=cli.share, default=0.2, help="share of the records in the test set")
    flag("--seed", type=cli.seed, default=0, help="of the split")
    flag("--pad", type=cli.count, default=16384, help="samples a record is padded to in training")
    flag("--out", type=_prefix, default=Path("data/physionet"), help="beginning of the file names")
    flag("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_args()


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
    args = parse_arguments()
    # Only now, so that --help and a mistyped flag are answered at once.
    from finetuning.preparation import prepare

    prepare(args)


if __name__ == "__main__":
    cli.run(main)
