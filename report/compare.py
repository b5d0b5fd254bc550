"""Compare fine-tuning runs: a table of test scores, and a figure.

python -m report.compare --jobs random=jobs/random beat=jobs/beat1,jobs/beat2 --figure f1.png

Runs are compared by their test sets; where not every run has one, all by validation.
"""

import argparse
import shlex
from pathlib import Path

from study.flags import add_flags
from utils import cli


def scenario(text: str) -> tuple[str, list[Path]]:
    """`name=folder,folder`: the runs of one scenario."""
    name, _, folders = text.partition("=")
    if not name or not folders:
        raise argparse.ArgumentTypeError(f"{text} must read name=folder or name=folder,folder")
    return name, [Path(folder) for folder in folders.split(",")]


def image(text: str) -> Path:
    """A file to draw to."""
    if not text.endswith((".png", ".pdf", ".svg")):
        raise argparse.ArgumentTypeError(f"{text} must end in .png, .pdf or .svg")
    return Path(text)


def main() -> None:
    parser = cli.Parser(prog="python -m report.compare", description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--jobs",
        type=scenario,
        nargs="+",
        metavar="NAME=DIR[,DIR]",
        help="runs by scenario; several are averaged",
    )
    source.add_argument(
        "--study", type=cli.file, help="finished runs of a study, studies/NAME.toml"
    )
    source.add_argument("--results", type=cli.existing, help="folder written by --save")
    add_flags(parser, "[--study] ")
    parser.add_argument("--save", type=Path, help="folder for the predictions and histories")
    parser.add_argument("--figure", type=image, help="image to write (.png, .pdf or .svg)")
    parser.add_argument(
        "--title", default="Transfer learning for AF classification", help="of the figure"
    )
    args = parser.parse_args()
    if not args.study:
        parser.refuse(["folder", "set"], "only for --study")
    # Only now, so that --help and a mistyped flag are answered at once.
    from report import beyond, collect, figures
    from report import stats as statistics

    found = of_study(args) if args.study else (args.jobs,)
    results = collect.load(args.results) if args.results else collect.from_jobs(*found)
    if results.part != collect.TEST:
        print("not every run has a test set: scores of the recordings that validate")
    scores = statistics.score_runs(results.predictions)
    print(statistics.summarise(scores).to_string(index=False))
    variants = beyond.table(results)
    if variants is not None:
        print(f"validation macro F1, mean of the last {beyond.LAST} epochs:")
        print(variants.to_string(index=False))
    if args.save:
        collect.save(results, args.save)
        print(f"saved: {args.save}")
    if args.figure:
        figures.draw_comparison(results, scores, args.title, args.figure)
        print(f"figure: {args.figure}")


def of_study(args: argparse.Namespace) -> tuple:
    """Finished runs of `--study` by scenario, and what else `collect.from_jobs` takes."""
    from report.collect import name_cells
    from report.provenance import Origin
    from study.cells import finished_cells
    from study.description import load

    study = load(args.study, args.set, args.folder)
    found = finished_cells(study)
    if not found:
        words = ["python", "-m", "study", "status", args.study]
        words += ["--folder", args.folder] if args.folder else []
        words += ["--set", *args.set] if args.set else []
        raise cli.UserError(
            f"{study.folder}: none of the fine-tuning runs of {args.study} is finished, or they"
            f" were run with other flags; see {shlex.join(map(str, words))}"
        )
    print(f"{len(found)} of {len(study.cells)} fine-tuning runs are finished")
    origins = {cell.job: Origin(cell.run, cell.epoch) for cell in found if cell.run}
    return name_cells(found), origins, args.study


if __name__ == "__main__":
    cli.run(main)
