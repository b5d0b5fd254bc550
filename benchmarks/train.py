"""Speed of the training step: what the trainers do, against plain fp32 Conv1d.

python -m benchmarks.train --out train.json
"""

from pathlib import Path

from utils import cli, names


def main() -> None:
    parser = cli.Parser(prog="python -m benchmarks.train", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--arch", choices=names.ARCHITECTURES, default="resnet18", help="encoder")
    flag("--frame-size", type=cli.count, default=2048, help="samples")
    flag("--batch-size", type=cli.count, default=64, help="frames")
    flag("--seconds", type=cli.positive, default=3.0, help="of one repeat")
    flag("--repeats", type=cli.count, default=5, help="the median is shown")
    flag("--device", choices=names.DEVICES, default="auto", help="auto: CUDA where there is one")
    flag("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from benchmarks.step import measure

    measure(args)


if __name__ == "__main__":
    cli.run(main)
