r"""Fine-tune a network, with new or pretrained weights, to classify recordings.

    python -m finetuning.trainer --job-dir jobs/af --train data/physionet_train.npz \
        --test data/physionet_test.npz --weights-file jobs/beat/weights.safetensors

Writes args.json, history.csv, timing.csv, best_model.safetensors, MODEL_CARD.md,
{train,val,test}_predictions.csv and scores.json.
"""

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetuning import evaluation, recipe
from finetuning.batches import Recordings, batches, load_parts
from finetuning.prepared_set import how_resampled, manifest_path
from models import Classifier, count_parameters
from utils import cli
from utils.engine import Epochs, Hardware, Training, open_run
from utils.files import digest, read_json, sha256
from utils.model_card import Metadata
from utils.run import BEST, SCORES, Run, torch_generator, versions
from utils.weights import load_strictly, read_weights, save_weights, start_encoder

# Values of --val-metric and --stop-metric, and their columns in the history.
VAL_METRICS = {"loss": "val_loss", "acc": "val_acc", "f1": "macro_f1", "auc": "auc"}
STOP_METRICS = {"val_loss": "val_loss", "val_f1": "macro_f1", "train_acc": "acc"}


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m finetuning.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser)
    cli.add_network_flags(parser)
    flag = parser.add_argument
    flag("--train", type=cli.file, required=True, help="prepared set (.npz) to train on")
    flag("--val", type=cli.file, help="to validate on; by default drawn from --train")
    flag("--test", type=cli.file, help="prepared set to predict once, at the end")
    flag("--val-size", type=cli.share, default=0.0625, help="share of --train; 0: no validation")
    flag("--subset", type=cli.share_or_one, default=1.0, help="share of the rest to train on")
    flag("--batch-size", type=cli.count, default=64, help="recordings, of all processes together")
    flag("--val-metric", choices=list(VAL_METRICS), default="f1", help="chooses the epoch")
    flag("--channel", type=cli.count_or_zero, help="use this lead only; all by default")
    flag("--epochs", type=cli.count, default=200, help="at most")
    flag("--patience", type=cli.count, default=50, help="epochs without a better --stop-metric")
    flag("--stop-metric", choices=list(STOP_METRICS), default="val_loss", help="see --patience")
    flag("--freeze", action="store_true", help="train the classifier only")
    flag("--verbose", action="store_true", help="a progress bar, and every tensor transferred")
    # The recipe beyond the paper.
    flag("--schedule", choices=recipe.SCHEDULES, default="constant", help="of the learning rate")
    flag("--warmup", type=cli.share_or_count, default=0,
         help="steps in which the learning rate rises, or their share of all")  # fmt: skip
    flag("--weight-decay", type=cli.not_negative, default=0.0, help="of kernels only, as AdamW")
    flag("--ema", type=cli.share, default=0.0,
         help="validate, save and predict with a moving average of the weights, which keeps this"
         " share at each step; 0: no average")  # fmt: skip
    flag("--augment", action=argparse.BooleanOptionalAction, default=False,
         help="crop, move, scale, invert and disturb recordings at random")  # fmt: skip
    flag("--balance", choices=recipe.BALANCES, default="none", help="let classes count alike")
    flag("--mixup", type=cli.not_negative, default=0.0,
         help="blend pairs of recordings; alpha of the Beta distribution of shares")  # fmt: skip
    flag("--standardise", choices=("dataset", "recording"), default="dataset",
         help="by mean and deviation of the data set, or of each recording")  # fmt: skip
    flag("--tta", type=cli.count, default=1,
         help="average the final predictions over so many shifts of each recording")  # fmt: skip
    return parser


def parse_arguments() -> argparse.Namespace:
    """Values of the flags; those that would do nothing are refused."""
    parser = make_parser()
    args = parser.parse_with_preset("finetuning")
    if args.val:
        parser.refuse(["val_size"], "--val names the recordings to validate on")
    elif not args.val_size:
        parser.refuse(["val_metric"], "nothing validates with --val-size 0")
        if args.stop_metric != "train_acc":
            parser.refuse(["stop_metric", "patience"], "nothing validates with --val-size 0")
    cli.check_shared_flags(parser, args)
    if not args.weights_file:
        parser.refuse(["freeze"], "needs --weights-file; a new encoder has learned nothing to keep")
    return args


