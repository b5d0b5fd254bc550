"""The temperature of the probabilities: how it is fitted, and where it is stored."""

import json

import numpy as np
import pytest
import torch

from finetuning import evaluation, trainer
from finetuning.evaluation import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    MultiLabel,
    SingleLabel,
    fit_temperature,
)
from tests.helpers import command, put_weights
from utils.files import read_json
from utils.weights import read_weights

BEST = "best_model.safetensors"


def calibrated(targets, records):
    """Logits (records, 4), and labels that are drawn with their probabilities."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (records, 4))).float()
    prob = targets.probabilities(logits).numpy()
    if targets is MultiLabel:
        return logits, torch.from_numpy((rng.random(prob.shape) < prob).astype(np.float32))
    drawn = (rng.random((records, 1)) > prob.cumsum(1)).sum(1)
    return logits, torch.from_numpy(np.minimum(drawn, 3))


@pytest.mark.parametrize("targets", [SingleLabel, MultiLabel])
@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_a_known_temperature_is_found(targets, factor):
    logits, labels = calibrated(targets, 5000)
    logits *= factor
    temperature = fit_temperature(logits, labels, targets.loss)
    assert temperature == pytest.approx(factor, rel=0.06)
    for change in (0.97, 1.03):  # the minimum of the loss, but for the prior of one recording
        other = targets.loss(logits / (temperature * change), labels)
        assert targets.loss(logits / temperature, labels) < other


@pytest.mark.parametrize(
    ("logits", "labels", "least", "most"),
    [
        (torch.zeros(8, 4), torch.arange(8) % 4, 1, 1),
        (torch.eye(4) * 5, torch.arange(4), 0.5, 1),
        (torch.eye(4) * 5, (torch.arange(4) + 1) % 4, 2, MAX_TEMPERATURE),
        (torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([0]), 0.3, 1),
        (torch.eye(4).repeat(500, 1) * 1e4, torch.arange(4).repeat(500), MIN_TEMPERATURE, 1),
        (torch.eye(4).repeat(500, 1) * -1e4, torch.arange(4).repeat(500), 19.9, MAX_TEMPERATURE),
    ],
    ids=["equal", "right", "wrong", "one recording", "large right", "large wrong"],
)
def test_few_or_extreme_recordings_give_a_bounded_temperature(logits, labels, least, most):
    assert least <= fit_temperature(logits, labels, SingleLabel.loss) <= most
    one_hot = torch.nn.functional.one_hot(labels, 4).float()
    temperature = fit_temperature(logits, one_hot, MultiLabel.loss)
    assert MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE


@pytest.fixture(scope="module")
def flags(prepared, tmp_path_factory):
    weights = put_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")
    return [
        "--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz", "--val-size", 0.25,
        "--weights-file", weights, "--epochs", 2, "--batch-size", 16, "--tta", 2,
        "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def job(flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "job"
    result = command(trainer.main, *flags, "--job-dir", folder)
    assert result.code == 0, result
    assert "\ntemperature " in result.out and ": ECE on validation 0." in result.out
    return folder


def test_weights_and_scores_agree(job):
    scores = read_json(job / "scores.json")
    assert scores["temperature"] == read_weights(job / BEST)[1].temperature != 1
    assert scores["val"]["nll"] < scores["val"]["uncalibrated"]["nll"]
    json.loads((job / "scores.json").read_text(), parse_constant=pytest.fail)  # no NaN


def test_killed_between_weights_and_scores(flags, job, tmp_path, monkeypatch):
    again = [*flags, "--job-dir", tmp_path / "job", "--resume"]

    def dies(*_):
        raise OSError(28, "No space left on device", "scores.json")

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "write_json", dies)
        command(trainer.main, *again).refused("No space left")
    assert (tmp_path / "job" / BEST).read_bytes() == (job / BEST).read_bytes()
    assert not (tmp_path / "job/scores.json").exists()
    assert command(trainer.main, *again).code == 0
    for name in (BEST, "scores.json", "history.csv", "test_predictions.csv"):
        assert (tmp_path / "job" / name).read_bytes() == (job / name).read_bytes()
