"""Scores of predictions, their calibration, and the table that predictions are stored in.

`true` is (n,) class numbers, or (n, classes) of 0 and 1 where a recording may have several classes;
`probabilities` are (n, classes). Means over classes are over those with a true example in the part
that is scored, so that they are the same for every epoch, model and threshold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, roc_auc_score

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
    """Mean F1 over the classes with a true example; both are (n,) class numbers."""
    present = np.unique(true)
    return float(f1_score(true, predicted, labels=present, average="macro", zero_division=0))


def without_input(true: np.ndarray) -> dict[str, float]:
    """Scores of predictions that ignore the input: `acc` and `macro_f1` of always the commonest
    class, `loss` (cross-entropy) of always the shares of the classes (n,)."""
    classes, counts = np.unique(true, return_counts=True)
    shares = counts / len(true)
    commonest = np.full_like(true, classes[counts.argmax()])
    loss = float((shares * np.log(1 / shares)).sum())
    return {"loss": loss, "acc": float(shares.max()), "macro_f1": macro_f1(true, commonest)}


def detection(
    true: np.ndarray, predicted: np.ndarray, score: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores of a yes-or-no question, (…,) each; NaN where there is nothing to divide by. `true`
    and `predicted` are (n,) booleans, `score` (n,) is for the AUC; `weights` (…, n) say how often
    each counts, such as in resampled sets."""
    weights = np.ones(len(true)) if weights is None else weights
    cells = (true & predicted, true & ~predicted, ~true & predicted, ~true & ~predicted)
    tp, fn, fp, tn = (weights @ cell.astype(float) for cell in cells)
    order = np.argsort(score, kind="stable")
    firsts = np.unique(score[order], return_index=True)[1]  # of equal scores
    kinds = ((weights * kind)[..., order] for kind in (true, ~true))
    positive, negative = (np.add.reduceat(kind, firsts, axis=-1) for kind in kinds)
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


