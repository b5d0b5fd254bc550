"""Scores of collected results: means over seeds, paired differences, intervals and tests.

Two things vary: the seed (split into training and validation sets, order of the batches, new
weights), and the recordings that happen to be in the test set. Each has an interval of its own,
which does not include the other.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from report.collect import RUN
from utils import metrics
from utils.metrics import Predictions, split_columns

MACRO_F1 = "macro F1"
LAST_EPOCHS = 5
SEED_SAMPLES, RECORDING_SAMPLES, SUBJECT_SAMPLES = 10_000, 1_000, 2_000  # of the bootstrap
MIN_SEEDS, MIN_SEEDS_TEST = 3, 6  # with five seeds, Wilcoxon's smallest p is 0.06


class Interval(NamedTuple):
    """A mean with the bounds of its 95 % interval; the bounds are NaN with too little data."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """`0.731 [0.719 to 0.740]`."""
        return f"{self.mean:.3f} [{self.bounds()}]"

    def bounds(self) -> str:
        return "too few seeds" if np.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"


def bootstrap_interval(mean: float, resampled: np.ndarray) -> Interval:
    """95 % percentile interval of resampled values."""
    return Interval(float(mean), *np.quantile(resampled, [0.025, 0.975]))


def by_run(predictions: pd.DataFrame) -> Iterator[tuple[str, int, Predictions]]:
    """Scenario, seed and predictions of every run of a table."""
    for (scenario, seed), run in predictions.groupby(RUN, sort=False):
        yield scenario, seed, split_columns(run.drop(columns=RUN))


def pooled(predictions: pd.DataFrame) -> Predictions:
    """Predictions of all runs of a table together."""
    return split_columns(predictions.drop(columns=RUN))


def score_runs(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `scenario`, `seed`, macro F1, CinC-3, F1 of each class."""
    rows = []
    for scenario, seed, (_, classes, true, prob) in by_run(predictions):
        scores = metrics.scores(true.argmax(1), prob, classes)
        row = {"scenario": scenario, "seed": seed, MACRO_F1: scores["macro_f1"]}
        row |= {"CinC-3": scores["cinc3"]} | {f"F1 {c}": f1 for c, f1 in scores["f1"].items()}
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis=1, how="all")  # CinC-3 of other classes


def last_epochs(history: pd.DataFrame) -> pd.DataFrame:
    """Validation macro F1 of each run, mean of its last five epochs: `scenario`, `seed`, score."""
    last = history.sort_values("epoch").groupby(RUN, sort=False).tail(LAST_EPOCHS)
    return last.groupby(RUN, sort=False)["macro_f1"].mean().rename(MACRO_F1).reset_index()


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `scenario`, `seed`, expected calibration error and log-loss."""
    rows = []
    for scenario, seed, run in by_run(predictions):
        errors = metrics.calibration_errors(run.true.argmax(1), run.prob)
        rows.append((scenario, seed, errors["ece"], errors["nll"]))
    return pd.DataFrame(rows, columns=[*RUN, "ECE", "NLL"])


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean ± sample standard deviation over seeds, as text, one row per scenario."""
    by_scenario = scores.drop(columns="seed").groupby("scenario", sort=False)
    table = by_scenario.agg(mean_and_sd)
    table.insert(0, "runs", by_scenario.size())
    return table.reset_index()


def mean_and_sd(values: pd.Series, digits: int = 3) -> str:
    """`0.731 ± 0.019`; without the deviation for a single value; empty for none."""
    values = values.dropna()
    if values.empty:
        return ""
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one value per seed, with a percentile bootstrap interval from three seeds on.

    With few seeds the interval is too narrow: it never exceeds the smallest and largest value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < MIN_SEEDS:
        return Interval(values.mean(), np.nan, np.nan)
    drawn = np.random.default_rng(0).integers(len(values), size=(SEED_SAMPLES, len(values)))
    return bootstrap_interval(values.mean(), values[drawn].mean(1))


def compare(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences in macro F1 of `pairs` (baseline, scenario), over the seeds that both have.

    Returns:
        a row per pair: `baseline`, `scenario`, `by_seed` (a series), `difference` (an `Interval`),
        `p` of Wilcoxon's two-sided signed-rank test (NaN below six seeds), and `p_holm`, corrected
        for the number of tests in the table.
    """
    by_seed, rows = scores.pivot(index="seed", columns="scenario", values=MACRO_F1), []
    for baseline, scenario in pairs:
        gain = (by_seed[scenario] - by_seed[baseline]).dropna()
        if gain.empty:
            continue
        p = np.nan
        if len(gain) >= MIN_SEEDS_TEST:  # the test is undefined where all differences are zero
            p = wilcoxon(gain).pvalue if gain.any() else 1.0
        rows.append((baseline, scenario, gain, over_seeds(gain), p))
    table = pd.DataFrame(rows, columns=["baseline", "scenario", "by_seed", "difference", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values after Holm's step-down correction; NaN does not count as a test."""
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN is sorted last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def over_recordings(
    predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str | tuple[str, str], Interval]:
    """Macro F1 by scenario, mean over seeds, and its difference by pair (baseline, scenario) over
    common seeds, each with an interval over bootstrap samples of the recordings. All runs share the
    samples."""
    scores, drawn = {}, None
    for scenario, seed, (names, classes, true, prob) in by_run(predictions):
        if drawn is None:
            # How often a sample holds each recording; the first row is the test set itself.
            share = np.full(len(names), 1 / len(names))
            drawn = np.random.default_rng(0).multinomial(len(names), share, RECORDING_SAMPLES)
            drawn = np.vstack([np.ones(len(names)), drawn]).astype(np.float32)
        order = np.argsort(names, kind="stable")
        cells = (true.argmax(1) * len(classes) + prob.argmax(1))[order]
        matrices = drawn @ np.eye(len(classes) ** 2, dtype=np.float32)[cells]
        matrices = matrices.reshape(-1, len(classes), len(classes))
        correct = np.diagonal(matrices, axis1=1, axis2=2)
        sizes = matrices.sum(1) + matrices.sum(2)  # true and predicted
        scores[scenario, seed] = (2 * correct / np.maximum(sizes, 1)).mean(1)
    scores = pd.DataFrame(scores)
    means = {name: scores[name].mean(axis=1) for name in scores.columns.unique(0)}
    for baseline, scenario in pairs:
        difference = (scores[scenario] - scores[baseline]).dropna(axis=1)
        if not difference.empty:
            means[baseline, scenario] = difference.mean(axis=1)
    return {key: bootstrap_interval(value[0], value[1:]) for key, value in means.items()}


def over_subjects(
    subjects: np.ndarray, true: np.ndarray, predicted: np.ndarray, score: np.ndarray
) -> dict[str, Interval]:
    """Each score of `metrics.detection`, with an interval over bootstrap samples of subjects.

    Windows of one subject are alike, so that each subject is drawn with all of its windows. With
    few positive subjects the intervals are too narrow. All arrays are (windows,).
    """
    names, index = np.unique(subjects, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(0).multinomial(len(names), share, SUBJECT_SAMPLES)
    weights = np.vstack([np.ones(len(names)), drawn])[:, index]  # first, the set itself
    intervals = {}
    for name, values in metrics.detection(true, predicted, score, weights).items():
        # Samples without a positive subject give NaN, which `quantile` leaves out.
        intervals[name] = Interval(values[0], *pd.Series(values[1:]).quantile([0.025, 0.975]))
    return intervals
