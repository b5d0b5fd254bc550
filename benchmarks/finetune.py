"""Speed of fine-tuning: an epoch over the training recordings of Challenge 2017, and prediction.

python -m benchmarks.finetune --batch-size 16 --out finetune.json
"""

from benchmarks import flags
from utils import cli, names


def main() -> None:
    parser = flags.parser("finetune", __doc__)
    flag = parser.add_argument
    flag("--arch", choices=names.ARCHITECTURES, default="resnet18", help="encoder")
    flag("--pad", type=cli.count, default=16384, help="samples of a recording")
    flag("--batch-size", type=cli.count, default=64, help="recordings")
    flag("--recordings", type=cli.count, default=6395, help="of an epoch")
    flag(
        "--measured",
        type=cli.count,
        help="recordings to measure with, from which an epoch is calculated; by default all on"
        " CUDA, 128 on a CPU",
    )
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.finetune import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
