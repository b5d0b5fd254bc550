"""The torrent distribution: read as the WFDB one is, converted to it, and safe to open."""

import copyreg
import gzip
import io
import json
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pretraining import convert, trainer
from pretraining.batches import FrameBatches
from pretraining.cohort import choose_segments
from pretraining.icentia11k import admit, distributions, room, torrent, unpickle
from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.indexing import open_index
from pretraining.icentia11k.reader import ICENTIA11K
from pretraining.icentia11k.signals import Signals
from pretraining.sampler import Sampler
from pretraining.tasks import TASKS
from recordings import Unusable
from recordings.wfdb_files import ICENTIA_GAIN, write_segment
from tests.helpers import command
from utils.cli import UserError
from utils.files import sha256

LIMIT = 10**6
FRAME = 512
NAME = "00000_batched"


@pytest.fixture
def reading(monkeypatch):
    """Change how the torrent's records are read."""

    def reading(**changes):
        changed = distributions.TORRENT._replace(**changes)
        monkeypatch.setattr(distributions, "TORRENT", changed)

    return reading


@pytest.fixture(autouse=True)
def in_this_process(reading):
    reading(at_once=99)


# Writers, each of one patient's signal (segments, samples) float16 and labels


def by_class(ends, codes, classes):
    return [ends[codes == code].astype(np.int32) for code in range(classes)]


def dump(path, value, protocol=2, opened=open):
    with opened(path, "wb") as file:
        pickle.dump(value, file, protocol)


def put_zipped(folder, name, signal, labels, protocol=2):
    dump(folder / f"{name}.pkl.gz", signal, protocol, gzip.open)
    raw = [
        {"btype": by_class(*beats, 5), "rtype": by_class(*rhythms, 6)} for beats, rhythms in labels
    ]
    dump(folder / f"{name}_lbls.pkl.gz", raw, protocol, gzip.open)


def flattened(labels):
    beats, rhythms = zip(*labels, strict=True)
    return {"btype": list(beats), "rtype": list(rhythms), "size": len(labels)}


def objects(pairs):
    """(segments, 2) arrays, as NumPy made of them before it refused ragged ones."""
    made = np.empty((len(pairs), 2), object)
    for number, pair in enumerate(pairs):
        made[number] = pair
    return made


def put_unzipped(folder, name, signal, labels):
    np.save(folder / f"{name}.npy", signal)
    flat = flattened(labels)
    kinds = {kind: objects(flat[kind]) for kind in ("btype", "rtype")}
    np.savez(folder / f"{name}_lbls.npz", size=flat["size"], **kinds)


def put_misnamed(folder, name, signal, labels):
    np.save(folder / f"{name}.npy", signal)
    dump(folder / f"{name}_lbls.npz", flattened(labels), 4)


WRITERS = {
    "zipped": put_zipped,
    "zipped by protocol 0": partial(put_zipped, protocol=0),
    "zipped by protocol 5": partial(put_zipped, protocol=5),
    "unzipped": put_unzipped,
    "unzipped, a pickle": put_misnamed,
}


