"""Flags of commands that read a study; imports nothing heavy, so that `--help` is instant."""

from pathlib import Path

from utils.cli import Parser


def add_flags(parser: Parser, where: str = "") -> None:
    """How a description may be changed, for `study.description.load`."""
    flag = parser.add_argument
    flag("--folder", type=Path, help=f"{where}of job directories, in place of the study's own")
    flag(
        "--set",
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help=f"{where}change the description, such as finetuning.epochs=20",
    )
