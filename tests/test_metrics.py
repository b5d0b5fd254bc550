"""Scores against confusions counted by hand, and the predictions table."""

import math

import numpy as np
import pytest

from utils import metrics
from utils.cli import UserError
from utils.predictions import read_predictions, write_predictions

CLASSES = ["A", "N", "O", "~"]
# Rows are true. Columns sum to 10, 10, 9 and 6.
CONFUSION = [
    [8, 1, 1, 0],
    [0, 9, 0, 1],
    [2, 0, 6, 2],
    [0, 0, 2, 3],
]
F1 = [2 * 8 / (10 + 10), 2 * 9 / (10 + 10), 2 * 6 / (10 + 9), 2 * 3 / (5 + 6)]


def one_hot(numbers, classes=4):
    return np.eye(classes)[numbers]


def expand(confusion):
    """True and predicted class of each record."""
    pairs = np.argwhere(np.ones_like(confusion))
    return np.repeat(pairs, np.ravel(confusion), axis=0).T


@pytest.fixture
def scores():
    true, predicted = expand(CONFUSION)
    return metrics.scores(true, one_hot(predicted), CLASSES)


def test_f1_and_accuracy(scores):
    assert list(scores["f1"]) == CLASSES
    assert list(scores["f1"].values()) == pytest.approx(F1)
    assert scores["macro_f1"] == pytest.approx(sum(F1) / 4)
    assert scores["accuracy"] == pytest.approx(26 / 35)
    assert scores["confusion"] == CONFUSION
    assert scores["records"] == 35


def test_noisy_class_counts_in_the_denominators_of_cinc3_only(scores):
    assert scores["cinc3"] == pytest.approx(sum(F1[:3]) / 3)
    without_noisy = (F1[0] + 18 / 19 + 12 / 15) / 3
    assert abs(scores["cinc3"] - without_noisy) > 0.01
    assert abs(scores["cinc3"] - scores["macro_f1"]) > 0.01


def test_cinc3_finds_its_classes_by_name_and_is_for_them_only():
    assert metrics.cinc3([0.1, 0.2, 0.3, 0.7], ["~", "O", "N", "A"]) == pytest.approx(0.4)
    assert metrics.cinc3([0.5, 0.5], ["N", "A"]) is None


def test_auc_is_the_share_of_pairs_in_order():
    true = np.array([0, 0, 0, 1, 1])
    second = np.array([0.1, 0.2, 0.6, 0.5, 0.9])  # 5 of 6 pairs in order
    assert metrics.macro_auc(true, np.stack([1 - second, second], 1)) == pytest.approx(5 / 6)
    tied = np.full((5, 2), 0.5)
    assert metrics.macro_auc(true, tied) == pytest.approx(0.5)


def test_classes_that_are_missing():
    true, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    scores = metrics.scores(true, one_hot(predicted), CLASSES)
    expected = [2 / 3, 4 / 5, 0, 0]
    assert list(scores["f1"].values()) == pytest.approx(expected)
    assert scores["macro_f1"] == pytest.approx(np.mean(expected))
    assert metrics.macro_f1(true, predicted) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores["auc"] == pytest.approx(0.75)  # of the two classes that are there
    assert math.isnan(metrics.macro_auc(np.zeros(4, int), one_hot(predicted)))


@pytest.mark.parametrize(
    ("metric", "value", "best", "expected"),
    [
        ("val_loss", 0.1, 0.2, True),
        ("loss", 0.2, 0.1, False),
        ("f1", 0.2, 0.1, True),
        ("acc", 0.1, 0.2, False),
        ("f1", 0.2, 0.2, False),
        ("loss", 0.2, 0.2, False),
        ("loss", 9.0, None, True),
        ("loss", math.nan, None, False),
        ("auc", math.nan, 0.1, False),
        ("loss", math.nan, 0.1, False),
        ("auc", 0.1, math.nan, True),
        ("loss", math.nan, math.nan, False),
    ],
)
def test_better(metric, value, best, expected):
    assert metrics.better(metric, value, best) is expected


def test_predictions_table_round_trip(tmp_path):
    path, names = tmp_path / "predictions.csv", ["A00001", "00123", "NA", "1e5"]
    prob = np.random.default_rng(0).dirichlet(np.ones(4), 4).astype(np.float32)
    write_predictions(path, names, CLASSES, one_hot([0, 1, 2, 3]), prob)
    header = "record_name,true_A,true_N,true_O,true_~,prob_A,prob_N,prob_O,prob_~"
    lines = path.read_text().splitlines()
    assert lines[0] == header
    assert lines[2].startswith("00123,0,1,0,0,")
    table = read_predictions(path)
    assert table.record_names.tolist() == names
    assert table.classes == CLASSES
    assert np.array_equal(table.true, one_hot([0, 1, 2, 3]))
    assert np.array_equal(table.prob.astype(np.float32), prob)


def test_predictions_keep_the_order_of_near_certain_recordings(tmp_path):
    """Else scores counted from the table would not be those of the run."""
    path = tmp_path / "predictions.csv"
    prob = np.array([[1 - 3e-8, 3e-8], [1 - 4e-8, 4e-8], [1 - 5e-8, 5e-8]])
    write_predictions(path, list("abc"), ["A", "N"], one_hot([0, 1, 1], 2), prob)
    assert (np.diff(read_predictions(path).prob[:, 1]) > 0).all()


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "record_name\nA00001\n", "record_name,true_A,prob_A\nx,1,high\n"]
)
def test_not_a_table_of_predictions(tmp_path, text):
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"predictions\.csv is not a table of predictions"):
        read_predictions(path)
