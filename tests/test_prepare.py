"""From the Challenge 2017 files as distributed to prepared sets."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from finetuning import prepare
from finetuning.datasets import challenge17
from finetuning.prepared_set import load_prepared, manifest_path
from recordings.formats import Recording
from recordings.resampling import METHODS, to_microvolt
from tests import helpers
from utils.cli import UserError
from utils.files import sha256, write_json

CLASSES = "ANO~"
PER_CLASS = 5
RECORDS = [f"A{number:05}" for number in range(1, 4 * PER_CLASS + 1)]
OUTPUTS = ("p_manifest.json", "p_test.npz", "p_train.npz")
needs_data = pytest.mark.skipif("ECG_DATA" not in os.environ, reason="needs real recordings")


def put_record(folder, record, signal, rate="300", gain="1000/mV", length=None):
    length = signal.size if length is None else length
    savemat(folder / f"{record}.mat", {"val": signal.reshape(1, -1)}, format="4")
    lines = f"{record} 1 {rate} {length} 05:05:15 1/05/2000 ", f"{record}.mat 16+24 {gain} 16 0 0 0"
    (folder / f"{record}.hea").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def put_labels(path, labels):
    path.write_text("".join(f"{record},{label}\n" for record, label in labels.items()))


def noise(samples=900, seed=0):
    return np.random.default_rng(seed).integers(-500, 500, samples).astype(np.int16)


@pytest.fixture
def source(tmp_path):
    """Five short recordings of each class."""
    folder = tmp_path / "training2017"
    folder.mkdir()
    for number, record in enumerate(RECORDS):
        put_record(folder, record, noise(600 + 30 * number, seed=number))
    (folder / "RECORDS").write_text("\n".join(RECORDS) + "\n")
    put_labels(folder / "REFERENCE.csv", dict(zip(RECORDS, CLASSES * PER_CLASS, strict=True)))
    return folder


@pytest.fixture
def command(tmp_path):
    """Prepare in this process; returns exit code, output and error output."""

    def run(source, *flags, labels="zip", out="out/p"):
        arguments = ["--source", source, "--labels", labels, "--out", tmp_path / out, *flags]
        return helpers.command(prepare.main, *arguments)

    return run


@pytest.fixture
def fails(command, tmp_path):
    """Expect exit code 2, nothing written and one line that holds `words`."""

    def check(words, *arguments, **options):
        words = [words] if isinstance(words, str) else words
        command(*arguments, **options).refused(*words)
        assert not list(tmp_path.glob("out/*.npz"))

    return check


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def zipped(folder, path, inside):
    with zipfile.ZipFile(path, "w") as file:
        for member in folder.iterdir():
            file.write(member, f"{inside}{member.name}")
    return path


# What is written


def test_contract(source, command, tmp_path):
    code, out, err = command(source, "--test-size", "0.4", "--pad", "4096")
    assert (code, err) == (0, "")
    assert tuple(contents(tmp_path / "out")) == OUTPUTS
    train, test = (load_prepared(tmp_path / f"out/p_{name}.npz") for name in ("train", "test"))
    assert (len(train), len(test)) == (12, 8)
    assert sorted([*train.record_ids, *test.record_ids]) == RECORDS
    for part in (train, test):
        assert part.signal.dtype == np.int16 and part.signal.ndim == 2
        assert list(part.record_ids) == sorted(part.record_ids)
        assert list(part.classes) == list(CLASSES)
        assert part.y.sum(axis=0).tolist() == [len(part) // 4] * 4
        for record, row in zip(part.record_ids, part.y, strict=True):
            assert CLASSES[row.argmax()] == CLASSES[RECORDS.index(record) % 4]
        lengths = [500 + 25 * RECORDS.index(record) for record in part.record_ids]
        assert np.diff(part.offsets).tolist() == lengths
    assert "train       3      3      3      3     12" in out and "p_test.npz" in out


def test_manifest(source, command, tmp_path):
    command(source, "--test-size", "0.4", "--seed", "7")
    text = (tmp_path / "out/p_manifest.json").read_text()
    manifest = json.loads(text)
    assert str(tmp_path) not in text
    assert manifest["dataset"] == "challenge17" and manifest["labels"] == "zip"
    assert (manifest["fs"], manifest["unit"], manifest["pad"]) == (250, "uV", 16384)
    assert (manifest["mean_mv"], manifest["sd_mv"]) == (0.0075, 0.2373)
    assert (manifest["seed"], manifest["test_size"]) == (7, 0.4)
    assert manifest["class_counts"]["test"] == dict.fromkeys(CLASSES, 2)
    assert manifest["source_sha256"]["labels"] == sha256(source / "REFERENCE.csv")
    assert (manifest["left_out"], manifest["clipped_samples"]) == ([], 0)
    for name in ("train", "test"):
        path = tmp_path / f"out/p_{name}.npz"
        entry = {
            "name": path.name,
            "sha256": sha256(path),
            "records": {"train": 12, "test": 8}[name],
        }
        assert manifest["files"][name] == entry


def test_same_seed_same_bytes_other_seed_other_split(source, command, tmp_path):
    for out, seed in (("a/p", 0), ("b/p", 0), ("c/p", 1)):
        assert command(source, "--seed", seed, out=out)[0] == 0
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first["p_test.npz"] != other["p_test.npz"]


@pytest.mark.parametrize("inside", ["", "training2017/"])
def test_zip_equals_folder(source, command, tmp_path, inside):
    archive = zipped(source, tmp_path / "copy.zip", inside)
    assert command(source, out="a/p")[0] == command(archive, out="b/p")[0] == 0
    folder, packed = contents(tmp_path / "a"), contents(tmp_path / "b")
    manifests = [json.loads(files.pop("p_manifest.json")) for files in (folder, packed)]
    assert folder == packed
    assert manifests[1]["source_sha256"].pop("zip") == sha256(archive)
    assert manifests[0] == manifests[1]


def test_folder_around_training2017(source, command, tmp_path):
    assert command(source, out="a/p")[0] == command(source.parent, out="b/p")[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("kind", ["folder", "around", "zip"])
@pytest.mark.parametrize("place", ["inside", "beside"])
def test_v3_is_found_in_the_source_then_beside_it(source, command, tmp_path, kind, place):
    v3 = dict(zip(RECORDS, sorted(CLASSES * PER_CLASS), strict=True))
    put_labels((source if place == "inside" else tmp_path) / "REFERENCE-v3.csv", v3)
    path = {"folder": source, "around": tmp_path}.get(kind)
    path = path or zipped(source, tmp_path / "copy.zip", "training2017/")
    assert command(path, labels="v3")[0] == 0
    part = load_prepared(tmp_path / "out/p_train.npz")
    assert part.manifest["labels"] == "v3"
    assert [CLASSES[row.argmax()] for row in part.y] == [v3[record] for record in part.record_ids]


def test_label_file(source, command, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (source / "REFERENCE.csv").read_bytes())
    assert command(source, labels=path)[0] == 0
    assert json.loads((tmp_path / "out/p_manifest.json").read_text())["labels"] == "mine.csv"


# The signal


@pytest.mark.parametrize("resampling", METHODS)
@pytest.mark.parametrize(("gain", "amplitude"), [(1000, 1000), (500, 2000)])
def test_resampling_keeps_a_sine(tmp_path, gain, amplitude, resampling):
    def sine(fs):
        return np.sin(2 * np.pi * 10 * np.arange(4 * fs) / fs)

    put_record(tmp_path, "A", np.rint(1000 * sine(300)).astype(np.int16), gain=f"{gain}/mV")
    signal, clipped = to_microvolt(
        challenge17.read_signal(tmp_path, "A"), 250, resampling, "constant"
    )
    assert signal.shape == (1000, 1) and signal.dtype == np.int16 and clipped == 0
    inner = slice(50, -50)  # away from the ends, where the filter reaches past the recording
    np.testing.assert_allclose(signal[inner, 0], amplitude * sine(250)[inner], atol=4)


@pytest.mark.parametrize("resampling", METHODS)
def test_equal_rate_keeps_every_value(tmp_path, resampling):
    put_record(tmp_path, "A", noise())
    recording = challenge17.read_signal(tmp_path, "A")
    signal, _ = to_microvolt(recording, 300, resampling, "constant")
    np.testing.assert_array_equal(signal[:, 0], noise())


def test_clipped_samples_are_counted():
    recording = Recording(np.full((300, 1), 40.0), 300)
    signal, clipped = to_microvolt(recording, 300, "polyphase", "line")
    assert clipped == 300 and (signal == 32767).all()


# What is left out


UNUSABLE = {
    "truncated": "cannot be read",
    "text": "cannot be read",
    "no signal file": "A00002.mat is missing",
    "no header": "A00002.hea is missing",
    "length": "header says 901 samples, signal has 900",
    "rate": "header says 250 Hz",
    "no gain": "header says gain 0/mV",
    "unit": "header says gain 1000/uV",
    "nonsense": "header does not describe one lead",
    "short": "shorter than 1 s",
    "empty": "0 samples are shorter than 1 s",
    "nan": "NaN",
    "variable": "holds no 'val'",
}


def spoil(folder, record, how):
    mat = folder / f"{record}.mat"
    changes = {"length": {"length": 901}, "rate": {"rate": "250"}, "no gain": {"gain": "0/mV"}}
    changes |= {"unit": {"gain": "1000/uV"}}
    samples = {"short": 299, "empty": 0}.get(how, 900)
    signal = noise(samples) if how != "nan" else np.full(samples, np.nan)
    put_record(folder, record, signal, **changes.get(how, {}))
    if how == "truncated":
        mat.write_bytes(mat.read_bytes()[:-100])
    elif how == "text":
        mat.write_text("not a signal\n" * 50)
    elif how == "variable":
        savemat(mat, {"other": signal}, format="4")
    elif how == "nonsense":
        (folder / f"{record}.hea").write_bytes(bytes(range(256)))
    elif how.startswith("no ") and how != "no gain":
        (folder / f"{record}{'.hea' if how == 'no header' else '.mat'}").unlink()


@pytest.mark.parametrize("how", UNUSABLE)
def test_unusable_record_is_left_out(source, command, tmp_path, how):
    spoil(source, "A00002", how)
    code, _, err = command(source)
    assert code == 0
    assert err.startswith("1 left out: 1 × ") and "A00002" in err and err.count("\n") == 1
    train, test = (load_prepared(tmp_path / f"out/p_{name}.npz") for name in ("train", "test"))
    assert sorted([*train.record_ids, *test.record_ids]) == [r for r in RECORDS if r != "A00002"]
    (entry,) = train.manifest["left_out"]
    assert entry["record"] == "A00002" and UNUSABLE[how] in entry["reason"]
    assert train.manifest["class_counts"]["all"] == {"A": 5, "N": 4, "O": 5, "~": 5}


def test_damaged_zip_member_is_left_out(source, command, tmp_path):
    archive = zipped(source, tmp_path / "copy.zip", "")
    data, signal = archive.read_bytes(), (source / "A00002.mat").read_bytes()
    archive.write_bytes(data.replace(signal, signal[:-1] + bytes([signal[-1] ^ 1])))
    code, _, err = command(archive)
    assert code == 0 and "A00002.mat cannot be read: BadZipFile" in err


def test_constant_and_clipped_records_are_used_and_counted(source, command, tmp_path):
    put_record(source, "A00002", np.full(900, 5, np.int16))
    for record in RECORDS[3:5]:
        put_record(source, record, noise().clip(-5, 5).repeat(5))
    code, _, err = command(source)
    assert code == 0
    line = "1 constant signal, such as A00002; 2 clipped signals, such as A00004"
    assert err == f"used, too: {line}\n"
    manifest = load_prepared(tmp_path / "out/p_train.npz").manifest
    assert manifest["constant"] == {"count": 1, "records": ["A00002"]}
    assert manifest["clipped"] == {"count": 2, "records": RECORDS[3:5]}
    assert sum(file["records"] for file in manifest["files"].values()) == len(RECORDS)


# What is refused


def test_nothing_left(source, fails):
    for path in source.glob("*.mat"):
        path.unlink()
    fails("no record is usable", source)


@pytest.mark.parametrize(("keep", "count"), [(1, "has 1 of"), (0, "has 0 of")])
def test_class_with_fewer_than_two_records(source, fails, keep, count):
    for record in RECORDS[3::4][keep:]:
        (source / f"{record}.mat").unlink()
    fails(["class ~", count], source)


@pytest.mark.parametrize("size", ["0.1", "0.9"])
def test_test_size_without_room_for_every_class(source, fails, size):
    fails(f"--test-size {size}", source, "--test-size", size)


def test_labels_that_disagree_with_records(source, fails):
    labels = {record: "N" for record in RECORDS[2:]} | {"A99999": "N"}
    put_labels(source / "REFERENCE.csv", labels)
    words = ["REFERENCE.csv", "(19 and 20 records)", "2 without a label (A00001, A00002)"]
    fails([*words, "1 labelled but not listed (A99999)"], source)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("A00021,X", "line 21: unknown class 'X'"),
        ("A00021", "line 21 is not 'record,class'"),
        ("A00001,N", "lists A00001 more than once"),
    ],
)
def test_bad_line_of_labels(source, fails, line, words):
    path = source / "REFERENCE.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    fails(["REFERENCE.csv", words], source)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"A00001\nA00001\n", "lists A00001 more than once"),
        (b"../A00001\n", "is not the name of a record"),
        (b"\xff\xfe\x00", "is not readable text"),
    ],
)
def test_bad_list_of_records(source, fails, content, words):
    (source / "RECORDS").write_bytes(content)
    fails(["RECORDS", words], source)


@pytest.mark.parametrize(("labels", "name"), [("zip", "REFERENCE.csv"), ("v3", "REFERENCE-v3.csv")])
def test_missing_labels(source, fails, labels, name):
    (source / "REFERENCE.csv").unlink()
    fails([name, "training2017", "--labels"], source, labels=labels)


def test_bad_sources(tmp_path, fails):
    empty, bare, text = (tmp_path / name for name in ("empty", "bare", "text.zip"))
    empty.mkdir()
    bare.mkdir()
    (bare / "A00001.mat").touch()
    text.write_text("not a zip")
    fails(["empty", "unpack training2017.zip"], empty)
    fails(["bare", "holds no RECORDS"], bare)
    fails(["text.zip", "neither a folder nor a zip"], text)
    fails(["absent", "does not exist"], tmp_path / "absent")
    fails(["holds no RECORDS"], zipped(bare, tmp_path / "bare.zip", ""))


@pytest.mark.parametrize(
    "flags",
    [
        ("--sede", "1"),
        ("--see", "1"),
        ("--seed", "-1"),
        ("--seed", str(2**32)),
        ("--fs", "0"),
        ("--fs", "250.5"),
        ("--test-size", "1"),
        ("--test-size", "0"),
        ("--pad", "0"),
        ("--labels", "v4"),
        ("--out", ".."),
    ],
)
def test_bad_flags(source, fails, flags):
    fails([flags[0], "--help"], source, *flags)


def test_labels_have_no_default(source):
    helpers.command(prepare.main, "--source", source).refused("--labels")


@pytest.mark.parametrize("name", OUTPUTS)
def test_existing_output_is_kept_unless_told(source, command, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    code, _, err = command(source)
    assert code == 2 and name in err and "--overwrite" in err and err.count("\n") == 1
    assert contents(tmp_path / "out") == {name: b"mine"}
    assert command(source, "--overwrite")[0] == 0
    assert len(load_prepared(tmp_path / "out/p_test.npz")) == 4


# Reading back


@pytest.fixture
def prepared(source, command, tmp_path):
    assert command(source)[0] == 0
    return tmp_path / "out/p_train.npz"


def rewrite(path, **changes):
    """Change arrays (None: remove) and list the new checksum, as another program might."""
    with np.load(path) as file:
        arrays = dict(file) | changes
    with path.open("wb") as file:
        np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
    list_again(path)


def list_again(path):
    manifest = json.loads(manifest_path(path).read_text())
    manifest["files"]["train"]["sha256"] = sha256(path)
    write_json(manifest_path(path), manifest)


def test_manifest_name():
    assert manifest_path(Path("d/my_set_train.npz")) == Path("d/my_set_manifest.json")


def test_other_bytes_are_refused(prepared):
    data = bytearray(prepared.read_bytes())
    data[len(data) // 2] ^= 1
    prepared.write_bytes(data)
    with pytest.raises(UserError, match=r"p_train.npz does not have the checksum .* again"):
        load_prepared(prepared)


def test_manifest_is_needed(prepared, tmp_path):
    copy = tmp_path / "other_train.npz"
    shutil.copy(prepared, copy)
    with pytest.raises(UserError, match=r"no manifest other_manifest.json beside it"):
        load_prepared(copy)
    shutil.copy(manifest_path(prepared), manifest_path(copy))
    with pytest.raises(UserError, match=r"does not list other_train.npz"):
        load_prepared(copy)


@pytest.mark.parametrize("content", [b"time,mV\n0,1\n", b"", b"\x93NUMPY"])
def test_other_kind_of_file(prepared, content):
    prepared.write_bytes(content)
    with pytest.raises(UserError, match=r"p_train.npz is not a prepared set"):
        load_prepared(prepared)
    prepared.unlink()
    with pytest.raises(UserError, match=r"is not a file"):
        load_prepared(prepared)


@pytest.mark.parametrize(
    "changes",
    [
        {"y": None},
        {"extra": np.zeros(1)},
        {"signal": np.zeros((16, 1))},
        {"signal": np.zeros(16, np.int16)},
        {"offsets": np.arange(17)[::-1]},
        {"offsets": np.arange(16)},
        {"y": np.zeros((15, 4), np.uint8)},
        {"y": np.full((16, 4), 2, np.uint8)},
        {"record_ids": np.array(["A"] * 16)},
        {"record_ids": np.array(["A"] * 16, dtype=object)},
        {"record_ids": np.array("A")},
        {"classes": np.array(list("NAO~"))},
    ],
    ids=str,
)
def test_arrays_that_break_the_contract(prepared, changes):
    rewrite(prepared, **changes)
    with pytest.raises(UserError, match=r"p_train.npz.*again"):
        load_prepared(prepared)


@pytest.mark.parametrize(
    "changes",
    [
        *({"fs": None}, {"fs": -250}, {"pad": "1"}, {"pad": -1}, {"pad": 0.5}, {"pad": 10**12}),
        *(
            {"unit": "mV"},
            {"files": []},
            {"sd_mv": 0},
            {"mean_mv": 10**400},
            {"patients": 5},
            {"multi_label": "no"},
        ),
    ],
    ids=str,
)
def test_manifest_that_breaks_the_contract(prepared, changes):
    path = manifest_path(prepared)
    write_json(path, json.loads(path.read_text()) | changes)
    with pytest.raises(UserError, match=r"p_manifest.json.*again"):
        load_prepared(prepared)


def test_arrays_that_claim_what_is_not_there(prepared):
    header = io.BytesIO()
    claim = {"descr": "<i2", "fortran_order": False, "shape": (10**12, 1)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(prepared, "w") as file:
        file.writestr("signal.npy", header.getvalue() + b"12")
    list_again(prepared)
    with pytest.raises(UserError, match="cannot be read as plain arrays"):
        load_prepared(prepared)


def test_members_of_a_zip_stay_in_it(source, command, tmp_path):
    """The zip is never unpacked, whatever its members are called."""
    (tmp_path / "in").mkdir()
    archive = zipped(source, tmp_path / "in/copy.zip", "training2017/")
    names = ("../../escaped", "/tmp/escaped", "training2017/../../escaped", "training2017/..")
    with zipfile.ZipFile(archive, "a") as file:
        for name in names:
            file.writestr(name, "escaped")
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    assert command(archive)[0] == 0
    after = {path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] != "out"}
    assert after == before and not list(tmp_path.parent.glob("escaped"))
    assert sorted(contents(tmp_path / "out")) == sorted(OUTPUTS)


@pytest.mark.parametrize("name", ["../A00001", "/etc/passwd", "training2017/../../A00001"])
def test_a_record_is_no_path(source, fails, tmp_path, name):
    (source / "RECORDS").write_text(f"{name}\n")
    archive = zipped(source, tmp_path / "copy.zip", "training2017/")
    for path in (source, archive):
        fails(["RECORDS", "is not the name of a record"], path)


# Known facts of the real set


@needs_data
@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ("zip", {"N": 5050, "A": 738, "O": 2456, "~": 284}),
        ("v3", {"N": 5076, "A": 758, "O": 2415, "~": 279}),
    ],
)
def test_real_class_counts(labels, counts):
    listing = challenge17.read_listing(Path(os.environ["ECG_DATA"]) / "training2017", labels)
    assert dict(zip(CLASSES, listing.y.sum(0), strict=True)) == counts


@needs_data
def test_real_mean_and_sd():
    listing = challenge17.read_listing(Path(os.environ["ECG_DATA"]), "zip")
    sums = np.zeros(3)  # samples, values, squares
    for record in listing.records:
        signal = listing.read(record).signal
        sums += signal.size, signal.sum(), np.square(signal).sum()
    mean = sums[1] / sums[0]
    assert mean == pytest.approx(0.007536, abs=1e-6)
    assert np.sqrt(sums[2] / sums[0] - mean**2) == pytest.approx(0.237287, abs=1e-6)


@needs_data
def test_real_split(command, tmp_path):
    code, _, err = command(os.environ["ECG_DATA"])
    assert (code, err) == (0, "")
    train, test = (load_prepared(tmp_path / f"out/p_{name}.npz") for name in ("train", "test"))
    assert (len(train), len(test)) == (6822, 1706)
    assert (train.manifest["left_out"], train.manifest["clipped_samples"]) == ([], 0)
    assert (train.manifest["constant"]["count"], train.manifest["clipped"]["count"]) == (0, 0)
    share = test.y.sum(axis=0) / (738, 5050, 2456, 284)
    np.testing.assert_allclose(share, 0.2, atol=0.002)
