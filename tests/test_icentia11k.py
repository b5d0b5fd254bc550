"""Reading Icentia11k's WFDB distribution, whole and damaged."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb

from pretraining.batches import Signals
from pretraining.icentia11k import reader
from pretraining.icentia11k.index import open_index
from pretraining.icentia11k.reader import ICENTIA11K
from recordings import Unusable
from recordings.annotations import RHYTHM_CLASSES
from recordings.wfdb_files import ICENTIA_GAIN, write_segment
from utils.cli import UserError

NAME = "p00000_s00"
SIGNAL = (np.arange(2000) % 301 - 150).astype(np.int16)


@pytest.fixture
def record(tmp_path):
    """A record that can be read; path without extension."""
    ends = np.array([100, 300, 500, 700, 1900])
    zones = ["(N", "(N", "(AFIB", "", "(AFL"]
    write_segment(tmp_path, NAME, SIGNAL, 74.5, ends, "NSVQN", zones)
    return tmp_path / NAME


def put_header(record, old, new):
    header = "p00000_s00 1 250 2000\np00000_s00.dat 16 74.5/mV 16 0 0 0 0 ecg\n"
    record.with_suffix(".hea").write_text(header.replace(old, new))


def read(record):
    ((_, segment),) = reader.read(record)
    return segment


def test_nested_flat_and_linked_folders_hold_the_same(cohort_folder, tmp_path):
    flat, linked = tmp_path / "flat", tmp_path / "linked"
    flat.mkdir()
    for path in cohort_folder.rglob("p*_s*.*"):
        shutil.copy(path, flat)
    linked.mkdir()
    (linked / "p00").symlink_to(cohort_folder / "p00")
    for folder in (cohort_folder, flat, linked):
        found = reader.find_records(folder).items()
        assert [(patient, [path.name for path in paths]) for patient, paths in found] == [
            (n, [f"p0000{n}_s00", f"p0000{n}_s01"]) for n in range(6)
        ]


def test_segment_reads_as_written(record):
    segment = read(record)
    assert segment.header == (2000, 74.5, 0) and segment.annotated
    for samples in (segment.signal, reader.open_signal(record)[0]):
        np.testing.assert_array_equal(samples, SIGNAL)
    assert segment.beat_ends.tolist() == [100, 300, 500, 700, 1900]
    assert segment.rhythm_ends.tolist() == segment.beat_ends.tolist()
    assert segment.beat_codes.tolist() == [1, 2, 4, 0, 1]
    assert segment.rhythm_codes.tolist() == [3, 3, 4, 2, 5]
    record.with_suffix(".atr").unlink()
    assert not (empty := read(record)).annotated
    assert [part.dtype for part in empty[4:]] == [part.dtype for part in segment[4:]]
    assert [part.shape for part in empty[4:]] == [(0,)] * 4


def test_gain_of_the_header_is_respected(record):
    for gain, *expected in (("0.2(7)/uV", 200, 7), ("5e4/V", 50, 0), ("100(-3)/mV", 100, -3)):
        put_header(record, "74.5/mV", gain)
        assert reader.read_header(record) == pytest.approx((2000, *expected))


@pytest.mark.parametrize(
    ("old", "new"),
    [(" 2000", ""), (" 2000", " 0"), ("250", "360"), ("250", "0"), ("_s00.dat", "_s01.dat"),
     (" 74.5/mV 16 0 0 0 0 ecg", ""), ("/mV", "/mmHg"), (" 16 74", " 212 74"),
     (" 16 74", " 16+24 74"), (" 16 74", " 16x2 74"), ("p00000_s00 1", "7" * 100_000)],
)  # fmt: skip
def test_header_that_cannot_be_used(record, old, new):
    put_header(record, old, new)
    with pytest.raises(Unusable, match="header"):
        read(record)


@pytest.mark.parametrize("size", [0, 1, 3999, 4002, None])
def test_signal_file_of_another_length(record, size):
    path = record.with_suffix(".dat")
    path.unlink() if size is None else path.write_bytes(bytes(size))
    reason = f"header says 2000 samples, file holds {(size or 0) // 2}$"
    with pytest.raises(Unusable, match=r"^unreadable \.dat \(No such" if size is None else reason):
        read(record)


def test_missing_samples_are_noticed(record):
    SIGNAL.clip(-9, 9).tofile(record.with_suffix(".dat"))
    read(record)
    np.where(SIGNAL == 7, -(2**15), SIGNAL).astype("<i2").tofile(record.with_suffix(".dat"))
    with pytest.raises(Unusable, match="missing"):
        read(record)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [  # beats at 10, 20 … with the mark that sits on some; a zone holds the beats of its marks
        (["", "(N", "", ")", "", "(AFL)", ""], "noise normal normal normal noise aflut noise"),
        (["(AFIB)", "(N)", "(VT", ""], "afib normal noise noise"),  # VT is not known
        (["(N", "", "(AFIB", "", ""], "normal normal afib afib afib"),  # until the next one
        (["", ")", ""], "noise noise noise"),  # not opened
    ],
)
def test_zones_of_rhythm(tmp_path, marks, expected):
    rows = [row for n, note in enumerate(marks, 1) for row in ((n, "N", ""), (n, "+", note))]
    places, symbols, notes = zip(*(row for row in rows if row[1:] != ("+", "")), strict=True)
    wfdb.wrann(NAME, "atr", np.array(places) * 10, list(symbols), aux_note=list(notes),
               write_dir=str(tmp_path))  # fmt: skip
    found = reader.read_annotations(tmp_path / NAME)[3]
    assert [RHYTHM_CLASSES[code] for code in found] == expected.split()


def test_annotations_that_cannot_be_used(record):
    path = record.with_suffix(".atr")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Unusable, match="annotations"):
            reader.read_annotations(record)
    # Beyond what the index holds.
    wfdb.wrann(NAME, "atr", np.array([10, 2**31]), ["N", "N"], write_dir=str(record.parent))
    with pytest.raises(Unusable, match="out of order"):
        reader.read_annotations(record)


def test_constants_are_icentia11ks_unless_the_set_has_its_own(tmp_path):
    assert reader.read_constants(tmp_path) == ICENTIA11K == ("icentia11k", 0.0018, 1.3711, {})
    described = {"name": "mitdb", "mean_mv": -0.25, "sd_mv": 0.5, "same_subject": {"202": 201}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert reader.read_constants(tmp_path) == ("mitdb", -0.25, 0.5, {202: 201})
    for change in ({"sd_mv": None}, {"sd_mv": 0}, {"same_subject": {"2": 1e999}}):
        (tmp_path / "dataset.json").write_text(json.dumps(described | change))
        with pytest.raises(UserError, match=r"dataset\.json"):
            reader.read_constants(tmp_path)


def test_few_signals_are_open_at_a_time(cohort_folder, tmp_path, monkeypatch):
    opened, original = [], reader.open_signal
    index = open_index(cohort_folder, tmp_path)
    monkeypatch.setattr(reader, "OPEN_SIGNALS", 2)
    monkeypatch.setattr(reader, "open_signal", lambda path: opened.append(path) or original(path))
    signals = Signals(index, 5)
    for segment in (0, 1, 0, 2, 0, 1):  # 2 closes 1, because 0 was used since
        frames = signals.windows(segment)[[7, 0]]
        samples = wfdb.rdrecord(str(index.record_path(segment)), physical=False).d_signal[:, 0]
        np.testing.assert_array_equal(frames, [samples[7:12], samples[:5]])
    assert opened == [index.record_path(segment) for segment in (0, 1, 2, 1)]


def test_known_facts_of_patient_0(ecg_data):
    records = reader.find_records(ecg_data / "icentia11k")
    total = Counter()
    for path in records[0][:20]:
        ends, codes, _, _ = reader.read_annotations(path)
        if path.name == "p00000_s00":
            assert (ends[0], codes[0]) == (28, 1)
        total.update(codes.tolist())
    assert total == {1: 106_362, 0: 3_158, 2: 1}
    assert reader.read_header(records[0][0]) == (2**20 + 1, ICENTIA_GAIN, 0)
