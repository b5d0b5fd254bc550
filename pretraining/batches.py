"""Sampler, reader and labels to tensors."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretraining.distributions import Signals
from pretraining.icentia11k import Constants
from pretraining.index import AnnotationIndex
from pretraining.sampler import Sampler
from utils.cli import UserError

# (annotations of a segment, starts (n,), frame_size) -> (n,) int64
LabelRule = Callable[[dict[str, np.ndarray], np.ndarray, int], np.ndarray]


class Frames(NamedTuple):
    """One batch as it was read; normalised, it is `signal * scale + shift`."""

    signal: Tensor  # (B, 1, T) int16
    scale: Tensor  # (B, 1, 1) float32
    shift: Tensor  # (B, 1, 1) float32
    labels: Tensor  # (B,) int64


class FrameBatches(Dataset):
    """Batch number -> `Frames`, the same whoever asks and in whatever order.

    Args:
        total: frames in all; the last batch may be smaller.
    """

    def __init__(
        self,
        index: AnnotationIndex,
        sampler: Sampler,
        constants: Constants,
        label_rule: LabelRule,
        batch_size: int,
        total: int,
    ):
        self.index = index
        self.sampler = sampler
        self.constants = constants
        self.label_rule = label_rule
        self.batch_size = batch_size
        self.total = total
        self.signals = Signals()

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    def __getitem__(self, number: int) -> Frames:
        first = number * self.batch_size
        segments, starts = self.sampler.frames(first, min(self.batch_size, self.total - first))
        frame_size = self.sampler.frame_size
        signal = np.empty((len(starts), 1, frame_size), np.int16)
        labels = np.empty(len(starts), np.int64)
        for segment in np.unique(segments):
            chosen = np.flatnonzero(segments == segment)
            signal[chosen, 0] = self.signals.windows(
                self.index.record_path(segment),
                self.index.header(segment),
                starts[chosen],
                frame_size,
            )
            labels[chosen] = self.label_rule(
                self.index.annotations(segment), starts[chosen], frame_size
            )
        return Frames(torch.from_numpy(signal), *self._scaling(segments), torch.from_numpy(labels))

    def _scaling(self, segments: np.ndarray) -> tuple[Tensor, Tensor]:
        """Factor and shift from int16 to normalised mV, (B, 1, 1) each."""
        rows = self.index.segments[segments]
        scale = 1 / (rows["gain"] * self.constants.sd)
        shift = -rows["baseline"] * scale - self.constants.mean / self.constants.sd
        return tuple(torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (scale, shift))


def load(
    batches: FrameBatches, numbers: range, device: torch.device, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised frames (B, 1, T) float32 and labels (B,) on the device, in order.

    Args:
        numbers: of the batches.
        workers: processes that read; the batches do not depend on it.
    """
    cuda = device.type == "cuda"
    loader = DataLoader(
        batches, batch_size=None, sampler=numbers, num_workers=workers, pin_memory=cuda
    )
    for frames in _with_plain_errors(loader):
        signal, scale, shift, labels = (t.to(device, non_blocking=cuda) for t in frames)
        yield torch.addcmul(shift, signal.float(), scale), labels


def _with_plain_errors(loader: DataLoader) -> Iterator[Frames]:
    """A worker's `UserError` arrives with its traceback for a message; keep the last line."""
    try:
        yield from loader
    except UserError as error:
        message = str(error).strip().rpartition("\n")[2]
        raise UserError(message.removeprefix(f"{UserError.__module__}.UserError: ")) from None
