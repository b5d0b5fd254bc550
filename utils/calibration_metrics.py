"""How far probabilities can be believed: arrays → scores.

`true` is (n,) class numbers, or (n, classes) of 0 and 1 where a recording may have several classes;
`probabilities` are (n, classes).
"""

from typing import NamedTuple

import numpy as np

from utils.metrics import f1_of_columns

BINS = 15  # of equal width, as Guo et al. 2017
COVERAGES = (100, 90, 80, 70, 60, 50)  # percent
SMALLEST = 1e-7  # probability that counts; next to 1 float32 knows no finer ones


class Answers(NamedTuple):
    """What is predicted.

    Attributes:
        confidence: (n,) probability of the answer; of several classes to a recording, of the least
            certain one.
        true, predicted: (n, classes), whether.
        right: (n,), or (n, classes) of several classes to a recording.
    """

    confidence: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    right: np.ndarray


def answers(true: np.ndarray, probabilities: np.ndarray) -> Answers:
    """The most probable class of each recording, or the classes above probability 0.5."""
    if true.ndim == 2:
        true, predicted = true > 0, probabilities > 0.5
        confidence = np.maximum(probabilities, 1 - probabilities).min(1)
        return Answers(confidence, true, predicted, true == predicted)
    best, classes = probabilities.argmax(1), np.arange(probabilities.shape[1])
    one_hot = (numbers[:, None] == classes for numbers in (true, best))
    return Answers(probabilities.max(1), *one_hot, true == best)


def reliability(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """How often an answer is right, by the probability that it was given.

    Of several classes to a recording, each class of each recording counts, with the probability
    that it is present and whether it is.

    Returns:
        of each bin, from 0 to 1: `count` of answers, their mean `confidence`, and their `accuracy`;
        both None where there are none.
    """
    if true.ndim == 2:
        confidence, right = probabilities.ravel(), true.ravel() > 0
    else:
        confidence, right = probabilities.max(1), true == probabilities.argmax(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS).tolist()

    def means(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(bins, values, BINS).tolist()
        return [total / count if count else None for total, count in zip(sums, counts, strict=True)]

    return {"count": counts, "confidence": means(confidence), "accuracy": means(right)}


def expected_calibration_error(bins: dict[str, list]) -> float:
    """Mean distance between confidence and accuracy of bins, weighted by their counts.

    Args:
        bins: of `reliability`.
    """
    rows = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    gaps = sum(count * abs(sure - right) for count, sure, right in rows if count)
    return float(gaps / sum(bins["count"]))


def log_loss(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability of the truth, over recordings, or over recordings
    and classes where there may be several."""
    if true.ndim == 2:
        of_truth = np.where(true > 0, probabilities, 1 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(true)), true]
    return float(-np.log(np.maximum(of_truth, SMALLEST, dtype=float)).mean())


def coverage(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """Scores of the most confident recordings alone, as if the others were left unanswered.

    Returns:
        lists, by share answered: `coverage`, confidence from which on (`threshold`), how many that
        are (`records`, more than the share where several are as confident), `macro_f1` over the
        classes present or predicted among them, and `accuracy`.
    """
    found = answers(true, probabilities)
    falling = np.sort(found.confidence)[::-1]
    rows = []
    for percent in COVERAGES:
        threshold = falling[-(-len(falling) * percent // 100) - 1]
        kept = found.confidence >= threshold
        rows.append({
            "coverage": percent / 100,
            "threshold": float(threshold),
            "records": int(kept.sum()),
            "macro_f1": f1_of_columns(found.true[kept], found.predicted[kept])[1],
            "accuracy": float(found.right[kept].mean()),
        })  # fmt: skip
    return {name: [row[name] for row in rows] for name in rows[0]}


def calibration_errors(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`nll`, see `log_loss`, and `ece`, see `expected_calibration_error`."""
    ece = expected_calibration_error(reliability(true, probabilities))
    return {"nll": log_loss(true, probabilities), "ece": ece}


def calibration_scores(true: np.ndarray, probabilities: np.ndarray) -> dict:
    """All of the above, by name."""
    return {
        **calibration_errors(true, probabilities),
        "reliability": reliability(true, probabilities),
        "coverage": coverage(true, probabilities),
    }
