"""Temperatures: fitted, stored, used; and the scores of probabilities, by hand."""

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
from utils import metrics
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


def test_calibration_error_by_hand():
    # 0.85 is right once in two, 1.0 always: ECE = 2/4 · |0.85 − 0.5| + 2/4 · 0
    prob = np.array([[0.85, 0.05, 0.05, 0.05]] * 2 + [[1.0, 0, 0, 0]] * 2)
    true = np.array([0, 1, 0, 0])
    bins = metrics.reliability(true, prob)
    assert bins["count"] == [0] * 12 + [2, 0, 2]
    assert bins["accuracy"][12:] == [0.5, None, 1] and bins["confidence"][14] == 1
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.175)
    expected = -(np.log(0.85) + np.log(0.05)) / 4
    assert metrics.log_loss(true, prob) == pytest.approx(expected)
    sure = metrics.log_loss(np.array([1]), np.array([[1.0, 0.0]], np.float32))
    assert sure == pytest.approx(-np.log(1e-7))


def test_perfectly_calibrated_and_overconfident():
    true = np.array([0] * 3 + [1] + [0] * 3 + [1])
    for confidence, error in ((0.75, 0), (0.95, 0.2)):  # right in six of eight
        prob = np.tile([confidence, 1 - confidence], (8, 1))
        found = metrics.calibration_errors(true, prob)
        assert found["ece"] == pytest.approx(error)


def test_several_classes_count_each():
    # 0.9: present in one of two; 0.1: in none of two; ECE = 1/2 · 0.4 + 1/2 · 0.1
    true, prob = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.1], [0.9, 0.1]])
    assert metrics.calibration_errors(true, prob) == {
        "ece": pytest.approx(0.25), "nll": pytest.approx(-(3 * np.log(0.9) + np.log(0.1)) / 4),
    }  # fmt: skip
    found = metrics.coverage(true, np.array([[0.9, 0.1], [0.6, 0.1]]))
    assert found["records"] == [2] * 5 + [1]
    assert found["threshold"] == pytest.approx([0.6] * 5 + [0.9])
    assert found["accuracy"] == [0.75] * 5 + [1] and found["macro_f1"][-1] == 1


def test_coverage_by_hand():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.95, 0.5, 0.85, 0.75, 0.65])
    prob = np.stack([confidence, 1 - confidence], 1)
    true = np.array([0, 0, 0, 1, 1, 0, 1, 0, 0, 0])  # wrong are 0.6, 0.55 and 0.5
    found = metrics.coverage(true, prob)
    assert found["coverage"] == [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert found["records"] == [10, 9, 8, 7, 6, 5]
    assert found["threshold"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    assert found["accuracy"] == pytest.approx([7 / 10, 7 / 9, 7 / 8, 1, 1, 1])
    # Class 1 is present but never predicted; F1 of class 0 is 14/17, 14/16, 14/15, then alone.
    assert found["macro_f1"] == pytest.approx([7 / 17, 7 / 16, 7 / 15, 1, 1, 1])
    alike = metrics.coverage(true, np.tile([0.75, 0.25], (10, 1)))
    assert alike["records"] == [10] * 6  # of equals none is left out


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