def main() -> None:
    """Train in all processes; the main process writes the files of the run."""
    args = parse_arguments()
    job_dir, run = args.job_dir, Run(vars(args), SCORES, content)
    with open_run(run) as hardware:
        if not hardware:
            return
        with hardware.processes.main_process_first():
            training, targets, parts, manifest = set_up(args, run, hardware)
        columns = [n for n in targets.columns if n != "auc" or args.val_metric == "auc"]

        def ended() -> bool:
            best = training.history.best_epoch(STOP_METRICS[args.stop_metric])
            return training.epoch > best + args.patience

        def predict(model: nn.Module, part: Recordings) -> tuple[Tensor, Tensor]:
            return training.evaluate(model, batches(part, args.batch_size))

        with training.running():
            for row in training.epochs(ended, not args.verbose):
                scores = {}
                if "val" in parts:
                    logits, labels = predict(training.trained, parts["val"])
                    classes = parts["val"].classes
                    scores = evaluation.validation_scores(targets, logits, labels, classes)
                if training.record(row | {name: scores.get(name) for name in columns}):
                    weights = training.trained.state_dict()
                    save_weights(job_dir / BEST, weights, training.metadata)
            if not hardware.processes.main_process:
                return
            if ended():
                print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")
            epoch = training.best_epoch
            load_strictly(training.trained, read_weights(job_dir / BEST)[0], job_dir / BEST)
            averaged = recipe.ShiftAverage(training.trained, args.tta)
            outputs = {name: predict(averaged, part) for name, part in parts.items()}
            evaluation.write_results(job_dir, epoch, targets, parts, outputs, manifest)
        by = f"validation {args.val_metric}" if "val" in parts else "being the last"
        print(f"epoch {epoch} chosen by {by}; predictions and scores: {job_dir}")


def content(path: Path) -> str:
    """Checksums of an input and, of a prepared set, of its manifest."""
    manifest = manifest_path(path)
    described = path.suffix == ".npz" and manifest.is_file()
    return f"{sha256(path)} {digest(read_json(manifest))}" if described else sha256(path)


def set_up(
    args: argparse.Namespace, run: Run, hardware: Hardware
) -> tuple[Training, evaluation.Targets, dict[str, Recordings], dict[str, Any]]:
    """The training, what it predicts, the parts of the data, and the manifest of `--train`."""
    paths = {"train": args.train, "val": args.val, "test": args.test}
    parts, manifest = load_parts(
        {name: path for name, path in paths.items() if path}, hardware.device,
        val_size=args.val_size, subset=args.subset, seed=args.seed, channel=args.channel,
        per_recording=args.standardise == "recording",
    )  # fmt: skip
    train = parts["train"]
    hardware.processes.check(args.batch_size, args.sync_bn, len(train))
    targets = evaluation.choose_targets(manifest.get("multi_label", False))
    if args.balance != "none" and targets is evaluation.MULTI_LABEL:
        raise cli.UserError("--balance: recordings of several classes cannot be balanced")
    generator = torch_generator(args.seed)
    encoder, described = start_encoder(
        args.weights_file, args.arch, args.stages, cli.spectrogram_settings(args), manifest["fs"],
        train.signal.shape[1], generator, args.verbose,
    )  # fmt: skip
    model = Classifier(encoder, len(train.classes), generator)
    model.encoder.requires_grad_(not args.freeze)
    print(f"{described['architecture']}: {count_parameters(model):,} parameters")
    data = recipe.TrainingBatches(
        train, args.batch_size, args.seed, manifest["fs"], balanced=args.balance == "sampling",
        augmented=args.augment, mixup=args.mixup, processes=hardware.processes,
    )  # fmt: skip
    steps = args.epochs * len(data)

    def learning_rate(step: int) -> float:
        return args.lr * recipe.learning_rate_factor(step, steps, args.schedule, args.warmup)

    training = Training(
        run, hardware, hardware.place(model),
        recipe.make_optimizer(model, args.lr, args.weight_decay),
        Epochs(args.epochs, len(data), data.epoch, data.names),
        describe(train, manifest, args.seed, described),
        recipe.weighted_cross_entropy(train) if args.balance == "loss" else targets.loss,
        VAL_METRICS[args.val_metric], learning_rate, args.ema, targets.num_correct,
    )  # fmt: skip
    if "val" in parts:
        evaluation.warn_of_few(parts["val"].y, train.classes)
    return training, targets, parts, manifest


def describe(
    recordings: Recordings, manifest: dict[str, Any], seed: int, encoder: dict[str, Any]
) -> Metadata:
    """Metadata of the weights; `encoder` are the fields that describe it."""
    return Metadata(
        unit="mV", mean=recordings.mean, sd=recordings.sd, frame_size=manifest["pad"],
        task="classification", classes=recordings.classes, dataset=manifest["dataset"],
        manifest_sha256=digest(manifest), seed=seed, versions=versions(),
        multi_label=manifest.get("multi_label", False), **how_resampled(manifest), **encoder,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
