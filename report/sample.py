"""A normal frame as the networks see it: in time, and as a spectrogram."""

import os
from pathlib import Path

import matplotlib
import numpy as np
import torch
import wfdb

from models.spectrogram import Spectrogram, SpectrogramSettings
from recordings.synthetic import SINUS, Grid, draw_patient, draw_recording
from recordings.wfdb_files import ICENTIA_FS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

SAMPLES = 4096
SEED = 6  # without ectopic beats and artefacts
REAL, START = "p00000_s17", 45_678  # of Icentia11k: a frame with the label normal


def frame() -> tuple[np.ndarray, str]:
    """(4096,) mV at 250 Hz and where it is from: `ECG_DATA`'s Icentia11k, else synthetic."""
    folder = Path(os.environ.get("ECG_DATA", ""), "icentia11k")
    header = next(folder.rglob(f"{REAL}.hea"), None) if "ECG_DATA" in os.environ else None
    if header:
        place = str(header.with_suffix(""))
        record = wfdb.rdrecord(place, sampfrom=START, sampto=START + SAMPLES)
        return record.p_signal[:, 0], f"Icentia11k, {REAL}, from sample {START:,}"
    rng = np.random.default_rng(SEED)
    grid = Grid(SAMPLES, ICENTIA_FS)
    signal, _, _ = draw_recording(rng, draw_patient(rng), [(SINUS, SAMPLES / ICENTIA_FS)], grid)
    return signal, "synthetic"


def draw() -> Figure:
    """The frame above its spectrogram, on one axis of time."""
    signal, source = frame()
    settings = SpectrogramSettings()
    # (1, 1, 4096) -> (128, 128): frequency × time
    image = Spectrogram(settings)(torch.tensor(signal, dtype=torch.float32)[None, None])[
        0, 0
    ].numpy()
    step = ICENTIA_FS / settings.window  # Hz from one bin to the next; bin 0 is not there
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), layout="constrained", sharex=True)
    above.plot(np.arange(SAMPLES) / ICENTIA_FS, signal, lw=0.8)
    above.set(
        ylabel="mV", title=f"A normal frame of {SAMPLES:,} samples at {ICENTIA_FS} Hz ({source})"
    )
    above.grid(alpha=0.3)
    extent = (0, SAMPLES / ICENTIA_FS, step / 2, (settings.bins + 0.5) * step)
    shown = below.imshow(
        image, origin="lower", aspect="auto", extent=extent, cmap="magma", norm=PowerNorm(0.5)
    )
    below.set(xlabel="s", ylabel="Hz")
    figure.colorbar(shown, ax=below, label="magnitude (root scale)", pad=0.01)
    return figure
