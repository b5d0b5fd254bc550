"""Time and memory of `finetuning.predict` for a recording of a day, in a process of its own.

python -m benchmarks.holter --out holter.json
"""

from benchmarks import flags
from utils import cli


def main() -> None:
    parser = flags.parser("holter", __doc__)
    parser.set_defaults(repeats=1)
    flag = parser.add_argument
    flag("--weights", type=cli.file, help="of finetuning.trainer; by default random ResNet-18")
    flag("--hours", type=cli.positive, default=24.0, help="of the recording")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.holter import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
