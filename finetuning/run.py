"""One fine-tuning run: network, epochs, predictions of the chosen epoch."""

import argparse
import time
from collections.abc import Iterator

import torch
from torch import nn
from tqdm import tqdm

from finetuning.batches import batches
from finetuning.data import Data, open_data
from finetuning.targets import TARGETS, Targets
from utils import distributed, metrics, runlog
from utils.checkpoint import load_encoder, load_strictly, read_weights, save_weights
from utils.cli import spectrogram_settings
from utils.contract import Contract
from utils.distributed import Processes
from utils.encoders import (
    DEFAULT_ARCHITECTURE,
    Classifier,
    build_encoder,
    count_parameters,
    settings_of,
)
from utils.engine import Hardware, choose_hardware, predict, train_epoch
from utils.files import write_json
from utils.manifest import digest
from utils.predictions import write_predictions

BEST = "best_model.safetensors"
ORDER = 1  # stream of random numbers: the order of the recordings
# --val-metric and --stop-metric to columns of the history
COLUMNS = {"loss": "val_loss", "acc": "val_acc", "f1": "f1", "auc": "auc", "val_loss": "val_loss",
           "val_f1": "f1", "train_acc": "acc"}  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Fine-tune as the flags of `finetuning.trainer` say."""
    hardware = choose_hardware(args.device, args.precision)
    with distributed.join(hardware.device) as processes:
        with processes.in_turn():
            processes.check(args)
            if processes.first:
                runlog.check_free(args.job_dir, args.overwrite)
            data = open_data(args, hardware.device)
            processes.check_last(len(data.parts["train"]), args.batch_size)
            model, contract = build_model(args, data)
        hardware.place(model)
        if processes.first:
            lead(args, data, model, contract, hardware, processes)
        else:
            for _ in train_epochs(args, data, model, hardware, processes):
                if processes.told(False, hardware.device):
                    break


def lead(
    args: argparse.Namespace,
    data: Data,
    model: Classifier,
    contract: Contract,
    hardware: Hardware,
    processes: Processes,
) -> None:
    """Train, predict with the chosen epoch, and write all files."""
    runlog.start_run(args, processes.describe(hardware))
    best = args.job_dir / BEST
    epoch = train(args, data, model, contract, hardware, processes)
    load_strictly(model, read_weights(best)[0], best)
    scores = {name: evaluate(model, data, name, args, hardware) for name in data.parts}
    write_json(args.job_dir / "scores.json", {"epoch": epoch, **scores})
    for name, score in scores.items():
        print(describe_scores(name, score, data.targets))
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
    if args.weights_file:
        transfer = load_encoder(args.weights_file, args.arch, manifest["fs"], channels)
        architecture, stages = transfer.contract.architecture, transfer.contract.stages
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
    )
    return model, contract


def train(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    contract: Contract,
    hardware: Hardware,
    processes: Processes,
) -> int:
    """Train until the stop metric no longer improves; returns the epoch whose weights are saved."""
    history = runlog.Table(args.job_dir / "history.csv")
    timing = runlog.Table(args.job_dir / "timing.csv")
    metric, stop_metric = COLUMNS[args.val_metric], COLUMNS[args.stop_metric]
    best, best_epoch, stop, stop_epoch = None, 0, None, 0
    epochs = train_epochs(args, data, model, hardware, processes)
    for epoch, (row, began) in enumerate(epochs, 1):
        row |= validate(args, data, model, hardware)
        seconds = time.perf_counter() - began
        value, stop_value = row[metric], row[stop_metric]
        # The first epoch even where its value is NaN: there is always one to predict with.
        if value is None or epoch == 1 or metrics.better(metric, value, best):
            best, best_epoch = value, epoch
            save_weights(args.job_dir / BEST, model.state_dict(), contract)
        history.add(epoch=epoch, **row)
        timing.add(epoch=epoch, seconds=round(seconds, 3))
        print(runlog.line(epoch, row, seconds))
        if stop_value is None or metrics.better(stop_metric, stop_value, stop):
            stop, stop_epoch = stop_value, epoch
        if processes.told(epoch - stop_epoch >= args.patience, hardware.device):
            print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")
            break
    return best_epoch


def train_epochs(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    hardware: Hardware,
    processes: Processes,
) -> Iterator[tuple[dict[str, float], float]]:
    """Train `model` epoch by epoch, each over all recordings in an order of its own.

    Yields loss and accuracy, and when the epoch began.
    """
    trained = hardware.compile(processes.wrap(model, args.sync_bn), args.compile)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, eps=1e-7, fused=True)
    recordings = data.parts["train"]
    steps = -(-len(recordings) // args.batch_size)
    for epoch in range(1, args.epochs + 1):
        began = time.perf_counter()
        order = runlog.rng(args.seed, ORDER, epoch).permutation(len(recordings))
        loader = batches(recordings, args.batch_size, order, processes)
        silent = not args.verbose
        with tqdm(loader, f"epoch {epoch}", steps, leave=False, disable=silent) as progress:
            loss, acc = train_epoch(
                trained, progress, optimizer, data.targets.loss, hardware, processes,
                report=lambda loss: progress.set_postfix(loss=f"{loss:.3f}"),
            )  # fmt: skip
        yield {"loss": loss, "acc": acc}, began


def validate(
    args: argparse.Namespace, data: Data, model: nn.Module, hardware: Hardware
) -> dict[str, float | None]:
    """Scores on the validation recordings; empty without any."""
    targets, recordings = data.targets, data.parts.get("val")
    columns = [name for name in targets.history if name != "auc" or args.val_metric == "auc"]
    if recordings is None:
        return dict.fromkeys(["val_loss", *columns])
    logits, labels = predict(model, batches(recordings, args.batch_size), hardware)
    probabilities = targets.probabilities(logits).numpy()
    scores = targets.scores(labels.numpy(), probabilities, recordings.classes)
    loss = targets.loss(logits, labels).item()
    return {"val_loss": loss} | {name: scores[targets.history[name]] for name in columns}


def evaluate(
    model: nn.Module, data: Data, name: str, args: argparse.Namespace, hardware: Hardware
) -> dict:
    """Predict one part of the data, write the table, return the scores."""
    targets, recordings = data.targets, data.parts[name]
    logits, labels = predict(model, batches(recordings, args.batch_size), hardware)
    probabilities = targets.probabilities(logits).numpy()
    out = args.job_dir / f"{name}_predictions.csv"
    write_predictions(out, recordings.record_ids, recordings.classes, recordings.y, probabilities)
    return targets.scores(labels.numpy(), probabilities, recordings.classes)


def describe_scores(name: str, scores: dict, targets: Targets) -> str:
    """`test: macro F1 0.731, CinC-3 0.770 (A 0.711, N 0.898, …)`."""
    shown = [(label, scores[key]) for key, label in targets.shown.items()]
    known = ", ".join(f"{label} {value:.3f}" for label, value in shown if value is not None)
    each = ", ".join(f"{label} {value:.3f}" for label, value in scores["f1"].items())
    return f"{name}: {known} ({each})"
