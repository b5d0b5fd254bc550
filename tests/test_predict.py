"""`python -m finetuning.predict`: any format, rate and unit; what it prints, writes and refuses."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.io import savemat
from scipy.signal import resample_poly

from finetuning.predict import __main__ as predict
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17
from tests.helpers import command, put_challenge, put_edf, put_weights
from utils.datasets import TWELVE_LEADS

CPU = ["--device", "cpu", "--precision", "fp32"]
CLASSIFIER = {"task": "classification", "classes": list("ANO~x"), "frame_size": 16384,
              "dataset": "challenge17", "mean": 0.0, "sd": 0.25}  # fmt: skip
SHIPPED = predict.SHIPPED


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four synthetic recordings of half a minute, A00001 to A00004, 300 Hz."""
    root = tmp_path_factory.mktemp("source") / "training2017"
    write_challenge17(root, 4, seed=0, seconds=(30.0, 30.001))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return put_weights(tmp_path_factory.mktemp("weights") / "w.safetensors", **CLASSIFIER)


def run(*flags):
    return command(predict.main, *CPU, *flags)


def test_a_folder_answers_in_the_table_and_in_files(source, weights, tmp_path):
    out = tmp_path / "a.csv", tmp_path / "a.json"
    result = run("--weights", weights, source, "--csv", out[0], "--json", out[1], "--abstain", 0)
    assert result.code == 0, result
    header, *lines = result.out.splitlines()
    assert header.split() == ["recording", "lead", "length", "answer", *"ANO~x"]
    rows = list(csv.DictReader(out[0].open()))
    document = json.loads(out[1].read_text())
    recordings = document["recordings"]
    predictor = predict.Predictor.load(weights, device="cpu", precision="fp32")
    assert len(rows) == len(recordings) == 5
    assert lines[4].startswith("REFERENCE  ") and "not columns of numbers" in lines[4]
    assert rows[4]["reason"] == "cannot be read: " + recordings[4]["cannot_be_read"]
    for number, (line, row, entry) in enumerate(zip(lines[:4], rows, recordings, strict=False), 1):
        name = f"A0000{number}"
        recording = read_recording(source / f"{name}.hea")
        expected = predictor.predict(recording.signal, recording.fs).probabilities
        assert line.startswith(f"{name}     ECG       30.0 s")
        assert (row["recording"], row["window"], row["lead"]) == (name, "whole", "ECG")
        found = [float(row[f"prob_{label}"]) for label in "ANO~x"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(list(entry["probabilities"].values()), expected, atol=1e-5)
        assert entry["answer"] == [row["answer"]] == ["ANO~x"[expected.argmax()]]
    assert document["weights"][0]["sha256"] and document["classes"] == list("ANO~x")


def put_npy(path, signal, fs):
    np.save(path, signal[:, 0])


def put_csv(path, signal, fs):
    times = np.arange(len(signal)) / fs
    table = np.column_stack([times, signal, np.zeros(len(signal))])
    np.savetxt(path, table, "%.6f", ",", header="time,ECG,other", comments="")


def put_wfdb(path, signal, fs):
    wfdb.wrsamp(path.stem, fs, ["mV"], ["ECG"], signal, fmt=["16"], write_dir=str(path.parent))


# Files of one signal, and the flags that say what the file does not.
FORMATS = {
    ".hea": (put_wfdb, 1, []),
    ".mat": (lambda path, signal, fs: savemat(path, {"val": signal.T}), 1000, ["--unit", "uV"]),
    ".csv": (put_csv, 1, ["--unit", "mV", "--channel", "ECG"]),
    ".npy": (put_npy, 1000, ["--unit", "uV"]),
    ".edf": (put_edf, 1, []),
}


def test_a_header_without_a_gain(source, weights, tmp_path):
    recording = read_recording(source / "A00001.hea")
    put_wfdb(tmp_path / "a.hea", recording.signal, recording.fs)
    fields = (tmp_path / "a.hea").read_text().split("\n")[1].split()
    scale, baseline = fields[2].removesuffix("/mV").removesuffix(")").split("(")
    stated = (tmp_path / "a.hea").read_text()
    expected = run("--weights", weights, tmp_path / "a.hea")
    (tmp_path / "a.hea").write_text(stated.replace(fields[2], f"0({baseline})"))
    said = run("--weights", weights, tmp_path / "a.hea", "--unit", "adu", "--gain", scale)
    assert (said.code, said.out, said.err) == (0, expected.out, expected.err)
    assumed = run("--weights", weights, tmp_path / "a.hea")
    note = "a: no gain in the header: 200 units per mV are assumed (see --unit)\n"
    assert assumed.code == 0 and note in assumed.err
    assert assumed.out != expected.out


@pytest.mark.parametrize("fs", [250, 300, 360, 500])
def test_one_recording_in_any_format_rate_and_unit(source, weights, tmp_path, fs):
    """Real weights where they come with the repository."""
    trained = SHIPPED if SHIPPED.exists() else weights
    recording = read_recording(source / "A00001.hea")
    (tmp_path / "as_it_was").mkdir()
    expected = answers(tmp_path / "as_it_was", trained, source / "A00001.mat")
    signal = resample_poly(recording.signal, fs, 300, padtype="line")
    for ending, (put, scale, said) in FORMATS.items():
        folder = tmp_path / ending[1:]
        folder.mkdir()
        put(folder / f"record{ending}", signal * scale, fs)
        stated = [] if ending in (".hea", ".edf") else ["--fs", fs]
        found = answers(folder, trained, folder / f"record{ending}", *said, *stated)
        assert found["answer"] == expected["answer"], ending
        for name, value in expected["probabilities"].items():
            assert found["probabilities"][name] == pytest.approx(value, abs=0.02), ending


def answers(folder, weights, record, *flags) -> dict:
    result = run("--weights", weights, record, "--json", folder / "a.json", "--abstain", 0, *flags)
    assert result.code == 0, result
    return json.loads((folder / "a.json").read_text())["recordings"][0]


def test_long_recordings_along_time(weights, tmp_path):
    times = np.arange(100 * 250) / 250
    signal = np.exp(-(((times % 0.8 - 0.4) / 0.02) ** 2)) + 0.01 * np.sin(times)
    signal[: 30 * 250] = 0
    np.save(tmp_path / "long.npy", signal)
    flags = ["--fs", 250, "--unit", "mV", "--csv", tmp_path / "a.csv", "--abstain", 0]
    result = run("--weights", weights, tmp_path / "long.npy", *flags)
    assert result.code == 0 and "of 4 windows:" in result.out and "cannot tell" in result.out
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["window"] for row in rows] == ["whole", "1", "2", "3", "4"]
    assert [row["reason"] for row in rows] == ["", "flat", "", "", ""]
    assert rows[1]["prob_A"] == "" and float(rows[4]["start_s"]) == 90


