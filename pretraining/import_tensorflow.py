"""Turn weights of the earlier TensorFlow code into a weights file; needs no TensorFlow.

    python -m pretraining.import_tensorflow --checkpoint PREFIX --out weights.safetensors

PREFIX is the path of a checkpoint without `.index` and `.data-00000-of-00001`.
"""

from pathlib import Path

from utils import cli, names
from utils.card import check_free


def main() -> None:
    parser = cli.Parser(
        prog="python -m pretraining.import_tensorflow", description=__doc__.split("\n")[0]
    )
    flag = parser.add_argument
    flag("--checkpoint", type=Path, required=True, help="without .index and .data-…")
    flag("--out", type=Path, required=True, help="weights file")
    flag("--overwrite", action="store_true", help="replace --out")
    flag("--task", choices=names.TASKS, help="objective of an encoder that comes without its head")
    flag(
        "--dataset",
        help="what it was trained on; by default icentia11k, of a fine-tuned network challenge17",
    )
    flag("--mean", type=cli.number, help="of that dataset, millivolt")
    flag("--sd", type=cli.positive, help="of that dataset, millivolt")
    flag(
        "--frame-size",
        type=cli.count,
        help="samples of one input; by default 2048, of a 2-D network 4096, fine-tuned 16384",
    )
    args = parser.parse_args()
    check_free(args.out, args.overwrite)
    from pretraining.tensorflow.weights import import_weights

    import_weights(args)


if __name__ == "__main__":
    cli.run(main)
