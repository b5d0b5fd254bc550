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
from finetuning.prepared_set import how_resampled, load_prepared, manifest_path
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
        for member in sorted(folder.iterdir()):
            file.write(member, f"{inside}{member.name}")
    return path


def test_contract(source, command, tmp_path):
    code, out, err = command(source, "--test-size", "0.4", "--pad", "4096", "--seed", "7")
    assert (code, err) == (0, "")
    assert list(contents(tmp_path / "out")) == ["p_manifest.json", "p_test.npz", "p_train.npz"]
    train, test = load(tmp_path)
    assert sorted([*train.record_ids, *test.record_ids]) == RECORDS
    for part in (train, test):
        places = [RECORDS.index(record) for record in part.record_ids]
        assert places == sorted(places) and part.y.argmax(1).tolist() == [n % 4 for n in places]
        assert np.diff(part.offsets).tolist() == [500 + 25 * place for place in places]
    assert f"train: 12 recordings (A 3, N 3, O 3, ~ 3) in {tmp_path / 'out/p_train.npz'}\n" in out
    assert str(tmp_path) not in str(train.manifest)
    expected = {
        "dataset": "challenge17", "labels": "zip", "classes": list(CLASSES), "multi_label": False,
        "left_out": [], "fs": 250, "resampling": "polyphase", "padtype": "constant", "unit": "uV",
        "pad": 4096, "mean_mv": 0.0075, "sd_mv": 0.2373, "seed": 7, "test_size": 0.4,
        "source_sha256": {
            "records": sha256(source / "RECORDS"), "labels": sha256(source / "REFERENCE.csv"),
        },
    }  # fmt: skip
    assert train.manifest == train.manifest | expected
    assert train.manifest["files"]["test"]["class_counts"] == dict.fromkeys(CLASSES, 2)


def test_same_seed_same_bytes_other_seed_other_split(source, command, tmp_path):
    for out, seed in (("a/p", 0), ("b/p", 0), ("c/p", 1)):
        assert command(source, "--seed", seed, out=out).code == 0
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again and first["p_test.npz"] != other["p_test.npz"]


@pytest.mark.parametrize("labels", ["zip", "v3"])
def test_where_the_files_may_lie(source, command, tmp_path, labels):
    """In a folder, in one around it, or in a zip; final labels beside it too, after a BOM."""
    classes = CLASSES * 5 if labels == "zip" else sorted(CLASSES * 5)

    def written(path, labels, out):
        assert command(path, labels=labels, out=f"{out}/p").code == 0
        part = load_prepared(tmp_path / out / "p_train.npz")
        expected = [classes[RECORDS.index(record)] for record in part.record_ids]
        assert [CLASSES[row.argmax()] for row in part.y] == expected
        assert part.manifest["labels"] == getattr(labels, "name", labels)
        return contents(tmp_path / out)

    final = "".join(map("{},{}\n".format, RECORDS, sorted(CLASSES * 5)))
    (tmp_path / "REFERENCE-v3.csv").write_text(final, encoding="utf-8-sig")
    zips = [zipped(source, tmp_path / f"{len(n)}.zip", n) for n in ("", "training2017/")]
    first, *others = (
        written(path, labels, f"{n}") for n, path in enumerate((source, tmp_path, *zips))
    )
    assert others == [first] * 3
    if labels == "v3":  # inside, they count more than beside; named, they may lie anywhere
        written(source, shutil.copy(tmp_path / "REFERENCE-v3.csv", tmp_path / "other.csv"), "named")
        (source / "REFERENCE-v3.csv").write_bytes(LABELS)
        classes = CLASSES * 5
        assert written(source, "v3", "inside") != first


