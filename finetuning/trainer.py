"""Fine-tune a network, with new or pretrained weights, to classify recordings.

    python -m finetuning.trainer --job-dir jobs/af --train data/physionet_train.npz \\
        --test data/physionet_test.npz --weights-file jobs/beat/weights.safetensors

Writes args.json, history.csv, timing.csv, best_model.safetensors, {train,val,test}_predictions.csv
and scores.json.
"""

import argparse

from utils import cli, names, presets


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m finetuning.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser)
    flag = parser.add_argument
    flag("--train", type=cli.file, required=True, help="prepared set (.npz) to train on")
    flag("--val", type=cli.file, help="to validate on; by default drawn from --train")
    flag("--test", type=cli.file, help="prepared set to predict once, at the end")
    flag(
        "--weights-file",
        type=cli.file,
        help="pretrained weights; its classifier, if any, is dropped",
    )
    flag(
        "--val-size",
        type=cli.share,
        default=0.0625,
        help="share of --train that validates, without --val; 0 for none",
    )
    flag("--arch", choices=names.ARCHITECTURES, help="by default the weights file's, else resnet18")
    flag("--stages", type=cli.count, help="keep the first stages of a new network only")
    flag(
        "--subset",
        type=cli.share_or_one,
        default=1.0,
        help="train on this share of what validation leaves",
    )
    flag("--batch-size", type=cli.count, default=64, help="recordings, of all processes together")
    flag("--val-metric", choices=names.FINETUNING_METRICS, default="f1", help="chooses the epoch")
    flag("--channel", type=cli.count_or_zero, help="use this lead only; all by default")
    flag("--epochs", type=cli.count, default=200, help="at most")
    flag(
        "--patience",
        type=cli.count,
        default=50,
        help="stop after so many epochs without a better --stop-metric",
    )
    flag("--stop-metric", choices=names.STOP_METRICS, default="val_loss", help="see --patience")
    flag("--freeze", action="store_true", help="train the classifier only")
    flag("--verbose", action="store_true", help="a progress bar, and every tensor transferred")
    add_recipe_flags(parser)
    cli.add_spectrogram_flags(parser)
    return parser


def parse_arguments() -> argparse.Namespace:
    """Values of the flags, checked."""
    parser = make_parser()
    args = parser.parse_with_preset(presets.FINETUNING)
    check_validation_flags(parser, args)
    cli.check_run_flags(parser, args)
    cli.check_network_flags(parser, args)
    if not args.weights_file:
        parser.refuse(["freeze"], "needs --weights-file; a new encoder has learned nothing to keep")
    return args


def add_recipe_flags(parser: cli.Parser) -> None:
    """What goes beyond the paper; nothing of it by default."""
    flag = parser.add_argument
    flag("--schedule", choices=names.SCHEDULES, default="constant", help="of the learning rate")
    flag(
        "--warmup",
        type=cli.share_or_count,
        default=0,
        help="steps in which the learning rate rises, or share of all steps of --epochs",
    )
    flag("--weight-decay", type=cli.not_negative, default=0.0, help="of kernels only, as AdamW")
    flag(
        "--ema",
        type=cli.share,
        default=0.0,
        help="validate, save and predict with a moving average of the weights that keeps this share"
        " at each step; 0 for none",
    )
    flag(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="crop, move, scale, turn over and disturb recordings at random",
    )
    flag("--balance", choices=names.BALANCES, default="none", help="let classes count alike")
    flag(
        "--mixup",
        type=cli.not_negative,
        default=0.0,
        help="blend recordings in pairs, in shares of a Beta distribution of this alpha; 0 for"
        " none",
    )
    flag(
        "--standardise",
        choices=names.STANDARDS,
        default="dataset",
        help="by whose mean and deviation: recording: of each its own",
    )
    flag(
        "--tta",
        type=cli.count,
        default=1,
        help="average the final predictions over so many shifts of each recording",
    )


def check_validation_flags(parser: cli.Parser, args: argparse.Namespace) -> None:
    """Refuse what would do nothing, with a validation set that is given or without any."""
    if args.val:
        parser.refuse(["val_size"], "--val names the recordings to validate on")
    elif not args.val_size:
        unused = ["val_metric"]
        if args.stop_metric != "train_acc":
            unused += ["stop_metric", "patience"]
        parser.refuse(unused, "nothing validates with --val-size 0")


def main() -> None:
    args = parse_arguments()
    # Only now, so that --help and a mistyped flag are answered at once.
    from finetuning.run import run

    run(args)


if __name__ == "__main__":
    cli.run(main)
