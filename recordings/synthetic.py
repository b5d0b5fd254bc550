"""Synthetic ECG, and cohorts of it in the layouts of Icentia11k and of the 2017 Challenge.

    python -m recordings.synthetic --out demo/data

For demos, tests and benchmarks: scores reached on it say nothing about real ECG. Beats are sums of
Gaussian waves (after McSharry et al. 2003); atrial activity is a sawtooth (after Stridh & Sörnmo
2001). Rates and amplitudes are plausible, but not fitted to recordings.
"""

import argparse
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
SINUS, AFIB, FLUTTER, NOISE = range(4)
NORMAL, PAC, PVC = range(3)
P, Q, R, S, T = range(5)
# Of these waves: amplitude (mV), centre (s from the R peak), standard deviation (s).
WAVES = np.array([[0.12, -0.17, 0.022], [-0.08, -0.028, 0.009], [1.0, 0.0, 0.011],
                  [-0.2, 0.03, 0.011], [0.25, 0.28, 0.05]])  # fmt: skip
# What differs between people, uniform in these ranges.
FEATURES = {
    "rate": (54, 96), "variability": (0.02, 0.09),  # sinus: beats per minute, spread of RR / RR
    "pac": (0, 0.08), "pvc": (0, 0.08),  # shares of sinus beats
    "fib_rate": (65, 125), "fib_spread": (0.13, 0.28),  # fibrillation, as in sinus rhythm
    "fib_hertz": (4.5, 8.5), "fib_size": (0.02, 0.08),  # fibrillatory waves: Hz, mV
    "flutter_hertz": (4.4, 5.5), "conduction": (2, 5),  # flutter waves: Hz, whole number per beat
    "wander": (0.03, 0.15), "noise": (0.01, 0.07),  # baseline and broadband, mV
    "glitches": (0, 0.01),  # share of beats lost in a short artefact
}  # fmt: skip
ZONES = np.array(["(N", "(AFIB", "(AFL", ""])  # of SINUS, AFIB, FLUTTER, NOISE
SYMBOLS = np.array(["N", "S", "V"])  # of NORMAL, PAC, PVC
# Challenge classes: percentage of the recordings; and cases, of which one is drawn: a rhythm, and
# the features that differ.
PERCENT = {"N": 45, "A": 25, "O": 20, "~": 10}
CASES = {
    "N": [(SINUS, {})], "A": [(AFIB, {})], "~": [(NOISE, {})],
    "O": [(FLUTTER, {}), (SINUS, {"pac": (0.3, 0.5)}), (SINUS, {"pvc": (0.3, 0.5)}),
          (SINUS, {"rate": (38, 50)}), (SINUS, {"rate": (108, 130)})],
}  # fmt: skip


