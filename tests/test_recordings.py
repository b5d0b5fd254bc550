"""One recording in each format reads the same, in parts too; what is refused; which files count."""

import io
import os
import re
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import wfdb
from edfio import Edf, EdfAnnotation, EdfSignal
from scipy.io import savemat

from recordings import MILLIVOLT, Hints, LazyRecording, Unusable, as_unit, ecg_lead
from recordings.formats import find_records, lead_number, lead_order, open_recording, read_recording
from recordings.resampling import resample
from recordings.wfdb_files import read_atr
from tests.helpers import noise, put_challenge, put_edf

FS, LEADS = 250, ["ECG I", "V5"]
MICROVOLT = noise(1500, 2)
SIGNAL = MICROVOLT / 1000  # mV
TIMES = np.arange(1500) / 360
TABLE = pd.DataFrame(SIGNAL, columns=LEADS)


def put_wfdb(path):
    wfdb.wrsamp(
        path.stem, FS, ["mV"] * 2, LEADS, d_signal=MICROVOLT, fmt=["16"] * 2,
        adc_gain=[1000.0] * 2, baseline=[0] * 2, write_dir=str(path.parent),
    )  # fmt: skip
    return path


# What stands beside a recording, and is none.
MATLAB = {"fs": 250, "labels": np.array(["I" * 30]), "square": np.ones((99, 99)), "few": np.ones(9),
          "cells": np.array([[1, "x"]] * 99, object), "mask": np.ones(1500, bool)}  # fmt: skip
# How each file is written, what it does not say, and the steps of its values in mV.
FILES = {
    "a.hea": (put_wfdb, (), 0),
    "b.mat": (lambda path: put_challenge(path.with_suffix(""), MICROVOLT, FS, LEADS), (), 0),
    "c.mat": (lambda path: savemat(path, {"val": MICROVOLT.T, "x": SIGNAL}), (FS, "uV"), 0),
    "m.mat": (lambda path: savemat(path, MATLAB | {"ecg": SIGNAL.T}), (FS, "mV"), 0),
    "d.csv": (TABLE.to_csv, (FS, "mV"), 0),
    "e.txt": (lambda path: np.savetxt(path, SIGNAL / 1000), (FS, "V"), 0),
    "f.npy": (lambda path: np.save(path, MICROVOLT.T), (FS, "adu", 1000), 0),
    "g.npy": (lambda path: np.save(path, SIGNAL.astype(np.float32)), (FS, "mV"), 1e-6),
    "h.edf": (lambda path: put_edf(path, MICROVOLT, FS, LEADS, "uV"), (), 1e-5),
    "i.bdf": (lambda path: put_edf(path, SIGNAL, FS, LEADS), (), 1e-6),
    "j.csv": (partial(TABLE.to_csv, index=False, sep=";", encoding="utf-8-sig"), (FS, "mV"), 0),
    "k.txt": (lambda path: np.savetxt(path, MICROVOLT.T, delimiter="\t"), (FS, "µv"), 0),
}


def check_parts(opened, expected, atol=1e-12):
    """Parts are those of the whole, also with the leads in another order."""
    assert (opened.samples, opened.count) == expected.shape
    end, backwards = len(expected), list(range(opened.count))[::-1]
    for start, stop in ((0, end), (0, 7), (1, 2), (100, 102), (201, 420), (333, 350), (590, 720),
                        (610, 640), (699, 701), (740, 1260), (1249, 1251), (end - 12, end),
                        (end - 1, end + 99), (9, 9), (9, 3)):  # fmt: skip
        part = opened.read(start, stop)
        np.testing.assert_allclose(part, expected[start:stop], atol=atol)
        for order in (backwards, backwards[:1]):
            np.testing.assert_array_equal(opened.select(order).read(start, stop), part[:, order])


@pytest.mark.parametrize("name", FILES)
def test_formats_read_the_same_whole_and_in_parts(tmp_path, name):
    write, hints, step = FILES[name]
    write(tmp_path / name)
    opened = open_recording(tmp_path / name, *hints)
    check_parts(opened, SIGNAL, step + 1e-12)
    whole = read_recording(tmp_path / name, *hints)
    assert whole.fs == opened.fs == FS and whole.signal.dtype == np.float64
    assert whole.leads == opened.leads == (LEADS if name[0] in "abdhij" else None)
    np.testing.assert_array_equal(whole.signal, opened.read(0, 1500))