def copy_cohort(source, folder, put=put_zipped):
    """The patients of a WFDB set as the torrent has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for patient, paths in icentia11k.find_records(source)[0].items():
        segments = [next(icentia11k.read(path))[1] for path in paths]
        units = [
            icentia11k.read_signal(path, segment.header)
            for path, segment in zip(paths, segments, strict=True)
        ]
        labels = [(segment[2:4], segment[4:6]) for segment in segments]
        put(
            folder,
            f"{patient:05d}_batched",
            (np.stack(units) / ICENTIA_GAIN).astype(np.float16),
            labels,
        )
    return folder


@pytest.fixture(scope="module")
def wfdb_index(cohort_folder, tmp_path_factory):
    return open_index(cohort_folder, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def zipped(cohort_folder, tmp_path_factory):
    """The synthetic cohort, zipped. Not to be changed."""
    return copy_cohort(cohort_folder, tmp_path_factory.mktemp("cohort") / "torrent")


ENDS = np.array([40, 300, 500, 700, 1900])
LABELS = (ENDS, np.array([1, 2, 4, 0, 1])), (ENDS, np.array([3, 3, 4, 2, 5]))
SIGNAL = ((np.arange(6000) % 301 - 150).reshape(3, 2000) / ICENTIA_GAIN).astype(np.float16)


@pytest.fixture
def patient(tmp_path):
    """Folder of one patient with three segments of 2,000 samples."""
    folder = tmp_path / "torrent"
    folder.mkdir()
    put_zipped(folder, NAME, SIGNAL, [LABELS] * 3)
    return folder


def put_signal(folder, value):
    dump(folder / f"{NAME}.pkl.gz", value, opened=gzip.open)


def put_labels(folder, value):
    dump(folder / f"{NAME}_lbls.pkl.gz", value, opened=gzip.open)


def raw_labels(**changes):
    """Labels of three segments, the middle one changed."""
    segments = [{"btype": by_class(*LABELS[0], 5), "rtype": by_class(*LABELS[1], 6)}] * 3
    segments[1] = segments[1] | changes
    return segments


def reasons(folder, index=None):
    left_out = open_index(folder, index).left_out
    return {out["record"]: out["reason"] for out in left_out}


# Both distributions are one data set


def frames(index, task):
    cohort, _ = choose_segments(index, None, FRAME, annotated=True)
    sampler = Sampler(list(cohort.values()), index.segments["samples"], FRAME, 20, (0,))
    examples = TASKS[task].examples(index, sampler, None)
    batches = FrameBatches(index, examples, ICENTIA11K, 40, 120)
    return [batches[range(number, number + 1)] for number in range(len(batches))]


@pytest.mark.parametrize("put", WRITERS.values(), ids=WRITERS)
def test_frames_and_labels_are_those_of_the_wfdb_distribution(
    cohort_folder, wfdb_index, tmp_path, put
):
    index = open_index(copy_cohort(cohort_folder, tmp_path / "torrent", put))
    assert index.left_out == []
    for name in ("patient", "samples", "gain", "baseline", "annotated", "beats", "rhythms"):
        assert (index.segments[name] == wfdb_index.segments[name]).all(), name
    assert index.record_path(7).name == "00003_batched#01"
    for name, array in wfdb_index.arrays.items():
        np.testing.assert_array_equal(index.arrays[name], array)
    for task in ("beat", "rhythm", "hr"):
        for batch, expected in zip(frames(index, task), frames(wfdb_index, task), strict=True):
            assert all((a == b).all() for a, b in zip(batch, expected, strict=True))
        assert len(set(batch.labels.tolist())) > 1


def test_constant_and_clipped_segments_are_marked(patient):
    signal = np.stack([SIGNAL[0], SIGNAL[1].clip(-1, 1), np.full_like(SIGNAL[2], 0.5)])
    put_signal(patient, signal)
    segments = open_index(patient).segments
    assert segments["clipped"].tolist() == [False, True, False]
    assert segments["constant"].tolist() == [False, False, True]


def test_a_run_on_the_torrent(zipped, tmp_path):
    result = command(
        trainer.main, "--train", zipped, "--unzipped", "--job-dir", tmp_path / "job", "--index",
        tmp_path / "index", "--task", "beat", "--stages", 1, "--frame-size", FRAME, "--batch-size",
        4, "--steps-per-epoch", 1, "--epochs", 1, "--val-patients", 0, "--device", "cpu",
        "--precision", "fp32",
    )  # fmt: skip
    assert result.code == 0, result
    manifest = json.loads((tmp_path / "job/manifest.json").read_text())
    assert manifest["train"]["records"]["5"] == ["00005_batched#00", "00005_batched#01"]


def test_segments_of_as_many_beats_make_a_numeric_array(patient):
    put_unzipped(patient, NAME, SIGNAL, [LABELS] * 3)
    kinds = flattened([LABELS] * 3)
    np.savez(patient / f"{NAME}_lbls.npz", **kinds)
    assert np.load(patient / f"{NAME}_lbls.npz")["btype"].shape == (3, 2, 5)
    for _, segment in torrent.read(patient / NAME):
        assert segment.beat_codes.tolist() == LABELS[0][1].tolist()
        assert segment.rhythm_codes.tolist() == LABELS[1][1].tolist()


def test_unzipped_files_are_preferred(patient):
    for suffix in (".pkl.gz", "_lbls.pkl.gz"):
        (patient / f"{NAME}{suffix}").write_bytes(b"")
    put_unzipped(patient, NAME, SIGNAL, [LABELS] * 3)
    assert reasons(patient) == {}
    assert isinstance(torrent.open_signal(patient / NAME), np.memmap)


def test_a_folder_holds_one_distribution(patient, cohort_folder, tmp_path):
    write_segment(patient, "p00000_s00", np.zeros(500, np.int16), ICENTIA_GAIN, ENDS[:0], "", "")
    with pytest.raises(UserError, match="both distributions"):
        distributions.find_records(patient)
    with pytest.raises(UserError, match=r"NNNNN_batched\.pkl\.gz"):
        distributions.find_records(tmp_path)


def test_labels_are_sorted_and_ties_keep_the_order_of_the_classes(patient):
    beats = [np.array(places) for places in ([900, 7], [500], [], [7], [500, 3])]  # [] of floats
    put_labels(patient, raw_labels(btype=beats))
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


def test_patient_without_labels_serves_prediction(patient):
    (patient / f"{NAME}_lbls.pkl.gz").unlink()
    index = open_index(patient)
    assert len(choose_segments(index, None, FRAME, annotated=False)[0][0]) == 3
    with pytest.raises(UserError, match="3 × no annotations"):
        choose_segments(index, None, FRAME, annotated=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_segment_with_missing_samples_is_left_out(patient, value):
    signal = SIGNAL.copy()
    signal[1, 77] = value
    put_signal(patient, signal)
    assert reasons(patient) == {f"{NAME}#01": "missing (NaN) or infinite samples"}


@pytest.mark.parametrize(
    "value",
    [
        SIGNAL.astype(np.float32), SIGNAL.astype(np.int16), SIGNAL[0], SIGNAL[None], SIGNAL[:0],
        SIGNAL[:, :0], SIGNAL.astype(object), [SIGNAL], {"signal": SIGNAL}, None, np.float16(1),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)  # fmt: skip
def test_signal_of_another_kind_is_left_out(patient, value):
    put_signal(patient, value)
    assert reasons(patient)[NAME] in (
        "signal: no float16 array (segments, samples)",
        "signal: no samples",
    )
    (patient / f"{NAME}.pkl.gz").unlink()
    np.save(patient / f"{NAME}.npy", value, allow_pickle=True)
    assert reasons(patient)[NAME].startswith("signal: ")


def test_signal_of_very_many_segments_is_left_out(patient):
    put_signal(patient, np.zeros((65, 9), np.float16))
    assert reasons(patient) == {NAME: "signal: 65 segments, more than 64"}


@pytest.mark.parametrize(
    "header",
    [
        "(" * 999, "'''", "{[]: 1}", "1" + "+1" * 4900, "-" * 9900 + "1",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (0x" + "f" * 99 + ",)}",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': (), 'fortran_order': False, 'shape': (1,)}",
    ],
    ids=range(8),
)  # fmt: skip
def test_header_of_an_unzipped_signal_that_makes_no_sense(patient, header):
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    (patient / f"{NAME}.npy").write_bytes(start + header.encode() + bytes(100))
    assert reasons(patient)[NAME].startswith("signal: unreadable (")


def test_patient_without_a_signal_is_left_out(patient):
    (patient / f"{NAME}.pkl.gz").unlink()
    assert reasons(patient) == {NAME: "no signal (.pkl.gz or .npy)"}


def test_labels_of_other_segments_leave_the_patient_out(patient):
    put_labels(patient, raw_labels()[:2])
    assert reasons(patient) == {NAME: "labels of 2 segments, signal of 3"}


@pytest.mark.parametrize("value", [None, 7, {}, {"btype": []}, {"btype": 1, "rtype": 2}])
def test_labels_of_another_kind_leave_the_patient_out(patient, value):
    put_labels(patient, value)
    assert reasons(patient) == {NAME: "labels: no btype and rtype for each segment"}


def beats(*first_class):
    return [np.array(first_class), *[np.zeros(0)] * 4]


NESTED = [7]
for _ in range(4):  # 1,000 gigabytes, were it made an array
    NESTED = [NESTED] * 600


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"btype": beats(3, -1)}, "btype holds no places below 2000"),
        ({"btype": beats(2000)}, "btype holds no places"),
        ({"btype": beats(*[7] * 2001)}, "btype holds no places"),
        ({"btype": beats(1.5)}, "btype holds no places"),
        ({"btype": beats(np.nan)}, "btype holds no places"),
        ({"btype": beats(np.inf)}, "btype holds no places"),
        ({"btype": [NESTED] * 5}, "btype holds no places"),
        ({"btype": [["7"], [], [], [], []]}, "btype holds no places"),
        ({"btype": beats([7])}, "btype holds no places"),
        ({"btype": None}, "btype holds no places"),
        ({"btype": [1] * 5}, "btype holds no places"),
        ({"btype": [np.zeros(0, int)] * 4}, "btype of 4 classes, not 5"),
        ({"btype": [np.zeros(0, int)] * 6}, "btype of 6 classes, not 5"),
        ({"rtype": [np.zeros(0, int)] * 7}, "rtype of 7 classes, not 6"),
    ],
)
def test_labels_that_make_no_sense_leave_their_segment_out(patient, change, reason):
    put_labels(patient, raw_labels(**change))
    ((record, found),) = reasons(patient).items()
    assert record == f"{NAME}#01" and found.startswith(reason)


@pytest.mark.parametrize(
    "pair",
    [
        (ENDS, ENDS[:4] * 0), (ENDS, ENDS * 0 + 5), (ENDS, ENDS * 0 - 1), (ENDS,),
        (ENDS - 41, ENDS * 0), 5, (ENDS, ["1"] * 5),
    ],
)  # fmt: skip
def test_flattened_labels_that_make_no_sense(patient, pair):
    labels = flattened([LABELS] * 3)
    labels["btype"][1] = pair
    (patient / f"{NAME}_lbls.pkl.gz").unlink()
    dump(patient / f"{NAME}_lbls.npz", labels)
    assert list(reasons(patient)) == [f"{NAME}#01"]


@pytest.mark.parametrize("suffix", [".pkl.gz", "_lbls.pkl.gz", ".npy", "_lbls.npz"])
def test_files_cut_anywhere_are_noticed(patient, suffix):
    if not suffix.endswith("gz"):
        put_unzipped(patient, NAME, SIGNAL, [LABELS] * 3)
    path = patient / f"{NAME}{suffix}"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 23).astype(int):
        path.write_bytes(whole[:size])
        (found,) = distributions.read(patient / NAME)
        assert str(found[1]).startswith("labels: " if "lbls" in suffix else "signal: ")
        assert str(patient) not in str(found[1]) and "\n" not in str(found[1])


def test_a_wrong_byte_in_the_checksum_is_noticed(patient):
    path = patient / f"{NAME}.pkl.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "CRC check failed" in reasons(patient)[NAME]


# The index follows the files


@pytest.fixture
def read(reading):
    """Names of the records that are read from here on."""
    names = []
    reading(read=lambda path: names.append(path.name) or torrent.read(path))
    return names


def test_only_what_changed_is_read_again(patient, read):
    open_index(patient)
    put_zipped(patient, "00007_batched", SIGNAL[:2], [LABELS] * 2)
    assert open_index(patient).segments["patient"].tolist() == [0, 0, 0, 7, 7]
    open_index(patient)
    assert read == [NAME, "00007_batched"]
    read.clear()
    (patient / f"{NAME}_lbls.pkl.gz").unlink()
    assert open_index(patient).segments["annotated"].tolist() == [False] * 3 + [True] * 2
    (patient / "00007_batched.pkl.gz").unlink()
    assert open_index(patient).segments["patient"].tolist() == [0, 0, 0]
    assert read == [NAME, "00007_batched"]


def test_file_that_is_complete_at_last_is_read(patient, read):
    path = patient / f"{NAME}.pkl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    for _ in range(2):
        assert reasons(patient)[NAME].startswith("signal: unreadable (Compressed file ended")
    assert read == [NAME]
    path.write_bytes(whole)
    assert reasons(patient) == {}
    assert read == [NAME] * 2


def test_two_records_of_one_patient_are_refused(call, patient, out):
    put_zipped(patient, "000000_batched", SIGNAL, [LABELS] * 3)
    with pytest.raises(UserError, match="000000_batched and 00000_batched are both of patient 0"):
        open_index(patient)
    call(patient).refused("both of patient 0")
    assert not out.exists()


def test_patient_that_is_not_there_is_an_error(patient):
    with pytest.raises(UserError, match="patient 3 is not in"):
        choose_segments(open_index(patient, patient_ids=[0, 3]), [0, 3], FRAME, annotated=True)


@pytest.mark.parametrize("signal", [SIGNAL[:2], SIGNAL[:, :-1], None])
def test_signal_changed_since_is_one_clear_error(patient, signal):
    index = open_index(patient)
    put_signal(patient, signal)
    with pytest.raises(UserError, match=r"00000_batched#02 changed .* delete the index"):
        Signals(index, FRAME).windows(2)


def test_few_patients_are_open_at_a_time(patient, reading):
    reading(open_signals=1)
    put_zipped(patient, "00001_batched", -SIGNAL, [LABELS] * 3)
    signals = Signals(open_index(patient), FRAME)
    for segment in (0, 1, 4, 2):
        found = np.zeros((2, FRAME), np.int16)
        signals.read(np.full(2, segment), np.array([3, 1488]), found)
        expected = (np.arange(6000) % 301 - 150).reshape(3, 2000)[segment % 3]
        sign = -1 if segment == 4 else 1
        np.testing.assert_array_equal(found, sign * np.stack([expected[3:515], expected[-512:]]))
        assert len(signals._records) == 1


# Converted to the WFDB layout


@pytest.fixture
def out(tmp_path):
    return tmp_path / "sets/out"


@pytest.fixture
def call(out):
    def call(folder, *flags):
        return command(
            convert.main, "--source", "torrent", "--from", folder, "--out", out, *flags
        )  # fmt: skip

    return call


@pytest.mark.parametrize("put", [put_zipped, put_unzipped])
def test_conversion_gives_the_wfdb_distribution(call, cohort_folder, tmp_path, out, put):
    code, printed, _ = call(copy_cohort(cohort_folder, tmp_path / "torrent", put))
    assert code == 0
    assert "6 patients, 12 segments, mean 0.0018 mV, sd 1.3711 mV" in printed
    originals = sorted(path.relative_to(cohort_folder) for path in cohort_folder.rglob("p*_s*.*"))
    assert originals == sorted(path.relative_to(out) for path in out.rglob("p*_s*.*"))
    for name in originals:
        assert (out / name).read_bytes() == (cohort_folder / name).read_bytes(), name
    assert icentia11k.read_constants(out) == ICENTIA11K


def test_converted_labels_are_the_same(call, patient, out):
    """Also where rhythm and beats end at different places."""
    rhythms = [np.array(places) for places in ([], [1990], [60], [310], [550, 720], [])]
    put_labels(patient, raw_labels(rtype=rhythms))
    call(patient)
    before, after = open_index(patient), open_index(out)
    for task in ("beat", "hr"):
        for batch, expected in zip(frames(after, task), frames(before, task), strict=True):
            assert all((a == b).all() for a, b in zip(batch, expected, strict=True))
    paths, _ = icentia11k.find_records(out)
    ends, codes, _, rhythm = icentia11k.read_annotations(paths[0][1])
    assert ends.tolist() == ENDS.tolist() and codes.tolist() == LABELS[0][1].tolist()
    assert rhythm.tolist() == [2, 3, 4, 4, 2]


def test_description_of_a_converted_set(call, patient, out):
    signal = SIGNAL.copy()
    signal[1, 5] = np.nan
    put_signal(patient, signal)
    put_zipped(patient, "00002_batched", SIGNAL, [LABELS] * 2)
    code, _, err = call(patient)
    assert code == 0 and "2 left out: 1 × missing (NaN)" in err
    assert [path.name for path in icentia11k.find_records(out)[0][0]] == [
        "p00000_s00",
        "p00000_s02",
    ]
    about = json.loads((out / "dataset.json").read_text())
    assert (about["patients"], about["segments"], about["samples"]) == (1, 2, 4000)
    name, (about,) = about["name"], about["sources"]
    assert (name, about["name"]) == ("icentia11k", "torrent")
    assert [left["record"] for left in about["left_out"]] == [f"{NAME}#01", "00002_batched"]
    assert about["patient_of_record"] == {NAME: 0}
    files = [f"{NAME}.pkl.gz", f"{NAME}_lbls.pkl.gz"]
    assert about["source_sha256"] == {name: sha256(patient / name) for name in files}
    assert str(patient) not in json.dumps(about)


def test_some_patients_are_converted(call, zipped, out):
    assert call(zipped, "--patient-ids", "2,4-5")[0] == 0
    assert list(icentia11k.find_records(out)[0]) == [2, 4, 5]
    call(zipped, "--patient-ids", "2").refused("exists; choose another --out")
    call(zipped, "--patient-ids", "5-6", "--overwrite").refused("patient 6 is not in")
    assert list(icentia11k.find_records(out)[0]) == [2, 4, 5]
    assert call(zipped, "--patient-ids", "3", "--overwrite")[0] == 0
    assert list(icentia11k.find_records(out)[0]) == [3]


def test_patient_named_that_cannot_be_used_is_an_error(call, patient, out):
    put_zipped(patient, "00001_batched", SIGNAL, [LABELS] * 3)
    path = patient / "00001_batched.pkl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    call(patient, "--patient-ids", "0,1").refused(
        "patient 1 cannot be used", "--patient-ids", "such as 00001_batched"
    )
    assert not list(out.parent.iterdir())
    assert call(patient, "--patient-ids", "0").code == call(patient, "--overwrite").code == 0


def test_conversion_in_processes_gives_the_same(call, zipped, out, reading):
    reading(at_once=1)
    assert call(zipped, "--patient-ids", "0-1")[0] == 0
    made = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    reading(at_once=2)
    assert call(zipped, "--patient-ids", "0-1", "--overwrite")[0] == 0
    assert made == {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_nothing_to_convert_is_refused(call, patient, cohort_folder, out):
    call(cohort_folder).refused("holds no NNNNN_batched.pkl.gz")
    put_signal(patient, None)
    call(patient).refused("no record can be used (1 left out: 1 × signal: no float16 array")
    assert not list(out.parent.iterdir())


# Hostile files


class Payload:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Opened:
    """Opens a file as it is made from a pickle."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        Path(state["path"]).touch()


