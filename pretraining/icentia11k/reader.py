"""Icentia11k's WFDB distribution: where its records lie, their headers, signals, annotations.

Tan et al. 2019/2022, https://physionet.org/content/icentia11k-continuous-ecg/. One lead, 250 Hz,
`pNN/pNNNNN/pNNNNN_sMM.{dat,hea,atr}` or all in one folder. Sets made by `pretraining.convert`
have the same layout and say their own mean and deviation in `dataset.json`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import wfdb

from recordings import MILLIVOLT, Unusable, one_line
from recordings import wfdb_files as wfdb_io
from recordings.annotations import BEAT_CLASSES, ICENTIA_BEATS, ICENTIA_RHYTHMS, RHYTHM_CLASSES
from recordings.quality import Quality, assess
from recordings.wfdb_files import ICENTIA_FS, read_atr
from utils.cli import UserError
from utils.contract import LARGEST
from utils.files import read_json

INVALID = np.iinfo(np.int16).min  # WFDB's mark for a missing sample
LATEST = 2**31  # samples; the index holds places in 32 bits
DESCRIPTION = "dataset.json"

BEAT_CODES = {symbol: BEAT_CLASSES.index(name) for symbol, name in ICENTIA_BEATS.items()}
RHYTHM_CODES = {mark: RHYTHM_CLASSES.index(name) for mark, name in ICENTIA_RHYTHMS.items()}
# A beat in no zone was undefined, end or noise; which of them is no longer known.
NO_ZONE = RHYTHM_CLASSES.index("noise")
RECORD_NAME = re.compile(r"p(\d{5,})_s(\d{2,})\.(hea|dat|atr)")


class Constants(NamedTuple):
    """Name of a data set, mean and standard deviation of its signals in mV, and the patients who
    are another patient again."""

    name: str
    mean: float
    sd: float
    same_subject: Mapping[int, int]


# Weimann & Conrad's code.
ICENTIA11K = Constants("icentia11k", 0.0018, 1.3711, {})


class Header(NamedTuple):
    """Of one segment: samples, units per mV, value of 0 mV, and whether it is a plain int16 file
    whose samples begin at byte `offset`."""

    samples: int
    gain: float
    baseline: int
    mapped: bool
    offset: int


class Segment(NamedTuple):
    """What the index holds of one segment; arrays as `read_annotations` returns them, all empty
    where it was not annotated; whether its signal is constant or clipped."""

    header: Header
    annotated: bool
    beat_ends: np.ndarray
    beat_codes: np.ndarray
    rhythm_ends: np.ndarray
    rhythm_codes: np.ndarray
    quality: Quality


def read_constants(root: Path) -> Constants:
    """The set's own constants from `dataset.json`, else Icentia11k's.

    Raises:
        UserError: `dataset.json` lacks them.
    """
    path = root / DESCRIPTION
    if not path.exists():
        return ICENTIA11K
    described = read_json(path)
    try:
        constants = Constants(
            str(described["name"]),
            float(described["mean_mv"]),
            float(described["sd_mv"]),
            {int(k): int(v) for k, v in described.get("same_subject", {}).items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path} must state name, mean_mv and sd_mv") from None
    if not (abs(constants.mean) < LARGEST and 1 / LARGEST < constants.sd < LARGEST):
        raise UserError(f"{path}: mean_mv and sd_mv must be finite, sd_mv above 0")
    return constants


def find_records(root: Path) -> tuple[dict[int, list[Path]], list[Path]]:
    """Record paths without extension of each patient, sorted, and the folders looked into."""
    records: dict[int, set[Path]] = {}
    folders = []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if re.fullmatch(r"p\d+", name)]
        folders.append(Path(folder))
        for match in filter(None, map(RECORD_NAME.fullmatch, files)):
            name = match[0].rpartition(".")[0]
            records.setdefault(int(match[1]), set()).add(Path(folder) / name)
    return {patient: sorted(records[patient]) for patient in sorted(records)}, sorted(folders)


def files(record_path: Path) -> list[Path]:
    """What a record is read from."""
    return [Path(f"{record_path}{suffix}") for suffix in (".hea", ".dat", ".atr")]


def read(record_path: Path) -> Iterator[tuple[Path, Segment]]:
    """A record is one segment.

    Raises:
        Unusable: as `read_header` and `read_annotations`.
    """
    annotated = Path(f"{record_path}.atr").exists()
    header = read_header(record_path)
    quality = assess(read_signal(record_path, header))
    yield record_path, Segment(header, annotated, *read_annotations(record_path), quality)


def read_annotations(
    record_path: Path | str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Beats and rhythm of one segment; all empty where it has no `.atr`.

    Args:
        record_path: without extension.

    Returns:
        beat_ends (n,) int64 in samples, beat_codes (n,) int8, rhythm_ends (n,) int64,
        rhythm_codes (n,) int8: one rhythm code per beat, rebuilt from the zones.

    Raises:
        Unusable: the annotations cannot be read.
    """
    if not Path(f"{record_path}.atr").exists():
        ends, codes = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return ends, codes, ends, codes
    marks = read_atr(record_path)
    places = np.asarray(marks.sample, np.int64)
    codes = np.array([BEAT_CODES.get(symbol, -1) for symbol in marks.symbol], np.int8)
    beats = codes >= 0
    ends, codes = places[beats], codes[beats]
    if len(ends) and (ends[0] < 0 or ends[-1] >= LATEST or (np.diff(ends) < 0).any()):
        raise Unusable("annotations out of order")
    rhythm = [
        (place, note.strip("\0"))
        for place, note, symbol in zip(places, marks.aux_note, marks.symbol, strict=True)
        if symbol == "+"
    ]
    return ends, codes, ends, _rhythm_per_beat(ends, rhythm)


