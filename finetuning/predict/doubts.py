"""Why a stretch of a signal is not worth asking about."""

import numpy as np

from recordings.quality import assess_leads

# mV from the 1st to the 99th percentile of a lead. Of the recordings of Challenge 2017 the least is
# 0.19, the largest 8.8; a factor of 1,000 lies clearly outside.
SPAN = (0.02, 30.0)
RANGE = 32.767  # mV, of what networks are given: int16 microvolt
THOUSAND = {-1: "a thousandth of it: V taken for mV, or mV for uV?",
            1: "a thousand times as much: uV taken for mV, or mV for V?"}  # fmt: skip


def doubt(signal: np.ndarray, fs: float, least: float, centred: bool = True) -> str | None:
    """In a few words, or None.

    Args:
        signal: (samples, leads) in mV, as it was recorded. fs: Hz. least: seconds.
        centred: whether an offset is taken away before networks see it.
    """
    if len(signal) < int(least * fs):  # windows are of whole samples
        return f"{len(signal) / fs:.1f} s are too short, below {least:g} s"
    if not np.isfinite(signal).all():
        return "samples are missing"
    quality = assess_leads(signal)
    if quality.constant:
        return "flat"
    if quality.clipped:
        return "clipped"
    if not centred and (np.abs(np.median(signal, axis=0)) > RANGE).any():
        return f"has an offset of more than {RANGE:g} mV; subtract it"
    return implausible(signal)


def implausible(signal: np.ndarray) -> str | None:
    """Of a signal that cannot be an ECG's in mV: what it spans, and which units may be mixed up."""
    low, high = SPAN
    for span in np.subtract(*np.percentile(signal, [99, 1], axis=0)):
        if low <= span <= high:
            continue
        power = 1 if span > high else -1
        mixed = low <= span / 1000.0**power <= high
        hint = THOUSAND[power] if mixed else "wrong --unit or --gain?"
        span = np.format_float_positional(span, 3, fractional=False, trim="-")
        return f"spans {span} mV, an ECG {low:g} to {high:g}; {hint}"
    return None
