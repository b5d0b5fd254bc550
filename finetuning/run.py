"""One fine-tuning run: split, network, epochs, predictions of the chosen epoch."""

import argparse
import time
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import nn
from tqdm import tqdm

from finetuning.batches import Recordings, batches, pad_recordings
from finetuning.prepared import PreparedSet, load_prepared
from utils import metrics, runlog
from utils.checkpoint import load_encoder, load_strictly, read_weights, save_weights
from utils.cli import UserError, spectrogram_settings
from utils.contract import Contract
from utils.encoders import Classifier, build_encoder, count_parameters, settings_of
from utils.engine import Hardware, choose_hardware, predict, train_epoch
from utils.files import write_json
from utils.manifest import digest
from utils.predictions import write_predictions

DEFAULT_ARCHITECTURE = "resnet18"
ORDER = 1  # stream of random numbers: the order of the recordings
# --val-metric and --stop-metric to columns of the history
COLUMNS = {"loss": "val_loss", "acc": "val_acc", "f1": "f1", "auc": "auc", "val_loss": "val_loss",
           "val_f1": "f1", "train_acc": "acc"}  # fmt: skip


class Data(NamedTuple):
    """Parts of the data by name (`train`, `val`, `test`; the latter two may be missing), and the
    manifest of the set that is trained on."""

    parts: dict[str, Recordings]
    manifest: dict


def run(args: argparse.Namespace) -> None:
    """Fine-tune as the flags of `finetuning.trainer` say."""
    runlog.check_free(args.job_dir, args.overwrite)
    hardware = choose_hardware(args.device, args.precision)
    data = open_data(args, hardware.device)
    model, contract = build_model(args, data)
    hardware.place(model)
    runlog.start_run(args, str(hardware))
    best = args.job_dir / "best_model.safetensors"
    epoch = train(args, data, model, contract, hardware, best)
    load_strictly(model, read_weights(best)[0], best)
    scores = {
        name: evaluate(model, part, args, hardware, args.job_dir / f"{name}_predictions.csv")
        for name, part in data.parts.items()
    }
    write_json(args.job_dir / "scores.json", {"epoch": epoch, **scores})
    for name, score in scores.items():
        print(describe_scores(name, score))
    by = f"validation {args.val_metric}" if "val" in data.parts else "being the last"
    print(f"epoch {epoch} chosen by {by}; predictions and scores: {args.job_dir}")


def open_data(args: argparse.Namespace, device: torch.device) -> Data:
    """Read the prepared sets; draw the validation set, then the subset of the rest.

    Raises:
        UserError: the sets do not fit together, or cannot be split.
    """
    sets = {
        name: load_prepared(path)
        for name, path in (("train", args.train), ("val", args.val), ("test", args.test))
        if path
    }
    for one, other in combinations(sets, 2):
        check_alike(f"--{one}", sets[one], f"--{other}", sets[other], args.channel)
    train_set = sets["train"]
    chosen = {name: np.arange(len(prepared)) for name, prepared in sets.items()}
    if not args.val and args.val_size:
        sets["val"] = train_set
        chosen["train"], chosen["val"] = draw(
            train_set, chosen["train"], args.seed, "--val-size", test_size=args.val_size
        )
    if args.subset < 1:
        chosen["train"], _ = draw(
            train_set, chosen["train"], args.seed, "--subset", train_size=args.subset
        )
    parts = {
        name: pad_recordings(sets[name], chosen[name], args.channel, device)
        for name in ("train", "val", "test")
        if name in sets
    }
    print(", ".join(f"{name}: {len(part)} recordings" for name, part in parts.items()))
    return Data(parts, train_set.manifest)


def check_alike(
    one_flag: str, one: PreparedSet, other_flag: str, other: PreparedSet, channel: int | None
) -> None:
    """Raises `UserError` where two sets were prepared differently, or share recordings."""
    for key in ("classes", "fs", "pad", "mean_mv", "sd_mv", "labels"):
        ours, theirs = one.manifest.get(key), other.manifest.get(key)
        if ours != theirs:
            raise UserError(
                f"{key} is {theirs} in {other_flag}, {ours} in {one_flag}; prepare both alike"
            )
    if channel is None and one.signal.shape[1] != other.signal.shape[1]:
        raise UserError(f"{other_flag} has other leads than {one_flag}; choose one by --channel")
    shared = np.intersect1d(one.record_ids, other.record_ids)
    if len(shared) and one.manifest["dataset"] == other.manifest["dataset"]:
        raise UserError(
            f"{other_flag} holds {len(shared)} recordings of {one_flag}, such as {shared[0]}; "
            "use the files of one split"
        )