def _rhythm_per_beat(ends: np.ndarray, marks: list[tuple[int, str]]) -> np.ndarray:
    """Code of the zone each beat lies in; zones include the beats that their marks sit on.

    A zone that is not closed lasts until the next one opens, or to the last beat.
    """
    codes = np.full(len(ends), NO_ZONE, np.int8)
    zone, first = NO_ZONE, 0
    behind_all = ends[-1] + 1 if len(ends) else 0
    for place, note in [*marks, (behind_all, "(")]:
        if note.startswith("("):
            opened = np.searchsorted(ends, place, "left")
            codes[first:opened] = zone
            zone, first = RHYTHM_CODES.get(note.rstrip(")"), NO_ZONE), opened
        if note.endswith(")"):
            closed = np.searchsorted(ends, place, "right")
            codes[first:closed] = zone
            zone, first = NO_ZONE, closed
    return codes


def read_header(record_path: Path) -> Header:
    """Header of a segment, held against its signal file, which is read through once.

    Raises:
        Unusable: no header or signal, another rate, a length that is not the file's, missing
            (NaN) samples.
    """
    for suffix in (".hea", ".dat"):
        if not Path(f"{record_path}{suffix}").exists():
            raise Unusable(f"no {suffix}")
    header, without_gain = wfdb_io.read_header(record_path)
    if without_gain:
        raise Unusable("header states no gain per mV")
    if header.fs != ICENTIA_FS:
        raise Unusable(f"header says {header.fs} Hz, not {ICENTIA_FS}")
    if set(header.file_name) != {f"{record_path.name}.dat"}:
        raise Unusable(f"header names another signal file ({header.file_name[0]})")
    if not header.sig_len:
        raise Unusable(f"header says {header.sig_len} samples")
    offset = header.byte_offset[0] or 0
    wfdb_io.check_length(record_path, header)
    mapped = header.fmt == ["16"] and header.samps_per_frame == [1]
    if mapped:
        size = Path(f"{record_path}.dat").stat().st_size - offset
        if size != 2 * header.sig_len:
            raise Unusable(f"header says {header.sig_len} samples, file holds {size / 2:g}")
    found = Header(
        header.sig_len,
        header.adc_gain[0] / MILLIVOLT[header.units[0]],
        header.baseline[0],
        mapped,
        offset,
    )
    if (read_signal(record_path, found) == INVALID).any():
        raise Unusable("missing (NaN) samples")
    return found


def read_signal(record_path: Path, header: Header) -> np.ndarray:
    """Samples of the first lead, (samples,) int16; a memory map where the format allows it.

    Raises:
        Unusable: the file does not hold what the header says.
    """
    try:
        if header.mapped:
            return np.memmap(
                f"{record_path}.dat", "<i2", "r", offset=header.offset, shape=(header.samples,)
            )
        record = wfdb.rdrecord(str(record_path), channels=[0], physical=False)
    except wfdb_io.ERRORS as error:
        raise Unusable(f"unreadable signal ({one_line(error)})") from None
    signal = record.d_signal[:, 0]
    if len(signal) != header.samples:
        raise Unusable(f"header says {header.samples} samples, file holds {len(signal)}")
    missing = np.isnan(record.dac()[:, 0])
    limits = np.iinfo(np.int16)
    return np.where(missing, INVALID, np.clip(signal, limits.min + 1, limits.max)).astype(np.int16)


def open_signal(record_path: Path, header: Header) -> np.ndarray:
    """`read_signal` as (1, samples), a record being one segment.

    A mapped file is not kept open, as NumPy's maps are, so that there may be thousands of them.

    Raises:
        Unusable, FileNotFoundError: as `read_signal`.
    """
    if not header.mapped:
        return read_signal(record_path, header)[None]
    import torch  # only here: conversion and index do without

    name, size = f"{record_path}.dat", header.offset + 2 * header.samples
    found = os.stat(name).st_size  # noqa: PTH116, a Path would take longer than mapping the file
    if found != size:
        raise Unusable(f"it holds {found} bytes, not {size}")
    try:
        content = torch.from_file(name, shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:  # it may not be read
        raise Unusable(one_line(error)) from None
    return content.numpy()[header.offset :].view("<i2")[None]
