"""Epochs of fine-tuning and prediction, on random recordings in the device's memory."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measures.limits import flops, matrix_rate, wait
from benchmarks.measures.steps import PLAIN, make_variant
from benchmarks.measures.timing import describe, in_turns, save, seconds, show
from finetuning.batches import Recordings, batches
from utils.engine import Hardware, choose_hardware, evaluate, train_epoch

CLASSES = 4
ON_CPU = 128  # recordings: all would take minutes
TRAIN, PREDICT = "the trainer", "prediction"


def measure(args: argparse.Namespace) -> None:
    """Print seconds of an epoch and the share of the machine's rate that training reaches."""
    hardware = choose_hardware(args.device, "auto")
    count = args.measured or (args.recordings if hardware.device.type == "cuda" else ON_CPU)
    count = min(count, args.recordings)
    recordings = make_recordings(count, args.pad, hardware.device)
    variants: dict[str, Callable[[], float]] = {}
    for name, plain in ((PLAIN, True), (TRAIN, False)):
        train, forecast = make_passes(args, hardware, recordings, plain)
        train()  # the first steps allocate memory and choose kernels
        variants[name] = partial(epoch_seconds, args.recordings / count, train)
        if plain:
            work = flops(train) / count
        else:
            variants[PREDICT] = partial(epoch_seconds, args.recordings / count, forecast)
    variants["matrix product"] = partial(matrix_rate, hardware)
    figures = dict(in_turns(variants, args.repeats))
    rates = {"matrix product": [rate / 1e9 for rate in figures.pop("matrix product")]}
    rates[TRAIN] = [work * args.recordings / duration / 1e9 for duration in figures[TRAIN]]
    print(f"{args.arch}, {args.recordings} recordings of {args.pad} samples, batch "
          f"{args.batch_size}; the trainer: {hardware}")  # fmt: skip
    print(f"{describe(hardware.device)}; {work / 1e9:.2f} GFLOP a recording")
    if count < args.recordings:
        print(f"calculated from {count} recordings")
    show("s an epoch", figures, PLAIN, digits=2)
    per_second = args.recordings / statistics.median(figures[TRAIN])
    print(f"{per_second:,.1f} recordings/s are trained on")
    show("GFLOP/s", rates, "matrix product", digits=0)
    save(args, hardware.device, seconds_per_epoch=figures, gflops_per_second=rates)


def epoch_seconds(times: float, run: Callable[[], None]) -> float:
    """Of an epoch so many times as long as what is run."""
    return times * seconds(run)


def make_recordings(count: int, pad: int, device: torch.device) -> Recordings:
    """Noise, as a prepared set would be in memory; most recordings are half as long as `pad`."""
    draw = np.random.default_rng(0)
    signal = torch.from_numpy(draw.integers(-1000, 1000, (count, 1, pad), np.int16))
    y = np.eye(CLASSES, dtype=np.uint8)[draw.integers(CLASSES, size=count)]
    names = np.arange(count).astype(str)
    valid = torch.full((count,), pad // 2, device=device)
    labels = torch.from_numpy(y.argmax(1)).to(device)
    return Recordings(signal.to(device), valid, y, labels, names, list("ANO~"), 0.0075, 0.2373)


def make_passes(
    args: argparse.Namespace, hardware: Hardware, recordings: Recordings, plain: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """One pass of training over all recordings, and one of prediction."""
    hardware, model, trained = make_variant(hardware, args.arch, CLASSES, plain)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7, fused=True)
    order = np.random.default_rng(0).permutation(len(recordings))

    def train() -> None:
        loader = batches(recordings, args.batch_size, order)
        train_epoch(trained, loader, optimizer, F.cross_entropy, hardware)
        wait(hardware.device)

    def forecast() -> None:
        evaluate(model, batches(recordings, args.batch_size), hardware)

    return train, forecast
