"""Files of one recording: what text, headers and arrays state, and what is refused."""

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
LEADS = ["I", "II", "V1"]
TIMED = np.column_stack([np.arange(600) / FS, SIGNAL])


def put_csv(path, table, **options):
    pd.DataFrame(table).to_csv(path, index=False, **options)


FILES = {
    "a.csv": lambda path: put_csv(path, SIGNAL, header=LEADS),
    "bare.csv": lambda path: put_csv(path, SIGNAL, header=False),
    "timed.csv": lambda path: put_csv(path, TIMED, header=["time", *LEADS]),
    "semicolon.csv": lambda path: put_csv(path, SIGNAL, sep=";", header=LEADS),
    "bom.csv": lambda path: put_csv(path, SIGNAL, header=LEADS, encoding="utf-8-sig"),
    "b.txt": lambda path: np.savetxt(path, SIGNAL, header="I II V1"),
    "wide.txt": lambda path: np.savetxt(path, SIGNAL.T, delimiter="\t"),
    "sorted.txt": lambda path: np.savetxt(path, SIGNAL.T[[2, 0, 1]]),  # not times, but leads
    "tall.mat": lambda path: savemat(path, {"val": SIGNAL}),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path, name):
    FILES[name](tmp_path / name)
    recording = read_recording(tmp_path / name, FS, "mV")
    expected = SIGNAL[:, [2, 0, 1]] if name == "sorted.txt" else SIGNAL
    np.testing.assert_allclose(recording.signal, expected, atol=1e-12)
    named = name in ("a.csv", "timed.csv", "semicolon.csv", "bom.csv")
    assert recording.leads == (LEADS if named else None)


SECONDS = np.arange(600) / FS
FIRST_COLUMNS = {
    "rounded": ("t_ms,I,II", np.rint(SECONDS * 100) / 100, True),  # some are equal
    "no name": ("", np.rint(SECONDS * 100) / 100, True),
    "falls": ("Time (s),I,II", SECONDS % 1, True),
    "mark": ("'sample #',I,II", -np.arange(600), True),
    "gap": ("index,I,II", np.where(SECONDS == 1, np.nan, SECONDS), True),
    "flat lead": ("", np.zeros(600), False),
    "lead": ("", SIGNAL[:, 2], False),
}


@pytest.mark.parametrize("kind", FIRST_COLUMNS)
def test_whether_the_first_column_is_time(tmp_path, kind):
    names, column, is_time = FIRST_COLUMNS[kind]
    table = np.column_stack([column, SIGNAL[:, :2]])
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header=names, comments="")
    recording = read_recording(tmp_path / "a.csv", FS, "mV")
    np.testing.assert_allclose(recording.signal, table[:, 1:] if is_time else table)
    assert recording.leads == (["I", "II"] if names else None)


@pytest.mark.parametrize(
    ("unit", "gain", "factor"),
    [("mV", None, 1), ("µv", None, 1e-3), ("V", None, 1e3), ("adu", 200, 1 / 200)],
)
def test_units(tmp_path, unit, gain, factor):
    np.save(tmp_path / "a.npy", noise(600, 1)[:, 0])
    signal = read_recording(tmp_path / "a.npy", FS, unit, gain).signal
    np.testing.assert_allclose(signal, noise(600, 1) * factor)


@pytest.mark.parametrize("name", ["r", "r.hea", "r.dat"])
def test_a_wfdb_header_states_rate_and_unit(tmp_path, name):
    wfdb.wrsamp(
        "r", 360, ["uV", "mV"], ["MLII", "V5"], p_signal=noise(800, 2).astype(float),
        fmt=["16"] * 2, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = read_recording(tmp_path / name, 300, "V")  # the header counts
    assert (recording.fs, recording.leads) == (360, ["MLII", "V5"])
    np.testing.assert_allclose(recording.signal, noise(800, 2) * [1e-3, 1], rtol=0.01, atol=0.02)


def test_a_mat_file_beside_its_header(tmp_path):
    put_challenge(tmp_path / "A1", noise(600, 2), 500, ["I", "II"])
    recording = read_recording(tmp_path / "A1.mat")
    assert (recording.fs, recording.leads) == (500, ["I", "II"])
    np.testing.assert_allclose(recording.signal, noise(600, 2) / 1000)


CLAIM = io.BytesIO()
np.lib.format.write_array_header_1_0(
    CLAIM, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
)
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([{}] * 600), allow_pickle=True)
BAD = {
    "no.csv": (None, "cannot be read"),
    "words.csv": ("a,b\n1,x\n", "not columns of numbers"),
    "uneven.csv": ("1,2\n1,2,3\n" * 60, "not columns of numbers"),
    "comma.csv": ("MLII\n" + "-125,0\n" * 600, "1 named, 2 in the line below; decimal commas?"),
    "watch.csv": ("Name,X\nEinheit,µV\n\n" + "-125,0\n4,25\n" * 300, "decimal commas? else name"),
    "timed.csv": ("time;I\n" + "0,1;-0,5\n" * 600, "with decimal points"),
    "empty.csv": ("", "not columns of numbers"),
    "binary.txt": (bytes(range(256)), "not columns of numbers"),
    "latin.csv": (b"\xb5V\n1\n2\n", "is not UTF-8; save it so"),
    "short.csv": ("1,2\n" * 299, "299 samples are shorter than 1 s"),
    "text.npy": ("no array", "not a plain array"),
    "object.npy": (OBJECTS.getvalue(), "not a plain array"),
    "claim.npy": (CLAIM.getvalue() + b"12", "not a plain array"),
    "square.npy": (np.zeros((600, 600)), "is not samples by leads"),
    "cube.npy": (np.zeros((600, 2, 2)), "is not samples by leads"),
    "complex.npy": (np.zeros(600, complex), "is not samples by leads"),
    "huge.npy": (SIGNAL * 1e308, "infinite values"),
    "new.mat": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(99), "save it with -v7"),
    "text.mat": ("no" * 99, ".mat cannot be read"),
    "b.hea": ("b 1 300 600\nc.dat 16 200/mV\n", "no c.dat beside"),
    "a.hea": ("a 1 300 600\na.dat 16 200/mV\n", "no .dat beside"),
    "lone.dat": ("", "no .hea, which"),
    "a.xml": ("", "format .xml is not one of .hea, .csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used(tmp_path, name):
    content, words = BAD[name]
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
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
    "rate of words": ("r 1 x250 600", HEADER[1], "says 'x250' for its rate"),
    "skew": (HEADER[0], HEADER[1].replace(" 16 2", " 16:99999999999 2"), "which is not read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_claim_what_cannot_be(tmp_path, name):
    *lines, words = HOSTILE[name]
    (tmp_path / "set").mkdir()
    for folder in (tmp_path, tmp_path / "set"):
        noise(600, 1).tofile(folder / "r.dat")
    (tmp_path / "set/r.hea").write_text("\n".join(lines) + "\n")
    with pytest.raises(Unusable) as error:
        read_recording(tmp_path / "set/r.hea")
    assert words in str(error.value)


def test_an_odd_rate_takes_no_more_than_others():
    # As 19999999/1000 it would take a filter of 400 million samples.
    signal, _ = to_microvolt(Recording(SIGNAL, 19999.999), 250, "polyphase", "constant")
    expected, _ = to_microvolt(Recording(SIGNAL, 20000), 250, "polyphase", "constant")
    np.testing.assert_array_equal(signal, expected)


def test_what_has_to_be_stated(tmp_path):
    np.save(tmp_path / "a.npy", SIGNAL)
    for given, words in (
        ((None, "mV"), "file without a sampling rate"),
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
