"""Recordings of one's own, in any format that can be read, and the table that lists them."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.io import savemat

from finetuning import prepare, trainer
from finetuning.batches import draw
from finetuning.prepared_set import load_prepared
from recordings import Unusable
from recordings.formats import Recording, lead_order, read_recording
from recordings.resampling import to_microvolt
from tests.helpers import command, noise, put_challenge, put_weights

FS, SIGNAL = 300, noise(600, 3) / 1000  # mV


def put_csv(path, table, **options):
    pd.DataFrame(table).to_csv(path, index=False, **options)


FILES = {
    "a.csv": lambda path: put_csv(path, SIGNAL, header=["I", "II", "V1"]),
    "bare.csv": lambda path: put_csv(path, SIGNAL, header=False),
    "timed.csv": lambda path: put_csv(
        path, np.column_stack([np.arange(600) / FS, SIGNAL]), header=["time", "I", "II", "V1"]
    ),
    "semicolon.csv": lambda path: put_csv(path, SIGNAL, sep=";", header=["I", "II", "V1"]),
    "bom.csv": lambda path: put_csv(path, SIGNAL, header=["I", "II", "V1"], encoding="utf-8-sig"),
    "b.txt": lambda path: np.savetxt(path, SIGNAL, header="I II V1"),
    "wide.txt": lambda path: np.savetxt(path, SIGNAL.T, delimiter="\t"),
    "c.npy": lambda path: np.save(path, SIGNAL),
    "wide.npy": lambda path: np.save(path, SIGNAL.T),
    "d.mat": lambda path: savemat(path, {"val": SIGNAL.T}),
    "tall.mat": lambda path: savemat(path, {"val": SIGNAL}),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path, name):
    FILES[name](tmp_path / name)
    recording = read_recording(tmp_path / name, FS, "mV")
    assert recording.signal.shape == (600, 3) and recording.signal.dtype == np.float64
    np.testing.assert_allclose(recording.signal, SIGNAL, atol=1e-12)
    named = name in ("a.csv", "timed.csv", "semicolon.csv", "bom.csv")
    assert recording.leads == (["I", "II", "V1"] if named else None)


SECONDS = np.arange(600) / FS
TIMES = {
    "rounded": ("t_ms,I,II", np.rint(SECONDS * 100) / 100),  # some are equal
    "no name": ("", np.rint(SECONDS * 100) / 100),
    "falls": ("Time (s),I,II", SECONDS % 1),
    "mark": ("'sample #',I,II", -np.arange(600)),
    "gap": ("index,I,II", np.where(SECONDS == 1, np.nan, SECONDS)),
}


@pytest.mark.parametrize("kind", TIMES)
def test_time_is_no_lead(tmp_path, kind):
    names, times = TIMES[kind]
    table = np.column_stack([times, SIGNAL[:, :2]])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=names, comments="")
    recording = read_recording(tmp_path / "a.csv", FS, "mV")
    np.testing.assert_allclose(recording.signal, SIGNAL[:, :2])
    assert recording.leads == (["I", "II"] if names else None)


@pytest.mark.parametrize("first", [np.zeros(600), SIGNAL[:, 2]], ids=["flat", "noise"])
def test_a_first_column_that_is_a_lead(tmp_path, first):
    table = np.column_stack([first, SIGNAL[:, :2]])
    for name, text in (("tall", table), ("wide", table[:, :2].T)):
        np.savetxt(tmp_path / f"{name}.csv", text, delimiter=",", header="")
        found = read_recording(tmp_path / f"{name}.csv", FS, "mV").signal
        np.testing.assert_allclose(found, table if name == "tall" else table[:, :2])


def test_the_first_sample_of_all_leads_is_no_time(tmp_path):
    np.savetxt(tmp_path / "wide.txt", np.sort(SIGNAL.T, axis=0))
    assert read_recording(tmp_path / "wide.txt", FS, "mV").signal.shape == (600, 3)


@pytest.mark.parametrize(
    ("unit", "gain", "factor"), [("mV", None, 1), ("µv", None, 1e-3), ("V", None, 1e3),
                                 ("adu", 200, 1 / 200)],
)  # fmt: skip
def test_units(tmp_path, unit, gain, factor):
    np.save(tmp_path / "a.npy", noise(600, 1)[:, 0])
    signal = read_recording(tmp_path / "a.npy", FS, unit, gain).signal
    np.testing.assert_allclose(signal, noise(600, 1) * factor)


@pytest.mark.parametrize("name", ["r", "r.hea", "r.dat"])
def test_a_wfdb_record_says_its_rate_and_unit(tmp_path, name):
    wfdb.wrsamp(
        "r", 360, ["uV", "mV"], ["MLII", "V5"], p_signal=noise(800, 2).astype(float),
        fmt=["16"] * 2, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = read_recording(tmp_path / name)
    assert (recording.fs, recording.leads) == (360, ["MLII", "V5"])
    np.testing.assert_allclose(recording.signal, noise(800, 2) * [1e-3, 1], rtol=0.01, atol=0.02)
    assert read_recording(tmp_path / name, 300, "V").fs == 360  # the header knows better


def test_a_mat_file_beside_its_header(tmp_path):
    put_challenge(tmp_path / "A1", noise(600, 2), 500, ["I", "II"])
    recording = read_recording(tmp_path / "A1.mat")
    assert (recording.fs, recording.leads) == (500, ["I", "II"])
    np.testing.assert_allclose(recording.signal, noise(600, 2) / 1000)


CLAIM = io.BytesIO()  # 10^12 samples
np.lib.format.write_array_header_1_0(
    CLAIM, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
)
CLAIM = CLAIM.getvalue()
BAD = {
    "no.csv": (lambda path: None, "cannot be read"),
    "nul\0.csv": (lambda path: None, "cannot be read"),
    "folder.npy": (lambda path: path.mkdir(), "cannot be read"),
    "words.csv": (lambda path: path.write_text("a,b\n1,x\n"), "not columns of numbers"),
    "uneven.csv": (lambda path: path.write_text("1,2\n1,2,3\n" * 60), "not columns of numbers"),
    "comma.csv": (
        lambda path: path.write_text("MLII\n" + "-125,0\n" * 600),
        "1 named, 2 in the line below; decimal commas?",
    ),
    "watch.csv": (
        lambda path: path.write_text("Name,X\nEinheit,µV\n\n" + "-125,0\n4,25\n" * 300),
        "decimal commas? else name the columns",
    ),
    "timed.csv": (
        lambda path: path.write_text("time;I\n" + "0,1;-0,5\n" * 600), "with decimal points",
    ),
    "empty.csv": (lambda path: path.write_text(""), "not columns of numbers"),
    "binary.txt": (lambda path: path.write_bytes(bytes(range(256))), "not columns of numbers"),
    "short.csv": (lambda path: put_csv(path, SIGNAL[:299]), "299 samples are shorter than 1 s"),
    "gap.csv": (lambda path: put_csv(path, np.where(SIGNAL > 0.2, np.nan, SIGNAL)), "NaN"),
    "text.npy": (lambda path: path.write_text("no array"), "not a plain array"),
    "object.npy": (
        lambda path: np.save(path, np.array([{}] * 600), allow_pickle=True), "not a plain array",
    ),
    "square.npy": (lambda path: np.save(path, np.zeros((600, 600))), "is not samples by leads"),
    "cube.npy": (lambda path: np.save(path, np.zeros((600, 2, 2))), "is not samples by leads"),
    "complex.npy": (lambda path: np.save(path, np.zeros(600, complex)), "is not samples by leads"),
    "latin.csv": (lambda path: path.write_bytes(b"\xb5V\n1\n2\n"), "is not UTF-8; save it so"),
    "other.mat": (lambda path: savemat(path, {"x": SIGNAL}), "holds no 'val'"),
    "cut.mat": (
        lambda path: savemat(path, {"val": SIGNAL}) or path.write_bytes(path.read_bytes()[:999]),
        "it is damaged, or no MATLAB file",
    ),
    "new.mat": (
        lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(99)),
        "save it with -v7",
    ),
    "text.mat": (lambda path: path.write_text("no" * 99), ".mat cannot be read"),
    "claim.npy": (lambda path: path.write_bytes(CLAIM + b"12"), "not a plain array"),
    "huge.npy": (lambda path: np.save(path, SIGNAL * 1e308), "infinite values"),
    "long.csv": (lambda path: path.write_text(f"{'[' * 10**5}\n1\n2\nx"), "not columns of numbers"),
    "b.hea": (lambda path: path.write_text("b 1 300 600\nc.dat 16 200/mV\n"), "no c.dat beside"),
    "lone.dat": (lambda path: path.touch(), "no .hea, which"),
    "a.xml": (lambda path: path.touch(), "format .xml is not one of .hea, .csv"),
    "a.hea": (lambda path: path.write_text("a 1 300 600\na.dat 16 200/mV\n"), "no .dat beside"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used(tmp_path, name):
    write, words = BAD[name]
    write(tmp_path / name)
    with pytest.raises(Unusable) as error:
        read_recording(tmp_path / name, FS, "mV")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


HEADER = "r 1 250 600", "r.dat 16 200/mV 16 0 0 0 0 ecg"
HOSTILE = {
    "folder above": (HEADER[0], f"../{HEADER[1]}", "signal file in another folder (../r.dat)"),
    "absolute": (HEADER[0], f"/etc/{HEADER[1]}", "signal file in another folder (/etc/r.dat)"),
    "10^12 samples": ("r 1 250 1000000000000", HEADER[1], "1000000000000 samples, file holds 600"),
    "10^12 leads": ("r 1000000000000 250 600", HEADER[1], "says 1000000000000 leads, lists 1"),
    "gain -200": (HEADER[0], HEADER[1].replace("200", "-200"), "no gain per mV"),
    "gain nan": (HEADER[0], HEADER[1].replace("200", "nan"), "no gain per mV"),
    "rate 0": ("r 1 0 600", HEADER[1], "0 Hz is not from 20 to 20000"),
    "rate -250": ("r 1 -250 600", HEADER[1], "says '-250' for its rate"),
    "rate of words": ("r 1 x250 600", HEADER[1], "says 'x250' for its rate"),
    "skew": (HEADER[0], HEADER[1].replace(" 16 2", " 16:99999999999 2"), "which is not read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_claim_what_cannot_be(tmp_path, name):
    *lines, words = HOSTILE[name]
    for folder in (tmp_path, tmp_path / "set"):
        folder.mkdir(exist_ok=True)
        noise(600, 1).tofile(folder / "r.dat")
    (tmp_path / "set/r.hea").write_text("\n".join(HEADER) + "\n")
    assert len(read_recording(tmp_path / "set/r.hea").signal) == 600
    (tmp_path / "set/r.hea").write_text("\n".join(lines) + "\n")
    with pytest.raises(Unusable) as error:
        read_recording(tmp_path / "set/r.hea")
    assert words in str(error.value)


def test_an_odd_rate_takes_no_more_than_others():
    # As 19999999/1000 it would take a filter of 400 million samples.
    signal, _ = to_microvolt(Recording(SIGNAL, 19999.999), 250, "polyphase", "constant")
    expected, _ = to_microvolt(Recording(SIGNAL, 20000), 250, "polyphase", "constant")
    np.testing.assert_array_equal(signal, expected)


def test_what_has_to_be_said(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL)
    for given, words in (
        ((None, "mV"), ".npy without a sampling rate"),
        ((FS, None), "no unit given"),
        ((FS, "adu"), "unit adu without a gain"),
        ((0.3, "mV"), "0.3 Hz is not from 20 to 20000"),
    ):
        with pytest.raises(Unusable, match=words):
            read_recording(tmp_path / "a.npy", *given)


def test_leads_in_order():
    two = Recording(np.arange(6.0).reshape(3, 2), FS, ["I", "aVR"])
    assert lead_order(two, 2, ["AVR", "I"]) == [1, 0] and lead_order(two, 2, None) == [0, 1]
    assert lead_order(Recording(two.signal[:, :1], FS, ["ecg"]), 1, ["II"]) == [0]
    for count, leads in ((3, None), (2, ["I", "V1"])):
        with pytest.raises(Unusable, match="lead"):
            lead_order(two, count, leads)


# The table


@pytest.fixture
def make(tmp_path):
    """Write recordings and their table, prepare them; what the command said."""

    def run(rows, *flags, write=True):
        for number, row in enumerate(rows if write else ()):
            path = tmp_path / "mine" / row["file"]
            path.parent.mkdir(exist_ok=True, parents=True)
            np.save(path, noise(600, 2, seed=number) / 1000)
        pd.DataFrame(rows).to_csv(tmp_path / "mine/labels.csv", index=False)
        given = ["--table", tmp_path / "mine/labels.csv", "--out", tmp_path / "out/t"]
        return command(prepare.main, "--dataset", "table", *given, "--pad", 256, *flags)

    return run


SAID = ["--record-fs", FS, "--unit", "mV"]


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
    assert manifest["multi_label"] is False and manifest["labels"] == "labels.csv"
    assert manifest["measured_on"] == "train" and "patients" not in manifest
    np.testing.assert_allclose(manifest["mean_mv"], train.signal.mean(0) / 1000, atol=1e-6)
    np.testing.assert_allclose(manifest["sd_mv"], train.signal.std(0) / 1000, atol=1e-6)
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_wfdb_record_without_a_gain(make, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for number in range(10):
        noise(600, 1, seed=number).tofile(mine / f"r{number}.dat")
        (mine / f"r{number}.hea").write_text(f"r{number} 1 300 600\nr{number}.dat 16 0\n")
    table = [row | {"file": row["file"].replace("npy", "hea")} for row in rows()]
    result = make(table, write=False)
    hint = "(no gain in the header: 200 units per mV are assumed), such as r0.hea\n"
    assert result.code == 0 and result.err == f"used, too: 10 uncalibrated signals {hint}", result
    assumed, _ = load(tmp_path)
    assert assumed.manifest["uncalibrated"]["count"] == 10
    for said, sd in ((["--unit", "uV"], 200 / 1000), (["--unit", "adu", "--gain", 50], 4)):
        result = make(table, *said, "--overwrite", write=False)
        assert (result.code, result.err) == (0, ""), result
        manifest = load(tmp_path)[0].manifest
        assert manifest["sd_mv"] == pytest.approx(sd * assumed.manifest["sd_mv"], rel=0.01)
        assert "uncalibrated" not in manifest


def test_equal_seeds_give_equal_bytes(make, tmp_path):
    def written(*flags):
        assert make(rows(), *SAID, *flags, "--overwrite").code == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    first = written()
    assert written() == first != written("--seed", 1)


def test_a_single_lead_has_single_constants(make, tmp_path):
    assert make(rows(), *SAID).code == 0
    for path in (tmp_path / "mine").glob("*.npy"):
        np.save(path, np.load(path)[:, 0])
    assert make(rows(), *SAID, "--overwrite", write=False).code == 0
    train, _ = load(tmp_path)
    assert train.signal.shape[1] == 1 and isinstance(train.manifest["sd_mv"], float)


def test_several_labels_make_a_multi_label_set(make, tmp_path):
    assert make(rows(labels=("AF;PVC", "N", "AF | N")), *SAID).code == 0
    train, test = load(tmp_path)
    assert train.multi_label and train.classes.tolist() == ["AF", "N", "PVC"]
    found = {r: y.tolist() for part in (train, test)
             for r, y in zip(part.record_ids, part.y, strict=True)}  # fmt: skip
    assert found["r0.npy"] == [1, 0, 1] and found["r2.npy"] == [1, 1, 0]


def test_split_of_the_table(make, tmp_path):
    parts = ["train"] * 6 + ["val", "val", "test", "test"]
    assert make(rows(split=parts, patient=["a", "b", "a", "b", "a", "b", "c", "c", "d", "d"]),
                *SAID).code == 0  # fmt: skip
    train, val, test = load(tmp_path, "train", "val", "test")
    assert [len(part) for part in (train, val, test)] == [6, 2, 2]
    assert val.record_ids.tolist() == ["r6.npy", "r7.npy"]
    assert train.patients.tolist() == [0, 1] * 3


def test_patients_are_not_parted(make, tmp_path):
    for seed in range(5):
        flags = ["--seed", seed, "--test-size", 0.4, "--overwrite"]
        assert make(rows(20, patient=list("aabbcddee")), *SAID, *flags).code == 0
        train, test = load(tmp_path)
        assert not set(train.patients) & set(test.patients)


def test_a_class_that_a_part_lacks(make):
    """Two patients have N, one AF: where this one does not train, there is nothing to learn."""
    found = {}
    for seed in range(8):
        flags = ["--seed", seed, "--test-size", 0.3, "--overwrite"]
        result = make(rows(20, patient=list("abac")), *SAID, *flags)
        found[result.code] = result
    found[2].refused("no recording of class AF to train on", "--seed")
    assert found[0].err == "test has no recording of 1 of 2 classes: AF\n", found[0]


def test_a_class_that_a_split_of_the_table_lacks(make):
    result = make(rows(split=["train", "train", "test", "val"]), *SAID)
    lacks = "{} has no recording of 1 of 2 classes: {}\n"
    assert result.err == lacks.format("val", "AF") + lacks.format("test", "N"), result
    many = rows(labels=("AF;I;J;K", "N;M"), split=["test", "train"])
    result = make(many, *SAID, "--overwrite")
    assert (result.code, result.err.splitlines()) == (0, [
        "train has no recording of 4 of 6 classes: AF, I, J, …",
        "test has no recording of 2 of 6 classes: M, N",
    ])  # fmt: skip


def test_a_class_that_a_part_of_the_training_set_lacks(make, tmp_path):
    assert make(rows(30, patient=list("abcdef")), *SAID).code == 0
    train, weights = tmp_path / "out/t_train.npz", put_weights(tmp_path / "one")
    for share, flags in (
        ("val", ["--val-size", 0.2]),
        ("train", ["--subset", 0.3, "--val-size", 0]),
    ):
        flags += ["--train", train, "--weights-file", weights, "--epochs", 1, "--device", "cpu"]
        result = command(trainer.main, *flags, "--job-dir", tmp_path / share)
        assert result.code == 0, result
        assert f"{share} has no recording of 1 of 2 classes: " in result.err, result


def test_rate_unit_and_gain_by_row(make, tmp_path):
    table = rows(fs=[300, 600, 300, 300], unit=["mV", "", "uV", "adu"], gain=["", "", "", 2])
    assert make(table, "--unit", "V").code == 0
    train, test = load(tmp_path)
    loudness = {
        record: (np.abs(part.signal[start:end].astype(float)).mean(), end - start)
        for part in (train, test)
        for record, start, end in zip(
            part.record_ids, part.offsets[:-1], part.offsets[1:], strict=True
        )
    }
    loud = {record: value for record, (value, _) in loudness.items()}
    assert loudness["r0.npy"][1] == 500 and loudness["r1.npy"][1] == 250
    assert loud["r2.npy"] < 1 and loud["r1.npy"] > 20_000
    assert loud["r3.npy"] == pytest.approx(loud["r0.npy"] / 2, rel=0.2)
    assert train.manifest["clipped_samples"] > 0


def test_a_wrong_unit_is_named_with_the_record(make, tmp_path):
    make(rows(), *SAID)
    np.save(tmp_path / "mine/r4.npy", noise(600, 2))
    result = make(rows(), *SAID, "--overwrite", write=False)
    assert result.code == 0 and "of them in r4.npy (spans " in result.err, result
    assert "uV taken for mV" in result.err and len(result.err.splitlines()) == 1


def test_what_is_left_out(make, tmp_path):
    table = rows(12)
    table[3]["label"] = " ; "
    make(table, *SAID)
    (tmp_path / "mine/r5.npy").unlink()
    np.save(tmp_path / "mine/r6.npy", noise(600, 3) / 1000)
    (tmp_path / "mine/r7.npy").write_text("no array")
    result = make(table, *SAID, "--overwrite", write=False)
    assert result.code == 0 and result.err.startswith("4 left out: "), result
    left_out = load(tmp_path)[0].manifest["left_out"]
    reasons = {entry["record"]: entry["reason"] for entry in left_out}
    assert reasons["r3.npy"] == "no label"
    assert "No such file" in reasons["r5.npy"]
    assert reasons["r6.npy"] == "number of leads is 3, not 2"
    assert "not a plain array" in reasons["r7.npy"]


def test_too_little_left_is_said_with_the_reason(make, tmp_path):
    table = rows(2)
    make(table, *SAID)
    np.save(tmp_path / "mine/r1.npy", noise(600, 3) / 1000)
    make(table, *SAID, write=False).refused("class N has 0 of 1", "1 × number of leads is 3, not 2")


def test_paths_start_at_the_source_and_may_leave_it(make, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(10):
        np.save(tmp_path / f"r{number}.npy", noise(600, 2, seed=number) / 1000)
    table = [row | {"file": f"../{row['file']}"} for row in rows()]
    (tmp_path / "mine").mkdir()
    assert make(table, *SAID, "--source", elsewhere, write=False).code == 0
    assert sum(map(len, load(tmp_path))) == 10


@pytest.mark.parametrize(
    ("table", "flags", "words"),
    [
        ([{"file": "r0.npy"}], SAID, "labels.csv has no column label, only: file"),
        ([], SAID, "labels.csv is not a CSV file"),
        (rows(2, labels=["AF"]), SAID, "names 1 classes"),
        (rows(2, labels=[""]), SAID, "names 0 classes"),
        (rows(2) + rows(1), SAID, "lists 'r0.npy' more than once"),
        ([*rows(2), {"file": "./r0.npy", "label": "N"}], SAID, "'./r0.npy' is also 'r0.npy'"),
        (rows(unit=["kV"]), SAID, "'r0.npy': unknown unit 'kV'; known: mV, uV, V, adu"),
        (rows(unit=["adu"]), SAID, "'r0.npy': unit adu needs a gain"),
        (rows(unit=["mV"], gain=[200]), SAID, "'r0.npy': a gain is for the unit adu, not mV"),
        (rows(), [*SAID, "--gain", 200], "--gain is for recordings in adu"),
        (rows(fs=["fast"]), SAID, "'r0.npy': fs 'fast' is not a number above 0"),
        (rows(fs=[-250]), SAID, "'r0.npy': fs '-250' is not a number above 0"),
        (rows(split=["train", "dev"]), SAID, "unknown split 'dev'; known: train, val, test"),
        (rows(split=["train", ""]), SAID, "'r1.npy': split is empty"),
        (rows(patient=["a", ""]), SAID, "'r1.npy': patient is empty"),
        (rows(split=["train", "test"], patient=["a"]), SAID, "patient a is in several splits"),
        (rows(split=["train", "test"]), SAID, "no recording of class N to train on; see the split"),
        (rows(split=["test"]), SAID, "no usable record is to train on"),
        (rows(split=["train"]), [*SAID, "--seed", 0], "--seed is to draw a split; labels.csv"),
        (rows(split=["train"]), [*SAID, "--test-size", 0.5], "--test-size is to draw"),
        (rows(patient=["a"]), SAID, "--test-size 0.2 of 10 records leaves a set empty"),
        ([*rows(9), {"file": "x.npy", "label": "rare"}], SAID, "class rare has 1 of 10"),
        (rows(), ["--unit", "mV"], "10 × .npy without a sampling rate"),
        (rows(), ["--record-fs", FS], "10 × no unit given"),
        (rows(), [*SAID, "--unit", "pV"], "--unit"),
        (rows(), [*SAID, "--labels", "zip"], "not for --dataset table"),
    ],
)  # fmt: skip
def test_what_is_refused(make, tmp_path, table, flags, words):
    (tmp_path / "mine").mkdir()
    make(table, *flags).refused(words)
    assert not (tmp_path / "out").exists()


def test_a_table_with_names_only(make, tmp_path):
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine/labels.csv"
    path.write_text("file,label\n")
    command(prepare.main, "--dataset", "table", "--table", path).refused("labels.csv has no rows")
    command(prepare.main, "--dataset", "table").refused("--dataset table needs --table")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("file,label\nr0.npy,N,\nr1.npy,AF,\n", "Expected 2 fields in line 2, saw 3"),
        ("file,label\nr0.npy,N,x\nr1.npy,AF,x\n", "Expected 2 fields in line 2, saw 3"),
        ("file,label\nr0.npy,N\nr1.npy,A,F\n", "Expected 2 fields in line 3, saw 3"),
        ("file,label,label\nr0.npy,N,Z\n", "names the column label more than once"),
        ("file,label\nr\0.npy,N\n", "'r\\x00.npy' holds a NUL"),
        ("file,label\nr0.npy\0,N\n", "'r0.npy\\x00' holds a NUL"),
    ],
)
def test_a_table_that_is_not_clear(tmp_path, lines, words):
    path = tmp_path / "labels.csv"
    path.write_text(lines)
    flags = ["--dataset", "table", "--table", path, "--out", tmp_path / "out/t", *SAID]
    command(prepare.main, *flags).refused(str(path), words)


def test_columns_without_a_name_are_not_read(make, tmp_path):
    make(rows(), *SAID)
    path = tmp_path / "mine/labels.csv"
    path.write_text("".join(f"{line},,\n" for line in path.read_text().splitlines()))
    flags = ["--table", path, "--out", tmp_path / "out/t", "--overwrite", *SAID]
    result = command(prepare.main, "--dataset", "table", *flags)
    assert (result.code, result.err) == (0, ""), result


def test_a_wfdb_record_by_several_names(make, tmp_path):
    folder = tmp_path / "mine"
    make(rows(3), *SAID)
    for record in ("w0", "w1"):
        put_challenge(folder / record, noise(600, 2), FS, ["I", "II"])
    (folder / "linked.npy").symlink_to(folder / "r0.npy")
    for other, first in (
        ("w0.hea", "w0"), ("w0.mat", "w0.hea"), ("../mine/w0", "w0.mat"), ("linked.npy", "r0.npy"),
    ):  # fmt: skip
        table = [*rows(3), *({"file": file, "label": "N"} for file in (first, other))]
        table = [row for number, row in enumerate(table) if number or first != "r0.npy"]
        make(table, *SAID, write=False).refused(f"{other!r} is also {first!r}")
    np.save(folder / "w0.npy", SIGNAL[:, :2])  # a file of its own beside the header
    table = [*rows(3), *({"file": file, "label": "N"} for file in ("w0", "w1.hea", "w0.npy"))]
    result = make(table, *SAID, "--test-size", 0.5, "--overwrite", write=False)
    assert (result.code, result.err) == (0, ""), result


def test_a_flat_lead(make, tmp_path):
    make(rows(), *SAID)
    for path in (tmp_path / "mine").glob("*.npy"):
        np.save(path, np.load(path) * [1, 0])
    make(rows(), *SAID, "--overwrite", write=False).refused("lead 1 is flat")


def test_training_on_a_table(make, tmp_path):
    assert make(rows(24, patient=[str(n // 2) for n in range(24)]), *SAID).code == 0
    parts = ["--train", tmp_path / "out/t_train.npz", "--test", tmp_path / "out/t_test.npz"]
    start = ["--weights-file", put_weights(tmp_path / "one"), "--job-dir", tmp_path / "job"]
    result = command(
        trainer.main, *parts, *start, "--epochs", 1, "--val-size", 0.3, "--device", "cpu"
    )
    assert result.code == 0 and "test: macro F1 0." in result.out, result
    train = load(tmp_path)[0]
    fitted, drawn = draw(train, np.arange(len(train)), 0, "--val-size", test_size=0.3)
    assert not set(train.patients[fitted]) & set(train.patients[drawn])
