"""Scores from arrays of class numbers and probabilities."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

CINC3 = ("N", "A", "O")


def f1_per_class(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """F1 of every class, (classes,); 0 for a class neither present nor predicted."""
    return f1_score(true, predicted, labels=range(classes), average=None, zero_division=0)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that are present or predicted, as scikit-learn counts them."""
    return float(f1_score(true, predicted, average="macro", zero_division=0))


def without_input(true: np.ndarray) -> dict[str, float]:
    """What answers that ignore the input reach: `acc` and `f1` of always the commonest class,
    `loss` (cross-entropy) of always the shares of the classes.

    Args:
        true: (n,) class numbers.
    """
    classes, counts = np.unique(true, return_counts=True)
    shares = counts / len(true)
    commonest = np.full_like(true, classes[counts.argmax()])
    return {
        "loss": float((shares * np.log(1 / shares)).sum()),
        "acc": float(shares.max()),
        "f1": macro_f1(true, commonest),
    }


def macro_auc(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean one-against-rest AUC over the classes of which both sides are present, else NaN.

    Args:
        true: (n,) class numbers. probabilities: (n, classes).
    """
    areas = [
        roc_auc_score(true == k, probabilities[:, k])
        for k in range(probabilities.shape[1])
        if 0 < np.sum(true == k) < len(true)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def cinc3(f1: Sequence[float], classes: Sequence[str]) -> float | None:
    """The Challenge 2017 score: mean F1 of N, A and O, None for other sets of classes.

    The noisy class counts in the denominators of the three, not in the mean
    (Clifford et al. 2017).
    """
    if not set(CINC3) <= set(classes):
        return None
    return float(np.mean([f1[list(classes).index(name)] for name in CINC3]))


def scores(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Macro F1 over all classes, CinC-3, accuracy, AUC, F1 per class, confusion (rows: true).

    Args:
        true: (n,) class numbers. probabilities: (n, classes).
    """
    predicted = probabilities.argmax(1)
    f1 = f1_per_class(true, predicted, len(classes))
    return {
        "macro_f1": float(f1.mean()),
        "cinc3": cinc3(f1, classes),
        "accuracy": float(np.mean(true == predicted)),
        "auc": macro_auc(true, probabilities),
        "f1": dict(zip(classes, map(float, f1), strict=True)),
        "confusion": confusion_matrix(true, predicted, labels=range(len(classes))).tolist(),
        "records": len(true),
    }


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: losses fall, all other metrics rise; NaN never wins."""
    if best is None or best != best:
        return value == value
    return value < best if metric.endswith("loss") else value > best
