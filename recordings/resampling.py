"""Resampling by scipy, and conversion to the int16 microvolt that networks are trained on."""

from fractions import Fraction

import numpy as np
from scipy import signal as dsp

from recordings import RATES
from recordings.formats import Recording

METHODS = ("polyphase", "fft")
# How the polyphase method extends a signal beyond its ends: by zeros, or along the line through
# its first and last sample, so that offsets make no steps.
PADTYPES = ("constant", "line")


def resample(
    signal: np.ndarray, fs: float, to: int, padtype: str, method: str = "polyphase"
) -> np.ndarray:
    """(samples, leads) at `fs` Hz to `to` Hz, `padtype` as in `scipy.signal.resample_poly`; the
    method fft takes a signal to be periodic."""
    # Exact for whole rates, else to a millionth. The filter's length grows with both numbers.
    ratio = (Fraction(to) / Fraction(fs)).limit_denominator(RATES[1])
    if method == "fft":
        return dsp.resample(signal, round(len(signal) * ratio))
    return dsp.resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype=padtype)


def to_microvolt(
    recording: Recording, fs: int, method: str, padtype: str
) -> tuple[np.ndarray, int]:
    """Resample a recording to int16 microvolt at `fs` Hz, (samples, leads), and count the samples
    that were clipped to the range of int16, ±32.767 mV."""
    microvolt = np.rint(resample(recording.signal, recording.fs, fs, padtype, method) * 1000)
    limits = np.iinfo(np.int16)
    clipped = int(((microvolt < limits.min) | (microvolt > limits.max)).sum())
    return microvolt.clip(limits.min, limits.max).astype(np.int16), clipped
