"""Recordings of one's own, listed in a table, to prepared sets."""

import json

import numpy as np
import pandas as pd
import pytest

from finetuning import prepare
from finetuning.batches import draw
from finetuning.datasets.table import read_table
from finetuning.prepared_set import load_prepared
from tests.helpers import command, noise, put_challenge
from utils.cli import UserError

FS = 300
SAID = ["--record-fs", FS, "--unit", "mV"]


@pytest.fixture
def make(tmp_path):
    """Write recordings and their table, prepare them; returns what the command printed."""

    def run(rows, *flags, write=True):
        (tmp_path / "mine").mkdir(exist_ok=True)
        for number, row in enumerate(rows if write else ()):
            np.save(tmp_path / "mine" / row["file"], noise(600, 2, seed=number) / 1000)
        pd.DataFrame(rows).to_csv(tmp_path / "mine/labels.csv", index=False)
        given = ["--table", tmp_path / "mine/labels.csv", "--out", tmp_path / "out/t"]
        flags = ["--pad", 256, "--overwrite", *flags]
        return command(prepare.main, *given, *flags)

    return run


def rows(count=10, labels=("AF", "N"), **columns):
    return [
        {"file": f"r{number}.npy", "label": labels[number % len(labels)]}
        | {name: values[number % len(values)] for name, values in columns.items()}
        for number in range(count)
    ]


def load(tmp_path, *names):
    return [load_prepared(tmp_path / f"out/t_{name}.npz") for name in names or ("train", "test")]


def test_one_label_each(make, tmp_path):
    result = make(rows(), *SAID)
    assert (result.code, result.err) == (0, ""), result
    train, test = load(tmp_path)
    assert train.y.sum(0).tolist() == [4, 4] and test.y.sum(0).tolist() == [1, 1]
    manifest = train.manifest
    assert (manifest["multi_label"], manifest["labels"]) == (False, "labels.csv")
    np.testing.assert_allclose(manifest["mean_mv"], train.signal.mean(0) / 1000, atol=1e-6)
    np.testing.assert_allclose(manifest["sd_mv"], train.signal.std(0) / 1000, atol=1e-6)
    assert str(tmp_path) not in json.dumps(manifest)
    for number, path in enumerate((tmp_path / "mine").glob("*.npy")):
        np.save(path, np.load(path)[:, 0] + number)
    assert "offsets of recordings differ" in make(rows(), *SAID, write=False).err
    train, _ = load(tmp_path)
    assert train.signal.shape[1] == 1 and isinstance(train.manifest["sd_mv"], float)


def test_several_labels_make_a_multi_label_set(make, tmp_path):
    assert make(rows(labels=("AF;PVC", "N", "AF | N")), *SAID).code == 0
    train, test = load(tmp_path)
    assert train.multi_label and train.classes.tolist() == ["AF", "N", "PVC"]
    labels = dict(zip([*train.record_ids, *test.record_ids], [*train.y, *test.y], strict=True))
    assert labels["r0.npy"].tolist() == [1, 0, 1] and labels["r2.npy"].tolist() == [1, 1, 0]


def test_split_of_the_table(make, tmp_path):
    parts = ["train"] * 6 + ["val", "val", "test", "test"]
    assert make(rows(split=parts, patient=list("abababccdd")), *SAID).code == 0
    train, val, test = load(tmp_path, "train", "val", "test")
    assert [len(part) for part in (train, val, test)] == [6, 2, 2]
    assert val.record_ids.tolist() == ["r6.npy", "r7.npy"]
    assert train.patients.tolist() == [0, 1] * 3
    assert (train.manifest["seed"], train.manifest["test_size"]) == (None, None)


def test_patients_stay_together_in_prepare_and_in_the_trainer(make, tmp_path):
    for seed in range(3):
        flags = ["--seed", seed, "--test-size", 0.4]
        assert make(rows(20, patient=list("aabbcddee")), *SAID, *flags).code == 0
        train, test = load(tmp_path)
        assert not set(train.patients) & set(test.patients)
    fitted, drawn = draw(train, np.arange(len(train)), 0, "--val-size", test_size=0.3)
    assert not set(train.patients[fitted]) & set(train.patients[drawn])


