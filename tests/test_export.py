"""Exported networks: from millivolt to probabilities, in other programs."""

import json

import numpy as np
import pytest
import torch

from finetuning.predict import Network, __main__, export
from tests.helpers import command, contents, put_weights
from utils.cli import UserError
from utils.engine import choose_hardware
from utils.model_card import Metadata

CLASSIFIER = {"task": "classification", "classes": list("abcde")}
VALID = np.array([256, 200, 77])  # samples of three signals, with something in front that is none
SIGNALS = np.random.default_rng(0).normal(0.1, 0.5, (3, 2, 256)).astype(np.float32)


def by_hand(path, signals: np.ndarray) -> np.ndarray:
    """Probabilities, computed in NumPy from the metadata, one recording after the other."""
    model, metadata, *_ = Network.load(path, choose_hardware("cpu", "fp32"))
    answers = []
    for signal, length in zip(signals, VALID, strict=True):
        part = signal[:, -length:].astype(np.float64)
        mean, sd = metadata.mean, metadata.sd
        if mean is None:
            mean, sd = part.mean(1, keepdims=True), part.std(1, keepdims=True)
        x = np.zeros((1, *signal.shape), np.float32)
        x[0, :, -length:] = (part - mean) / sd
        with torch.no_grad():
            logits = model.eval()(torch.from_numpy(x))[0].double().numpy() / metadata.temperature
        odds = np.exp(logits)
        answers.append(odds / (1 + odds) if metadata.multi_label else odds / odds.sum())
    return np.stack(answers)


def test_torch(tmp_path):
    path = put_weights(tmp_path / "best.safetensors", **CLASSIFIER, temperature=1.7)
    result = command(__main__.main, "--weights", path, "--export", "torch")
    assert result.code == 0 and "differ by up to" in result.out, result
    out, extra, signals = tmp_path / "best.pt2", {"contract": ""}, SIGNALS[:, :1]
    program = torch.export.load(out, extra_files=extra).module()
    found = program(torch.from_numpy(signals), torch.from_numpy(VALID)).numpy()
    np.testing.assert_allclose(found, by_hand(path, signals), atol=1e-5)
    assert Metadata.from_header(extra, "it").temperature == 1.7


def test_onnx(tmp_path):
    onnx, runtime = map(pytest.importorskip, ("onnx", "onnxruntime"))
    changes = {"in_channels": 2, "mean": None, "sd": None, "multi_label": True}
    path = put_weights(tmp_path / "best", **CLASSIFIER | changes)
    out = export.export(path, "onnx", tmp_path / "new/it.onnx")
    session, expected = runtime.InferenceSession(out), by_hand(path, SIGNALS)
    for count in (1, 3):
        inputs = {"signal": SIGNALS[:count], "valid": VALID[:count]}
        (found,) = session.run(["probabilities"], inputs)
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)
    (entry,) = onnx.load(out).metadata_props
    assert entry.key == "contract" and json.loads(entry.value)["classes"] == list("abcde")


@pytest.mark.parametrize("kind", export.FORMATS)
def test_files_name_no_folder_and_are_the_same_again(kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnx")
    path = put_weights(tmp_path / "weights", **CLASSIFIER)
    first, again = (export.export(path, kind, tmp_path / n).read_bytes() for n in ("a", "b"))
    assert first == again
    assert b".py" not in first and str(tmp_path).encode() not in first


@pytest.mark.parametrize("error", [2e-4, float("nan")])
def test_files_of_other_probabilities_are_not_written(tmp_path, monkeypatch, error):
    def write(program, path, header):
        path.touch()
        return lambda *inputs: program.module()(*inputs) + error

    monkeypatch.setitem(export.FORMATS, "torch", (".pt2", write))
    path = put_weights(tmp_path / "weights", **CLASSIFIER)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"differ by up to (0\.0002|nan)"):
        export.export(path, "torch")
    assert contents(tmp_path) == before


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    path = put_weights(tmp_path / "beat")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    for kind, out, words in (
        ("torch", path, "exists; remove it or name another"),
        ("torch", None, "is for beat"),
        ("onnx", None, r"pip install -r requirements-export\.txt"),
    ):
        with pytest.raises(UserError, match=words):
            export.export(path, kind, out)
