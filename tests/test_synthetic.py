"""The synthetic cohort is readable as the real sets are, and its labels tell what is in it."""

from collections import Counter
from unittest import mock

import numpy as np
import pytest
import wfdb
from scipy.io import loadmat

from recordings import synthetic, wfdb_files
from recordings.annotations import ICENTIA_BEATS, ICENTIA_RHYTHMS
from recordings.synthetic import AFIB, FLUTTER, NOISE, NORMAL, PAC, PVC, SINUS
from tests.helpers import command, contents

QUIET = {"noise": (0, 0), "wander": (0, 0)}


def draw(rhythm, seed=0, **ranges):
    """90 s at 250 Hz."""
    rng = np.random.default_rng(seed)
    no_ectopy = {"pac": (0, 0), "pvc": (0, 0), "glitches": (0, 0)}
    patient = synthetic.draw_patient(rng, **no_ectopy | ranges)
    return synthetic.draw_recording(rng, patient, [(rhythm, 1)], 90 * 250, 250)


def write(folder, patients=8, seed=0):
    """Icentia11k (i) and 43 recordings of the Challenge (c)."""
    synthetic.write_icentia11k(folder / "i", patients, segments=2, samples=20_000, seed=seed)
    synthetic.write_challenge17(folder / "c", 43, seed)
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cohort"))


def test_zones_open_and_close_on_beats_and_leave_noise_out(cohort):
    assert len(list(cohort.glob("i/p00/p0000?/p0000?_s0[01].dat"))) == 16
    text = (cohort / "i/p00/p00003/p00003_s01.hea").read_text()
    first = "p00003_s01 1 250 20000\np00003_s01.dat 16 74.36482269503546(0)/mV 16 0 "
    assert text.startswith(first)
    seen = Counter()
    for path in cohort.rglob("*.atr"):
        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
        zone = beat = last = None
        for sample, symbol, note in zip(marks.sample, marks.symbol, marks.aux_note, strict=True):
            seen[note or symbol] += 1
            if symbol != "+":
                assert beat is None or sample > beat
                assert symbol in ICENTIA_BEATS and note == "" and (zone is None or symbol != "Q")
                beat, last = sample, symbol
                continue
            assert sample == beat and last != "Q" and (zone is None) == (note != ")")
            assert note == ")" or note.removesuffix(")") in ICENTIA_RHYTHMS
            zone = None if note.endswith(")") else note
        assert zone is None
    assert set(seen) >= {"N", "S", "V", "Q", "(N", "(AFIB", "(AFL", ")"}


def test_short_zones_and_segments(tmp_path):
    zones = synthetic.ZONES[[SINUS, NOISE, AFIB, AFIB, FLUTTER, NOISE]]
    units = np.zeros(600, np.int16)
    wfdb_files.write_segment(tmp_path, "a", units, 200, np.arange(6) * 100, "N" * 6, zones)
    marks = wfdb_files.read_atr(tmp_path / "a")
    notes = [(s, n) for s, n in zip(marks.sample, marks.aux_note, strict=True) if n]
    assert notes == [(0, "(N)"), (200, "(AFIB"), (300, ")"), (400, "(AFL)")]
    synthetic.write_icentia11k(tmp_path / "short", patients=3, segments=1, samples=1, seed=0)
    assert len(list(tmp_path.glob("short/**/*.dat"))) == 3
    assert not list(tmp_path.glob("short/**/*.atr"))  # there is no beat


def test_annotations_sit_on_the_r_peaks():
    for seed in range(5):
        signal, _, peaks = draw(SINUS, seed, **QUIET)
        near = np.abs(signal[peaks[1:-1, None] + np.arange(-8, 9)])
        assert np.abs(near.argmax(axis=1) - 8).max() <= 1