def test_a_class_that_a_part_lacks(make):
    """Two patients have N, one AF: where this one does not train, there is nothing to learn."""
    results = {}
    for seed in range(8):
        flags = ["--seed", seed, "--test-size", 0.3]
        result = make(rows(20, patient=list("abac")), *SAID, *flags)
        results[result.code] = result
    results[2].refused("train has no record of class AF", "--seed")
    assert results[0].err == "test has no recording of 1 classes: AF\n", results[0]
    result = make(rows(labels=("AF;I;J;K", "N;M"), split=["test", "train"]), *SAID)
    assert result.code == 0 and "train has no recording of 4 classes: AF, I, J, K\n" in result.err


def test_rate_unit_and_gain_by_row(make, tmp_path):
    table = rows(fs=[300, 600, 300, 300], unit=["mV", "mV", "uV", "adu"], gain=["", "", "", 2])
    assert make(table).code == 0
    signals = {}
    for part in load(tmp_path):
        places = zip(part.record_ids, part.offsets, part.offsets[1:], strict=False)
        signals |= {record: part.signal[start:stop].astype(float) for record, start, stop in places}
    loudness = {record: np.abs(signal).mean() for record, signal in signals.items()}
    assert len(signals["r0.npy"]) == 500 and len(signals["r1.npy"]) == 250
    assert loudness["r2.npy"] < 1 and loudness["r1.npy"] > 50
    assert loudness["r3.npy"] == pytest.approx(loudness["r0.npy"] / 2, rel=0.2)
    table[1]["unit"] = "V"
    assert "1 × 72.2% of the samples of lead 0 are missing" in make(table).err


def test_a_wfdb_record_without_a_gain(make, tmp_path):
    (tmp_path / "mine").mkdir()
    for number in range(10):
        noise(600, 1, seed=number).tofile(tmp_path / f"mine/r{number}.dat")
        header = f"r{number} 1 300 600\nr{number}.dat 16 0\n"
        (tmp_path / f"mine/r{number}.hea").write_text(header)
    table, sds = [row | {"file": f"../mine/{row['file'][:-4]}.hea"} for row in rows()], []
    elsewhere = ["--source", tmp_path / "out"]  # where paths start; they may lead out of it
    for flags in ([], ["--unit", "uV"], ["--unit", "adu", "--gain", 50]):
        (tmp_path / "out").mkdir(exist_ok=True)
        result = make(table, *elsewhere, *flags, write=False)
        assert result.code == 0, result
        assert ("10 uncalibrated signals (no gain in the" in result.err) is not bool(flags)
        sds.append(load(tmp_path)[0].manifest["sd_mv"])
    assert sds == pytest.approx([sds[0], 0.2 * sds[0], 4 * sds[0]], rel=0.01)


def test_what_is_left_out(make, tmp_path):
    table = rows(12)
    table[3]["label"] = " ; "
    make(table, *SAID)
    (tmp_path / "mine/r5.npy").unlink()
    np.save(tmp_path / "mine/r6.npy", noise(600, 3) / 1000)
    (tmp_path / "mine/r7.npy").write_text("no array")
    make(table, *SAID, write=False).refused("too few of 12 records", "(4 left out: ")
    result = make(table, *SAID, "--allow-missing", write=False)
    assert result.code == 0 and result.err.startswith("4 left out: "), result
    left_out = load(tmp_path)[0].manifest["left_out"]
    reasons = {entry["record"]: entry["reason"] for entry in left_out}
    assert reasons.pop("r7.npy").startswith("unreadable .npy file")
    assert reasons == {
        "r3.npy": "no label", "r5.npy": "not found", "r6.npy": "number of leads is 3, not 2",
    }  # fmt: skip
    result = make(table[6:8], *SAID, "--allow-missing", write=False)
    result.refused("'N': 0", "1 × unreadable .npy file")
    for path in (tmp_path / "mine").glob("*.npy"):
        np.save(path, noise(600, 2) * [1e-3, 0])
    make(rows(), *SAID, write=False).refused("lead 1 is flat")


