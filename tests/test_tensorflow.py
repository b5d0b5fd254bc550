"""Weights saved by TensorFlow: read without it, and the same network afterwards."""

import hashlib
import re
import struct
from dataclasses import asdict

import numpy as np
import pytest
import torch

from finetuning.datasets import challenge17
from models import Classifier
from models.spectrogram import SpectrogramSettings
from pretraining.cpc import CPC
from pretraining.import_tensorflow import CHALLENGE17, main
from pretraining.tensorflow_checkpoint import MAGIC, read_checkpoint
from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES
from tests.helpers import command, make_classifier
from utils.weights import load_encoder, load_strictly, read_weights

SUM = bytes(4)  # in place of the checksum, which is not looked at
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
TYPES = {"float32": 1, "float64": 2, "object": 7, "int64": 9, "float16": 19}
DATA = ("data-00000-of-00002", "data-00001-of-00002")
ROOT = "layer_with_weights-0/layer_with_weights-0/"  # encoder of a pretraining classifier
SMALL = {
    "a/bias": np.arange(3, dtype=np.float32), "a/kernel_too": np.array([1.5, -2], np.float16),
    "a/kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "b/count": np.array(2**40),
    "b/kernel": np.linspace(0, 1, 7),
}  # fmt: skip


def zeros(*shape):
    return np.zeros(shape, np.float32)


def varint(number):
    high = number >> 7
    return bytes([number & 127 | 128]) + varint(high) if high else bytes([number])


def field(number, value):
    """Of a protobuf message: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(rows):
    """A key is written as what it shares with the one before it, and the rest."""
    data, last = b"", b""
    for key, value in rows:
        shared = max(n for n in range(len(last) + 1) if key.startswith(last[:n]))
        rest, last = key[shared:], key
        data += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
    return data + struct.pack("<II", 0, 1)


def table(rows, size=2, compression=0):
    """Blocks of `size` rows, one of extensions, one of their places, the footer."""
    chunks = [rows[first : first + size] for first in range(0, len(rows), size)]
    data, places, index = b"", [], []
    for chunk in [*chunks, [], index]:
        content = block(chunk)
        places.append(varint(len(data)) + varint(len(content)))
        index += [(chunk[-1][0], places[-1])] if chunk in chunks else []
        data += content + bytes([compression]) + SUM
    return data + b"".join(places[-2:]).ljust(40, b"\0") + MAGIC


def write(prefix, *shards, **options):
    """A checkpoint of arrays by name, of bytes for strings; returns its rows."""
    rows = {b"": field(1, len(shards))}
    for number, tensors in enumerate(shards):
        data = b""
        for name, value in tensors.items():
            raw = value if isinstance(value, bytes) else value.tobytes()
            kind = TYPES[str(getattr(value, "dtype", "object"))]
            shape = b"".join(field(2, field(1, size)) for size in getattr(value, "shape", ()))
            entry = field(1, kind) + field(2, shape) + field(3, number) + field(4, len(data))
            rows[name.encode()] = entry + field(5, len(raw)) + varint(6 << 3 | 5) + SUM
            data += raw
        prefix.with_name(f"{prefix.name}.data-{number:05}-of-{len(shards):05}").write_bytes(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(sorted(rows.items()), **options))
    return rows


def as_tensorflow(model, root="layer_with_weights-0/"):
    """A 1-D classifier's state as the earlier code would have named it."""
    renames = [
        (r"^head\.", "layer_with_weights-1."), (r"^encoder\.(stages\.0\.)?", root),
        (r"^(.*)/(\d\.)", r"\1/blocks/\2"), (r"running_mean", "moving_mean"),
        (r"running_var", "moving_variance"), (r"(bn\d)\.weight", r"\1.gamma"),
        (r"(bn\d)\.bias", r"\1.beta"), ("weight$", "kernel"), (r"\.", "/"),
    ]  # fmt: skip
    variables = {}
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            for pattern, spelling in renames:
                name = re.sub(pattern, spelling, name)
            variables[name + SUFFIX] = value.numpy().T.copy()
    return variables


