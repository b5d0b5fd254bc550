"""Probabilities of single recordings are those that the trainer writes of them."""

import numpy as np
import pandas as pd
import pytest

from finetuning import trainer
from finetuning.predictor import Predictor
from tests.helpers import command, put_weights
from utils.cli import UserError
from utils.recordings import read_recording
from utils.wfdb_io import Unusable


@pytest.fixture(scope="module")
def job(prepared, tmp_path_factory):
    root = tmp_path_factory.mktemp("predictor")
    flags = ["--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz"]
    flags += ["--weights-file", put_weights(root / "weights"), "--val-size", 0.2, "--epochs", 1]
    small = ["--batch-size", 8, "--device", "cpu", "--precision", "fp32"]
    result = command(trainer.main, "--job-dir", root / "job", *flags, *small)
    assert result.code == 0, result
    return root / "job"


@pytest.fixture(scope="module")
def predictor(job):
    return Predictor.load(job / "best_model.safetensors", "cpu", "fp32")


def test_probabilities_are_those_of_the_run(predictor, job, prepared):
    table = pd.read_csv(job / "test_predictions.csv", dtype={"record_name": str})
    assert predictor.contract.classes == list("ANO~")
    columns = [f"prob_{name}" for name in predictor.contract.classes]
    for name, *expected in table[["record_name", *columns]].itertuples(index=False):
        recording = read_recording(prepared.parent / "source" / f"{name}.hea")
        found = predictor.predict(recording.signal, recording.fs)
        assert found.shape == (4,) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_units_and_one_lead_without_a_second_axis(predictor):
    signal = np.random.default_rng(0).normal(0, 0.3, 1000)
    expected = predictor.predict(signal, 250)
    np.testing.assert_allclose(predictor.predict(signal[:, None] * 1000, 250, "uV"), expected)
    assert np.abs(predictor.predict(signal, 500) - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("signal", "unit", "words"),
    [
        (np.zeros((1000, 2)), "mV", r"shape \(1000, 2\) is not \(samples, 1\)"),
        (np.zeros((1000, 1, 1)), "mV", "is not"),
        (np.zeros(0), "mV", "shorter than 1 s"),
        (np.zeros(100), "mV", "shorter than 1 s"),
        (np.full(1000, np.nan), "mV", "NaN"),
        (np.zeros(1000), "adu", "unit adu without a gain"),
    ],
)
def test_recordings_that_cannot_be_used(predictor, signal, unit, words):
    with pytest.raises(Unusable, match=words):
        predictor.predict(signal, 250, unit)


def test_weights_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="was trained for beat; name a best_model"):
        Predictor.load(put_weights(tmp_path / "weights"))
    other = put_weights(tmp_path / "other", task="classification", classes=["A", "N"])
    with pytest.raises(UserError, match="does not match the network"):
        Predictor.load(other)
