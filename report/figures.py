"""Figures of collected results; each is None where there is nothing to draw."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from pandas.api.typing import SeriesGroupBy

from report import scenarios
from report import stats as statistics
from report.collect import Results
from report.provenance import NO_FLAGS, RANDOM
from report.stats import MACRO_F1
from utils.files import atomic_path
from utils.metrics import BINS, expected_calibration_error, reliability

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2")
ACROSS = 4  # panels in a row
FEW = 20  # answers; the accuracy of fewer is not drawn
SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # of patients, at the ticks of an axis


def draw_comparison(results: Results, scores: pd.DataFrame, title: str, path: Path) -> None:
    """Validation macro F1 by epoch beside the scores of each scenario.

    Args:
        scores: of `results`, see `report.stats.score_runs`.
        path: of the image; its ending tells the format.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    colours = _colours(scores["scenario"].unique())
    _draw_validation(left, results.history, colours)
    _draw_scores(right, scores, results.part, colours)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix.lstrip("."))
    plt.close(figure)


def learning(results: Results) -> Figure:
    """Validation macro F1 by epoch: mean over the seeds still running, and their range; a panel per
    network and number of labels."""
    groups = list(scenarios.groups(scenarios.describe(results.runs)))
    figure, axes = _panels(len(groups), (5.5, 3.8), across=2)
    for place, (words, group) in zip(axes, groups, strict=True):
        _draw_validation(place, results.history, _colours(group.index))
        place.set_title(words, fontsize="medium")
    return figure


def variants(results: Results) -> Figure | None:
    """Validation macro F1 by epoch of each variant beside its baseline: mean over the seeds, and
    their range; None without variants."""
    found = scenarios.variants(scenarios.describe(results.runs))
    if not found:
        return None
    figure, axes = _panels(len(found), (3.4, 3.0))
    shown = results.history[
        results.history["scenario"].isin({name for pair in found for name in pair})
    ]
    low, high = shown["macro_f1"].min(), shown["macro_f1"].max()
    for place, (baseline, name) in zip(axes, found, strict=True):
        _draw_validation(place, shown, {baseline: COLOURS[1], name: COLOURS[2]})
        seeds = shown.loc[shown["scenario"] == name, "seed"].nunique()
        of_baseline = shown.loc[shown["scenario"] == baseline, "seed"].nunique()
        place.set_title(f"{name} ({seeds} of {of_baseline} seeds)", fontsize="medium")
        place.set_ylim(low - 0.02, high + 0.02)
        place.legend(loc="lower right", fontsize="small")
    return figure


def fractions(results: Results, published: pd.DataFrame) -> Figure | None:
    """Test macro F1 by the fraction of patients to pretrain on, beside the replication's; a panel
    per network of which two fractions were run with no flags but published ones."""
    cells = _with_scores(results)
    cells = cells[cells["objective"].isin([RANDOM, "beat"])]
    cells = cells[cells["records"].fillna(0) == cells["records"].fillna(0).max()]
    cells = cells.assign(fraction=cells["fraction"].mask(cells["objective"] == RANDOM, 0))
    cells = cells.dropna(subset="fraction").sort_values("fraction")
    kinds = ["network", *scenarios.NETWORK, "flags"]
    lines = [line for _, line in cells.groupby(kinds, dropna=False)]
    lines = [line for line in lines if line["fraction"][lambda f: f > 0].nunique() > 1]
    if not lines:
        return None
    networks = list(dict.fromkeys(line["network"].iloc[0] for line in lines))
    figure, axes = _panels(len(networks), (5.5, 3.8), across=2)
    for place, network in zip(axes, networks, strict=True):
        theirs = published[(published["source"] == "Team 1") & (published["network"] == network)]
        theirs = theirs.fillna({"fraction": 0})
        _draw_means(place, theirs["fraction"], theirs, "Team 1, Icentia11k", "black")
        ours = [line for line in lines if line["network"].iloc[0] == network]
        for line, colour in zip(ours, cycle(COLOURS[2:]), strict=False):
            label = ", ".join(filter(None, ["here", scenarios.network(line.iloc[0])]))
            _draw_means(place, line["fraction"], line, label, colour)
        place.set_xscale("symlog", linthresh=SHARES[1])
        place.set_xticks(SHARES, [RANDOM, *map(scenarios.share, SHARES[1:])])
        place.minorticks_off()
        place.set(title=network, xlabel="patients to pretrain on, share of the data set")
        place.set_ylabel("test macro F1 (mean ± sd)")
        place.legend(loc="lower right")
    return figure


