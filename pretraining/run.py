"""One pretraining run: data, model, epochs, the chosen encoder."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from pretraining.batches import load
from pretraining.data import Data, cache_validation, open_data
from pretraining.icentia11k import FS
from pretraining.tasks import TASKS
from utils import distributed, metrics, runlog
from utils.checkpoint import load_encoder, save_weights, strip_head
from utils.cli import spectrogram_settings
from utils.contract import Contract
from utils.distributed import Processes
from utils.encoders import DEFAULT_ARCHITECTURE, build_encoder, count_parameters, settings_of
from utils.engine import Hardware, choose_hardware, predict, train_epoch
from utils.files import write_json
from utils.manifest import digest

VALIDATED = {"loss": "val_loss", "acc": "val_acc", "f1": "f1"}  # columns of the history


def run(args: argparse.Namespace) -> None:
    """Pretrain as the flags of `pretraining.trainer` say."""
    hardware = choose_hardware(args.device, args.precision)
    with distributed.join(hardware.device) as processes:
        with processes.in_turn():
            processes.check(args)
            if processes.first:
                runlog.check_free(args.job_dir, args.overwrite)
            model = build_model(args)
            data = open_data(args, processes)
        model = hardware.place(model)
        if processes.first:
            lead(args, data, model, hardware, processes)
        else:
            for _ in train_epochs(args, data, model, hardware, processes):
                pass  # the first process does the rest


def lead(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    hardware: Hardware,
    processes: Processes,
) -> None:
    """Train, and write all files."""
    if args.cache_val:
        cache_validation(args, data)
    runlog.start_run(args, processes.describe(hardware))
    write_json(args.job_dir / "manifest.json", data.manifest)
    contract = describe(args, data, model)
    chosen = train(args, data, model, contract, hardware, processes)
    by = f"validation {args.val_metric}" if data.validation else "being the last"
    weights = args.job_dir / "weights.safetensors"
    strip_head(epoch_file(args.job_dir, chosen), weights)
    print(f"epoch {chosen} chosen by {by}; its encoder: {weights}")


def build_model(args: argparse.Namespace) -> nn.Module:
    """New network, or one around the encoder of `--weights-file`; says in `args` which it is.

    Raises:
        UserError: there is no such network, or it cannot take frames of this size.
    """
    generator = runlog.torch_generator(args.seed)
    if args.weights_file:
        transfer = load_encoder(args.weights_file, args.arch, FS, in_channels=1)
        print(transfer.report(args.weights_file))
        encoder = transfer.encoder
        args.arch, args.stages = transfer.contract.architecture, transfer.contract.stages
    else:
        args.arch = args.arch or DEFAULT_ARCHITECTURE
        settings = spectrogram_settings(args)
        encoder = build_encoder(args.arch, 1, args.stages, generator, settings)
    model = TASKS[args.task].model(encoder, args, generator)
    with torch.inference_mode():  # a frame that is too short is better found out now
        encoder.eval()(torch.zeros(1, 1, args.frame_size))
    print(f"{args.arch}: {count_parameters(model):,} parameters")
    return model


def describe(args: argparse.Namespace, data: Data, model: nn.Module) -> Contract:
    """What the weights of this run will say of themselves."""
    return Contract(
        architecture=args.arch,
        stages=args.stages,
        in_channels=1,
        fs=FS,
        unit="mV",
        mean=data.dataset.mean,
        sd=data.dataset.sd,
        frame_size=args.frame_size,
        task=args.task,
        classes=list(TASKS[args.task].classes),
        dataset=data.dataset.name,
        manifest_sha256=digest(data.manifest),
        seed=args.seed,
        versions=runlog.versions(),
        spectrogram=settings_of(model.encoder),
        context={name: getattr(args, name) for name in TASKS[args.task].layout} or None,
    )


def train(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    contract: Contract,
    hardware: Hardware,
    processes: Processes,
) -> int:
    """Train all epochs, saving each; returns the number of the chosen one."""
    history = runlog.Table(args.job_dir / "history.csv")
    timing = runlog.Table(args.job_dir / "timing.csv")
    chosen, best = data.epochs, None
    epochs = train_epochs(args, data, model, hardware, processes)
    for epoch, (row, seconds) in enumerate(epochs, 1):
        scores, ignorant = validate(args, data, model, hardware)
        row |= {column: scores.get(metric) for metric, column in VALIDATED.items()}
        save_weights(epoch_file(args.job_dir, epoch), model.state_dict(), contract)
        history.add(epoch=epoch, **row)
        frames = data.steps * args.batch_size
        timing.add(epoch=epoch, seconds=round(seconds, 3), frames_per_second=frames / seconds)
        print(runlog.line(epoch, row, seconds))
        value = row[VALIDATED[args.val_metric]]
        if data.validation and metrics.better(args.val_metric, value, best):
            chosen, best = epoch, value
            results = {"epoch": epoch, "validation": scores, "without_input": ignorant}
            write_json(args.job_dir / "scores.json", results)
    if data.validation:
        print(f"answers that ignore the signal: {runlog.words(ignorant)}")
    return chosen


def train_epochs(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    hardware: Hardware,
    processes: Processes,
) -> Iterator[tuple[dict[str, float], float]]:
    """Train `model` epoch by epoch: loss and accuracy of each, and its seconds."""
    trained = hardware.compile(processes.wrap(model, args.sync_bn), args.compile)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), eps=1e-9, fused=True
    )
    for epoch in range(1, data.epochs + 1):
        began = time.perf_counter()
        numbers = range((epoch - 1) * data.steps, epoch * data.steps)
        batches = load(data.train, numbers, hardware.device, args.data_parallelism)
        name = f"epoch {epoch}/{data.epochs}"
        with tqdm(batches, name, data.steps, unit="step", disable=None) as progress:
            loss, acc = train_epoch(
                trained, progress, optimizer, TASKS[args.task].loss, hardware, processes,
                report=lambda loss: progress.set_postfix(loss=f"{loss:.3f}"),
            )  # fmt: skip
        yield {"loss": loss, "acc": acc}, time.perf_counter() - began


def validate(
    args: argparse.Namespace, data: Data, model: nn.Module, hardware: Hardware
) -> tuple[dict[str, float], dict[str, float]]:
    """Loss, accuracy and macro F1 on the validation patients, and without looking at them."""
    if data.validation is None:
        return {}, {}
    numbers = range(len(data.validation))
    batches = load(data.validation, numbers, hardware.device, args.data_parallelism)
    logits, labels = predict(
        model, tqdm(batches, "validation", len(numbers), leave=False, disable=None), hardware
    )
    loss = TASKS[args.task].loss(logits, labels).item()
    labels, predicted = labels.numpy(), logits.argmax(1).numpy()
    acc = float((predicted == labels).mean())
    scores = {"loss": loss, "acc": acc, "f1": metrics.macro_f1(labels, predicted)}
    return scores, metrics.without_input(labels)


def epoch_file(job_dir: Path, epoch: int) -> Path:
    """Weights of one epoch, classifier included."""
    return job_dir / f"epoch_{epoch:02d}" / "model.safetensors"
