"""Signals in the band of the recordings that a network has learned from."""

import numpy as np
from scipy import signal as dsp

ORDER = 2
BEYOND = 3  # s that a signal is mirrored at its ends, as long as the filter's memory


def band_pass(signal: np.ndarray, fs: float, band: tuple[float, float]) -> np.ndarray:
    """(samples, leads) without what is slower or faster, by a Butterworth filter there and back.

    Args:
        fs: Hz. band: Hz; an upper end that the rate does not reach is left out.
    """
    kind, edges = ("bandpass", band) if band[1] < fs / 2 else ("highpass", band[0])
    sections = dsp.butter(ORDER, edges, kind, fs=fs, output="sos")
    beyond = min(len(signal) - 1, round(BEYOND * fs))
    return dsp.sosfiltfilt(sections, signal, axis=0, padtype="even", padlen=beyond)