def test_existing_output_is_only_overwritten_on_request(source, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/p_test.npz").write_text("mine")
    command(source).refused("p_test.npz", "--overwrite")
    assert contents(tmp_path / "out") == {"p_test.npz": b"mine"}
    assert command(source, "--overwrite").code == 0
    assert len(load(tmp_path)[1]) == 4


@pytest.mark.parametrize("resampling", METHODS)
def test_resampling_keeps_a_sine(tmp_path, resampling):
    def sine(fs):
        return np.sin(2 * np.pi * 10 * np.arange(4 * fs) / fs)

    put_record(tmp_path, "A", np.rint(1000 * sine(300)).astype(np.int16), gain="500/mV")
    recording = challenge17.read_signal(tmp_path, "A")
    signal, clipped = to_microvolt(recording, 250, resampling, "constant")
    assert signal.shape == (1000, 1) and signal.dtype == np.int16 and clipped == 0
    inner = slice(50, -50)  # away from the ends, where the filter reaches past the recording
    np.testing.assert_allclose(signal[inner, 0], 2000 * sine(250)[inner], atol=4)
    same, _ = to_microvolt(recording, 300, resampling, "constant")
    np.testing.assert_array_equal(same, np.rint(recording.signal * 1000))


HEADER = "header is not that of one lead at 300 Hz"
UNUSABLE = (
    ({"length": 901}, "shape (1, 900), not as the header says"),
    ({"gain": "0/mV"}, HEADER),
    ({"gain": "1000/uV"}, HEADER),
    ({"rate": "250"}, HEADER),
    ({"signal": noise(0)}, "0 samples are shorter than 1 s"),
    ({"signal": np.full(900, np.nan)}, "100.0% of the samples are missing"),
)


def test_unusable_records_are_left_out(source, command, tmp_path):
    reasons = {"A00007": "cannot be read (FileNotFoundError)", "A00008": "cannot be read"}
    for record, (changes, reason) in zip(RECORDS, UNUSABLE, strict=False):
        put_record(source, record, **{"signal": noise()} | changes)
        reasons[record] = reason
    (source / "A00007.mat").unlink()
    mat = source / "A00008.mat"
    mat.write_bytes(mat.read_bytes()[:-100])
    code, _, err = command(source, "--test-size", 0.4)
    assert code == 0 and err.startswith("8 left out: 3 × ") and err.count("\n") == 1
    train, test = load(tmp_path)
    assert sorted([*train.record_ids, *test.record_ids]) == RECORDS[8:]
    for entry in train.manifest["left_out"]:
        assert reasons.pop(entry["record"]) in entry["reason"]
    assert not reasons


def test_a_damaged_member_of_a_zip_is_left_out(source, command, tmp_path):
    path, good = zipped(source, tmp_path / "copy.zip"), (source / "A00002.mat").read_bytes()
    path.write_bytes(path.read_bytes().replace(good, good[:-1] + bytes([good[-1] ^ 1])))
    assert "A00002" in command(path).err
    assert "cannot be read (BadZipFile)" in load(tmp_path)[0].manifest["left_out"][0]["reason"]


def test_doubtful_records_are_used_and_counted(source, command, tmp_path):
    """Impossible samples before resampling, which would spread them."""
    spiked = np.zeros(900, np.float64)
    spiked[[300, 600, 601]] = 100_000, np.nan, -90_000  # 100 mV, missing, -90 mV
    for record, signal in (("A00002", spiked), *((r, noise().clip(-50, 50)) for r in RECORDS[2:4])):
        put_record(source, record, signal.repeat(5))
    code, _, err = command(source)
    assert (
        code == 0
        and err
        == """used, too: 1 constant signal, such as A00002
used, too: 2 clipped signals, such as A00003
missing or impossible samples of 1 records are interpolated: 15 of A00002
"""
    )
    parts = load(tmp_path)
    manifest = parts[0].manifest
    assert manifest["constant"] == {"count": 1, "records": ["A00002"]}
    assert manifest["clipped"] == {"count": 2, "records": RECORDS[2:4]}
    assert manifest["interpolated"] == {"A00002": 15}
    (part,) = (part for part in parts if "A00002" in part.record_ids)
    row = part.record_ids.tolist().index("A00002")
    assert not part.signal[part.offsets[row] : part.offsets[row + 1]].any()


def test_too_few_usable_records(source, command, tmp_path):
    command(source, "--test-size", 0.1).refused("number of classes = 4", "--test-size")
    for record in RECORDS[7::4]:  # one of class ~ remains
        (source / f"{record}.mat").unlink()
    command(source).refused("only 1 member", "'~': 1", "4 left out", "--test-size")
    for path in source.glob("*.mat"):
        path.unlink()
    command(source).refused("too few of 20 records are usable")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "content", "words"), [
    ("REFERENCE.csv", LABELS + b"A00021,X\n", "the wrong line 'A00021,X'"),
    ("REFERENCE.csv", LABELS + b"A00001,N\n", "repeats a record"),
    ("REFERENCE.csv", LABELS[18:] + b"A99999,N\n", "RECORDS differ in A00001, A00002, A99999"),
    ("REFERENCE.csv", None, "without readable RECORDS and REFERENCE.csv"),
    ("RECORDS", b"", "is empty"),
    ("RECORDS", b"../A00001\n", "the wrong line '../A00001'"),
    ("RECORDS", b"\xff\xfe\x00", "the wrong line"),
])  # fmt: skip
def test_bad_lists(source, command, tmp_path, name, content, words):
    (source / name).write_bytes(content or b"")
    if content is None:
        (source / name).unlink()
    for path in (source, zipped(source, tmp_path / "copy.zip", "training2017/")):
        command(path).refused(name, words)


