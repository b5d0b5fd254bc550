"""Scores of collected results: means over seeds, paired differences, intervals and tests.

Two things vary: the seed (split into training and validation sets, order of the batches, new
weights), and the recordings that happen to be in the test set. Each has an interval of its own,
which does not include the other.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t, wilcoxon

from report.collect import RUN
from utils import metrics
from utils.metrics import Predictions, split_columns

MACRO_F1 = "macro F1"
RECORDING_SAMPLES, SUBJECT_SAMPLES = 1_000, 2_000  # of the bootstrap
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


def split_by(columns: str | list[str], predictions: pd.DataFrame) -> dict[Any, Predictions]:
    """Predictions by scenario, those of all its runs together, or by scenario and seed (`RUN`)."""
    groups = predictions.groupby(columns, sort=False)
    return {key: split_columns(rows.drop(columns=RUN)) for key, rows in groups}


def score_runs(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `scenario`, `seed`, macro F1, CinC-3, F1 of each class."""
    rows = []
    for (scenario, seed), (_, classes, true, prob) in split_by(RUN, predictions).items():
        scores = metrics.scores(true.argmax(1), prob, classes)
        f1 = {f"F1 {name}": value for name, value in scores["f1"].items()}
        rows.append({"scenario": scenario, "seed": seed, MACRO_F1: scores["macro_f1"],
                     "CinC-3": scores["cinc3"], **f1})  # fmt: skip
    return pd.DataFrame(rows).dropna(axis=1, how="all")  # CinC-3 of other classes


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `scenario`, `seed`, expected calibration error and log-loss."""
    rows = []
    for key, run in split_by(RUN, predictions).items():
        errors = metrics.calibration_errors(run.true.argmax(1), run.prob)
        rows.append((*key, errors["ece"], errors["nll"]))
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
    mean, sd = f"{values.mean():.{digits}f}", f"{values.std(ddof=1):.{digits}f}"
    return f"{mean} ± {sd}" if len(values) > 1 else mean if len(values) else ""


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one value per seed, with Student's t interval from three seeds on."""
    values = np.asarray(values, dtype=float)
    mean, half = values.mean(), np.nan
    if len(values) >= MIN_SEEDS:
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def compare(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences in macro F1 of `pairs` (baseline, scenario), over the seeds that both have.

    Returns:
        a row per pair: `baseline`, `scenario`, `by_seed` (a series), `difference` (an `Interval`),
        `p` of Wilcoxon's two-sided signed-rank test (NaN below six seeds), and `p_holm`, corrected
        for the number of tests in the table.
    """
    by_seed, rows = scores.pivot(index="seed", columns="scenario", values=MACRO_F1), []
    for baseline, scenario in pairs:
        gain, p = (by_seed[scenario] - by_seed[baseline]).dropna(), np.nan
        if len(gain) >= MIN_SEEDS_TEST:  # the test is undefined where all differences are zero
            p = wilcoxon(gain).pvalue if gain.any() else 1.0
        if len(gain):
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


def resample(size: int, samples: int) -> np.ndarray:
    """How often bootstrap samples hold each of `size` items: (samples + 1, size), first the set
    itself."""
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), samples)
    return np.vstack([np.ones(size), drawn])


def percentiles(values: np.ndarray) -> Interval:
    """The first of `values` with the 95 % percentile interval of the others. Those that are NaN,
    such as scores of samples without a positive subject, are left out."""
    return Interval(float(values[0]), *pd.Series(values[1:]).quantile([0.025, 0.975]))


def over_recordings(
    predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str | tuple[str, str], Interval]:
    """Macro F1 by scenario, mean over seeds, and its difference by pair (baseline, scenario) over
    common seeds, each with an interval over bootstrap samples of the recordings, which all runs
    share, in the same order."""
    runs, scores = split_by(RUN, predictions), {}
    drawn = resample(len(next(iter(runs.values())).true), RECORDING_SAMPLES).astype(np.float32)
    for run, (_, classes, true, prob) in runs.items():
        cells = true.argmax(1) * len(classes) + prob.argmax(1)
        matrices = drawn @ np.eye(len(classes) ** 2, dtype=np.float32)[cells]
        matrices = matrices.reshape(-1, len(classes), len(classes))
        correct = np.diagonal(matrices, axis1=1, axis2=2)
        sizes = matrices.sum(1) + matrices.sum(2)  # true and predicted
        scores[run] = (2 * correct / np.maximum(sizes, 1))[:, true.any(0)].mean(1)
    scores = pd.DataFrame(scores)
    means = {name: scores[name].mean(axis=1) for name in scores.columns.unique(0)}
    for baseline, scenario in pairs:
        difference = (scores[scenario] - scores[baseline]).dropna(axis=1)
        if not difference.empty:
            means[baseline, scenario] = difference.mean(axis=1)
    return {key: percentiles(values.to_numpy()) for key, values in means.items()}


def over_subjects(windows: pd.DataFrame) -> dict[str, Interval]:
    """Each score of `metrics.detection`, with an interval over bootstrap samples of subjects.

    `windows` have `subject`, `true`, `predicted` and `score`. Windows of one subject are alike, so
    that each subject is drawn with all of its windows. With few positive subjects the intervals
    are too narrow.
    """
    subjects, index = np.unique(windows["subject"], return_inverse=True)
    weights = resample(len(subjects), SUBJECT_SAMPLES)[:, index]
    columns = (windows[name].to_numpy() for name in ("true", "predicted", "score"))
    scores = metrics.detection(*columns, weights)
    return {name: percentiles(values) for name, values in scores.items()}
