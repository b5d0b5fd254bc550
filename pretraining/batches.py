"""Examples and reader to tensors."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretraining.distributions import Signals
from pretraining.examples import Examples
from pretraining.icentia11k import Constants
from pretraining.index import AnnotationIndex
from utils.cli import UserError

BLOCK_BYTES = 2**26  # read at once: many frames of each segment, few enough for memory


class Frames(NamedTuple):
    """n examples of K frames each, as they were read; normalised, `signal[rows] * scale + shift`.

    The signal lies in the order of the files: it is put into that of the examples where it is
    needed, in one go with normalisation.
    """

    signal: Tensor  # (n * K, T) int16
    rows: Tensor  # (n, K) int64
    scale: Tensor  # (n, K, 1) float32
    shift: Tensor  # (n, K, 1) float32
    labels: Tensor  # (n,) int64


class FrameBatches(Dataset):
    """Range of batch numbers -> `Frames`, the same whoever asks and in whatever order.

    Args:
        total: examples in all; the last batch may be smaller.
    """

    def __init__(
        self,
        index: AnnotationIndex,
        examples: Examples,
        constants: Constants,
        batch_size: int,
        total: int,
    ):
        self.index = index
        self.examples = examples
        self.constants = constants
        self.batch_size = batch_size
        self.total = total
        self.signals = Signals()

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    @property
    def batch_bytes(self) -> int:
        """Of the signal of one batch."""
        return 2 * self.batch_size * self.examples.frames * self.examples.frame_size

    def __getitem__(self, numbers: range) -> Frames:
        first = numbers.start * self.batch_size
        count = min(numbers.stop * self.batch_size, self.total) - first
        segments, starts, labels = self.examples(first, count)
        order = np.lexsort((starts.ravel(), segments.ravel()))
        signal = self._read(segments.ravel()[order], starts.ravel()[order])
        rows = np.empty_like(order)
        rows[order] = np.arange(len(order))
        scale, shift = self._scaling(segments)
        arrays = signal, rows.reshape(segments.shape), scale, shift, labels
        return Frames(*map(torch.from_numpy, arrays))

    def _read(self, segments: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Frames that start there, (n, T) int16; `segments` are sorted."""
        length = self.examples.frame_size
        signal = np.empty((len(starts), length), np.int16)
        distinct, first = np.unique(segments, return_index=True)
        for segment, part in zip(distinct, pairwise([*first, len(segments)]), strict=True):
            part = slice(*part)
            signal[part] = self.signals.windows(
                self.index.record_path(segment), self.index.header(segment), starts[part], length
            )
        return signal

    def _scaling(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift from int16 to normalised mV, (B, K, 1) float32 each."""
        table = self.index.segments  # a column at a time: a row holds its path, too
        scale = 1 / (table["gain"][segments] * self.constants.sd)
        shift = -table["baseline"][segments] * scale - self.constants.mean / self.constants.sd
        return tuple(values.astype(np.float32)[..., None] for values in (scale, shift))


def load(
    batches: Dataset, numbers: range, device: torch.device, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised frames (B, K, T) float32 and labels (B,) on the device, in order.

    Args:
        numbers: of the batches.
        workers: processes that read; the batches do not depend on it.
    """
    cuda = device.type == "cuda"
    loader = DataLoader(
        batches, batch_size=None, sampler=blocks(batches, numbers), num_workers=workers,
        pin_memory=cuda, prefetch_factor=1 if workers else None,
    )  # fmt: skip
    for block in _with_plain_errors(loader):
        signal, *others = (tensor.to(device, non_blocking=cuda) for tensor in block)
        parts = (tensor.split(batches.batch_size) for tensor in others)
        for rows, scale, shift, labels in zip(*parts, strict=True):
            yield torch.addcmul(shift, signal[rows].float(), scale), labels


def blocks(batches: Dataset, numbers: range) -> list[range]:
    """`numbers` of batches in stretches that are read at once."""
    size = max(BLOCK_BYTES // batches.batch_bytes, 1)
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def _with_plain_errors(loader: DataLoader) -> Iterator[Frames]:
    """A worker's `UserError` arrives with its traceback for a message; keep the last line."""
    try:
        yield from loader
    except UserError as error:
        message = str(error).strip().rpartition("\n")[2]
        raise UserError(message.removeprefix(f"{UserError.__module__}.UserError: ")) from None
