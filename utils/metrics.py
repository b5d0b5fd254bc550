"""Scores from arrays of class numbers and probabilities.

scikit-learn is imported where it is used: that takes half a second, which a run need not wait for
before its first step.
"""

from collections.abc import Sequence

import numpy as np

CINC3 = ("N", "A", "O")


def f1_per_class(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """F1 of every class, (classes,); 0 for a class neither present nor predicted."""
    from sklearn.metrics import f1_score

    return f1_score(true, predicted, labels=range(classes), average=None, zero_division=0)


def macro_f1(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that are present or predicted, as scikit-learn counts them."""
    from sklearn.metrics import f1_score

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
        true: (n,) class numbers, or (n, classes) of 0 and 1. probabilities: (n, classes).
    """
    from sklearn.metrics import roc_auc_score

    classes = range(probabilities.shape[1])
    columns = true.T > 0 if true.ndim == 2 else [true == k for k in classes]
    areas = [
        roc_auc_score(column, probabilities[:, k])
        for k, column in zip(classes, columns, strict=True)
        if 0 < np.sum(column) < len(column)
    ]
    return float(np.mean(areas)) if areas else float("nan")


def detection(
    true: np.ndarray, answered: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores of a yes-or-no question; NaN where there is nothing to divide by.

    Args:
        true, answered: (n,) booleans. score: (n,), the higher the likelier; for the AUC.
        weights: (…, n) how often each counts, such as in resampled sets; all once by default.

    Returns:
        a value for each set, (…,), of each score.
    """
    weights = np.ones(len(true)) if weights is None else weights
    hits, misses, false_alarms, rejections = (
        weights @ np.asarray(cell, float)
        for cell in (true & answered, true & ~answered, ~true & answered, ~true & ~answered)
    )
    order = np.argsort(score, kind="stable")
    firsts = np.unique(score[order], return_index=True)[1]  # of equal scores
    yes, no = (
        np.add.reduceat((weights * kind)[..., order], firsts, axis=-1) for kind in (true, ~true)
    )
    above = (yes * (no.cumsum(-1) - no / 2)).sum(-1)  # pairs in the right order, equal ones half
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": hits / (hits + misses),
            "specificity": rejections / (rejections + false_alarms),
            "positive predictive value": hits / (hits + false_alarms),
            "F1": 2 * hits / (2 * hits + misses + false_alarms),
            "AUC": above / (yes.sum(-1) * no.sum(-1)),
        }


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
    from sklearn.metrics import confusion_matrix

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


def f_max(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Best F1 over the thresholds 0 to 1 in 100 steps, counted by record.

    At each threshold, precision is the mean over the records with any class predicted, recall the
    mean over those that have any (Strodthoff et al. 2021); NaN where none has.

    Args:
        true: (n, classes) of 0 and 1. probabilities: (n, classes).
    """
    true = true > 0
    labelled, best = true.any(1), 0.0
    if not labelled.any():
        return float("nan")
    for threshold in np.linspace(0, 1, 100):
        predicted = probabilities > threshold
        some, hits = predicted.any(1), (predicted & true).sum(1)
        if hits.any():
            precision = np.mean(hits[some] / predicted[some].sum(1))
            recall = np.mean(hits[labelled] / true[labelled].sum(1))
            best = max(best, 2 * precision * recall / (precision + recall))
    return float(best)


def challenge2020(true: np.ndarray, predicted: np.ndarray, beta: float = 2) -> tuple[float, float]:
    """F-beta and G-beta of the Challenge 2020, means over the classes present or predicted.

    Each record weighs 1 / the number of its true classes; one without any weighs 1. NaN where no
    class is present or predicted (Perez Alday et al. 2020; Strodthoff et al. 2021).

    Args:
        true, predicted: (n, classes) of 0 and 1.
    """
    true, predicted = true > 0, predicted > 0
    weights = 1 / np.maximum(true.sum(1, keepdims=True), 1)
    tp, fp, fn = (
        (weights * cases).sum(0)
        for cases in (true & predicted, ~true & predicted, true & ~predicted)
    )
    seen = (true | predicted).any(0)
    if not seen.any():
        return float("nan"), float("nan")
    tp, fp, fn = tp[seen], fp[seen], fn[seen]
    hits = (1 + beta**2) * tp
    f_beta, g_beta = hits / (hits + fp + beta**2 * fn), tp / (tp + fp + beta * fn)
    return float(f_beta.mean()), float(g_beta.mean())


def f1_of_columns(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, float]:
    """F1 of every class, 0 for one neither present nor predicted, and the mean over the others; NaN
    where there are none.

    Args:
        true, predicted: (n, classes), whether.
    """
    counts = true.sum(0) + predicted.sum(0)
    f1 = 2 * (true & predicted).sum(0) / np.maximum(counts, 1)
    return f1, float(f1[counts > 0].mean()) if counts.any() else float("nan")


def multi_label_scores(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Scores where a record may have several classes; predicted are those above 0.5.

    Macro F1 is the mean over the classes present or predicted, macro AUC over those of which both
    sides are present; F1 of a class neither present nor predicted is 0. Accuracy is the share of
    right answers over all records and classes.

    Args:
        true: (n, classes) of 0 and 1. probabilities: (n, classes).
    """
    true, predicted = true > 0, probabilities > 0.5
    f1, mean = f1_of_columns(true, predicted)
    f_beta, g_beta = challenge2020(true, predicted)
    return {
        "macro_f1": mean,
        "auc": macro_auc(true, probabilities),
        "f_max": f_max(true, probabilities),
        "f_beta": f_beta,
        "g_beta": g_beta,
        "accuracy": float(np.mean(true == predicted)),
        "f1": dict(zip(classes, map(float, f1), strict=True)),
        "records": len(true),
    }


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best`: losses fall, all other metrics rise; NaN never wins."""
    if best is None or best != best:
        return value == value
    return value < best if metric.endswith("loss") else value > best
