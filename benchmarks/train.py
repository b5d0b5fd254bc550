"""Speed of pretraining: the trainer and its bare step, against plain fp32 Conv1d and the machine.

python -m benchmarks.train --out train.json
"""

from benchmarks import flags
from utils import cli, names


def main() -> None:
    parser = flags.parser("train", __doc__)
    flag = parser.add_argument
    flag("--arch", choices=names.ARCHITECTURES, default="resnet18", help="encoder")
    flag("--frame-size", type=cli.count, default=4096, help="samples")
    flag("--batch-size", type=cli.count, default=32, help="frames")
    flag("--compile", action="store_true", help="[CPU] measure the compiled step, too")
    flag("--seconds", type=cli.positive, default=10.0, help="of each figure")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.measures.train import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
