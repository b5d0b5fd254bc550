"""The torrent distribution: read as the WFDB one is, converted to it, and safe to open."""

import gzip
import json
import os
import pickle
import struct
from functools import partial

import numpy as np
import pytest

from pretraining import convert, trainer
from pretraining.batches import FrameBatches
from pretraining.cohort import choose_segments
from pretraining.icentia11k import reader, torrent
from pretraining.icentia11k.index import find_records, open_index, read_record
from pretraining.sampler import Sampler
from pretraining.tasks import TASKS
from recordings import Unusable
from recordings.wfdb_files import ICENTIA_GAIN, write_segment
from tests.helpers import command, contents
from tests.test_convert import put_record
from utils.cli import UserError
from utils.files import sha256

FRAME = 512
NAME = "00000_batched"
ENDS = np.array([40, 300, 500, 700, 1900])
LABELS = (ENDS, np.array([1, 2, 4, 0, 1])), (ENDS, np.array([3, 3, 4, 2, 5]))
SIGNAL = ((np.arange(6000) % 301 - 150).reshape(3, 2000) / ICENTIA_GAIN).astype(np.float16)


def by_class(ends, codes, classes):
    return [ends[codes == code].astype(np.int32) for code in range(classes)]


def dump(path, value, protocol=2):
    content = pickle.dumps(value, protocol)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def put_zipped(folder, name, signal, labels, protocol=2):
    """One patient: signal (segments, samples) float16 in mV, and labels of each segment."""
    raw = [
        {"btype": by_class(*beats, 5), "rtype": by_class(*rhythms, 6)} for beats, rhythms in labels
    ]
    dump(folder / f"{name}.pkl.gz", signal, protocol)
    dump(folder / f"{name}_lbls.pkl.gz", raw, protocol)


def put_unzipped(folder, name, signal, labels):
    """(segments, 2) arrays of objects, as NumPy made of them before it refused ragged ones."""
    np.save(folder / f"{name}.npy", signal)
    kinds = {}
    for place, kind in enumerate(("btype", "rtype")):
        kinds[kind] = np.empty((len(labels), 2), object)
        for number, pair in enumerate(labels):
            kinds[kind][number] = pair[place]
    np.savez(folder / f"{name}_lbls.npz", size=len(labels), **kinds)


def put_misnamed(folder, name, signal, labels):
    np.save(folder / f"{name}.npy", signal)
    beats, rhythms = map(list, zip(*labels, strict=True))
    dump(folder / f"{name}_lbls.npz", {"btype": beats, "rtype": rhythms, "size": len(labels)}, 4)


OLD, NEW = (partial(put_zipped, protocol=protocol) for protocol in (0, 5))
WRITERS = [put_zipped, OLD, NEW, put_unzipped, put_misnamed]


