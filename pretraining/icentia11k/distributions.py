"""Icentia11k as PhysioNet and as a torrent distribute it, told apart by the names of the files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k import torrent
from pretraining.icentia11k.reader import Header, Segment
from recordings import Unusable
from utils.cli import UserError

Records = dict[int, list[Path]]  # of each patient, sorted


class Distribution(NamedTuple):
    """How its records are found and read.

    Attributes:
        find_records: in a folder; also the files and folders that change with them.
        read: path and `Segment` of each segment of a record, or why one cannot be used.
        files: what a record is read from. watched: what changes when it does.
        open_signal: of a record and a header, (segments, samples) int16, or float16 in mV.
        split: a segment into its record and its number there.
        open_signals: records that are kept open.
        at_once: records that one process reads alone.
    """

    find_records: Callable[[Path], tuple[Records, list[Path]]]
    read: Callable[[Path], Iterator[tuple[Path, Segment | Unusable]]]
    files: Callable[[Path], list[Path]]
    watched: Callable[[Path], list[Path]]
    open_signal: Callable[[Path, Header], np.ndarray]
    split: Callable[[Path], tuple[Path, int]]
    open_signals: int
    at_once: int


WFDB = Distribution(
    icentia11k.find_records,
    icentia11k.read,
    icentia11k.files,
    watched=lambda record: [record.parent],  # the patient's folder
    open_signal=icentia11k.open_signal,
    split=lambda segment: (segment, 0),
    open_signals=1024,  # more than the segments of 16 patients, whose frames are mixed
    at_once=64,  # below this, starting processes costs more than it saves
)
TORRENT = Distribution(
    torrent.find_records,
    torrent.read,
    torrent.files,
    watched=torrent.files,  # patients share a folder
    open_signal=lambda record, _: torrent.open_signal(record),
    split=torrent.split,
    open_signals=20,  # more than the patients that are mixed; zipped ones take 105 MB each
    at_once=1,
)


def find_records(root: Path) -> tuple[Records, list[Path]]:
    """Records, and the files and folders that change with them.

    Raises:
        UserError: no such folder, no records in it, those of both distributions, or two of one
            patient where there may be one.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    found = [distribution.find_records(root) for distribution in (WFDB, TORRENT)]
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


def distribution_of(path: Path) -> Distribution:
    """That of a record or segment of this name."""
    return TORRENT if torrent.RECORD_NAME.fullmatch(path.name) else WFDB


def read(record: Path) -> Iterator[tuple[Path, Segment | Unusable | OSError]]:
    """Each segment of a record, or why it, or the record, cannot be used."""
    try:
        yield from distribution_of(record).read(record)
    except (Unusable, OSError) as error:
        yield record, error
