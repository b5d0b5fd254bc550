"""Icentia11k's WFDB distribution (https://physionet.org/content/icentia11k-continuous-ecg/).

One lead of 250 Hz in format 16, `pNN/pNNNNN/pNNNNN_sMM.{dat,hea,atr}` or all in one folder.
A record is a segment. Sets by `pretraining.convert` have this layout, and a `dataset.json`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recordings import MILLIVOLT, Unusable, one_line, wfdb_files
from recordings.annotations import BEAT_CLASSES, ICENTIA_BEATS, ICENTIA_RHYTHMS, RHYTHM_CLASSES
from recordings.quality import Quality, assess
from recordings.wfdb_files import ICENTIA_FS
from utils.cli import UserError
from utils.files import read_json
from utils.model_card import MAX_NUMBER

INVALID = -(2**15)  # of int16: WFDB's mark for a missing sample
LATEST = 2**31  # samples; the index holds positions in 32 bits
DESCRIPTION = "dataset.json"
RECORD_NAME = re.compile(r"p(\d{5,})_s\d{2,}")
SUFFIXES = (".hea", ".dat", ".atr")
OPEN_SIGNALS = 1024  # more than the segments of 16 patients, whose frames are mixed
READ_ALONE = 64  # records; below, starting processes costs more than it saves

BEAT_CODES = {symbol: BEAT_CLASSES.index(name) for symbol, name in ICENTIA_BEATS.items()}
RHYTHM_CODES = {mark: RHYTHM_CLASSES.index(name) for mark, name in ICENTIA_RHYTHMS.items()}
# A beat in no zone was undefined, end or noise; which of them is no longer known.
NO_ZONE = RHYTHM_CLASSES.index("noise")
NO_ANNOTATIONS = (np.zeros(0, np.int64), np.zeros(0, np.int8)) * 2


class Constants(NamedTuple):
    name: str  # of the data set
    mean: float  # of its signals, mV
    sd: float
    same_subject: Mapping[int, int]  # duplicate patient ids, and the patient they are


ICENTIA11K = Constants("icentia11k", 0.0018, 1.3711, {})  # of Weimann & Conrad's code


class Header(NamedTuple):
    samples: int
    gain: float  # units per mV
    baseline: int  # value of 0 mV


class Segment(NamedTuple):
    header: Header
    signal: np.ndarray  # (samples,) int16 in the header's units, or float16 in mV
    quality: Quality
    annotated: bool
    beat_ends: np.ndarray  # (n,) int64 in samples, ascending
    beat_codes: np.ndarray  # (n,) int8
    rhythm_ends: np.ndarray  # (m,) int64
    rhythm_codes: np.ndarray  # (m,) int8


def read_constants(root: Path) -> Constants:
    """The set's own constants from `dataset.json`, else Icentia11k's."""
    path = root / DESCRIPTION
    if not path.exists():
        return ICENTIA11K
    described = read_json(path)
    try:
        mean, sd = float(described["mean_mv"]), float(described["sd_mv"])
        same = {int(k): int(v) for k, v in described.get("same_subject", {}).items()}
        if not (abs(mean) < MAX_NUMBER and 1 / MAX_NUMBER < sd < MAX_NUMBER):
            raise ValueError
        return Constants(str(described["name"]), mean, sd, same)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path} must state name, mean_mv, and sd_mv above 0") from None


def find_records(root: Path) -> dict[int, list[Path]]:
    """Record paths without extension of each patient, sorted."""
    records: dict[int, set[Path]] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if re.fullmatch(r"p\d+", name)]
        for stem, suffix in map(os.path.splitext, names):
            if suffix in SUFFIXES and (match := RECORD_NAME.fullmatch(stem)):
                records.setdefault(int(match[1]), set()).add(Path(folder) / stem)
    return {patient: sorted(records[patient]) for patient in sorted(records)}


def watched(record: Path) -> list[str]:
    # A file that is replaced changes the folder. Text, because a Path takes longer than its stat.
    return [os.path.dirname(record), *(f"{record}{suffix}" for suffix in SUFFIXES)]  # noqa: PTH120


def split(segment: Path) -> tuple[Path, int]:
    """Record of a segment, and the segment's number in it."""
    return segment, 0


