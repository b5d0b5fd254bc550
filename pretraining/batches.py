"""Frames to tensors: read in blocks by a thread, ahead of their use, normalised on the device."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretraining.icentia11k import torrent
from pretraining.icentia11k.index import AnnotationIndex
from pretraining.icentia11k.reader import Constants
from pretraining.sampler import Sampler
from pretraining.tasks import Examples, Task
from recordings import Unusable
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.engine import Batch, moments
from utils.files import atomic_path, load_npz

BLOCK_BYTES = 2**26  # read at once: many frames of each segment, few enough for memory
SHARED_BYTES = 2**24  # by other processes: containers have little shared memory


class Signals:
    """Frames of `length` samples. Signals are opened on demand, the least recently used closed."""

    def __init__(self, index: AnnotationIndex, length: int):
        self.index, self.length = index, length
        split, path, header = index.distribution.split, index.record_path, index.header
        self._locate = lru_cache(2**14)(lambda segment: (*split(path(segment)), header(segment)))
        self._open = lru_cache(index.distribution.OPEN_SIGNALS)(index.distribution.open_signal)

    def __reduce__(self):
        return Signals, (self.index, self.length)  # another process opens its own

    def windows(self, segment: int) -> np.ndarray:
        """All stretches of `length` samples of a segment, (samples - length + 1, length), a view:
        int16 in its header's units, or float16 in mV, see `torrent.to_units`. A UserError says that
        the file has changed since the index was built."""
        record, number, header = self._locate(segment)
        try:
            samples = self._open(record)[number]
            if len(samples) != header.samples:
                raise Unusable(f"{len(samples)} samples, not {header.samples}")
        except (Unusable, IndexError) as reason:
            changed = f"{self.index.record_path(segment)} changed since the index was built"
            raise UserError(f"{changed} ({reason}); delete the index and start again") from None
        # Faster than NumPy's sliding_window_view, which takes longer than mapping the file.
        shape = len(samples) - self.length + 1, self.length
        return np.ndarray(shape, samples.dtype, samples, strides=samples.strides * 2)

    def read(self, segments: np.ndarray, starts: np.ndarray, frames: np.ndarray) -> None:
        """Fill `frames` (n, length) int16, in the units of the headers of (n,) sorted `segments`,
        from (n,) first samples on."""
        first = np.unique(segments, return_index=True)[1].tolist()
        # One after the other: mapping files in two threads takes longer than in one.
        for begin, end in pairwise([*first, len(segments)]):
            read = self.windows(int(segments[begin]))[starts[begin:end]]
            frames[begin:end] = read if read.dtype == np.int16 else torrent.to_units(read)


class Frames(NamedTuple):
    """n examples of K frames each, as they were read: the signal in the order of the files, which
    is put into that of the examples on the device, where it is `signal[rows] * scale + shift`."""

    signal: Tensor  # (n * K, T) int16
    rows: Tensor  # (n, K) int64
    scale: Tensor  # (n, K, 1) float32
    shift: Tensor  # (n, K, 1) float32
    labels: Tensor  # (n,) int64


class FrameBatches(Dataset):
    """Range of batch numbers -> `Frames`, which do not depend on what was read before.

    The `sampler` draws windows of `task.window` samples. A batch has `batch_size` examples, the
    last one what is left of the `total`; each of the `processes` reads its share.
    """

    def __init__(
        self, task: Task, index: AnnotationIndex, sampler: Sampler, constants: Constants,
        batch_size: int, total: int, processes: Processes = ALONE,
    ):  # fmt: skip
        self.task, self.index, self.sampler, self.constants = task, index, sampler, constants
        self.batch_size, self.total, self.processes = batch_size, total, processes
        self.signals = Signals(index, task.frame_size)
        self.share_size = batch_size // processes.size  # examples of a batch that are read here
        self.batch_shape = self.share_size * task.num_frames, task.frame_size  # frames, samples

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    def __getitem__(self, numbers: range) -> Frames:
        return self.read(numbers, new_signal(self, len(numbers)))

    def read(self, numbers: range, signal: Tensor) -> Frames:
        """Batches of these numbers; their signal is read into the first rows of `signal`, int16."""
        segments, starts, labels = self.examples(numbers)
        order = np.argsort((segments << 32 | starts).ravel())  # faster than by two keys
        signal = signal[: len(order)]
        self.signals.read(segments.ravel()[order], starts.ravel()[order], signal.numpy())
        rows = np.empty_like(order)
        rows[order] = np.arange(len(order))
        table = self.index.segments  # a column at a time: a row holds its path, too
        scale = 1 / (table["gain"][segments] * self.constants.sd)
        shift = -table["baseline"][segments] * scale - self.constants.mean / self.constants.sd
        scaling = (values.astype(np.float32)[..., None] for values in (scale, shift))
        arrays = rows.reshape(segments.shape), *scaling, labels
        return Frames(signal, *map(torch.from_numpy, arrays))

    def names(self, number: int) -> list[str]:
        """Where the frames of a batch that are read here start, for errors."""
        segments, starts, _ = (array.ravel() for array in self.examples(range(number, number + 1)))
        paths = map(self.index.record_path, segments)
        return [f"{p.name} from sample {start}" for p, start in zip(paths, starts, strict=True)]

    def examples(self, numbers: range) -> Examples:
        """Examples of these batches that are read here."""
        first = numbers.start * self.batch_size
        count = min(numbers.stop * self.batch_size, self.total) - first
        return self.task.examples(self.index, self.sampler, first, count, self.processes.share)


def load(
    batches: Dataset, numbers: range, device: torch.device, workers: int = 0, standardise=False
) -> Iterator[Batch]:
    """Normalised frames (B, K, T) float32 and labels (B,) on the device, in order.

    While a block of batches is used, a thread reads the next one, or gets it from `workers`, other
    processes, and copies it to the device. `standardise` normalises each frame by its own mean and
    deviation as well.
    """
    cuda = device.type == "cuda"
    read = _read_by_workers if workers else _read_in_turns
    read = read(batches, numbers, cuda, workers)
    for signal, *others in _ahead(_copy_to_cuda(read, device) if cuda else read, device):
        parts = (tensor.split(batches.share_size) for tensor in others)
        for rows, scale, shift, labels in zip(*parts, strict=True):
            x = torch.addcmul(shift, signal[rows].float(), scale)
            if standardise:
                mean, sd = moments(x)
                x = (x - mean) / sd
            yield Batch(x, labels, len(labels) * (batches.batch_size // batches.share_size))


def blocks(batches: Dataset, numbers: range, most: int = BLOCK_BYTES) -> list[range]:
    """`numbers` of batches in blocks that are read at once, of at most so many bytes."""
    frames, samples = batches.batch_shape
    size = max(most // (2 * frames * samples), 1)
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def new_signal(batches: Dataset, count: int, pinned: bool = False) -> Tensor:
    frames, samples = batches.batch_shape
    return torch.empty((count * frames, samples), dtype=torch.int16, pin_memory=pinned)


def _read_in_turns(batches: Dataset, numbers: range, pinned: bool, _: int) -> Iterator[Frames]:
    # Two signals, one for the block in use and one for the next: touching new memory would cost as
    # much as reading.
    parts = blocks(batches, numbers)
    signals = cycle([new_signal(batches, len(part), pinned) for part in parts[:1] * 2])
    for part, signal in zip(parts, signals, strict=False):
        yield batches.read(part, signal)


def _read_by_workers(batches, numbers: range, pinned: bool, workers: int) -> Iterator[Frames]:
    loader = DataLoader(
        batches, batch_size=None, sampler=blocks(batches, numbers, SHARED_BYTES),
        num_workers=workers, pin_memory=pinned, prefetch_factor=1,
    )  # fmt: skip
    try:
        yield from loader
    except (UserError, OSError) as error:
        # A worker's error arrives with its traceback as its message; the last line is kept.
        message = str(error).strip().rpartition("\n")[2]
        raise UserError(message.removeprefix(f"{UserError.__module__}.UserError: ")) from None


def _copy_to_cuda(read: Iterator[Frames], device: torch.device) -> Iterator[Frames]:
    # In a stream of their own, beside what is computed; only this thread waits.
    copies = torch.cuda.Stream(device)
    for block in read:
        with torch.cuda.stream(copies):
            moved = Frames(*(tensor.to(device, non_blocking=True) for tensor in block))
        copies.synchronize()
        for tensor in moved:  # made in one stream, used in the other: not to be freed too early
            tensor.record_stream(torch.cuda.default_stream(device))
        yield moved


def _ahead(read: Iterator[Frames], device: torch.device) -> Iterator[Frames]:
    cuda = device.type == "cuda"
    start = {"initializer": torch.cuda.set_device, "initargs": (device,)} if cuda else {}
    with ThreadPoolExecutor(1, **start) as thread:
        coming = thread.submit(next, read, None)
        while block := coming.result():
            coming = thread.submit(next, read, None)
            yield block


# Arrays of a file of validation frames, in the order of `Frames` once the signal is in its order.
STORED = {"signal": np.int16, "scale": np.float32, "shift": np.float32, "labels": np.int64}


def store_frames(path: Path, batches: FrameBatches, about: Mapping[str, Any]) -> None:
    """Write all examples to an `.npz` file, with `about` as JSON; see `StoredFrames`."""
    parts = (batches[numbers] for numbers in blocks(batches, range(len(batches))))
    parts = ((part.signal[part.rows], part.scale, part.shift, part.labels) for part in parts)
    tensors = map(torch.cat, zip(*parts, strict=True))
    arrays = dict(zip(STORED, (tensor.numpy() for tensor in tensors), strict=True))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=json.dumps(about), **arrays)
    print(f"{path}: {batches.total} validation frames")


class StoredFrames(Dataset):
    """Range of batch numbers -> `Frames` of a file by `store_frames` of this `kind`."""

    def __init__(self, path: Path, task: Task, batch_size: int, kind: Mapping[str, Any]):
        different = []
        try:
            arrays = load_npz(path)
            self.about = json.loads(str(arrays["about"]))
            self.arrays = {name: arrays[name] for name in STORED}
            stated = {name: self.about.get(name) for name in kind}
            different = [f"{n} {stated[n]}, not {kind[n]}" for n in kind if stated[n] != kind[n]]
            usable = not different and self._is_valid(task)
        except (AttributeError, ValueError, KeyError, TypeError):
            usable = False
        if not usable:
            why = f"was made with {different[0]}" if different else "holds no validation frames"
            raise UserError(f"{path} {why}; write one with --cache-val")
        self.batch_size = self.share_size = batch_size
        self.batch_shape = batch_size * task.num_frames, task.frame_size

    def _is_valid(self, task: Task) -> bool:
        _, scale, shift, labels = arrays = list(self.arrays.values())
        patients, frames = self.about["patients"], (len(labels), task.num_frames)
        shapes = [(*frames, task.frame_size), (*frames, 1), (*frames, 1), frames[:1]]
        return (
            patients and all(type(patient) is int for patient in patients)
            and isinstance(self.about["dataset"], str)
            and [array.shape for array in arrays] == shapes
            and [array.dtype for array in arrays] == list(STORED.values())
            and np.isfinite(scale).all() and np.isfinite(shift).all()
            and labels.size and 0 <= labels.min() <= labels.max() < task.num_outputs
        )  # fmt: skip

    def __len__(self) -> int:
        return -(-len(self.arrays["labels"]) // self.batch_size)

    def read(self, numbers: range, _: Tensor | None = None) -> Frames:
        part = slice(numbers.start * self.batch_size, numbers.stop * self.batch_size)
        signal, *others = (torch.from_numpy(self.arrays[name][part]) for name in STORED)
        signal, shape = signal.flatten(0, 1), signal.shape[:2]
        return Frames(signal, torch.arange(len(signal)).view(shape), *others)

    __getitem__ = read
