"""One ECG recording from a file of any format, in mV: see `recordings.formats.open_recording`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isclose
from typing import NamedTuple

import numpy as np

MILLIVOLT = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "nV": 1e-6}  # one of each unit, in mV
ADU = "adu"  # units of the digitiser, so many per mV
UNITS = (*MILLIVOLT, ADU)
# What may stand before `v` or `volts`. âμ and î¼ are µ and μ in UTF-8 that was read as Latin-1, the
# replacement character stands for a µ in Latin-1 that was read as UTF-8.
PREFIXES = {"": "V", "m": "mV", "milli": "mV", "u": "uV", "micro": "uV", "μ": "uV", "âμ": "uV",
            "î¼": "uV", "\ufffd": "uV", "n": "nV", "nano": "nV"}  # fmt: skip
VOLT = re.compile(rf"[\[(]?({'|'.join(PREFIXES)})[ -]?v(olts?)?[\])]?")
ECG = re.compile(r"(?i)(?<![a-z])(ecg|ekg)(?!.*(quality|status|flag|rate|[\W_]hr))")
# Standard leads, also those of ambulatory recorders; `bare_lead` takes off what stands before.
LEAD = re.compile(r"(ml|mod\.)?(i{1,3}|v\d?r?)|av[rlf]|mcl\d|cm\d")
RATES = (20, 20_000)  # Hz; other rates are mistakes, or no ECG
GAINS = (1e-6, 1e12)  # plausible units per mV
LEADS = 64  # of a text file or an array; more columns are features, or windows
NO_UNIT = "no unit"  # of a signal whose file states none
same_rate = partial(isclose, rel_tol=0.01)  # whether two statements of a rate agree
LARGEST = 1e9  # mV; a larger sample counts as missing
LONGEST = 2**29  # samples with gaps, a day at 6 kHz: no file holds them


class Unusable(Exception):
    """Why a recording cannot be used, in one line."""


class Hints(NamedTuple):
    """Rate in Hz, unit (see `as_unit`) and, where that is "adu", units per mV; None: unknown."""

    fs: float | None = None
    unit: str | None = None
    gain: float | None = None

    def millivolt(self) -> float:
        """One of the unit in mV; raises `Unusable` if it is unknown."""
        unit = as_unit(self.unit)
        if unit not in UNITS or (unit == ADU and not self.gain):
            raise Unusable(f"unit is {unit or 'not given'}; give mV, uV, V, or adu with a gain")
        return 1 / self.gain if unit == ADU else MILLIVOLT[unit]


@dataclass(frozen=True)
class LazyRecording:
    """A recording whose samples are read on demand."""

    fs: float  # Hz
    samples: int  # of each lead
    count: int  # of leads
    leads: list[str] | None  # their names, where there are any
    # From start, stop and numbers of leads to (n, leads) float64 in mV, writable.
    read_mv: Callable[[int, int, list[int]], np.ndarray]
    uncalibrated: bool = False  # a lead has no gain in the header, so WFDB's default is assumed
    notes: tuple[str, ...] = ()  # what a user should know of this file, each in one line

    @classmethod
    def of_values(cls, values: np.ndarray, hints: Hints, stated: Hints, leads=None):
        """A recording of numbers, (samples, leads) or the reverse; `hints` complete what the file
        has `stated`. Raises `Unusable` if they contradict it, or if rate or unit is missing."""
        fs, unit = hints.fs or stated.fs, as_unit(hints.unit or stated.unit)
        if not fs:
            raise Unusable("file without a sampling rate; give --fs, in a table a column fs")
        if not same_rate(fs, stated.fs or fs):
            raise Unusable(f"file says {stated.fs:g} Hz, but --fs or the table {fs:g}")
        if unit != (stated.unit or unit):
            raise Unusable(f"file says {stated.unit}, but --unit or the table {unit}")
        values = np.atleast_2d(np.squeeze(values))  # some are (1, leads, samples)
        table = values.ndim == 2 and values.dtype.kind in "iuf" and len(set(values.shape)) == 2
        if not table or not 0 < min(values.shape) <= LEADS:
            raise Unusable(f"{values.dtype} {values.shape} is not samples by 1 to {LEADS} leads")
        values = values if values.shape[0] > values.shape[1] else values.T
        rising = (np.diff(values[:10_000].astype(np.float64), axis=0) > 0).all(axis=0)
        if rising.any():
            raise Unusable(f"column {rising.argmax()} rises throughout, as times do; leave it out")
        scale = hints._replace(unit=unit).millivolt()

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            return values[start:stop, chosen].astype(np.float64) * scale

        return cls(fs, *values.shape, leads, read)

    @classmethod
    def of_parts(cls, fs: float, samples: int, leads: list[str], parts: Sequence[tuple]):
        """A recording of parts, each of which begins at a sample and has some of the `leads`; what
        is in no part is missing. Raises `Unusable` if that is far too long."""
        if samples > LONGEST:
            raise Unusable(f"{samples} samples with gaps are more than {LONGEST}")

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            signal = np.full((stop - start, len(chosen)), np.nan)
            for begin, part in parts:
                low, high = max(start, begin), min(stop, begin + part.samples)
                held = [column for column, n in enumerate(chosen) if leads[n] in part.leads]
                if low < high and held:
                    numbers = [part.leads.index(leads[chosen[column]]) for column in held]
                    values = part.read_mv(low - begin, high - begin, numbers)
                    signal[low - start : high - start, held] = values
            return signal

        return cls(fs, samples, len(leads), leads, read, any(p.uncalibrated for _, p in parts))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples from `start` up to `stop`, as in a slice: (n, leads) float64 in mV, NaN where
        missing or beyond `LARGEST`. Raises `Unusable` if the file is damaged."""
        start, stop, _ = slice(start, stop).indices(self.samples)
        if stop <= start:
            return np.empty((0, self.count))
        signal = self.read_mv(start, stop, list(range(self.count)))
        signal[np.abs(signal) > LARGEST] = np.nan
        return signal

    def select(self, numbers: Sequence[int]) -> "LazyRecording":
        """The recording with these leads, in this order."""

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            return self.read_mv(start, stop, [numbers[lead] for lead in chosen])

        names = self.leads and [self.leads[number] for number in numbers]
        return replace(self, count=len(numbers), leads=names, read_mv=read)


