"""Impossible and missing samples, constant and clipped signals, and implausible amplitudes."""

from typing import NamedTuple

import numpy as np

from recordings import Unusable

RUN = 5  # samples, 20 ms at 250 Hz
SHARE = 0.01  # of the samples of a signal
INT16_RANGE = 32.767  # mV, of int16 microvolt, in which signals are stored
# mV from the 1st to the 99th percentile of a lead. The recordings of Challenge 2017 span 0.19 to
# 8.8 mV; a factor of 1,000 lies clearly outside.
SPAN = (0.02, 30.0)
RAIL = 2.0  # as far outside, in spans of the other samples, lies a converter's limit
FURTHEST = 30.0  # mV from the median of its lead; a sample further away is no ECG
# Missing samples are interpolated up to this share of a lead, and this many seconds at a time.
MISSING = (0.01, 0.5)


class Quality(NamedTuple):
    constant: bool
    clipped: bool  # not both


def mark_impossible(signal: np.ndarray) -> np.ndarray:
    """A copy of (samples, leads) in mV with NaN, missing, for what is infinite, further than
    `FURTHEST` from the median of its lead, or at a rail: one value, again and again, that lies
    `RAIL` times as far outside as all other samples span. Before any filter spreads such samples.
    """
    marked = np.where(np.isfinite(signal), signal, np.nan)
    for lead in marked.T:
        if np.isfinite(lead).any():
            lead[np.abs(lead - np.nanmedian(lead)) > FURTHEST] = np.nan
        for extreme in (np.fmax, np.fmin):
            limit = extreme.reduce(lead)
            held = lead == limit
            others = lead[~held & np.isfinite(lead)]
            if 2 < held.sum() < len(others):
                distance = abs(limit - extreme.reduce(others))
                lead[held & (distance > RAIL * np.ptp(others))] = np.nan
    return marked


def fill_missing(signal: np.ndarray, fs: float) -> tuple[np.ndarray, int]:
    """(samples, leads) at `fs` Hz with missing samples (NaN) interpolated linearly, and how many
    these were. Raises `Unusable` where a lead misses more than `MISSING`."""
    missing = np.isnan(signal)
    if not missing.any():
        return signal, 0
    filled, places = signal.copy(), np.arange(len(signal))
    for number, (lead, gaps) in enumerate(zip(filled.T, missing.T, strict=True)):
        edges = np.flatnonzero(np.diff(gaps, prepend=False, append=False))
        longest = (edges[1::2] - edges[::2]).max(initial=0) / fs
        if gaps.mean() > MISSING[0] or longest > MISSING[1]:
            where = f" of lead {number}" if signal.shape[1] > 1 else ""
            advice = "; check --unit, --gain" if gaps.mean() > 0.5 else ""
            said = f"missing or impossible (over {FURTHEST:g} mV from the median)"
            said = f"{gaps.mean():.1%} of the samples{where} are {said}"
            raise Unusable(f"{said}, {longest:.2g} s at a time{advice}")
        lead[gaps] = np.interp(places[gaps], places[~gaps], lead[~gaps])
    return filled, int(missing.sum())


def assess(signal: np.ndarray) -> Quality:
    """Whether all samples of a lead (samples,), as it was recorded and finite, are equal, or it is
    clipped: `SHARE` or more of it lies at its largest or smallest value in runs of `RUN` samples or
    more, and more than at the values next to these (coarse steps make the tops of waves flat)."""
    low, high = signal.min(), signal.max()
    at_limits = (signal == low) | (signal == high)
    enough = SHARE * len(signal)
    if low == high or np.count_nonzero(at_limits) < enough:
        return Quality(constant=bool(low == high), clipped=False)
    edges = np.flatnonzero(np.diff(at_limits, prepend=False, append=False))
    runs = edges[1::2] - edges[::2]
    held = runs[runs >= RUN].sum()
    inner = signal[~at_limits]
    beside = (inner == inner.min()) | (inner == inner.max()) if len(inner) else inner
    clipped = held >= enough and held > np.count_nonzero(beside)
    return Quality(constant=False, clipped=bool(clipped))


def implausible_amplitude(signal: np.ndarray) -> str | None:
    """Describe an amplitude that no ECG has; None if all leads of (samples, leads) mV are fine."""
    for span in np.subtract(*np.percentile(signal, [99, 1], axis=0)):
        if not SPAN[0] <= span <= SPAN[1]:
            return f"spans {span:.4g} mV, an ECG {SPAN[0]:g} to {SPAN[1]:g}; check --unit, --gain"
    return None
