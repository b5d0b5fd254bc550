"""Signals at another rate, by scipy, and as the networks take them."""

from fractions import Fraction

import numpy as np
from scipy import signal as dsp

from recordings.formats import Recording
from recordings.wfdb_files import RATES


def _polyphase(signal: np.ndarray, ratio: Fraction, beyond: str) -> np.ndarray:
    return dsp.resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype=beyond)


def _fft(signal: np.ndarray, ratio: Fraction, beyond: str) -> np.ndarray:
    """A recording is taken to begin again behind its end, whatever `beyond` says."""
    return dsp.resample(signal, round(len(signal) * ratio))


METHODS = {"polyphase": _polyphase, "fft": _fft}


def resample(
    signal: np.ndarray, fs: float, to: int, beyond: str, method: str = "polyphase"
) -> np.ndarray:
    """(samples, leads) at `fs` Hz, taken to a millionth or better, to `to` Hz.

    Args:
        beyond: what a signal is beyond its ends, as scipy's `padtype`. method: of `METHODS`.
    """
    # Exact for whole rates. The filter is as long as the larger number, ten times on each side.
    ratio = (Fraction(to) / Fraction(fs)).limit_denominator(RATES[1])
    return METHODS[method](signal, ratio, beyond)


def to_microvolt(
    recording: Recording, fs: int, resampling: str, beyond: str
) -> tuple[np.ndarray, int]:
    """Resample a recording to int16 microvolt at `fs` Hz, (samples, leads).

    Also returns how many samples were clipped to the range of int16, ±32.767 mV.

    Args:
        resampling, beyond: as `resample` takes them.
    """
    resampled = resample(recording.signal, recording.fs, fs, beyond, resampling)
    microvolt = np.rint(resampled * 1000)
    limits = np.iinfo(np.int16)
    clipped = int(((microvolt < limits.min) | (microvolt > limits.max)).sum())
    return microvolt.clip(limits.min, limits.max).astype(np.int16), clipped
