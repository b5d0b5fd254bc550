"""Icentia11k's WFDB distribution (https://physionet.org/content/icentia11k-continuous-ecg/).

One lead at 250 Hz, `pNN/pNNNNN/pNNNNN_sMM.{dat,hea,atr}` or all in one folder; a record is one
segment. Sets made by `pretraining.convert` have the same layout, and a `dataset.json`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import wfdb

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
    mapped: bool  # whether it is a plain int16 file
    offset: int  # byte at which its samples begin


class Segment(NamedTuple):
    header: Header
    annotated: bool
    beat_ends: np.ndarray
    beat_codes: np.ndarray
    rhythm_ends: np.ndarray
    rhythm_codes: np.ndarray
    quality: Quality


def read_constants(root: Path) -> Constants:
    """The set's own constants from `dataset.json`, else Icentia11k's."""
    path = root / DESCRIPTION
    if not path.exists():
        return ICENTIA11K
    described = read_json(path)
    try:
        name, mean, sd = str(described["name"]), float(described["mean_mv"]), described["sd_mv"]
        same = {int(k): int(v) for k, v in described.get("same_subject", {}).items()}
        constants = Constants(name, mean, float(sd), same)
        if not (abs(constants.mean) < MAX_NUMBER and 1 / MAX_NUMBER < constants.sd < MAX_NUMBER):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path} must state name, mean_mv, and sd_mv above 0") from None
    return constants


def find_records(root: Path) -> tuple[dict[int, list[Path]], list[Path]]:
    """Record paths without extension of each patient, sorted, and the folders looked into."""
    records: dict[int, set[Path]] = {}
    folders = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if re.fullmatch(r"p\d+", name)]
        folders.append(Path(folder))
        for stem, suffix in map(os.path.splitext, names):
            if suffix in SUFFIXES and (match := RECORD_NAME.fullmatch(stem)):
                records.setdefault(int(match[1]), set()).add(Path(folder) / stem)
    return {patient: sorted(records[patient]) for patient in sorted(records)}, folders


def files(record: Path) -> list[Path]:
    return [Path(f"{record}{suffix}") for suffix in SUFFIXES]


def watched(record: Path) -> list[Path]:
    return [record.parent]  # changes with the record


def split(segment: Path) -> tuple[Path, int]:
    """Record of a segment, and the segment's number in it."""
    return segment, 0


def read(record: Path) -> Iterator[tuple[Path, Segment]]:
    """The segment of a record, and its path."""
    header = read_header(record)
    (signal,) = open_signal(record, header)
    if (signal == INVALID).any():
        raise Unusable("missing (NaN) samples")
    annotated = Path(f"{record}.atr").exists()
    yield record, Segment(header, annotated, *read_annotations(record), assess(signal))


def read_annotations(record: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ends (n,) int64 in samples and codes (n,) int8 of the beats, then of the rhythm at each beat,
    rebuilt from the zones; all empty where the segment has no `.atr`."""
    if not Path(f"{record}.atr").exists():
        ends, codes = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return ends, codes, ends, codes
    marks = wfdb_files.read_atr(record)
    positions = np.asarray(marks.sample, np.int64)
    codes = np.array([BEAT_CODES.get(symbol, -1) for symbol in marks.symbol], np.int8)
    beats = codes >= 0
    ends, codes = positions[beats], codes[beats]
    if len(ends) and (ends[0] < 0 or ends[-1] >= LATEST or (np.diff(ends) < 0).any()):
        raise Unusable("annotations out of order")
    # The zone each beat lies in. Zones include the beats that their marks sit on; one that is not
    # closed lasts until the next one opens, or to the last beat.
    rhythms = np.full(len(ends), NO_ZONE, np.int8)
    zone, first = NO_ZONE, 0
    for position, note, symbol in zip(positions, marks.aux_note, marks.symbol, strict=True):
        note = note.strip("\0") if symbol == "+" else ""
        if note.startswith("("):
            opened = np.searchsorted(ends, position, "left")
            rhythms[first:opened] = zone
            zone, first = RHYTHM_CODES.get(note.rstrip(")"), NO_ZONE), opened
        if note.endswith(")"):
            closed = np.searchsorted(ends, position, "right")
            rhythms[first:closed] = zone
            zone, first = NO_ZONE, closed
    rhythms[first:] = zone
    return ends, codes, ends, rhythms


def read_header(record: Path) -> Header:
    """Header of a segment, checked against the size of its signal file."""
    header, without_gain = wfdb_files.read_header(record)
    if without_gain:
        raise Unusable("header states no gain per mV")
    if header.fs != ICENTIA_FS:
        raise Unusable(f"header says {header.fs} Hz, not {ICENTIA_FS}")
    if set(header.file_name) != {f"{record.name}.dat"}:
        raise Unusable(f"header names another signal file ({header.file_name[0]})")
    if not header.sig_len:
        raise Unusable(f"header says {header.sig_len} samples")
    wfdb_files.check_length(record, header)
    gain = header.adc_gain[0] / MILLIVOLT[header.units[0]]
    mapped = header.fmt == ["16"] and header.samps_per_frame == [1]
    return Header(header.sig_len, gain, header.baseline[0], mapped, header.byte_offset[0] or 0)


def open_signal(record: Path, header: Header) -> np.ndarray:
    """Samples of the first lead, (1, samples) int16; a memory map where the format allows it.

    A mapped file is not kept open, as NumPy's maps are, so that there may be thousands of them.
    """
    try:
        if header.mapped:
            name, size = f"{record}.dat", header.offset + 2 * header.samples
            held = (os.stat(name).st_size - header.offset) / 2  # noqa: PTH116, faster than a Path
            if held != header.samples:
                raise Unusable(f"header says {header.samples} samples, file holds {held:g}")
            content = torch.from_file(name, shared=False, size=size, dtype=torch.uint8)
            return content.numpy()[header.offset :].view("<i2")[None]
        read = wfdb.rdrecord(str(record), channels=[0], physical=False)
        signal, missing = read.d_signal[:, 0], np.isnan(read.dac()[:, 0])
    except FileNotFoundError:
        raise
    except (*wfdb_files.ERRORS, RuntimeError) as error:
        raise Unusable(f"unreadable signal ({one_line(error)})") from None
    signal = np.where(missing, INVALID, signal.clip(INVALID + 1, -INVALID - 1))
    return signal.astype(np.int16)[None]
