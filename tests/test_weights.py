"""Weights files: the same tensors come back, or a line that says why not."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from finetuning.predict.predictor import Predictor
from models import build_encoder
from models.spectrogram import NetworkError
from pretraining import utils as pretrained
from pretraining.utils import get_pretrained_weights
from tests.helpers import ROOT, command, contents, make_classifier, make_contract
from utils.cli import UserError
from utils.weights import load_encoder, load_strictly, read_weights, save_weights, strip_head

KERNEL = "encoder.stages.0.0.conv1.weight"


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def of_encoder(state):
    """Encoder tensors under the names that a bare encoder gives them."""
    counters = "num_batches_tracked"
    kept = {k: v for k, v in state.items() if k.startswith("encoder.") and counters not in k}
    return {name.removeprefix("encoder."): value for name, value in kept.items()}


@pytest.fixture
def model():
    return make_classifier()


@pytest.fixture
def saved(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), make_contract())
    return path


def test_round_trip_of_tensors_statistics_and_contract(saved, model):
    tensors, contract = read_weights(saved)
    assert contract == make_contract()
    assert tensors["encoder.bn1.running_mean"].any()
    other = make_classifier(classes=4)
    for value in other.state_dict().values():
        value.zero_()
    load_strictly(other, tensors, saved)
    x = torch.randn(2, 1, 64)
    assert torch.equal(other.eval()(x), model.eval()(x))


def test_kernels_are_stored_out_in_k(saved):
    assert read_weights(saved)[0]["encoder.conv1.weight"].shape == (64, 1, 7)


def test_equal_content_gives_equal_bytes(tmp_path, saved, model):
    backwards = dict(reversed(model.state_dict().items()))
    save_weights(tmp_path / "again", backwards, make_contract())
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    save_weights(tmp_path / "other", backwards, make_contract(seed=1))
    assert (tmp_path / "other").read_bytes() != saved.read_bytes()


def test_strip_head_keeps_encoder_and_contract(tmp_path, saved, model):
    strip_head(saved, tmp_path / "stripped")
    tensors, contract = read_weights(tmp_path / "stripped")
    assert contract == make_contract()
    assert tensors.keys() == {name for name in read_weights(saved)[0] if "head" not in name}
    assert equal(of_encoder(tensors), of_encoder(model.state_dict()))


def test_strip_head_of_a_head_alone(tmp_path):
    save_weights(tmp_path / "head", {"head.bias": torch.zeros(4)}, make_contract())
    with pytest.raises(UserError, match="head holds no encoder"):
        strip_head(tmp_path / "head", tmp_path / "out")
    assert list(contents(tmp_path)) == ["head"]


def test_load_encoder_says_what_it_took(saved, model):
    transfer = load_encoder(saved, "resnet18", 250, 1)
    encoder = of_encoder(model.state_dict())
    assert {f"encoder.{name}" for name in encoder} == set(transfer.transferred)
    assert sorted(transfer.dropped) == ["head.bias", "head.weight"]
    x = torch.randn(2, 1, 64)
    assert torch.equal(transfer.encoder.eval()(x), model.encoder.eval()(x))
    report = transfer.report(saved)
    assert f"{len(encoder)} encoder tensors" in report and "head.weight" in report


@pytest.mark.parametrize("architecture", ["resnet18", "resnet18_2d"])
def test_an_encoder_for_one_lead_serves_several(tmp_path, architecture):
    generator = torch.Generator().manual_seed(0)
    one = build_encoder(architecture, 1, 1, generator)
    state = {f"encoder.{name}": value for name, value in one.state_dict().items()}
    save_weights(tmp_path / "one", state, make_contract(architecture=architecture))
    transfer = load_encoder(tmp_path / "one", in_channels=12)
    x = torch.randn(2, 1, 512, generator=generator)
    torch.testing.assert_close(transfer.encoder.eval()(x.expand(2, 12, 512)), one.eval()(x))
    assert "encoder.conv1.weight of one lead repeated over 12" in transfer.report(tmp_path / "one")
    assert "repeated" not in load_encoder(tmp_path / "one").report(tmp_path / "one")
    several = load_encoder(tmp_path / "one", in_channels=2).encoder.conv1.weight
    assert torch.equal(several, torch.cat([one.conv1.weight] * 2, 1) / 2)


def drop(tensors):
    del tensors[KERNEL]


def add(tensors):
    tensors["encoder.unknown"] = torch.zeros(1)


def reshape(tensors):
    tensors[KERNEL] = tensors[KERNEL][:, :, 1:]


@pytest.mark.parametrize(
    ("change", "name"), [(drop, KERNEL), (add, "encoder.unknown"), (reshape, KERNEL)]
)
def test_an_encoder_that_matches_in_part_only(tmp_path, saved, change, name):
    tensors, contract = read_weights(saved)
    change(tensors)
    save_weights(tmp_path / "changed", tensors, contract)
    with pytest.raises(UserError, match="changed does not match") as error:
        load_encoder(tmp_path / "changed")
    assert name.removeprefix("encoder.") in str(error.value)


def test_files_that_are_no_weights(tmp_path, saved):
    text, cut, empty = tmp_path / "text", tmp_path / "cut", tmp_path / "empty"
    text.write_text("These are no weights, whatever their name says.\n")
    cut.write_bytes(saved.read_bytes()[:-100])
    empty.touch()
    for path in (text, cut, empty):
        with pytest.raises(UserError, match=f"{path.name} is not a readable safetensors file"):
            read_weights(path)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match=f"{path.name} does not exist"):
            read_weights(path)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"contract": "{"}, {"contract": "{}"}, {"contract": "[]"}]
)
def test_weights_without_a_contract(tmp_path, metadata):
    save_file({"encoder.x": torch.zeros(1)}, tmp_path / "plain", metadata)
    with pytest.raises(UserError, match=r"plain holds no weights of this project \(no contract\)"):
        load_encoder(tmp_path / "plain")


ABSURD = {
    "architecture": 1, "stages": 1.5, "in_channels": 10**9, "fs": 0, "unit": "V", "mean": "x",
    "sd": 0, "frame_size": 0, "task": None, "classes": "abcd", "dataset": [], "seed": "0",
    "manifest_sha256": 0, "versions": None, "spectrogram": 1, "multi_label": 1, "context": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [*ABSURD.items(), ("in_channels", 0), ("in_channels", True), ("fs", float("nan")), ("fs", 1e9),
     ("mean", [0, 1]), ("mean", float("inf")), ("mean", 10**400), ("sd", 1e-300), ("sd", -1),
     ("frame_size", 10**12),
     ("classes", ["a", 1]), ("classes", ["a", "a"])],
)  # fmt: skip
def test_contracts_that_make_no_sense(tmp_path, saved, name, value):
    save_weights(tmp_path / "w", read_weights(saved)[0], make_contract(**{name: value}))
    for load in (load_encoder, Predictor.load):
        with pytest.raises(UserError, match=f"w holds no weights .*contract says {name} "):
            load(tmp_path / "w")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "resnet99"}, "unknown architecture 'resnet99'"),
        ({"stages": -1}, "stages -1"),
        ({"stages": 9}, "stages 9"),
        ({"spectrogram": {"window": 10**9, "bins": 1}}, "not settings of a spectrogram"),
        ({"spectrogram": {"window": 64.0, "bins": 1}}, "not settings of a spectrogram"),
        ({"spectrogram": {"eval": "1"}}, "not settings of a spectrogram"),
    ],
)
def test_contracts_of_no_network(tmp_path, saved, changes, words):
    if "spectrogram" in changes:
        changes["architecture"] = "resnet18_2d"
    contract = make_contract(**{"task": "classification"} | changes)
    save_weights(tmp_path / "w", read_weights(saved)[0], contract)
    for load in (load_encoder, Predictor.load):
        with pytest.raises((UserError, NetworkError), match=words):
            load(tmp_path / "w")


def test_weights_for_something_else(tmp_path, saved):
    for asked, words in (
        (("resnet34",), "holds resnet18, not --arch resnet34"),
        (("resnet18", 300), "is for 250 Hz, the data has 300"),
    ):
        with pytest.raises((UserError, NetworkError), match=words):
            load_encoder(saved, *asked)
    save_weights(tmp_path / "three", make_classifier(in_channels=3).state_dict(),
                 make_contract(in_channels=3))  # fmt: skip
    for leads in (1, 2, 12):
        with pytest.raises(UserError, match=f"is for 3 leads, the data has {leads}"):
            load_encoder(tmp_path / "three", in_channels=leads)
    unknown = make_contract(architecture="resnet99")
    save_weights(tmp_path / "unknown", read_weights(saved)[0], unknown)
    with pytest.raises(NetworkError, match="unknown architecture 'resnet99'"):
        load_encoder(tmp_path / "unknown")


def test_pretrained_weights_from_python(tmp_path, saved, model):
    encoder = get_pretrained_weights(saved, tmp_path / "out")
    x = torch.randn(2, 1, 64)
    assert torch.equal(encoder.eval()(x), model.encoder.eval()(x))
    bare = build_encoder("resnet18", 1, 1, torch.Generator())
    load_strictly(bare, of_encoder(read_weights(tmp_path / "out")[0]), saved)
    assert torch.equal(bare.eval()(x), encoder(x))
    get_pretrained_weights(saved)
    assert sorted(contents(tmp_path)) == ["model.safetensors", "out", "out.md"]


def test_pretrained_weights_from_the_command_line(tmp_path, saved):
    out = tmp_path / "new" / "weights.safetensors"
    result = command(pretrained.main, "--checkpoint", saved, "--out", out)
    assert result.code == 0
    assert "encoder tensors transferred; dropped: head.bias, head.weight" in result.out
    strip_head(saved, tmp_path / "stripped")
    assert out.read_bytes() == (tmp_path / "stripped").read_bytes()
    text = tmp_path / "text"
    text.write_text("no weights")
    command(pretrained.main, "--checkpoint", text, "--out", out).refused("exists", "--overwrite")
    flags = ["--checkpoint", text, "--out", out, "--overwrite"]
    command(pretrained.main, *flags).refused("text", "safetensors")
    assert out.read_bytes() == (tmp_path / "stripped").read_bytes()
    absent = tmp_path / "absent"
    command(pretrained.main, "--checkpoint", absent, "--out", out).refused("absent does not exist")


def test_a_failed_write_leaves_the_previous_file(tmp_path, saved, model, monkeypatch):
    before = contents(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(saved, make_classifier().state_dict(), make_contract(seed=1))
    assert contents(tmp_path) == before


def test_a_file_that_grows_too_large_is_one_line_and_leaves_the_previous(tmp_path, saved):
    out = tmp_path / "weights.safetensors"
    out.write_bytes(b"earlier")
    before = contents(tmp_path)
    limited = (
        "import resource, runpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "runpy.run_module('pretraining.utils', run_name='__main__')\n"
    )
    flags = ["--checkpoint", str(saved), "--out", str(out)]
    found = subprocess.run(
        [sys.executable, "-c", limited, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 2, found
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1, found.stderr
    assert "weights.safetensors" in found.stderr
    assert contents(tmp_path) == before