def read(record: Path) -> Iterator[tuple[Path, Segment]]:
    """The segment of a record, and its path."""
    header, (signal,) = read_header(record), open_signal(record)
    if len(signal) != header.samples:
        raise Unusable(f"header says {header.samples} samples, file holds {len(signal)}")
    if (signal == INVALID).any():
        raise Unusable("missing (NaN) samples")
    annotated = Path(f"{record}.atr").exists()
    annotations = read_annotations(record, header.samples) if annotated else NO_ANNOTATIONS
    yield record, Segment(header, signal, assess(signal), annotated, *annotations)


def read_annotations(record: Path, samples: int = 0) -> tuple[np.ndarray, ...]:
    """Ends and codes of the beats in the `.atr`, then of the rhythm at each beat, rebuilt from the
    zones, and of zones in which no beat lies; see `Segment`."""
    marks = wfdb_files.read_atr(record)
    positions = np.asarray(marks.sample, np.int64)
    codes = np.array([BEAT_CODES.get(symbol, -1) for symbol in marks.symbol], np.int8)
    ends, codes = positions[codes >= 0], codes[codes >= 0]
    # Zones include the beats that their marks sit on; one that is not closed lasts until the next
    # one opens, or to the last beat.
    zones = []  # numbers of the first beat in it and behind it; begin, end and code
    zone, first, begin = NO_ZONE, 0, 0
    for place, note, symbol in zip(positions.tolist(), marks.aux_note, marks.symbol, strict=True):
        note = note.strip("\0") if symbol == "+" else ""
        if note.startswith("("):
            opened = np.searchsorted(ends, place, "left")
            zones.append((first, opened, begin, place, zone))
            zone, first, begin = RHYTHM_CODES.get(note.rstrip(")"), NO_ZONE), opened, place
        if note.endswith(")"):
            closed = np.searchsorted(ends, place, "right")
            zones.append((first, closed, begin, place + 1, zone))
            zone, first = NO_ZONE, closed
    zones.append((first, len(ends), begin, samples, zone))
    rhythms, intervals, last = np.full(len(ends), NO_ZONE, np.int8), [], 0
    for first, stop, begin, end, zone in zones:
        rhythms[first:stop] = zone
        if first == stop and zone != NO_ZONE:
            intervals += [(begin, NO_ZONE)] * (begin > last) + [(end, zone)]
            last = end
    if intervals and not len(ends):  # else what follows the last beat is undefined
        intervals += [(samples, NO_ZONE)] * (samples > last)
    intervals += zip(ends.tolist(), rhythms.tolist(), strict=True)
    stops, rhythms = np.array(sorted(intervals), np.int64).reshape(-1, 2).T
    if (np.diff(ends) < 0).any() or (stops < 0).any() or (stops >= LATEST).any():
        raise Unusable("annotations out of order")
    return ends, codes, stops, rhythms.astype(np.int8)


def read_header(record: Path) -> Header:
    header = wfdb_files.read_header(record)
    layout = header.fs, [lead[:5] for lead in header.leads]
    expected = ICENTIA_FS, [(f"{record.name}.dat", "16", 1, 0, 0)]
    lead = header.leads[0] if layout == expected else None
    if not lead or lead.unit not in MILLIVOLT or not lead.gain or not header.frames:
        layout = f"one lead of {ICENTIA_FS} Hz in format 16, with length and gain"
        raise Unusable(f"header is not of {layout}, in a .dat of the same name")
    return Header(header.frames, lead.gain / MILLIVOLT[lead.unit], lead.baseline)


def open_signal(record: Path) -> np.ndarray:
    """(1, samples) int16; a memory map that is not kept open, as NumPy's are, so that there may be
    thousands."""
    try:
        size = os.stat(f"{record}.dat").st_size // 2  # noqa: PTH116, faster than a Path
        samples = torch.from_file(f"{record}.dat", shared=False, size=size, dtype=torch.int16)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unusable(f"unreadable .dat ({one_line(error)})") from None
    return samples.numpy()[None]