PAYLOADS = {
    "os.system": lambda marker: Payload(os.system, f"touch {marker}"),
    "eval": lambda marker: Payload(eval, f"open({str(marker)!r}, 'w').close()"),
    "exec": lambda marker: Payload(exec, f"open({str(marker)!r}, 'w').close()"),
    "open": lambda marker: Payload(open, str(marker), "w"),
    "partial": lambda marker: Payload(map, partial(open, str(marker)), ["w"]),
    "numpy.memmap": lambda marker: Payload(np.memmap, str(marker), "b", "w+", 0, (4,)),
    "numpy.load": lambda marker: Payload(np.load, f"{marker}.npy", None, True),
    "class": lambda marker: Opened(str(marker)),
    "reconstructor": lambda marker: Payload(copyreg._reconstructor, Opened, object, None),
    "in an array": lambda marker: np.array([Payload(os.system, f"touch {marker}")], object),
    "getattr": lambda marker: Payload(getattr, Payload(open, str(marker), "w"), "close"),
}
HARMLESS = ("partial", "reconstructor")  # of themselves; all others do what they are for


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("protocol", [0, 4])
def test_nothing_that_a_pickle_names_is_run(patient, tmp_path, name, protocol):
    marker = tmp_path / "marker"
    np.save(f"{marker}.npy", np.array([Payload(os.system, f"touch {marker}")], object))
    pickled = pickle.dumps(PAYLOADS[name](marker), protocol)
    for suffix in (".pkl.gz", "_lbls.pkl.gz", "_lbls.npz"):
        content = gzip.compress(pickled) if suffix.endswith("gz") else pickled
        path = patient / f"{NAME}{suffix}"
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        assert ": names '" in reasons(patient, tmp_path / "index")[NAME]
        path.unlink() if before is None else path.write_bytes(before)
    assert not marker.exists()
    if name not in HARMLESS:
        pickle.loads(pickled)
        assert marker.exists()  # it would have been run


