"""Answers for single recordings: the trainer's probabilities, windows, doubts, several networks."""

import numpy as np
import pandas as pd
import pytest

from finetuning import trainer
from finetuning.predict import Predictor
from finetuning.predict.answers import Rule
from finetuning.predict.band import band_pass
from finetuning.predict.doubts import doubt
from finetuning.predict.windows import windows
from recordings import Unusable
from recordings.formats import read_recording
from tests.helpers import command, put_weights
from utils.cli import UserError

FS = 250


@pytest.fixture(scope="module")
def job(prepared, tmp_path_factory):
    root = tmp_path_factory.mktemp("predictor")
    flags = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags += ["--weights-file", put_weights(root / "weights"), "--val-size", 0.2, "--epochs", 1]
    small = ["--batch-size", 8, "--device", "cpu", "--precision", "fp32"]
    result = command(trainer.main, "--job-dir", root / "job", *flags, *small)
    assert result.code == 0, result
    return root / "job"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Sees a minute at once, as the networks for Challenge 2017 do."""
    path = tmp_path_factory.mktemp("weights") / "weights"
    return load(put_weights(path, **CLASSIFIER))


CLASSIFIER = {"task": "classification", "classes": list("ANO~x"), "frame_size": 16384,
              "dataset": "challenge17", "mean": 0.0, "sd": 0.25}  # fmt: skip


def load(*paths, **settings) -> Predictor:
    return Predictor.load(*paths, device="cpu", precision="fp32", **settings)


def heartbeats(seconds: float, fs: float = FS, mv: float = 1.0) -> np.ndarray:
    """(samples,) mV: a spike every 0.8 s, and some noise."""
    times = np.arange(round(seconds * fs)) / fs
    spikes = mv * np.exp(-(((times % 0.8 - 0.4) / 0.02) ** 2))
    return spikes + np.random.default_rng(0).normal(0, 0.02, len(times))


def test_probabilities_are_those_of_the_run(job, prepared):
    predictor = load(job / "best_model.safetensors", band_pass=False)
    table = pd.read_csv(job / "test_predictions.csv", dtype={"record_name": str})
    assert predictor.contract.classes == list("ANO~")
    columns = [f"prob_{name}" for name in predictor.contract.classes]
    for name, *expected in table[["record_name", *columns]].itertuples(index=False):
        recording = read_recording(prepared.parent / "source" / f"{name}.hea")
        (found,) = predictor.members[0].probabilities([recording.signal], recording.fs)
        assert found.shape == (4,) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_units_rates_and_one_lead_without_a_second_axis(predictor):
    signal = heartbeats(30)
    expected = predictor.predict(signal, FS).probabilities
    assert expected.shape == (5,) and expected.dtype == np.float32
    in_microvolt = predictor.predict(signal[:, None] * 1000, FS, "uV").probabilities
    np.testing.assert_allclose(in_microvolt, expected)
    for unit in ("\u00b5V", "\u03bcv", "UV"):
        alike = predictor.predict(signal * 1000, FS, unit).probabilities
        np.testing.assert_array_equal(alike, in_microvolt)
    assert np.abs(predictor.predict(signal, 200).probabilities - expected).max() > 1e-4


def test_the_mean_of_several_networks(predictor, tmp_path):
    hotter = put_weights(tmp_path / "hotter", **CLASSIFIER, temperature=3.0)
    signal = heartbeats(30)
    one, other = predictor.predict(signal, FS), load(hotter).predict(signal, FS)
    logits = np.log(one.probabilities) / 3  # but for a constant
    np.testing.assert_allclose(other.probabilities, np.exp(logits) / np.exp(logits).sum(), 1e-4)
    put_weights(tmp_path / "same", **CLASSIFIER)
    both = load(tmp_path / "same", hotter).predict(signal, FS)
    mean = (one.probabilities + other.probabilities) / 2
    np.testing.assert_allclose(both.probabilities, mean, atol=1e-6)


def test_each_of_several_networks_sees_the_band_that_it_knows(tmp_path):
    known = put_weights(tmp_path / "known", **CLASSIFIER | {"dataset": "challenge17"})
    other = put_weights(tmp_path / "other", **CLASSIFIER | {"dataset": "mine"})
    signal = heartbeats(30) + 0.3
    alone = [load(path).predict(signal, FS).probabilities for path in (known, other)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    for paths in ((known, other), (other, known)):
        both = load(*paths).predict(signal, FS).probabilities
        np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)


def test_networks_that_do_not_fit_together(tmp_path):
    one = put_weights(tmp_path / "one", **CLASSIFIER)
    other = put_weights(tmp_path / "other", **CLASSIFIER | {"classes": list("abcde")})
    with pytest.raises(UserError, match=r"other: its classes .* are not .* of .*one"):
        load(one, other)


@pytest.mark.parametrize(
    ("signal", "unit", "words"),
    [
        (np.zeros((1000, 2)), "mV", r"not \(samples, 1\); this network takes one .*signal\[:, 0\]"),
        (np.zeros((1000, 1, 1)), "mV", "is not"),
        (np.zeros(0), "mV", "is not"),
        (np.zeros(1000), "adu", "unit adu without a gain"),
        (np.zeros(1000), None, "no unit given"),
        (np.zeros(1000), "kV", "unknown unit 'kV'; known: mV, uV, V, adu"),
    ],
)
def test_recordings_that_cannot_be_used(predictor, signal, unit, words):
    with pytest.raises(Unusable, match=words):
        predictor.predict(signal, FS, unit)


def spoiled(change) -> np.ndarray:
    signal = heartbeats(30)
    change(signal)
    return signal


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (heartbeats(3), "3.0 s are too short, below 9 s"),
        (np.zeros(30 * FS), "flat"),
        (heartbeats(30).clip(-0.02, 0.02), "clipped"),
        (spoiled(lambda signal: signal.put(77, np.nan)), "samples are missing"),
        (heartbeats(30) * 2000, "spans 2010 mV, an ECG 0.02 to 30;"),
        (heartbeats(30) * 1000, "a thousand times as much: uV taken for mV"),
        (heartbeats(30) / 1000, "a thousandth of it: V taken for mV"),
        (heartbeats(30) * 1e6, "wrong --unit or --gain?"),
    ],
)
def test_it_says_when_it_cannot_tell(predictor, signal, words):
    found = predictor.predict(signal, FS)
    assert words in found.whole.reason and not found.classes
    assert np.isnan(found.probabilities).all() and found.probabilities.shape == (5,)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_network_that_gives_no_numbers(multi_label):
    rule = Rule(["a", "b"], multi_label, 0.5)
    windows = [rule.answer(0, 30, np.array([np.nan, 0.9])), rule.answer(30, 60, "flat")]
    assert windows[0].reason == "the network gives no numbers" and not windows[0].classes
    assert rule.whole(windows).reason.startswith("0 of 2 windows can be read (")


def test_an_offset_beyond_what_networks_are_given(predictor, tmp_path):
    """Such as that of an amplifier without a high-pass; int16 microvolt would make it flat."""
    signal = heartbeats(30) + 40
    assert not predictor.predict(signal, FS).whole.reason
    plain = load(put_weights(tmp_path / "w", **CLASSIFIER), band_pass=False)
    assert "has an offset of more than 32.767 mV" in plain.predict(signal, FS).whole.reason


def test_usual_signals_are_not_doubted(ecg_data):
    for path in sorted((ecg_data / "training2017").glob("A0000*.hea")):
        recording = read_recording(path)
        assert doubt(recording.signal, recording.fs, 9) is None, path


def test_no_answer_below_the_confidence_asked_for(predictor, tmp_path):
    put_weights(tmp_path / "w", **CLASSIFIER)
    sure = predictor.predict(heartbeats(30), FS)
    assert sure.classes == (sure.names[sure.probabilities.argmax()],)
    assert sure.whole.confidence == sure.probabilities.max()
    unsure = load(tmp_path / "w", abstain=0.999).predict(heartbeats(30), FS)
    np.testing.assert_equal(unsure.probabilities, sure.probabilities)
    assert not unsure.classes and unsure.whole.reason == "confidence is below 0.999"


def test_long_recordings_in_windows(predictor):
    signal = heartbeats(100)
    signal[: 30 * FS] = 0
    found = predictor.predict(signal, FS)
    spans = [(answer.start, answer.stop) for answer in found.windows]
    assert spans == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert found.windows[0].reason == "flat" and not found.windows[1].reason
    alone = predictor.predict(signal[30 * FS : 60 * FS], FS)
    np.testing.assert_allclose(found.windows[1].probabilities, alone.probabilities, atol=1e-6)
    rest = [answer.probabilities for answer in found.windows[1:]]
    np.testing.assert_allclose(
        found.probabilities, np.average(rest, axis=0, weights=[30, 30, 10]), atol=1e-6
    )
    assert found.shares()[""] == 0.3 and sum(found.shares().values()) == pytest.approx(1)


def test_a_recording_of_which_little_can_be_read(predictor):
    signal = heartbeats(120)
    signal[: 90 * FS] = 0
    assert predictor.predict(signal, FS).whole.reason == "1 of 4 windows can be read (flat)"


def test_a_window_of_rounded_length_is_looked_at_once():
    """10.24 s are 2631.68 samples at this rate."""
    assert [window.start for window in windows(10527, 257, 10.24)] == [0, 2632, 5263, 7895]


def test_windows_of_a_network_that_sees_little(tmp_path):
    """2,048 samples at 250 Hz are not a whole number of those at 360 Hz."""
    small = load(put_weights(tmp_path / "small", **CLASSIFIER | {"frame_size": 2048}))
    found = small.predict(heartbeats(30), 360)
    assert [answer.reason for answer in found.windows] == [None] * len(found.windows)


@pytest.mark.parametrize(
    ("seconds", "capacity", "expected"),
    [
        (5, 65.5, [(0, 5)]),
        (61, 65.5, [(0, 61)]),
        (64, 65.5, [(0, 30), (30, 64)]),
        (120, 65.5, [(0, 30), (30, 60), (60, 90), (90, 120)]),
        (128, 65.5, [(0, 30), (30, 60), (60, 90), (90, 128)]),
        (129, 65.5, [(0, 30), (30, 60), (60, 90), (90, 120), (120, 129)]),
        (25, 10, [(0, 10), (10, 20), (15, 25)]),
    ],
)
def test_windows(seconds, capacity, expected):
    for fs in (250, 360, 128):
        found = windows(round(seconds * fs), fs, capacity)
        assert [(start / fs, stop / fs) for start, stop in found] == expected


def test_answers_of_networks_that_know_several_classes_at_once():
    rule = Rule(["a", "b"], multi_label=True, abstain=0.9)
    assert rule.answer(0, 1, np.float32([0.6, 0.7])).classes == ("a", "b")
    assert rule.answer(0, 1, np.float32([0.1, 0.2])).classes == ()


def test_weights_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="was trained for beat; name a best_model"):
        Predictor.load(put_weights(tmp_path / "weights"))
    other = put_weights(tmp_path / "other", task="classification", classes=["A", "N"])
    with pytest.raises(UserError, match="does not match the network"):
        Predictor.load(other)


def test_signals_are_cut_to_the_band_of_the_recordings_trained_on(predictor, tmp_path):
    times = np.arange(30 * FS) / FS
    signal = heartbeats(30)
    disturbed = signal + 2 + 0.5 * np.sin(2 * np.pi * 100 * times)
    expected = predictor.predict(signal, FS).probabilities
    np.testing.assert_allclose(predictor.predict(disturbed, FS).probabilities, expected, atol=1e-3)
    as_it_is = load(put_weights(tmp_path / "w", **CLASSIFIER), band_pass=False)
    assert np.abs(as_it_is.predict(disturbed, FS).probabilities - expected).max() > 0.01
    within = band_pass(np.sin(2 * np.pi * 5 * times)[:, None], FS, (0.5, 40))
    inner = slice(FS, -FS)
    np.testing.assert_allclose(within[inner, 0], np.sin(10 * np.pi * times)[inner], atol=0.02)
    assert np.isfinite(band_pass(signal[:30, None], 50, (0.5, 40))).all()  # 50 Hz hold no 40