def test_bad_flags(source, command):
    command(source / "A00001.mat").refused("without readable RECORDS", "--labels")
    helpers.command(prepare.main, "--source", source).refused("required: --labels")
    for flags in (["--test-size", 1], ["--labels", "v4"], ["--dataset", "x"], ["--category", "y"]):
        command(source, *flags).refused(flags[0], "--help")


# Reading back


@pytest.fixture
def part(prepared, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(prepared, tmp_path / "copy") / "p_train.npz"


def refused(path, words=""):
    with pytest.raises(UserError, match=f"p_train.npz is not the prepared set of .*{words}.*again"):
        load_prepared(path)


def test_the_files_belong_together(part):
    assert manifest_path(Path("d/my_set_train.npz")) == Path("d/my_set_manifest.json")
    test = part.with_name("p_test.npz").read_bytes()
    good = part.read_bytes()
    middle = len(good) // 2
    for content in (test, good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]):
        part.write_bytes(content)
        refused(part, "checksum")


CLAIM = io.BytesIO()  # of more samples than the file holds
HUGE = {"descr": "<i2", "fortran_order": False, "shape": (10**12, 1)}
np.lib.format.write_array_header_1_0(CLAIM, HUGE)


@pytest.mark.parametrize("changes", [
    *({"extra": np.zeros(1)}, {"signal": np.zeros((48, 1))}, {"offsets": np.array(5)}),
    *({"signal": np.zeros(48, np.int16)}, {"signal": CLAIM.getvalue() + b"12"}),
    *({"offsets": np.arange(49)[::-1]}, {"offsets": np.arange(48)}),
    *({"y": np.zeros((47, 4), np.uint8)}, {"y": np.full((48, 4), 2, np.uint8)}),
    {"y": np.zeros((48, 0), np.uint8), "classes": np.zeros(0, "U1")},
    *({"record_ids": np.array(["A"] * 48, kind)} for kind in ("U1", object)),
    {"classes": np.array(list("NNO~"))},
    # Of the manifest
    *({"fs": None}, {"fs": -250}, {"fs": [250]}, {"pad": "1"}, {"pad": -1}, {"pad": 0.5}),
    *({"pad": 10**12}, {"unit": "mV"}, {"files": []}, {"sd_mv": 0}, {"sd_mv": [1, 1]}),
    *({"mean_mv": 10**400}, {"patients": 5}, {"patients": {}}, {"multi_label": "no"}),
    *({"classes": list("NAO~")}, {"resampling": "linear"}, {"padtype": None}),
], ids=str)  # fmt: skip
def test_what_breaks_the_contract(part, changes):
    """Also where the manifest lists the checksum of such arrays, as another program might."""
    if isinstance(next(iter(changes.values())), np.ndarray | bytes):
        with np.load(part) as file:
            arrays = dict(file) | changes
        with zipfile.ZipFile(part, "w") as archive:
            for name, value in arrays.items():
                file = io.BytesIO(value if isinstance(value, bytes) else b"")
                if isinstance(value, np.ndarray):
                    np.save(file, value)
                archive.writestr(f"{name}.npy", file.getvalue())
        changes = {"files": {"train": {"name": part.name, "sha256": sha256(part)}}}
    manifest = json.loads(manifest_path(part).read_text())
    write_json(manifest_path(part), manifest | changes)
    refused(part)


def test_how_earlier_sets_were_resampled():
    earlier = {"dataset": "challenge17", "resampling": "fft"}
    assert how_resampled(earlier) == {"resampling": "fft", "padtype": "constant"}
    assert how_resampled({"dataset": "table"}) == {"resampling": "polyphase", "padtype": "line"}


# Known facts of the real set


@pytest.mark.parametrize(("labels", "counts"), [
    ("zip", {"A": 738, "N": 5050, "O": 2456, "~": 284}),
    ("v3", {"A": 758, "N": 5076, "O": 2415, "~": 279}),
])  # fmt: skip
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
    assert (code, err) == (0, "")  # none is left out, constant, clipped or out of range
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (6822, 1706)
    share = test.y.sum(axis=0) / (738, 5050, 2456, 284)
    np.testing.assert_allclose(share, 0.2, atol=0.002)
