"""One recording from a file of a common format, in mV; a further format is a row of FORMATS."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import wfdb

from utils.arrays import parse_npy
from utils.wfdb_io import (
    ERRORS,
    MILLIVOLT,
    Unusable,
    check_length,
    check_rate,
    read_header,
    words,
)

TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ADU = "adu"  # units of the digitiser, so many per mV
UNITS = (*MILLIVOLT, ADU)
# What heads a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
LARGEST = 1e9  # mV; what comes after it computes with such values, but not with any


class Recording(NamedTuple):
    """signal (samples, leads) float64 in mV, fs in Hz, names of the leads where there are any."""

    signal: np.ndarray
    fs: float
    leads: list[str] | None = None


def read_recording(
    path: Path, fs: float | None = None, unit: str | None = None, gain: float | None = None
) -> Recording:
    """Read one recording; the ending of its name tells the format.

    A WFDB record is named by its `.hea`, or by its `.dat` or `.mat` beside that, or without any
    ending; its header says how it was sampled. Of all other formats the longer axis is time, and
    the arguments say the rest.

    Args:
        fs: Hz. unit: one of `UNITS`. gain: units per mV, where the unit is "adu".

    Raises:
        Unusable: missing, damaged, shorter than a second, with missing samples, or of unknown
            format, rate or unit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if names_wfdb(path):
        recording = read_wfdb(path.with_suffix(""))
    elif suffix in FORMATS:
        if fs is None:
            raise Unusable(f"{suffix} without a sampling rate")
        scale = millivolt(unit, gain)
        values, leads = FORMATS[suffix](_content(path))
        recording = Recording(_samples_first(values) * scale, fs, leads)
    else:
        raise Unusable(f"format {suffix} is not one of .hea, {', '.join(FORMATS)}")
    check_signal(recording)
    return recording._replace(leads=_names(recording))


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
    header = read_header(record)
    check_length(record, header)
    try:
        read = wfdb.rdrecord(str(record))
    except ERRORS as error:
        raise Unusable(f"unreadable signal ({words(error)})") from None
    signal = read.p_signal * [MILLIVOLT[unit] for unit in read.units]
    if header.sig_len not in (None, len(signal)):
        raise Unusable(f"header says {header.sig_len} samples, file holds {len(signal)}")
    return Recording(signal, read.fs, read.sig_name)


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
    except Exception as error:  # scipy's reader raises almost any error on damaged bytes
        raise Unusable(f".mat cannot be read: {' '.join(str(error).split())}") from None


def millivolt(unit: str | None, gain: float | None) -> float:
    """One of `unit` in mV; `gain` is how many "adu" are one.

    Raises:
        Unusable: no unit, or no gain where it takes one.
    """
    if unit in MILLIVOLT:
        return MILLIVOLT[unit]
    if unit == ADU and gain:
        return 1 / gain
    raise Unusable(f"unit {unit} without a gain" if unit == ADU else "no unit given")


def check_signal(recording: Recording) -> None:
    """Raises `Unusable` at a rate of no ECG, under a second, or with samples that are missing."""
    length = len(recording.signal)
    check_rate(recording.fs)
    if length < recording.fs:
        raise Unusable(f"{length} samples are shorter than 1 s")
    if not (np.abs(recording.signal) <= LARGEST).all():
        raise Unusable("signal holds NaN or infinite values")


def in_order(recording: Recording, count: int, leads: Sequence[str] | None) -> np.ndarray:
    """Signal of `count` leads, put in the order `leads` by their names, (samples, count).

    Capitals do not matter, nor does the name of an only lead. Where one of the two has no names
    the columns stay as they are.

    Raises:
        Unusable: another number of leads, or other names.
    """
    signal, names = recording.signal, recording.leads
    if signal.shape[1] != count:
        raise Unusable(f"number of leads is {signal.shape[1]}, not {count}")
    if count == 1 or not leads or not names:
        return signal
    own, wanted = ([name.lower() for name in each] for each in (names, leads))
    if sorted(own) != sorted(wanted):
        raise Unusable(f"leads are {', '.join(names)}, not {', '.join(leads)}")
    return signal[:, [own.index(name) for name in wanted]]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unusable(f"file cannot be read ({words(error)})") from None


def _samples_first(values: np.ndarray) -> np.ndarray:
    """(samples,), (samples, leads) or (leads, samples) as (samples, leads) float64."""
    columns = values[:, None] if values.ndim == 1 else values
    square = columns.ndim == 2 and columns.shape[0] == columns.shape[1]
    if columns.ndim != 2 or columns.dtype.kind not in "iuf" or square:
        raise Unusable(f"{values.dtype} of shape {values.shape} is not samples by leads")
    return (columns if columns.shape[0] > columns.shape[1] else columns.T).astype(np.float64)


def _names(recording: Recording) -> list[str] | None:
    """Names of the leads, where there is one of its own for each."""
    names = [str(name).strip() for name in recording.leads or ()]
    different = {name.lower() for name in names if name}
    return names if len(different) == len(names) == recording.signal.shape[1] else None


def _read_text(content: bytes) -> tuple[np.ndarray, list[str] | None]:
    """Columns of numbers, with a line of names (or of 0, 1, 2 …) above them or not.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is not read.
    """
    try:
        text = content.decode("utf-8-sig")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        first = next(filter(None, map(str.strip, lines)), "")
        separator = next((mark for mark in ",;\t" if mark in first), r"\s+")
        cells = re.split(separator, first)
        named = not all(map(_is_number, cells))
        counted = len(cells) > 1 and cells == [str(place) for place in range(len(cells))]
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # it would leave columns out
            table = pd.read_csv(
                io.StringIO("\n".join(lines)), sep=separator, index_col=False,
                skipinitialspace=True, header=0 if named or counted else None,
            )  # fmt: skip
        values = table.to_numpy(np.float64)
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:  # of decoding, too
        raise Unusable(f"not columns of numbers ({words(error)})") from None
    timed = (named and TIME.fullmatch(cells[0])) or _never_falls(values[:, 0])
    leads = slice(1 if timed and 1 < values.shape[1] < len(values) else 0, None)
    return values[:, leads], [str(name) for name in table.columns[leads]] if named else None


def _never_falls(values: np.ndarray) -> bool:
    """Times written with few decimals are equal at neighbours; those of a flat lead all are."""
    return len(values) > 1 and values[0] < values[-1] and (np.diff(values) >= 0).all()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_npy(content: bytes) -> tuple[np.ndarray, None]:
    return parse_npy(content), None


def _read_mat(content: bytes) -> tuple[np.ndarray, None]:
    return read_val(content), None


# Values with time along the longer axis, and names of the leads, of a file's bytes.
FORMATS: dict[str, Callable[[bytes], tuple[np.ndarray, list[str] | None]]] = {
    ".csv": _read_text,
    ".txt": _read_text,
    ".npy": _read_npy,
    ".mat": _read_mat,
}