def test_pictures(source, weights, tmp_path):
    np.save(tmp_path / "long.npy", np.tile(read_recording(source / "A00001.hea").signal, (3, 1)))
    flags = ["--fs", 300, "--unit", "mV", "--plot", tmp_path / "p", "--abstain", 0]
    result = run("--weights", weights, source / "A00002", tmp_path / "long.npy", *flags)
    assert result.code == 0, result
    written = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert written[0] == "A00002.png" and "long_timeline.png" in written
    assert any(name.startswith("long_") and name.endswith(".png") for name in written[1:-1])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/r.hea", "b/s.csv"], ["r", "s"]),
        (["a/r.hea", "b/r.hea"], ["a/r.hea", "b/r.hea"]),
        (["/x/a/r.csv", "/x/r.edf", "/x/ü 1.csv"], ["a/r.csv", "r.edf", "ü 1.csv"]),
        (["../r.csv", "../R.csv"], ["r.csv", "R.csv"]),
        (["r 1.csv", "r_1.csv"], ["r 1", "r_1"]),
    ],
)
def test_names_that_tell_recordings_apart(paths, names):
    """They are those of pictures, too: none begins with a dot, and no two are alike."""
    from finetuning.predict.predicting import short_names

    assert short_names(list(map(Path, paths))) == names


