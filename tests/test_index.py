"""The annotation index, and the choice of patients and segments from it."""

import json
import pickle
import shutil

import numpy as np
import pytest

from pretraining.cohort import choose_segments, manifest, split_patients
from pretraining.icentia11k import distributions
from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.indexing import open_index
from pretraining.icentia11k.signals import Signals
from pretraining.tasks import TASKS
from utils.cli import UserError


@pytest.fixture(scope="module")
def index(cohort_folder, tmp_path_factory):
    """Index of the synthetic cohort, not to be changed."""
    return open_index(cohort_folder, tmp_path_factory.mktemp("index"))


@pytest.fixture
def read(monkeypatch):
    """Names of the records whose headers are read from here on."""
    names, original = [], icentia11k.read_header
    monkeypatch.setattr(
        icentia11k, "read_header", lambda path: names.append(path.name) or original(path)
    )
    return names


def segment(index, name):
    return index.segments["path"].tolist().index(name.encode())


def signal_file(root, name="p00001_s01"):
    return root / f"p00/{name[:6]}/{name}.dat"


def cut_short(path, share=2):
    """Rewrite in place, as an interrupted download does; returns what was there."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // share])
    return whole


def put_signal(root, name, change):
    """Write what `change` makes of a signal, as other recordings of the same length."""
    path = signal_file(root, name)
    change(np.fromfile(path, "<i2")).astype("<i2").tofile(path)


def spoil(root):
    """Two constant segments, of patients 1 and 2, and a clipped one of 4."""
    put_signal(root, "p00001_s01", lambda signal: np.zeros_like(signal))
    put_signal(root, "p00002_s00", lambda signal: np.full_like(signal, 9))
    put_signal(root, "p00004_s00", lambda signal: signal.clip(*np.percentile(signal, (5, 95))))


def content(index):
    arrays = {name: array.tobytes() for name, array in index.arrays.items()}
    return index.segments.tobytes(), arrays, index.left_out


def test_index_equals_direct_reading(index, cohort_folder):
    records, _ = icentia11k.find_records(cohort_folder)
    paths = [path for patient in records.values() for path in patient]
    assert [index.record_path(number) for number in range(len(index.segments))] == paths
    assert index.segments["patient"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert index.left_out == []
    for number, path in enumerate(paths):
        assert index.header(number) == icentia11k.read_header(path)
        ends, codes, _, rhythm = icentia11k.read_annotations(path)
        assert len(ends) > 10
        found = index.annotations(number)
        np.testing.assert_array_equal(found["beat_ends"], ends)
        np.testing.assert_array_equal(found["beat_codes"], codes)
        changes = np.flatnonzero(np.diff(rhythm, append=-1))
        np.testing.assert_array_equal(found["rhythm_ends"], ends[changes])
        np.testing.assert_array_equal(found["rhythm_codes"], rhythm[changes])


def test_second_opening_reads_nothing(cohort_copy, read):
    first = open_index(cohort_copy)
    assert len(read) == 12
    read.clear()
    assert content(open_index(cohort_copy)) == content(first)
    assert read == []


def test_index_may_lie_elsewhere(cohort_copy, tmp_path, read):
    before = sorted(cohort_copy.rglob("*"))
    first = open_index(cohort_copy, tmp_path / "some/where")
    read.clear()
    assert content(open_index(cohort_copy, tmp_path / "some/where")) == content(first)
    assert read == []
    assert sorted(cohort_copy.rglob("*")) == before


def test_added_patient_is_picked_up_and_read_alone(cohort_copy, tmp_path, read, index):
    shutil.move(cohort_copy / "p00/p00002", tmp_path)
    assert len(open_index(cohort_copy).segments) == 10
    read.clear()
    shutil.move(tmp_path / "p00002", cohort_copy / "p00")
    assert content(open_index(cohort_copy)) == content(index)
    assert read == ["p00002_s00", "p00002_s01"]


def test_removed_segment_disappears(cohort_copy, read):
    open_index(cohort_copy)
    read.clear()
    for path in cohort_copy.rglob("p00005_s00.*"):
        path.unlink()
    assert len(open_index(cohort_copy).segments) == 11
    assert read == ["p00005_s01"]


def test_removed_copy_of_a_patient_disappears(cohort_copy, tmp_path):
    for path in (cohort_copy / "p00/p00004").iterdir():
        shutil.copy(path, cohort_copy)
    elsewhere = tmp_path / "index"
    assert len(open_index(cohort_copy, elsewhere).segments) == 14
    shutil.rmtree(cohort_copy / "p00/p00004")
    found = open_index(cohort_copy, elsewhere).segments["path"].tolist()
    assert len(found) == 12
    assert b"p00004_s00" in found and b"p00/p00004/p00004_s00" not in found


def test_truncated_file_is_picked_up_once_it_is_complete(cohort_copy, read, index):
    path = signal_file(cohort_copy)
    whole, folder = cut_short(path), path.parent.stat().st_mtime_ns
    damaged = open_index(cohort_copy)
    assert [(out["record"], out["patient"]) for out in damaged.left_out] == [
        ("p00/p00001/p00001_s01", 1)
    ]
    assert damaged.left_out[0]["reason"] == "header says 6000 samples, file holds 3000"
    read.clear()
    open_index(cohort_copy)
    assert read == []  # still as it was
    path.write_bytes(whole)
    assert path.parent.stat().st_mtime_ns == folder
    assert content(open_index(cohort_copy)) == content(index)
    assert read == ["p00001_s00", "p00001_s01"]


@pytest.mark.parametrize("damage", [cut_short, lambda path: path.unlink()])
def test_signal_damaged_since_is_one_clear_error(cohort_copy, damage):
    index = open_index(cohort_copy)
    number = segment(index, "p00/p00001/p00001_s01")
    damage(signal_file(cohort_copy))
    with pytest.raises(UserError, match=r"p00001_s01 changed .* delete the index") as error:
        Signals(index, 512).windows(number)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["index.json", "segments.npy", "beat_ends"])
def test_damaged_index_is_built_again(cohort_copy, index, name):
    open_index(cohort_copy)
    (cohort_copy / "annotation_index/current" / name).write_bytes(b"")
    assert content(open_index(cohort_copy)) == content(index)


def damaged_tables(table, about):
    """Names of files and what a stranger may have put there."""
    for name, value in (("path", b"../p00000_s00"), ("path", b"/p00/p00000_s00"),
                        ("path", b"p\0p"), ("path", b"\xff"), ("gain", 0),
                        ("gain", np.nan), ("samples", -1), ("beats", 10**12), ("offset", -1),
                        ("first_beats", 1), ("patient", 99)):  # fmt: skip
        changed = table.copy()
        changed[name][0] = value
        yield "segments.npy", changed
    for name in ("beats", "path"):
        yield "segments.npy", table[[other for other in table.dtype.names if other != name]]
    yield "segments.npy", np.array([{}], object)
    for change in ({"beats": 10**20}, {"beats": 1e3}, {"patients": 1}, {"left_out": [{}]},
                   {"watched": []}, {"patients": ["0"]}):  # fmt: skip
        yield "index.json", about | change


def test_index_of_a_stranger_is_built_again(cohort_copy, index, tmp_path):
    folder = open_index(cohort_copy).folder
    for name, value in damaged_tables(np.array(index.segments), index.about):
        if name == "index.json":
            (folder / name).write_text(json.dumps(value))
        else:
            np.save(folder / name, value)
        assert content(open_index(cohort_copy)) == content(index)


def test_a_beat_of_no_class_in_the_index(cohort_copy):
    folder = open_index(cohort_copy).folder
    size = (folder / "beat_codes").stat().st_size
    (folder / "beat_codes").write_bytes(bytes([99]) * size)
    segments, starts = np.zeros(2, np.int64), np.array([0, 2000])
    rule = TASKS["beat"].examples(open_index(cohort_copy), None, None).rule
    with pytest.raises(UserError, match=r"is damaged \(a beat of no class\); delete it"):
        rule(open_index(cohort_copy), segments, starts, 2000)


def test_interrupted_building_leaves_nothing(cohort_copy, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(icentia11k, "read_header", stop)
    with pytest.raises(KeyboardInterrupt):
        open_index(cohort_copy)
    assert list((cohort_copy / "annotation_index").iterdir()) == []


def test_reading_in_processes_gives_the_same(cohort_copy, tmp_path, monkeypatch):
    cut_short(signal_file(cohort_copy))
    serial = open_index(cohort_copy, tmp_path / "serial")
    in_processes = distributions.WFDB._replace(at_once=0)
    monkeypatch.setattr(distributions, "WFDB", in_processes)
    assert content(open_index(cohort_copy, tmp_path / "parallel")) == content(serial)


def test_all_segments_are_chosen(index):
    cohort, left_out = choose_segments(index, None, 6000, annotated=True)
    assert {patient: rows.tolist() for patient, rows in cohort.items()} == {
        patient: [2 * patient, 2 * patient + 1] for patient in range(6)
    }
    assert left_out == []


def test_patients_asked_for_are_chosen(index):
    cohort, _ = choose_segments(index, [4, 1], 512, annotated=True)
    assert list(cohort) == [1, 4]
    with pytest.raises(UserError, match=r"patient 7 is not in .*icentia11k"):
        choose_segments(index, [1, 7], 512, annotated=True)


def test_what_cannot_be_used_is_left_out_with_its_reason(cohort_copy):
    header = signal_file(cohort_copy, "p00000_s00").with_suffix(".hea")
    header.write_text(header.read_text().replace(" 6000", " 3000"))
    cut_short(signal_file(cohort_copy, "p00000_s00"))  # a short segment
    cut_short(signal_file(cohort_copy, "p00001_s00"))  # a truncated one
    signal_file(cohort_copy, "p00002_s00").with_suffix(".atr").unlink()
    index = open_index(cohort_copy)
    cohort, left_out = choose_segments(index, None, 4096, annotated=True)
    assert {(out["record"][-10:], out["patient"], out["reason"]) for out in left_out} == {
        ("p00000_s00", 0, "shorter than an example of 4096 samples"),
        ("p00001_s00", 1, "header says 6000 samples, file holds 3000"),
        ("p00002_s00", 2, "no annotations"),
    }
    assert [len(rows) for rows in cohort.values()] == [1, 1, 1, 2, 2, 2]
    cohort, left_out = choose_segments(index, [0, 2], 3000, annotated=False)
    assert [len(rows) for rows in cohort.values()] == [2, 2] and left_out == []


def test_named_patient_that_cannot_be_used_is_an_error(cohort_copy):
    for name in ("p00003_s00", "p00003_s01"):
        cut_short(signal_file(cohort_copy, name))
    index = open_index(cohort_copy)
    with pytest.raises(UserError, match="patient 3 cannot be used: header says 6000 samples"):
        choose_segments(index, [2, 3], 512, annotated=True)
    assert 3 not in choose_segments(index, None, 512, annotated=True)[0]


def test_nothing_left_is_an_error(cohort_copy, index):
    with pytest.raises(UserError, match=r"no segment can be used \(12 left out: 12 × shorter"):
        choose_segments(index, None, 6001, annotated=True)
    for path in cohort_copy.rglob("*.dat"):
        cut_short(path)
    with pytest.raises(UserError, match=r"no segment can be used \(12 left out: 12 × header says"):
        choose_segments(open_index(cohort_copy), None, 512, annotated=True)


COHORT = {patient: np.array([patient]) for patient in range(20)}


@pytest.mark.parametrize(
    ("asked", "count"), [(0, 0), (1, 1), (3, 3), (19, 19), (0.05, 1), (0.01, 1), (0.25, 5)]
)
def test_validation_patients_are_other_patients(asked, count):
    train, val = split_patients(COHORT, asked, 0, {})
    assert len(val) == count
    assert not train.keys() & val.keys()
    assert train.keys() | val.keys() == COHORT.keys()


def test_records_of_one_subject_stay_together():
    for seed in range(20):
        _, val = split_patients(COHORT, 5, seed, {7: 3})
        assert (7 in val) == (3 in val)
        assert len(val) in (5, 6)
    with pytest.raises(UserError, match="takes all of 2 usable patients"):
        split_patients({3: COHORT[3], 7: COHORT[7]}, 1, 0, {7: 3})


def test_seed_chooses_the_validation_patients():
    chosen = [set(split_patients(COHORT, 5, seed, {})[1]) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize(("patients", "asked"), [(1, 0.05), (1, 1), (20, 20), (20, 0.99), (20, 21)])
def test_somebody_must_be_left_to_train_on(patients, asked):
    cohort = {patient: COHORT[patient] for patient in range(patients)}
    with pytest.raises(UserError, match=f"{asked} takes all of {patients} usable patients"):
        split_patients(cohort, asked, 0, {})


def test_only_patients_asked_for_are_read(cohort_copy, read):
    def patients(index):
        return set(index.segments["patient"].tolist())

    for _ in range(2):
        assert patients(open_index(cohort_copy, patient_ids=[2])) == {2}
    assert read == ["p00002_s00", "p00002_s01"]
    assert patients(open_index(cohort_copy, patient_ids=[4])) == {2, 4}
    assert patients(open_index(cohort_copy)) == set(range(6))
    assert len(read) == len(set(read)) == 12


def test_constant_and_clipped_segments_are_marked(cohort_copy, index):
    assert not index.segments["constant"].any() and not index.segments["clipped"].any()
    spoil(cohort_copy)
    for patients in (None, [1]):  # read, then taken over from the index before
        found = open_index(cohort_copy, patient_ids=patients)
        assert np.flatnonzero(found.segments["constant"]).tolist() == [3, 4]
        assert np.flatnonzero(found.segments["clipped"]).tolist() == [8]
        shutil.rmtree(cohort_copy / "p00/p00005", ignore_errors=True)


def test_an_index_of_another_version_is_built_anew(cohort_copy, index, read):
    open_index(cohort_copy)
    read.clear()
    folder = cohort_copy / "annotation_index/current"
    table = np.load(folder / "segments.npy")
    np.save(folder / "segments.npy", table[[n for n in table.dtype.names if n != "clipped"]])
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"version": 3}))
    assert content(open_index(cohort_copy)) == content(index)
    assert len(read) == 12


def test_another_process_refuses_an_index_built_anew(cohort_copy):
    index = open_index(cohort_copy, patient_ids=[2])
    same = pickle.loads(pickle.dumps(index))
    assert content(same) == content(index)
    message = pickle.dumps(index)
    open_index(cohort_copy)
    with pytest.raises(UserError, match="built anew"):
        pickle.loads(message)


def test_manifest_lists_all_and_names_no_machine(cohort_copy):
    cut_short(signal_file(cohort_copy))
    index = open_index(cohort_copy)
    cohort, left_out = choose_segments(index, None, 512, annotated=True)
    train, val = split_patients(cohort, 2, 0, {})
    about = json.loads(json.dumps(manifest(index, train, val, left_out)))
    assert str(cohort_copy.parent) not in json.dumps(about)
    train, val = about["train"], about["validation"]
    assert (train["patients"], val["patients"]) == (4, 2)
    assert train["records"] | val["records"] == {
        str(patient): [f"p{patient:05d}_s{segment:02d}" for segment in range(1 + (patient != 1))]
        for patient in range(6)
    }
    assert train["segments"] + val["segments"] == 11
    assert train["samples"] == 6000 * train["segments"]
    reason = "header says 6000 samples, file holds 3000"
    assert about["left_out"] == [
        {"record": "p00/p00001/p00001_s01", "patient": 1, "reason": reason}
    ]


def test_manifest_counts_constant_and_clipped_segments(cohort_copy):
    spoil(cohort_copy)
    index = open_index(cohort_copy)
    cohort, left_out = choose_segments(index, None, 512, annotated=True)
    val = {4: cohort.pop(4)}
    about = json.loads(json.dumps(manifest(index, cohort, val, left_out)))
    train, val = about["train"], about["validation"]
    assert train["constant"] == {"count": 2, "records": ["p00001_s01", "p00002_s00"]}
    assert val["clipped"] == {"count": 1, "records": ["p00004_s00"]}
    assert train["clipped"] == val["constant"] == {"count": 0, "records": []}
    assert (train["segments"], val["segments"]) == (10, 2)  # they are used
