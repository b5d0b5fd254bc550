"""Figures of collected results."""

from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from utils.files import atomic_path

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")


def draw_comparison(history: pd.DataFrame, scores: pd.DataFrame, title: str, path: Path) -> None:
    """Validation macro F1 by epoch beside the test scores of each scenario.

    Args:
        history: see `report.collect.Results`. scores: see `report.statistics.score_runs`.
        path: of the image; its ending tells the format.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    scenarios = dict(zip(scores["scenario"].unique(), cycle(COLOURS), strict=False))
    _draw_validation(left, history, scenarios)
    _draw_test(right, scores, scenarios)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix.lstrip("."))
    plt.close(figure)


def _draw_validation(axes: plt.Axes, history: pd.DataFrame, scenarios: dict[str, str]) -> None:
    for scenario, colour in scenarios.items():
        f1 = history[history["scenario"] == scenario].groupby("epoch")["f1"]
        axes.plot(f1.mean(), color=colour, label=scenario, marker=".")
        axes.fill_between(f1.mean().index, f1.min(), f1.max(), color=colour, alpha=0.2, lw=0)
    axes.set(xlabel="epoch", ylabel="validation macro F1", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(title="initial weights", loc="lower right")


def _draw_test(axes: plt.Axes, scores: pd.DataFrame, scenarios: dict[str, str]) -> None:
    names = list(scores.columns.drop(["scenario", "seed"]))
    width = 0.8 / len(scenarios)
    for number, (scenario, colour) in enumerate(scenarios.items()):
        runs = scores.loc[scores["scenario"] == scenario, names]
        places = np.arange(len(names)) + (number - (len(scenarios) - 1) / 2) * width
        axes.bar(places, runs.mean(), width * 0.9, color=colour, alpha=0.6, label=scenario)
        for _, run in runs.iterrows():
            axes.plot(places, run, "o", color=colour, markersize=4, markeredgecolor="black")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="test score (bar: mean; dot: one run)", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)
