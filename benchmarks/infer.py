"""Time from a recording's file to the probabilities of its classes, one recording at a time.

python -m benchmarks.infer --out infer.json
"""

from benchmarks import flags
from utils import cli


def main() -> None:
    parser = flags.parser("infer", __doc__)
    flag = parser.add_argument
    flag("--weights", type=cli.file, help="of finetuning.trainer; by default random ResNet-18")
    flag("--record", type=cli.file, help="recording (.hea); by default 30 s at 300 Hz, synthetic")
    flag("--runs", type=cli.count, default=20, help="of each figure")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.infer import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
