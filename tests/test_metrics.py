"""Scores against confusions counted by hand and scikit-learn, and the predictions table."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from finetuning.evaluation import SINGLE_LABEL, summarize
from utils import metrics
from utils.cli import UserError

CLASSES = ["A", "N", "O", "~"]
# Rows are true. Columns sum to 10, 10, 9 and 6.
CONFUSION = [[8, 1, 1, 0], [0, 9, 0, 1], [2, 0, 6, 2], [0, 0, 2, 3]]
F1 = [2 * 8 / (10 + 10), 2 * 9 / (10 + 10), 2 * 6 / (10 + 9), 2 * 3 / (5 + 6)]


def one_hot(numbers, classes=4):
    return np.eye(classes)[numbers]


def test_one_class_to_a_recording():
    pairs = np.argwhere(np.ones_like(CONFUSION))
    true, predicted = np.repeat(pairs, np.ravel(CONFUSION), axis=0).T
    scores = metrics.scores(true, one_hot(predicted), CLASSES)
    assert scores["f1"] == pytest.approx(dict(zip(CLASSES, F1, strict=True)))
    assert scores["macro_f1"] == metrics.macro_f1(true, predicted) == pytest.approx(sum(F1) / 4)
    assert scores["cinc3"] == pytest.approx(sum(F1[:3]) / 3)
    assert scores["acc"] == pytest.approx(26 / 35)
    assert (scores["confusion"], scores["records"]) == (CONFUSION, 35)
    moved = metrics.scores(true, one_hot(predicted), ["~", "O", "N", "A"])  # found by name
    assert moved["cinc3"] == pytest.approx(sum(F1[1:]) / 3)
    assert metrics.scores(true, one_hot(predicted), list("abcd"))["cinc3"] is None


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("wrong", "macro_f1"), [(0, 1), (1, (1 + 98 / 99) / 2)])
def test_what_is_predicted_does_not_choose_the_classes(multi_label, wrong, macro_f1):
    true, predicted = np.repeat([1, 0], 50), np.repeat([1, 3, 0], [50, wrong, 50 - wrong])
    scores = metrics.scores(one_hot(true) if multi_label else true, one_hot(predicted), CLASSES)
    assert scores["macro_f1"] == pytest.approx(macro_f1)
    assert metrics.macro_f1(true, predicted) == pytest.approx(macro_f1)
    if multi_label:  # the weights are 1: 5 tp / (5 tp + 4 fn)
        assert scores["f_beta"] == pytest.approx((1 + (50 - wrong) * 5 / (250 - wrong)) / 2)
    else:
        assert scores["cinc3"] == pytest.approx(macro_f1)
        assert "without O, ~: no recording" in summarize(scores, SINGLE_LABEL)


@pytest.mark.parametrize(("second", "auc"), [([0.1, 0.2, 0.6, 0.5, 0.9], 5 / 6), ([0.5] * 5, 0.5)])
def test_auc_is_the_share_of_pairs_in_order(second, auc):
    prob = np.stack([1 - np.array(second), second], 1)
    assert metrics.scores(np.array([0, 0, 0, 1, 1]), prob, ["a", "b"])["auc"] == pytest.approx(auc)


def test_classes_that_are_missing():
    true, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    scores = metrics.scores(true, one_hot(predicted), CLASSES)
    assert list(scores["f1"].values()) == [pytest.approx(2 / 3), pytest.approx(4 / 5), None, None]
    assert scores["macro_f1"] == metrics.macro_f1(true, predicted) == pytest.approx(11 / 15)
    assert scores["auc"] == pytest.approx(0.75)  # of the two classes that are there
    assert math.isnan(metrics.scores(np.zeros(4, int), one_hot(predicted), CLASSES)["auc"])


@pytest.mark.parametrize(
    ("metric", "best", "value", "expected"),
    [("val_loss", 0.2, 0.1, True), ("macro_f1", 0.2, 0.1, False), ("acc", 0.2, 0.2, False),
     ("loss", 0.2, 0.2, False), ("loss", None, 9.0, True), ("loss", None, math.nan, False),
     ("auc", 0.1, math.nan, False), ("auc", math.nan, 0.1, True)],
)  # fmt: skip
def test_better(metric, best, value, expected):
    assert metrics.better(metric, value, best) is expected


def test_predictions_table_round_trip(tmp_path):
    path, names = tmp_path / "predictions.csv", ["A00001", "00123", "NA", "1e5"]
    prob = np.random.default_rng(0).dirichlet(np.ones(4), 4).astype(np.float32)
    prob[:, 1] = 3e-8, 4e-8, 5e-8, 1 - 6e-8  # whose order has to be kept
    metrics.write_predictions(path, names, CLASSES, one_hot([0, 1, 2, 3]), prob)
    lines = path.read_text().splitlines()
    assert lines[0] == "record_name,true_A,true_N,true_O,true_~,prob_A,prob_N,prob_O,prob_~"
    assert lines[2].startswith("00123,0,1,0,0,")
    table = metrics.read_predictions(path)
    assert (table.record_names.tolist(), table.classes) == (names, CLASSES)
    assert np.array_equal(table.true, one_hot([0, 1, 2, 3]))
    assert np.array_equal(table.prob.astype(np.float32), prob)
    for text in ("", "a,b\n1,2\n", "record_name\nA1\n", "record_name,true_A,prob_A\nx,1,high\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"predictions\.csv is not a table of predictions"):
            metrics.read_predictions(path)


# Several labels to a record


@pytest.mark.parametrize("empty", [False, True])
def test_multi_label_scores_as_scikit_learn(empty):
    rng = np.random.default_rng(0)
    true = (rng.random((30, 5)) < 0.3).astype(np.uint8)
    prob = np.clip(true * 0.3 + rng.random((30, 5)) * 0.7, 0, 1)
    true[:, 4] = 0  # never present
    prob[:, 4] *= not empty  # nor predicted
    scores, predicted = metrics.scores(true, prob, list("abcde")), (prob > 0.5).astype(int)
    each = f1_score(true, predicted, average=None, zero_division=0)
    assert [*scores["f1"].values()] == [*map(pytest.approx, each[:4]), None]
    assert scores["macro_f1"] == pytest.approx(np.mean(each[:4]))
    assert scores["auc"] == pytest.approx(roc_auc_score(true[:, :4], prob[:, :4]))
    assert (scores["acc"], scores["records"]) == (pytest.approx(np.mean(true == predicted)), 30)
    alone = metrics.scores(true[:, :1], prob[:, :1], ["a"])  # one column is no pair of classes
    assert alone["macro_f1"] == pytest.approx(each[0])


def test_scores_of_several_classes_by_hand():
    true, prob = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[0.9, 0.6], [0.8, 0.3], [0.1, 0.1]])
    # From 0.6 to 0.8 on, one answer each for the first two: precision 1, recall (1 + 1/2) / 2.
    assert metrics.scores(true, prob, ["a", "b"])["f_max"] == pytest.approx(2 * 0.75 / 1.75)
    # From 0.1 to 0.3: precision 1 and 0; records without a class count in the precision alone.
    true[0] = 0
    assert metrics.scores(true, prob[::-1], ["a", "b"])["f_max"] == pytest.approx(2 / 3)
    true, predicted = np.array([[1, 1], [1, 0], [0, 0]]), np.array([[1, 0], [0, 1], [0, 1]])
    # Weights 1/2, 1 and 1. First class: tp 1/2, fn 1. Second: fn 1/2, fp 1 + 1.
    scores = metrics.scores(true, predicted, ["a", "b"])
    assert scores["f_beta"] == pytest.approx((2.5 / (2.5 + 4) + 0) / 2)
    assert scores["g_beta"] == pytest.approx((0.5 / (0.5 + 2) + 0) / 2)


def test_perfect_answers_and_none_at_all():
    true, names = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]), list("abc")
    perfect = metrics.scores(true, true.astype(float), names)
    silent, nothing = (metrics.scores(t, np.zeros((3, 3)), names) for t in (true, 0 * true))
    for name in ("macro_f1", "f_max", "f_beta", "g_beta"):
        assert (perfect[name], silent[name]) == (1, 0) and math.isnan(nothing[name]), name
    assert perfect["acc"] == perfect["auc"] == 1 and math.isnan(nothing["auc"])


def test_calibration_error_by_hand():
    # 0.85 is right once in two, 1.0 always: ECE = 2/4 · |0.85 − 0.5| + 2/4 · 0
    prob = np.array([[0.85, 0.05, 0.05, 0.05]] * 2 + [[1.0, 0, 0, 0]] * 2)
    true = np.array([0, 1, 0, 0])
    bins = metrics.reliability(true, prob)
    assert bins["count"] == [0] * 12 + [2, 0, 2]
    assert bins["accuracy"][12:] == [0.5, None, 1] and bins["confidence"][14] == 1
    assert metrics.calibration_errors(true, prob) == {
        "ece": pytest.approx(0.175), "nll": pytest.approx(-(np.log(0.85) + np.log(0.05)) / 4),
    }  # fmt: skip
    sure = metrics.calibration_errors(np.array([1]), np.array([[1.0, 0.0]], np.float32))
    assert sure["nll"] == pytest.approx(-np.log(1e-7))


def test_several_classes_count_each():
    # 0.9: present in one of two; 0.1: in none of two; ECE = 1/2 · 0.4 + 1/2 · 0.1
    true, prob = np.array([[1, 0], [0, 0]]), np.array([[0.9, 0.1], [0.9, 0.1]])
    assert metrics.calibration_errors(true, prob) == {
        "ece": pytest.approx(0.25), "nll": pytest.approx(-(3 * np.log(0.9) + np.log(0.1)) / 4),
    }  # fmt: skip
    result = metrics.coverage(true, np.array([[0.9, 0.1], [0.6, 0.1]]))
    assert result["records"] == [2] * 5 + [1]
    assert result["threshold"] == pytest.approx([0.6] * 5 + [0.9])
    assert result["accuracy"] == [0.75] * 5 + [1] and result["macro_f1"][-1] == 1


def test_coverage_by_hand():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.95, 0.5, 0.85, 0.75, 0.65])
    prob = np.stack([confidence, 1 - confidence], 1)
    true = np.array([0, 0, 0, 1, 1, 0, 1, 0, 0, 0])  # wrong are 0.6, 0.55 and 0.5
    result = metrics.coverage(true, prob)
    assert result["coverage"] == [1, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert result["records"] == [10, 9, 8, 7, 6, 5]
    assert result["threshold"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    assert result["accuracy"] == pytest.approx([7 / 10, 7 / 9, 7 / 8, 1, 1, 1])
    # Class 1 is present but never predicted; F1 of class 0 is 14/17, 14/16, 14/15, then 1.
    assert result["macro_f1"] == pytest.approx([7 / 17, 7 / 16, 7 / 15, 0.5, 0.5, 0.5])
    equal = metrics.coverage(true, np.tile([0.75, 0.25], (10, 1)))
    assert equal["records"] == [10] * 6
