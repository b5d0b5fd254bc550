"""Columns of times and counters: which these are, the rate they tell, and the samples they miss."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from recordings import RATES, Unusable, same_rate

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")  # hours, minutes, seconds
TIME = re.compile(
    r"(?i)\W*(elapsed\W?)?(t|time|zeit|sample|index|date|clock|n?seq|counter|packet)([\W_].*)?"
    r"|.*timestamp.*"
)
SECONDS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "min": 60, "minutes": 60, "ms": 1e-3,
    "msec": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "μs": 1e-6, "usec": 1e-6, "microseconds": 1e-6,
    "ns": 1e-9, "nsec": 1e-9, "nanoseconds": 1e-9,
}  # fmt: skip


class Column(NamedTuple):
    name: str
    unit: str  # "" if none is stated
    values: np.ndarray  # float64


def clock_seconds(cells: pd.Series) -> np.ndarray:
    """Seconds of clock times, with or without a date, through midnight."""
    parts = cells.str.replace(",", ".").str.extract(CLOCK).astype(np.float64)
    half = cells.str.extract(r"(?i)\d ?([ap])m\b")[0].str.lower()
    hours = parts[0].fillna(0).where(half.isna(), parts[0] % 12 + 12 * (half == "p"))
    times = (hours * 3600 + parts[1] * 60 + parts[2]).to_numpy()
    return times + 86400 * np.cumsum(np.diff(times, prepend=times[0]) < -43200)


def part_times(columns: list[Column]) -> tuple[list[Column], list[Column], list[Column]]:
    """Part columns into times (and counters), signals, and digital lines.

    Times are called so, or never fall, as no signal does. Counters of packets start again (0 to 15,
    0 to 15, …): steps of 1 with few, large ones back, which are made to rise throughout. After
    such a counter, recorders write digital lines, which take one value or two.
    """
    times, signals, digital, restarts = [], [], [], False
    for column in columns:
        values = column.values[~np.isnan(column.values)]
        up, down = (np.diff(values)[sign * np.diff(values) > 0] for sign in (1, -1))
        words = {column.name.casefold(), column.unit.casefold()}
        named = TIME.fullmatch(column.name) or words & SECONDS.keys()
        if len(up) > 3 * len(down) > 0 and (up == 1).mean() > 0.9 and np.median(down) < -2:
            turns = np.diff(column.values, prepend=column.values[0]) % (np.ptp(values) + 1)
            times.append(column._replace(values=np.cumsum(turns)))
            restarts = True
        elif named or (len(columns) > 1 and len(up) and not len(down)):
            times.append(column)
        else:
            (digital if restarts and len(np.unique(values)) < 3 else signals).append(column)
    if not signals:  # a name such as `sample` above the only numbers
        times, signals = times[:-1], times[-1:]
    return times, signals, digital


def sampling(
    times: list[Column], stated: float | None, hinted: float | None
) -> tuple[float | None, np.ndarray | None]:
    """Rate in Hz that the file has `stated` or times tell, None where they differ, and samples lost
    before each, by the times that miss most; None without times. Raises `Unusable`."""
    fits = [(_rate(column, fit[0]), fit[1]) for column in times if (fit := _fit(column.values))]
    fs, lost = max(fits, key=lambda fit: (bool(fit[0]), fit[1].sum()), default=(None, None))
    if times and lost is None:
        raise Unusable("the times step back or are irregular; leave them out, and give --fs")
    fs = (stated or fs) if not (stated and fs) or same_rate(stated, fs) else None
    if times and not fs and not hinted:
        why = "the times are not in seconds, or not as the lines above say"
        raise Unusable(f"file without a sampling rate ({why}); give --fs")
    return fs, lost


def _fit(values: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Period of a sample in the unit of the times, and samples lost before each; None where times
    fall or are irregular. Several samples may have one time, in packets or for want of decimals."""
    times = pd.Series(values).interpolate(limit_direction="both").to_numpy()
    starts = np.flatnonzero(np.diff(times, prepend=-np.inf) > 0)  # first sample of each time
    if (np.diff(times) < 0).any() or len(starts) < 4:
        return None
    steps, counts = np.diff(times[starts]), np.diff(starts)
    lost, each = np.zeros(len(times), np.int64), steps / counts
    # Without gaps, one period explains all times, up to their last decimal and to whole packets.
    powers = [power for power in 10.0 ** np.arange(7, -10, -1) if steps.min() > 0.9 * power]
    decimal = next((p for p in powers if np.abs(steps / p - np.rint(steps / p)).max() < 0.01), 0)
    rounding = 2.1 * decimal if counts.max() > 1 or np.ptp(each) <= 1.01 * decimal else 0
    period = steps[1:].sum() / counts[1:].sum()
    residual = times[starts] - period * starts
    if np.ptp(residual[1:]) > rounding + period * (1e-3 + (np.ptp(counts) > 0)):
        # A gap is a delay that later times never make up for; a packet that is late is none.
        keep = each <= 1.5 * np.median(each)
        for _ in range(2):
            period = steps[keep].sum() / counts[keep].sum()
            residual = times[starts] - period * starts
            lasting = np.diff(np.minimum.accumulate(residual[::-1])[::-1])
            keep = lasting <= max(period / 2, 6 * np.median(np.abs(steps - period * counts)))
        lost[starts[1:]] = np.where(keep, 0, np.rint(lasting / period))
        residual -= period * np.cumsum(lost)[starts]
    return (period, lost) if np.ptp(residual) < 100 * period else None


def _rate(column: Column, period: float) -> float | None:
    """Rate in Hz of times: in the unit of their name, else in seconds if it can be, else in the
    unit of ms, us and ns in which it is usual; steps of 1 without a unit are a counter's."""
    words = re.findall(r"[^\W\d_]+", f"{column.name} {column.unit}".casefold())
    named = [SECONDS[word] for word in words if word in SECONDS][-1:]
    for scale in named or (1, 1e-3, 1e-6, 1e-9):
        fs = 1 / (period * scale)
        if abs(fs - round(fs)) < 1e-3 * fs:  # recorders have whole rates, and times few decimals
            fs = round(fs)
        usual = 50 <= fs <= 2000 and abs(period - 1) > 1e-3
        if RATES[0] <= fs <= RATES[1] and (named or scale == 1 or usual):
            return fs
    return None
