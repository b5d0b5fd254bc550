"""Text exports of devices, databases and spreadsheets: rate, unit, leads and samples of each."""

import re
from datetime import datetime, timedelta

import numpy as np
import pytest

from recordings import Unusable
from recordings.formats import lead_number, open_recording
from tests.helpers import noise

N, FS = 1500, 250
X, Y = (noise(N, 2) / 1000).T.round(3)  # mV
GAP = [i for i in range(N) if not 500 <= i < 700]  # 200 samples are lost
LOST_PACKETS = [i for i in range(N) if i // 73 not in (4, 9)]
WATCH = "Name,Ana Exemplo\nDevice,'Watch6,1'\n{}\n\nLead,Lead I\nUnit,µV\n\n"


def comma(value):
    return (f"{value:.3f}".rstrip("0").rstrip(".") or "0").replace(".", ",")


def stamp(seconds, pattern="%Y-%m-%dT%H:%M:%S.%f"):  # midnight is passed after 3 s
    return (datetime(2024, 5, 8, 23, 59, 57) + timedelta(seconds=seconds)).strftime(pattern)


# Lines above the rows; a row; rate; names of leads; hints. Then, if there are: rows, encoding.
mV, ALL = (None, "mV"), (FS, "mV")
LAYOUTS = {
    "biopac": ("4 msec/sample\n2 channels\nECG\nmV\nRSP\nVolts\nmsec,CH1,CH2,\n,1500,1500,\n",
               lambda i: f"{4 * i},{X[i]},{Y[i]},", FS, ["ECG", "RSP"], ()),
    "opensignals": ('# {"00:07": {"sampling rate": 1000}}\n# End\n',
                    lambda i: f"{i % 16}\t0\t{1000 * X[i]:.0f}\t", 1000, None, (None, "uV")),
    "lost counts": ("", lambda i: f"{i % 16}\t0\t{X[i]}\t", FS, None, ALL,
                    [i for i in range(N) if not 500 <= i < 503]),
    "shimmer": ("sep=\t\nA_Timestamp_Unix_CAL\tStatus\tECG_CAL\t\nms\tno units\tmV\t\n",
                lambda i: f"{1.7e12 + 4 * i:.1f}\t128\t{X[i]}\t", FS, ["ECG_CAL"], ()),
    "polar": ("Phone timestamp;sensor timestamp [ns];timestamp [ms];ecg [uV]\n",
              lambda i: f"{stamp(i // 73 * 73 / 130)[:23]};{599616 * 10**12 + int(i * 1e9 / 130)};"
              f"{i * 1000 / 130:.6f};{1000 * X[i]:.0f}", 130, ["ecg"], (), LOST_PACKETS),
    "packets": ("time_ms,I\n", lambda i: f"{i // 73 * 584},{X[i]}", 125, ["I"], mV, LOST_PACKETS),
    "watch": (WATCH.format("Sample Rate,512 hertz"), lambda i: f"{1000 * X[i]:.3f}", 512, None, ()),
    "decimal commas": (WATCH.format("Abtastrate,512 Hertz"), lambda i: comma(1000 * X[i] + 0.031),
                       512, None, ()),
    "latin-1": ("Fréquence;511,8 hertz\nUnité;µV\n\n", lambda i: f"{1000 * X[i]:.0f}", 511.8, None,
                (), range(N), "latin-1"),
    "physiobank": ("'Elapsed time','MLII','ABP'\n'hh:mm:ss.mmm','mV','mmHg'\n",
                   lambda i: f"'0:{i / FS:06.3f}',{X[i]},{Y[i]}", FS, ["MLII"], ()),
    "rdsamp": ("  Elapsed time  MLII   V5\n  seconds   mV   mV\n",
               lambda i: f"  {i / FS:9.3f}  {X[i]:7.3f}  {Y[i]:7.3f}", FS, ["MLII", "V5"], ()),
    "labchart": ("Interval=\t0.004 s\nChannelTitle=\tECG\tResp\nRange=\t10.000 mV\t1.000 L/min\n",
                 lambda i: f"{i / FS:.3f}\t{X[i]}\t{Y[i]}\t{'# mark' * (i == 4)}", FS, ["ECG"], ()),
    "faros": ("# Sampling Rate (Hz):= 250.0\n# ecg [mV]\n", lambda i: X[i], FS, ["ecg"], ()),
    "index with gaps": (",I,II\n", lambda i: f"{i},{X[i]},{Y[i]}", FS, ["I", "II"], ALL, GAP),
    "savetxt": ("# time,ECG (mV),Resp (NU)\n", lambda i: f"{i / FS:.9e},{X[i]:.9e},{Y[i]}", FS,
                ["ECG"], ()),
    "excel": ("Zeit;EKG\r\n", lambda i: f"{comma(i / FS)};{comma(X[i])}\r", FS, ["EKG"], mV),
    "quoted": ('"Zeit","EKG"\n', lambda i: f'"{comma(i / FS)}","{comma(X[i])}"', FS, ["EKG"], mV),
    "utf-16": ("t\tecg (µV)\n", lambda i: f"{i / FS}\t{1000 * X[i]:.0f}", FS, ["ecg"], (), range(N),
               "utf-16"),
    "empty cells": (";ECG;\n", lambda i: f";{X[i]};", FS, ["ECG"], ALL),
    "three times": (",timestamp,time_s,ecg_mV\n",
                    lambda i: f"{i},{1700000000000 + 4 * i},{i / FS:.3f},{X[i]}", FS, ["ecg"], ()),
    "us": ("timestamp,ecg\n", lambda i: f"{17 * 10**14 + 4000 * i},{X[i]}", FS, ["ecg"], mV, GAP),
    "stamps": ("date,ecg\n", lambda i: f"{stamp(i / FS)}+02:00,{X[i]}", FS, ["ecg"], ALL, GAP),
    "am": (",ECG\n", lambda i: f"{stamp(i / FS, '%I:%M:%S.%f %p')},{X[i]}", FS, ["ECG"], mV),
    "coarse": ("time_ms,ecg\n", lambda i: f"{int(i * 1.25)},{X[i]}", 800, ["ecg"], mV),
    "rate and count": ("250\n1500\n", lambda i: X[i], FS, None, mV),
    "start time": ("1700000000\n", lambda i: X[i], FS, None, ALL),
    "a patient": ("Name;Ana Exemplo\nAlter;30\n", lambda i: f"{i / FS};{X[i]}", FS, None, mV),
    "two clocks": ("elapsed_s,time_s,ecg\n", lambda i: f"{GAP.index(i) / FS},{i / FS},{X[i]}",
                   FS, ["ecg"], mV, GAP),
    "whole counts": ("1500\n", lambda i: f"{1000 * X[i]:.0f}", FS, None, (FS, "uV")),
    "row of a patient": ("Name,Ana Exemplo,12:00\n", lambda i: f"{i / FS},{X[i]},{Y[i]}", FS, None,
                         mV),
    "quality": ("ecg_quality,recg,ecg,ecg_hr\n", lambda i: f"{Y[i]},{Y[i]},{X[i]},{Y[i]}", FS,
                ["ecg_quality", "recg", "ecg", "ecg_hr"], ALL),
    "second": ("time,Resp,EKG\n", lambda i: f"{i / FS},{Y[i]},{X[i]}", FS, ["Resp", "EKG"], mV),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    above, row, fs, leads, hints, *others = LAYOUTS[name]
    rows, encoding = [*others, *(range(N), "utf-8")[len(others) :]]
    text = above + "".join(f"{row(i)}\n" for i in rows)
    (tmp_path / "r.csv").write_text(text, encoding, newline="")
    opened = open_recording(tmp_path / "r.csv", *hints)
    assert (opened.fs, opened.leads) == (pytest.approx(fs, rel=1e-6), leads)
    signal = opened.select([lead_number(opened, None)]).read(0, opened.samples)[:, 0]
    expected = np.full(N, np.nan)
    expected[rows] = X[rows]
    np.testing.assert_allclose(signal, expected[: rows[-1] + 1], atol=6e-4)
    assert any("missing" in note for note in opened.notes) == (len(rows) < N)
    assert not any("Ana" in note for note in opened.notes)


@pytest.mark.parametrize(("row", "words"), [
    (lambda i: f"{i / FS:.3f},{X[i]:.3f}".replace(".", ","), "decimal commas?"),
    (lambda i: ",".join(f"{x:.2f}" for x in X[:188]), "(1500, 188) is not samples by 1 to 64"),
    (lambda i: f"{i / FS},{'Ana' if i == 900 else X[i]}", "unreadable numbers (text among them)"),
    (lambda i: f"{i / FS},{X[i]}{',5' * (i == 900)}", "lines with more cells than those above"),
    (lambda i: X[i] if i else 360, "file says 360 Hz, but --fs or the table 250"),
    (lambda i: f"{i / FS + 1e6 * (i > 700):.3f},{X[i]}", "missing in gaps of the times, more than"),
    (lambda i: f"{i / FS},{X[i]}" if i else "s,mmHg\n0,0", "no column is in uV, mV or V"),
])  # fmt: skip
def test_what_is_no_recording(tmp_path, row, words):
    (tmp_path / "r.csv").write_text("".join(f"{row(i)}\n" for i in range(N)))
    with pytest.raises(Unusable, match=re.escape(words)) as error:
        open_recording(tmp_path / "r.csv", *ALL)
    assert "Ana" not in str(error.value)


def test_blank_lines_are_missing_samples_unless_every_other_line_is_blank(tmp_path):
    for name, text in (("gap", "".join(f"{x if i in GAP else ''}\n" for i, x in enumerate(X))),
                       ("double", "".join(f"{x}\n\n" for x in X))):  # fmt: skip
        (tmp_path / f"{name}.txt").write_text(text)
        signal = open_recording(tmp_path / f"{name}.txt", *ALL).read(0, N)[:, 0]
        assert (len(signal), np.isnan(signal).sum()) == (N, 200 * (name == "gap"))


def test_times_that_step_back_are_refused(tmp_path):
    rows = (f"{i / FS - 0.05 * (i > 700)},{x}\n" for i, x in enumerate(X))
    (tmp_path / "r.csv").write_text("time,ecg\n" + "".join(rows))
    with pytest.raises(Unusable, match="the times step back or are irregular"):
        open_recording(tmp_path / "r.csv", *ALL)
