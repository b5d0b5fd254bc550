"""Frames and labels to tensors: in blocks, as the trainer reads them, and frame by frame."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measures.limits import copy_rate, wait
from benchmarks.measures.timing import describe, in_turns, save, seconds, show
from pretraining.batches import BLOCK_BYTES, FrameBatches, blocks, load, new_signal
from pretraining.cohort import choose_segments
from pretraining.icentia11k.index import AnnotationIndex, open_index
from pretraining.icentia11k.reader import open_signal, read_constants
from pretraining.labels import ECTOPIC
from pretraining.sampler import Sampler
from pretraining.tasks import Beat
from recordings.annotations import BEAT_CLASSES
from recordings.synthetic import write_icentia11k
from utils.engine import Batch, choose_hardware

BLOCKS, DEVICE = "the trainer's blocks, int16", "the same, normalised on the device"
FRAMES, COPY = "a generator of frames, int16", "copy of as many bytes"


def measure(args: argparse.Namespace) -> None:
    """Print frames/s of each way, with the page cache warm."""
    device = choose_hardware(args.device, "auto").device
    with TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "icentia11k"
        if not args.data:
            write_icentia11k(data, 64, args.segments, args.samples, seed=0)
        index = open_index(data)
        ways = {
            BLOCKS: lambda: count(read_blocks(open_batches(args, index)[0])),
            DEVICE: lambda: count(read_batches(open_batches(args, index)[0], device)),
            FRAMES: lambda: count(read_frames(*open_batches(args, index))),
        }
        for way in ways.values():
            way()
        variants = {name: partial(speed, args.frames, way) for name, way in ways.items()}
        copied = np.ones((2**28 // (2 * args.frame_size), args.frame_size), np.int16)
        variants[COPY] = lambda: copy_rate(copied, BLOCK_BYTES) / (2 * args.frame_size)
        figures = in_turns(variants, args.repeats)
    print(f"beats, frame {args.frame_size}, batch {args.batch_size}; {describe(device)}")
    show("frames/s", figures, FRAMES, digits=0)
    save(args, device, frames_per_second=figures)


def count(batches: Iterator[tuple[torch.Tensor, ...]]) -> int:
    """Frames in all of them."""
    return sum(len(labels) for _, labels, *_ in batches)


def speed(frames: int, way: Callable[[], object]) -> float:
    """Frames/s of reading so many."""
    return frames / seconds(way)


def open_batches(
    args: argparse.Namespace, index: AnnotationIndex
) -> tuple[FrameBatches, list[np.ndarray]]:
    """Batches of the first `--frames` frames with labels of beats, nothing of them read or drawn
    yet; and the patients' segments."""
    cohort, _ = choose_segments(index, None, args.frame_size, annotated=True)
    patients = list(cohort.values())
    per_patient = -(-args.frames // len(patients))
    samples = index.segments["samples"]
    sampler = Sampler(patients, samples, args.frame_size, per_patient, (0, 1))
    constants, task = read_constants(index.root), Beat(args.frame_size)
    return FrameBatches(task, index, sampler, constants, args.batch_size, args.frames), patients


def read_blocks(
    batches: FrameBatches,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Frames (n, T) int16, labels (n,) and which frame is whose (n,), in blocks, as the trainer
    gets them: ordered, and normalised, they are on its device. A block is good until the next."""
    stretches = blocks(batches, range(len(batches)))
    signal = new_signal(batches, len(stretches[0]))
    for numbers in stretches:
        frames = batches.read(numbers, signal)
        yield frames.signal, frames.labels, frames.rows[:, 0]


def read_batches(batches: FrameBatches, device: torch.device) -> Iterator[Batch]:
    """Batches (B, 1, T) float32, as they are trained on."""
    yield from load(batches, range(len(batches)), device)
    wait(device)


def read_frames(
    batches: FrameBatches, patients: list[np.ndarray]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of frames (B, T) int16 and labels (B,), put together of single frames."""
    frames = single_frames(batches, patients)
    for first in range(0, batches.total, batches.batch_size):
        signals, found = zip(
            *islice(frames, min(batches.batch_size, batches.total - first)), strict=True
        )
        yield torch.from_numpy(np.stack(signals)), torch.from_numpy(np.stack(found))


def single_frames(
    batches: FrameBatches, patients: list[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.int64]]:
    """Frames (T,) int16 and their labels, one after the other, as the authors' code makes them: a
    patient, a segment, a start, the complete beats, the label.

    Signals stay mapped and annotations in memory: the page cache is as warm as for the others.
    """
    index, size = batches.index, batches.task.frame_size
    draw = np.random.default_rng(0)
    opened: dict[int, tuple[np.ndarray, ...]] = {}
    for patient in cycle(patients):
        segment = patient[draw.integers(len(patient))]
        if segment not in opened:
            signal = open_signal(index.record_path(segment), index.header(segment))[0]
            notes = index.annotations(segment)
            opened[segment] = signal, notes["beat_ends"], notes["beat_codes"]
        signal, ends, codes = opened[segment]
        start = draw.integers(len(signal) - size + 1)
        yield signal[start : start + size], beat_label(ends, codes, start, start + size)


def beat_label(ends: np.ndarray, codes: np.ndarray, start: int, end: int) -> np.int64:
    """As `pretraining.labels.beat_labels`, of one frame."""
    first = np.searchsorted(ends, start, "left") + 1
    stop = np.searchsorted(ends, end, "right")
    counts = np.bincount(codes[first:stop], minlength=len(BEAT_CLASSES))
    ectopic = counts[ECTOPIC:]
    return ECTOPIC + ectopic.argmax() if ectopic.any() else counts[:ECTOPIC].argmax()
