"""One recording from a file of a common format, in mV; a further format is a row of FORMATS."""

import io
import mmap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import NamedTuple

import numpy as np
import wfdb

from recordings import Unusable
from recordings.arrays import parse_npy
from recordings.edf import open_edf
from recordings.lazy import LARGEST, LazyRecording, as_unit
from recordings.text import AGREE, read_columns
from recordings.wfdb_files import (
    DEFAULT_GAIN,
    ERRORS,
    MILLIVOLT,
    check_length,
    check_rate,
    leads_without_gain,
    read_header,
    words,
)

ADU = "adu"  # units of the digitiser, so many per mV
UNITS = (*MILLIVOLT, ADU)
BLOCK = 2**17  # samples of a WFDB record that are read at once: opening it takes longer than these
SHOWN = 300  # characters of the leads that an error lists


class Recording(NamedTuple):
    """signal (samples, leads) float64 in mV, fs in Hz, names of the leads where there are any, and
    whether the gain of one is not stated but WFDB's default."""

    signal: np.ndarray
    fs: float
    leads: list[str] | None = None
    uncalibrated: bool = False


class Plain(NamedTuple):
    """What a file of `FORMATS` holds, with time along the longer axis.

    Attributes:
        mapped: the file, where it is. leads, fs, unit, unsure: as in `text_columns.Columns`.
    """

    values: np.ndarray
    mapped: mmap.mmap | None = None
    leads: list[str] | None = None
    fs: float | None = None
    unit: str | None = None
    unsure: str = ""


