"""Signals of an index's segments, kept open for reading frames."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from pretraining import torrent
from pretraining.distributions import distribution_of
from pretraining.index import AnnotationIndex
from utils.cli import UserError
from utils.wfdb_io import Unusable


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

    def frames(self, segment: int, starts: np.ndarray) -> np.ndarray:
        """Samples [start, start + length) of one segment, (n, length) int16, in its header's units.

        Args:
            starts: (n,) first samples, all of `length` in the segment.

        Raises:
            UserError: the file has changed since the index was built.
        """
        if segment not in self._windows:
            self._open(segment)
        record, windows = self._windows[segment]
        self._records.move_to_end(record)
        frames = windows[starts]
        return frames if frames.dtype == np.int16 else torrent.to_units(frames)

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
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.length)
        self._windows[segment] = record, windows
        segments.append(segment)
        if len(self._records) > distribution.open_signals:
            _, (_, closed) = self._records.popitem(last=False)
            for old in closed:
                del self._windows[old]
