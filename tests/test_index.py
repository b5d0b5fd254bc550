"""The annotation index, and the choice of patients and segments from it."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest

from pretraining.batches import Signals
from pretraining.cohort import choose_segments, draw_patients, manifest, split_subjects
from pretraining.icentia11k import index as index_module
from pretraining.icentia11k import reader
from pretraining.icentia11k.index import open_index
from pretraining.tasks import Beat
from utils.cli import UserError
from utils.files import read_json


@pytest.fixture(scope="module")
def index(cohort_folder, tmp_path_factory):
    """Index of the synthetic cohort, not to be changed."""
    return open_index(cohort_folder, tmp_path_factory.mktemp("index"))


@pytest.fixture
def read(monkeypatch):
    """Names of the records whose headers are read from here on."""
    names, read = [], reader.read_header
    monkeypatch.setattr(reader, "read_header", lambda path: names.append(path.name) or read(path))
    return names


def signal_file(root, name="p00001_s01"):
    return root / f"p00/{name[:6]}/{name}.dat"


def cut_short(path):
    """Rewrite in place, as an interrupted download does; returns what was there."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def content(index):
    arrays = {name: array.tobytes() for name, array in index.arrays.items()}
    return index.segments.tobytes(), arrays, index.left_out


def patients(index):
    return set(index.segments["patient"].tolist())