def open_recording(
    path: Path, fs: float | None = None, unit: str | None = None, gain: float | None = None
) -> LazyRecording:
    """Open one recording, to read parts of it; the ending of its name tells the format.

    A WFDB record is named by its `.hea`, or by its `.dat` or `.mat` beside that, or without any
    ending; its header says how it was sampled, as that of an EDF file does. Of all other formats
    the longer axis is time, and the arguments say what the file does not. Text and `.mat` are read
    at once, the others where `read` asks for it.

    Args:
        fs: Hz. unit: one of `UNITS`. gain: units per mV, where the unit is "adu".

    Raises:
        Unusable: missing, damaged, shorter than a second, of unknown format, rate or unit, or of
            another than the arguments say.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if names_wfdb(path):
        opened = open_wfdb(path.with_suffix(""), unit, gain)
    elif suffix in STATING:
        opened = STATING[suffix](path)
    elif suffix in FORMATS:
        opened = _open_plain(path, fs, unit, gain)
    else:
        known = ", ".join((*FORMATS, *STATING))
        raise Unusable(f"format {suffix} is not one of .hea, {known}")
    _check_extent(opened.fs, opened.samples)
    return replace(opened, leads=_names(opened))


def read_recording(
    path: Path, fs: float | None = None, unit: str | None = None, gain: float | None = None
) -> Recording:
    """Read one recording whole, as `open_recording` opens it.

    Raises:
        Unusable: as there, and with missing samples.
    """
    recording = _whole(open_recording(path, fs, unit, gain))
    check_signal(recording)
    return recording


def lead_number(recording: LazyRecording, channel: str | None) -> int:
    """Number of the lead that `channel` names, or numbers from 0 on; the first of None.

    Capitals do not matter.

    Raises:
        Unusable: there is no such lead.
    """
    if channel is None:
        return 0
    wanted, names = channel.strip().lower(), [name.lower() for name in recording.leads or ()]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < recording.count:
        return int(wanted)
    named = ", ".join(recording.leads or ["without names"])[:SHOWN]
    raise Unusable(f"no lead {channel!r}; there are {recording.count}, from 0 on: {named}")


def names_wfdb(path: Path) -> bool:
    """Whether a path names a WFDB record, as `read_recording` takes it."""
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return path.with_suffix(".hea").exists()
    return bool(path.name) and suffix in ("", ".hea", ".dat")


def read_wfdb(record: Path) -> Recording:
    """Read a WFDB record, named without extension; missing samples are NaN.

    Raises:
        Unusable: not to be read, no gain per mV, uV or V, or a length that is not the header's.
    """
    return _whole(open_wfdb(record))


def open_wfdb(record: Path, unit: str | None = None, gain: float | None = None) -> LazyRecording:
    """Open a WFDB record, as `read_wfdb` reads it.

    Args:
        unit, gain: of leads for which its header states no gain; without them it is 200 units per
            mV, as WFDB has it.
    """
    header = read_header(record)
    check_length(record, header)
    silent = leads_without_gain(record)
    scale = np.ones(header.n_sig)
    scale[silent] = DEFAULT_GAIN * millivolt(unit, gain) if unit else 1
    opened = replace(_open_wfdb(record, header), uncalibrated=bool(silent and not unit))
    if (scale == 1).all():
        return opened
    return replace(opened, read_mv=lambda a, b, leads: opened.read_mv(a, b, leads) * scale[leads])


def _open_wfdb(record: Path, header: wfdb.Record) -> LazyRecording:
    if header.sig_len is None or "8" in header.fmt:  # each sample of 8 is a step from the last
        signal = _read_wfdb(record, 0, header.sig_len, None)
        return LazyRecording.of_array(signal, 1, header.fs, header.sig_name)

    @lru_cache(2)
    def block(number: int, leads: tuple[int, ...]) -> np.ndarray:
        stop = min((number + 1) * BLOCK, header.sig_len)
        return _read_wfdb(record, number * BLOCK, stop, list(leads))

    def read(start: int, stop: int, leads: list[int]) -> np.ndarray:
        if stop - start > BLOCK:
            return _read_wfdb(record, start, stop, leads)
        first, last = start // BLOCK, max(start, stop - 1) // BLOCK
        blocks = [block(number, tuple(leads)) for number in range(first, last + 1)]
        return np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]

    return LazyRecording(header.fs, header.sig_len, header.n_sig, header.sig_name, read)


def _read_wfdb(record: Path, start: int, stop: int | None, leads: list[int] | None) -> np.ndarray:
    """(samples, leads) in mV; up to the end where `stop` is None."""
    try:
        read = wfdb.rdrecord(str(record), sampfrom=start, sampto=stop, channels=leads)
        signal = read.p_signal * [MILLIVOLT[unit] for unit in read.units]
    except ERRORS as error:
        raise Unusable(f"unreadable signal ({words(error)})") from None
    if stop is not None and len(signal) != stop - start:
        raise Unusable(f"unreadable signal ({len(signal)} of {stop - start} samples)")
    return signal


def read_val(content: bytes) -> np.ndarray:
    """The variable `val` of a MATLAB file of the PhysioNet Challenges, as it lies there.

    Raises:
        Unusable: not such a file.
    """
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(io.BytesIO(content), variable_names=["val"])["val"])
    except KeyError:
        raise Unusable(".mat holds no 'val'") from None
    except NotImplementedError:  # that is HDF5
        raise Unusable(".mat of MATLAB 7.3; save it with -v7") from None
    except Exception:  # scipy's reader raises almost any error on damaged bytes
        raise Unusable(".mat cannot be read; it is damaged, or no MATLAB file") from None


def millivolt(unit: str | None, gain: float | None) -> float:
    """One of `unit` in mV, whatever its capitals; `gain` is how many "adu" are one.

    Raises:
        Unusable: no known unit, or no gain where it takes one.
    """
    unit = unit and as_unit(unit)
    if unit in MILLIVOLT:
        return MILLIVOLT[unit]
    if unit == ADU and gain:
        return 1 / gain
    if unit == ADU:
        raise Unusable("unit adu without a gain; give --gain, in a table a column gain")
    if unit:
        raise Unusable(f"unknown unit {unit!r}; known: {', '.join(UNITS)}")
    raise Unusable("no unit given; give --unit, in a table a column unit")


def check_signal(recording: Recording) -> None:
    """Raises `Unusable` at a rate of no ECG, under a second, or with samples that are missing."""
    _check_extent(recording.fs, len(recording.signal))
    if not (np.abs(recording.signal) <= LARGEST).all():
        raise Unusable("signal holds NaN or infinite values")


def in_order(recording: Recording, count: int, leads: Sequence[str] | None) -> np.ndarray:
    """Signal of `count` leads, put in the order `leads` by their names, (samples, count).

    Capitals do not matter, nor does the name of an only lead. Where one of the two has no names
    the columns stay as they are.

    Raises:
        Unusable: another number of leads, or other names.
    """
    signal = recording.signal
    return signal[:, _order(signal.shape[1], recording.leads, count, leads)]


def arranged(recording: LazyRecording, count: int, leads: Sequence[str] | None) -> LazyRecording:
    """The recording, which is still to be read, with its leads in order as `in_order` puts them."""
    order = _order(recording.count, recording.leads, count, leads)

    def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
        return recording.read_mv(start, stop, [order[lead] for lead in chosen])

    names = recording.leads and [recording.leads[lead] for lead in order]
    return replace(recording, leads=names, read_mv=read)


def _order(
    held: int, names: Sequence[str] | None, count: int, leads: Sequence[str] | None
) -> list[int]:
    if held != count:
        raise Unusable(f"number of leads is {held}, not {count}")
    if count == 1 or not leads or not names:
        return list(range(count))
    own, wanted = ([name.lower() for name in each] for each in (names, leads))
    if sorted(own) != sorted(wanted):
        raise Unusable(f"leads are {', '.join(names)}, not {', '.join(leads)}")
    return [own.index(name) for name in wanted]


def _check_extent(fs: float, samples: int) -> None:
    check_rate(fs)
    if samples < fs:
        raise Unusable(f"{samples} samples are shorter than 1 s")


def _whole(opened: LazyRecording) -> Recording:
    signal = opened.read(0, opened.samples)
    return Recording(signal, opened.fs, opened.leads, opened.uncalibrated)


def _open_plain(
    path: Path, fs: float | None, unit: str | None, gain: float | None
) -> LazyRecording:
    """Of a format that need not say rate and unit; what a file says must not be contradicted."""
    try:
        plain = FORMATS[path.suffix.lower()](path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unusable(f"file cannot be read ({words(error)})") from None
    unit = unit and as_unit(unit)
    if fs and plain.fs and not isclose(fs, plain.fs, rel_tol=AGREE):
        raise Unusable(f"file says {plain.fs:g} Hz, but --fs or the table {fs:g}; leave that out")
    if unit and plain.unit and unit != plain.unit:
        raise Unusable(f"file says {plain.unit}, but --unit or the table {unit}; leave that out")
    fs = fs or plain.fs
    if fs is None:
        unsure = f" ({plain.unsure})" if plain.unsure else ""
        suffix = path.suffix.lower()
        raise Unusable(
            f"{suffix} without a sampling rate{unsure}; give --fs, in a table a column fs"
        )
    scale = millivolt(unit or plain.unit, gain)
    return LazyRecording.of_array(
        _samples_first(plain.values), scale, fs, plain.leads, plain.mapped
    )


def _samples_first(values: np.ndarray) -> np.ndarray:
    """(samples,), (samples, leads) or (leads, samples) as (samples, leads)."""
    columns = values[:, None] if values.ndim == 1 else values
    square = columns.ndim == 2 and columns.shape[0] == columns.shape[1]
    if columns.ndim != 2 or columns.dtype.kind not in "iuf" or square:
        raise Unusable(f"{values.dtype} of shape {values.shape} is not samples by leads")
    return columns if columns.shape[0] > columns.shape[1] else columns.T


def _names(opened: LazyRecording) -> list[str] | None:
    """Names of the leads in a line each, where there is one of its own for each."""
    names = [" ".join(str(name).split()) for name in opened.leads or ()]
    different = {name.lower() for name in names if name}
    return names if len(different) == len(names) == opened.count else None


def _read_text(path: Path) -> Plain:
    values, *about = read_columns(path)
    return Plain(values, None, *about)


def _read_npy(path: Path) -> Plain:
    """Mapped: what is not asked for is not read."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return Plain(parse_npy(mapped), mapped)


def _read_mat(path: Path) -> Plain:
    return Plain(read_val(path.read_bytes()))


FORMATS: dict[str, Callable[[Path], Plain]] = {
    ".csv": _read_text,
    ".txt": _read_text,
    ".npy": _read_npy,
    ".mat": _read_mat,
}
# Files that say how they were sampled.
STATING: dict[str, Callable[[Path], LazyRecording]] = {".edf": open_edf, ".bdf": open_edf}
