"""Icentia11k's torrent: all segments of a patient in one pickled file, as zipped or unzipped.

https://academictorrents.com/details/af04abfe9a3c96b30e5dd029eb185e19a7055272, one folder of

- `NNNNN_batched.pkl.gz`: float16 array (segments, samples) in mV,
- `NNNNN_batched_lbls.pkl.gz`: for each segment a dictionary of `btype`, an array of places for each
  class of beat, and `rtype`, the same for each class of rhythm,

or, as earlier code unzipped them, `NNNNN_batched.npy` and `NNNNN_batched_lbls.npz` (a `.npz` or,
in spite of its name, a pickle), in which `btype` and `rtype` hold for each segment the places and
their classes. Where a patient has both, the unzipped file is read, because it can be mapped.

A record is a patient's `NNNNN_batched`; its segments are called `NNNNN_batched#SS`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.icentia11k import admit
from pretraining.icentia11k.reader import Header, Segment
from recordings import Unusable, one_line
from recordings.annotations import BEAT_CLASSES, RHYTHM_CLASSES
from recordings.quality import assess
from recordings.wfdb_files import ICENTIA_GAIN
from utils.cli import UserError

FILE_NAME = re.compile(r"((\d{5,})_batched)(_lbls)?(\.pkl\.gz|\.npy|\.npz)")
RECORD_NAME = re.compile(r"\d{5,}_batched(#\d+)?")
SIGNALS = (".npy", ".pkl.gz")  # the first that is there is read
LABELS = ("_lbls.npz", "_lbls.pkl.gz")

SEGMENTS = 64  # room for as many; patients have up to 50
# Bytes that are read and built. Of a signal four times its own, because in the protocol used Python
# 3 writes half of all bytes as two, and they are built twice. Of labels there are a few million.
SIGNAL_LIMIT = 4 * SEGMENTS * (2**20 + 1) * 2
LABEL_LIMIT = 2**27
CLASSES = {"btype": len(BEAT_CLASSES), "rtype": len(RHYTHM_CLASSES)}
LARGEST = np.iinfo(np.int16).max


def find_records(root: Path) -> tuple[dict[int, list[Path]], list[Path]]:
    """The record of each patient, and the folder and files that were found.

    Raises:
        UserError: records of two names are of one patient.
    """
    records: dict[int, Path] = {}
    found = [root]
    for path in sorted(root.iterdir()):
        if match := FILE_NAME.fullmatch(path.name):
            other = records.setdefault(int(match[2]), root / match[1])
            if other.name != match[1]:
                raise UserError(
                    f"{root}: {other.name} and {match[1]} are both of patient {int(match[2])}; "
                    "move one of them elsewhere"
                )
            found.append(path)
    return {patient: [records[patient]] for patient in sorted(records)}, found


def files(record: Path) -> list[Path]:
    """What a record, or a segment of it, may be read from."""
    name = record.name.partition("#")[0]
    return [record.with_name(name + suffix) for suffix in SIGNALS + LABELS]


def read_from(record: Path) -> list[Path]:
    """Of `files`, those that are read: of signal and labels the first that is there."""
    return [path for path in (_first(record, SIGNALS), _first(record, LABELS)) if path]


def read(record: Path) -> Iterator[tuple[Path, Segment | Unusable]]:
    """Each segment of a patient, or why it cannot be used.

    Raises:
        Unusable: no segment can be used.
    """
    yield from read_segments(record, open_signal(record))


def open_signal(record: Path) -> np.ndarray:
    """(segments, samples) float16 in mV; a memory map where the file is unzipped.

    Raises:
        Unusable: there is no such file, or it holds something else.
    """
    path = _first(record, SIGNALS)
    if path is None:
        raise Unusable("no signal (.pkl.gz or .npy)")
    try:
        zipped = path.suffix != ".npy"
        signal = admit.load(path, SIGNAL_LIMIT) if zipped else admit.map_npy(path)
    except (OSError, Unusable) as error:
        raise Unusable(f"signal: {one_line(error)}") from None
    if not (isinstance(signal, np.ndarray) and signal.dtype == np.float16 and signal.ndim == 2):
        raise Unusable("signal: no float16 array (segments, samples)")
    if not signal.size:
        raise Unusable("signal: no samples")
    if len(signal) > SEGMENTS:
        raise Unusable(f"signal: {len(signal)} segments, more than {SEGMENTS}")
    return signal


def read_segments(record: Path, signal: np.ndarray) -> Iterator[tuple[Path, Segment | Unusable]]:
    """`read`, where the signal is open already."""
    labels = _load_labels(record, len(signal))
    for number, samples in enumerate(signal):
        path = record.with_name(f"{record.name}#{number:02d}")
        try:
            segment = _segment(samples, labels, number)
        except Unusable as reason:
            segment = reason
        yield path, segment


def _segment(samples: np.ndarray, labels: Any, number: int) -> Segment:
    samples = samples.astype(np.float32)  # NumPy is slow at halves
    if not np.isfinite(samples).all():
        raise Unusable("missing (NaN) or infinite samples")
    header = Header(len(samples), ICENTIA_GAIN, 0, False, 0)
    quality = assess(samples)
    if labels is None:
        nothing = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return Segment(header, False, *nothing, *nothing, quality)
    beats, rhythms = (_annotations(labels, kind, number, len(samples)) for kind in CLASSES)
    return Segment(header, True, *beats, *rhythms, quality)


def _load_labels(record: Path, segments: int) -> Any:
    """Labels of all segments as they lie in the file; None where there is none.

    Raises:
        Unusable: the file cannot be read, or is of another number of segments.
    """
    path = _first(record, LABELS)
    if path is None:
        return None
    try:
        labels = admit.load(path, LABEL_LIMIT)
        lists = [labels[kind] for kind in CLASSES] if isinstance(labels, dict) else [labels]
        labelled = {len(of_segments) for of_segments in lists}
    except (KeyError, TypeError):
        raise Unusable("labels: no btype and rtype for each segment") from None
    except (OSError, Unusable) as error:
        raise Unusable(f"labels: {one_line(error)}") from None
    if labelled != {segments}:
        raise Unusable(f"labels of {max(labelled)} segments, signal of {segments}")
    return labels


def _annotations(
    labels: Any, kind: str, number: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (n,) int64, ascending, and codes (n,) int8 of one segment's `btype` or `rtype`."""
    classes = CLASSES[kind]
    try:
        if isinstance(labels, dict):
            ends, codes = labels[kind][number]
            ends = _whole_numbers(ends, samples, samples)
            codes = _whole_numbers(codes, classes, samples)
        else:
            by_class = labels[number][kind]
            if len(by_class) != classes:
                raise Unusable(f"{kind} of {len(by_class)} classes, not {classes}")
            by_class = [_whole_numbers(ends, samples, samples) for ends in by_class]
            ends = np.concatenate(by_class)
            codes = np.repeat(np.arange(classes), list(map(len, by_class)))
        if len(ends) != len(codes):
            raise ValueError
    except (IndexError, KeyError, TypeError, ValueError):
        raise Unusable(f"{kind} holds no places below {samples} with their classes") from None
    order = np.argsort(ends, kind="stable")
    return ends[order], codes[order].astype(np.int8)