def answers(true: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which classes are present, which are predicted, and which answers are correct, as booleans.
    One class to a recording: the most probable is predicted; correct are recordings, (n,). Several:
    those above 0.5 are predicted; correct are (n, classes), as are the others in both cases."""
    if true.ndim == 2:
        present, predicted = true > 0, probabilities > 0.5
        return present, predicted, present == predicted
    numbers, predicted = np.arange(probabilities.shape[1]), probabilities.argmax(1)
    return true[:, None] == numbers, predicted[:, None] == numbers, true == predicted


def f1_of_columns(present: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of every class, 0 for one neither present nor predicted; also of a single class."""
    counts = present.sum(0) + predicted.sum(0)
    return 2 * (present & predicted).sum(0) / np.maximum(counts, 1)


def mean(values: np.ndarray) -> float:
    """Mean of scores by class; NaN where there are none."""
    return float(values.mean()) if len(values) else float("nan")


def scores(true: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict:
    """Accuracy, F1 per class (None without a true example), macro F1, and macro AUC, the mean
    one-against-rest AUC over the classes of which both sides are present, else NaN.

    One class to a recording: also the confusion (rows: true) and CinC-3, the mean F1 of N, A and O,
    in whose denominators the noisy class counts (Clifford et al. 2017), None for other classes.
    Several: also F-max, F-beta and G-beta.
    """
    present, predicted, correct = answers(true, probabilities)
    seen = present.any(0)
    f1 = np.where(seen, f1_of_columns(present, predicted), np.nan)
    by_class = {c: v if v == v else None for c, v in zip(classes, f1.tolist(), strict=True)}
    mean_f1, both = mean(f1[seen]), seen & ~present.all(0)
    auc = roc_auc_score(present[:, both], probabilities[:, both]) if both.any() else float("nan")
    result = {"auc": auc, "acc": float(correct.mean()), "f1": by_class, "records": len(true)}
    if true.ndim == 2:
        f_beta, g_beta = challenge2020(present, predicted)
        best = f_max(present, probabilities)
        return {"macro_f1": mean_f1, "f_max": best, "f_beta": f_beta, "g_beta": g_beta, **result}
    known = {*CINC3} <= {*classes}
    cinc3 = mean(f1[seen & np.isin(classes, CINC3)]) if known else None
    confusion = (present.astype(int).T @ predicted).tolist()
    return {"macro_f1": mean_f1, "cinc3": cinc3, **result, "confusion": confusion}


def f_max(present: np.ndarray, probabilities: np.ndarray) -> float:
    """Best F1 over the thresholds 0 to 1 in 100 steps, of precision averaged over the records with
    any class predicted, and recall over those that have any (Strodthoff et al. 2021), else NaN."""
    labelled, best = present.any(1), 0.0
    for threshold in np.linspace(0, 1, 100):
        predicted = probabilities > threshold
        some, correct = predicted.any(1), (predicted & present).sum(1)
        if correct.any():
            precision = np.mean(correct[some] / predicted[some].sum(1))
            recall = np.mean(correct[labelled] / present[labelled].sum(1))
            best = max(best, 2 * precision * recall / (precision + recall))
    return float(best) if labelled.any() else float("nan")


def challenge2020(present: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """F-beta and G-beta (beta 2) of the Challenge 2020, means over the classes that are present,
    else NaN. Each record weighs 1 / the number of its true classes, one without any 1
    (Perez Alday et al. 2020; Strodthoff et al. 2021)."""
    weights = 1 / np.maximum(present.sum(1, keepdims=True), 1)
    seen = present.any(0)
    cells = (present & predicted, ~present & predicted, present & ~predicted)
    tp, fp, fn = ((weights * cell).sum(0)[seen] for cell in cells)
    f_beta, g_beta = 5 * tp / (5 * tp + fp + 4 * fn), tp / (tp + fp + 2 * fn)
    return mean(f_beta), mean(g_beta)


def reliability(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """How often predictions are correct, by bin of their confidence from 0 to 1: `count`, mean
    `confidence` and `accuracy`, both None where a bin is empty. With several classes to a
    recording, each counts, with the probability that it is present and whether it is."""
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


def coverage(true: np.ndarray, probabilities: np.ndarray) -> dict[str, list]:
    """Scores of the most confident recordings alone, as if the others were left unanswered. A
    recording with several classes is as certain as its least certain class. Lists by `coverage`:
    the confidence from which on (`threshold`), how many have it (`records`), `macro_f1` over the
    classes present in the whole part, and `accuracy`."""
    confidence = probabilities.max(1)
    if true.ndim == 2:
        confidence = np.maximum(probabilities, 1 - probabilities).min(1)
    present, predicted, correct = answers(true, probabilities)
    present, predicted = (cells[:, present.any(0)] for cells in (present, predicted))
    falling = np.sort(confidence)[::-1]
    thresholds = [float(falling[-(-len(falling) * share // 100) - 1]) for share in COVERAGES]
    kept = [confidence >= threshold for threshold in thresholds]
    return {
        "coverage": [share / 100 for share in COVERAGES],
        "threshold": thresholds,
        "records": [int(rows.sum()) for rows in kept],
        "macro_f1": [mean(f1_of_columns(present[r], predicted[r])) for r in kept],
        "accuracy": [float(correct[rows].mean()) for rows in kept],
    }


def calibration_errors(true: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`nll`, the mean negative logarithm of the probability of the truth (over recordings and
    classes where there may be several), and `ece`, the expected calibration error: the mean
    distance of confidence and accuracy in the bins of `reliability`, weighted by their counts."""
    if true.ndim == 2:
        of_truth = np.where(true > 0, probabilities, 1 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(true)), true]
    nll = float(-np.log(np.maximum(of_truth, SMALLEST, dtype=float)).mean())
    bins = zip(*reliability(true, probabilities).values(), strict=True)
    gaps = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins if count)
    return {"nll": nll, "ece": float(gaps / true.size)}


def calibration_scores(true: np.ndarray, probabilities: np.ndarray) -> dict:
    """`calibration_errors`, `reliability` and `coverage`, by name."""
    bins, share = reliability(true, probabilities), coverage(true, probabilities)
    return calibration_errors(true, probabilities) | {"reliability": bins, "coverage": share}


class Predictions(NamedTuple):
    record_names: np.ndarray  # (n,)
    classes: list[str]
    true: np.ndarray  # (n, classes) of 0 and 1
    prob: np.ndarray  # (n, classes)


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
        return split_columns(pd.read_csv(path, dtype={"record_name": str}, keep_default_na=False))
    except (OSError, ValueError, OverflowError) as error:  # pandas' errors of parsing, too
        raise UserError(f"{path} is not a table of predictions ({error})") from None


def split_columns(table: pd.DataFrame) -> Predictions:
    """Raises `ValueError` where the columns are not those of a table of predictions."""
    classes = [name.removeprefix("true_") for name in table if name.startswith("true_")]
    expected = ["record_name", *(f"{p}_{name}" for p in ("true", "prob") for name in classes)]
    if list(table) != expected or not classes or table.empty:
        raise ValueError("no predictions")
    true, prob = np.split(table[expected[1:]].to_numpy(float), 2, axis=1)
    if not np.isin(true, (0, 1)).all() or not np.isfinite(prob).all():
        raise ValueError("values that are no classes or probabilities")
    return Predictions(table["record_name"].to_numpy(), classes, true.astype(int), prob)
