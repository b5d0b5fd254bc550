"""Figures of collected results; None where there is nothing to draw."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

from report import collect, stats, tables
from report.collect import NETWORK, RANDOM, Results
from report.stats import MACRO_F1
from utils import metrics
from utils.files import atomic_path

COLOURS = ("#7f7f7f", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#e377c2")
MIN_COUNT = 20  # predictions in a bin of the reliability diagram; fewer are not drawn
FRACTIONS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # ticks


def draw_comparison(results: Results, title: str, path: Path) -> None:
    """Validation macro F1 by epoch beside the scores of each scenario; the ending of `path` is the
    format."""
    figure, (left, right) = _panels(2, (5.5, 4.2))
    figure.suptitle(title)
    scores = stats.score_runs(results.predictions).set_index(["scenario", "seed"])
    colours = _colours(scores.index.unique("scenario"))
    _draw_ranges(left, results.history, "epoch", colours)
    left.set(ylabel="validation macro F1", ylim=(0, 1))
    width = 0.8 / len(colours)
    for number, (scenario, colour) in enumerate(colours.items()):
        runs = scores.loc[scenario]
        x = np.arange(runs.shape[1]) + (number - (len(colours) - 1) / 2) * width
        right.bar(x, runs.mean(), width * 0.9, color=colour, alpha=0.6)
        right.plot(x, runs.T, "o", color=colour, markersize=4, markeredgecolor="black")
    right.set_xticks(range(scores.shape[1]), scores.columns)
    right.set(ylabel=f"{results.part} score (bar: mean; dot: one run)", ylim=(0, 1))
    right.grid(axis="y", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix.lstrip("."))


def learning_curves(results: Results) -> Figure:
    """Validation macro F1 by epoch: mean over the seeds still running, and their range. A panel per
    variant and its baseline; without variants, per network and number of labelled recordings."""
    pairs = collect.variant_pairs(collect.describe(results.runs))
    groups = {variant: [baseline, variant] for baseline, variant in pairs} or _groups(results)
    return _curves(groups, results.history, "epoch", "validation macro F1")


def amounts(results: Results, column: str) -> Figure | None:
    """Test macro F1 by the number of labelled `records`, or by the `pretraining_fraction` of the
    patients that beats are pretrained on (0: random weights), beside the replication's: a line for
    scenarios that differ in nothing else. None if there are no two amounts."""
    f1 = stats.score_runs(results.predictions).groupby("scenario")[MACRO_F1].agg(["mean", "std"])
    cells, same = collect.describe(results.runs).join(f1), ["network", *NETWORK, "flags"]
    if column == "records":
        same += ["objective", "pretraining_fraction"]
        ticks, label = sorted(cells[column].unique()), "labelled recordings"
    else:
        ticks, label = FRACTIONS, "share of the patients to pretrain on"
        cells[column] = cells[column].mask(cells["objective"] == RANDOM, 0)
        chosen = cells["objective"].isin([RANDOM, "beat"])
        cells = cells[chosen & (cells["records"] == cells["records"].max())]
    groups = cells.dropna(subset=column).sort_values(column).groupby(same, dropna=False)
    lines = [line for _, line in groups if line[column][line[column] > 0].nunique() > 1]
    if not lines:
        return None
    if column != "records":
        theirs = tables.published().query("source == 'Team 1'").fillna({column: 0})
        theirs[["mean", "std"]] = theirs[MACRO_F1].str.split(" ± ", expand=True).astype(float)
        lines += [line for _, line in theirs.assign(objective="Team 1").groupby("network")]
    figure, (axes,) = _panels(1, (8, 4.5))
    axes.set_xscale("symlog", linthresh=0.01)
    for line, colour in zip(lines, cycle(COLOURS[1:]), strict=False):
        cell = line.iloc[-1]
        known = cell.reindex(["objective", "network", *NETWORK]).dropna().map(str)
        name = ", ".join([*known, *collect.split_flags(cell["flags"])])
        axes.errorbar(line[column], line["mean"], line["std"].fillna(0), fmt="o-", capsize=3,
                      color=colour, label=name)  # fmt: skip
    axes.set_xticks(ticks, [f"{x:,.0f}" if x > 1 else f"{x:.3g}" for x in ticks])
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel="test macro F1 (mean ± sd)")
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def confusions(results: Results) -> Figure:
    """Confusion matrix of each scenario over all its seeds: share of each true class."""
    scenarios = stats.split_by("scenario", results.predictions)
    figure, panels = _panels(len(scenarios), (3.1, 3.1))
    for axes, (name, run) in zip(panels, scenarios.items(), strict=True):
        ConfusionMatrixDisplay.from_predictions(
            run.true.argmax(1), run.prob.argmax(1), labels=range(len(run.classes)),
            display_labels=run.classes, normalize="true", values_format=".2f", cmap="Blues",
            colorbar=False, ax=axes, im_kw={"clim": (0, 1)},
        )  # fmt: skip
        axes.set(title=name, xlabel="predicted", ylabel="true")
    return figure


def calibration(results: Results) -> Figure:
    """Reliability diagram of each scenario over all its seeds, with the expected calibration error
    and the share of the predictions in each bin."""
    scenarios = stats.split_by("scenario", results.predictions)
    temperatures = results.runs.groupby("scenario")["temperature"].agg(stats.mean_and_sd, digits=2)
    figure, panels = _panels(len(scenarios), (3.1, 3.3))
    for axes, (name, run) in zip(panels, scenarios.items(), strict=True):
        table = pd.DataFrame(metrics.reliability(run.true.argmax(1), run.prob))
        width = 1 / metrics.BINS
        shares = table["count"] / table["count"].sum()
        axes.bar(table.index * width, shares, width, align="edge", color="#ccc")
        axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        drawn = table[table["count"] >= MIN_COUNT]
        axes.plot(drawn["confidence"], drawn["accuracy"], "o-", color=COLOURS[1], label="accuracy")
        error = metrics.calibration_errors(run.true.argmax(1), run.prob)["ece"]
        axes.set_title(f"{name}, ECE {error:.3f}\ntemperature {temperatures[name] or 'none'}")
        axes.set(xlabel="confidence", ylabel="share", aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left", fontsize="small")
    return figure


def coverages(results: Results) -> Figure:
    """Test macro F1 of the most confident recordings by their share: mean over seeds, and range; a
    panel per network and number of labelled recordings."""
    table = pd.concat(
        pd.DataFrame(metrics.coverage(run.true.argmax(1), run.prob)).assign(scenario=name)
        for (name, _), run in stats.split_by(collect.RUN, results.predictions).items()
    )
    return _curves(_groups(results), table, "coverage", "test macro F1")


def roc_curves(validations: tables.Tables) -> Figure | None:
    """ROC curves of external validation, a panel per kind of signal; the dot is the operating point
    of the most probable class."""
    kinds = {}
    for name, table in validations.items():
        kinds.setdefault(table["signal"].iloc[0], {})[name] = tables.detections(table)
    if not kinds:
        return None
    figure, panels = _panels(len(kinds), (4.6, 4.4))
    for axes, (kind, same) in zip(panels, kinds.items(), strict=True):
        for (name, windows), colour in zip(same.items(), cycle(COLOURS), strict=False):
            columns = [windows[c].to_numpy() for c in ("true", "predicted", "score")]
            point = metrics.detection(*columns)
            RocCurveDisplay.from_predictions(columns[0], columns[2], ax=axes, name=name,
                                             curve_kwargs={"color": colour})  # fmt: skip
            axes.plot(1 - point["specificity"], point["sensitivity"], "o", color=colour, mec="k")
        axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        axes.set(title=f"signal {kind}", xlabel="1 − specificity", ylabel="sensitivity")
        axes.legend(loc="lower right", fontsize="small")
    return figure


def _panels(number: int, size: tuple[float, float], across: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels of `size` inches, row by row."""
    columns = min(number, across)
    rows = -(-number // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, n + 1) for n in range(number)]


def _groups(results: Results) -> dict[str, list[str]]:
    """Scenarios with the same network and number of labelled recordings, by a title for them."""
    cells = collect.describe(results.runs)
    titles = cells["network"] + cells["records"].map(", {:,} labelled recordings".format)
    return {title: [*names] for title, names in cells.groupby(titles, sort=False).groups.items()}


def _colours(names: Iterable[str]) -> dict[str, str]:
    """By name; grey for the first scenario of random weights."""
    grey = next((name for name in names if name.startswith(RANDOM)), None)
    others = cycle(COLOURS[1:])
    return {name: COLOURS[0] if name == grey else next(others) for name in names}


def _curves(groups: dict[str, list[str]], table: pd.DataFrame, x: str, ylabel: str) -> Figure:
    """Macro F1 by `x`, a panel for each group of scenarios."""
    figure, panels = _panels(len(groups), (5, 3.6), across=2)
    limits = table["macro_f1"].min() - 0.02, table["macro_f1"].max() + 0.02
    for axes, (title, names) in zip(panels, groups.items(), strict=True):
        _draw_ranges(axes, table, x, _colours(names))
        axes.set(title=title, ylabel=ylabel, ylim=limits)
    return figure


def _draw_ranges(axes: Axes, table: pd.DataFrame, x: str, colours: dict[str, str]) -> None:
    """Mean macro F1 over the seeds, and a band from the smallest to the largest value."""
    for name, colour in colours.items():
        f1 = table[table["scenario"] == name].groupby(x)["macro_f1"].agg(["mean", "min", "max"])
        axes.plot(f1["mean"], color=colour, label=name, marker=".")
        axes.fill_between(f1.index, f1["min"], f1["max"], color=colour, alpha=0.2, lw=0)
    axes.set_xlabel(x)
    axes.xaxis.get_major_locator().set_params(integer=x == "epoch")
    axes.grid(alpha=0.3)
    axes.legend()
