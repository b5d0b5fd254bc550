"""Compare fine-tuning runs: a table of test scores, and a figure.

    python -m report.compare --jobs random=jobs/random beat=jobs/beat1,jobs/beat2 --figure f1.png

Runs are compared on their test sets; if one of them has none, all are compared on validation.
"""

import argparse
from pathlib import Path

from report import collect, figures, stats, tables
from utils import cli


def scenario(text: str) -> tuple[str, list[Path]]:
    """`name=folder,folder`: the runs of one scenario."""
    name, _, folders = text.partition("=")
    if not name or not folders:
        raise argparse.ArgumentTypeError(f"{text} must read name=folder or name=folder,folder")
    return name, [Path(folder) for folder in folders.split(",")]


def main() -> None:
    parser = cli.Parser(prog="python -m report.compare", description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--jobs", type=scenario, nargs="+", metavar="NAME=DIR[,DIR]",
                        help="runs by scenario; several are averaged")  # fmt: skip
    source.add_argument("--results", type=cli.existing, help="folder written by --save")
    flag = parser.add_argument
    flag("--save", type=Path, help="folder for the predictions and histories")
    flag("--figure", type=Path, help="image to write (.png, .pdf or .svg)")
    flag("--title", default="Transfer learning for AF classification", help="of the figure")
    args = parser.parse_args()
    if args.figure and args.figure.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"argument --figure: {args.figure} must end in .png, .pdf or .svg")
    results = collect.load(args.results) if args.results else collect.from_jobs(args.jobs)
    if results.part != collect.TEST:
        print("not every run has a test set: these are scores on validation")
    print(stats.summarise(stats.score_runs(results.predictions)).to_string(index=False))
    variants = tables.ablation(results)
    if len(variants):
        print("variants beside their baseline, validation macro F1:")
        print(variants.to_string(index=False))
    if args.save:
        collect.save(results, args.save)
        print(f"saved: {args.save}")
    if args.figure:
        figures.draw_comparison(results, args.title, args.figure)
        print(f"figure: {args.figure}")


if __name__ == "__main__":
    cli.run(main)
