"""Twelve leads and several diagnoses to a record: from Challenge 2020's files to scores."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.signal import resample_poly

from finetuning import prepare, trainer
from finetuning.datasets import challenge20
from finetuning.prepared_set import load_prepared
from report import compare
from tests.helpers import command, noise, put_challenge, put_weights
from utils import metrics
from utils.metrics import calibration_scores, read_predictions
from utils.model_card import TWELVE_LEADS
from utils.weights import read_weights

SINUS, AF, PAC = "426783006", "164889003", "284470004"
DIAGNOSES = (SINUS, AF, f"{PAC},{AF}", f"{PAC}, {SINUS}")
RATES = (500, 257, 1000)


def put(folder, name, dx=f"# Dx: {SINUS}", **options):
    units = options.pop("units", noise(seed=options.pop("seed", 0), samples=1100))
    comments = ["# Age: 60", *([dx] if dx else []), "# Rx: Unknown"]
    put_challenge(folder / name, units, comments=comments, **options)


@pytest.fixture
def source(tmp_path):
    """Twenty records, half of them in a folder of their own."""
    for number in range(20):
        dx = f"#{'' if number % 3 else ' '}Dx: {DIAGNOSES[number % 4]}"
        name = f"training/{'g1/' if number % 2 else ''}A{number:04}"
        put(tmp_path, name, dx, seed=number, fs=RATES[number % 3])
    return tmp_path / "training"


@pytest.fixture
def command_on(tmp_path):
    def run(source, *flags):
        out = ["--out", tmp_path / "out/c", "--pad", 256]
        return command(prepare.main, "--dataset", "challenge20", "--source", source, *out, *flags)

    return run


def load(tmp_path):
    """The training part; the signals of all records and their labels, by name."""
    train, test = (load_prepared(tmp_path / f"out/c_{name}.npz") for name in ("train", "test"))
    signals = {}
    for part in (train, test):
        places = zip(part.record_ids, part.offsets, part.offsets[1:], strict=False)
        signals |= {record: part.signal[start:stop] for record, start, stop in places}
    return train, signals, dict(zip(signals, [*train.y, *test.y], strict=True))


def test_contract(source, command_on, tmp_path):
    put(source, "none", dx="# Dx: Unknown")
    put(source, "A0000", f"# Dx: {SINUS}", units=noise(1100) * (np.arange(12) != 3))
    result = command_on(source, "--test-size", 0.25, "--seed", 3)
    assert result.code == 0 and "1 × no label, such as none" in result.err, result
    train, signals, labels = load(tmp_path)
    assert len(train) == 15 and train.classes.tolist() == sorted([SINUS, AF, PAC])
    assert sorted(labels) == sorted(f"{'g1/' * (n % 2)}A{n:04}" for n in range(20))
    assert labels["A0002"].tolist() == [1, 1, 0] and labels["g1/A0003"].tolist() == [0, 1, 1]
    manifest = train.manifest
    assert manifest["partly-flat"] == {"count": 1, "records": ["A0000"]}
    assert manifest["constant"]["count"] == 0
    assert manifest["multi_label"] is True and manifest["labels"] == "Dx"
    assert (manifest["mean_mv"], manifest["sd_mv"]) == ([0.0] * 12, list(challenge20.SD_MV))
    for record, signal in signals.items():  # each from its own rate
        number = int(record[-4:])
        assert len(signal) == -(-1100 * 250 // RATES[number % 3])
        if RATES[number % 3] == 500 and number:
            microvolt = noise(seed=number, samples=1100).astype(float)
            expected = resample_poly(microvolt, 1, 2, axis=0, padtype="line")
            assert np.abs(signal - expected).max() <= 0.5001


def test_leads_are_put_in_order_by_name(tmp_path, command_on):
    """Also those of Challenge 2021's PTB-XL, whose units have small letters."""
    put(tmp_path, "training/A1", leads=[name.upper() for name in reversed(TWELVE_LEADS)])
    put(tmp_path, "training/A2", units=noise(1100)[:, ::-1])
    put(tmp_path, "training/A3", units=noise(1100)[:, ::-1], leads=["lead"] * 12)
    put(tmp_path, "training/HR4", units=noise(1100)[:, ::-1])
    header = tmp_path / "training/HR4.hea"
    header.write_text(header.read_text().replace("16+24 1000/mV", "16x1+24 1000.0(0)/mv"))
    assert command_on(tmp_path / "training").code == 0
    first, *others = load(tmp_path)[1].values()  # in A3, names tell nothing
    assert len(others) == 3 and all(np.array_equal(first, signal) for signal in others)


