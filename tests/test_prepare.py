"""From the Challenge 2017 files as distributed to prepared sets, and what these have to hold."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from finetuning import prepare
from finetuning.datasets import challenge17
from finetuning.prepared_set import load_prepared, manifest_path
from recordings.resampling import METHODS, to_microvolt
from tests import helpers
from tests.helpers import contents
from utils.cli import UserError
from utils.files import sha256, write_json

CLASSES = "ANO~"
RECORDS = [f"A{number:05}" for number in range(1, 21)]  # five of each class
LABELS = "".join(map("{},{}\n".format, RECORDS, CLASSES * 5)).encode()


def put_record(folder, record, signal, rate="300", gain="1000/mV", length=None):
    length = signal.size if length is None else length
    savemat(folder / f"{record}.mat", {"val": signal.reshape(1, -1)}, format="4")
    lines = f"{record} 1 {rate} {length} 05:05:15 1/05/2000 ", f"{record}.mat 16+24 {gain} 16 0 0 0"
    (folder / f"{record}.hea").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def noise(samples=900, seed=0):
    return np.random.default_rng(seed).integers(-500, 500, samples).astype(np.int16)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "training2017"
    folder.mkdir()
    for number, record in enumerate(RECORDS):
        put_record(folder, record, noise(600 + 30 * number, seed=number))
    (folder / "RECORDS").write_text("\n".join(RECORDS) + "\n")
    (folder / "REFERENCE.csv").write_bytes(LABELS)
    return folder


@pytest.fixture
def command(tmp_path):
    def run(source, *flags, labels="zip", out="out/p"):
        arguments = ["--source", source, "--labels", labels, "--out", tmp_path / out, *flags]
        return helpers.command(prepare.main, *arguments)

    return run


def load(tmp_path):
    return [load_prepared(tmp_path / f"out/p_{name}.npz") for name in ("train", "test")]


def zipped(folder, path, inside=""):
    with zipfile.ZipFile(path, "w") as file:
        for member in folder.iterdir():
            file.write(member, f"{inside}{member.name}")
    return path


def test_contract(source, command, tmp_path):
    code, out, err = command(source, "--test-size", "0.4", "--pad", "4096", "--seed", "7")
    assert (code, err) == (0, "")
    assert list(contents(tmp_path / "out")) == ["p_manifest.json", "p_test.npz", "p_train.npz"]
    train, test = load(tmp_path)
    assert sorted([*train.record_ids, *test.record_ids]) == RECORDS
    for part in (train, test):
        assert part.signal.dtype == np.int16 and part.signal.ndim == 2
        assert list(part.record_ids) == sorted(part.record_ids)
        places = [RECORDS.index(record) for record in part.record_ids]
        assert part.y.argmax(1).tolist() == [place % 4 for place in places]
        assert np.diff(part.offsets).tolist() == [500 + 25 * place for place in places]
    assert f"train: 12 recordings (A 3, N 3, O 3, ~ 3) in {tmp_path / 'out/p_train.npz'}\n" in out
    assert str(tmp_path) not in str(train.manifest)
    expected = {
        "dataset": "challenge17", "labels": "zip", "classes": list(CLASSES), "multi_label": False,
        "left_out": [], "fs": 250, "resampling": "polyphase", "unit": "uV", "pad": 4096,
        "mean_mv": 0.0075, "sd_mv": 0.2373, "seed": 7, "test_size": 0.4,
        "source_sha256": {
            "records": sha256(source / "RECORDS"), "labels": sha256(source / "REFERENCE.csv"),
        },
    }  # fmt: skip
    assert train.manifest == train.manifest | expected
    assert train.manifest["files"]["test"] == {
        "name": "p_test.npz", "sha256": sha256(tmp_path / "out/p_test.npz"), "records": 8,
        "class_counts": dict.fromkeys(CLASSES, 2),
    }  # fmt: skip


def test_same_seed_same_bytes_other_seed_other_split(source, command, tmp_path):
    for out, seed in (("a/p", 0), ("b/p", 0), ("c/p", 1)):
        assert command(source, "--seed", seed, out=out).code == 0
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again and first["p_test.npz"] != other["p_test.npz"]


@pytest.mark.parametrize("kind", ["", "training2017/", "folder around"])
def test_zip_and_outer_folder_give_the_same_files(source, command, tmp_path, kind):
    other = source.parent if kind == "folder around" else zipped(source, tmp_path / "a.zip", kind)
    assert command(source, out="a/p").code == command(other, out="b/p").code == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("kind", ["inside", "around", "zip", "named"])
def test_other_labels(source, command, tmp_path, kind):
    """v3 lies in the source or beside it; a file may be named, and begin with a BOM."""
    labels = "".join(map("{},{}\n".format, RECORDS, sorted(CLASSES * 5))).encode()
    path = zipped(source, tmp_path / "copy.zip", "training2017/") if kind == "zip" else source
    (tmp_path / "REFERENCE-v3.csv").write_bytes(b"\xef\xbb\xbf" + labels)
    if kind == "inside":  # counts more than what is beside
        (tmp_path / "REFERENCE-v3.csv").rename(source / "REFERENCE-v3.csv")
        (tmp_path / "REFERENCE-v3.csv").write_text("other")
    chosen = tmp_path / "REFERENCE-v3.csv" if kind == "named" else "v3"
    assert command(tmp_path if kind == "around" else path, labels=chosen).code == 0
    part = load(tmp_path)[0]
    assert part.manifest["labels"] == ("REFERENCE-v3.csv" if kind == "named" else "v3")
    expected = [sorted(CLASSES * 5)[RECORDS.index(record)] for record in part.record_ids]
    assert [CLASSES[row.argmax()] for row in part.y] == expected


def test_existing_output_is_only_overwritten_on_request(source, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/p_test.npz").write_text("mine")
    command(source).refused("p_test.npz", "--overwrite")
    assert contents(tmp_path / "out") == {"p_test.npz": b"mine"}
    assert command(source, "--overwrite").code == 0
    assert len(load(tmp_path)[1]) == 4


@pytest.mark.parametrize("resampling", METHODS)
@pytest.mark.parametrize(("gain", "amplitude"), [(1000, 1000), (500, 2000)])
def test_resampling_keeps_a_sine(tmp_path, gain, amplitude, resampling):
    def sine(fs):
        return np.sin(2 * np.pi * 10 * np.arange(4 * fs) / fs)

    put_record(tmp_path, "A", np.rint(1000 * sine(300)).astype(np.int16), gain=f"{gain}/mV")
    recording = challenge17.read_signal(tmp_path, "A")
    signal, clipped = to_microvolt(recording, 250, resampling, "constant")
    assert signal.shape == (1000, 1) and signal.dtype == np.int16 and clipped == 0
    inner = slice(50, -50)  # away from the ends, where the filter reaches past the recording
    np.testing.assert_allclose(signal[inner, 0], amplitude * sine(250)[inner], atol=4)
    same, _ = to_microvolt(recording, 300, resampling, "constant")
    np.testing.assert_array_equal(same, np.rint(recording.signal * 1000))


HEADER = "header is not that of one lead at 300 Hz"
UNUSABLE = {
    "cut": (lambda mat: mat.write_bytes(mat.read_bytes()[:-100]), "cannot be read"),
    "no signal": (Path.unlink, "cannot be read (FileNotFoundError)"),
    "bytes": (lambda mat: mat.with_suffix(".hea").write_bytes(bytes(range(256))), HEADER),
    "length": ({"length": 901}, "shape (1, 900), not as the header says"),
    "no gain": ({"gain": "0/mV"}, HEADER),
    "unit": ({"gain": "1000/uV"}, HEADER),
    "empty": ({"signal": noise(0)}, "0 samples are shorter than 1 s"),
    "nan": ({"signal": np.full(900, np.nan)}, "NaN"),
    "zip member": ({}, "cannot be read (BadZipFile)"),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_unusable_record_is_left_out(source, command, tmp_path, how):
    damage, reason = UNUSABLE[how]
    if isinstance(damage, dict):
        put_record(source, "A00002", **{"signal": noise()} | damage)
    else:
        damage(source / "A00002.mat")
    path = source
    if how == "zip member":
        path, good = zipped(source, tmp_path / "copy.zip"), (source / "A00002.mat").read_bytes()
        damaged = good[:-1] + bytes([good[-1] ^ 1])
        path.write_bytes(path.read_bytes().replace(good, damaged))
    code, _, err = command(path)
    assert code == 0
    assert err.startswith("1 left out: 1 × ") and "A00002" in err and err.count("\n") == 1
    train, test = load(tmp_path)
    assert sorted([*train.record_ids, *test.record_ids]) == [r for r in RECORDS if r != "A00002"]
    (entry,) = train.manifest["left_out"]
    assert entry["record"] == "A00002" and reason in entry["reason"]


def test_constant_and_clipped_records_are_used_and_counted(source, command, tmp_path):
    put_record(source, "A00002", np.full(900, 5, np.int16))
    for record in RECORDS[3:5]:
        put_record(source, record, noise().clip(-5, 5).repeat(5))
    code, _, err = command(source)
    line = "1 constant signal, such as A00002; 2 clipped signals, such as A00004"
    assert (code, err) == (0, f"used, too: {line}\n")
    manifest = load(tmp_path)[0].manifest
    assert manifest["constant"] == {"count": 1, "records": ["A00002"]}
    assert manifest["clipped"] == {"count": 2, "records": RECORDS[3:5]}


def test_too_few_usable_records(source, command, tmp_path):
    command(source, "--test-size", 0.1).refused("number of classes = 4", "--test-size")
    for record in RECORDS[7::4]:  # one of class ~ remains
        (source / f"{record}.mat").unlink()
    command(source).refused("only 1 member", "'~': 1", "4 left out", "--test-size")
    for path in source.glob("*.mat"):
        path.unlink()
    command(source).refused("no record is usable")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("REFERENCE.csv", LABELS + b"A00021,X\n", "the wrong line 'A00021,X'"),
        ("REFERENCE.csv", LABELS + b"A00001,N\n", "repeats a record"),
        ("REFERENCE.csv", LABELS[18:] + b"A99999,N\n", "RECORDS differ in A00001, A00002, A99999"),
        ("RECORDS", b"", "is empty"),
        ("RECORDS", b"../A00001\n", "the wrong line '../A00001'"),
        ("RECORDS", b"\xff\xfe\x00", "the wrong line"),
    ],
)
def test_bad_lists(source, command, tmp_path, name, content, words):
    (source / name).write_bytes(content)
    for path in (source, zipped(source, tmp_path / "copy.zip", "training2017/")):
        command(path).refused(name, words)


def test_what_is_missing(source, command, tmp_path):
    (source / "REFERENCE.csv").unlink()
    for path in (source, zipped(source, tmp_path / "bare.zip")):
        command(path).refused("REFERENCE.csv is missing", "training2017", "--labels")
        command(path, labels="v3").refused("REFERENCE-v3.csv is missing")
    helpers.command(prepare.main, "--source", source).refused("required: --labels")
    command(source / "A00001.mat").refused("A00001.mat cannot be read (File is not a zip file)")
    for flags in (["--test-size", 1], ["--labels", "v4"], ["--dataset", "x"], ["--category", "y"]):
        command(source, *flags).refused(flags[0], "--help")


# Reading back


@pytest.fixture
def part(prepared, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(prepared, tmp_path / "copy") / "p_train.npz"


def refused(path, words="is not the prepared set of p_manifest.json"):
    with pytest.raises(UserError, match=f"p_train.npz {words}.*again"):
        load_prepared(path)


def test_the_files_belong_together(part):
    assert manifest_path(Path("d/my_set_train.npz")) == Path("d/my_set_manifest.json")
    test = part.with_name("p_test.npz").read_bytes()
    good = part.read_bytes()
    middle = len(good) // 2
    for content in (test, good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]):
        part.write_bytes(content)
        refused(part, ".*checksum")


CLAIM = io.BytesIO()  # of more samples than the file holds
HUGE = {"descr": "<i2", "fortran_order": False, "shape": (10**12, 1)}
np.lib.format.write_array_header_1_0(CLAIM, HUGE)


@pytest.mark.parametrize(
    "changes",
    [
        *({"extra": np.zeros(1)}, {"signal": np.zeros((48, 1))}, {"offsets": np.array(5)}),
        *({"signal": np.zeros(48, np.int16)}, {"signal": CLAIM.getvalue() + b"12"}),
        *({"offsets": np.arange(49)[::-1]}, {"offsets": np.arange(48)}),
        *({"y": np.zeros((47, 4), np.uint8)}, {"y": np.full((48, 4), 2, np.uint8)}),
        {"y": np.zeros((48, 0), np.uint8), "classes": np.zeros(0, "U1")},
        *({"record_ids": np.array(["A"] * 48, kind)} for kind in ("U1", object)),
        {"classes": np.array(list("NNO~"))},
    ],
    ids=str,
)
def test_arrays_that_break_the_contract(part, changes):
    """Also where the manifest lists their checksum, as another program might write it."""
    with np.load(part) as file:
        arrays = dict(file) | changes
    with zipfile.ZipFile(part, "w") as archive:
        for name, value in arrays.items():
            file = io.BytesIO(value if isinstance(value, bytes) else b"")
            if isinstance(value, np.ndarray):
                np.save(file, value)
            archive.writestr(f"{name}.npy", file.getvalue())
    change_manifest(part, files={"train": {"name": part.name, "sha256": sha256(part)}})
    refused(part)


@pytest.mark.parametrize(
    "changes",
    [
        *({"fs": None}, {"fs": -250}, {"fs": [250]}, {"pad": "1"}, {"pad": -1}, {"pad": 0.5}),
        *({"pad": 10**12}, {"unit": "mV"}, {"files": []}, {"sd_mv": 0}, {"sd_mv": [1, 1]}),
        *({"mean_mv": 10**400}, {"patients": 5}, {"patients": {}}, {"multi_label": "no"}),
        {"classes": list("NAO~")},
    ],
    ids=str,
)
def test_manifest_that_breaks_the_contract(part, changes):
    change_manifest(part, **changes)
    refused(part)


def change_manifest(path, **changes):
    write_json(manifest_path(path), json.loads(manifest_path(path).read_text()) | changes)


# Known facts of the real set


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ("zip", {"A": 738, "N": 5050, "O": 2456, "~": 284}),
        ("v3", {"A": 758, "N": 5076, "O": 2415, "~": 279}),
    ],
)
def test_real_class_counts(ecg_data, labels, counts):
    assert challenge17.read_listing(ecg_data / "training2017", labels).class_counts == counts


def test_real_mean_and_sd(ecg_data):
    listing = challenge17.read_listing(ecg_data, "zip")
    sums = np.zeros(3)  # samples, values, squares
    for record in listing.records:
        signal = listing.read(record).signal
        sums += signal.size, signal.sum(), np.square(signal).sum()
    mean = sums[1] / sums[0]
    assert mean == pytest.approx(0.007536, abs=1e-6)
    assert np.sqrt(sums[2] / sums[0] - mean**2) == pytest.approx(0.237287, abs=1e-6)


def test_real_split(ecg_data, command, tmp_path):
    code, _, err = command(ecg_data)
    assert (code, err) == (0, "")
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (6822, 1706)
    assert train.manifest["left_out"] == []
    for kind in ("constant", "clipped", "out-of-range"):
        assert train.manifest[kind]["count"] == 0
    share = test.y.sum(axis=0) / (738, 5050, 2456, 284)
    np.testing.assert_allclose(share, 0.2, atol=0.002)
