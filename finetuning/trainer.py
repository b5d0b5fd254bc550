"""Fine-tune a network, with new or pretrained weights, to classify recordings.

    python -m finetuning.trainer --job-dir jobs/af --train data/physionet_train.npz \\
        --test data/physionet_test.npz --weights-file jobs/beat/weights.safetensors

Writes args.json, history.csv, timing.csv, best_model.safetensors, MODEL_CARD.md,
{train,val,test}_predictions.csv and scores.json.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetuning.batches import Recordings, batches, load_parts
from finetuning.evaluation import Targets, choose_targets, validation_scores, write_results
from finetuning.recipe import (
    BALANCES,
    SCHEDULES,
    TrainingBatches,
    average_over_shifts,
    learning_rate_factor,
    make_optimizer,
    weighted_cross_entropy,
)
from models import DEFAULT_ARCHITECTURE, Classifier, build_encoder, count_parameters, settings_of
from utils import cli, distributed
from utils.cli import UserError
from utils.contract import Contract
from utils.engine import Epochs, Training, choose_hardware
from utils.files import digest
from utils.run import BEST, SCORES, History, Run, torch_generator, versions
from utils.weights import load_encoder, load_strictly, read_weights, save_weights

# Values of --val-metric and --stop-metric, and their columns in the history.
VAL_METRICS = {"loss": "val_loss", "acc": "val_acc", "f1": "macro_f1", "auc": "auc"}
STOP_METRICS = {"val_loss": "val_loss", "val_f1": "macro_f1", "train_acc": "acc"}


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m finetuning.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser, "finetuning")
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
    cli.add_network_flags(parser)
    # The recipe beyond the paper.
    flag("--schedule", choices=SCHEDULES, default="constant", help="of the learning rate")
    flag("--warmup", type=cli.share_or_count, default=0,
         help="steps in which the learning rate rises, or their share of all")  # fmt: skip
    flag("--weight-decay", type=cli.not_negative, default=0.0, help="of kernels only, as AdamW")
    flag("--ema", type=cli.share, default=0.0,
         help="validate, save and predict with a moving average of the weights, which keeps this"
         " share at each step; 0: no average")  # fmt: skip
    flag("--augment", action=argparse.BooleanOptionalAction, default=False,
         help="crop, move, scale, invert and disturb recordings at random")  # fmt: skip
    flag("--balance", choices=BALANCES, default="none", help="let classes count alike")
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
    """Train, and in the main process write all files of the run."""
    args = parse_arguments()
    run = Run(vars(args), last=SCORES)
    hardware = choose_hardware(args.device, run.precision())
    with distributed.join(hardware.device) as processes, ExitStack() as claim:
        hardware = hardware._replace(bf16=processes.broadcast(hardware.bf16))
        if processes.broadcast(processes.main_process and run.finished()):
            print(f"{args.job_dir / SCORES}: this run is finished")
            return
        with processes.main_process_first():
            if processes.main_process:
                claim.enter_context(run.claim())
            paths = {"train": args.train, "val": args.val, "test": args.test}
            parts, manifest = load_parts(
                {name: path for name, path in paths.items() if path},
                hardware.device,
                val_size=args.val_size,
                subset=args.subset,
                seed=args.seed,
                channel=args.channel,
                own_moments=args.standardise == "recording",
            )
            multi_label = manifest.get("multi_label", False)
            if multi_label and args.balance != "none":
                raise UserError("--balance: recordings of several classes cannot be balanced")
            processes.check(args.batch_size, args.sync_bn, len(parts["train"]))
            model, contract = build_model(
                parts["train"],
                manifest,
                weights_file=args.weights_file,
                architecture=args.arch,
                stages=args.stages,
                spectrogram=cli.spectrogram_settings(args),
                freeze=args.freeze,
                seed=args.seed,
                verbose=args.verbose,
            )
            targets = choose_targets(multi_label)
            optimizer = make_optimizer(hardware.place(model), args.lr, args.weight_decay)
            training_batches = TrainingBatches(
                parts["train"],
                args.batch_size,
                args.seed,
                manifest["fs"],
                balanced=args.balance == "sampling",
                augmented=args.augment,
                mixup=args.mixup,
                processes=processes,
            )
            steps = len(training_batches)
            training = Training(
                run,
                History(
                    args.job_dir,
                    val=VAL_METRICS[args.val_metric],
                    stop=STOP_METRICS[args.stop_metric],
                ),
                model,
                optimizer,
                Epochs(args.epochs, steps, training_batches.epoch, training_batches.describe),
                weighted_cross_entropy(parts["train"]) if args.balance == "loss" else targets.loss,
                hardware,
                processes,
                asdict(contract),
                args.checkpoint_every,
                args.compile,
                args.sync_bn,
                learning_rate(args.schedule, args.warmup, args.epochs * steps),
                args.ema,
                targets.num_correct,
            )
        training.resume()
        if processes.main_process:
            run.start(processes.describe(hardware), training.resumed)
        with training.interruptible():
            train(args, training, contract, targets, parts.get("val"))
            if not processes.main_process:
                return
            best = args.job_dir / BEST
            load_strictly(training.trained, read_weights(best)[0], best)
            evaluated = average_over_shifts(training.trained, args.tta)
            outputs = {
                name: training.evaluate(evaluated, batches(part, args.batch_size))
                for name, part in parts.items()
            }
            epoch = training.history.best["val"].epoch
            write_results(args.job_dir, epoch, targets, parts, outputs, manifest)
        training.finish()
        by = f"validation {args.val_metric}" if "val" in parts else "being the last"
        print(f"epoch {epoch} chosen by {by}; predictions and scores: {args.job_dir}")


def build_model(
    recordings: Recordings,
    manifest: dict[str, Any],
    *,
    weights_file: Path | None = None,
    architecture: str | None = None,
    stages: int | None = None,
    spectrogram: dict[str, int | str] | None = None,
    freeze: bool = False,
    seed: int = 0,
    verbose: bool = False,
) -> tuple[Classifier, Contract]:
    """Network with a new classifier, and the metadata of its weights file.

    Args:
        recordings: to train on. manifest: of their prepared set.
        weights_file: pretrained weights; its architecture, stages and spectrogram settings are
            used, and `architecture` only has to agree.

    Raises:
        UserError: the weights file is for another input or architecture.
    """
    generator = torch_generator(seed)
    channels = recordings.signal.shape[1]
    lineage = []
    if weights_file:
        transfer = load_encoder(weights_file, architecture, manifest["fs"], channels)
        encoder, lineage = transfer.encoder, transfer.contract.lineage
        architecture, stages = transfer.contract.architecture, transfer.contract.stages
        print(transfer.report(weights_file))
        if verbose:
            print("\n".join(f"  transferred {name}" for name in transfer.transferred))
    else:
        architecture = architecture or DEFAULT_ARCHITECTURE
        encoder = build_encoder(architecture, channels, stages, generator, spectrogram)
    model = Classifier(encoder, len(recordings.classes), generator)
    if freeze:
        model.freeze_encoder()
    print(f"{architecture}: {count_parameters(model):,} parameters")
    contract = Contract(
        architecture=architecture,
        stages=stages,
        in_channels=channels,
        fs=manifest["fs"],
        unit="mV",
        mean=recordings.mean,
        sd=recordings.sd,
        frame_size=manifest["pad"],
        task="classification",
        classes=recordings.classes,
        dataset=manifest["dataset"],
        manifest_sha256=digest(manifest),
        seed=seed,
        versions=versions(),
        spectrogram=settings_of(encoder),
        multi_label=manifest.get("multi_label", False),
        derived_from=lineage,
    )
    return model, contract


def learning_rate(schedule: str, warmup: float, steps: int) -> Callable[[int], float] | None:
    """Factor of the learning rate by steps done, of all `steps`; None where it is constant."""
    if schedule == "constant" and not warmup:
        return None
    return lambda step: learning_rate_factor(step, steps, schedule, warmup)


def train(
    args: argparse.Namespace,
    training: Training,
    contract: Contract,
    targets: Targets,
    validation: Recordings | None,
) -> None:
    """Train until the stop metric no longer improves; the best epoch's weights are saved."""
    columns = ["val_loss", "val_acc", *targets.columns]
    if args.val_metric != "auc":
        columns.remove("auc")

    def ended() -> bool:
        return training.epoch > training.history.best["stop"].epoch + args.patience

    for row in training.epochs(ended, not args.verbose):
        if not training.processes.main_process:
            continue
        row |= dict.fromkeys(columns)
        if validation:
            outputs = training.evaluate(training.trained, batches(validation, args.batch_size))
            scores = validation_scores(targets, *outputs, validation.classes)
            row |= {name: scores[name] for name in columns}
        if "val" in training.record(row):
            save_weights(args.job_dir / BEST, training.trained.state_dict(), contract)
    if ended():
        print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")


if __name__ == "__main__":
    cli.run(main)
