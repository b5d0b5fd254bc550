"""One pretraining run: data, model, epochs, the chosen encoder."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from models import DEFAULT_ARCHITECTURE, build_encoder, count_parameters
from pretraining.batches import load
from pretraining.data import Data, cache_validation, open_data
from pretraining.tasks import TASKS, build_task
from recordings.wfdb_files import ICENTIA_FS
from utils import distributed, metrics
from utils.cli import spectrogram_settings
from utils.distributed import Processes
from utils.engine import Batch, Epochs, Hardware, Training, choose_hardware
from utils.files import digest, read_json, write_json
from utils.model_card import Metadata
from utils.run import (
    CARD,
    SCORES,
    WEIGHTS,
    History,
    Run,
    scores_in_words,
    torch_generator,
    versions,
)
from utils.weights import load_encoder, read_weights, save_weights, strip_head, write_card

VALIDATED = {"loss": "val_loss", "acc": "val_acc", "f1": "macro_f1"}  # columns of the history


def run(args: argparse.Namespace) -> None:
    """Pretrain as the flags of `pretraining.trainer` say."""
    run = Run(vars(args), last=WEIGHTS)
    hardware = choose_hardware(args.device, run.precision())
    with distributed.join(hardware.device) as processes, ExitStack() as claim:
        hardware = hardware._replace(bf16=processes.broadcast(hardware.bf16))
        if processes.broadcast(processes.main_process and run.finished()):
            print(f"{args.job_dir / WEIGHTS}: this run is finished")
            return
        with processes.main_process_first():
            processes.check(args.batch_size, args.sync_bn)
            if processes.main_process:
                claim.enter_context(run.claim())
            model = build_model(args)
            data = open_data(args, processes)
            metadata = describe(args, data, model)
            training = make_training(args, run, data, model, metadata, hardware, processes)
        training.resume()
        if processes.main_process:
            if args.cache_val:
                cache_validation(args, data)
            run.start(processes.describe(hardware), training.resumed)
            write_json(args.job_dir / "manifest.json", data.manifest)
        with training.interruptible():
            train(args, data, training, metadata)
        if processes.main_process:
            conclude(args, data, training)


def make_training(
    args: argparse.Namespace,
    run: Run,
    data: Data,
    model: nn.Module,
    metadata: Metadata,
    hardware: Hardware,
    processes: Processes,
) -> Training:
    """Its optimiser, and what chooses an epoch."""
    model = hardware.place(model)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), eps=1e-9, fused=True
    )
    history = History(args.job_dir, chosen=VALIDATED[args.val_metric])
    return Training(
        run, history, model, optimizer, stream(args, data, hardware), TASKS[args.task].loss,
        hardware, processes, asdict(metadata), args.checkpoint_every, args.compile, args.sync_bn,
    )  # fmt: skip


def conclude(args: argparse.Namespace, data: Data, training: Training) -> None:
    """Write the chosen encoder and its card."""
    chosen = training.history.best["chosen"].epoch
    by = f"validation {args.val_metric}" if data.validation else "being the last"
    weights = args.job_dir / WEIGHTS
    strip_head(epoch_file(args.job_dir, chosen), weights)
    found = args.job_dir / SCORES  # not without validation
    scores = read_json(found) if found.exists() else {}
    write_card(args.job_dir / CARD, weights, about_data(args, data), scores)
    training.finish()
    print(f"epoch {chosen} chosen by {by}; its encoder: {weights}")


def build_model(args: argparse.Namespace) -> nn.Module:
    """New network, or one around the encoder of `--weights-file`; says in `args` which it is.

    Raises:
        UserError: there is no such network, or it cannot take frames of this size.
    """
    generator = torch_generator(args.seed)
    if args.weights_file:
        transfer = load_encoder(args.weights_file, args.arch, ICENTIA_FS, in_channels=1)
        print(transfer.report(args.weights_file))
        encoder = transfer.encoder
        args.arch, args.stages = transfer.metadata.architecture, transfer.metadata.stages
    else:
        args.arch = args.arch or DEFAULT_ARCHITECTURE
        settings = spectrogram_settings(args)
        encoder = build_encoder(args.arch, 1, args.stages, generator, settings)
    model = build_task(args.task, vars(args)).model(encoder, generator)
    with torch.inference_mode():  # a frame that is too short is better found out now
        encoder.eval()(torch.zeros(1, 1, args.frame_size))
    print(f"{args.arch}: {count_parameters(model):,} parameters")
    return model


def describe(args: argparse.Namespace, data: Data, model: nn.Module) -> Metadata:
    """What the weights of this run will say of themselves."""
    return Metadata(
        architecture=args.arch,
        stages=args.stages,
        in_channels=1,
        fs=ICENTIA_FS,
        unit="mV",
        mean=None if args.standardise == "frame" else data.dataset.mean,
        sd=None if args.standardise == "frame" else data.dataset.sd,
        frame_size=args.frame_size,
        task=args.task,
        classes=list(TASKS[args.task].classes),
        dataset=data.dataset.name,
        manifest_sha256=digest(data.manifest),
        seed=args.seed,
        versions=versions(),
        spectrogram=model.encoder.spectrogram_settings,
        context={name: getattr(args, name) for name in TASKS[args.task].flags()} or None,
        derived_from=read_weights(args.weights_file)[1].lineage if args.weights_file else [],
    )


def about_data(args: argparse.Namespace, data: Data) -> dict[str, str]:
    """For the card: patients of each part, and frames."""
    parts = {name: data.manifest[name]["patients"] for name in ("train", "validation")}
    counts = {name: len(p) if isinstance(p, list) else p for name, p in parts.items()}
    frames = data.steps * data.epochs * args.batch_size
    return {
        **{f"patients, {name}": f"{count:,}" for name, count in counts.items()},
        "frames, train": f"{frames:,} in {data.epochs} epochs",
    }


def train(args: argparse.Namespace, data: Data, training: Training, metadata: Metadata) -> None:
    """Train all epochs, saving each."""
    scores_file = args.job_dir / SCORES
    for row in training.epochs():
        if not training.processes.main_process:
            continue
        scores, ignorant = validate(args, data, training)
        row |= {column: scores.get(metric) for metric, column in VALIDATED.items()}
        state = training.model.state_dict()
        save_weights(epoch_file(args.job_dir, training.epoch), state, metadata)
        frames = data.steps * args.batch_size / training.seconds
        if "chosen" in training.record(row, frames_per_second=frames) and scores:
            scores = {column.removeprefix("val_"): row[column] for column in VALIDATED.values()}
            results = {"epoch": training.epoch, "validation": scores, "without_input": ignorant}
            write_json(scores_file, results)
    if data.validation and training.processes.main_process:
        ignorant = read_json(scores_file)["without_input"]
        print(f"answers that ignore the signal: {scores_in_words(ignorant)}")


def stream(args: argparse.Namespace, data: Data, hardware: Hardware) -> Epochs:
    """Batches of all epochs, one behind the other."""

    def batches(epoch: int, done: int) -> Iterator[Batch]:
        numbers = range((epoch - 1) * data.steps + done, epoch * data.steps)
        return load_frames(args, data.train, numbers, hardware.device)

    def describe(epoch: int, step: int) -> str:
        return data.train.describe((epoch - 1) * data.steps + step - 1)

    return Epochs(data.epochs, data.steps, batches, describe)


def load_frames(
    args: argparse.Namespace, batches: Dataset, numbers: range, device: torch.device
) -> Iterator[Batch]:
    """Batches of these numbers, read and standardised as the flags say."""
    return load(batches, numbers, device, args.data_parallelism, args.standardise == "frame")


def validate(
    args: argparse.Namespace, data: Data, training: Training
) -> tuple[dict[str, float], dict[str, float]]:
    """Loss, accuracy and macro F1 on the validation patients, and without looking at them."""
    if data.validation is None:
        return {}, {}
    numbers = range(len(data.validation))
    hardware = training.hardware
    batches = load_frames(args, data.validation, numbers, hardware.device)
    with tqdm(batches, "validation", len(numbers), leave=False, disable=None) as progress:
        logits, labels = training.evaluate(training.model, progress)
    loss = TASKS[args.task].loss(logits, labels).item()
    labels, predicted = labels.numpy(), logits.argmax(1).numpy()
    acc = float((predicted == labels).mean())
    scores = {"loss": loss, "acc": acc, "f1": metrics.macro_f1(labels, predicted)}
    return scores, metrics.without_input(labels)


def epoch_file(job_dir: Path, epoch: int) -> Path:
    """Weights of one epoch, classifier included."""
    return job_dir / f"epoch_{epoch:02d}" / "model.safetensors"
