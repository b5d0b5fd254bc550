"""Fine-tune a network, with new or pretrained weights, to classify recordings.

    python -m finetuning.trainer --job-dir jobs/af --train data/physionet_train.npz \\
        --test data/physionet_test.npz --weights-file jobs/beat/weights.safetensors

Writes args.json, history.csv, timing.csv, best_model.safetensors, MODEL_CARD.md,
{train,val,test}_predictions.csv and scores.json.
"""

import argparse
import copy
from contextlib import ExitStack
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
from models import ENCODERS, Classifier, build_encoder, count_parameters, settings_of
from utils import averaging, cli, distributed, presets
from utils import run as runlog
from utils.cli import UserError
from utils.contract import Contract
from utils.engine import choose_hardware
from utils.manifest import digest
from utils.names import BEST, DEFAULT_ARCHITECTURE, SCORES
from utils.run import Best, Log
from utils.training import Stream, Training
from utils.weights import load_encoder, load_strictly, read_weights, save_weights

# Values of --val-metric and --stop-metric, and their columns in the history.
VAL_METRICS = {"loss": "val_loss", "acc": "val_acc", "f1": "macro_f1", "auc": "auc"}
STOP_METRICS = {"val_loss": "val_loss", "val_f1": "macro_f1", "train_acc": "acc"}


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m finetuning.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser)
    flag = parser.add_argument
    flag("--train", type=cli.file, required=True, help="prepared set (.npz) to train on")
    flag("--val", type=cli.file, help="to validate on; by default drawn from --train")
    flag("--test", type=cli.file, help="prepared set to predict once, at the end")
    flag("--weights-file", type=cli.file, help="pretrained weights; their classifier is dropped")
    flag("--val-size", type=cli.share, default=0.0625, help="share of --train; 0: no validation")
    flag("--arch", choices=list(ENCODERS), help="by default the weights file's, else resnet18")
    flag("--stages", type=cli.count, help="keep the first stages of a new network only")
    flag("--subset", type=cli.share_or_one, default=1.0, help="share of the rest to train on")
    flag("--batch-size", type=cli.count, default=64, help="recordings, of all processes together")
    flag("--val-metric", choices=list(VAL_METRICS), default="f1", help="chooses the epoch")
    flag("--channel", type=cli.count_or_zero, help="use this lead only; all by default")
    flag("--epochs", type=cli.count, default=200, help="at most")
    flag("--patience", type=cli.count, default=50, help="epochs without a better --stop-metric")
    flag("--stop-metric", choices=list(STOP_METRICS), default="val_loss", help="see --patience")
    flag("--freeze", action="store_true", help="train the classifier only")
    flag("--verbose", action="store_true", help="a progress bar, and every tensor transferred")
    cli.add_spectrogram_flags(parser)
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
    args = parser.parse_with_preset(presets.FINETUNING)
    if args.val:
        parser.refuse(["val_size"], "--val names the recordings to validate on")
    elif not args.val_size:
        parser.refuse(["val_metric"], "nothing validates with --val-size 0")
        if args.stop_metric != "train_acc":
            parser.refuse(["stop_metric", "patience"], "nothing validates with --val-size 0")
    cli.check_run_flags(parser, args)
    cli.check_network_flags(parser, args)
    if not args.weights_file:
        parser.refuse(["freeze"], "needs --weights-file; a new encoder has learned nothing to keep")
    return args


def main() -> None:
    """Train, and on the first process write all files of the run."""
    args = parse_arguments()
    hardware = choose_hardware(args.device, runlog.precision(args))
    with distributed.join(hardware.device) as processes, ExitStack() as claim:
        hardware = hardware._replace(bf16=processes.send(hardware.bf16))
        finished = processes.first and runlog.finished(args, SCORES)
        if processes.told(finished, hardware.device):
            print(f"{args.job_dir / SCORES}: this run is finished")
            return
        with processes.in_turn():
            processes.check(args)
            if processes.first:
                claim.enter_context(runlog.claimed(args))
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
            processes.check_last(len(parts["train"]), args.batch_size)
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
            log = Log(
                args.job_dir,
                val=Best(VAL_METRICS[args.val_metric]),
                stop=Best(STOP_METRICS[args.stop_metric]),
            )
            training = Training(args, model, optimizer, contract, hardware, processes, log)
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
            add_hooks(training, len(training_batches), args)
            found = training.read() if processes.first else None
        resumed = training.resume(found)
        stream = Stream(
            args.epochs,
            len(training_batches),
            training_batches.epoch,
            training_batches.describe,
            targets.num_correct,
        )
        loss = targets.loss
        if args.balance == "loss":
            loss = weighted_cross_entropy(parts["train"])
        if not processes.first:
            training.follow(stream, loss)
            return
        runlog.start_run(args, processes.describe(hardware), resumed)
        with training.stop.listening():
            train(args, training, stream, loss, targets, parts.get("val"))
            load_strictly(
                training.judged, read_weights(args.job_dir / BEST)[0], args.job_dir / BEST
            )
            evaluated = average_over_shifts(training.judged, args.tta)
            outputs = {
                name: training.predict(evaluated, batches(part, args.batch_size))
                for name, part in parts.items()
            }
            epoch = log.bests["val"].epoch
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
    generator = runlog.torch_generator(seed)
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
        versions=runlog.versions(),
        spectrogram=settings_of(encoder),
        multi_label=manifest.get("multi_label", False),
        derived_from=lineage,
    )
    return model, contract


def add_hooks(training: Training, steps: int, args: argparse.Namespace) -> None:
    """Set the learning rate before each step and update the average of the weights after it, as
    the flags say; `steps` are those of an epoch."""
    total = args.epochs * steps

    def steps_done() -> int:
        return (training.epoch - 1) * steps + training.totals.step

    def set_rate(optimizer, *_) -> None:
        factor = learning_rate_factor(steps_done(), total, args.schedule, args.warmup)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * factor

    def average(*_) -> None:
        decay = averaging.decay_at(steps_done() + 1, args.ema)
        averaging.update(training.modules["average"], training.model, decay)

    if args.schedule != "constant" or args.warmup:
        training.optimizer.register_step_pre_hook(set_rate)
    if args.ema:
        training.modules["average"] = copy.deepcopy(training.model)
        training.optimizer.register_step_post_hook(average)


def train(
    args: argparse.Namespace,
    training: Training,
    stream: Stream,
    loss,
    targets: Targets,
    validation: Recordings | None,
) -> None:
    """Train until the stop metric no longer improves; the best epoch's weights are saved."""
    log = training.log
    val, stop = log.bests["val"], log.bests["stop"]
    columns = ["val_loss", "val_acc", *targets.columns]
    if args.val_metric != "auc":
        columns.remove("auc")

    def ended() -> bool:
        return training.epoch > stop.epoch + args.patience

    for row in training.epochs(stream, loss, ended, not args.verbose):
        epoch = training.epoch
        row |= dict.fromkeys(columns)
        if validation:
            outputs = training.predict(training.judged, batches(validation, args.batch_size))
            scores = validation_scores(targets, *outputs, validation.classes)
            row |= {name: scores[name] for name in columns}
        seconds = training.spent
        if val.improved(epoch, row[val.column]):
            save_weights(args.job_dir / BEST, training.judged.state_dict(), training.contract)
        stop.improved(epoch, row[stop.column])
        log.history.add(epoch=epoch, **row)
        log.timing.add(epoch=epoch, seconds=round(seconds, 3))
        print(runlog.line(epoch, row, seconds))
    if ended():
        print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")


if __name__ == "__main__":
    cli.run(main)
