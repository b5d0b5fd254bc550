"""What goes beyond the paper: variants of a recipe beside their baseline, by validation only."""

from pathlib import Path

import pandas as pd

from report import scenarios
from report import stats as statistics
from report.collect import RUN, VALIDATION, Results
from report.stats import MACRO_F1
from report.tables import NOT_RUN, p_value
from study.description import load

LAST = 5  # epochs whose mean is taken; the best of all would be too high, by being chosen
STUDIES = Path(__file__).parents[1] / "studies"


def late(history: pd.DataFrame) -> pd.DataFrame:
    """Validation macro F1, mean of the last epochs of each run: `scenario`, `seed`, `macro F1`.

    This is what variants are judged by, here and nowhere else.
    """
    last = history.sort_values("epoch").groupby(RUN, sort=False).tail(LAST)
    return last.groupby(RUN, sort=False)["macro_f1"].mean().rename(MACRO_F1).reset_index()


def table(results: Results, planned: dict[str, list[int]] | None = None) -> pd.DataFrame | None:
    """A row per baseline and variant; None without variants.

    Args:
        planned: seeds by scenario, see `planned`; those without results are `not run`.
    """
    planned, cells = planned or {}, scenarios.describe(results.runs)
    pairs = scenarios.variants(cells)
    if not pairs:
        return None
    scores = late(results.history)
    seeds = sorted({*scores["seed"]}.union(*planned.values()))
    values = scores.pivot(index="scenario", columns="seed", values=MACRO_F1).reindex(columns=seeds)
    compared = statistics.compare(scores, pairs).set_index("scenario")
    final = _at_the_end(results)
    rows = []
    for baseline in dict.fromkeys(baseline for baseline, _ in pairs):
        for name in [baseline, *(name for first, name in pairs if first == baseline)]:
            row = {"scenario": name, "changes": _changes(cells, baseline, name)}
            row |= _by_seed(values.loc[name], values.loc[baseline])
            row["mean"] = statistics.mean_and_sd(values.loc[name])
            row |= _difference(compared, name) if name in compared.index else {}
            for label, by_seed in final.items():
                gain = (by_seed[name] - by_seed[baseline]).mean()  # of common seeds
                row[label] = statistics.mean_and_sd(by_seed[name]) + _gain(gain, name != baseline)
            rows.append(row)
    missing = [name for name in planned if name not in cells.index]
    rows += [{"scenario": name, "changes": NOT_RUN} for name in missing]
    columns = max(rows, key=len)  # those of a variant
    return pd.DataFrame(rows, columns=columns).astype(object).fillna("")


def _at_the_end(results: Results) -> dict[str, pd.DataFrame]:
    """Validation macro F1 (seed × scenario) of the best epoch and, where they were saved, of the
    final predictions, which `--tta` changes."""
    best = results.history.groupby(RUN)["macro_f1"].max().unstack("scenario")
    if results.part != VALIDATION:
        return {"best epoch": best}
    final = statistics.score_runs(results.predictions).pivot(
        index="seed", columns="scenario", values=MACRO_F1
    )
    return {"best epoch": best, "final predictions": final}


def planned(results: Results, name: str) -> dict[str, list[int]]:
    """Seeds by scenario of the study that the results are of, where that was not recorded of
    `studies/NAME.toml`; empty where there is no such file."""
    known, found = results.runs["study"].dropna(), {}
    path = Path(known.iloc[0]) if len(known) else STUDIES / f"{name}.toml"
    for cell in load(path).cells if path.exists() else []:
        found.setdefault(cell.scenario, []).append(cell.seed)
    return found


def _changes(cells: pd.DataFrame, baseline: str, name: str) -> str:
    if name == baseline:
        return "baseline"
    known = scenarios.flags(cells.loc[baseline, "flags"])
    return ", ".join(
        flag for flag in scenarios.flags(cells.loc[name, "flags"]) if flag not in known
    )


def _by_seed(values: pd.Series, baseline: pd.Series) -> dict[str, str]:
    """`0.651 (+0.012)`, with the difference to the baseline of the same seed."""
    other = values.name != baseline.name
    return {
        f"seed {seed}": NOT_RUN
        if pd.isna(value)
        else f"{value:.3f}{_gain(value - baseline[seed], other)}"
        for seed, value in values.items()
    }


def _gain(difference: float, wanted: bool) -> str:
    return f" ({difference:+.3f})" if wanted and pd.notna(difference) else ""


def _difference(compared: pd.DataFrame, name: str) -> dict[str, str]:
    row = compared.loc[name]
    return {
        "difference": f"{row['difference'].mean:+.3f}",
        "common seeds": str(row["seeds"]),
        "95 %, seeds": row["difference"].ends(),
        "p, Holm": p_value(row["p_holm"]),
    }