def draw_patient(rng: Generator, **ranges: tuple[float, float]) -> SimpleNamespace:
    """Draw a person's `FEATURES`, within other `ranges` where given, and the `shapes` of the waves:
    (3 kinds of beat, 5 waves, 3), amplitude in mV, centre and width in s."""
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
    """Draw a recording of `stretches` (rhythm, seconds), of which the last is prolonged if needed.

    Returns the signal (samples,) in mV, the beats within it, and their R peaks as sample numbers.
    Beats have `times`, `rr` (seconds since the beat before), `kinds`, and `rhythms` of the latter.
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
    following = np.searchsorted(beats.times, np.arange(samples) / hertz)
    rhythms = beats.rhythms[following.clip(max=len(beats.times) - 1)]  # (samples,)

    def band(low: float, high: float) -> np.ndarray:
        """Gaussian noise between two frequencies (Hz), about unit standard deviation."""
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequencies = np.fft.rfftfreq(samples, 1 / hertz)
        inside = (frequencies >= low) & (frequencies < high)
        power = max(inside.mean(), 1 / samples)  # no band at all in a very short signal
        return np.fft.irfft(spectrum * inside, samples) / np.sqrt(power)

    def atrial_waves(rate: float, spread: float) -> np.ndarray:
        """Sawtooth of three harmonics, about unit size; its rate (Hz) varies by `spread`."""
        rates = rate * (1 + spread * band(0.1, 1))
        phase = 2 * np.pi * (np.cumsum(rates) / hertz + rng.random())
        saw = sum(np.sin(k * phase) / k for k in (1, 2, 3))
        return saw * (1 + 2 * spread * band(0.1, 1))

    # By rhythm: 1 in it, 0 elsewhere, with ramps of 0.2 s.
    gates = [uniform_filter1d((rhythms == r).astype(float), hertz // 5) for r in range(4)]
    fib = patient.fib_size * atrial_waves(patient.fib_hertz, 0.12)
    flutter = 0.1 * atrial_waves(patient.flutter_hertz, 0.004)
    signal = _beat_waves(rng, patient, beats, samples, hertz)
    signal += gates[AFIB] * fib + gates[FLUTTER] * flutter
    # Motion, muscle or a lost electrode: share of the ECG that is left, size (mV), frequencies.
    sources = [(1, 0.9, 0.4, 5), (0.8, 0.5, 4, 60), (0.04, 0.12, 0.5, 60)]
    kept, size, low, high = sources[rng.integers(3)]
    bursts = size * rng.uniform(0.7, 1.4) * (0.5 + np.abs(band(0.1, 0.8)))
    artefact, noisy = bursts * band(low, high), gates[NOISE]
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
            folder, name = segment_path(root, number, segment)
            write_segment(folder, name, units, ICENTIA_GAIN, peaks, symbols, ZONES[beats.rhythms])


def write_challenge17(
    root: Path, recordings: int, seed: int, seconds: tuple[float, float] = (9.0, 15.0)
) -> None:
    """Write `root/A00001.{mat,hea}` …, `RECORDS` and `REFERENCE.csv`, at 300 Hz; `seconds` bounds
    the durations. The classes have their `PERCENT`, rounded down; the rest is N."""
    counts = {label: recordings * percent // 100 for label, percent in PERCENT.items()}
    counts["N"] += recordings - sum(counts.values())
    labels = np.repeat(list(counts), list(counts.values()))
    labels = np.random.default_rng([seed, recordings]).permutation(labels)
    root.mkdir(parents=True, exist_ok=True)
    rows = {f"A{number:05}": label for number, label in enumerate(labels, 1)}
    for number, name in enumerate(tqdm(rows, desc="training2017", disable=None)):
        rng = np.random.default_rng([seed, number, CHALLENGE_HZ])
        cases = CASES[rows[name]]
        rhythm, features = cases[rng.integers(len(cases))]
        patient = draw_patient(rng, **{"pac": (0, 0), "pvc": (0, 0)} | features)
        samples = int(rng.uniform(*seconds) * CHALLENGE_HZ)
        signal, _, _ = draw_recording(rng, patient, [(rhythm, 1)], samples, CHALLENGE_HZ)
        units = np.rint(signal * CHALLENGE_GAIN).astype(np.int16)
        savemat(root / f"{name}.mat", {"val": units[None]}, format="4")
        header = f"{name} 1 {CHALLENGE_HZ} {len(units)} 05:05:15 1/05/2000 \n"
        header += f"{name}.mat 16+24 {CHALLENGE_GAIN}/mV 16 0 {units[0]} 0 0 ECG \n"
        (root / f"{name}.hea").write_text(header, newline="\r\n")
    (root / "RECORDS").write_text("".join(f"{name}\n" for name in rows))
    (root / "REFERENCE.csv").write_text("".join(f"{n},{label}\n" for n, label in rows.items()))


def main() -> None:
    """Write `out/icentia11k` and `out/training2017`, or nothing at all."""
    parser = argparse.ArgumentParser(
        prog="python -m recordings.synthetic", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.error = lambda message: parser.exit(2, f"error: {message} (see --help)\n")
    flag = parser.add_argument
    flag("--out", type=Path, required=True, help="folder to make")
    flag("--patients", type=int, default=24, help="[icentia11k]")
    flag("--segments", type=int, default=2, help="[icentia11k] of each patient")
    flag("--samples", type=int, default=30_000, help="[icentia11k] of each segment")
    flag("--recordings", type=int, default=300, help="[training2017]")
    flag("--seed", type=int, default=0, help="of the cohort")
    args = parser.parse_args()
    out, icentia = args.out.resolve(), (args.patients, args.segments, args.samples)
    if args.seed < 0 or min(*icentia, args.recordings) < 1:
        parser.error("sizes are whole numbers above 0, the seed is not below 0")
    if out.exists() and any(out.iterdir()):
        parser.error(f"--out {out} is not empty; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        made = Path(folder, "made")
        write_icentia11k(made / "icentia11k", *icentia, args.seed)
        write_challenge17(made / "training2017", args.recordings, args.seed)
        made.rename(out)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
