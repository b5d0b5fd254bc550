"""Networks on another device and lead: scores, curves and answers.

Windows of one subject are alike, so that intervals are over subjects: each resampled set has as
many subjects as there are, drawn with replacement, with all of their windows. With few subjects in
fibrillation they are too narrow.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from finetuning.predict.rhythms import AF, CLASS, MIXED, NOT_AF
from recordings.annotations import FLUTTER
from report import stats as statistics
from report.collect import read_table
from report.figures import COLOURS
from report.stats import Interval
from utils import metrics
from utils.cli import UserError

PROBABILITY = f"prob_{CLASS}"
WINDOW = ["record", "subject", "start", "rhythms", "truth"]
NEEDED = {*WINDOW, "signal", "answer", PROBABILITY}
RESAMPLES = 2_000
Tables = dict[str, pd.DataFrame]


def load_all(folder: Path) -> Tables:
    """Saved tables by the name of their file, those of signals as they are first.

    Raises:
        UserError: a file is no such table, or holds other windows than another.
    """
    tables = {}
    for path in sorted(folder.glob("*.csv.gz")):
        table = tables[path.name.removesuffix(".csv.gz")] = read_table(path)
        if not table.columns.isin(NEEDED).sum() == len(NEEDED) or table.empty:
            raise UserError(f"{path} is no table of finetuning.predict.external_validation")
        if not table[WINDOW].equals(next(iter(tables.values()))[WINDOW]):
            raise UserError(f"{path} holds other windows than the tables beside it; move it away")
    return dict(sorted(tables.items(), key=lambda item: item[1]["signal"][0] != "as it is"))


def counted(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Windows that are AF or not, which they are, and whether the answer is AF."""
    table = table[table["truth"].isin([AF, NOT_AF])]
    return table, (table["truth"] == AF).to_numpy(), (table["answer"] == CLASS).to_numpy()


def intervals(table: pd.DataFrame) -> dict[str, Interval]:
    """Each score of `metrics.detection` with its 95 % interval over subjects."""
    table, true, answered = counted(table)
    subjects, place = np.unique(table["subject"], return_inverse=True)
    number = len(subjects)
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    weights = np.vstack([np.ones(number), drawn])[:, place]  # the first is the set itself
    found = metrics.detection(true, answered, table[PROBABILITY].to_numpy(), weights)
    return {name: _interval(*np.split(values, [1])) for name, values in found.items()}


def _interval(own: np.ndarray, resampled: np.ndarray) -> Interval:
    known = resampled[np.isfinite(resampled)]  # some sets hold nobody in fibrillation
    return Interval(own.item(), *(statistics.ends(known) if len(known) else (np.nan, np.nan)))


def scores(tables: Tables) -> pd.DataFrame | None:
    """A row per table: what counts, and scores with their intervals over subjects."""
    rows = []
    for name, table in tables.items():
        kept, true, _ = counted(table)
        row = {"weights": name, "signal": table["signal"].iloc[0], "windows": len(kept)}
        row |= {"of them AF": true.sum(), "subjects": kept["subject"].nunique()}
        row |= {"of them with AF": kept.loc[true, "subject"].nunique()}
        row |= {"windows not counted": len(table) - len(kept)}
        values = intervals(table)
        rows.append(row | {k: "" if np.isnan(v.mean) else str(v) for k, v in values.items()})
    return pd.DataFrame(rows) if rows else None


def answers(tables: Tables) -> pd.DataFrame | None:
    """A row per table: how often each class was the answer, by rhythm."""
    rows = []
    for name, table in tables.items():
        classes = [column.removeprefix("prob_") for column in table if column.startswith("prob_")]
        by_kind = table.groupby(kinds(table), sort=False)["answer"]
        shares = {
            f"{kind} ({len(own)})": ", ".join(f"{c} {(own == c).mean():.0%}" for c in classes)
            for kind, own in by_kind
        }
        rows.append({"weights": name} | shares)
    return pd.DataFrame(rows) if rows else None


def kinds(table: pd.DataFrame) -> np.ndarray:
    """Of each window, its rhythm in words, (n,)."""
    names, truth = table["rhythms"].str.split(), table["truth"]
    holds = {
        AF: truth == AF,
        "AF in part": truth == MIXED,
        "before the first mark": truth != NOT_AF,
        "flutter": names.map(lambda each: FLUTTER in each),
        "paced": names.map(lambda each: "P" in each),
        "sinus only": table["rhythms"] == "N",
    }
    return np.select(list(holds.values()), list(holds), "other")


def records(tables: Tables) -> pd.DataFrame | None:
    """A row per record with AF, and one for all others: `12; 3`, how many of its AF windows were
    found, and how many of its others were taken for AF."""
    columns = {}
    for name, table in tables.items():
        kept, true, answered = counted(table)
        group = kept["record"].where(kept["record"].isin(kept.loc[true, "record"]), "others")
        cells = pd.DataFrame({"AF": true, "not AF": ~true, "hits": true & answered})
        cells = cells.assign(false=~true & answered).groupby(group.to_numpy()).sum()
        columns |= {n: cells[n] for n in ("AF", "not AF")}
        columns[name] = [
            f"{h} of {a}; {f}" for h, a, f in cells[["hits", "AF", "false"]].to_numpy()
        ]
    return pd.DataFrame(columns).rename_axis("record").reset_index() if columns else None


def curves(tables: Tables) -> Figure | None:
    """ROC curves, a panel for each kind of signal; a dot is where the answers are."""
    signals = list(dict.fromkeys(table["signal"].iloc[0] for table in tables.values()))
    if not signals:
        return None
    figure, axes = plt.subplots(
        1, len(signals), figsize=(4.6 * len(signals), 4.4), layout="constrained", squeeze=False
    )
    for axis, signal in zip(axes.flat, signals, strict=True):
        own = {name: table for name, table in tables.items() if table["signal"].iloc[0] == signal}
        for colour, (name, table) in zip(COLOURS * len(own), own.items(), strict=False):
            _draw_curve(axis, name, table, colour)
        axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        axis.set(title=f"signal {signal}", xlabel="1 − specificity", ylabel="sensitivity")
        axis.set_aspect("equal")
        axis.legend(loc="lower right", fontsize="small")
    return figure


def _draw_curve(axis: plt.Axes, name: str, table: pd.DataFrame, colour: str) -> None:
    from sklearn.metrics import roc_curve

    table, true, answered = counted(table)
    point = metrics.detection(true, answered, table[PROBABILITY].to_numpy())
    false, found, _ = roc_curve(true, table[PROBABILITY])
    axis.plot(false, found, color=colour, label=f"{name}, AUC {point['AUC']:.3f}")
    axis.plot(1 - point["specificity"], point["sensitivity"], "o", color=colour, mec="black")