@pytest.mark.parametrize("fmt", ["8", "24", "32", "61", "80", "160", "212", "310", "311"])
def test_parts_in_all_formats_of_wfdb(tmp_path, fmt):  # any bytes are samples
    path = put_wfdb(tmp_path / "a.hea")
    text = path.read_text().replace("250 1500", "250 700")
    path.write_text(text.replace("dat 16", f"dat {fmt}"))
    opened = open_recording(path)
    check_parts(opened, opened.read(0, 700))


def put_frames(folder, first, *leads, name="r", values=None):
    """Write a record of one file whose frames hold all samples, in format 16."""
    lines = [f"{name}.dat 16{'' if lead[0] == 'x' else ' '}{lead}" for lead in leads]
    (folder / f"{name}.hea").write_text("\n".join([first, *lines]), "utf-8")
    if values is not None:
        values.astype("<i2").tofile(folder / f"{name}.dat")


@pytest.mark.parametrize("name", ["r", "\u00e9", "e\u0301"])
@pytest.mark.parametrize("length", ["", " 0", " 1500 2014-05-08 05:05:15", " 1500 1", " 10:20:30"])
def test_names_lengths_and_dates_of_wfdb(tmp_path, name, length):
    header = f"\u00e9 1 250{length}"  # the accent as one character or two
    put_frames(tmp_path, header, "2(0)/µV 16 0 0 0 0 I", name=name, values=MICROVOLT[:, :1])
    text = (tmp_path / f"{name}.hea").read_text("utf-8").replace("e\u0301", "\u00e9")
    for encoding, ending in (("utf-8", ""), ("utf-8", ".hea"), ("latin-1", ".dat")):
        (tmp_path / f"{name}.hea").write_text(text, encoding)
        recording = read_recording(tmp_path / f"{name}{ending}", 300, "V")  # the header is right
        np.testing.assert_allclose(recording.signal, SIGNAL[:, :1] / 2)
        assert recording.fs == FS


def test_signals_of_other_units_and_rates_are_left_out_and_named(tmp_path):
    frames = noise(1500, 7)
    frames[40, 2] = -(2**15)  # missing
    put_frames(
        tmp_path, "r 5 25 1500", "x2 1000/mV 16 0 0 0 0 Resp", "x2:3 1000(7)/mv 16 0 0 0 0 ECG",
        "5/mmHg 16 0 0 0 0 ABP", "x1 30/NU 16 0 0 0 0 PLETH", "1000/mV 16 0 0 0 0 V5",
        values=frames,
    )  # fmt: skip
    opened = open_recording(tmp_path / "r.hea")
    assert (opened.fs, opened.samples, opened.leads) == (50, 3000, ["Resp", "ECG"])
    assert opened.notes == ("left out: ABP (mmHg), PLETH (NU), V5 (25 Hz)",)
    with pytest.raises(Unusable, match=r"no lead 'V5'; .*left out: ABP .*V5"):
        lead_number(opened, "V5")
    late = np.vstack([frames[3:, 2:4], np.full((3, 2), np.nan)])  # it is 3 frames late in the file
    late[37, 0] = np.nan
    expected = np.column_stack([frames[:, :2].reshape(-1), late.reshape(-1) - 7]) / 1000
    check_parts(opened, expected)