def labels(results: Results) -> Figure | None:
    """Test macro F1 by the number of labelled recordings that train, a line per network and initial
    weights, of those with no flags but published ones."""
    cells = _with_scores(results).dropna(subset="records").sort_values("records")
    kinds = [*scenarios.NETWORK, "flags", *scenarios.START]
    lines = [g for _, g in cells.groupby(kinds, dropna=False) if g["records"].nunique() > 1]
    lines.sort(key=lambda line: line["objective"].iloc[0] != RANDOM)  # it has the first colour
    if not lines:
        return None
    figure, (axes,) = _panels(1, (6.5, 4.2))
    for line, colour in zip(lines, cycle(COLOURS), strict=False):
        cell = line.iloc[0]
        some = f", {scenarios.share(cell['fraction'])}" if cell["fraction"] < 1 else ""
        known = scenarios.network(cell) or cell["network"]
        _draw_means(axes, line["records"], line, f"{cell['objective']}{some}, {known}", colour)
    axes.set_xscale("log")
    ticks = sorted(cells["records"].unique())
    axes.set_xticks(ticks, [f"{records:,.0f}" for records in ticks])
    axes.minorticks_off()
    axes.set(xlabel="labelled recordings that train", ylabel="test macro F1 (mean ± sd)")
    axes.legend(title="initial weights", loc="lower right")
    return figure


def confusions(results: Results) -> Figure:
    """Confusion matrix of each scenario, summed over its seeds: share of each true class."""
    cells = scenarios.describe(results.runs)
    figure, axes = _panels(len(cells), (3.1, 3.1))
    by_scenario = results.predictions.groupby("scenario")
    for place, name in zip(axes, cells.index, strict=True):
        counts, classes = statistics.confusion(by_scenario.get_group(name))
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        place.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 else "black"
            text = f"{share:.2f}\n({counts[row, column]:,})"
            place.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
        places = range(len(classes))
        place.set_xticks(places, classes)
        place.set_yticks(places, classes)
        place.set(title=name, xlabel="predicted", ylabel="true")
    return figure


def calibration(results: Results) -> Figure:
    """Reliability diagram of each scenario over all its seeds, with the expected calibration error
    and the share of answers in each bin."""
    cells = scenarios.describe(results.runs)
    figure, axes = _panels(len(cells), (3.1, 3.3))
    by_scenario = results.predictions.groupby("scenario")
    for place, name in zip(axes, cells.index, strict=True):
        bins = reliability(*statistics.answers(by_scenario.get_group(name)))
        table, error = pd.DataFrame(bins), expected_calibration_error(bins)
        width = 1 / BINS
        shares = table["count"] / table["count"].sum()
        place.bar(
            table.index * width, shares, width, align="edge", color="#cccccc", label="answers"
        )
        place.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        drawn = table[table["count"] >= FEW]
        place.plot(drawn["confidence"], drawn["accuracy"], "o-", color=COLOURS[1], label="accuracy")
        known = scenarios.temperature(results.runs, name)
        place.set(title=f"{name}, ECE {error:.3f}\n{known}", xlim=(0, 1), ylim=(0, 1))
        place.set(xlabel="probability of the answer", ylabel="share", aspect="equal")
        place.legend(loc="upper left", fontsize="small")
    return figure


