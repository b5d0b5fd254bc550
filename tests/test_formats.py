"""Files of one recording: what their text, headers and arrays have to say, and what is refused."""

import io

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.io import savemat

from recordings import Unusable
from recordings.formats import Recording, lead_order, read_recording
from recordings.resampling import to_microvolt
from tests.helpers import noise, put_challenge

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