def _whole_numbers(values: Any, stop: int, most: int) -> np.ndarray:
    """(n,) int64 from 0 to below `stop`; an empty array of floats made floats of others.

    Args:
        most: n at most; there are no more beats than samples.

    Raises:
        ValueError, TypeError: anything else, lists too: they may be nested beyond all memory.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iuf":
        raise TypeError
    if len(values) > most:
        raise ValueError
    if not ((values >= 0) & (values < stop) & (values == np.rint(values))).all():
        raise ValueError
    return values.astype(np.int64)


def split(segment: Path) -> tuple[Path, int]:
    """Record and number of a segment."""
    record, _, number = segment.name.partition("#")
    return segment.with_name(record), int(number)


def to_units(signal: np.ndarray) -> np.ndarray:
    """mV in float16 as int16 at Icentia11k's own gain, clipped to what int16 holds.

    An int16 sample that was divided by the gain and rounded to float16 comes back as it was below
    1,195 units (16 mV), and differs by one at most below 2,048.
    """
    units = np.rint(signal.astype(np.float32) * np.float32(ICENTIA_GAIN))
    return units.clip(-LARGEST, LARGEST).astype(np.int16)


def _first(record: Path, suffixes: tuple[str, ...]) -> Path | None:
    paths = (record.with_name(record.name + suffix) for suffix in suffixes)
    return next((path for path in paths if path.exists()), None)
