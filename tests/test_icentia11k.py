"""Reading Icentia11k's records, whole and damaged."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from pretraining.icentia11k import distributions
from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.indexing import open_index
from pretraining.icentia11k.reader import ICENTIA11K, Constants, Unusable
from pretraining.icentia11k.signals import Signals
from recordings.annotations import RHYTHM_CLASSES
from recordings.wfdb_files import ICENTIA_GAIN, write_segment
from utils.cli import UserError

NAME = "p00000_s00"
SIGNAL = (np.arange(2000) % 301 - 150).astype(np.int16)
LINES = ["p00000_s00 1 250 2000", "p00000_s00.dat 16 74.5/mV 16 0 0 0 0 ecg"]


@pytest.fixture
def record(tmp_path):
    """A record that can be read; path without extension."""
    ends = np.array([100, 300, 500, 700, 1900])
    zones = ["(N", "(N", "(AFIB", "", "(AFL"]
    write_segment(tmp_path, NAME, SIGNAL, 74.5, ends, "NSVQN", zones)
    return tmp_path / NAME


def put_header(record, *lines):
    record.with_suffix(".hea").write_text("".join(f"{line}\n" for line in lines))


def rhythms(folder, *marks):
    """Rhythm of each beat as the reader rebuilds it; marks are `place` or `place, note`."""
    places, notes = zip(*((*mark, "")[:2] for mark in marks), strict=True)
    symbols = ["+" if note else "N" for note in notes]
    wfdb.wrann(NAME, "atr", np.array(places), symbols, aux_note=list(notes), write_dir=str(folder))
    return [RHYTHM_CLASSES[code] for code in icentia11k.read_annotations(folder / NAME)[3]]


def names(records):
    return {patient: [path.name for path in paths] for patient, paths in records.items()}


def test_nested_and_flat_folders_hold_the_same(cohort_folder, tmp_path):
    for path in cohort_folder.rglob("p*_s*.*"):
        shutil.copy(path, tmp_path)
    nested, folders = icentia11k.find_records(cohort_folder)
    flat, flat_folders = icentia11k.find_records(tmp_path)
    assert names(flat) == names(nested)
    assert names(flat)[3] == ["p00003_s00", "p00003_s01"] and len(flat) == 6
    assert flat_folders == [tmp_path]
    assert len(folders) == 8  # the set's, p00 and the patients'


def test_any_subset_is_a_data_set(cohort_copy):
    shutil.rmtree(cohort_copy / "p00/p00000")
    for path in (cohort_copy / "p00/p00004").glob("*_s00.*"):
        path.unlink()
    records, _ = icentia11k.find_records(cohort_copy)
    assert list(records) == [1, 2, 3, 4, 5]
    assert names(records)[4] == ["p00004_s01"]


def test_linked_folders_are_followed(cohort_folder, tmp_path):
    (tmp_path / "p00").symlink_to(cohort_folder / "p00")
    assert names(icentia11k.find_records(tmp_path)[0]).keys() == set(range(6))


def test_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no records named"):
        distributions.find_records(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        distributions.find_records(tmp_path / "no")


def test_segment_reads_as_written(record):
    header = icentia11k.read_header(record)
    assert header == (2000, 74.5, 0, True, 0)
    signal = icentia11k.read_signal(record, header)
    assert isinstance(signal, np.memmap)
    np.testing.assert_array_equal(signal, SIGNAL)
    ends, codes, rhythm_ends, rhythm = icentia11k.read_annotations(record)
    assert ends.tolist() == rhythm_ends.tolist() == [100, 300, 500, 700, 1900]
    assert codes.tolist() == [1, 2, 4, 0, 1]
    assert rhythm.tolist() == [3, 3, 4, 2, 5]


def test_annotations_have_fixed_types_even_when_there_are_none(record):
    types = [np.int64, np.int8, np.int64, np.int8]
    assert [part.dtype for part in icentia11k.read_annotations(record)] == types
    record.with_suffix(".atr").unlink()
    empty = icentia11k.read_annotations(record)
    assert [part.dtype for part in empty] == types
    assert [part.shape for part in empty] == [(0,)] * 4


@pytest.mark.parametrize(
    ("gain", "units_per_mv", "baseline"),
    [("74.5/mV", 74.5, 0), ("0.2(7)/uV", 200, 7), ("5e4/V", 50, 0), ("100(-3)/mV", 100, -3)],
)
def test_gain_of_the_header_is_respected(record, gain, units_per_mv, baseline):
    put_header(record, LINES[0], LINES[1].replace("74.5/mV", gain))
    header = icentia11k.read_header(record)
    assert header.gain == pytest.approx(units_per_mv)
    assert header.baseline == baseline


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([LINES[0].replace("2000", "2001"), LINES[1]], "says 2001 samples, file holds 2000"),
        ([LINES[0].replace("2000", "1999"), LINES[1]], "says 1999 samples, file holds 2000"),
        ([LINES[0].replace("2000", ""), LINES[1]], "says None samples"),
        ([LINES[0].replace("250", "360"), LINES[1]], "says 360 Hz, not 250"),
        ([LINES[0], LINES[1].replace("_s00", "_s01")], "names another signal file"),
        ([LINES[0], "../" + LINES[1]], "another folder"),
        ([LINES[0], "/etc/" + LINES[1]], "another folder"),
        ([LINES[0].replace("2000", str(10**12)), LINES[1]], "says 1000000000000 samples, file hol"),
        ([LINES[0].replace("250", "0"), LINES[1]], "0 Hz is not from 20 to 20000"),
        ([LINES[0].replace("250", "-250"), LINES[1]], "says '-250' for its rate"),
        ([LINES[0].replace("250", "9" * 400), LINES[1]], "unreadable header"),
        ([LINES[0].replace("2000", "2e3"), LINES[1]], "says '2e3' for its rate or length"),
        ([LINES[0].replace(" 1 ", f" {10**9} "), LINES[1]], "says 1000000000 leads, lists 1"),
        ([LINES[0], LINES[1].replace("74.5", "-200")], "no gain per mV"),
        ([LINES[0], LINES[1].replace("74.5", "0.000")], "no gain per mV"),
        ([LINES[0], LINES[1].replace("74.5", "1e-300")], "no gain per mV"),
        ([LINES[0], LINES[1].replace("/mV", "(999999999999)/mV")], "no gain per mV"),
        ([LINES[0], LINES[1].replace(" 16 74", " 16:1000000 74")], "16:1000000', which is not"),
        ([LINES[0], LINES[1].replace(" 16 74", f" 16x{10**9} 74")], "file holds"),
        ([LINES[0], LINES[1].replace(" 16 74", f" 16+{10**399} 74")], "file holds 0"),
        ([LINES[0], LINES[1].replace(" 16 74", " 16x0 74")], "format '16x0', which is not read"),
        ([LINES[0], LINES[1].replace(" 16 74", " 516 74")], "unreadable signal .format 516"),
        ([LINES[0], LINES[1].replace("p00000_s00.dat", ".")], "names another signal file"),
        (["7" * 100_000, LINES[1]], "256 leads, or 500 characters"),
        ([LINES[0], *["a 1"] * 100_000], "256 leads, or 500 characters"),
        (["#" * 2**20, *LINES], "header of more than 1,048,576 bytes"),
        ([LINES[0], LINES[1].replace(" 16 74", " 999 74")], "unreadable signal"),
        ([LINES[0], LINES[1].replace(" 16 74", " 24 74")], "says 2000 samples, file holds 1333"),
        ([LINES[0], LINES[1].replace("/mV", "/mmHg")], "no gain per mV, uV or V"),
        ([LINES[0], LINES[1].replace("74.5/mV", "0(0)/mV")], "no gain per mV"),
        ([LINES[0], LINES[1].split(" 74")[0]], "no gain per mV"),
        (["p00000_s00 0 250 2000"], "without leads"),
        (LINES[:1], "without leads"),
        (["p00000_s00/2 1 250 2000", "a 1000", "b 1000"], "without leads"),
        (["nothing of the kind"], "unreadable header"),
        ([], "unreadable header"),
    ],
)
def test_header_that_cannot_be_used(record, lines, reason):
    put_header(record, *lines)
    with pytest.raises(Unusable, match=reason):
        icentia11k.read_header(record)


@pytest.mark.parametrize("size", [0, 1, 3999, 2000, 4002])
def test_signal_file_of_another_length(record, size):
    record.with_suffix(".dat").write_bytes(bytes(size))
    with pytest.raises(Unusable, match="header says 2000 samples, file holds"):
        icentia11k.read_header(record)


@pytest.mark.parametrize("suffix", [".hea", ".dat"])
def test_missing_file(record, suffix):
    record.with_suffix(suffix).unlink()
    with pytest.raises(Unusable, match=f"no {suffix}"):
        icentia11k.read_header(record)


def test_missing_sample(record):
    signal = SIGNAL.copy()
    signal[-1] = -32768
    signal.tofile(record.with_suffix(".dat"))
    with pytest.raises(Unusable, match="missing"):
        icentia11k.read_header(record)


def write_format(folder, fmt, signal):
    wfdb.wrsamp(
        NAME, 250, ["mV"], ["ecg"], p_signal=signal[:, None], fmt=[fmt], adc_gain=[100.0],
        baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    return folder / NAME


@pytest.mark.parametrize("fmt", ["80", "212", "24", "32"])
def test_other_formats_are_read_too(tmp_path, fmt):
    digital = SIGNAL.clip(-100, 100)
    path = write_format(tmp_path, fmt, digital / 100)
    header = icentia11k.read_header(path)
    assert header == (2000, 100.0, 0, False, 0)
    signal = icentia11k.read_signal(path, header)
    assert signal.dtype == np.int16
    np.testing.assert_array_equal(signal, digital)


def test_missing_sample_in_another_format(tmp_path):
    signal = SIGNAL / 100
    signal[5] = np.nan
    with pytest.raises(Unusable, match="missing"):
        icentia11k.read_header(write_format(tmp_path, "212", signal))


def test_zones_hold_the_beats_their_marks_sit_on(tmp_path):
    marks = [(10,), (20,), (20, "(N"), (30,), (40,), (40, ")"), (50,), (60,), (60, "(AFL)"), (70,)]
    expected = ["noise", "normal", "normal", "normal", "noise", "aflut", "noise"]
    assert rhythms(tmp_path, *marks) == expected


def test_neighbouring_zones_and_unknown_rhythms(tmp_path):
    marks = [(10,), (10, "(AFIB)"), (20,), (20, "(N)"), (30,), (30, "(VT"), (40,), (40, ")"), (50,)]
    assert rhythms(tmp_path, *marks) == ["afib", "normal", "noise", "noise", "noise"]


def test_zone_that_is_not_closed_lasts_until_the_next_or_the_end(tmp_path):
    marks = [(10,), (10, "(N"), (20,), (30,), (30, "(AFIB"), (40,), (50,)]
    assert rhythms(tmp_path, *marks) == ["normal"] * 2 + ["afib"] * 3


def test_zone_that_was_not_opened_is_none(tmp_path):
    assert rhythms(tmp_path, (10,), (20,), (20, ")"), (30,)) == ["noise"] * 3


def test_annotations_cut_anywhere_are_noticed(record):
    path = record.with_suffix(".atr")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Unusable, match="annotations"):
            icentia11k.read_annotations(record)


@pytest.mark.parametrize(
    "notes", [["## x"], ["## time resolution: 250"] * 2, ["## annotation type definitions."]]
)
def test_definitions_that_wfdb_would_never_finish_with(tmp_path, notes):
    wfdb.wrann(NAME, "atr", np.zeros(len(notes), int), ['"'] * len(notes), aux_note=notes,
               write_dir=str(tmp_path))  # fmt: skip
    with pytest.raises(Unusable, match="definitions that are not understood"):
        icentia11k.read_annotations(tmp_path / NAME)


def test_definitions_that_are_read(tmp_path):
    wfdb.wrann(NAME, "atr", np.array([10]), ["N"], fs=250, custom_labels=[("z", "own")],
               write_dir=str(tmp_path))  # fmt: skip
    content = (tmp_path / f"{NAME}.atr").read_bytes()
    assert b"## time resolution: 250" in content and b"## end of definitions" in content
    assert icentia11k.read_annotations(tmp_path / NAME)[0].tolist() == [10]


def test_beats_beyond_what_the_index_holds(tmp_path):
    wfdb.wrann(NAME, "atr", np.array([10, 2**31]), ["N", "N"], write_dir=str(tmp_path))
    with pytest.raises(Unusable, match="out of order"):
        icentia11k.read_annotations(tmp_path / NAME)


def test_constants_are_icentia11ks_unless_the_set_has_its_own(tmp_path):
    assert icentia11k.read_constants(tmp_path) == ICENTIA11K == ("icentia11k", 0.0018, 1.3711, {})
    described = {"name": "mitdb", "mean_mv": -0.25, "sd_mv": 0.5, "same_subject": {"202": 201}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert icentia11k.read_constants(tmp_path) == Constants("mitdb", -0.25, 0.5, {202: 201})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "x", "mean_mv": 0}',
        '{"name": "x", "mean_mv": 0, "sd_mv": "wide"}',
        '{"name": "x", "mean_mv": 0, "sd_mv": 0}',
        '{"name": "x", "mean_mv": NaN, "sd_mv": 1}',
        '{"name": "x", "mean_mv": 0, "sd_mv": Infinity}',
        '{"name": "x", "mean_mv": 0, "sd_mv": 1, "same_subject": [201, 202]}',
        '{"name": "x", "mean_mv": 0, "sd_mv": 1, "same_subject": {"201": Infinity}}',
        "[" * 100_000,
    ],
)
def test_bad_constants_are_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json"):
        icentia11k.read_constants(tmp_path)


def test_few_signals_are_open_at_a_time(cohort_folder, tmp_path, monkeypatch):
    def opened(path, header):
        read.append(path.name)
        return original(path, header)

    original = distributions.WFDB.open_signal
    two = distributions.WFDB._replace(open_signals=2, open_signal=opened)
    monkeypatch.setattr(distributions, "WFDB", two)
    index = open_index(cohort_folder, tmp_path)
    read, signals = [], Signals(index, 5)
    for segment in (0, 1, 0, 2, 0):  # 2 closes 1, because 0 was used since
        frames = signals.windows(segment)[[7, 0]]
        samples = wfdb.rdrecord(str(index.record_path(segment)), physical=False).d_signal[:, 0]
        np.testing.assert_array_equal(frames, [samples[7:12], samples[:5]])
    assert read == ["p00000_s00", "p00000_s01", "p00001_s00"]
    signals.windows(1)
    assert read[3:] == ["p00000_s01"]
    assert len(signals._records) == len(signals._windows) == 2


def test_open_signals_hold_no_files_open(cohort_folder, tmp_path):
    index = open_index(cohort_folder, tmp_path)
    signals, before = Signals(index, 5), len(list(Path("/dev/fd").iterdir()))
    for segment in range(12):
        signals.windows(segment)
    assert len(signals._records) == 12
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_known_facts_of_patient_0(ecg_data):
    records, _ = icentia11k.find_records(ecg_data / "icentia11k")
    total = Counter()
    for path in records[0][:20]:
        ends, codes, _, _ = icentia11k.read_annotations(path)
        if path.name == "p00000_s00":
            assert (ends[0], codes[0]) == (28, 1)
        total.update(codes.tolist())
    assert total == {1: 106_362, 0: 3_158, 2: 1}
    header = icentia11k.read_header(records[0][0])
    assert header == (2**20 + 1, ICENTIA_GAIN, 0, True, 0)