def test_nothing_that_an_npz_names_is_run(patient, tmp_path):
    marker = tmp_path / "marker"
    array = np.array([Payload(os.system, f"touch {marker}")] * 3, object)
    np.savez(patient / f"{NAME}_lbls.npz", btype=array, rtype=array)
    assert reasons(patient)[NAME].startswith("labels: names ")
    np.save(patient / f"{NAME}.npy", array)
    assert reasons(patient)[NAME].startswith("signal: ")
    assert not marker.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
ENCODE = b"c_codecs\nencode\n"
EMPTY_ARRAY = RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR"


def dtype(code, state=b""):
    return b"cnumpy\ndtype\n(S'%b'\nI0\nI1\ntR" % code + state


def array(shape, code=b"f2", data=b"S''\n"):
    """An array whose state says what it likes."""
    return EMPTY_ARRAY + b"(I1\n(" + shape + b"t" + dtype(code) + b"I00\n" + data + b"tb."


def large(size):
    return struct.pack("<Q", size)


def text(letters):
    """Put into the memo's first place."""
    data = letters.encode()
    return b"X" + struct.pack("<I", len(data)) + data + b"q\x000"


def wrapped(times, leaf, wrap=b"(h\x03l"):
    """Arrays of objects, each in the next; the outermost in the memo's place 3."""
    made = RECONSTRUCT + b"q\x00(" + NDARRAY + b"(I0\ntS'b'\ntq\x01" + dtype(b"O8") + b"q\x02000"
    size = wrap.count(b"h\x03")
    made += leaf + b"q\x030"
    return made + (b"h\x00h\x01R(I1\n(I%d\nth\x02I00\n" % size + wrap + b"tbq\x030") * times