def test_rhythms_are_as_irregular_and_p_waves_as_present_as_they_should():
    def measure(rhythm, seed):
        rates = {"rate": (60, 60), "fib_rate": (60, 60)}
        signal, beats, peaks = draw(rhythm, seed, **QUIET, **rates)
        p_wave = signal[peaks[1:-1, None] + np.arange(-65, -25)].mean(axis=0)
        return np.median(np.abs(beats.rr / np.median(beats.rr) - 1)), np.ptp(p_wave)

    rhythms = (SINUS, AFIB, FLUTTER)
    found = {r: np.mean([measure(r, seed) for seed in range(10)], axis=0) for r in rhythms}
    assert found[AFIB][0] > 2 * found[SINUS][0] > 2 * found[FLUTTER][0]
    assert found[SINUS][1] > 1.5 * found[AFIB][1]


@pytest.mark.parametrize("kind, feature", [(PVC, "pvc"), (PAC, "pac")])
def test_ectopic_beats_are_early_and_only_pvcs_are_wide(kind, feature):
    signal, beats, peaks = draw(SINUS, 3, **QUIET, **{feature: (0.15, 0.15)})
    inner = (peaks > 50) & (peaks < len(signal) - 50)
    ectopic, normal = beats.kinds == kind, beats.kinds == NORMAL
    assert ectopic.sum() > 10
    assert beats.rr[ectopic].max() < 0.85 * np.median(beats.rr[normal])
    widths = []
    for chosen in (ectopic, normal):
        mean = signal[peaks[inner & chosen][:, None] + np.arange(-40, 41)].mean(axis=0)
        mean = np.abs(mean - np.median(mean))
        widths.append(np.count_nonzero(mean > mean.max() / 2))
    ratio = widths[0] / widths[1]
    assert ratio > 1.8 if kind == PVC else 0.8 < ratio < 1.2


def test_same_seed_same_bytes(cohort, tmp_path):
    whole = contents(cohort).items()
    assert contents(write(tmp_path / "fewer", patients=3)).items() < whole
    common = contents(write(tmp_path / "other", patients=3, seed=1)).items() & whole
    assert [name for name, _ in common] == ["c/RECORDS"]


def test_challenge_recordings_read_alike_as_matlab_and_wfdb(cohort):
    challenge = cohort / "c"
    names = (challenge / "RECORDS").read_text().split()
    labels = dict(row.split(",") for row in (challenge / "REFERENCE.csv").read_text().split())
    assert names == list(labels) == [f"A{n:05}" for n in range(1, 44)]
    assert Counter(labels.values()) == {"N": 21, "A": 10, "O": 8, "~": 4}
    seconds = []
    for name in names:
        values = loadmat(challenge / f"{name}.mat")["val"]
        assert values.shape[0] == 1 and values.dtype == np.int16
        record = wfdb.rdrecord(str(challenge / name), physical=False)
        np.testing.assert_array_equal(record.d_signal[:, 0], values[0])
        assert (record.fs, record.adc_gain, record.init_value) == (300, [1000], [values[0, 0]])
        seconds.append(values.shape[1] / 300)
    assert 9 - 1 / 300 <= min(seconds) < 10.5 and 13.5 < max(seconds) <= 15
    header = (challenge / "A00001.hea").read_bytes()
    assert header.count(b" \r\n") == header.count(b"\n") == 2


def test_the_command_makes_a_new_folder_or_nothing(tmp_path):
    out = tmp_path / "cohort"
    flags = ("--out", out, "--patients", 1, "--segments", 1, "--samples", 2000, "--recordings", 3)
    full = mock.Mock(side_effect=OSError("disk full"))
    with mock.patch.object(synthetic, "write_challenge17", full):
        command(synthetic.main, *flags).refused("disk full")
    assert not contents(tmp_path)
    assert command(synthetic.main, *flags).code == 0
    assert {path.name for path in out.iterdir()} == {"icentia11k", "training2017"}
    command(synthetic.main, *flags).refused("is not empty")
