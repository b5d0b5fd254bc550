"""Scores of predictions, their calibration, and the table that predictions are stored in.

`true` is (n,) class numbers, or (n, classes) of 0 and 1 where a recording may have several classes;
`probabilities` are (n, classes).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from utils.cli import UserError
from utils.files import atomic_path

CINC3 = ("N", "A", "O")
BINS = 15  # of equal width, as Guo et al. 2017
COVERAGES = (100, 90, 80, 70, 60, 50)  # percent
SMALLEST = 1e-7  # probability that counts; next to 1 float32 knows no finer ones


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: losses fall, all other metrics rise; NaN never wins."""
    if best is None or best != best:
        return value == value
    return value < best if metric.endswith("loss") else value > best


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that are present or predicted; both are (n,) class numbers."""
    return float(f1_score(true, predicted, average="macro", zero_division=0))


def without_input(true: np.ndarray) -> dict[str, float]:
    """Scores of predictions that ignore the input: `acc` and `macro_f1` of always the commonest
    class, `loss` (cross-entropy) of always the shares of the classes (n,)."""
    classes, counts = np.unique(true, return_counts=True)
    shares = counts / len(true)
    commonest = np.full_like(true, classes[counts.argmax()])
    loss = float((shares * np.log(1 / shares)).sum())
    return {"loss": loss, "acc": float(shares.max()), "macro_f1": macro_f1(true, commonest)}


def macro_auc(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean one-against-rest AUC over the classes of which both sides are present, else NaN."""
    columns = true > 0 if true.ndim == 2 else true[:, None] == np.arange(probabilities.shape[1])
    areas = [
        roc_auc_score(column, values)
        for column, values in zip(columns.T, probabilities.T, strict=True)
        if 0 < column.sum() < len(column)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def detection(
    true: np.ndarray, predicted: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores of a yes-or-no question, (…,) each; NaN where there is nothing to divide by.

    Args:
        true, predicted: (n,) booleans. score: (n,), the higher the likelier; for the AUC.
        weights: (…, n), how often each counts, such as in resampled sets; once by default.
    """
    weights = np.ones(len(true)) if weights is None else weights
    cells = (true & predicted, true & ~predicted, ~true & predicted, ~true & ~predicted)
    tp, fn, fp, tn = (weights @ cell.astype(float) for cell in cells)
    order = np.argsort(score, kind="stable")
    firsts = np.unique(score[order], return_index=True)[1]  # of equal scores
    positive, negative = (
        np.add.reduceat((weights * kind)[..., order], firsts, axis=-1) for kind in (true, ~true)
    )
    # Pairs in the right order; those of equal scores count half.
    ordered = (positive * (negative.cumsum(-1) - negative / 2)).sum(-1)
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "positive predictive value": tp / (tp + fp),
            "F1": 2 * tp / (2 * tp + fn + fp),
            "AUC": ordered / (positive.sum(-1) * negative.sum(-1)),
        }


def cinc3(f1: Sequence[float], classes: Sequence[str]) -> float | None:
    """The Challenge 2017 score: mean F1 of N, A and O, None for other sets of classes.

    The noisy class counts in the denominators of the three, not in the mean (Clifford et al. 2017).
    """
    by_name = dict(zip(classes, f1, strict=True))
    return float(np.mean([by_name[name] for name in CINC3])) if {*CINC3} <= {*classes} else None


def scores(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Scores of recordings with one class each: macro F1 over all classes, CinC-3, accuracy, AUC,
    F1 per class (0 for a class neither present nor predicted), confusion (rows: true)."""
    predicted, numbers = probabilities.argmax(1), range(len(classes))
    f1 = f1_score(true, predicted, labels=numbers, average=None, zero_division=0)
    return {
        "macro_f1": float(f1.mean()),
        "cinc3": cinc3(f1, classes),
        "acc": float(np.mean(true == predicted)),
        "auc": macro_auc(true, probabilities),
        "f1": dict(zip(classes, map(float, f1), strict=True)),
        "confusion": confusion_matrix(true, predicted, labels=numbers).tolist(),
        "records": len(true),
    }


def f_max(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Best F1 over the thresholds 0 to 1 in 100 steps, counted by record.

    At each threshold, precision is the mean over the records with any class predicted, recall the
    mean over those that have any (Strodthoff et al. 2021); NaN where none has.
    """
    true = true > 0
    labelled, best = true.any(1), 0.0
    if not labelled.any():
        return float("nan")
    for threshold in np.linspace(0, 1, 100):
        predicted = probabilities > threshold
        some, correct = predicted.any(1), (predicted & true).sum(1)
        if correct.any():
            precision = np.mean(correct[some] / predicted[some].sum(1))
            recall = np.mean(correct[labelled] / true[labelled].sum(1))
            best = max(best, 2 * precision * recall / (precision + recall))
    return float(best)


def challenge2020(true: np.ndarray, predicted: np.ndarray, beta: float = 2) -> tuple[float, float]:
    """F-beta and G-beta of the Challenge 2020, means over the classes present or predicted, NaN
    without any; both arguments are (n, classes) of 0 and 1.

    Each record weighs 1 / the number of its true classes; one without any weighs 1 (Perez Alday et
    al. 2020; Strodthoff et al. 2021).
    """
    true, predicted = true > 0, predicted > 0
    weights = 1 / np.maximum(true.sum(1, keepdims=True), 1)
    seen = (true | predicted).any(0)
    if not seen.any():
        return float("nan"), float("nan")
    cells = (true & predicted, ~true & predicted, true & ~predicted)
    tp, fp, fn = ((weights * cell).sum(0)[seen] for cell in cells)
    weighted = (1 + beta**2) * tp
    f_beta, g_beta = weighted / (weighted + fp + beta**2 * fn), tp / (tp + fp + beta * fn)
    return float(f_beta.mean()), float(g_beta.mean())


def f1_of_columns(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, float]:
    """F1 of every class, 0 for one neither present nor predicted, and the mean over the others; NaN
    where there are none. Both arguments are (n, classes) booleans."""
    counts = true.sum(0) + predicted.sum(0)
    f1 = 2 * (true & predicted).sum(0) / np.maximum(counts, 1)
    return f1, float(f1[counts > 0].mean()) if counts.any() else float("nan")


def multi_label_scores(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Scores where a record may have several classes; predicted are those above 0.5. Macro F1 and
    macro AUC as `f1_of_columns` and `macro_auc`; accuracy over all records and classes."""
    true, predicted = true > 0, probabilities > 0.5
    f1, mean = f1_of_columns(true, predicted)
    f_beta, g_beta = challenge2020(true, predicted)
    return {
        "macro_f1": mean,
        "auc": macro_auc(true, probabilities),
        "f_max": f_max(true, probabilities),
        "f_beta": f_beta,
        "g_beta": g_beta,
        "acc": float(np.mean(true == predicted)),
        "f1": dict(zip(classes, map(float, f1), strict=True)),
        "records": len(true),
    }


def reliability(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """How often predictions are correct, by bin of their confidence from 0 to 1: `count`, mean
    `confidence` and `accuracy`, both None where a bin is empty.

    With several classes to a recording, each class of each recording counts, with the probability
    that it is present and whether it is.
    """
    if true.ndim == 2:
        confidence, correct = probabilities.ravel(), true.ravel() > 0
    else:
        confidence, correct = probabilities.max(1), true == probabilities.argmax(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    result = {"count": np.bincount(bins, minlength=BINS).tolist()}
    for name, values in (("confidence", confidence), ("accuracy", correct)):
        sums = zip(np.bincount(bins, values, BINS).tolist(), result["count"], strict=True)
        result[name] = [total / count if count else None for total, count in sums]
    return result


def expected_calibration_error(bins: dict[str, list]) -> float:
    """Mean distance between confidence and accuracy of the bins of `reliability`, weighted by their
    counts."""
    rows = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    gaps = sum(count * abs(confidence - acc) for count, confidence, acc in rows if count)
    return float(gaps / sum(bins["count"]))


def coverage(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """Scores of the most confident recordings alone, as if the others were left unanswered.

    A recording with several classes is as certain as its least certain class. Lists by `coverage`:
    the confidence from which on (`threshold`), how many have it (`records`), `macro_f1` over the
    classes present or predicted among them, and `accuracy`.
    """
    if true.ndim == 2:
        true, predicted = true > 0, probabilities > 0.5
        confidence, correct = np.maximum(probabilities, 1 - probabilities).min(1), true == predicted
    else:
        confidence, best = probabilities.max(1), probabilities.argmax(1)
        correct, numbers = true == best, np.arange(probabilities.shape[1])
        true, predicted = true[:, None] == numbers, best[:, None] == numbers
    falling = np.sort(confidence)[::-1]
    thresholds = [float(falling[-(-len(falling) * share // 100) - 1]) for share in COVERAGES]
    kept = [confidence >= threshold for threshold in thresholds]
    return {
        "coverage": [share / 100 for share in COVERAGES],
        "threshold": thresholds,
        "records": [int(rows.sum()) for rows in kept],
        "macro_f1": [f1_of_columns(true[rows], predicted[rows])[1] for rows in kept],
        "accuracy": [float(correct[rows].mean()) for rows in kept],
    }


def calibration_errors(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`nll`, the mean negative logarithm of the probability of the truth (over recordings and
    classes where there may be several), and `ece`, see `expected_calibration_error`."""
    if true.ndim == 2:
        of_truth = np.where(true > 0, probabilities, 1 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(true)), true]
    nll = float(-np.log(np.maximum(of_truth, SMALLEST, dtype=float)).mean())
    return {"nll": nll, "ece": expected_calibration_error(reliability(true, probabilities))}


def calibration_scores(true: np.ndarray, probabilities: np.ndarray) -> dict:
    """`calibration_errors`, `reliability` and `coverage`, by name."""
    curves = {"reliability": reliability, "coverage": coverage}
    errors = calibration_errors(true, probabilities)
    return errors | {name: curve(true, probabilities) for name, curve in curves.items()}


class Predictions(NamedTuple):
    """record_names (n,), classes, true (n, classes) of 0 and 1, prob (n, classes)."""

    record_names: np.ndarray
    classes: list[str]
    true: np.ndarray
    prob: np.ndarray


def write_predictions(
    path: Path, names: Sequence[str], classes: Sequence[str], true: np.ndarray, prob: np.ndarray
) -> None:
    """Write `record_name, true_A …, prob_A …`; `true` and `prob` are (n, classes)."""
    table = pd.DataFrame({"record_name": names})
    # Nine digits tell any two float32 apart, so that scores of the table are those of the run.
    table[[f"true_{name}" for name in classes]] = true.astype(np.uint8)
    table[[f"prob_{name}" for name in classes]] = prob
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_predictions(path: Path) -> Predictions:
    """Read a table of predictions; raises `UserError` if the file is none."""
    try:
        table = pd.read_csv(path, dtype={"record_name": str}, keep_default_na=False)
        return split_columns(table)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, OverflowError):  # pandas' errors of parsing, too
        raise UserError(f"{path} is not a table of predictions") from None


def split_columns(table: pd.DataFrame) -> Predictions:
    """Raises `ValueError` where the columns are not those of a table of predictions."""
    classes = [name.removeprefix("true_") for name in table if name.startswith("true_")]
    expected = ["record_name", *(f"{p}_{name}" for p in ("true", "prob") for name in classes)]
    if list(table) != expected or not classes:
        raise ValueError("other columns")
    true, prob = np.split(table[expected[1:]].to_numpy(float), 2, axis=1)
    if not len(table) or not np.isin(true, (0, 1)).all() or not np.isfinite(prob).all():
        raise ValueError("no rows, or values that are no classes or probabilities")
    return Predictions(table["record_name"].to_numpy(), classes, true.astype(int), prob)
