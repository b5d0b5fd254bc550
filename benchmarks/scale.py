"""How index, start-up, memory and open files grow with the number of patients, up to 11,000.

python -m benchmarks.scale --patients 550 1100 --out scale.json
"""

from benchmarks import flags
from utils import cli


def main() -> None:
    parser = flags.parser("scale", __doc__)
    flag = parser.add_argument
    flag(
        "--patients", type=cli.count, nargs="+", default=[550, 1100],
        help="of each cohort; from the last two, 11000 are extrapolated",
    )  # fmt: skip
    flag("--segments", type=cli.count, default=50, help="of each patient")
    flag("--samples", type=cli.count, default=4096, help="of each segment, a frame at least")
    args = parser.parse_args()
    if args.samples < 2048:
        parser.error("argument --samples: a frame has 2048")
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.scale import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
