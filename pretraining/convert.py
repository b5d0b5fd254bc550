"""Bring an annotated WFDB database, or the torrent of Icentia11k, into Icentia11k's layout.

    python -m pretraining.convert --source mitdb --from data/mitdb --out data/mitdb250
    python -m pretraining.convert --source torrent --from data/torrent --out data/icentia11k

Of a database, one patient per record, one segment per lead, at 250 Hz. `dataset.json` holds the
mean and deviation of the set, its source and checksums.
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
        help="mitdb, wfdb for any other database with beat annotations (.atr), or torrent",
    )
    flag("--from", type=cli.existing, required=True, dest="folder", help="folder of its files")
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag("--overwrite", action="store_true", help="replace a set that was converted to --out")
    args = parser.parse_args()
    from pretraining.conversion import convert

    convert(args.source, args.folder, args.out, args.patient_ids, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
