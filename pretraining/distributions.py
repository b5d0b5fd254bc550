"""Icentia11k as PhysioNet and as a torrent distribute it, told apart by the names of the files.

Each has a module of its own, with the same functions:

- `find_records(root)`: records of each patient, and files and folders that change with them,
- `read(record)`: path and `Segment` of each of its segments, or why one cannot be used,
- `files(record)`, `watched(record)`: what it is read from, what changes when it does,
- `open_signal(record, header)`: its signals (segments, samples), int16, or float16 in mV,
- `split(segment)`: record and number of a segment,
- `OPEN_SIGNALS`, `AT_ONCE`: how many records are kept open, and how many one process reads alone.
"""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from pretraining import icentia11k, torrent
from pretraining.icentia11k import Header, Segment
from utils.cli import UserError
from utils.wfdb_io import Unusable


def find_records(root: Path) -> tuple[dict[int, list[Path]], list[Path]]:
    """Records of each patient, sorted, and the files and folders that change with them.

    Raises:
        UserError: no such folder, no records in it, or those of both distributions.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    found = [reader.find_records(root) for reader in (icentia11k, torrent)]
    found = [(records, watched) for records, watched in found if records]
    if not found:
        raise UserError(
            f"{root} holds no records named pNNNNN_sMM.hea or NNNNN_batched.pkl.gz; name the "
            "folder that holds p00 or those files, or convert another database first "
            "(python -m pretraining.convert)"
        )
    if len(found) > 1:
        raise UserError(
            f"{root} holds records of both distributions, pNNNNN_sMM and NNNNN_batched; move one "
            "of them to a folder of its own"
        )
    return found[0]


def reader_of(path: Path) -> ModuleType:
    """The module that reads a record or segment of this name."""
    return torrent if torrent.RECORD_NAME.fullmatch(path.name) else icentia11k


def read(record: Path) -> Iterator[tuple[Path, Segment | Unusable | OSError]]:
    """Each segment of a record, or why it, or the record, cannot be used."""
    try:
        yield from reader_of(record).read(record)
    except (Unusable, OSError) as error:
        yield record, error


class Signals:
    """Open signals of a data set; the least recently used are closed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, np.ndarray] = OrderedDict()

    def __reduce__(self):
        return Signals, ()  # another process opens its own

    def windows(self, segment: Path, header: Header, starts: np.ndarray, length: int) -> np.ndarray:
        """Samples [start, start + length) of one segment, (n, length) int16, in the header's units.

        Args:
            starts: (n,) first samples, all of `length` in the segment.

        Raises:
            UserError: the file has changed since the index was built.
        """
        samples = self._samples(segment, header)
        frames = np.lib.stride_tricks.sliding_window_view(samples, length)[starts]
        return frames if frames.dtype == np.int16 else torrent.to_units(frames)

    def _samples(self, segment: Path, header: Header) -> np.ndarray:
        reader = reader_of(segment)
        record, number = reader.split(segment)
        try:
            if record not in self._open:
                self._open[record] = reader.open_signal(record, header)
                if len(self._open) > reader.OPEN_SIGNALS:
                    self._open.popitem(last=False)
            self._open.move_to_end(record)
            samples = self._open[record][number]
            if len(samples) != header.samples:
                raise Unusable(f"{len(samples)} samples, not {header.samples}")
        except (Unusable, FileNotFoundError, IndexError) as reason:
            raise UserError(
                f"{segment} changed since the index was built ({reason}); "
                "delete the index and start again"
            ) from None
        return samples
