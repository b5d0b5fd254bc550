"""Reading Icentia11k's WFDB distribution, whole and damaged."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import wfdb

from pretraining.batches import Signals
from pretraining.icentia11k import reader
from pretraining.icentia11k.index import find_records, open_index
from pretraining.icentia11k.reader import ICENTIA11K, Constants
from recordings import Unusable
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


def read(record):
    ((_, segment),) = reader.read(record)
    return segment


def rhythms(folder, *marks):
    """Rhythm of each beat as the reader rebuilds it; marks are `place` or `place, note`."""
    places, notes = zip(*((*mark, "")[:2] for mark in marks), strict=True)
    symbols = ["+" if note else "N" for note in notes]
    wfdb.wrann(NAME, "atr", np.array(places), symbols, aux_note=list(notes), write_dir=str(folder))
    return [RHYTHM_CLASSES[code] for code in reader.read_annotations(folder / NAME)[3]]


def names(records):
    return {patient: [path.name for path in paths] for patient, paths in records.items()}


def test_nested_flat_and_linked_folders_hold_the_same(cohort_folder, tmp_path):
    flat, linked = tmp_path / "flat", tmp_path / "linked"
    flat.mkdir()
    for path in cohort_folder.rglob("p*_s*.*"):
        shutil.copy(path, flat)
    linked.mkdir()
    (linked / "p00").symlink_to(cohort_folder / "p00")
    nested, folders = reader.find_records(cohort_folder)
    assert len(folders) == 8  # the set's, p00 and the patients'
    assert reader.find_records(flat)[1] == [flat]
    for folder in (flat, linked):
        assert names(reader.find_records(folder)[0]) == names(nested)
    assert names(nested)[3] == ["p00003_s00", "p00003_s01"] and len(nested) == 6


def test_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no records named"):
        find_records(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        find_records(tmp_path / "no")


def test_segment_reads_as_written(record):
    segment = read(record)
    assert segment.header == (2000, 74.5, 0, True, 0) and segment.annotated
    np.testing.assert_array_equal(reader.open_signal(record, segment.header), [SIGNAL])
    assert segment.beat_ends.tolist() == [100, 300, 500, 700, 1900]
    assert segment.rhythm_ends.tolist() == segment.beat_ends.tolist()
    assert segment.beat_codes.tolist() == [1, 2, 4, 0, 1]
    assert segment.rhythm_codes.tolist() == [3, 3, 4, 2, 5]
    types = [np.int64, np.int8, np.int64, np.int8]
    assert [part.dtype for part in segment[2:6]] == types
    record.with_suffix(".atr").unlink()
    segment = read(record)
    assert not segment.annotated and [part.dtype for part in segment[2:6]] == types
    assert [part.shape for part in segment[2:6]] == [(0,)] * 4


@pytest.mark.parametrize(
    ("gain", "units_per_mv", "baseline"),
    [("74.5/mV", 74.5, 0), ("0.2(7)/uV", 200, 7), ("5e4/V", 50, 0), ("100(-3)/mV", 100, -3)],
)
def test_gain_of_the_header_is_respected(record, gain, units_per_mv, baseline):
    put_header(record, LINES[0], LINES[1].replace("74.5/mV", gain))
    header = reader.read_header(record)
    assert header.gain == pytest.approx(units_per_mv)
    assert header.baseline == baseline


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("2000", "2001", "says 2001 samples, file holds 2000"),
        (" 2000", "", "says None samples"),
        ("250", "360", "says 360 Hz, not 250"),
        ("_s00.dat", "_s01.dat", "names another signal file"),
        ("2000", str(10**12), "says 1000000000000 samples, file hol"),
        ("250", "0", "header says 0 Hz, not 250"),
        (" 74.5/mV 16 0 0 0 0 ecg", "", "no gain per mV"),
        ("/mV", "/mmHg", "no gain per mV, uV or V"),
        (" 16 74", " 24 74", "says 2000 samples, file holds 1333"),
        (" 16 74", " 516 74", "unreadable signal .format 516"),
        ("p00000_s00 1", "7" * 100_000, "256 leads, or 500 characters"),
    ],
)
def test_header_that_cannot_be_used(record, old, new, reason):
    put_header(record, *"\n".join(LINES).replace(old, new).split("\n"))
    with pytest.raises(Unusable, match=reason):
        read(record)


@pytest.mark.parametrize("size", [0, 1, 3999, 2000, 4002])
def test_signal_file_of_another_length(record, size):
    record.with_suffix(".dat").write_bytes(bytes(size))
    with pytest.raises(Unusable, match="header says 2000 samples, file holds"):
        read(record)
    record.with_suffix(".dat").unlink()
    with pytest.raises(Unusable, match=r"no \.dat"):
        read(record)


@pytest.mark.parametrize("fmt", ["80", "212", "24", "32"])
def test_other_formats_are_read_too(tmp_path, fmt):
    digital = SIGNAL.clip(-100, 100)
    for missing in (False, True):
        signal = digital[:, None] / 100
        signal[5] = np.nan if missing else signal[5]
        wfdb.wrsamp(
            NAME, 250, ["mV"], ["ecg"], p_signal=signal, fmt=[fmt], adc_gain=[100.0],
            baseline=[0], write_dir=str(tmp_path),
        )  # fmt: skip
        if missing:
            with pytest.raises(Unusable, match="missing"):
                read(tmp_path / NAME)
        else:
            header = read(tmp_path / NAME).header
            assert header == (2000, 100.0, 0, False, 0)
            (found,) = reader.open_signal(tmp_path / NAME, header)
            assert found.dtype == np.int16
            np.testing.assert_array_equal(found, digital)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (  # zones hold the beats that their marks sit on
            [(10,), (20,), (20, "(N"), (30,), (40,), (40, ")"), (50,), (60,), (60, "(AFL)"), (70,)],
            ["noise", "normal", "normal", "normal", "noise", "aflut", "noise"],
        ),
        (  # neighbouring zones, and a rhythm that is not known
            [(10,), (10, "(AFIB)"), (20,), (20, "(N)"), (30,), (30, "(VT"), (40,)],
            ["afib", "normal", "noise", "noise"],
        ),
        (  # a zone that is not closed lasts until the next one, or to the end
            [(10,), (10, "(N"), (20,), (30,), (30, "(AFIB"), (40,), (50,)],
            ["normal"] * 2 + ["afib"] * 3,
        ),
        ([(10,), (20,), (20, ")"), (30,)], ["noise"] * 3),  # not opened
    ],
)
def test_zones_of_rhythm(tmp_path, marks, expected):
    assert rhythms(tmp_path, *marks) == expected


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
    assert reader.read_constants(tmp_path) == Constants("mitdb", -0.25, 0.5, {202: 201})


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"name": "x", "mean_mv": 0}',
        '{"name": "x", "mean_mv": 0, "sd_mv": 0}',
        '{"name": "x", "mean_mv": NaN, "sd_mv": 1}',
        '{"name": "x", "mean_mv": 0, "sd_mv": 1, "same_subject": {"201": Infinity}}',
    ],
)
def test_bad_constants_are_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json"):
        reader.read_constants(tmp_path)


def test_few_signals_are_open_at_a_time(cohort_folder, tmp_path, monkeypatch):
    opened, original = [], reader.open_signal
    index = open_index(cohort_folder, tmp_path)
    monkeypatch.setattr(reader, "OPEN_SIGNALS", 2)
    monkeypatch.setattr(
        reader, "open_signal", lambda path, header: opened.append(path) or original(path, header)
    )
    signals = Signals(index, 5)
    for segment in (0, 1, 0, 2, 0, 1):  # 2 closes 1, because 0 was used since
        frames = signals.windows(segment)[[7, 0]]
        samples = wfdb.rdrecord(str(index.record_path(segment)), physical=False).d_signal[:, 0]
        np.testing.assert_array_equal(frames, [samples[7:12], samples[:5]])
    assert opened == [index.record_path(segment) for segment in (0, 1, 2, 1)]


def test_known_facts_of_patient_0(ecg_data):
    records, _ = reader.find_records(ecg_data / "icentia11k")
    total = Counter()
    for path in records[0][:20]:
        ends, codes, _, _ = reader.read_annotations(path)
        if path.name == "p00000_s00":
            assert (ends[0], codes[0]) == (28, 1)
        total.update(codes.tolist())
    assert total == {1: 106_362, 0: 3_158, 2: 1}
    assert reader.read_header(records[0][0]) == (2**20 + 1, ICENTIA_GAIN, 0, True, 0)
