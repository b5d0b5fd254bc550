"""Bring an annotated WFDB database into Icentia11k's layout, at 250 Hz.

    python -m pretraining.convert --source mitdb --from data/mitdb --out data/mitdb250

One patient per record, one segment per lead. `dataset.json` holds the mean and deviation of the
set, its source and checksums.
"""

from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.convert", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag(
        "--source",
        choices=names.SOURCES,
        required=True,
        help="mitdb, or wfdb for any other database with beat annotations (.atr)",
    )
    flag("--from", type=cli.existing, required=True, dest="folder", help="folder with its .hea")
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag("--overwrite", action="store_true", help="replace a set that was converted to --out")
    args = parser.parse_args()
    from pretraining.wfdb_source import convert

    convert(args.source, args.folder, args.out, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