def test_what_cannot_be_read_does_not_stop_the_others(source, weights, tmp_path):
    (tmp_path / "broken.edf").write_bytes(b"0       ")
    result = run("--weights", weights, tmp_path / "broken.edf", source / "A00001.mat")
    assert result.code == 2 and "broken" in result.out and "A00001" in result.out
    assert result.err == "error: 1 of the recordings named cannot be read, see above\n"
    result = run("--weights", weights, tmp_path, source / "A00001.mat")
    assert result.code == 0 and "1 of 2 recordings cannot be read, see above" in result.out
    result = run("--weights", weights, tmp_path)
    assert result.code == 2 and "broken" in result.out
    assert result.err == "error: 0 of 1 recordings can be read, see above\n"


@pytest.mark.filterwarnings("error")
def test_names_that_cannot_be_printed(weights, tmp_path):
    """Of Windows-1252, as old archives have them, or with marks that steer a terminal."""
    folder = tmp_path / "r"
    folder.mkdir()
    np.save(tmp_path / "r.npy", np.random.default_rng(0).normal(0, 0.2, 2700))
    for name in (b"M\xfcller\x1b.npy", b"M\xf6ller\x1b.npy"):
        (folder / os.fsdecode(name)).write_bytes((tmp_path / "r.npy").read_bytes())
    flags = ["--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json", "--plot", tmp_path / "p"]
    result = run("--weights", weights, folder, "--fs", 300, "--unit", "mV", *flags)
    assert result.code == 0 and "\x1b" not in result.out and "M\\xfcller" in result.out, result
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_columns_are_the_same_whatever_comes_first(source, weights, tmp_path):
    good, broken = source / "A00001.mat", tmp_path / "broken.edf"
    broken.write_bytes(b"0       ")
    heads = set()
    for number, records in enumerate([[good], [broken, good], [broken]]):
        out = tmp_path / f"{number}.csv"
        run("--weights", weights, *records, "--csv", out)
        heads.add(out.read_text().split("\n")[0])
    probabilities = ",".join(f"prob_{name}" for name in "ANO~x")
    assert heads == {f"recording,lead,window,start_s,stop_s,answer,reason,{probabilities}"}


def test_times_of_weeks_are_exact():
    from finetuning.predict.answer_files import Result, rows
    from finetuning.predict.answers import Answer, Prediction

    answer = Answer(1_209_570.5, 1_209_600.5, np.array([0.25, 0.75], np.float32), ("b",))
    (row,) = rows(Result("r", Path("r"), "0", 250, Prediction(["a", "b"], answer, [answer])))
    assert (row["start_s"], row["prob_b"]) == (1_209_570.5, 0.75)


def test_without_an_answer_no_file_is_replaced(source, weights, tmp_path, monkeypatch):
    from finetuning.predict import plots

    def fails(*args):
        raise OSError(28, "No space left on device", "A00001.png")

    monkeypatch.setattr(plots, "draw", fails)
    out = tmp_path / "a.csv"
    out.write_text("earlier")
    flags = ["--csv", out, "--overwrite", "--plot", tmp_path / "plots"]
    run("--weights", weights, source / "A00001.mat", *flags).refused("A00001.png", "free some")
    assert out.read_text() == "earlier"


@pytest.mark.parametrize("flag", ["--csv", "--json", "--plot"])
def test_where_nothing_can_be_written_nothing_is_asked(source, weights, tmp_path, flag):
    (tmp_path / "file").touch()
    result = run("--weights", weights, source / "A00001.mat", flag, tmp_path / "file" / "x")
    result.refused(str(tmp_path / "file"))
    assert not result.out
    run("--weights", weights, source, "--plot", tmp_path / "file").refused("file is a file; name a")


def test_the_table_of_many_classes_has_lines_of_a_screen():
    from types import SimpleNamespace

    from finetuning.predict.answer_files import Result
    from finetuning.predict.answers import Answer, Prediction
    from finetuning.predict.predicting import Table

    names = [str(164889000 + number) for number in range(27)]
    contract = SimpleNamespace(classes=names, dataset="challenge20")
    table = Table(SimpleNamespace(contract=contract), 9)
    answer = Answer(0, 10, np.linspace(0, 1, 27, dtype=np.float32), (names[-2], names[-1]))
    (line,) = table.lines(Result("r", Path("r"), "all", 250, Prediction(names, answer, [answer])))
    assert line.endswith("10.0 s  164889025, 164889026")
    assert table.header().endswith("answer")


