"""Examples and signals to tensors."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretraining.examples import Examples
from pretraining.icentia11k import Constants
from pretraining.index import AnnotationIndex
from pretraining.signals import Signals
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.engine import Batch

# Read at once: many frames of each segment. Below 32 MB, from which on malloc maps fresh pages for
# every block, whose faults would cost more than the reading.
BLOCK_BYTES = 3 * 2**23


class Frames(NamedTuple):
    """n examples of K frames each, as they were read; normalised, `signal * scale + shift`."""

    signal: Tensor  # (n, K, T) int16
    scale: Tensor  # (n, K, 1) float32
    shift: Tensor  # (n, K, 1) float32
    labels: Tensor  # (n,) int64


class FrameBatches(Dataset):
    """Range of batch numbers -> `Frames`, the same whoever asks and in whatever order.

    Args:
        batch_size: examples of a batch, of all processes together.
        total: examples in all; the last batch may be smaller.
        processes: which of them asks: each reads its share of every batch.
    """

    def __init__(
        self,
        index: AnnotationIndex,
        examples: Examples,
        constants: Constants,
        batch_size: int,
        total: int,
        processes: Processes = ALONE,
    ):
        self.index = index
        self.examples = examples
        self.constants = constants
        self.batch_size = batch_size
        self.total = total
        self.processes = processes
        self.signals = Signals(index, examples.frame_size)
        self.pinned = False  # whether signals are read into memory that CUDA copies from at once

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    @property
    def share_size(self) -> int:
        """Examples of a batch that are read here."""
        return self.batch_size // self.processes.size

    @property
    def batch_bytes(self) -> int:
        """Of the signal of one batch."""
        return 2 * self.share_size * self.examples.frames * self.examples.frame_size

    def __getitem__(self, numbers: range) -> Frames:
        first = numbers.start * self.batch_size
        count = min(numbers.stop * self.batch_size, self.total) - first
        segments, starts, labels = self.examples(first, count, self.processes.share)
        signal = self._read(segments.ravel(), starts.ravel()).unflatten(0, segments.shape)
        return Frames(signal, *map(torch.from_numpy, (*self._scaling(segments), labels)))

    def _read(self, segments: np.ndarray, starts: np.ndarray) -> Tensor:
        """Frames that start there, (n, T) int16; read in the order of the files."""
        shape = len(starts), self.examples.frame_size
        signal = torch.empty(shape, dtype=torch.int16, pin_memory=self.pinned)
        frames = signal.numpy()
        order = np.lexsort((starts, segments))
        distinct, first = np.unique(segments[order], return_index=True)
        stretches = pairwise([*first.tolist(), len(order)])
        for segment, (begin, end) in zip(distinct.tolist(), stretches, strict=True):
            places = order[begin:end]
            frames[places] = self.signals.frames(segment, starts[places])
        return signal

    def _scaling(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift from int16 to normalised mV, (B, K, 1) float32 each."""
        table = self.index.segments  # a column at a time: a row holds its path, too
        scale = 1 / (table["gain"][segments] * self.constants.sd)
        shift = -table["baseline"][segments] * scale - self.constants.mean / self.constants.sd
        return tuple(values.astype(np.float32)[..., None] for values in (scale, shift))


def load(
    batches: Dataset, numbers: range, device: torch.device, workers: int = 0
) -> Iterator[Batch]:
    """Normalised frames (B, K, T) float32 and labels (B,) on the device, in order.

    While a block of batches is used the next one is read, and sent to the device, by a thread.

    Args:
        numbers: of the batches.
        workers: processes that read; the batches do not depend on it.
    """
    for block in _ahead(_blocks_on(device, batches, numbers, workers), device):
        parts = (tensor.split(batches.share_size) for tensor in block)
        for signal, scale, shift, labels in zip(*parts, strict=True):
            x = torch.addcmul(shift, signal.float(), scale)
            yield Batch(x, labels, len(labels) * (batches.batch_size // batches.share_size))


def blocks(batches: Dataset, numbers: range) -> list[range]:
    """`numbers` of batches in stretches that are read at once."""
    size = max(BLOCK_BYTES // batches.batch_bytes, 1)
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _blocks_on(
    device: torch.device, batches: Dataset, numbers: range, workers: int
) -> Iterator[Frames]:
    cuda = device.type == "cuda"
    batches.pinned = cuda and not workers  # the loader pins what other processes have read
    loader = DataLoader(
        batches, batch_size=None, sampler=blocks(batches, numbers), num_workers=workers,
        pin_memory=cuda and workers > 0, prefetch_factor=1 if workers else None,
    )  # fmt: skip
    copies = torch.cuda.Stream(device) if cuda else None
    try:
        for block in loader:
            yield _to_cuda(block, device, copies) if cuda else block
    except (UserError, OSError) as error:
        # A worker's error arrives with its traceback for a message; keep the last line.
        message = str(error).strip().rpartition("\n")[2]
        raise UserError(message.removeprefix(f"{UserError.__module__}.UserError: ")) from None


def _to_cuda(block: Frames, device: torch.device, copies: torch.cuda.Stream) -> Frames:
    """Copy a block to the device beside what it computes; only the calling thread waits."""
    with torch.cuda.stream(copies):
        moved = Frames(*(tensor.to(device, non_blocking=True) for tensor in block))
    copies.synchronize()
    for tensor in moved:  # made in one stream, used in the other: not to be freed too early
        tensor.record_stream(torch.cuda.default_stream(device))
    return moved


def _ahead(blocks: Iterator[Frames], device: torch.device) -> Iterator[Frames]:
    """Each block, while a thread makes the one after it."""
    cuda = device.type == "cuda"
    start = {"initializer": torch.cuda.set_device, "initargs": (device,)} if cuda else {}
    with ThreadPoolExecutor(1, **start) as thread:
        coming = thread.submit(next, blocks, None)
        while block := coming.result():
            coming = thread.submit(next, blocks, None)
            yield block