@pytest.mark.parametrize("layout", ["fixed", "variable"])
def test_multi_segment_records(tmp_path, layout):
    lead = "1000/mV 16 0 0 0 0"
    put_frames(tmp_path, "r 2 250 600", f"{lead} V5", f"{lead} II", values=MICROVOLT[:600])
    last, expected = [f"{lead} V5", "500/mV 16 0 0 0 0 II"], SIGNAL * [1, 2]
    expected[600:700] = np.nan
    if layout == "variable":
        last, expected[700:, 0] = ["9/mmHg 16 0 0 0 0 ABP", *last[1:]], np.nan
        names = "s_all 3 250 0\n~ 0 1 0 0 0 0 0 II\n~ 0 1 0 0 0 0 0 ABP\n~ 0 1 0 0 0 0 0 V5"
        (tmp_path / "s_all.hea").write_text(names)
    expected[:600] = SIGNAL[:600]
    put_frames(tmp_path, "q 2 250", *last, name="q", values=MICROVOLT[700:])
    lines = [*["s_all 0"] * (layout == "variable"), "r 600", "~ 100", "q 800"]
    (tmp_path / "s.hea").write_text("\n".join([f"s/{len(lines)} 2 250 1500 09:44:22.812", *lines]))
    opened = open_recording(tmp_path / "s")
    numbers = {"fixed": [0, 1], "variable": [1, 0]}[layout]  # in the order of the first names
    assert opened.leads == [["V5", "II"][number] for number in numbers]
    assert opened.notes == (("left out: ABP (mmHg)",) if layout == "variable" else ())
    check_parts(opened, expected[:, numbers])


@pytest.mark.parametrize("gain", ["0/mV", "0(0)", ""])
def test_a_lead_without_a_gain(tmp_path, gain):
    path = put_wfdb(tmp_path / "a.hea")
    path.write_text("\n".join([*path.read_text().splitlines()[:2], f"a.dat 16 {gain}\n"]))
    for hints, factor in (((), 1 / 200), (("uV",), 1 / 1000), (("adu", 50), 1 / 50)):
        opened = open_recording(path.with_suffix(".dat"), FS, *hints)
        check_parts(opened, MICROVOLT * [1 / 1000, factor])  # the other lead states its gain
        assert opened.uncalibrated == (not hints)
    assert read_recording(path).uncalibrated


def test_an_ecg_without_a_unit_is_not_passed_over_for_another_signal(tmp_path):
    Edf([
        EdfSignal(np.linspace(-1, 1, 6 * FS), FS, label=label, physical_dimension=unit)
        for label, unit in (("EKG", ""), ("Resp", "mV"))
    ]).write(tmp_path / "a.edf")  # fmt: skip
    with pytest.raises(Unusable, match="EKG has no unit in its file; give --unit"):
        open_recording(tmp_path / "a.edf")
    assert open_recording(tmp_path / "a.edf", None, "mV").leads == ["EKG", "Resp"]


def test_what_edf_signals_are_leads(tmp_path):
    kinds = [("Fpz-Cz", "uV", 250), ("EKG", "mV", 250), ("Resp", "uV", 25), ("V2", "microV", 250),
             ("V3", "V", 250), ("SpO2", "%", 250), ("Aux", "", 250), ("X", "mV", 250)]  # fmt: skip
    Edf([
        EdfSignal(np.linspace(-1, 1, 6 * fs), fs, label=label, physical_dimension=unit,
                  physical_range=(-1, 1))
        for label, unit, fs in kinds
    ], annotations=[]).write(path := tmp_path / "a.edf")  # fmt: skip
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "  # length unknown: still being written
    place = 256 + 128 * (len(kinds) + 1) + 8 * (len(kinds) - 1)
    content[place : place + 8] = b"-32768  "  # the largest digital value of X, and its smallest
    for unit in (b"microV", b"\xb5V", "µVolts".encode()):  # in Latin-1 and UTF-8
        path.write_bytes(content.replace(b"microV  ", unit.ljust(8)))
        opened = open_recording(path)
        assert opened.leads == ["Fpz-Cz", "EKG", "V2", "V3"] and opened.samples == 1500
        assert opened.notes == ("left out: Resp (25 Hz), SpO2 (%), Aux (no unit), X (no gain)",)
        edge = np.abs(opened.read(0, 1500)).max(0)
        np.testing.assert_allclose(edge, [1e-3, 1, 1e-3, 1e3], rtol=1e-3)
    for hints, scale in ((("uV",), 1e-3), (("adu", 50), 1 / 50)):
        opened = open_recording(path, FS, *hints)
        assert opened.leads[-1] == "Aux" and "Aux" not in opened.notes[0]
        np.testing.assert_allclose(opened.read(1499, 1500)[:, [0, 4]], [[1e-3, scale]], rtol=1e-3)