def copy_cohort(source, folder, put=put_zipped):
    """The patients of a WFDB set as the torrent has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for patient, paths in reader.find_records(source).items():
        segments = [next(reader.read(path))[1] for path in paths]
        labels = [(segment[4:6], segment[6:8]) for segment in segments]
        signal = np.stack([segment.signal for segment in segments]) / ICENTIA_GAIN
        put(folder, f"{patient:05d}_batched", signal.astype(np.float16), labels)
    return folder


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(torrent, "READ_ALONE", 99)


@pytest.fixture
def patient(tmp_path):
    """Folder of one patient with three segments of 2,000 samples."""
    folder = tmp_path / "torrent"
    folder.mkdir()
    put_zipped(folder, NAME, SIGNAL, [LABELS] * 3)
    return folder


@pytest.fixture
def call(tmp_path):
    flags = ["--source", "torrent", "--out", tmp_path / "out", "--from"]
    return lambda folder, *more: command(convert.main, *flags, folder, *more)


def put_labels(folder, **changes):
    """Labels of three segments, the middle one changed."""
    segment = {"btype": by_class(*LABELS[0], 5), "rtype": by_class(*LABELS[1], 6)}
    dump(folder / f"{NAME}_lbls.pkl.gz", [segment, segment | changes, segment])


def reasons(folder, index=None):
    return {out["record"]: out["reason"] for out in open_index(folder, index).left_out}


def same_frames(one, other, *tasks):
    for task in tasks:
        drawn = []
        for index in (one, other):
            cohort, _ = choose_segments(index, None, FRAME, annotated="beats")
            sampler = Sampler(list(cohort.values()), index.segments["samples"], FRAME, 20, (0,))
            batches = FrameBatches(TASKS[task](FRAME), index, sampler, reader.ICENTIA11K, 120, 120)
            drawn.append(batches[range(1)])
        assert all((a == b).all() for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize("put", WRITERS)
def test_frames_and_labels_are_those_of_the_wfdb_distribution(cohort_folder, tmp_path, put):
    wfdb_index = open_index(cohort_folder, tmp_path / "index")
    index = open_index(copy_cohort(cohort_folder, tmp_path / "torrent", put))
    assert index.left_out == [] and index.record_path(7).name == "00003_batched#01"
    for name in ("patient", "samples", "gain", "baseline", "annotated", "beats", "rhythms"):
        assert (index.segments[name] == wfdb_index.segments[name]).all(), name
    for name, array in wfdb_index.arrays.items():
        np.testing.assert_array_equal(index.arrays[name], array)
    same_frames(index, wfdb_index, "beat", "rhythm", "hr")


def test_a_run_on_unzipped_files_which_are_preferred_and_mapped(patient, tmp_path):
    for suffix in (".pkl.gz", "_lbls.pkl.gz"):
        (patient / f"{NAME}{suffix}").write_bytes(b"")
    np.save(patient / f"{NAME}.npy", SIGNAL)
    # Segments of equally many beats make a numeric array.
    beats, rhythms = ([pair] * 3 for pair in LABELS)
    np.savez(patient / f"{NAME}_lbls.npz", btype=beats, rtype=rhythms)
    for _, segment in torrent.read(patient / NAME):
        assert segment.beat_codes.tolist() == LABELS[0][1].tolist()
        assert segment.rhythm_codes.tolist() == LABELS[1][1].tolist()
    assert isinstance(torrent.open_signal(patient / NAME).base, np.memmap)
    flags = ["--task", "beat", "--stages", 1, "--frame-size", FRAME, "--batch-size", 4, "--epochs",
             1, "--steps-per-epoch", 1, "--val-patients", 0, "--device", "cpu"]  # fmt: skip
    job = ["--train", patient, "--unzipped", "--job-dir", tmp_path / "job"]
    assert command(trainer.main, *job, *flags).code == 0
    manifest = json.loads((tmp_path / "job/manifest.json").read_text())
    assert manifest["train"]["records"] == {"0": [f"{NAME}#0{n}" for n in range(3)]}


def test_folders_that_are_refused(call, patient, tmp_path):
    with pytest.raises(UserError, match=r"no records named .* NNNNN_batched\.pkl\.gz"):
        find_records(tmp_path)
    write_segment(patient, "p00000_s00", np.zeros(500, np.int16), ICENTIA_GAIN, ENDS[:0], "", "")
    with pytest.raises(UserError, match="or both kinds"):
        find_records(patient)
    call(tmp_path).refused("holds no records of torrent")


def test_labels_are_sorted_and_ties_keep_the_order_of_the_classes(patient):
    beats = [np.array(places) for places in ([900, 7], [500], [], [7], [500, 3])]  # [] of floats
    put_labels(patient, btype=beats)
    segment = list(torrent.read(patient / NAME))[1][1]
    assert segment.beat_ends.tolist() == [3, 7, 7, 500, 500, 900]
    assert segment.beat_codes.tolist() == [4, 0, 3, 1, 4, 0]
    assert segment.rhythm_ends.tolist() == ENDS.tolist()


def test_int16_survives_float16():
    units = np.arange(-32767, 32768)
    back = torrent.to_units((units / ICENTIA_GAIN).astype(np.float16))
    same = back == units
    assert same[np.abs(units) < 1195].all() and not same[np.abs(units) == 1195].any()
    assert np.abs(back - units)[np.abs(units) < 2048].max() == 1
    assert torrent.to_units(np.float16([[500, -65504]])).tolist() == [[32767, -32767]]


# What cannot be used


@pytest.mark.parametrize(
    "value", [SIGNAL.astype(np.float32), SIGNAL[0], SIGNAL[:0], SIGNAL.astype(object), [], None]
)
def test_signal_or_labels_of_another_kind_are_left_out(patient, value):
    for labels in ({"btype": value, "rtype": 7}, [value]):
        dump(patient / f"{NAME}_lbls.pkl.gz", labels)
        assert reasons(patient)[NAME].startswith("labels are not of 3 segments")
    dump(patient / f"{NAME}.pkl.gz", value)
    assert reasons(patient)[NAME].startswith("signal is no float16 array")
    np.save(patient / f"{NAME}.npy", value, allow_pickle=True)
    assert reasons(patient)[NAME].startswith(("signal is no float16 array", "unreadable .npy"))


@pytest.mark.parametrize(
    "first",
    [[3, -1], [2000], [1.5], [np.nan], [[7]], None, "not arrays", "too few", "too many"],
    ids=str,
)
def test_segments_that_cannot_be_used_are_left_out(patient, first):
    none = np.zeros(0)
    shapes = {"not arrays": [1] * 5, "too few": [none] * 4, "too many": [none] * 6}
    put_labels(patient, btype=shapes.get(str(first), [np.array(first), *[none] * 4]))
    signal = SIGNAL.copy()
    signal[0, 77], signal[2, 5] = np.nan, np.inf
    dump(patient / f"{NAME}.pkl.gz", signal)
    missing = "missing (NaN) or infinite samples"
    wrong = "btype is not of positions below 2000 in 5 classes"
    assert list(reasons(patient).items()) == [
        (f"{NAME}#00", missing), (f"{NAME}#01", wrong), (f"{NAME}#02", missing),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".pkl.gz", "_lbls.pkl.gz", ".npy", "_lbls.npz"])
def test_files_cut_anywhere_are_noticed(patient, suffix):
    if not suffix.endswith("gz"):
        put_unzipped(patient, NAME, SIGNAL, [LABELS] * 3)
    path = patient / f"{NAME}{suffix}"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 13).astype(int):
        path.write_bytes(whole[:size])
        ((_, reason),) = read_record(patient / NAME)
        assert str(reason).startswith(f"unreadable {suffix} (")
        assert str(patient) not in str(reason) and "\n" not in str(reason)


def test_only_what_changed_is_read_again(patient, monkeypatch):
    read, original = [], torrent.read
    monkeypatch.setattr(torrent, "read", lambda path: read.append(path.name) or original(path))
    path = patient / f"{NAME}.pkl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    for _ in range(2):
        assert reasons(patient)[NAME].startswith("unreadable .pkl.gz (Compressed file ended")
    path.write_bytes(whole)
    put_zipped(patient, "00007_batched", SIGNAL[:2], [LABELS] * 2)
    assert open_index(patient).segments["patient"].tolist() == [0, 0, 0, 7, 7]
    (patient / f"{NAME}_lbls.pkl.gz").unlink()
    assert open_index(patient).segments["annotated"].tolist() == [False] * 3 + [True] * 2
    assert read == [NAME, NAME, "00007_batched", NAME]


def test_conversion_gives_the_wfdb_distribution(call, cohort_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torrent, "READ_ALONE", 1)  # in processes
    folder, out = copy_cohort(cohort_folder, tmp_path / "torrent"), tmp_path / "out"
    assert "6 patients, 12 segments, mean 0.0018 mV, sd 1.3711 mV" in call(folder).out
    assert contents(out / "p00") == contents(cohort_folder / "p00")
    assert reader.read_constants(out) == reader.ICENTIA11K
    call(folder, "--patient-ids", "2").refused("exists; choose another --out")
    call(folder, "--patient-ids", "5-6", "--overwrite").refused("patient 6 is not in")
    assert call(folder, "--patient-ids", "2,4-5", "--overwrite").code == 0
    assert list(reader.find_records(out)) == [2, 4, 5]


def test_converted_labels_where_rhythm_and_beats_end_at_different_places(call, patient, tmp_path):
    rhythms = [np.array(places) for places in ([], [1990], [60], [310], [550, 720], [])]
    put_labels(patient, rtype=rhythms)
    call(patient)
    ends, codes, _, rhythm = reader.read_annotations(tmp_path / "out/p00/p00000/p00000_s01")
    assert ends.tolist() == ENDS.tolist() and codes.tolist() == LABELS[0][1].tolist()
    assert rhythm.tolist() == [2, 3, 4, 4, 2]


def test_description_of_a_converted_set_to_which_a_database_is_added(call, patient, tmp_path):
    signal, out = SIGNAL.copy(), tmp_path / "out"
    signal[1, 5] = np.nan
    dump(patient / f"{NAME}.pkl.gz", signal)
    put_zipped(patient, "00002_batched", SIGNAL, [LABELS] * 2)
    assert "2 left out: 1 × missing (NaN)" in call(patient).err
    assert sorted(p.name for p in out.rglob("*.hea")) == ["p00000_s00.hea", "p00000_s02.hea"]
    about = json.loads((out / "dataset.json").read_text())
    assert (about["patients"], about["segments"], about["samples"]) == (1, 2, 4000)
    (about,) = about["sources"]
    assert [left["record"] for left in about["left_out"]] == [f"{NAME}#01", "00002_batched"]
    files = [f"{NAME}.pkl.gz", f"{NAME}_lbls.pkl.gz"]
    assert about["source_sha256"] == {name: sha256(patient / name) for name in files}
    call(patient, "--overwrite", "--patient-ids", "0,2").refused("patient 2 cannot be used")
    put_record(tmp_path, "100")
    flags = ["--source", "mitdb", "--from", tmp_path, "--out", out, "--append"]
    assert command(convert.main, *flags).code == 0
    constants = reader.read_constants(out)
    assert constants.name == "icentia11k+mitdb" and 0.5 < constants.sd < 1.3711
    assert set(open_index(out).segments["gain"]) == {ICENTIA_GAIN, 1000}


class Payload:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("kind", ["os.system", "numpy.memmap"])
def test_nothing_that_a_pickle_names_is_run(patient, tmp_path, kind):
    marker, index, labels = tmp_path / "marker", tmp_path / "index", patient / f"{NAME}_lbls.npz"
    memory = np.memmap, str(marker), "b", "w+", 0, (4,)
    payload = Payload(*memory) if kind == "numpy.memmap" else Payload(os.system, f"touch {marker}")
    np.savez(labels, btype=np.array([payload], object))
    assert "(names '" in reasons(patient, index)[NAME]
    for protocol in (0, 4, 5):
        dump(labels, payload, protocol)
        assert "(names '" in reasons(patient, index)[NAME]
    dump(patient / f"{NAME}.pkl.gz", payload)
    assert "(names '" in reasons(patient, index)[NAME] and not marker.exists()
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()  # it would have been run


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
EMPTY_ARRAY = RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR"


def dtype(code, state=b""):
    return b"cnumpy\ndtype\n(S'%b'\nI0\nI1\ntR" % code + state


def array(shape, code=b"f2", data=b"S''\n"):
    """An array whose state claims anything."""
    return EMPTY_ARRAY + b"(I1\n(" + shape + b"t" + dtype(code) + b"I00\n" + data + b"tb."


HOSTILE = {
    "another class": RECONSTRUCT + b"(cos\nsystem\n(I0\ntS'b'\ntR.",
    "an array called": NDARRAY + b"(I99999999\ntR.",
    "a huge array": array(b"L99999999999L\n"),
    "lengths that overflow": array(b"L4294967296L\nL4294967296L\n", b"u1"),
    "a negative shape": array(b"I-1\nI-2\n"),
    "too little data": array(b"I3\n", b"f2", b"S'ab'\n"),
    "objects of bytes": array(b"I8\n", b"O8", b"S'abcdefgh'\n"),
    "a type with fields": dtype(b"V8", b"(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\ntb."),
    "objects that are not counted": EMPTY_ARRAY + b"(I1\n(I8\nt"
    + dtype(b"O8", b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb") + b"I00\nS'abcdefgh'\ntb.",
    "a function given a state": RECONSTRUCT + b"(N}S'__defaults__'\n]stb.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "a far place in the memo": b"Nr\xff\xff\xff\x7f]0.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(patient, name):
    (patient / f"{NAME}_lbls.npz").write_bytes(HOSTILE[name])
    ((_, reason),) = read_record(patient / NAME)
    assert isinstance(reason, Unusable) and str(reason).startswith("unreadable _lbls.npz (")


def test_bombs_are_refused(patient, monkeypatch):
    monkeypatch.setattr(torrent, "LIMIT", 10**6)
    zeros = np.zeros((2, 10**6), np.float16)
    np.savez_compressed(patient / f"{NAME}_lbls.npz", btype=zeros)
    assert reasons(patient) == {NAME: "unreadable _lbls.npz (larger than 1,000,000 bytes)"}
    dump(patient / f"{NAME}.pkl.gz", zeros)
    assert reasons(patient) == {NAME: "unreadable .pkl.gz (larger than 1,000,000 bytes)"}


@pytest.mark.parametrize("protocol", range(5))
def test_plain_arrays_of_any_protocol(protocol):
    types = ("i1", "<i2", ">i4", "u8", "f2", "?")
    values = [np.arange(6).reshape(2, 3).astype(name) for name in types]
    values += [values[1].T, np.zeros((0, 3)), np.array([{"a": [1]}, None, "x"], object)]
    values += [np.float32(1.5), np.int64(-3), {"a": (b"x", b"", "é", 1.5, True, None)}]
    pickled = pickle.dumps(values, protocol)
    loaded, expected = torrent.unpickle(pickled), pickle.loads(pickled)
    np.testing.assert_equal(loaded, values)
    assert [getattr(a, "dtype", 0) for a in loaded] == [getattr(b, "dtype", 0) for b in expected]
