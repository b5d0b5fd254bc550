"""Predictions for recordings: the class `Predictor`, and the command with its files."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from scipy.signal import resample_poly

from finetuning.predict import Predictor, __main__, band_pass, split_windows
from recordings import Unusable
from recordings.formats import open_recording, read_recording
from recordings.resampling import resample
from recordings.synthetic import write_challenge17
from tests.helpers import command, make_metadata, put_edf, put_weights
from utils.cli import UserError
from utils.model_card import TWELVE_LEADS

FS = 250
CLASSES = list("ANO~x")
CLASSIFIER = {"task": "classification", "classes": CLASSES, "frame_size": 16384,
              "dataset": "challenge17", "mean": 0.0, "sd": 0.25}  # fmt: skip

TWELVE = CLASSIFIER | {"dataset": "ptbxl", "in_channels": 12, "frame_size": 2560,
                       "multi_label": True}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four synthetic recordings of half a minute, A00001 to A00004, 300 Hz."""
    root = tmp_path_factory.mktemp("source") / "training2017"
    write_challenge17(root, 4, seed=0, seconds=(30.0, 30.001))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a network that sees a minute at once, like those for Challenge 2017."""
    return put_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", **CLASSIFIER)


@pytest.fixture(scope="module")
def predictor(weights) -> Predictor:
    return load(weights)


def load(*paths, **settings) -> Predictor:
    return Predictor.load(*paths, device="cpu", precision="fp32", **{"abstain": 0} | settings)


def run(weights, *flags):
    return command(__main__.main, "--device", "cpu", "--precision", "fp32", "--weights", weights,
                   *flags)  # fmt: skip


def predict_file(folder, weights, record, *flags) -> dict:
    """Entry of the only recording in the JSON file."""
    out = folder / "a.json"
    result = run(weights, record, "--json", out, "--abstain", 0, "--overwrite", *flags)
    assert result.code == 0, result
    return json.loads(out.read_text())["recordings"][0]


def heartbeats(seconds: float, flat: float = 0) -> np.ndarray:
    """(samples,) mV: a spike every 0.8 s, and some noise; zeros in the first `flat` seconds."""
    times = np.arange(round(seconds * FS)) / FS
    spikes = np.exp(-(((times % 0.8 - 0.4) / 0.02) ** 2))
    return (spikes + np.random.default_rng(0).normal(0, 0.02, len(times))) * (times >= flat)


def test_units_and_rates(predictor):
    signal = heartbeats(30)
    expected = predictor.predict(signal, FS).probabilities
    found = predictor.predict(signal[:, None] * 1000, FS, "\u00b5V").probabilities
    np.testing.assert_allclose(found, expected)
    assert np.abs(predictor.predict(signal, 200).probabilities - expected).max() > 1e-4


def test_the_mean_of_several_networks_each_with_its_temperature_and_band(weights, tmp_path):
    hotter = put_weights(tmp_path / "hotter", **CLASSIFIER, temperature=3.0)
    unfiltered = put_weights(tmp_path / "unfiltered", **CLASSIFIER | {"dataset": "mine"})
    signal, paths = heartbeats(30) + 0.3, (weights, hotter, unfiltered)
    alone = [load(path).predict(signal, FS).probabilities for path in paths]
    logits = np.log(alone[0]) / 3  # but for a constant
    np.testing.assert_allclose(alone[1], np.exp(logits) / np.exp(logits).sum(), 1e-4)
    assert np.abs(alone[0] - alone[2]).max() > 1e-3
    found = load(unfiltered, hotter, weights).predict(signal, FS).probabilities
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-6)


def test_weights_and_arrays_that_are_refused(weights, predictor, tmp_path):
    with pytest.raises(UserError, match=r"is for beat; name weights of finetuning\.trainer"):
        load(put_weights(tmp_path / "beat"))
    letters = put_weights(tmp_path / "letters", **CLASSIFIER | {"classes": list("abcde")})
    with pytest.raises(UserError, match="letters: different classes or numbers of leads"):
        load(weights, letters)
    for shape, words in (((9000, 2), "has 2 leads, not 1; pass one, such as signal[:, 0]"),
                         ((2, 9000), "has 2 leads, not 1; pass one, such as signal[0]"),
                         ((1000, 2, 2), "is not samples by"), (0, "is not samples")):  # fmt: skip
        with pytest.raises(Unusable, match=re.escape(words)):
            predictor.predict(np.zeros(shape), FS)


def test_the_shipped_classifier_is_the_default(source):
    shipped = Predictor.load(device="cpu", precision="fp32")
    assert shipped.abstain == 0.5 and len(repr(shipped)) < 120 and "'A', 'N'" in repr(shipped)
    signal = read_recording(source / "A00001.hea").signal
    found = shipped.predict(signal.T, 300)  # as rows
    np.testing.assert_array_equal(found.probabilities, shipped.predict(signal, 300).probabilities)


def test_recordings_are_resampled_as_the_training_data(tmp_path):
    signal, found = heartbeats(30)[: 29 * FS] + 1, []
    for number, fields in enumerate([{}, {"padtype": "line"}, {"resampling": "fft"}]):
        changes = CLASSIFIER | {"dataset": "mine"} | fields
        network = load(put_weights(tmp_path / str(number), **changes)).networks[0]
        found.append(network.network_input(signal[:, None], 300)[0][0, 0].numpy())
        method, padtype = fields.get("resampling", "polyphase"), fields.get("padtype", "constant")
        expected = resample(signal[:, None], 300, FS, padtype, method)[:, 0] / 0.25
        np.testing.assert_allclose(found[-1][-len(expected) :], expected, atol=0.003)
    assert all(np.abs(other - found[0]).max() > 0.1 for other in found[1:])


def spiked(share: float, height: float = 100.0) -> np.ndarray:
    """Heart beats of half a minute with this share of impossible samples, one after another."""
    signal = heartbeats(30)
    signal[1000 : 1000 + max(1, round(share * len(signal)))] = height
    return signal


@pytest.mark.parametrize("height", [100, -187.5, np.nan, np.inf])
def test_few_impossible_or_missing_samples_are_cut_out(predictor, height):
    expected = predictor.predict(heartbeats(30), FS)
    for share, words in ((0, "1, from 4.00 to 4.00 s"), (0.008, "60, from 4.00 to 4.24 s")):
        spoilt = spiked(share, height)
        for signal in (spoilt, np.ma.masked_array(spoilt, spoilt == height)):
            found = predictor.predict(signal, FS)
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=0.05)
            assert found.notes == (f"missing or impossible samples interpolated: {words}",)
    assert not expected.notes


def test_windows_around_a_gap_are_answered(predictor):
    """8 s are missing from 44 s on, and a gap of most of a recording allows no answer."""
    signal = heartbeats(120)
    signal[44 * FS : 52 * FS] = np.nan
    found = predictor.predict(signal, FS)
    assert [bool(answer.reason) for answer in found.windows] == [False, True, False, False]
    assert "26.7% of the samples are missing" in found.windows[1].reason
    assert found.whole.readable and found.whole.classes and found.shares()[""] == 0.25
    signal[20 * FS : 100 * FS] = np.nan
    reason = predictor.predict(signal, FS).whole.reason
    assert reason.startswith("0 of 4 windows can be read (33.3% of the samples are missing")


def test_leads_that_are_flat(tmp_path):
    """A network of twelve leads answers if at least half of them can be used."""
    predictor = load(put_weights(tmp_path / "w", **TWELVE))
    signal = heartbeats(10)[:, None] * np.linspace(0.5, 1.5, 15)
    signal[:, [3, 13]] = 0
    found = predictor.predict(signal[:, :12], FS)
    assert found.whole.readable and found.notes == ("leads flat or clipped: 3",)
    signal[:, :7] = 0
    assert predictor.predict(signal[:, :12], FS).whole.reason == "flat"
    put_edf(tmp_path / "r.edf", signal, FS, [*TWELVE_LEADS, "vx", "vy", "vz"])
    selected = predictor.select_leads(open_recording(tmp_path / "r.edf"))
    assert selected.leads == list(TWELVE_LEADS) and "left out: vx, vy, vz" in selected.notes[0]


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (heartbeats(3), "3.0 s are too short, below 9 s"),
        (heartbeats(30).clip(-0.02, 0.02), "clipped"),
        (spiked(0.02), "2.0% of the samples are missing or impossible"),
        (heartbeats(30) / 100, "an ECG 0.02 to 30"),
    ],
)
def test_cannot_tell_because_of_the_signal(predictor, signal, words):
    found = predictor.predict(signal, FS)
    assert words in found.whole.reason and not found.classes
    assert np.isnan(found.probabilities).all() and found.probabilities.shape == (5,)


@pytest.mark.parametrize("multi_label", [False, True])
def test_from_probabilities_to_an_answer(multi_label):
    metadata = make_metadata(classes=["a", "b"], multi_label=multi_label)
    predictor = Predictor([SimpleNamespace(metadata=metadata)], abstain=0.5)
    both, none = (predictor.answer(0, 1, np.float32(p)) for p in ([0.6, 0.7], [0.1, 0.2]))
    assert both.classes == (("a", "b") if multi_label else ("b",)) and not none.classes
    assert none.reason == (None if multi_label else "confidence is below 0.5")
    missing = predictor.answer(0, 30, np.full(2, np.nan), "flat")
    assert missing.reason == "flat" and not missing.classes


def test_long_recordings_are_read_in_windows(predictor):
    signal = heartbeats(100, flat=30)
    found = predictor.predict(signal, FS)
    spans = [(answer.start, answer.stop) for answer in found.windows]
    assert spans == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert [answer.reason for answer in found.windows] == ["flat", None, None, None]
    alone = predictor.predict(signal[30 * FS : 60 * FS], FS)
    np.testing.assert_allclose(found.windows[1].probabilities, alone.probabilities, atol=1e-6)
    rest = [answer.probabilities for answer in found.windows[1:]]
    mean = np.average(rest, axis=0, weights=[30, 30, 10])
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    assert found.shares()[""] == 0.3 and sum(found.shares().values()) == pytest.approx(1)
    reason = predictor.predict(heartbeats(90, flat=75), FS).whole.reason
    assert reason == "1 of 3 windows can be read (flat)"


@pytest.mark.parametrize(
    ("seconds", "capacity", "expected"),
    [
        (61, 65.5, [(0, 61)]),
        (64, 65.5, [(0, 30), (30, 64)]),
        (90, 65.5, [(0, 30), (30, 60), (60, 90)]),
        (69, 65.5, [(0, 30), (30, 60), (60, 69)]),
        (25, 10, [(0, 10), (10, 20), (15, 25)]),
    ],
)
def test_windows(seconds, capacity, expected):
    for fs in (250, 360, 128):
        windows = split_windows(round(seconds * fs), fs, capacity)
        assert [(start / fs, stop / fs) for start, stop in windows] == expected
    # 10.24 s are 2631.68 samples at 257 Hz: no window repeats.
    assert [start for start, _ in split_windows(10527, 257, 10.24)] == [0, 2632, 5263, 7895]


def test_the_filter(predictor, weights):
    times, signal = np.arange(30 * FS) / FS, heartbeats(30)
    disturbed = signal + 2 + 0.5 * np.sin(2 * np.pi * 100 * times)
    expected = predictor.predict(signal, FS).probabilities
    unfiltered = load(weights, band_pass=False)
    np.testing.assert_allclose(predictor.predict(disturbed, FS).probabilities, expected, atol=1e-3)
    assert np.abs(unfiltered.predict(disturbed, FS).probabilities - expected).max() > 0.01
    assert not predictor.predict(signal + 40, FS).whole.reason
    reason = unfiltered.predict(signal + 40, FS).whole.reason
    assert "has an offset of more than 32.767 mV" in reason
    wave = np.sin(2 * np.pi * 5 * times)
    inside = band_pass(wave[:, None], FS, (0.5, 40))[:, 0]
    np.testing.assert_allclose(inside[FS:-FS], wave[FS:-FS], atol=0.02)
    assert np.isfinite(band_pass(signal[:30, None], 50, (0.5, 40))).all()  # 40 Hz is too high


def test_a_folder_as_table_and_files(source, weights, predictor, tmp_path):
    """Labels and checksums in it are no recordings; named, they are errors."""
    (source / "MD5.txt").write_text("0cc175b9c0f1b6a831c399e269772661 A00001.mat\n" * 4)
    run(weights, source / "MD5.txt").refused("1 of 1 recordings cannot be read")
    out = tmp_path / "a.csv", tmp_path / "a.json"
    result = run(weights, source, "--csv", out[0], "--json", out[1], "--abstain", 0)
    assert result.code == 0 and "cannot be read" not in result.out, result
    assert result.err == "passed over, as no tables of numbers: MD5.txt, REFERENCE.csv\n"
    header, *lines = result.out.splitlines()
    assert header.split() == ["recording", "lead", "length", "answer", *CLASSES]
    rows, document = list(csv.DictReader(out[0].open())), json.loads(out[1].read_text())
    columns = ["recording", "lead", "window", "start_s", "stop_s", "answer", "reason"]
    assert list(rows[0]) == [*columns, *(f"prob_{name}" for name in CLASSES)]
    assert document["weights"][0]["sha256"] and document["classes"] == CLASSES
    for line, row, entry in zip(lines, rows, document["recordings"], strict=True):
        name = row["recording"]
        recording = read_recording(source / f"{name}.hea")
        expected = predictor.predict(recording.signal, recording.fs).probabilities
        assert line.startswith(f"{name}     ECG       30.0 s")
        assert (row["window"], row["lead"]) == ("whole", "ECG")
        found = [float(row[f"prob_{label}"]) for label in CLASSES]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(list(entry["probabilities"].values()), expected, atol=1e-5)
        assert entry["answer"] == [row["answer"]] == [CLASSES[expected.argmax()]]


def test_the_same_answer_in_other_formats_rates_and_units(source, tmp_path):
    recording = read_recording(source / "A00001.hea")
    signal = resample_poly(recording.signal, 360, 300, padtype="line")
    np.save(tmp_path / "a.npy", signal * 1000)
    put_edf(tmp_path / "a.edf", signal, 360)
    expected = predict_file(tmp_path, __main__.SHIPPED, source / "A00001.mat")
    for name, flags in {"a.npy": ["--fs", 360, "--unit", "uV"], "a.edf": []}.items():
        found = predict_file(tmp_path, __main__.SHIPPED, tmp_path / name, *flags)
        assert found["answer"] == expected["answer"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=0.02)


def test_a_header_without_a_gain(source, weights, tmp_path):
    shutil.copy(source / "A00001.mat", tmp_path)
    header = (source / "A00001.hea").read_text()
    (tmp_path / "A00001.hea").write_text(header.replace("1000/mV", "0/mV"))
    expected, assumed = run(weights, source / "A00001.hea"), run(weights, tmp_path)
    stated = run(weights, tmp_path, "--unit", "adu", "--gain", 1000)
    assert stated.out == expected.out and not stated.err
    assert "A00001: no gain in the header: 200 units per mV are assumed" in assumed.err
    assert assumed.code == 0 and assumed.out != expected.out


def test_a_long_recording_with_a_row_for_each_window(weights, tmp_path):
    """And a name with a control character and a byte of Windows-1252, as in old archives."""
    path, table = tmp_path / os.fsdecode(b"M\xfcller\x1b.npy"), tmp_path / "a.csv"
    np.save(path, heartbeats(100, flat=30))
    flags = ["--csv", table, "--json", tmp_path / "a.json", "--plot", tmp_path / "p"]
    result = run(weights, path, "--fs", FS, "--unit", "mV", "--abstain", 0, *flags)
    assert result.code == 0 and "of 4 windows:" in result.out and "cannot tell" in result.out
    assert "\x1b" not in result.out and "M\\xfcller" in result.out
    rows = list(csv.DictReader(table.open()))
    assert [row["window"] for row in rows] == ["whole", "1", "2", "3", "4"]
    assert [row["reason"] for row in rows] == ["", "flat", "", "", ""]
    assert rows[1]["prob_A"] == "" and float(rows[4]["start_s"]) == 90
    pictures = [path.name for path in (tmp_path / "p").iterdir()]
    assert sum(name.endswith("_timeline.png") for name in pictures) == 1
    assert len(pictures) == 1 + len({row["answer"] for row in rows[2:]})


def test_names_tell_recordings_apart():
    """Pictures have them, too: none begins with a dot, and no two are alike."""
    for paths, names in (("a/r.hea b/s.csv", "r s"), ("../r.csv ../R.csv", "r.csv R.csv"),
                         ("/x/a/r.csv /x/r.edf /x/ü.csv", "a/r.csv r.edf ü.csv")):  # fmt: skip
        assert __main__.short_names(list(map(Path, paths.split()))) == names.split()


def test_what_cannot_be_read_does_not_stop_the_others(source, weights, tmp_path):
    (tmp_path / "broken.edf").write_bytes(b"0       ")
    result = run(weights, tmp_path / "broken.edf", source / "A00001.mat")
    assert "broken" in result.out and "A00001" in result.out
    result.refused("1 of 2 recordings cannot be read, see above")
    run(weights, tmp_path).refused("1 of 1 recordings cannot be read")


def test_interrupted_runs_keep_their_results(source, weights, tmp_path, monkeypatch):
    result = __main__.Result("a", source, error="x")
    results = mock.Mock(side_effect=[result, KeyboardInterrupt, KeyboardInterrupt])
    monkeypatch.setattr(__main__, "predict_file", results)
    for _ in range(2):  # the second has no results, and replaces nothing
        assert run(weights, source, "--csv", tmp_path / "a.csv", "--overwrite").code == 130
        assert (tmp_path / "a.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "name recordings"),
        ("{source} --export onnx", "name recordings, or --export; not both"),
        ("{source} --out x", "--out: only with --export"),
        ("--export onnx --tta 4", "--export takes one --weights and --out"),
        ("{source} --unit adu", "--gain is of --unit adu"),
        ("{source} --csv {source} --overwrite", "is no file; name another"),
        ("{source} --csv {file}", "exists; name another, or give --overwrite"),
        ("{source} --plot {source}", "exists; name another, or give --overwrite"),
        ("{source}/A00001.mat --channel V9", "1 of 1 recordings cannot be read"),
    ],
)
def test_flags_that_are_refused(source, weights, flags, words):
    run(weights, *flags.format(source=source, file=weights).split()).refused(words)


def test_twelve_leads_are_put_in_order_by_name(tmp_path):
    weights = put_weights(tmp_path / "w", **TWELVE)
    signal = np.random.default_rng(0).normal(size=(2500, 12))
    found = []
    for number, order in enumerate([range(12), [*range(6, 12), *range(6)]]):
        record = tmp_path / f"{number}.edf"
        put_edf(record, signal[:, list(order)], 250, [TWELVE_LEADS[lead] for lead in order])
        entry = predict_file(tmp_path, weights, record)
        assert entry["lead"] == "all"
        found.append(entry["probabilities"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