@pytest.mark.parametrize(
    ("table", "flags", "words"),
    [
        ([], SAID, "labels.csv is not a table"),
        ([{"file": "r0.npy"}], SAID, "needs file and label"),
        ([{"file": "r0.npy", "label": "A\0"}], SAID, "no NUL"),
        (rows(2, labels=["AF"]), SAID, "names 1 classes"),
        (rows(unit=["kV"]), SAID, "'r0.npy': unit is kV; give mV, uV, V, or adu"),
        (rows(), [*SAID, "--gain", 200], "'r0.npy': a gain is for the unit adu"),
        (rows(fs=["fast"]), SAID, "'r0.npy': 'fast' is not a number above 0"),
        (rows(split=["train", "dev"]), SAID, "not every row has a split (train, val, test)"),
        (rows(split=["train", ""]), SAID, "not every row has a split"),
        (rows(patient=["a", ""]), SAID, "not every row has a split (train, val, test) or patient"),
        (rows(split=["train", "test"], patient=["a"]), SAID, "patient a is in several splits"),
        ([row | {"file": f"data_84_{row['file'][1:]}"} for row in rows(split=["train", "val"])],
         SAID, "patient data_84 is in several splits"),
        (rows(split=["train", "test"]), SAID, "train has no record of class N"),
        (rows(split=["train"]), [*SAID, "--seed", 0], "--test-size and --seed draw a split"),
        (rows(patient=["a"]), SAID, "train set will be empty"),
        ([*rows(9), {"file": "x.npy", "label": "rare"}], SAID, "'rare': 1"),
        (rows(), ["--unit", "mV"], "10 × file without a sampling rate; give --record-fs"),
        (rows(fs=[300, ""]), ["--unit", "mV"], "too few of 10 records are usable (5 left out"),
        (rows(), ["--record-fs", FS], "10 × unit is not given"),
        (rows(), ["--record-fs", FS, "--unit", "uV"], "most amplitudes are none of an ECG"),
        (rows(), [*SAID, "--labels", "zip"], "--labels zip"),
    ],
)  # fmt: skip
def test_what_is_refused(make, tmp_path, table, flags, words):
    make(table, *flags).refused(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_how_cells_are_separated(make, tmp_path, mark):
    """As spreadsheets save tables where the comma is a decimal comma, too."""
    assert make(rows(), *SAID).code == 0
    rate, labels = "300" if mark == "," else "300,0", "AF|N" if mark == ";" else "AF;N"
    cells = [(f"r{n}.npy", labels if n % 2 else "N", rate) for n in range(10)]
    lines = map(mark.join, [("\ufefffile", "label", "fs"), *cells])
    (tmp_path / "mine/marked.csv").write_text("\n".join(lines))
    result = make((), "--unit", "mV", "--table", tmp_path / "mine/marked.csv")
    assert result.code == 0 and "left out" not in result.err, result
    assert sum(len(part) for part in load(tmp_path)) == 10
    assert load(tmp_path)[0].classes.tolist() == ["AF", "N"]


@pytest.mark.parametrize("lines", ["r0.npy,N\nr1.npy,A,F\n", "file,label,label\nr0.npy,N,Z\n"])
def test_a_table_that_is_not_clear(tmp_path, lines):
    (tmp_path / "labels.csv").write_text(lines)
    with pytest.raises(UserError, match=r"labels.csv is not a table .*(saw 3|once)"):
        read_table(tmp_path / "labels.csv")


def test_a_recording_by_several_names(make, tmp_path):
    folder = tmp_path / "mine"
    make(rows(3), *SAID)
    put_challenge(folder / "w0", noise(600, 2), FS, ["I", "II"])
    (folder / "linked.npy").symlink_to(folder / "r1.npy")
    for first, other in (("w0", "w0.hea"), ("w0.hea", "w0.mat"), ("r1.npy", "linked.npy")):
        table = [*rows(1), *({"file": file, "label": "AF"} for file in (first, other))]
        make(table, *SAID, write=False).refused(f"{other!r}: the recording has two rows")