def as_unit(text: str | None) -> str | None:
    """The unit of `UNITS` that is meant, such as uV by `µV` or `microvolts`; else the text."""
    plain = (text or "").strip().casefold()  # which makes one of both µ
    match = VOLT.fullmatch(plain)
    return PREFIXES[match[1]] if match else ADU if plain == ADU else text


def check_rate(fs: float, samples: float = inf) -> None:
    """Raises `Unusable` at a rate in Hz that is no ECG's, or if `samples` last under a second."""
    if not RATES[0] <= fs <= RATES[1]:
        raise Unusable(f"{fs:g} Hz is not from {RATES[0]} to {RATES[1]}")
    if samples < fs:
        raise Unusable(f"{samples} samples are shorter than 1 s")


def bare_lead(name: str) -> str:
    """Name of a lead in small letters without ECG, EKG or lead before it: `v5` of `ECG V5`."""
    return re.sub(r"^((ecg|ekg|lead)[\W_]*)+(?=[a-z])", "", name.strip().casefold())


def is_lead(name: str) -> bool:
    """Whether a signal is called ECG or EKG, or has the name of a standard lead (MLII, V5, aVR)."""
    return bool(ECG.search(name) or LEAD.fullmatch(bare_lead(name)))


def ecg_lead(leads: Sequence[str]) -> int:
    """Number of the first signal called just ECG or EKG, else with that word, else of the first
    standard lead, else 0."""
    ranks = [(not ECG.fullmatch(name), not ECG.search(name), not is_lead(name)) for name in leads]
    return ranks.index(min(ranks))


def voltages(signals: Sequence[tuple[str, str, float]]) -> tuple[list[int], tuple[str, ...]]:
    """Numbers of the signals (name, unit, rate in Hz) in a unit of voltage and at the rate of the
    ECG among these; and a note that names the others. Raises `Unusable` if there is no voltage."""
    volts = [signal for signal in signals if signal[1] in MILLIVOLT]
    fs = volts[ecg_lead([name for name, *_ in volts])][2] if volts else None
    chosen = [n for n, (_, unit, rate) in enumerate(signals) if unit in MILLIVOLT and rate == fs]
    texts = [f"{n} ({f'{hz:g} Hz' if unit in MILLIVOLT else unit})" for n, unit, hz in signals]
    said = ", ".join(dict.fromkeys(text for n, text in enumerate(texts) if n not in chosen))
    lost = [name for name, unit, _ in signals if unit == NO_UNIT and ECG.search(name)]
    if lost and not any(ECG.search(signals[number][0]) for number in chosen):
        raise Unusable(f"{lost[0]} has no unit in its file; give --unit")
    if not chosen:
        raise Unusable(f"no signal is in uV, mV or V: {said[:200] or 'there is none'}")
    return chosen, (f"left out: {said}",) if said else ()


def one_line(error: Exception) -> str:
    """The message of an error in one line, without the path that a system error names."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]
