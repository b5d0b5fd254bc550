"""Say what a weights file or a checkpoint contains; store weights in half precision.

    python -m utils.checkpoint jobs/af/best_model.safetensors
    python -m utils.checkpoint jobs/af/best_model.safetensors --half weights/af.safetensors

A half-precision copy comes with its card, `weights/af.md`, and a line in `weights/SHA256SUMS`.
"""

from pathlib import Path

from utils import cli
from utils.card import check_free


def main() -> None:
    parser = cli.Parser(prog="python -m utils.checkpoint", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("file", type=cli.file, help=".safetensors")
    flag("--tensors", action="store_true", help="list each tensor, too")
    flag("--half", type=Path, metavar="OUT", help="write a half-precision copy of the weights")
    flag("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args()
    if args.half:
        check_free(args.half, args.overwrite)
    # Only now, so that --help and a mistyped flag are answered at once.
    from utils.half import store_half
    from utils.inspection import show

    if args.half:
        store_half(args.file, args.half)
    show(args.half or args.file, args.tensors)


if __name__ == "__main__":
    cli.run(main)
