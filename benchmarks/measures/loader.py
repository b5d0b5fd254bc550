"""Frames and labels to tensors: in blocks, as the trainer reads them, and frame by frame."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measures.limits import copy_rate
from benchmarks.measures.timing import describe, in_turns, save, seconds, show
from pretraining.batches import BLOCK_BYTES, FrameBatches, blocks, load
from pretraining.cohort import choose_segments
from pretraining.icentia11k import read_constants
from pretraining.indexing import open_index
from pretraining.labels import ECTOPIC
from pretraining.sampler import Sampler
from pretraining.tasks import TASKS
from utils.annotations import BEAT_CLASSES
from utils.engine import choose_hardware
from utils.synthetic_cohort import write_icentia11k

BLOCKS, DEVICE = "the trainer's blocks, int16", "the same, normalised on the device"
FRAMES, COPY = "a generator of frames, int16", "copy of the same bytes"


def measure(args: argparse.Namespace) -> None:
    """Print frames/s of each way, of the same frames in the same order."""
    device = choose_hardware(args.device, "auto").device
    with TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "icentia11k"
        if not args.data:
            write_icentia11k(data, 16, args.segments, args.samples, seed=0)
        batches, patients = open_batches(args, data, Path(folder) / "index")
        numbers = range(len(batches))
        ways = {
            BLOCKS: lambda: sum(len(y) for _, y in read_blocks(batches, numbers)),
            DEVICE: lambda: sum(len(y) for _, y, _ in load(batches, numbers, device)),
            FRAMES: lambda: sum(len(y) for _, y in read_frames(batches, patients)),
        }
        for way in ways.values():
            way()  # the page cache is warm from here on
        variants = {name: partial(speed, batches.total, way) for name, way in ways.items()}
        copied = np.zeros((2**28 // (2 * args.frame_size), args.frame_size), np.int16)
        variants[COPY] = lambda: copy_rate(copied, BLOCK_BYTES) / (2 * args.frame_size)
        figures = in_turns(variants, args.repeats)
    print(f"beat, frame {args.frame_size}, batch {args.batch_size}; {describe(device)}")
    show("frames/s", figures, FRAMES, digits=0)
    save(args, device, frames_per_second=figures)


def speed(frames: int, way: Callable[[], object]) -> float:
    """Frames/s of reading so many."""
    return frames / seconds(way)


def open_batches(
    args: argparse.Namespace, data: Path, index_folder: Path
) -> tuple[FrameBatches, list[np.ndarray]]:
    """Batches of the first `--frames` frames with labels of beats, and the patients' segments."""
    index = open_index(data, index_folder)
    cohort, _ = choose_segments(index, None, args.frame_size, annotated=True)
    patients = list(cohort.values())
    per_patient = -(-args.frames // len(patients))
    samples = index.segments["samples"]
    sampler = Sampler(patients, samples, args.frame_size, per_patient, (0, 1))
    examples = TASKS["beat"].examples(index, sampler, args)
    constants = read_constants(data)
    return FrameBatches(index, examples, constants, args.batch_size, args.frames), patients


def read_blocks(
    batches: FrameBatches, numbers: range
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Blocks of frames (n, T) int16 and their labels, as `pretraining.batches.load` gets them."""
    for block in blocks(batches, numbers):
        frames = batches[block]
        yield frames.signal, frames.labels


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
    index, size = batches.index, batches.examples.frame_size
    draw = np.random.default_rng(0)
    opened: dict[int, tuple[np.ndarray, ...]] = {}
    for patient in cycle(patients):
        segment = patient[draw.integers(len(patient))]
        if segment not in opened:
            path, header = index.record_path(segment), index.header(segment)
            signal = np.asarray(np.memmap(f"{path}.dat", "<i2", "r", header.offset))
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