@pytest.mark.parametrize("name", ["a.edf", "a.bdf"])
@pytest.mark.parametrize("onsets", ["1 2 3 4 5", "1 2.004 3 4 5", "1 2 5 6 7", "1 2 3 3 5"])
def test_parts_of_edf_with_gaps(tmp_path, name, onsets):
    notes = [EdfAnnotation(0, None, "start of the recording")]
    put_edf(tmp_path / name, MICROVOLT, FS, LEADS, "uV", notes)
    content = (tmp_path / name).read_bytes().replace(b"DF+C", b"DF+D")
    for record, onset in reversed(list(enumerate(onsets.split(), 1))):
        old, new = (f"+{at}\x14\x14".encode().ljust(12, b"\0") for at in (record, onset))
        assert old in content
        content = content.replace(old, new)
    (tmp_path / name).write_bytes(content)
    if "3 3" in onsets:
        with pytest.raises(Unusable, match="data records that overlap"):
            open_recording(tmp_path / name)
        return
    opened = open_recording(tmp_path / name)
    # A sample of rounding is no gap.
    expected = np.insert(SIGNAL, [750] * (500 if "5 6" in onsets else 0), np.nan, axis=0)
    check_parts(opened, expected, 1e-5)
    assert opened.leads == LEADS


@pytest.mark.parametrize("name", ["a.edf", "a.npy", "a.hea"])
def test_long_files_are_read_in_parts(tmp_path, name):
    long = np.tile(MICROVOLT[:, :1], (4000, 1))  # 12 MB in 16 bits
    put_edf(tmp_path / "a.edf", long, FS, ["I"], "uV")
    np.save(tmp_path / "a.npy", long)
    put_frames(tmp_path, "a 1 250", "1000/mV", name="a", values=long)
    tracemalloc.start()
    part = open_recording(tmp_path / name, FS, "uV").read(5_999_000, 6_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(part, SIGNAL[500:, :1], atol=1e-5)
    assert peak < 1e6


def test_a_wfdb_record_that_is_cut_short_while_it_is_read(tmp_path):
    opened = open_recording(put_wfdb(tmp_path / "a.hea"))
    os.truncate(tmp_path / "a.dat", 1000)
    with pytest.raises(Unusable, match="unreadable signal"):
        opened.read(1000, 1500)


# What is above the numbers, their times, and the rate and unit that they tell, or why none.
STATED = {
    "fs": ("fs=128\nunit (V)\n", None, 128, "V"),
    "rounded": ("time,ECG\n", TIMES.round(3), 360, None),
    "broken rate": ("time,ECG\n", np.arange(1500) / 128.4, 128.4, None),
    "of a day": ("timestamp,ECG\n", 1.7e9 + np.arange(1500) / 250, 250, None),
    "both": ("Sample rate,359 Hz\ntime,ECG\n", TIMES, 359, None),
    "count": ("sample,ECG\n", np.arange(1500), "not in seconds", None),
    "ms without a word": ("time,ECG\n", np.arange(1500) * 4, 250, None),
    "two": ("Sample rate,512 Hz\ntime,ECG\n", TIMES, "not as the lines above say", None),
}


@pytest.mark.parametrize("name", STATED)
def test_text_that_states_rate_and_unit(tmp_path, name):
    above, times, fs, unit = STATED[name]
    rows = MICROVOLT[:, :1] if times is None else np.column_stack([times, MICROVOLT[:, 0]])
    path, rows = tmp_path / "r.csv", [",".join(f"{cell:.15g}" for cell in row) for row in rows]
    path.write_text(above + "\n".join(rows), encoding="utf-8")
    if isinstance(fs, str):
        with pytest.raises(Unusable, match=f"without a sampling rate .*{fs}.*give --fs"):
            open_recording(path, None, "mV")
        assert open_recording(path, 77, "mV").fs == 77
        return
    opened = open_recording(path, None, None if unit else "uV")
    assert opened.fs == pytest.approx(fs, rel=1e-9) and opened.count == 1
    scale = MILLIVOLT[unit or "uV"]
    np.testing.assert_allclose(opened.read(0, 1500)[:, 0], MICROVOLT[:, 0] * scale)


@pytest.mark.parametrize("first", [np.zeros(1500), SIGNAL[:, 1]], ids=["flat", "noise"])
def test_a_first_column_that_is_a_lead(tmp_path, first):
    table = np.column_stack([first, SIGNAL])
    for values in (table, np.sort(table.T, axis=0)):
        np.savetxt(tmp_path / "a.txt", values)
        assert read_recording(tmp_path / "a.txt", FS, "mV").signal.shape == (1500, 3)


def saved(write, value) -> bytes:
    write(file := io.BytesIO(), value)
    return file.getvalue()


def edf(place: int, new: bytes) -> bytes:
    """An EDF file of two leads and the annotations' signal with other bytes at a place."""
    with TemporaryDirectory() as folder:
        put_edf(path := Path(folder) / "a.edf", MICROVOLT, FS, LEADS, "uV")
        content = path.read_bytes()
    return content[:place] + new + content[place + len(new) :]


CLAIM = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
CLAIM = saved(np.lib.format.write_array_header_1_0, CLAIM)
MAT = saved(savemat, {"val": SIGNAL})
FIRST, LEAD = "r 1 250 600\n", "r.dat 16 200/mV 16 0 0 0 0 ecg\n"
# By name: content (bytes, text or an array; None: no file), what is said, and hints.
BAD = {
    "above.hea": (f"{FIRST}../{LEAD}", "in another folder, or damaged ('../r.dat"),
    "samples.hea": (f"r 1 250 {10**12}\n{LEAD}", f"says {10**12} samples, file holds 600"),
    "leads.hea": (f"r {10**12} 250 600\n{LEAD}", "600', lists 1 leads"),
    "mmHg.hea": (FIRST + LEAD.replace("200/mV", "0/mmHg"), "in uV, mV or V: ecg (mmHg)"),
    "one.hea": ("s/2 1 250\nr 600\n~ 9", "r has another rate or length"),
    "all.hea": ("s/2 1 250 601\nr 500\n~ 100", "header says 601 samples, its segments 600"),
    "far.hea": (f"s/2 1 250\nr 500\n~ {10**12}", "samples with gaps are more than"),
    "up.hea": ("s/1 1 250\n../r 500", "in another folder"),
    "segment.hea": ("s/1 1 250\nq 500", "no .hea, which"),
    "few.hea": (FIRST + LEAD.replace("200", "1e-9"), "no gain per mV"),
    "word.hea": (FIRST + "r.dat 16 ecg", "or damaged ('r.dat 16 ecg"),
    "apart.hea": (f"r 3 250\n{LEAD}q.dat 16 1/NU\n{LEAD}", "or several in a file"),
    "nan.hea": (FIRST + LEAD.replace("200", "nan"), "or damaged ('r.dat 16 nan"),
    "rate.hea": (f"r 1 -250 600\n{LEAD}", "says 'r 1 -250 600', lists 1"),
    "skew.hea": (FIRST + LEAD.replace(" 16 2", " 16:999 2"), "missing or impossible"),
    "signal.hea": (FIRST + LEAD.replace("r.dat", "c.dat"), "no c.dat beside"),
    "kind.edf": (edf(0, b"1"), "not an EDF file"),
    "length.edf": (edf(184, b"1000"), "header with a wrong length"),
    "records.edf": (edf(236, b"9 "), "does not fit the 6 data records"),
    "duration.edf": (edf(244, b"0 "), "data records without one"),
    "unit.edf": (edf(544, b"mmHg    mmHg    "), "no signal is in uV, mV or V"),
    "gain.edf": (edf(616, b"32767   32767   "), "or V: ECG I (no gain), V5 (no gain)"),
    "samples.edf": (edf(904, b"-9 "), "does not fit the"),
    "rate.edf": (edf(904, b"1  "), "1 Hz is not from 20 to 20000"),
    "no.csv": (None, "not found"),
    "no.edf": (None, "not found"),
    "nul\0.csv": (None, "not found"),
    "lone.dat": ("", "no .hea, which"),
    "a.xml": ("", "format .xml is not one of .hea, .csv"),
    "comma.csv": ("MLII\n" + "-125,0\n" * 600, "1 columns named, but 2 below; decimal commas?"),
    "watch.csv": ("Einheit,µV\n\n" + "-125,0\n4,25\n" * 300, "0 columns named, but 2 below"),
    "latin.csv": (b"\xb5V\n1\n2\n", "file says uV, but --unit or the table mV"),
    "long.csv": (f"{'[' * 10**5}\n1\n2\nx", "unreadable numbers"),
    "time.npy": (np.column_stack([np.arange(600) / FS, SIGNAL[:600]]), "column 0 rises throughout"),
    "short.npy": (SIGNAL[:249], "249 samples are shorter than 1 s"),
    "object.npy": (saved(np.save, np.array([{}] * 600)), "unreadable .npy file (Array can't be"),
    "claim.npy": (CLAIM + b"12", "unreadable .npy file (mmap length"),
    "huge.npy": (SIGNAL * 1e308, "missing or impossible"),
    "square.npy": (np.zeros((600, 600)), "is not samples by 1 to 64 leads"),
    "two.mat": (saved(savemat, {"t": TIMES, "ecg": SIGNAL}), "but t (1, 1500), ecg (1500, 2)"),
    "cut.mat": (MAT[:999], "cannot be read"),
    "new.mat": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(99), "read (Please use HDF"),
    "no rate.npy": (SIGNAL, "file without a sampling rate", None, "mV"),
    "low rate.npy": (SIGNAL, "0.3 Hz is not from 20 to 20000", 0.3, "mV"),
    "no unit.npy": (SIGNAL, "unit is not given", FS),
    "no gain.npy": (SIGNAL, "unit is adu; give mV, uV, V, or adu with a gain", FS, "adu"),
    "odd unit.npy": (SIGNAL, "unit is kV", FS, "kV"),
    "rate.csv": ("fs=300\n1\n2\n", "file says 300 Hz, but --fs or the table 250"),
    "unit.csv": ("Unit,uV\n1\n2\n", "file says uV, but --unit or the table mV"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_used(tmp_path, name):
    content, words, *hints = BAD[name]
    noise(600, 1).tofile(tmp_path / "r.dat")
    (tmp_path / "r.hea").write_text(FIRST.replace("600", "500") + LEAD)
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(Unusable, match=re.escape(words)) as error:
        read_recording(tmp_path / name, *(hints or (FS, "mV")))
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_missing_samples_are_no_obstacle_to_a_part(tmp_path):
    gap = SIGNAL.copy()
    gap[700:800, 0], gap[900, 1] = np.nan, 1e300
    pd.DataFrame(gap, columns=LEADS).to_csv(tmp_path / "a.csv", index=False)
    opened = open_recording(tmp_path / "a.csv", FS, "mV")
    np.testing.assert_allclose(opened.read(0, 1500), np.where(gap > 1e9, np.nan, gap))
    with pytest.raises(Unusable, match=r"6\.7% of the samples of lead 0 are missing"):
        read_recording(tmp_path / "a.csv", FS, "mV")


def test_annotations_of_several_annotators(tmp_path):  # as in AFDB: rhythms, and beats beside them
    for annotator, symbols, notes in (("atr", ["+"], ["(AFIB"]), ("qrs", ["N", "V"], None)):
        places = np.arange(len(symbols)) + 9
        wfdb.wrann("r", annotator, places, symbols, aux_note=notes, write_dir=str(tmp_path))
    marks, beats = read_atr(tmp_path / "r"), read_atr(tmp_path / "r", "qrs")
    assert (marks.symbol, [note.strip("\0") for note in marks.aux_note]) == (["+"], ["(AFIB"])
    assert (beats.symbol, beats.sample.tolist()) == (["N", "V"], [9, 10])
    with pytest.raises(Unusable, match="unreadable annotations"):
        read_atr(tmp_path / "r", "ecg")


def test_an_odd_rate_takes_no_more_than_others():
    # As 19999999/1000 it would take a filter of 400 million samples.
    odd, whole = (resample(SIGNAL, fs, 250, "constant") for fs in (19999.999, 20000))
    np.testing.assert_array_equal(odd, whole)


@pytest.mark.parametrize(("unit", "spellings"), {
    "mV": "mV mv MV millivolt Millivolts milli-volt [mV] (mV)",
    "uV": "uV UV µV μV Âµv Î¼V \ufffdV microvolt microvolts MicroV [µV]",
    "V": "V v Volts (V)", "nV": "nV nanovolts", "adu": "ADU", "mmHg": "mmHg", "NU": "NU",
}.items())  # fmt: skip
def test_spellings_of_units(unit, spellings):
    assert {as_unit(spelling) for spelling in spellings.split(" ")} == {unit}


@pytest.mark.parametrize("leads", [
    "*ECG", "Resp *EKG1", "I *ecg", "*II V5", "ABP *V5 II", "Resp *MLII", "PLETH *aVR I",
    "Fpz-Cz *Lead|II", "ABP *mod.V1", "*Fpz-Cz RESP", "*0 1", "Vent *ECG|V5 V",
])  # fmt: skip
def test_the_ecg_among_signals(leads):
    names = leads.replace("*", "").split()
    marked = names[ecg_lead([name.replace("|", " ") for name in names])]
    assert f"*{marked}" in leads.split()


def test_lead_by_name_or_number(tmp_path):
    opened = open_recording(put_wfdb(tmp_path / "a.hea"))
    given = (None, "ecg i", " V5 ", "0", "1", "I", "EKG V5")
    assert [lead_number(opened, channel) for channel in given] == [0, 0, 1, 0, 1, 0, 1]
    assert lead_number(opened.select([1, 0]), None) == 1
    for channel in ("V6", "2", "-1", ""):
        with pytest.raises(Unusable, match="from 0 on there are ECG I, V5"):
            lead_number(opened, channel)
    assert lead_number(replace(opened, leads=None), None) == 0


def test_order_of_leads():
    two = LazyRecording.of_values(SIGNAL, Hints(FS, "mV"), Hints(), ["I", "aVR"])
    assert lead_order(two, 2, ["AVR", "I"]) == [1, 0] and lead_order(two, 2, None) == [0, 1]
    assert lead_order(two, 2, ["ECG aVR", "Lead I"]) == [1, 0]
    assert lead_order(two.select([1]), 1, ["II"]) == [0]
    for count, leads in ((3, None), (2, ["I", "V1"])):
        with pytest.raises(Unusable, match="lead"):
            lead_order(two, count, leads)


# What is named and the files that are found; an exclamation mark if they were named themselves.
NAMES = {
    ".": "odd[1].csv r2.hea r10.hea seg/a.hea seg/r.hea sub/x.mat sub/y.edf v.1.hea",
    "seg/q seg": "seg/q.hea! seg/a.hea seg/r.hea", "seg/[pq].hea": "seg/p.hea seg/q.hea",
    "r*": "r2.hea r10.hea",
    "**/*.edf su*/*": "sub/y.edf sub/x.mat",
    "sub sub/y.edf": "sub/x.mat sub/y.edf!",
    "r10 r2.mat odd[1].csv r10.dat lone.dat v.1 notes.md sub/x.mat":
        "r10.hea! r2.hea! odd[1].csv! lone.dat! v.1.hea! notes.md! sub/x.mat!",
    "": None, "r3": None, "empty": None, "x*": None, "r10.atr*": None,
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_files_that_are_found(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    files = """r10.hea r10.dat r10.atr r2.hea r2.mat sub/x.mat sub/y.edf notes.md .z.csv lone.dat
        odd[1].csv v.1.hea v.1.dat empty/readme .hidden/x.csv seg/a_layout.hea seg/p.hea seg/q.hea
        seg/r.hea seg/a.hea"""
    for name in files.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "seg/a.hea").write_text("a/5 1 250\na 0\na_layout 0\np 500\n~ 9\nq 500")
    if NAMES[names] is None:
        said = "is not found" if names == "r3" else "holds no recording"
        with pytest.raises(Unusable, match=re.escape(f"{names} {said}")):
            find_records([names])
    else:
        found = [f"{path}{'!' * named}" for path, named in find_records(names.split()).items()]
        assert found == NAMES[names].split()
