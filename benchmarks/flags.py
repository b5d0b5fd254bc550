"""Flags that all benchmarks have."""

from pathlib import Path

from utils import cli, names


def parser(name: str, description: str) -> cli.Parser:
    """Of `benchmarks.name`; `description` is its docstring."""
    made = cli.Parser(prog=f"python -m benchmarks.{name}", description=description.split("\n")[0])
    flag = made.add_argument
    flag("--device", choices=names.DEVICES, default="auto", help="auto: CUDA where there is one")
    flag("--repeats", type=cli.count, default=5, help="of each figure; the median is shown")
    flag("--out", type=Path, help="JSON file for the figures")
    return made
