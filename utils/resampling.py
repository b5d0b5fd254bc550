"""Signals at another rate, by scipy."""

from fractions import Fraction

import numpy as np
from scipy import signal as dsp


def _polyphase(signal: np.ndarray, ratio: Fraction, beyond: str) -> np.ndarray:
    return dsp.resample_poly(signal, ratio.numerator, ratio.denominator, axis=0, padtype=beyond)


def _fft(signal: np.ndarray, ratio: Fraction, beyond: str) -> np.ndarray:
    """A recording is taken to begin again behind its end, whatever `beyond` says."""
    return dsp.resample(signal, round(len(signal) * ratio))


METHODS = {"polyphase": _polyphase, "fft": _fft}


def resample(
    signal: np.ndarray, fs: float, to: int, beyond: str, method: str = "polyphase"
) -> np.ndarray:
    """(samples, leads) at `fs` Hz, taken to a thousandth or better, to `to` Hz.

    Args:
        beyond: what a signal is beyond its ends, as scipy's `padtype`. method: of `METHODS`.
    """
    return METHODS[method](signal, to / Fraction(fs).limit_denominator(1000), beyond)