@pytest.mark.parametrize(("size", "suffix"), [(1, ""), (2, ".index"), (100, "")])
def test_what_was_written_is_read(tmp_path, size, suffix):
    first, second = (dict(list(SMALL.items())[part::2]) for part in range(2))
    write(tmp_path / "x", first | {"_CHECKPOINTABLE_OBJECT_GRAPH": b"\x04text"}, second, size=size)
    variables, checksum = read_checkpoint(tmp_path / f"x{suffix}")
    whole = b"".join((tmp_path / f"x.{end}").read_bytes() for end in ("index", *DATA))
    assert checksum == hashlib.sha256(whole).hexdigest()
    assert variables.keys() == SMALL.keys()
    for name, value in SMALL.items():
        assert variables[name].dtype == value.dtype and np.array_equal(variables[name], value)


def convert(prefix, *flags):
    return command(main, "--checkpoint", prefix, "--out", prefix.with_name("out"), *flags)


def test_files_that_cannot_be_read(tmp_path):
    path, index, data = (tmp_path / f"x{end}" for end in ("", ".index", ".data-00000-of-00001"))
    convert(path).refused("x.index")
    write(path, SMALL, compression=1)
    convert(path).refused("x.index", "compressed")
    index.write_bytes(b"These are no weights, whatever their name says.\n" * 3)
    convert(path).refused("x.index", "not an index")
    header = write(path, SMALL)[b""]
    data.write_bytes(data.read_bytes()[:-1])
    convert(path).refused(f"{data.name} is not readable")
    for entry in (
        field(2, field(2, field(1, 2**40))) + field(5, 2**42), field(4, 2**63) + field(5, 4),
        field(2, field(2, field(1, 2**64 - 1))) + field(5, 4), field(3, 2**60) + field(5, 4),
        varint(3 << 3 | 3), varint(1 << 3) + b"\xff" * 11,
    ):  # fmt: skip
        index.write_bytes(table([(b"", header), (b"hostile", field(1, 1) + entry)]))
        convert(path).refused("x.")


@pytest.fixture
def checkpoint(tmp_path):
    """Of a classifier being pretrained, optimizer included; its prefix."""
    variables, slot = as_tensorflow(make_classifier(classes=5), ROOT), ".OPTIMIZER_SLOT/optimizer/m"
    training = {f"{ROOT}conv1/kernel/{slot}{SUFFIX}": zeros(7, 1, 64), "GRAPH": b"text"}
    training |= {f"{name}{SUFFIX}": np.array(7) for name in ("optimizer/iter", "save_counter")}
    write(tmp_path / "tf", variables | training)
    return tmp_path / "tf"


def test_a_checkpoint_becomes_a_weights_file(checkpoint, tmp_path):
    out, state = checkpoint.with_name("out"), make_classifier(classes=5).state_dict()
    assert convert(checkpoint, "--frame-size", 512).code == 0
    convert(checkpoint).refused(str(out), "--overwrite")
    tensors, m = read_weights(out)
    assert all(torch.equal(tensors[name], state[name]) for name in tensors)
    assert (m.in_channels, m.fs, m.unit, m.frame_size, m.seed) == (1, 250, "mV", 512, None)
    assert m.manifest_sha256 == read_checkpoint(checkpoint)[1]
    rhythm = convert(checkpoint, "--task", "rhythm", "--overwrite")
    rhythm.refused("--task rhythm", "pretraining classifier")
    mine = ["--overwrite", "--dataset", "mine", "--mean", "-0.1"]
    convert(checkpoint, *mine).refused("--dataset mine", "--sd")
    assert convert(checkpoint, *mine, "--sd", "2").code == 0
    metadata = read_weights(out)[1]
    assert (metadata.dataset, metadata.mean, metadata.sd) == ("mine", -0.1, 2)
    write(tmp_path / "af", as_tensorflow(make_classifier(classes=3)))
    convert(tmp_path / "af", "--overwrite").refused("3 classes", "challenge17", "--dataset")
    assert CHALLENGE17[:3] == ("challenge17", challenge17.MEAN_MV, challenge17.SD_MV)


