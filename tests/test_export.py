"""Exported networks: from millivolt to probabilities, in other programs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finetuning.predict import Network, export
from models import Classifier, build_encoder
from tests.helpers import contents, make_classifier, make_metadata, put_weights
from utils.cli import UserError
from utils.engine import choose_hardware
from utils.model_card import Metadata
from utils.weights import save_weights

NAMES = list("abcde")
VALID = np.array([256, 200, 77])


def put(path, **changes):
    return put_weights(path, **{"task": "classification", "classes": NAMES} | changes)


def signals(leads: int = 1) -> np.ndarray:
    """Three of them, in mV, with something in front of `VALID` that is none."""
    return np.random.default_rng(0).normal(0.1, 0.5, (3, leads, 256)).astype(np.float32)


def by_hand(path, signal: np.ndarray) -> np.ndarray:
    """Probabilities, computed in NumPy from the metadata, one recording after the other."""
    model, metadata, *_ = Network.load(path, choose_hardware("cpu", "fp32"))
    answers = []
    for recording, length in zip(signal, VALID, strict=True):
        part = recording[:, -length:].astype(np.float64)
        mean, sd = np.reshape(metadata.mean, (-1, 1)), np.reshape(metadata.sd, (-1, 1))
        if metadata.mean is None:
            mean, sd = part.mean(1, keepdims=True), part.std(1, keepdims=True)
        x = np.zeros((1, *recording.shape), np.float32)
        x[0, :, -length:] = (part - mean) / sd
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(x))[0].double().numpy() / metadata.temperature
        odds = np.exp(logits)
        answers.append(odds / (1 + odds) if metadata.multi_label else odds / odds.sum())
    return np.stack(answers)


def run_torch(path, signal, valid):
    program = torch.export.load(path).module()
    return program(torch.from_numpy(signal), torch.from_numpy(valid)).numpy()


def run_onnx(path, signal, valid):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return session.run(["probabilities"], {"signal": signal, "valid": valid})[0]


def need_onnx():
    for name in export.ONNX_PACKAGES:
        pytest.importorskip(name)


def test_torch(tmp_path, capsys):
    path = put(tmp_path / "best.safetensors", temperature=1.7)
    out = export.export(path, "torch")
    assert out == tmp_path / "best.pt2" and "differ by up to" in capsys.readouterr().out
    found = run_torch(out, signals(), VALID)
    np.testing.assert_allclose(found, by_hand(path, signals()), atol=1e-5)
    np.testing.assert_allclose(run_torch(out, signals()[1:2], VALID[1:2]), found[1:2], atol=1e-5)
    extra = {"contract": ""}
    torch.export.load(out, extra_files=extra)
    assert Metadata.from_header(extra, "it").temperature == 1.7


def test_onnx(tmp_path):
    need_onnx()
    import onnx

    path = put(tmp_path / "best", in_channels=2, mean=None, sd=None, multi_label=True)
    out = export.export(path, "onnx", tmp_path / "new/it.onnx")
    found = run_onnx(out, signals(2), VALID)
    np.testing.assert_allclose(found, by_hand(path, signals(2)), atol=1e-5)
    np.testing.assert_allclose(run_onnx(out, signals(2)[:1], VALID[:1]), found[:1], atol=1e-5)
    (entry,) = onnx.load(out).metadata_props
    assert entry.key == "contract" and json.loads(entry.value)["classes"] == NAMES


def test_onnx_of_spectrograms(tmp_path):
    need_onnx()
    settings = {"window": 50, "hop": 20, "bins": 25, "scale": "db"}
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder("resnet18_2d", 1, 1, generator, settings)
    metadata = make_metadata(
        architecture="resnet18_2d", spectrogram=settings, task="classification",
        temperature=100.0,  # else a new network is certain of everything, and all agree
    )  # fmt: skip
    path = tmp_path / "weights"
    save_weights(path, Classifier(encoder, 4, generator).state_dict(), metadata)
    found = run_onnx(export.export(path, "onnx"), signals(), VALID)
    assert found.max() < 0.99
    np.testing.assert_allclose(found, by_hand(path, signals()), atol=1e-5)


@pytest.mark.parametrize("kind", export.FORMATS)
def test_files_name_no_folder_and_are_the_same_again(kind, tmp_path):
    if kind == "onnx":
        need_onnx()
    path = put(tmp_path / "weights")
    files = [export.export(path, kind, tmp_path / name).read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    assert b".py" not in files[0] and str(tmp_path).encode() not in files[0]


def test_half_precision_is_computed_in_single(tmp_path):
    state = {k: v.half() for k, v in make_classifier(classes=5).state_dict().items()}
    kept = {name: value for name, value in state.items() if not name.endswith("tracked")}
    metadata = make_metadata(task="classification", classes=NAMES)
    save_file(kept, tmp_path / "half", metadata.to_header())
    out = export.export(tmp_path / "half", "torch")
    assert {value.dtype for value in torch.export.load(out).parameters()} == {torch.float32}


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_files_of_other_probabilities_are_not_written(tmp_path, monkeypatch, error):
    def write(program, path, header):
        path.touch()
        return lambda *inputs: program.module()(*inputs) + error

    monkeypatch.setitem(export.FORMATS, "torch", (".pt2", write))
    path = put(tmp_path / "weights")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"differ by up to (0\.0002|nan)"):
        export.export(path, "torch")
    assert contents(tmp_path) == before


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    path = put(tmp_path / "weights")
    with pytest.raises(UserError, match="exists; remove it or name another"):
        export.export(path, "torch", path)
    with pytest.raises(UserError, match="is for beat"):
        export.export(put_weights(tmp_path / "beat"), "torch")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-export\.txt"):
        export.export(path, "onnx")
