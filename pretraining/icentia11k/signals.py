"""Signals of an index's segments, kept open for reading frames."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import numpy as np

from pretraining.icentia11k import torrent
from pretraining.icentia11k.distributions import distribution_of
from pretraining.icentia11k.index import AnnotationIndex
from recordings import Unusable
from utils.cli import UserError


class Signals:
    """Frames of `length` samples. Signals are opened on demand, the least recently used closed.

    Once a signal is open, the frames of a segment cost one indexing of a view: neither path nor
    header is looked up again.
    """

    def __init__(self, index: AnnotationIndex, length: int):
        self.index, self.length = index, length
        self._records: OrderedDict[Path, tuple[np.ndarray, list[int]]] = OrderedDict()
        self._windows: dict[int, tuple[Path, np.ndarray]] = {}  # of the segments of those records

    def __reduce__(self):
        return Signals, (self.index, self.length)  # another process opens its own

    def windows(self, segment: int) -> np.ndarray:
        """All stretches of `length` samples of a segment, (samples - length + 1, length), a view.

        They are int16 in its header's units, or float16 in mV, see `torrent.to_units`.

        Raises:
            UserError: the file has changed since the index was built.
        """
        if segment not in self._windows:
            self._open(segment)
        record, windows = self._windows[segment]
        self._records.move_to_end(record)
        return windows

    def read(self, segments: np.ndarray, starts: np.ndarray, frames: np.ndarray) -> None:
        """Fill `frames`, (n, length) int16, in the units of the segments' headers.

        Args:
            segments: (n,), sorted. starts: (n,) first samples, all of `length` in their segment.

        Raises:
            UserError: as `windows`.
        """
        distinct, first = np.unique(segments, return_index=True)
        stretches = pairwise([*first.tolist(), len(segments)])
        # One after the other: mapping files in two threads takes longer than in one.
        for segment, (begin, end) in zip(distinct.tolist(), stretches, strict=True):
            found = self.windows(segment)[starts[begin:end]]
            frames[begin:end] = found if found.dtype == np.int16 else torrent.to_units(found)

    def _open(self, segment: int) -> None:
        path, header = self.index.record_path(segment), self.index.header(segment)
        distribution = distribution_of(path)
        record, number = distribution.split(path)
        try:
            if record not in self._records:
                self._records[record] = distribution.open_signal(record, header), []
            signal, segments = self._records[record]
            samples = signal[number]
            if len(samples) != header.samples:
                raise Unusable(f"{len(samples)} samples, not {header.samples}")
        except (Unusable, FileNotFoundError, IndexError) as reason:
            raise UserError(
                f"{path} changed since the index was built ({reason}); "
                "delete the index and start again"
            ) from None
        # By hand: NumPy's sliding_window_view takes longer than mapping the file.
        shape = len(samples) - self.length + 1, self.length
        windows = np.ndarray(shape, samples.dtype, samples, strides=samples.strides * 2)
        self._windows[segment] = record, windows
        segments.append(segment)
        if len(self._records) > distribution.open_signals:
            _, (_, closed) = self._records.popitem(last=False)
            for old in closed:
                del self._windows[old]