PAIRS = b"2\x86" * 40  # ((x, x), (x, x)) and so on: 2 ** 40 to hash or to compare
FORKED = wrapped(40, b"N", b"(h\x03h\x03l")
EQUAL_HASHES = [place * (2**61 - 1) for place in range(1, 20_000)]
NEVER = 2**20  # more than what follows is worth looking at

HOSTILE = {
    "pairs for a key": b"\x80\x02})" + PAIRS + b"Ns.",
    "pairs for keys": b"\x80\x02}()" + PAIRS + b"Nu.",
    "pairs for a dictionary's key": b"\x80\x02()" + PAIRS + b"Nd.",
    "pairs in a set": b"\x80\x04\x8f()" + PAIRS + b"\x90.",
    "pairs in a frozen set": b"\x80\x04()" + PAIRS + b"\x91.",
    "numbers of equal hashes": b"}(" + b"".join(b"I%d\nN" % i for i in EQUAL_HASHES[:900]) + b"u.",
    "places of equal hashes": b"N" + b"".join(b"p%d\n" % place for place in EQUAL_HASHES[:900]),
    "an item of an array": EMPTY_ARRAY + b"I0\n]s.",
    "items without a value": b"\x80\x02}(S'a'\nu.",
    "arrays in place of a class": FORKED + b"h\x00(h\x03(I0\ntS'b'\ntR.",
    "arrays in place of an order": FORKED + b"cnumpy.core.numeric\n_frombuffer\n(S'ab'\n"
    + dtype(b"u1") + b"(I2\nth\x03tR.",
    "arrays in place of true": FORKED + b"h\x00h\x01R(I1\n(I1\nt" + dtype(b"u1")
    + b"h\x03S'a'\ntb.",
    "very many arrays in one another": wrapped(room.NESTED + 1, b"N") + b"h\x03.",
    "very many axes": array(b"I1\n" * 9, b"u1", b"S'a'\n"),
    "axes too long to multiply": array((b"L" + b"9" * 4000 + b"L\n") * 8 + b"I0\n"),
    "many arguments": ENCODE + b"(S''\nS''\n" + b"N" * 4 + b"tR.",
    "bytes for arguments": ENCODE + b"B" + struct.pack("<I", 10**5) + bytes(10**5) + b"R.",
    "an array for arguments": ENCODE + array(b"I2\n", b"u1", b"S'ab'\n")[:-1] + b"R.",
    "nothing called": b"N)R.",
    "a type called": dtype(b"f2") + b")R.",
    "an object": b"(" + ENCODE + b"S'a'\no.",
    "a new object": b"\x80\x02" + NDARRAY + b")\x81.",
    "a new object with names": b"\x80\x04" + NDARRAY + b")}\x92.",
    "a persistent number": b"NQ.",
    "an extension of two bytes": b"\x83\x01\x00.",
    "an extension of four bytes": b"\x84\x01\x00\x00\x00.",
    "no text for a name": b"\x80\x04NN\x93.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "a buffer to be read only": b"\x80\x05C\x01a\x98.",
    "a frame of nothing": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
    "text of wide letters": b"\x80\x02" + text("😀" + "a" * (LIMIT // 3)) + b"N.",
    "a line of wide letters": b"V\\U0001f600" + b"a" * (LIMIT // 3) + b"\n.",
    "very many places": b"\x80\x04N" + b"\x94" * NEVER,
    "very many marks": b"(" * NEVER,
    "very deep tuples": b"N" + b"\x85" * NEVER,
    "very deep lists": b"]" * NEVER,
    "very many functions": b"\x8c\x07_codecs\x94\x8c\x06encode\x94" + b"h\x00h\x01\x93" * NEVER,
    "very many arrays": wrapped(0, b"N") + b"h\x00h\x01R" * NEVER,
    "another class": RECONSTRUCT + b"(cos\nsystem\n(I0\ntS'b'\ntR.",
    "a container for a class": RECONSTRUCT + b"(](I0\ntS'b'\ntR.",
    "a string for a class": RECONSTRUCT + b"(S'numpy.ndarray '\n(I0\ntS'b'\ntR.",
    "an array called": NDARRAY + b"(I99999999\ntR.",
    "an array made": NDARRAY + b"(I99999999\nt\x81.",
    "a huge array": array(b"L99999999999L\n"),
    "a huge array of objects": array(b"L99999999999L\n", b"O8", b"]"),
    "a negative shape": array(b"I-1\nI-2\n"),
    "a negative size": array(b"I-5\n"),
    "a shape that is no number": array(b"Fnan\n"),
    "a shape of true": array(b"I01\n", b"f2", b"S'ab'\n"),
    "too little data": array(b"I3\n", b"f2", b"S'ab'\n"),
    "an array filled twice": array(b"I1\n", b"f2", b"S'ab'\n")[:-1] + b"(I1\n(I1\nt"
    + dtype(b"f2") + b"I00\nS'cd'\ntb.",
    "objects of bytes": array(b"I1\n", b"O8", b"S'abcdefgh'\n"),
    "a type of nothing": array(b"I9999999\n", b"V0"),
    "a record type": array(b"I1\n", b"O,O"),
    "a type by its name": array(b"I1\n", b"float16"),
    "a type with fields": dtype(b"V8", b"(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\ntb."),
    "a function given a state": RECONSTRUCT + b"(N}S'__defaults__'\n]stb.",
    "a string given a state": NDARRAY + b"}S'a'\nI1\nsb.",
    "bytes by number": b"c__builtin__\nbytes\n(I99999999\ntR.",
    "bytes that are not there": b"\x80\x04\x8e" + large(2**40) + b".",
    "a bytearray that is not there": b"\x80\x05\x96" + large(2**40) + b".",
    "text that is not there": b"\x80\x04\x8d" + large(2**40) + b".",
    "a frame that is not there": b"\x80\x04\x95" + large(2**40) + b".",
    "a far place in the memo": b"Nr\xff\xff\xff\x7f]0",
    "very many dictionaries": b"(" + b"}" * (LIMIT // 2) + b"l.",
    "the same text again and again": (
        b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x000("
        + b"c_codecs\nencode\n(h\x00S'latin1'\ntR" * 5000 + b"l."
    ),
    "a persistent name": b"Pos.system\n.",
    "an old instance": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "nothing": b"",
    "text": b"hello",
    "more than a pickle": pickle.dumps(SIGNAL, 2) + b"N.",
    "a stack run empty": b"\x80\x02b.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_in_little_memory(tmp_path, name):
    path = tmp_path / "x.pkl"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(Unusable) as error:
            admit.load(path, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_a_long_line_is_not_quoted(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"F" + bytes(4 * room.LINE) + b"\n.")
    tracemalloc.start()
    with pytest.raises(Unusable, match="a line of more than"):
        admit.load(path, 10 * room.LINE)
    assert tracemalloc.get_traced_memory()[1] < 3 * room.LINE
    tracemalloc.stop()


def put_npz(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def overstated(path, size):
    """The same archive, whose only member is said to have `size` bytes."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    struct.pack_into("<I", content, start + 24, size)
    path.write_bytes(content)


def bomb_of_text(path):
    """Each member makes half of what there is room for out of a text that it names once."""
    again = b"h\x01h\x00h\x02\x86R" * 5
    pickled = b"\x80\x02" + text("a" * (LIMIT // 10)) + ENCODE + b"q\x010X\6\0\0\0latin1q\x020"
    header = npy(np.array([None], object))[:128]
    members = [(f"m{n}.npy", header + pickled + b"](" + again + b"e.") for n in range(40)]
    put_npz(path, members)


def bomb_of_arrays(path):
    put_npz(path, [(f"{n}.npy", npy(np.zeros(LIMIT // 40))) for n in range(40)])


def same_name(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        put_npz(path, [("a.npy", npy(np.zeros(2)))] * 2)


def same_stem(path):
    put_npz(path, [("a.npy", npy(np.zeros(2))), ("a", npy(np.zeros(2)))])


def tiny_members(path):
    put_npz(path, [(str(number), b"") for number in range(3000)])


def more_than_is_said(path):
    put_npz(path, [("a.npy", bytes(50 * LIMIT))])
    overstated(path, 1000)


def more_than_is_said_by_bzip2(path):
    put_npz(path, [("a.npy", bytes(50 * LIMIT))], zipfile.ZIP_BZIP2)
    overstated(path, 1000)


def strange_header(path):
    put_npz(path, [("a.npy", b"\x93NUMPY\x01\x00\xb0\x26" + b"(" * 0x26B0)])


def strange_name(path):
    put_npz(path, [("../../\x1b[2J\n.npy", b"nothing")])


@pytest.mark.parametrize(
    "put",
    [
        bomb_of_text, bomb_of_arrays, same_name, same_stem, tiny_members, more_than_is_said,
        more_than_is_said_by_bzip2, strange_header, strange_name,
    ],
)  # fmt: skip
def test_hostile_archives_are_refused_in_little_memory(tmp_path, put):
    path = tmp_path / "x.npz"
    put(path)
    assert path.stat().st_size < LIMIT
    tracemalloc.start()
    try:
        with pytest.raises(Unusable) as error:
            admit.load(path, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable() and len(str(error.value)) < 250


def test_a_bomb_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "bomb.pkl.gz"
    zeros = np.zeros((2, 5 * 10**6), np.float16)
    path.write_bytes(gzip.compress(pickle.dumps(zeros, 4), 1))
    np.savez_compressed(tmp_path / "bomb.npz", btype=zeros)
    assert path.stat().st_size < 10**5
    for bomb in (path, tmp_path / "bomb.npz"):
        tracemalloc.start()
        with pytest.raises(Unusable, match="larger than 1,000,000 bytes"):
            admit.load(bomb, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
        tracemalloc.stop()


def test_real_files_are_within_the_limits():
    """As Python 3 writes a whole patient in protocol 2, at worst."""
    per_byte = len(pickle.dumps(np.full(10**4, 0xFFFF, np.uint16), 2)) / 2e4
    assert 50 * (2**20 + 1) * 2 * (per_byte + 2) < torrent.SIGNAL_LIMIT  # as bytes and as array
    segments = 50
    beats = [np.arange(20_000, dtype=np.int64), *[np.zeros(0, np.int64)] * 5]
    labels = [{"btype": [b + 0 for b in beats[:5]], "rtype": beats}] * segments
    file = io.BytesIO(pickle.dumps([dict(label) for label in labels], 2))
    steps = sum(1 for _ in pickletools.genops(file))
    assert steps * unpickle.STEP < torrent.LABEL_LIMIT / 10


@pytest.mark.parametrize("protocol", range(6))
def test_plain_arrays_of_any_protocol(tmp_path, protocol):
    types = ("i1", "<i2", ">i4", "u8", "f2", "?")
    values = [np.arange(6).reshape(2, 3).astype(name) for name in types]
    values += [values[1].T, np.zeros((0, 3)), np.array([{"a": [1]}, None, "x"], object)]
    values += [np.float32(1.5), np.int64(-3), {"a": (b"x", b"", "é", 1.5, True, None)}]
    path = tmp_path / "x.pkl"
    dump(path, values, protocol)
    found = admit.load(path, LIMIT)
    assert all(type(a) is type(b) for a, b in zip(found, values, strict=True))
    np.testing.assert_equal(found, values)


def test_arrays_of_python_2(tmp_path):
    """Its strings are bytes, here of `np.array([1, 200], np.uint8)` by NumPy 1.16."""
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        b"U\x01b\x87Rq\x03(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03"
        b"U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\xc8tb."
    )
    found = admit.load(path, LIMIT)
    assert found.tolist() == [1, 200] and found.dtype == np.uint8
