"""Scores of collected results, and their means over seeds."""

import pandas as pd

from report.collect import RUN
from utils import metrics
from utils.predictions import split_columns

COLUMNS = {"macro_f1": "macro F1", "cinc3": "CinC-3"}


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
    table = by_scenario.agg(_mean_and_sd)
    table.insert(0, "runs", by_scenario.size())
    return table.reset_index()


def _mean_and_sd(values: pd.Series) -> str:
    mean = f"{values.mean():.3f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.3f}"
