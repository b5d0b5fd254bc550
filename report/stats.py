"""Scores of collected results: means over seeds, differences, intervals and tests.

Two things vary: what a seed changes (split of train and validation, order, new weights) and which
recordings happen to be in the test set. Each has its own interval here; neither holds the other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from report.collect import RUN
from utils import metrics
from utils.metrics import split_columns

COLUMNS = {"macro_f1": "macro F1", "cinc3": "CinC-3"}
MACRO_F1 = COLUMNS["macro_f1"]
LEVEL = 0.95
RESAMPLES = 10_000  # of seeds; of recordings fewer, each is a whole test set
TEST_SETS = 1_000
FOR_INTERVAL, FOR_TEST = 3, 6  # seeds; with five the smallest p of Wilcoxon's test is 0.06


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval; NaN where there is too little to tell."""

    mean: float
    low: float
    high: float

    def __format__(self, digits: str) -> str:
        """`0.731 [0.719, 0.740]`, the mean alone where nothing else is known."""
        mean, *both = (format(value, digits or ".3f") for value in self)
        return mean if np.isnan(self.low) else f"{mean} [{', '.join(both)}]"

    def __str__(self) -> str:
        return format(self)

    def ends(self) -> str:
        return "too few seeds" if np.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"


def score_runs(predictions: pd.DataFrame) -> pd.DataFrame:
    """Test scores, one row per run: `scenario`, `seed`, macro F1, CinC-3, F1 of each class."""
    rows = []
    for (scenario, seed), run in predictions.groupby(RUN, sort=False):
        _, classes, true, prob = split_columns(run.drop(columns=RUN))
        scores = metrics.scores(true.argmax(1), prob, classes)
        row = {label: scores[key] for key, label in COLUMNS.items() if scores[key] is not None}
        row |= {f"F1 {name}": value for name, value in scores["f1"].items()}
        rows.append({"scenario": scenario, "seed": seed, **row})
    return pd.DataFrame(rows)


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean ± sample standard deviation over seeds, as text, one row per scenario."""
    by_scenario = scores.drop(columns="seed").groupby("scenario", sort=False)
    table = by_scenario.agg(mean_and_sd)
    table.insert(0, "runs", by_scenario.size())
    return table.reset_index()


def mean_and_sd(values: pd.Series, digits: int = 3) -> str:
    """`0.731 ± 0.019`, rounded; without the deviation of a single value; empty of none."""
    values = values.dropna()
    if values.empty:
        return ""
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.{digits}f}"


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean of one value per seed, with a percentile bootstrap interval from three seeds on.

    It is too narrow with few seeds: it never reaches beyond the smallest and the largest.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < FOR_INTERVAL:
        return Interval(values.mean(), np.nan, np.nan)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return Interval(values.mean(), *ends(values[drawn].mean(1)))


def compare(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str = MACRO_F1
) -> pd.DataFrame:
    """Differences of `pairs` (baseline, scenario) over the seeds that both have.

    Returns:
        a row per pair: `baseline`, `scenario`, `seeds`, `difference` (an `Interval`), `wins`
        (seeds with a positive difference), `p` of Wilcoxon's signed-rank test, two-sided, from six
        seeds on, and `p_holm`, corrected for the number of rows that were tested.
    """
    by_seed = scores.pivot(index="seed", columns="scenario", values=metric)
    rows = []
    for baseline, scenario in pairs:
        difference = (by_seed[scenario] - by_seed[baseline]).dropna().to_numpy()
        if not len(difference):
            continue
        rows.append(
            {
                "baseline": baseline,
                "scenario": scenario,
                "seeds": len(difference),
                "difference": over_seeds(difference),
                "wins": int((difference > 0).sum()),
                "p": signed_rank(difference),
            }
        )
    table = pd.DataFrame(rows, columns=["baseline", "scenario", "seeds", "difference", "wins", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def signed_rank(difference: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; NaN below six seeds."""
    if len(difference) < FOR_TEST:
        return np.nan
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """p-values after Holm's step-down correction for their number; NaN is no test and stays."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN comes last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def over_recordings(
    predictions: pd.DataFrame, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str | tuple[str, str], Interval]:
    """Macro F1, mean over seeds, by scenario, and its differences by pair (baseline, scenario),
    with the interval over test sets of as many recordings drawn from these.

    The same test sets are drawn for every run, and the differences are over common seeds.
    """
    runs = {run: _cells(table) for run, table in predictions.groupby(RUN, sort=False)}
    cell, names = next(iter(runs.values()))
    records, classes = len(cell), len(names)
    # A test set is how often it holds each recording; the first is the real one.
    drawn = np.random.default_rng(0).multinomial(records, np.full(records, 1 / records), TEST_SETS)
    counts = np.vstack([np.ones(records, dtype=int), drawn]).astype(np.float32)
    values = {
        run: f1_of_matrices(
            (counts @ np.eye(classes**2, dtype=np.float32)[cell]).reshape(-1, classes, classes)
        )
        for run, (cell, _) in runs.items()
    }  # (1 + TEST_SETS,) of every run
    seeds = {name: [seed for other, seed in runs if other == name] for name, _ in runs}
    found = {name: np.mean([values[name, s] for s in own], 0) for name, own in seeds.items()}
    for baseline, scenario in pairs:
        common = [seed for seed in seeds[scenario] if seed in seeds[baseline]]
        if common:
            differences = [values[scenario, s] - values[baseline, s] for s in common]
            found[baseline, scenario] = np.mean(differences, 0)
    return {key: Interval(float(value[0]), *ends(value[1:])) for key, value in found.items()}


def f1_of_matrices(confusion: np.ndarray) -> np.ndarray:
    """Macro F1 of confusion matrices (…, classes, classes), rows true: mean over all, (…,)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    counts = confusion.sum(-1) + confusion.sum(-2)
    return (2 * hits / np.maximum(counts, 1)).mean(-1)


def confusion(predictions: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """(classes, classes) counts over all runs of a table, rows true; and the classes."""
    cells, classes = _cells(predictions)
    return np.bincount(cells, minlength=len(classes) ** 2).reshape(len(classes), -1), classes


def answers(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(n,) true class numbers, and (n, classes) probabilities, over all runs of a table."""
    _, _, true, prob = split_columns(predictions.drop(columns=RUN))
    return true.argmax(1), prob


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per run: `scenario`, `seed`, `ECE` and `NLL`, see `utils.calibration_metrics`."""
    rows = []
    for (scenario, seed), run in predictions.groupby(RUN, sort=False):
        found = metrics.calibration_errors(*answers(run))
        rows.append({"scenario": scenario, "seed": seed, "ECE": found["ece"], "NLL": found["nll"]})
    return pd.DataFrame(rows)


def coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row per run and share of recordings answered: `scenario`, `seed`, and the columns of
    `utils.metrics.coverage`."""
    parts = [
        pd.DataFrame(metrics.coverage(*answers(run))).assign(scenario=name, seed=seed)
        for (name, seed), run in predictions.groupby(RUN, sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def _cells(predictions: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """(recordings,) cell of the confusion matrix that each falls in, by name; the classes."""
    names, classes, true, prob = split_columns(predictions.drop(columns=RUN))
    order = np.argsort(names, kind="stable")
    return (true.argmax(1) * len(classes) + prob.argmax(1))[order], classes


def ends(values: np.ndarray) -> tuple[float, float]:
    """Of the 95 % interval of resampled values, by their quantiles."""
    tail = (1 - LEVEL) / 2
    return tuple(np.quantile(values, [tail, 1 - tail]))
