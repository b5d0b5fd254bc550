"""Synthetic ECG cohorts in the layouts of Icentia11k and of the 2017 Challenge.

For the demo, the tests and the benchmarks only; see `recordings.synthetic_ecg` for what is drawn.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy.io import savemat
from tqdm import tqdm

from recordings import Unusable
from recordings.segments import FS as ICENTIA_HZ
from recordings.segments import GAIN as ICENTIA_GAIN
from recordings.segments import place_of, write_segment
from recordings.synthetic_ecg import (
    AFIB,
    FLUTTER,
    NOISE,
    SINUS,
    Beats,
    Grid,
    draw_patient,
    draw_recording,
)
from utils.files import atomic_folder, write_json

CHALLENGE_HZ, CHALLENGE_GAIN = 300, 1000
MARKER = "synthetic.json"  # tells a folder made here from one with real recordings

ZONES = np.array(["(N", "(AFIB", "(AFL", ""])  # of SINUS, AFIB, FLUTTER, NOISE
SYMBOLS = np.array(["N", "S", "V"])  # of NORMAL, PAC, PVC

# Challenge classes: percentage of the recordings; cases (one is drawn), each a rhythm with the
# features that make it.
PERCENT = {"N": 45, "A": 25, "O": 20, "~": 10}
OTHER = [("pac", (0.3, 0.5)), ("pvc", (0.3, 0.5)), ("rate", (38, 50)), ("rate", (108, 130))]
CASES = {
    "N": [(SINUS, {})],
    "A": [(AFIB, {})],
    "O": [(FLUTTER, {}), *((SINUS, {feature: ends}) for feature, ends in OTHER)],
    "~": [(NOISE, {})],
}


def write_icentia11k(root: Path, patients: int, segments: int, samples: int, seed: int) -> None:
    """Write `root/pNN/pNNNNN/pNNNNN_sMM.{dat,hea,atr}`, `samples` at 250 Hz in each segment.

    Odd patients have spells of fibrillation and of flutter in turn; a patient is the same in
    cohorts of any size. A segment without a beat has no `.atr`, as in the real set.
    """
    for number in tqdm(range(patients), desc="icentia11k", disable=None):
        rng = np.random.default_rng([seed, number, ICENTIA_HZ])
        patient, burden = draw_patient(rng), _draw_burden(rng, number)
        for segment in range(segments):
            spells = samples // ICENTIA_HZ // 10 + 1
            rhythms, seconds = rng.choice(4, spells, p=burden), rng.uniform(10, 50, spells)
            stretches = list(zip(rhythms, seconds, strict=True))
            recording = draw_recording(rng, patient, stretches, Grid(samples, ICENTIA_HZ))
            _write_segment(*place_of(root, number, segment), *recording)


def _draw_burden(rng: Generator, number: int) -> np.ndarray:
    """Shares of sinus rhythm, fibrillation, flutter and noise in a patient's time."""
    noise, ill = rng.uniform(0.03, 0.15), rng.uniform(0.3, 0.7) * (number % 2)
    return np.array([1 - noise - ill, ill * (number % 4 == 1), ill * (number % 4 == 3), noise])


def _write_segment(folder: Path, name: str, signal: np.ndarray, beats: Beats, peaks: np.ndarray):
    units = np.rint(signal * ICENTIA_GAIN).astype(np.int16)
    symbols = np.where(beats.rhythms == NOISE, "Q", SYMBOLS[beats.kinds])
    write_segment(folder, name, units, ICENTIA_GAIN, peaks, symbols, ZONES[beats.rhythms])


def write_challenge17(
    root: Path, recordings: int, seed: int, seconds: tuple[float, float] = (9.0, 15.0)
) -> None:
    """Write `root/A00001.{mat,hea}` …, `RECORDS` and `REFERENCE.csv`, at 300 Hz.

    `seconds` bounds the durations; the classes have their `PERCENT`, rounded down, the rest is N.
    """
    labels = _draw_labels(np.random.default_rng([seed, recordings]), recordings)
    names = [f"A{number:05}" for number in range(1, recordings + 1)]
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(tqdm(names, desc="training2017", disable=None)):
        rng = np.random.default_rng([seed, number, CHALLENGE_HZ])
        cases = CASES[labels[number]]
        rhythm, features = cases[rng.integers(len(cases))]
        patient = draw_patient(rng, **{"pac": (0, 0), "pvc": (0, 0)} | features)
        grid = Grid(int(rng.uniform(*seconds) * CHALLENGE_HZ), CHALLENGE_HZ)
        _write_recording(root, name, draw_recording(rng, patient, [(rhythm, 1)], grid)[0])
    (root / "RECORDS").write_text("".join(f"{name}\n" for name in names))
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    (root / "REFERENCE.csv").write_text("".join(rows))


def _draw_labels(rng: Generator, recordings: int) -> np.ndarray:
    counts = {label: recordings * percent // 100 for label, percent in PERCENT.items()}
    counts["N"] += recordings - sum(counts.values())
    return rng.permutation(np.repeat(list(counts), list(counts.values())))


def _write_recording(root: Path, name: str, signal: np.ndarray) -> None:
    units = np.rint(signal * CHALLENGE_GAIN).astype(np.int16)
    savemat(root / f"{name}.mat", {"val": units[None]}, format="4")
    header = f"{name} 1 {CHALLENGE_HZ} {len(units)} 05:05:15 1/05/2000 \n"
    header += f"{name}.mat 16+24 {CHALLENGE_GAIN}/mV 16 0 {units[0]} 0 0 ECG \n"
    (root / f"{name}.hea").write_text(header, newline="\r\n")


def write_cohort(
    out: Path,
    patients: int,
    segments: int,
    samples: int,
    recordings: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Write `out/icentia11k` and `out/training2017`, or nothing at all.

    Raises:
        Unusable: `out` holds other files, or a cohort and `overwrite` is not set; it is for
            synthetic cohorts, never for real recordings.
    """
    out = out.resolve()
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            raise Unusable(f"--out {out} holds other files; name a new folder")
        if not overwrite:
            raise Unusable(f"--out {out} holds a synthetic cohort; add --overwrite to replace it")
    sizes = {"patients": patients, "segments": segments, "samples": samples}
    with atomic_folder(out) as made:
        write_icentia11k(made / "icentia11k", **sizes, seed=seed)
        write_challenge17(made / "training2017", recordings, seed)
        write_json(made / MARKER, {**sizes, "recordings": recordings, "seed": seed})
