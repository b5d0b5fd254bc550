"""Load a public data set, each file checked against its published SHA-256.

    python -m recordings.download challenge17 --out data/challenge17
    python -m recordings.download mitdb --out data/mitdb
    python -m recordings.download icentia11k --patients 0-109 --out data/icentia11k

The same command continues where it stopped.
"""

import argparse
import re
from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(prog="python -m recordings.download", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("dataset", choices=names.DOWNLOADS)
    flag("--out", type=Path, required=True, help="folder of the files; that of an earlier run too")
    flag(
        "--patients",
        type=cli.id_list,
        help="[icentia11k] such as 0,1,2 or 0-109; all by default, about 1.1 TB",
    )
    flag("--base-url", type=_url, help="folder of a mirror, in place of physionet.org")
    flag("--workers", type=cli.count, default=8, help="files loaded side by side")
    args = parser.parse_args()
    if args.dataset != "icentia11k":
        parser.refuse(["patients"], f"not for {args.dataset}")
    # Only now, so that --help and a mistyped flag are answered at once.
    from recordings.downloading import download

    download(**vars(args))


def _url(text: str) -> str:
    if not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"{text} does not begin with http:// or https://")
    return text.rstrip("/") + "/"


if __name__ == "__main__":
    cli.run(main)