def test_index_equals_direct_reading(index, cohort_folder):
    records = reader.find_records(cohort_folder)
    paths = [path for patient in records.values() for path in patient]
    assert [index.record_path(number) for number in range(len(index.segments))] == paths
    assert index.segments["patient"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert index.left_out == []
    for number, path in enumerate(paths):
        assert index.header(number) == reader.read_header(path)
        ends, codes, _, rhythm = reader.read_annotations(path)
        changes = np.flatnonzero(np.diff(rhythm, append=-1))
        expected = ends, codes, ends[changes], rhythm[changes]
        for found, array in zip(index.annotations(number).values(), expected, strict=True):
            np.testing.assert_array_equal(found, array)


def test_second_opening_reads_nothing(cohort_copy, tmp_path, read):
    before = sorted(cohort_copy.rglob("*"))
    for folder in (tmp_path / "some/where", None):
        first = open_index(cohort_copy, folder)
        assert len(read) == 12
        read.clear()
        assert content(open_index(cohort_copy, folder)) == content(first)
        assert read == []
        assert folder is None or sorted(cohort_copy.rglob("*")) == before
    copied = shutil.copytree(cohort_copy, tmp_path / "copied")  # with the times of the originals
    assert content(open_index(copied)) == content(first) and read == []


def test_added_and_removed_patients_and_segments(cohort_copy, tmp_path, read, index):
    shutil.move(cohort_copy / "p00/p00002", tmp_path)
    assert len(open_index(cohort_copy).segments) == 10
    read.clear()
    shutil.move(tmp_path / "p00002", cohort_copy / "p00")
    assert content(open_index(cohort_copy)) == content(index)
    assert read == ["p00002_s00", "p00002_s01"]
    for path in cohort_copy.rglob("p00005_s00.*"):
        path.unlink()
    assert len(open_index(cohort_copy).segments) == 11
    assert read[2:] == ["p00005_s01"]


def test_truncated_file_is_picked_up_once_it_is_complete(cohort_copy, read, index):
    path = signal_file(cohort_copy)
    whole, folder = cut_short(path), path.parent.stat().st_mtime_ns
    reason = "header says 6000 samples, file holds 3000"
    for _ in range(2):
        (out,) = open_index(cohort_copy).left_out
        assert out == {"record": "p00/p00001/p00001_s01", "patient": 1, "reason": reason}
    assert len(read) == 12  # once: it is still as it was
    path.write_bytes(whole)
    assert path.parent.stat().st_mtime_ns == folder
    assert content(open_index(cohort_copy)) == content(index)
    assert read[12:] == ["p00001_s00", "p00001_s01"]


@pytest.mark.parametrize("damage", [cut_short, lambda path: path.unlink()])
def test_signal_damaged_since_is_one_clear_error(cohort_copy, damage):
    index = open_index(cohort_copy)
    number = index.segments["path"].tolist().index(b"p00/p00001/p00001_s01")
    damage(signal_file(cohort_copy))
    with pytest.raises(UserError, match=r"p00001_s01 changed .* delete the index") as error:
        Signals(index, 512).windows(number)
    assert "\n" not in str(error.value)


def test_damaged_index_is_built_again(cohort_copy, index):
    folder = open_index(cohort_copy).folder
    table, about = np.load(folder / "segments.npy"), read_json(folder / "index.json")
    for name in ("index.json", "segments.npy", "beat_ends"):
        (folder / name).write_bytes(b"")
        assert content(open_index(cohort_copy)) == content(index)
    for path in (b"../p00000_s00", b"/p00/p00000_s00"):  # of other folders
        table["path"][0] = path
        np.save(folder / "segments.npy", table)
        forged = about | {"sha256": index_module.checksum(about, table)}
        (folder / "index.json").write_text(json.dumps(forged))
        assert content(open_index(cohort_copy)) == content(index)
    np.save(folder / "segments.npy", table)  # the checksum is another's
    assert content(open_index(cohort_copy)) == content(index)


def test_a_beat_of_no_class_in_the_index(cohort_copy):
    folder = open_index(cohort_copy).folder
    size = (folder / "beat_codes").stat().st_size
    (folder / "beat_codes").write_bytes(bytes([99]) * size)
    segments, starts = np.zeros(2, np.int64), np.array([0, 2000])
    with pytest.raises(UserError, match=r"is damaged \(unknown beat class\); delete it"):
        Beat(2000).label_frames(open_index(cohort_copy), segments, starts)


def test_interrupted_building_leaves_nothing(cohort_copy, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(reader, "read_header", stop)
    with pytest.raises(KeyboardInterrupt):
        open_index(cohort_copy)
    assert [path.name for path in (cohort_copy / "annotation_index").iterdir()] == ["lock"]


def test_reading_in_processes_gives_the_same(cohort_copy, tmp_path, monkeypatch):
    cut_short(signal_file(cohort_copy))
    serial = open_index(cohort_copy, tmp_path / "serial")
    monkeypatch.setattr(reader, "READ_ALONE", 0)
    assert content(open_index(cohort_copy, tmp_path / "parallel")) == content(serial)


def open_together(barrier, root, asked, results):
    try:
        barrier.wait()
        results.put((asked, patients(open_index(root, patient_ids=asked))))
    except BaseException as error:
        results.put((asked, error))


def test_processes_that_start_together(cohort_copy, index):
    asked = [None, [0], [1, 2], None, [5], [0, 3]]
    barrier, results = multiprocessing.Barrier(len(asked)), multiprocessing.Queue()
    for _ in range(5):  # each time there is no index yet
        shutil.rmtree(cohort_copy / "annotation_index", ignore_errors=True)
        starts = [
            multiprocessing.Process(target=open_together, args=(barrier, cohort_copy, ids, results))
            for ids in asked
        ]
        for process in starts:
            process.start()
        for ids, opened in [results.get(timeout=60) for _ in starts]:
            assert isinstance(opened, set) and opened >= set(range(6) if ids is None else ids)
        for process in starts:
            process.join()
        names = {path.name for path in (cohort_copy / "annotation_index").iterdir()}
        assert names == {"current", "lock"} and content(open_index(cohort_copy)) == content(index)


@pytest.mark.parametrize("ending", [".atr", ".hea", ".dat"])
@pytest.mark.parametrize("asked", [None, [1]])
def test_a_file_rewritten_in_place_is_read_again(cohort_copy, read, ending, asked):
    open_index(cohort_copy, patient_ids=asked)
    path = signal_file(cohort_copy).with_suffix(ending)
    before, folder = path.read_bytes(), path.parent.stat().st_mtime_ns
    swap = {".atr": (b"\x04", b"\x14"), ".hea": (b"ecg", b"ECG"), ".dat": (b"\0", b"\1")}[ending]
    read.clear()
    path.write_bytes(before.replace(*swap))
    assert len(path.read_bytes()) == len(before) and path.parent.stat().st_mtime_ns == folder
    open_index(cohort_copy, patient_ids=asked)
    assert read == ["p00001_s00", "p00001_s01"]


def test_only_patients_asked_for_are_read(cohort_copy, read):
    for _ in range(2):
        assert patients(open_index(cohort_copy, patient_ids=[2])) == {2}
    assert read == ["p00002_s00", "p00002_s01"]
    assert patients(open_index(cohort_copy, patient_ids=[4])) == {2, 4}
    assert patients(open_index(cohort_copy)) == set(range(6))
    assert len(read) == len(set(read)) == 12


# Which patients and segments are used


def test_patients_asked_for_are_chosen(index):
    cohort, left_out = choose_segments(index, None, 6000, annotated="beats")
    expected = [(patient, [2 * patient, 2 * patient + 1]) for patient in range(6)]
    assert [(patient, rows.tolist()) for patient, rows in cohort.items()] == expected
    assert left_out == []
    assert list(choose_segments(index, [4, 1], 512, annotated="beats")[0]) == [1, 4]
    for asked, needed in (([1, 7], []), (None, [7])):
        with pytest.raises(UserError, match=r"patient 7 is not in .*icentia11k"):
            choose_segments(index, asked, 512, annotated="beats", needed=needed)


def test_what_cannot_be_used_is_left_out_with_its_reason(cohort_copy):
    header = signal_file(cohort_copy, "p00000_s00").with_suffix(".hea")
    header.write_text(header.read_text().replace(" 6000", " 3000"))  # a short segment
    for name in ("p00000_s00", "p00001_s00", "p00003_s00", "p00003_s01"):
        cut_short(signal_file(cohort_copy, name))
    signal_file(cohort_copy, "p00002_s00").with_suffix(".atr").unlink()
    index = open_index(cohort_copy)
    cohort, left_out = choose_segments(index, None, 4096, annotated="beats")
    cut = "header says 6000 samples, file holds 3000"
    assert [(out["record"][-10:], out["patient"], out["reason"]) for out in left_out] == [
        ("p00001_s00", 1, cut), ("p00003_s00", 3, cut), ("p00003_s01", 3, cut),
        ("p00000_s00", 0, "shorter than an example of 4096 samples"),
        ("p00002_s00", 2, "no annotations"),
    ]  # fmt: skip
    counts = [len(cohort.get(patient, [])) for patient in range(6)]
    assert counts == [1, 1, 1, 0, 2, 2]
    cohort, left_out = choose_segments(index, [0, 2], 3000, annotated="")
    assert [len(rows) for rows in cohort.values()] == [2, 2] and left_out == []
    with pytest.raises(UserError, match="patient 3 cannot be used: header says 6000 samples"):
        choose_segments(index, [2, 3], 512, annotated="beats")
    with pytest.raises(UserError, match=r"no segment can be used \(12 left out: 9 × shorter"):
        choose_segments(index, None, 6001, annotated="beats")
    # The manifest of a run lists all of it, and names no machine.
    cohort, left_out = choose_segments(index, None, 512, annotated="beats")
    about = json.dumps(manifest(index, cohort, {4: cohort.pop(4)}, left_out))
    assert str(cohort_copy.parent) not in about
    train, val, listed = json.loads(about).values()
    assert listed == left_out and val["records"] == {"4": ["p00004_s00", "p00004_s01"]}
    assert (train["patients"], train["segments"], train["samples"]) == (4, 6, 33_000)
    assert train["constant"] == val["clipped"] == {"count": 0, "records": []}


def split(patients, asked, seed, same_subject):
    cohort = {patient: np.array([patient]) for patient in patients}
    drawn = draw_patients(cohort, asked, seed, same_subject)
    return split_subjects(cohort, drawn, same_subject, f"--val-patients {asked}")


def test_records_of_one_subject_stay_together():
    chosen = {frozenset(split(range(20), 5, seed, {7: 3})[1]) for seed in range(20)}
    assert len(chosen) > 10
    assert all((7 in val) == (3 in val) and len(val) in (5, 6) for val in chosen)
    # As in CPSC2021: 14 records of each person. A share is one of persons.
    same = {record: record // 14 * 14 for record in range(1400)}
    for asked, count in ((0.05, 70), (3, 42)):
        assert len(split(range(1400), asked, 1, same)[1]) == count


@pytest.mark.parametrize(
    ("patients", "asked"), [(1, 0.05), (1, 1), (20, 20), (20, 0.99), (20, 21), (2, 1)]
)
def test_somebody_must_be_left_to_train_on(patients, asked):
    with pytest.raises(UserError, match=f"{asked} takes all of {patients} usable patients"):
        split(range(patients), asked, 0, {1: 0} if patients == 2 else {})
