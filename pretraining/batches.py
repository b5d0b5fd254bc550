"""Examples and signals to tensors."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretraining.examples import Examples, Places
from pretraining.icentia11k.index import AnnotationIndex
from pretraining.icentia11k.reader import Constants
from pretraining.icentia11k.signals import Signals
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.engine import Batch, describe_examples, moments

BLOCK_BYTES = 2**26  # read at once: many frames of each segment, few enough for memory
SHARED_BYTES = 2**24  # by other processes: containers have little shared memory


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

    def __len__(self) -> int:
        return -(-self.total // self.batch_size)

    @property
    def share_size(self) -> int:
        """Examples of a batch that are read here."""
        return self.batch_size // self.processes.size

    @property
    def batch_shape(self) -> tuple[int, int]:
        """Of the signal of a batch that is read here: frames, samples."""
        return self.share_size * self.examples.frames, self.examples.frame_size

    def __getitem__(self, numbers: range) -> Frames:
        return self.read(numbers, new_signal(self, len(numbers)))

    def read(self, numbers: range, signal: Tensor) -> Frames:
        """Batches of these numbers; their signal is read into the first rows of `signal`, int16."""
        segments, starts, labels = self._places(numbers)
        order = np.argsort((segments << 32 | starts).ravel())  # faster than by two keys
        signal = signal[: len(order)]
        self.signals.read(segments.ravel()[order], starts.ravel()[order], signal.numpy())
        rows = np.empty_like(order)
        rows[order] = np.arange(len(order))
        arrays = rows.reshape(segments.shape), *self._scaling(segments), labels
        return Frames(signal, *map(torch.from_numpy, arrays))

    def describe(self, number: int) -> str:
        """Where the frames of a batch that are read here begin, for errors.

        Raises:
            UserError: a file has changed since the index was built.
        """
        segments, starts, _ = (array.ravel() for array in self._places(range(number, number + 1)))
        signals = Signals(self.index, self.examples.frame_size)  # a thread may be reading the other
        with np.errstate(all="ignore"):
            scaling = zip(*map(np.ravel, self._scaling(segments)), strict=True)
            finite = [
                np.isfinite(signals.windows(segment)[start] * scale + shift).all()
                for segment, start, (scale, shift) in zip(segments, starts, scaling, strict=True)
            ]
        names = [
            f"{self.index.record_path(segment).name} from sample {start}"
            for segment, start in zip(segments, starts, strict=True)
        ]
        return describe_examples(names, finite, "frames")

    def _places(self, numbers: range) -> Places:
        """Of the examples of these batches, those that are read here."""
        first = numbers.start * self.batch_size
        count = min(numbers.stop * self.batch_size, self.total) - first
        return self.examples(first, count, self.processes.share)

    def _scaling(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Factor and shift from int16 to normalised mV, (B, K, 1) float32 each."""
        table = self.index.segments  # a column at a time: a row holds its path, too
        scale = 1 / (table["gain"][segments] * self.constants.sd)
        shift = -table["baseline"][segments] * scale - self.constants.mean / self.constants.sd
        return tuple(values.astype(np.float32)[..., None] for values in (scale, shift))


def load(
    batches: Dataset,
    numbers: range,
    device: torch.device,
    workers: int = 0,
    standardised: bool = False,
) -> Iterator[Batch]:
    """Normalised frames (B, K, T) float32 and labels (B,) on the device, in order.

    While a block of batches is used the next one is read, and sent to the device, by a thread.

    Args:
        numbers: of the batches.
        workers: processes that read; the batches do not depend on it.
        standardised: each frame by its own mean and deviation, too.
    """
    for signal, *others in _ahead(_blocks_on(device, batches, numbers, workers), device):
        parts = (tensor.split(batches.share_size) for tensor in others)
        for rows, scale, shift, labels in zip(*parts, strict=True):
            x = torch.addcmul(shift, signal[rows].float(), scale)
            if standardised:
                mean, sd = moments(x)
                x = (x - mean) / sd
            yield Batch(x, labels, len(labels) * (batches.batch_size // batches.share_size))


def blocks(batches: Dataset, numbers: range, most: int = BLOCK_BYTES) -> list[range]:
    """`numbers` of batches in stretches that are read at once, of so many bytes at most."""
    frames, samples = batches.batch_shape
    size = max(most // (2 * frames * samples), 1)
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def new_signal(batches: Dataset, count: int, pinned: bool = False) -> Tensor:
    """Memory for the signal of so many batches."""
    frames, samples = batches.batch_shape
    return torch.empty((count * frames, samples), dtype=torch.int16, pin_memory=pinned)


def _blocks_on(
    device: torch.device, batches: Dataset, numbers: range, workers: int
) -> Iterator[Frames]:
    cuda = device.type == "cuda"
    read = _by_workers if workers else _in_turns
    copies = torch.cuda.Stream(device) if cuda else None
    stretches = blocks(batches, numbers, SHARED_BYTES if workers else BLOCK_BYTES)
    for block in read(batches, stretches, cuda, workers):
        yield _to_cuda(block, device, copies) if cuda else block


def _in_turns(
    batches: Dataset, stretches: list[range], pinned: bool, workers: int
) -> Iterator[Frames]:
    """Read into two signals in turn, one for the block in use and one for the next: touching new
    memory would cost as much as reading."""
    if not stretches:
        return
    signals = cycle([new_signal(batches, len(stretches[0]), pinned) for _ in range(2)])
    for numbers, signal in zip(stretches, signals, strict=False):
        yield batches.read(numbers, signal)


def _by_workers(
    batches: Dataset, stretches: list[range], pinned: bool, workers: int
) -> Iterator[Frames]:
    loader = DataLoader(
        batches, batch_size=None, sampler=stretches, num_workers=workers, pin_memory=pinned,
        prefetch_factor=1,
    )  # fmt: skip
    try:
        yield from loader
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
