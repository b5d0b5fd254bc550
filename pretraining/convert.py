"""Bring annotated WFDB databases, or the torrent of Icentia11k, into Icentia11k's layout.

    python -m pretraining.convert --source mitdb --from data/mitdb --out data/mitdb250
    python -m pretraining.convert --source mitdb --from data/mitdb --source svdb --from data/svdb \\
        --out data/mitdb_svdb250
    python -m pretraining.convert --source torrent --from data/torrent --out data/icentia11k

Of a database, one patient per record, one segment per lead, at 250 Hz. Several databases become one
set, in one command or, with `--append`, one after the other. `dataset.json` holds the mean and
deviation of the whole set, and the licence, checksums and subjects of each source.
"""

from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.convert", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag(
        "--source",
        choices=names.SOURCES,
        action="append",
        required=True,
        help="mitdb, svdb, wfdb for any other database with beat annotations (.atr), or torrent; "
        "given several times, each with its --from",
    )
    flag(
        "--from",
        type=cli.existing,
        action="append",
        required=True,
        dest="folders",
        metavar="FOLDER",
        help="folder of its files",
    )
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag(
        "--subjects",
        type=cli.file,
        help="file of lines patient,subject: records of one person, where the source does not say",
    )
    flag("--append", action="store_true", help="add to the set that was converted to --out")
    flag("--overwrite", action="store_true", help="replace a set that was converted to --out")
    args = parser.parse_args()
    if len(args.source) != len(args.folders):
        parser.error(f"{len(args.source)} --source but {len(args.folders)} --from; give pairs")
    if args.append and args.overwrite:
        parser.error("argument --append: not with --overwrite")
    if "torrent" in args.source and (len(args.source) > 1 or args.append):
        parser.error("argument --source: torrent is converted by itself")
    from pretraining.conversion import convert

    sources = list(zip(args.source, args.folders, strict=True))
    convert(sources, args.out, args.patient_ids, args.subjects, args.append, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
