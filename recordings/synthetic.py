"""Make a synthetic cohort in the layouts of Icentia11k and of the 2017 Challenge.

    python -m recordings.synthetic --out demo/data

For the demo, the tests and the benchmarks only.
"""

from pathlib import Path

from utils import cli


def main() -> None:
    parser = cli.Parser(prog="python -m recordings.synthetic", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--out", type=Path, required=True, help="folder to make")
    flag("--patients", type=cli.count, default=24, help="of Icentia11k")
    flag("--segments", type=cli.count, default=2, help="of each patient")
    flag("--samples", type=cli.count, default=30_000, help="of each segment")
    flag("--recordings", type=cli.count, default=300, help="of the Challenge")
    flag("--seed", type=cli.count_or_zero, default=0, help="of the cohort")
    flag("--overwrite", action="store_true", help="replace an earlier cohort")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from recordings.synthetic_cohort import write_cohort

    write_cohort(**vars(args))


if __name__ == "__main__":
    cli.run(main)
