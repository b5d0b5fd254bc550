"""Calibrate a finished fine-tuning run again, without training.

    python -m finetuning.calibrate --job-dir jobs/af

Fits the temperature of best_model.safetensors on the validation set, and writes its predictions and
scores.json anew. For runs from before the trainer did so.
"""

from utils import cli


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m finetuning.calibrate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--job-dir",
        type=cli.existing,
        required=True,
        help="of a finished run; its data where they were, from the same folder",
    )
    return parser


def main() -> None:
    args = make_parser().parse_args()
    # Only now, so that --help and a mistyped flag are answered at once.
    from finetuning.recalibration import calibrate

    calibrate(args.job_dir)


if __name__ == "__main__":
    cli.run(main)
