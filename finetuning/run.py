"""One fine-tuning run: network and epochs; what it ends with is in `finetuning.conclusion`."""

import argparse
from contextlib import ExitStack

from finetuning.conclusion import conclude, forecast
from finetuning.data import Data, open_data
from finetuning.optimisation import attend, make_optimizer
from finetuning.stream import steps_of_epoch, stream, training_loss
from finetuning.targets import TARGETS
from models import (
    Classifier,
    build_encoder,
    count_parameters,
    settings_of,
)
from utils import distributed
from utils import run as runlog
from utils.cli import spectrogram_settings
from utils.contract import Contract
from utils.distributed import Processes
from utils.engine import Hardware, choose_hardware
from utils.manifest import digest
from utils.names import BEST, DEFAULT_ARCHITECTURE, SCORES
from utils.run import Best, Log
from utils.training import Training
from utils.weights import load_encoder, save_weights

# --val-metric and --stop-metric to columns of the history
COLUMNS = {"loss": "val_loss", "acc": "val_acc", "f1": "f1", "auc": "auc", "val_loss": "val_loss",
           "val_f1": "f1", "train_acc": "acc"}  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Fine-tune as the flags of `finetuning.trainer` say."""
    hardware = choose_hardware(args.device, runlog.precision(args))
    with distributed.join(hardware.device) as processes, ExitStack() as claim:
        hardware = hardware._replace(bf16=processes.send(hardware.bf16))
        done = processes.first and runlog.finished(args, SCORES)
        if processes.told(done, hardware.device):
            print(f"{args.job_dir / SCORES}: this run is finished")
            return
        with processes.in_turn():
            processes.check(args)
            if processes.first:
                claim.enter_context(runlog.claimed(args))
            data = open_data(args, hardware.device)
            processes.check_last(len(data.parts["train"]), args.batch_size)
            model, contract = build_model(args, data)
            training = make_training(args, model, contract, hardware, processes)
            attend(training, steps_of_epoch(args, data))
            found = training.read() if processes.first else None
        resumed = training.resume(found)
        if processes.first:
            lead(args, data, training, resumed)
        else:
            training.follow(stream(args, data, processes), training_loss(args, data))


def make_training(
    args: argparse.Namespace,
    model: Classifier,
    contract: Contract,
    hardware: Hardware,
    processes: Processes,
) -> Training:
    """Its optimiser, and what chooses and stops."""
    hardware.place(model)
    optimizer = make_optimizer(args, model)
    bests = {name: Best(COLUMNS[getattr(args, f"{name}_metric")]) for name in ("val", "stop")}
    log = Log(args.job_dir, **bests)
    return Training(args, model, optimizer, contract, hardware, processes, log)


def lead(args: argparse.Namespace, data: Data, training: Training, resumed: bool) -> None:
    """Train, predict with the chosen epoch, and write all files."""
    runlog.start_run(args, training.processes.describe(training.hardware), resumed)
    with training.stop.listening():
        train(args, data, training)
        epoch = training.log.bests["val"].epoch
        conclude(args, data, training, epoch)
    training.finish()
    by = f"validation {args.val_metric}" if "val" in data.parts else "being the last"
    print(f"epoch {epoch} chosen by {by}; predictions and scores: {args.job_dir}")


def build_model(args: argparse.Namespace, data: Data) -> tuple[Classifier, Contract]:
    """Network with a new classifier, and what its weights will say of themselves.

    Raises:
        UserError: the weights file is for another input.
    """
    generator = runlog.torch_generator(args.seed)
    manifest, recordings = data.manifest, data.parts["train"]
    channels = recordings.signal.shape[1]
    architecture, stages = args.arch or DEFAULT_ARCHITECTURE, args.stages
    lineage = []
    if args.weights_file:
        transfer = load_encoder(args.weights_file, args.arch, manifest["fs"], channels)
        architecture, stages = transfer.contract.architecture, transfer.contract.stages
        lineage = transfer.contract.lineage
        print(transfer.report(args.weights_file))
        if args.verbose:
            print("\n".join(f"  transferred {name}" for name in transfer.transferred))
        encoder = transfer.encoder
    else:
        settings = spectrogram_settings(args)
        encoder = build_encoder(architecture, channels, stages, generator, settings)
    model = Classifier(encoder, len(recordings.classes), generator)
    if args.freeze:
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
        seed=args.seed,
        versions=runlog.versions(),
        spectrogram=settings_of(encoder),
        multi_label=data.targets is TARGETS[True],
        derived_from=lineage,
    )
    return model, contract


def train(args: argparse.Namespace, data: Data, training: Training) -> None:
    """Train until the stop metric no longer improves; the best epoch's weights are saved."""
    log = training.log
    val, stop = log.bests["val"], log.bests["stop"]

    def ended() -> bool:
        return training.epoch > stop.epoch + args.patience

    recordings = stream(args, data, training.processes)
    for row in training.epochs(recordings, training_loss(args, data), ended, not args.verbose):
        epoch = training.epoch
        row |= validate(args, data, training)
        seconds = training.spent
        if val.improved(epoch, row[val.column]):
            save_weights(args.job_dir / BEST, training.judged.state_dict(), training.contract)
        stop.improved(epoch, row[stop.column])
        log.history.add(epoch=epoch, **row)
        log.timing.add(epoch=epoch, seconds=round(seconds, 3))
        print(runlog.line(epoch, row, seconds))
    if ended():
        print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")


def validate(args: argparse.Namespace, data: Data, training: Training) -> dict[str, float | None]:
    """Scores on the validation recordings; empty without any."""
    targets, recordings = data.targets, data.parts.get("val")
    columns = [name for name in targets.history if name != "auc" or args.val_metric == "auc"]
    if recordings is None:
        return dict.fromkeys(["val_loss", *columns])
    logits, labels = forecast(args, recordings, training)
    probabilities = targets.probabilities(logits).numpy()
    scores = targets.scores(labels.numpy(), probabilities, recordings.classes)
    loss = targets.loss(logits, labels).item()
    return {"val_loss": loss} | {name: scores[targets.history[name]] for name in columns}