def draw(
    prepared: PreparedSet, pool: np.ndarray, seed: int, flag: str, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split `pool` (numbers of recordings) in two, classes in equal shares, both in order.

    Raises:
        UserError: a class has too few recordings, or there are fewer places than classes.
    """
    labels = prepared.y[pool].argmax(1)
    try:
        first, second = train_test_split(pool, random_state=seed, stratify=labels, **sizes)
    except ValueError:
        raise UserError(
            f"{flag} {next(iter(sizes.values())):g} of {len(pool)} recordings: every class needs "
            "two recordings, and a place in both parts; choose another share"
        ) from None
    return np.sort(first), np.sort(second)


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
    )
    return model, contract


def train(
    args: argparse.Namespace,
    data: Data,
    model: nn.Module,
    contract: Contract,
    hardware: Hardware,
    best_file: Path,
) -> int:
    """Train until the stop metric no longer improves; returns the epoch saved in `best_file`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, eps=1e-7, fused=True)
    history = runlog.Table(args.job_dir / "history.csv")
    timing = runlog.Table(args.job_dir / "timing.csv")
    metric, stop_metric = COLUMNS[args.val_metric], COLUMNS[args.stop_metric]
    best, best_epoch, stop, stop_epoch = None, 0, None, 0
    for epoch in range(1, args.epochs + 1):
        began = time.perf_counter()
        row = train_once(args, data.parts["train"], model, optimizer, hardware, epoch)
        row |= validate(args, data.parts.get("val"), model, hardware)
        seconds = time.perf_counter() - began
        value, stop_value = row[metric], row[stop_metric]
        # The first epoch even where its value is NaN: there is always one to predict with.
        if value is None or epoch == 1 or metrics.better(metric, value, best):
            best, best_epoch = value, epoch
            save_weights(best_file, model.state_dict(), contract)
        history.add(epoch=epoch, **row)
        timing.add(epoch=epoch, seconds=round(seconds, 3))
        print(runlog.line(epoch, row, seconds))
        if stop_value is None or metrics.better(stop_metric, stop_value, stop):
            stop, stop_epoch = stop_value, epoch
        if epoch - stop_epoch >= args.patience:
            print(f"no better {args.stop_metric} in {args.patience} epochs: stopped")
            break
    return best_epoch


def train_once(args, recordings, model, optimizer, hardware, epoch: int) -> dict[str, float]:
    """One epoch over the training recordings, in an order of its own."""
    order = runlog.rng(args.seed, ORDER, epoch).permutation(len(recordings))
    steps = -(-len(order) // args.batch_size)
    loader = tqdm(
        batches(recordings, args.batch_size, order),
        f"epoch {epoch}",
        steps,
        leave=False,
        disable=not args.verbose,
    )
    loss, acc = train_epoch(model, loader, optimizer, F.cross_entropy, hardware)
    return {"loss": loss, "acc": acc}


def validate(
    args: argparse.Namespace, recordings: Recordings | None, model: nn.Module, hardware: Hardware
) -> dict[str, float | None]:
    """Scores on the validation recordings; empty without any."""
    columns = ["val_loss", "val_acc", "f1", "cinc3"] + ["auc"] * (args.val_metric == "auc")
    if recordings is None:
        return dict.fromkeys(columns)
    logits, labels = predict(model, batches(recordings, args.batch_size), hardware)
    scores = metrics.scores(labels.numpy(), logits.softmax(1).numpy(), recordings.classes)
    values = {
        "val_loss": F.cross_entropy(logits, labels).item(),
        "val_acc": scores["accuracy"],
        "f1": scores["macro_f1"],
        "cinc3": scores["cinc3"],
        "auc": scores["auc"],
    }
    return {column: values[column] for column in columns}


def evaluate(
    model: nn.Module, recordings: Recordings, args: argparse.Namespace, hardware: Hardware,
    out: Path,
) -> dict:  # fmt: skip
    """Predict `recordings`, write the table, return the scores."""
    logits, labels = predict(model, batches(recordings, args.batch_size), hardware)
    probabilities, labels = logits.softmax(1).numpy(), labels.numpy()
    one_hot = np.eye(len(recordings.classes), dtype=np.uint8)[labels]
    write_predictions(out, recordings.record_ids, recordings.classes, one_hot, probabilities)
    return metrics.scores(labels, probabilities, recordings.classes)


def describe_scores(name: str, scores: dict) -> str:
    """`test: macro F1 0.731, CinC-3 0.770 (A 0.711, N 0.898, …)`."""
    cinc3 = f", CinC-3 {scores['cinc3']:.3f}" if scores["cinc3"] is not None else ""
    each = ", ".join(f"{label} {value:.3f}" for label, value in scores["f1"].items())
    return f"{name}: macro F1 {scores['macro_f1']:.3f}{cinc3} ({each})"