def coverage(results: Results) -> Figure:
    """Test macro F1 of the most confident recordings by their share: mean over seeds, and range; a
    panel per network and number of labels."""
    groups = list(scenarios.groups(scenarios.describe(results.runs)))
    table = statistics.coverage(results.predictions)
    figure, axes = _panels(len(groups), (5.5, 3.8), across=2)
    for place, (words, group) in zip(axes, groups, strict=True):
        for name, colour in _colours(group.index).items():
            f1 = table[table["scenario"] == name].groupby("coverage")["macro_f1"]
            _draw_range(place, f1, colour, name)
        place.set(title=words, xlabel="recordings answered, the most confident first, share")
        place.set_ylabel("test macro F1")
        place.grid(alpha=0.3)
        place.legend(loc="best")
    return figure


def _with_scores(results: Results) -> pd.DataFrame:
    """Scenarios without extra flags, with mean and deviation of macro F1, named as in
    `published.csv`."""
    f1 = statistics.score_runs(results.predictions).groupby("scenario")[MACRO_F1]
    cells = scenarios.describe(results.runs)
    cells = cells[[not scenarios.extra(text) for text in cells["flags"]]]
    cells = cells.fillna({"flags": NO_FLAGS})  # or not recorded
    return cells.assign(**{MACRO_F1: f1.mean(), f"{MACRO_F1} sd": f1.std(ddof=1)})


def _draw_means(
    axes: plt.Axes, x: Iterable[float], table: pd.DataFrame, label: str, colour: str
) -> None:
    deviation = table[f"{MACRO_F1} sd"].fillna(0)
    axes.errorbar(x, table[MACRO_F1], deviation, fmt="o-", capsize=3, color=colour, label=label)
    axes.grid(alpha=0.3)


def _panels(number: int, size: tuple[float, float], across: int = ACROSS):
    """A figure with `number` panels of `size` inches, row by row."""
    columns = min(number, across)
    rows = -(-number // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
    )
    for place in axes.flat[number:]:
        place.remove()
    return figure, axes.flat[:number]


def _colours(names: Sequence[str]) -> dict[str, str]:
    """By name; grey is for the first of random weights."""
    grey = next((name for name in names if name.startswith(RANDOM)), None)
    others = cycle(COLOURS[1:])
    return {name: COLOURS[0] if name == grey else next(others) for name in names}


def _draw_validation(axes: plt.Axes, history: pd.DataFrame, scenarios: dict[str, str]) -> None:
    for scenario, colour in scenarios.items():
        f1 = history[history["scenario"] == scenario].groupby("epoch")["macro_f1"]
        _draw_range(axes, f1, colour, scenario)
    axes.set(xlabel="epoch", ylabel="validation macro F1", ylim=(0, 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")  # where all begin low


def _draw_range(axes: plt.Axes, values: SeriesGroupBy, colour: str, label: str) -> None:
    """Mean of each group, and a band from its smallest to its largest."""
    axes.plot(values.mean(), color=colour, label=label, marker=".")
    axes.fill_between(
        values.mean().index, values.min(), values.max(), color=colour, alpha=0.2, lw=0
    )


def _draw_scores(
    axes: plt.Axes, scores: pd.DataFrame, part: str, scenarios: dict[str, str]
) -> None:
    names = list(scores.columns.drop(["scenario", "seed"]))
    width = 0.8 / len(scenarios)
    for number, (scenario, colour) in enumerate(scenarios.items()):
        runs = scores.loc[scores["scenario"] == scenario, names]
        places = np.arange(len(names)) + (number - (len(scenarios) - 1) / 2) * width
        axes.bar(places, runs.mean(), width * 0.9, color=colour, alpha=0.6, label=scenario)
        for _, run in runs.iterrows():
            axes.plot(places, run, "o", color=colour, markersize=4, markeredgecolor="black")
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel=f"{part} score (bar: mean; dot: one run)", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)