def test_doubts_are_said(source, weights, tmp_path):
    signal = read_recording(source / "A00001.hea").signal
    np.save(tmp_path / "r.npy", signal * 1000)
    result = run("--weights", weights, tmp_path / "r.npy", "--fs", 300, "--unit", "mv")
    assert result.code == 0 and "cannot tell" in result.out
    assert "uV taken for mV" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name recordings"),
        (["nowhere"], "nowhere does not exist"),
        (["{source}", "--export", "onnx"], "--export takes no recordings"),
        (["{source}", "--out", "x"], "--out: only with --export"),
        (["{source}", "--csv", "{source}", "--overwrite"], "is there; name another"),
        (["{source}", "--csv", "x.csv", "--json", "x.csv"], "name one file"),
        (["{source}", "--unit", "adu"], "--gain is of --unit adu"),
        (["{source}", "--gain", "200"], "--gain is of --unit adu"),
        (["{source}", "--csv", __file__], "is there; name another, or give --overwrite"),
        (["{source}", "--unit", "kV"], "invalid choice"),
    ],
)
def test_flags_that_make_no_sense(source, weights, flags, words):
    result = run("--weights", weights, *(str(flag).format(source=source) for flag in flags))
    result.refused(words)


@pytest.mark.parametrize("flag", ["--tta=4", "--no-band-pass", "--overwrite", "--csv=x.csv"])
def test_flags_that_an_export_would_not_heed(weights, flag):
    result = command(predict.main, "--weights", weights, "--export", "onnx", flag)
    result.refused("not with --export")


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--channel", "V9"], "no lead 'V9'"), (["--channel", "3"], "no lead '3'")],
)
def test_leads_that_are_not_there(source, weights, flags, words):
    result = run("--weights", weights, source / "A00001.mat", *flags)
    assert result.code == 2 and words in result.out


@pytest.mark.parametrize("form", ["edf", "mat", "hea"])
def test_twelve_leads_are_put_in_order_by_name(tmp_path, form):
    changes = {"dataset": "ptbxl", "in_channels": 12, "frame_size": 2560, "multi_label": True}
    weights = put_weights(tmp_path / "w", **CLASSIFIER | changes)
    signal = np.random.default_rng(0).normal(size=(2500, 12))
    found = []
    for place, order in enumerate([range(12), [*range(6, 12), *range(6)]]):
        folder = tmp_path / str(place)
        folder.mkdir()
        leads = [TWELVE_LEADS[lead] for lead in order]
        put_leads(folder / f"r.{form}", signal[:, list(order)], leads)
        found.append(answers(folder, weights, folder / f"r.{form}")["probabilities"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    put_leads(tmp_path / f"r.{form}", signal, [f"x{lead}" for lead in range(12)])
    result = run("--weights", weights, tmp_path / f"r.{form}")
    assert result.code == 2 and "leads are x0, x1" in result.out


def put_leads(path, signal, leads):
    if path.suffix == ".edf":
        put_edf(path, signal, 250, leads)
    elif path.suffix == ".mat":
        put_challenge(path.with_suffix(""), np.rint(signal * 1000).astype(np.int16), 250, leads)
    else:
        formats = {"units": ["mV"] * 12, "fmt": ["16"] * 12, "sig_name": list(leads)}
        wfdb.wrsamp(path.stem, 250, p_signal=signal, write_dir=str(path.parent), **formats)


def test_an_interrupted_run_keeps_its_answers(source, weights, tmp_path, monkeypatch):
    from finetuning.predict import predicting

    look, seen = predicting.look, []

    def interrupted(*args):
        if seen:
            raise KeyboardInterrupt
        seen.append(look(*args))
        return seen[0]

    monkeypatch.setattr(predicting, "look", interrupted)
    result = run("--weights", weights, source, "--csv", tmp_path / "a.csv")
    assert result.code == 130
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 1
