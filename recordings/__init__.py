"""One ECG recording from a file of any format, in millivolt; knows nothing of training.

`recordings.formats.open_recording` opens a file as a `LazyRecording`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import NamedTuple

import numpy as np

MILLIVOLT = {"mV": 1.0, "uV": 1e-3, "V": 1e3}  # one of each unit, in mV
ADU = "adu"  # units of the digitiser, so many per mV
UNITS = (*MILLIVOLT, ADU)
RATES = (20, 20_000)  # Hz; other rates are mistakes, or no ECG
RATE_TOLERANCE = 0.01  # two statements of one rate differ by less
GAINS = (1e-6, 1e12)  # plausible units per mV
LARGEST = 1e9  # mV; a larger sample counts as missing


class Unusable(Exception):
    """Why a recording cannot be used, in one line."""


class Hints(NamedTuple):
    """What a user states about a recording whose file does not.

    Attributes:
        fs: Hz. unit: one of `UNITS`. gain: units per mV, where the unit is "adu".
    """

    fs: float | None = None
    unit: str | None = None
    gain: float | None = None


@dataclass(frozen=True)
class LazyRecording:
    """A recording whose samples are read on demand.

    Attributes:
        fs: sampling rate in Hz. samples: of each lead. count: number of leads.
        leads: names of the leads, where there are any.
        read_mv: function (start, stop, numbers of leads) to (n, leads) float64 in mV, writable.
        uncalibrated: whether the header states no gain for a lead and WFDB's default is assumed.
        mapped: path and size in bytes of the file that is memory-mapped, if one is.
    """

    fs: float
    samples: int
    count: int
    leads: list[str] | None
    read_mv: Callable[[int, int, list[int]], np.ndarray]
    uncalibrated: bool = False
    mapped: tuple[Path, int] | None = None

    @classmethod
    def of_array(
        cls,
        values: np.ndarray,
        scale: float,
        fs: float,
        leads: list[str] | None,
        mapped: Path | None = None,
    ) -> "LazyRecording":
        """A recording of (samples, leads) numbers.

        Args:
            scale: one unit of `values` in mV. mapped: the file in which `values` are mapped.
        """

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            return values[start:stop, chosen].astype(np.float64) * scale

        size = (mapped, mapped.stat().st_size) if mapped else None
        return cls(fs, *values.shape, leads, read, mapped=size)

    def read(self, start: int, stop: int, lead: int | None = None) -> np.ndarray:
        """Read the samples from `start` up to `stop`, as in a slice, of one lead or of all.

        Returns:
            (n, leads) float64 in mV. Samples that are missing, or beyond `LARGEST`, are NaN.

        Raises:
            Unusable: the file cannot be read there, or has become shorter.
        """
        start, stop, _ = slice(start, stop).indices(self.samples)
        if self.mapped:  # reading a map beyond the end of its file would end the process
            path, size = self.mapped
            if not path.exists() or path.stat().st_size < size:
                raise Unusable("file is shorter than it was")
        chosen = list(range(self.count)) if lead is None else [lead]
        signal = self.read_mv(start, max(start, stop), chosen)
        signal[np.abs(signal) > LARGEST] = np.nan
        return signal

    def select(self, numbers: Sequence[int]) -> "LazyRecording":
        """The recording with these leads, in this order."""

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            return self.read_mv(start, stop, [numbers[lead] for lead in chosen])

        names = self.leads and [self.leads[number] for number in numbers]
        return replace(self, count=len(numbers), leads=names, read_mv=read)


def recording_of_values(
    values: np.ndarray,
    kind: str,
    hints: Hints,
    fs: float | None = None,
    unit: str | None = None,
    leads: list[str] | None = None,
    doubt: str = "",
    mapped: Path | None = None,
) -> LazyRecording:
    """A recording of plain numbers, whose longer axis is time.

    Args:
        kind: ending of the file, for errors. fs, unit, leads: what the file states; `hints` fill
            in the rest and must not contradict it. doubt: why the file states no rate, although it
            holds times. mapped: as in `LazyRecording.of_array`.

    Raises:
        Unusable: no rate or unit, contradictory ones, or values that are not samples by leads.
    """
    wanted = hints.unit and as_unit(hints.unit)
    if hints.fs and fs and not isclose(hints.fs, fs, rel_tol=RATE_TOLERANCE):
        raise Unusable(f"file says {fs:g} Hz, but --fs or the table {hints.fs:g}; leave that out")
    if wanted and unit and wanted != unit:
        raise Unusable(f"file says {unit}, but --unit or the table {wanted}; leave that out")
    fs = hints.fs or fs
    if fs is None:
        doubt = f" ({doubt})" if doubt else ""
        raise Unusable(f"{kind} without a sampling rate{doubt}; give --fs, in a table a column fs")
    columns = values[:, None] if values.ndim == 1 else values
    square = columns.ndim == 2 and columns.shape[0] == columns.shape[1]
    if columns.ndim != 2 or columns.dtype.kind not in "iuf" or square:
        raise Unusable(f"{values.dtype} of shape {values.shape} is not samples by leads")
    columns = columns if columns.shape[0] > columns.shape[1] else columns.T
    scale = millivolt(wanted or unit, hints.gain)
    return LazyRecording.of_array(columns, scale, fs, leads, mapped)


def as_unit(text: str) -> str:
    """A unit as `UNITS` spells it, whatever its capitals and its µ; another text unchanged."""
    plain = text.strip().casefold().replace("\u03bc", "u")  # casefold makes one of both µ
    return next((unit for unit in UNITS if unit.casefold() == plain), text)


def millivolt(unit: str | None, gain: float | None) -> float:
    """One of `unit` in mV; `gain` is the number of "adu" per mV.

    Raises:
        Unusable: no known unit, or "adu" without a gain.
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


def check_rate(fs: float) -> None:
    """Raises `Unusable` at a rate in Hz that is no ECG's."""
    if not RATES[0] <= fs <= RATES[1]:
        raise Unusable(f"{fs:g} Hz is not from {RATES[0]} to {RATES[1]}")


def one_line(error: Exception) -> str:
    """The message of an error in one line, without the path that a system error names."""
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8; save it so"
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]
