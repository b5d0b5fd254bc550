"""Resampling by scipy, and conversion to the int16 microvolt that networks are trained on."""

from fractions import Fraction

import numpy as np
from scipy import signal as dsp

from recordings import RATES
from recordings.formats import Recording

METHODS = ("polyphase", "fft")


def resample(
    signal: np.ndarray, fs: float, to: int, padtype: str, method: str = "polyphase"
) -> np.ndarray:
    """(samples, leads) at `fs` Hz, taken to a millionth or better, to `to` Hz.

    `padtype` is as in `scipy.signal.resample_poly`; fft takes a signal to be periodic.
    """
    # Exact for whole rates. The filter is as long as the larger number, ten times on each side.
    ratio = (Fraction(to) / Fraction(fs)).limit_denominator(RATES[1])
    if method == "fft":
        return dsp.resample(signal, round(len(signal) * ratio))
    return dsp.resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype=padtype)


def to_microvolt(
    recording: Recording, fs: int, method: str, padtype: str
) -> tuple[np.ndarray, int]:
    """Resample a recording to int16 microvolt at `fs` Hz, (samples, leads).

    Also returns how many samples were clipped to the range of int16, ±32.767 mV.
    """
    microvolt = np.rint(resample(recording.signal, recording.fs, fs, padtype, method) * 1000)
    limits = np.iinfo(np.int16)
    clipped = int(((microvolt < limits.min) | (microvolt > limits.max)).sum())
    return microvolt.clip(limits.min, limits.max).astype(np.int16), clipped