def test_records_of_one_subject_stay_together(tmp_path, command_on):
    """Two records each, of whom headers, names or a file say whom they are of."""
    subjects, source = {}, tmp_path / "training"
    for number in range(8):
        line = f"# patient {number}" if number % 2 else f"#Subject ID: P{number}"
        names = {f"incart/I{number}a": f"\n{line}", f"incart/I{number}b": f"\n{line}"}
        for name in ("ptb/patient00{}/s1", "ptb/patient00{}/s2", "cpsc/data_{}_1", "cpsc/data_{}_2",
                     "p/S{}0", "p/S{}1"):  # fmt: skip
            names[name.format(number)] = ""
        for name, comment in names.items():
            put(source, name, dx=f"# Dx: {(SINUS, AF)[number % 2]}{comment}")
            subjects[name] = name[:-1]
    put(source, "other")
    lines = [f"S{number}{end},p{number}\n" for number in range(8) for end in (0, 1)]
    (tmp_path / "who.csv").write_text("record,subject\n" + "".join(lines))
    for seed in range(3):
        flags = ["--subjects", tmp_path / "who.csv", "--test-size", 0.4, "--seed", seed]
        result = command_on(source, "--overwrite", *flags)
        assert "65 records of 33 patients" in result.out
        train, test = (load_prepared(tmp_path / f"out/c_{name}.npz") for name in ("train", "test"))
        of_train, of_test = ({subjects.get(n) for n in part.record_ids} for part in (train, test))
        assert not of_train & of_test and len(of_train) > 10 < len(of_test)
    (tmp_path / "who.csv").write_text("a,b")
    command_on(source, "--overwrite", *flags).refused("who.csv has no line record,subject")


def test_unusable_records_are_left_out(source, command_on, tmp_path):
    unusable = {
        "no label": {"dx": None},
        "number of leads is 2, not 12": {"units": noise(1100, 2), "leads": ["I", "II"]},
        "leads are A, B,": {"leads": list("ABCDEFGHIJKL")},
        "499 samples are shorter than 1 s": {"units": noise(499)},
        "100.0% of the samples of lead 0": {"units": np.full((1100, 12), -(2**15), np.int16)},
    }
    for number, options in enumerate(unusable.values()):
        put(source, f"U{number}", **options)
    (source / "A0000.mat").unlink()
    assert command_on(source).err.startswith("6 left out: ")
    train, signals, _ = load(tmp_path)
    assert len(signals) == 19
    reasons = [entry["reason"] for entry in train.manifest["left_out"]]
    for reason, expected in zip(reasons, ["no .mat beside its .hea", *unusable], strict=True):
        assert expected in reason


def test_what_is_refused(source, command_on, tmp_path):
    (tmp_path / "empty").mkdir()
    command_on(tmp_path / "empty").refused("empty holds no .hea files")
    for path in source.rglob("*.hea"):
        path.write_text(path.read_text().replace("Dx:", "Hx:"))
    command_on(source).refused("20 records are usable", "20 × no label")
    command_on(source, "--val-folds", 3).refused("--val-folds", "--dataset challenge20 --help")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def job(source, command_on, tmp_path):
    """One epoch from one-lead weights."""
    assert command_on(source).code == 0
    weights = put_weights(tmp_path / "one")

    def run(folder, *flags):
        parts = ["--train", tmp_path / "out/c_train.npz", "--test", tmp_path / "out/c_test.npz"]
        small = ["--epochs", 1, "--device", "cpu", "--precision", "fp32", "--val-size", 0.25]
        start = ["--weights-file", weights, "--job-dir", tmp_path / folder]
        return command(trainer.main, *parts, *small, *start, *flags)

    return run


def test_training_on_several_labels(job, tmp_path):
    result = job("job", "--val-metric", "auc", "--subset", 0.5)
    assert result.code == 0 and "F-max" in result.out and "G-beta" in result.out, result
    assert "encoder.conv1.weight of one lead repeated over 12" in result.out
    history = pd.read_csv(tmp_path / "job/history.csv")
    assert list(history)[3:] == ["val_loss", "val_acc", "macro_f1", "f_max", "auc"]
    metadata = read_weights(tmp_path / "job/best_model.safetensors")[1]
    assert metadata.multi_label and metadata.sd == list(challenge20.SD_MV)
    assert (metadata.resampling, metadata.padtype) == ("polyphase", "line")
    table = read_predictions(tmp_path / "job/test_predictions.csv")
    test = load_prepared(tmp_path / "out/c_test.npz")
    assert np.array_equal(table.true, test.y) and table.record_names[0] == test.record_ids[0]
    scores = json.loads((tmp_path / "job/scores.json").read_text())["test"]
    prob = np.ascontiguousarray(table.prob, np.float32)
    again = metrics.scores(table.true, prob, table.classes)
    assert scores.pop("uncalibrated").keys() == {"nll", "ece"}
    assert scores == again | calibration_scores(table.true, prob)
    command(compare.main, "--jobs", f"x={tmp_path / 'job'}").refused("several classes")


def test_one_lead_of_several(job, tmp_path):
    result = job("job", "--channel", 6)
    assert result.code == 0 and "repeated" not in result.out, result
    metadata = read_weights(tmp_path / "job/best_model.safetensors")[1]
    assert (metadata.in_channels, metadata.sd) == (1, challenge20.SD_MV[6])


def test_sets_of_both_kinds_are_not_mixed(job, tmp_path):
    other = shutil.copytree(tmp_path / "out", tmp_path / "other")
    path = other / "c_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"multi_label": False}))
    job("job", "--test", other / "c_test.npz").refused("--train", "--test", "multi_label")
    job("job", "--train", other / "c_train.npz", "--test", other / "c_test.npz").refused("several")
