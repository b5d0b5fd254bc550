"""Weights files: the same tensors and metadata come back, or a line that says why not."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import pretraining.utils
from finetuning.predict import Predictor
from models import build_encoder
from models.spectrogram import NetworkError
from pretraining.utils import get_pretrained_weights
from tests.helpers import command, contents, make_classifier, make_metadata, put_weights
from utils import weights
from utils.cli import UserError
from utils.files import sha256
from utils.weights import load_encoder, load_strictly, read_weights, save_weights


@pytest.fixture
def saved(tmp_path):
    save_weights(tmp_path / "saved", make_classifier().state_dict(), make_metadata())
    return tmp_path / "saved"


def test_round_trip_of_tensors_statistics_and_metadata(saved):
    model, other = make_classifier(), make_classifier()
    tensors, metadata = read_weights(saved)
    assert metadata == make_metadata()
    assert tensors["encoder.conv1.weight"].shape == (64, 1, 7)  # (out, in, k)
    for value in other.state_dict().values():
        value.zero_()
    load_strictly(other, tensors, saved)
    x = torch.randn(2, 1, 64)
    assert torch.equal(other.eval()(x), model.eval()(x))
    before = saved.read_bytes()
    save_weights(saved, dict(reversed(model.state_dict().items())), metadata)
    assert saved.read_bytes() == before


def test_the_encoder_alone(tmp_path, saved):
    transfer = load_encoder(saved, "resnet18", 250, 1)
    assert sorted(transfer.dropped) == ["head.bias", "head.weight"]
    assert f"{len(transfer.transferred)} encoder tensors" in transfer.report
    x, encoder = torch.randn(2, 1, 64), get_pretrained_weights(saved, tmp_path / "out")
    tensors, metadata = read_weights(tmp_path / "out")
    assert metadata == make_metadata() and tensors.keys() == set(transfer.transferred)
    for result in (encoder, get_pretrained_weights(tmp_path / "out")):
        assert torch.equal(result(x), make_classifier().encoder.eval()(x))
    save_weights(tmp_path / "head", {"head.bias": torch.zeros(4)}, make_metadata())
    with pytest.raises(UserError, match="head holds no encoder"):
        weights.strip_head(tmp_path / "head", tmp_path / "new")


@pytest.mark.parametrize("architecture", ["resnet18", "resnet18_2d"])
def test_an_encoder_for_one_lead_serves_several(tmp_path, architecture):
    one, path = build_encoder(architecture, 1, 1, torch.Generator()), tmp_path / "one"
    state = {f"encoder.{name}": value for name, value in one.state_dict().items()}
    save_weights(path, state, make_metadata(architecture=architecture))
    transfer, x = load_encoder(path, leads=12), torch.randn(2, 1, 512)
    torch.testing.assert_close(transfer.encoder.eval()(x.expand(2, 12, 512)), one.eval()(x))
    assert "encoder.conv1.weight of one lead repeated over 12" in transfer.report


@pytest.mark.parametrize(
    ("name", "value"),
    [("stages.0.0.conv1.weight", torch.zeros(64, 64, 6)), ("x", torch.ones(1)), ("bn1.bias", None)],
)
def test_an_encoder_that_matches_in_part_only(saved, name, value):
    tensors, metadata = read_weights(saved)
    tensors |= {f"encoder.{name}": value}
    save_weights(saved, {k: v for k, v in tensors.items() if v is not None}, metadata)
    with pytest.raises(UserError, match=f"saved does not match .* first {name}"):
        load_encoder(saved)


def test_files_that_are_no_weights(tmp_path, saved):
    path = tmp_path / "x"
    for content in (b"These are no weights.\n", b"", saved.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x is not a readable safetensors file"):
            read_weights(path)
    with pytest.raises(UserError, match=f"{tmp_path.name} does not exist"):
        read_weights(tmp_path)
    for header in (None, {"format": "pt"}, *({"contract": text} for text in ("{", "{}", "[]"))):
        save_file({"encoder.x": torch.zeros(1)}, path, header)
        with pytest.raises(UserError, match="x holds no weights of this project"):
            load_encoder(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("architecture", 1), ("stages", 1.5), ("in_channels", 10**9), ("in_channels", True),
     ("fs", float("nan")), ("unit", "V"), ("mean", [0, 1]), ("mean", 10**400), ("mean", None),
     ("sd", 0), ("frame_size", 10**12), ("classes", ["a", 1]), ("classes", ["a", "a"]),
     ("padtype", "x"), ("spectrogram", {"window": 64.0}), ("temperature", 0),
     ("derived_from", "a")],
)  # fmt: skip
def test_metadata_that_make_no_sense(saved, name, value):
    save_weights(saved, {}, make_metadata(**{name: value}))
    with pytest.raises(UserError, match=rf"saved holds no weights .*\(metadata: {name} "):
        load_encoder(saved)


def test_metadata_of_no_network(saved):
    for changes, words in (
        ({"architecture": "resnet99"}, "unknown architecture 'resnet99'"),
        ({"spectrogram": {"window": 10**9, "bins": 1}}, "not settings of a spectrogram"),
        ({"spectrogram": {"eval": "1"}}, "not settings of a spectrogram"),
    ):
        changes = {"architecture": "resnet18_2d", "task": "classification"} | changes
        save_weights(saved, {}, make_metadata(**changes))
        for load in (load_encoder, Predictor.load):
            with pytest.raises(NetworkError, match=words):
                load(saved)


def test_weights_for_another_network_or_input(tmp_path, saved):
    two = put_weights(tmp_path / "two", in_channels=2, mean=[0, 0], sd=[1, 1])
    for path, wanted, words in ((saved, ("resnet34",), "holds resnet18, not --arch resnet34"),
                                (saved, (None, 300), "250 Hz, the data has 300"),
                                (two, (None, 250, 1), "2 leads, the data has 1")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            load_encoder(path, *wanted)


def test_pretrained_weights_from_the_command_line(tmp_path, saved):
    main, out = pretraining.utils.main, tmp_path / "new" / "weights.safetensors"
    card, flags = out.with_suffix(".md"), ["--checkpoint", saved, "--out"]
    assert "transferred; dropped: head.bias, head.weight" in command(main, *flags, out).out
    assert 'load_encoder("weights.safetensors")' in card.read_text()
    before = contents(out.parent)
    command(main, *flags, out).refused("exists", "--overwrite")
    command(main, *flags, card).refused("weights.md", ".safetensors")
    assert command(main, *flags, out, "--overwrite").code == 0 and contents(out.parent) == before


def test_a_description_of_a_file(tmp_path):
    af = {"task": "classification", "dataset": "challenge17", "classes": list("ANO~x")}
    path = put_weights(tmp_path / "af", **af, derived_from=["icentia11k"])
    out = command(weights.main, path).out
    assert "(atrial fibrillation)" in out and "CC BY-NC-SA" in out and sha256(path) in out
    save_weights(path, {}, make_metadata(dataset="\x1b[2J"))  # which would clear a terminal
    assert "[2J" in (out := command(weights.main, path).out) and "\x1b" not in out


def test_half_precision(tmp_path):
    path, out = put_weights(tmp_path / "af.safetensors"), tmp_path / "weights/half.safetensors"
    (tmp_path / "MODEL_CARD.md").write_text("# Title\n\nLoad af.safetensors.\n")
    assert command(weights.main, path, "--half", out).code == 0
    card = out.with_suffix(".md").read_text()
    assert "Load half.safetensors." in card and "in half precision" in card
    (full, metadata), (tensors, again) = read_weights(path), read_weights(out)
    assert again == metadata and tensors.keys() == full.keys()
    for name, stored in load_file(out).items():
        assert stored.dtype == (torch.float16 if stored.ndim > 1 else torch.float32)
        torch.testing.assert_close(tensors[name], full[name], rtol=2**-11, atol=2**-25)
    command(weights.main, path, "--half", out).refused("half.safetensors exists")
    ones = torch.ones(2, 3)  # kernels that half precision cannot hold stay
    for kept in (ones * 1e5, ones * 1e30, ones * 1e-6, ones * torch.nan, torch.ones(3)):
        assert weights.to_half(kept).dtype == torch.float32
    for fit in (ones * 65504, ones * 2**-14, ones * 0):
        assert weights.to_half(fit).dtype == torch.float16