@pytest.mark.parametrize(
    ("ending", "value", "words"),
    [("strange/kernel", zeros(2), "match the network: 1 of 27 .*first strange.weight"),
     (f"{ROOT}blocks/0/bn_1/beta", zeros(64), "two variables for encoder.blocks.0.bn1.bias"),
     ("blocks/0/conv2/kernel", None, "1 of 27 .*stages.0.0.conv2.weight"),
     ("layer_with_weights-0/conv1/kernel", None, "no network known"),
     ("layer_with_weights-1/kernel", zeros(3, 5), "head.weight"),
     ("layer_with_weights-1/bias", zeros(), "head.bias"),
     ("blocks/1/bn2/beta", zeros(64) * np.nan, "values that are not finite")],
)  # fmt: skip
def test_every_variable_has_its_place(checkpoint, ending, value, words):
    variables = read_checkpoint(checkpoint)[0]
    names = [name for name in variables if name.endswith(ending + SUFFIX)] or [ending + SUFFIX]
    variables[names[0]] = value
    write(checkpoint, {name: value for name, value in variables.items() if value is not None})
    result = convert(checkpoint)
    result.refused(str(checkpoint))
    assert re.search(words, result.err), result.err
    assert not checkpoint.with_name("out").exists()


CLASSIFIER, SPECTROGRAM = "pretraining classifier", asdict(SpectrogramSettings())
AF, RAW, MV = ("challenge17", 0.0075, 0.2373, 16384), (0, 1, 4096), (0.0018, 1.3711, 2048)
NETWORKS = {  # folder: kind, parameters, architecture, stages, task, classes
    "beat_resnet18": ("encoder", 4_492_480, "resnet18", None, "unknown", []),
    "beat_resnet18_2d": ("encoder", 11_184_640, "resnet18_2d", None, "unknown", []),
    "beat_resnet18_full_stages1": (CLASSIFIER, 116_741, "resnet18", 1, "beat", BEAT_CLASSES),
    "rhythm_resnet34_full_stages2": (CLASSIFIER, 802_246, "resnet34", 2, "rhythm", RHYTHM_CLASSES),
    "hr_resnet50_full_stages1": (CLASSIFIER, 195_780, "resnet50", 1, "hr", HEART_RATE_CLASSES),
    "af_resnet18_finetuned_stages1":
        ("fine-tuned classifier", 116_676, "resnet18", 1, "classification", "ANO~"),
    "cpc_resnet18_full_stages1": ("CPC model", 216_896, "resnet18", 1, "cpc", []),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_tensorflow_computed(name, ecg_data, tmp_path):
    folder, out = ecg_data / "tf-parity" / name, tmp_path / "out"
    (index,) = folder.glob("*.index")
    result = command(main, "--checkpoint", index.with_suffix(""), "--out", out)
    kind, parameters, *known, classes = NETWORKS[name]
    assert kind in result.out and f"{parameters:,} parameters" in result.out, result
    (tensors, m), spectral = read_weights(out), "2d" in name
    assert [m.architecture, m.stages, m.task, m.classes] == [*known, list(classes)]
    data = AF if name.startswith("af") else ("icentia11k", *(RAW if spectral else MV))
    assert (m.dataset, m.mean, m.sd, m.frame_size) == data
    assert m.spectrogram == (SPECTROGRAM if spectral else None)
    with np.load(folder / "io.npz") as arrays:
        io = {name: torch.from_numpy(arrays[name]) for name in arrays}
    encoder, results = load_encoder(out).encoder.eval(), {}
    with torch.no_grad():
        if kind == "CPC model":  # (B, frames, T, 1) context and samples
            model = CPC(encoder, io["context"].shape[1], torch.Generator())
            load_strictly(model, tensors, out)
            results["logits"] = model(torch.cat([io["context"], io["samples"]], 1)[..., 0])
        else:
            encoder.spectrogram = torch.nn.Identity()  # `x` holds the images
            results["features"] = encoder(io["x"].movedim(-1, 1))
        if kind.endswith("classifier"):
            model = Classifier(encoder, len(classes), torch.Generator())
            load_strictly(model, tensors, out)
            logits = model.head(results["features"])
            results["logits"] = logits.softmax(1) if m.task == "classification" else logits
    assert results.keys() & io.keys()
    for output in results.keys() & io.keys():
        torch.testing.assert_close(
            results[output], io[output], rtol=0, atol=1e-4 * io[output].abs().max().item()
        )
