"""Speed of reading: frames and labels to tensors, against a generator of single frames.

python -m benchmarks.loader --out loader.json
"""

from benchmarks import flags
from utils import cli


def main() -> None:
    parser = flags.parser("loader", __doc__)
    flag = parser.add_argument
    flag("--data", type=cli.existing, help="set in Icentia11k's layout; by default synthetic")
    flag("--frame-size", type=cli.count, default=4096, help="samples")
    flag("--batch-size", type=cli.count, default=512, help="frames")
    flag("--frames", type=cli.count, default=2**18, help="of each figure")
    flag("--segments", type=cli.count, default=50, help="[synthetic] of each of 64 patients")
    flag("--samples", type=cli.count, default=2**15, help="[synthetic] of each segment")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.loader import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
