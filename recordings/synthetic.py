"""Synthetic ECG, and cohorts of it in the layouts of Icentia11k and of the 2017 Challenge.

    python -m recordings.synthetic --out demo/data

For demos, tests and benchmarks: scores reached on it say nothing about real ECG. Beats are sums of
Gaussian waves (after McSharry et al. 2003); atrial activity is a sawtooth (after Stridh & Sörnmo
2001). Rates and amplitudes are plausible, but not fitted to recordings.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.random import Generator
from scipy.io import savemat
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from recordings.wfdb_files import ICENTIA_FS, ICENTIA_GAIN, segment_path, write_segment

CHALLENGE_HZ, CHALLENGE_GAIN = 300, 1000
MARKER = "synthetic.json"  # tells a folder made here from one with real recordings
SINUS, AFIB, FLUTTER, NOISE = range(4)
NORMAL, PAC, PVC = range(3)
P, Q, R, S, T = range(5)
# Of these waves: amplitude (mV), centre (s from the R peak), standard deviation (s).
WAVES = np.array([[0.12, -0.17, 0.022], [-0.08, -0.028, 0.009], [1.0, 0.0, 0.011],
                  [-0.2, 0.03, 0.011], [0.25, 0.28, 0.05]])  # fmt: skip
# What differs between people, uniform in these ranges.
FEATURES = {
    "rate": (54, 96),  # sinus beats per minute
    "variability": (0.02, 0.09),  # of sinus RR, relative
    "pac": (0, 0.08),  # share of sinus beats
    "pvc": (0, 0.08),  # share of sinus beats
    "fib_rate": (65, 125),  # ventricular beats per minute in fibrillation
    "fib_spread": (0.13, 0.28),  # of RR in fibrillation, relative
    "fib_hertz": (4.5, 8.5),  # fibrillatory waves
    "fib_size": (0.02, 0.08),  # mV
    "flutter_hertz": (4.4, 5.5),
    "conduction": (2, 5),  # flutter waves per beat, as a whole number below 5
    "wander": (0.03, 0.15),  # baseline, mV
    "noise": (0.01, 0.07),  # broadband, mV
    "glitches": (0, 0.01),  # share of beats lost in a short artefact
}

ZONES = np.array(["(N", "(AFIB", "(AFL", ""])  # of SINUS, AFIB, FLUTTER, NOISE
SYMBOLS = np.array(["N", "S", "V"])  # of NORMAL, PAC, PVC
# Challenge classes: percentage of the recordings; cases (one is drawn), each a rhythm with the
# features that make it.
PERCENT = {"N": 45, "A": 25, "O": 20, "~": 10}
OTHER = [{"pac": (0.3, 0.5)}, {"pvc": (0.3, 0.5)}, {"rate": (38, 50)}, {"rate": (108, 130)}]
OTHER = [(FLUTTER, {}), *((SINUS, features) for features in OTHER)]
CASES = {"N": [(SINUS, {})], "A": [(AFIB, {})], "O": OTHER, "~": [(NOISE, {})]}
# Default sizes of a cohort: of Icentia11k, and recordings of the Challenge.
SIZES = {"patients": 24, "segments": 2, "samples": 30_000, "recordings": 300}


def draw_patient(rng: Generator, **ranges: tuple[float, float]) -> SimpleNamespace:
    """Draw a person's `FEATURES` (`ranges` replace those named) and wave `shapes`: (3 kinds of
    beat, 5 waves, 3), amplitude in mV, centre and width in s."""
    features = {name: rng.uniform(*ends) for name, ends in (FEATURES | ranges).items()}
    normal = WAVES * np.exp([0.3, 0.08, 0.12] * rng.standard_normal(WAVES.shape))
    # An electrode pair worn the other way round turns every wave over.
    normal[:, 0] *= rng.lognormal(0, 0.25) * rng.choice([1, -1], p=[0.85, 0.15])
    pac = normal.copy()
    pac[P] *= [rng.uniform(-0.8, 0.9), 0.8, 0.9]  # from another place in the atria
    pvc = normal * [1.0, 1.0, 2.6]
    pvc[[P, Q], 0] = 0
    pvc[R, 0] *= rng.uniform(0.9, 1.5) * rng.choice([1, -1], p=[0.7, 0.3])
    pvc[S] = [-0.35 * pvc[R, 0], 0.09, 0.032]
    pvc[T] = [-0.35 * pvc[R, 0], 0.32, 0.06]
    return SimpleNamespace(shapes=np.stack([normal, pac, pvc]), **features)


def draw_recording(
    rng: Generator, patient: SimpleNamespace, stretches: list[tuple[int, float]], samples: int,
    hertz: int,
) -> tuple[np.ndarray, np.recarray, np.ndarray]:  # fmt: skip
    """Draw a recording that passes through `stretches` (rhythm, s), the last as long as needed.

    Returns the signal (samples,) in mV, the beats within it, and their R peaks as sample numbers.
    Beats have `times` and `rr` (the interval before) in s, `kinds` (NORMAL, PAC or PVC) and
    `rhythms` (of the interval before: SINUS, AFIB, FLUTTER or NOISE).
    """
    seconds = samples / hertz
    stretches = [*stretches, (stretches[-1][0], seconds + 4)]
    parts = [_draw_rr(rng, patient, rhythm, duration) for rhythm, duration in stretches]
    rhythms = np.repeat([rhythm for rhythm, _ in stretches], [len(part) for part in parts])
    kinds = rng.choice(3, len(rhythms), p=[1 - patient.pac - patient.pvc, patient.pac, patient.pvc])
    kinds[rhythms != SINUS] = NORMAL
    kinds[1:][kinds[:-1] != NORMAL] = NORMAL  # no runs, so that each is early for a normal beat
    # After a PVC the sinus rhythm is on time again; a PAC resets it.
    early = np.where(kinds == NORMAL, 1, rng.uniform(0.55, 0.78, len(rhythms)))
    pause = np.where(kinds == PVC, 2 - early, np.where(kinds == PAC, 1.05, 1))
    rr = np.concatenate(parts) * early * np.concatenate([[1], pause[:-1]])
    rhythms[rng.random(len(rr)) < patient.glitches] = NOISE
    times = np.cumsum(rr) - 1  # waves reach in from beats outside
    beats = np.rec.fromarrays([times, rr, kinds, rhythms], names="times,rr,kinds,rhythms")
    beats = beats[times < seconds + 2]
    peaks = np.rint(beats.times * hertz).astype(int)
    inside = (peaks >= 0) & (peaks < samples)
    return _draw_signal(rng, patient, beats, samples, hertz), beats[inside], peaks[inside]


def _draw_rr(rng: Generator, patient: SimpleNamespace, rhythm: int, seconds: float) -> np.ndarray:
    n = int(seconds / 0.3) + 2
    if rhythm == AFIB:
        shape = patient.fib_spread**-2
        rr = np.maximum(rng.gamma(shape, 60 / patient.fib_rate / shape, n), 0.3)
    elif rhythm == FLUTTER:
        ratio = np.where(rng.random(n) < 0.08, rng.integers(2, 5, n), int(patient.conduction))
        rr = ratio / patient.flutter_hertz * (1 + 0.01 * rng.standard_normal(n))
    else:
        breath = np.sin(np.pi / 2 * np.arange(n) * 60 / patient.rate)  # 15 a minute
        slow = 3 * uniform_filter1d(rng.standard_normal(n), 9)
        deviation = 0.8 * breath + 0.6 * slow + 0.5 * rng.standard_normal(n)
        rr = 60 / patient.rate * (1 + patient.variability * deviation.clip(-2.5, 2.5))
    return rr[: max(1, np.searchsorted(np.cumsum(rr), seconds))]


def _draw_signal(rng, patient, beats: np.recarray, samples: int, hertz: int) -> np.ndarray:
    def gate(rhythm: int) -> np.ndarray:
        """1 within the intervals of `rhythm`, 0 elsewhere, with ramps of 0.2 s."""
        following = np.searchsorted(beats.times, np.arange(samples) / hertz)
        here = beats.rhythms[following.clip(max=len(beats.times) - 1)] == rhythm
        return uniform_filter1d(here.astype(float), hertz // 5)

    def band(low: float, high: float) -> np.ndarray:
        """Gaussian noise between two frequencies (Hz), about unit standard deviation."""
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequencies = np.fft.rfftfreq(samples, 1 / hertz)
        inside = (frequencies >= low) & (frequencies < high)
        power = max(inside.mean(), 1 / samples)  # no band at all in a very short signal
        return np.fft.irfft(spectrum * inside, samples) / np.sqrt(power)

    def atrial_waves(rate: float, spread: float) -> np.ndarray:
        """Sawtooth of three harmonics; its rate (Hz) wanders by `spread`; about unit size."""
        rates = rate * (1 + spread * band(0.1, 1))
        phase = 2 * np.pi * (np.cumsum(rates) / hertz + rng.random())
        saw = sum(np.sin(k * phase) / k for k in (1, 2, 3))
        return saw * (1 + 2 * spread * band(0.1, 1))

    fib = patient.fib_size * atrial_waves(patient.fib_hertz, 0.12)
    flutter = 0.1 * atrial_waves(patient.flutter_hertz, 0.004)
    signal = _beat_waves(rng, patient, beats, samples, hertz)
    signal += gate(AFIB) * fib + gate(FLUTTER) * flutter
    # Motion, muscle or a lost electrode: share of the ECG that is left, size (mV), frequencies.
    sources = [(1, 0.9, 0.4, 5), (0.8, 0.5, 4, 60), (0.04, 0.12, 0.5, 60)]
    kept, size, low, high = sources[rng.integers(3)]
    bursts = size * rng.uniform(0.7, 1.4) * (0.5 + np.abs(band(0.1, 0.8)))
    artefact, noisy = bursts * band(low, high), gate(NOISE)
    signal = signal * (1 - noisy * (1 - kept)) + noisy * artefact
    signal += patient.wander * band(0.05, 0.5)
    signal += patient.noise * band(0.5, 60)
    return signal - signal.mean()  # the recorders are AC-coupled


def _beat_waves(rng, patient, beats: np.recarray, samples: int, hertz: int) -> np.ndarray:
    shapes = patient.shapes[beats.kinds]  # (beats, 5, 3)
    shapes[np.isin(beats.rhythms, (AFIB, FLUTTER)), P, 0] = 0
    shapes[:, :, 0] *= 1 + 0.06 * rng.standard_normal(shapes.shape[:2])
    # The T wave follows the heart rate as the QT interval does (Bazett 1920).
    shapes[:, T, 1:] *= np.sqrt(beats.rr).clip(0.7, 1.15)[:, None]
    window = np.arange(int(-0.35 * hertz), int(0.65 * hertz))
    at = np.rint(beats.times * hertz).astype(int)[:, None] + window  # (beats, window)
    since = at / hertz - beats.times[:, None]
    waves = np.zeros(at.shape)
    for amplitude, centre, width in shapes.transpose(1, 2, 0)[..., None]:  # each (beats, 1)
        waves += amplitude * np.exp(-0.5 * ((since - centre) / width) ** 2)
    inside = (at >= 0) & (at < samples)
    return np.bincount(at[inside], waves[inside], minlength=samples)


def write_icentia11k(root: Path, patients: int, segments: int, samples: int, seed: int) -> None:
    """Write `root/pNN/pNNNNN/pNNNNN_sMM.{dat,hea,atr}`, `samples` at 250 Hz in each segment.

    Odd patients have spells of fibrillation and of flutter in turn; a patient is the same in
    cohorts of any size. A segment without a beat has no `.atr`, as in the real set.
    """
    for number in tqdm(range(patients), desc="icentia11k", disable=None):
        rng = np.random.default_rng([seed, number, ICENTIA_FS])
        patient = draw_patient(rng)
        noise, ill = rng.uniform(0.03, 0.15), rng.uniform(0.3, 0.7) * (number % 2)
        # Shares of sinus rhythm, fibrillation, flutter and noise in the patient's time.
        burden = [1 - noise - ill, ill * (number % 4 == 1), ill * (number % 4 == 3), noise]
        for segment in range(segments):
            spells = samples // ICENTIA_FS // 10 + 1
            rhythms, seconds = rng.choice(4, spells, p=burden), rng.uniform(10, 50, spells)
            stretches = list(zip(rhythms, seconds, strict=True))
            signal, beats, peaks = draw_recording(rng, patient, stretches, samples, ICENTIA_FS)
            units = np.rint(signal * ICENTIA_GAIN).astype(np.int16)
            symbols = np.where(beats.rhythms == NOISE, "Q", SYMBOLS[beats.kinds])
            place = segment_path(root, number, segment)
            write_segment(*place, units, ICENTIA_GAIN, peaks, symbols, ZONES[beats.rhythms])


def write_challenge17(
    root: Path, recordings: int, seed: int, seconds: tuple[float, float] = (9.0, 15.0)
) -> None:
    """Write `root/A00001.{mat,hea}` …, `RECORDS` and `REFERENCE.csv`, at 300 Hz; `seconds` bounds
    the durations. The classes have their `PERCENT`, rounded down; the rest is N."""
    counts = {label: recordings * percent // 100 for label, percent in PERCENT.items()}
    counts["N"] += recordings - sum(counts.values())
    in_order = np.repeat(list(counts), list(counts.values()))
    labels = np.random.default_rng([seed, recordings]).permutation(in_order)
    names = [f"A{number:05}" for number in range(1, recordings + 1)]
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(tqdm(names, desc="training2017", disable=None)):
        rng = np.random.default_rng([seed, number, CHALLENGE_HZ])
        cases = CASES[labels[number]]
        rhythm, features = cases[rng.integers(len(cases))]
        patient = draw_patient(rng, **{"pac": (0, 0), "pvc": (0, 0)} | features)
        samples = int(rng.uniform(*seconds) * CHALLENGE_HZ)
        signal, _, _ = draw_recording(rng, patient, [(rhythm, 1)], samples, CHALLENGE_HZ)
        units = np.rint(signal * CHALLENGE_GAIN).astype(np.int16)
        savemat(root / f"{name}.mat", {"val": units[None]}, format="4")
        header = f"{name} 1 {CHALLENGE_HZ} {len(units)} 05:05:15 1/05/2000 \n"
        header += f"{name}.mat 16+24 {CHALLENGE_GAIN}/mV 16 0 {units[0]} 0 0 ECG \n"
        (root / f"{name}.hea").write_text(header, newline="\r\n")
    (root / "RECORDS").write_text("".join(f"{name}\n" for name in names))
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    (root / "REFERENCE.csv").write_text("".join(rows))


def main() -> None:
    """Write `out/icentia11k` and `out/training2017`, or nothing at all."""
    parser = argparse.ArgumentParser(
        prog="python -m recordings.synthetic", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: parser.exit(2, f"error: {message} (see --help)\n")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="size of the cohort")
    parser.add_argument("--seed", type=int, default=0, help="of the cohort")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier cohort")
    args = parser.parse_args()
    sizes, out = {name: getattr(args, name) for name in SIZES}, args.out.resolve()
    if args.seed < 0 or min(sizes.values()) < 1:
        parser.error("sizes are whole numbers above 0, the seed is not below 0")
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).exists():
            parser.error(f"--out {out} holds other files; name a new folder")
        if not args.overwrite:
            parser.error(f"--out {out} holds a synthetic cohort; add --overwrite to replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        made = Path(folder, "made")
        *icentia, recordings = sizes.values()
        write_icentia11k(made / "icentia11k", *icentia, args.seed)
        write_challenge17(made / "training2017", recordings, args.seed)
        (made / MARKER).write_text(json.dumps({**sizes, "seed": args.seed}, indent=1) + "\n")
        if out.exists():
            out.rename(Path(folder, "earlier"))
        made.rename(out)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
