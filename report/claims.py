"""What was published, and whether the results at hand reproduce it."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from report import scenarios
from report import stats as statistics
from report.collect import Results
from report.provenance import RANDOM
from report.stats import Interval
from report.tables import NOT_RUN, p_value, published

FAMILY = {"objective": ["rhythm", "hr", "cpc"], "lowest": 0.758, "highest": 0.779}  # of the paper
NEARLY_ALL = 0.8  # of the patients; the replication's largest 2-D model had seen 88 %
# What the published trials have in common; seeds: at least.
PROTOCOL = {
    "records": 6395,
    "labels": "zip",
    "max_epochs": 200,
    "pretraining_dataset": "icentia11k",
}
SEEDS = 10
ALPHA = 0.05


class Found(NamedTuple):
    """A difference in a study; `differs`: in what its protocol is not the published one."""

    study: str
    pair: str
    difference: Interval
    seeds: int
    wins: int
    p: float
    differs: str


def table(studies: dict[str, Results]) -> pd.DataFrame:
    """A row per published claim and study that can speak to it; `not run` without any."""
    claimed = list(_claims(studies))
    p = statistics.holm([each.p for *_, found in claimed for each in found])  # of the whole table
    corrected, rows = iter(p), []
    for claim, theirs, found in claimed:
        rows += [_row(claim, theirs, each, next(corrected)) for each in found] or [
            {"published": claim, "there": theirs, "verdict": NOT_RUN}
        ]
    return pd.DataFrame(rows).fillna("")


def _row(claim: str, theirs: str, found: Found, p: float) -> dict[str, str]:
    return {
        "published": claim,
        "there": theirs,
        "verdict": verdict(found, p),
        "here: macro F1, 95 % over seeds": f"{found.difference:+.3f}",
        "seeds": str(found.seeds),
        "p, Holm": p_value(p),
        "study": f"{found.study}: {found.pair}",
        "why not the same protocol": found.differs,
    }


def verdict(found: Found, p: float) -> str:
    """In words, for a claim that the difference is positive.

    Below six seeds there is no test, and the bootstrap interval, too narrow then, decides nothing.
    """
    if pd.isna(p):
        return f"too few seeds to tell: {found.wins} of {found.seeds} gain"
    if p >= ALPHA:
        words = "no clear difference"
    elif found.difference.mean < 0:
        words = "the contrary is seen"
    else:
        words = "seen" if found.differs else "reproduced"
    return f"{words}, by another protocol" if found.differs else words


def _claims(studies: dict[str, Results]) -> Iterator[tuple[str, str, list[Found]]]:
    rows = published()
    for network in ("1-D", "2-D"):
        theirs = _gains(rows[rows["network"] == network])
        claim = f"beat classification is better than random weights, {network}"
        yield claim, theirs, _against_random(studies, network, "beat")
    wide = f"paper: macro F1 of all four objectives {FAMILY['lowest']} to {FAMILY['highest']}"
    for objective in FAMILY["objective"]:
        claim = f"{objective} is better than random weights, 1-D"
        yield claim, wide, _against_random(studies, "1-D", objective)
    team = rows[(rows["source"] == "Team 1") & (rows["objective"] == "beat")]
    for network, group in team.groupby("network"):
        steps = ", ".join(
            f"{scenarios.share(f)} {f1:.3f}" for f, f1 in group[["fraction", "macro F1"]].to_numpy()
        )
        claim = f"a part of the patients already helps, {network}"
        yield claim, f"Team 1: {steps}", _against_random(studies, network, "beat", part=True)
    few = "paper: fewer annotations are needed"
    yield "pretraining helps with few labels, too", few, _with_few_labels(studies)


def _gains(rows: pd.DataFrame) -> str:
    """`paper: 0.731 to 0.779 (+0.048); …`, to the best model that saw nearly all patients."""
    parts = []
    for source, group in rows.groupby("source", sort=False):
        random = group.loc[group["objective"] == RANDOM, "macro F1"].item()
        best = group.loc[group["fraction"] >= NEARLY_ALL, "macro F1"].max()
        parts.append(f"{source}: {random:.3f} to {best:.3f} ({best - random:+.3f})")
    return "; ".join(parts)


def _against_random(
    studies: dict[str, Results], network: str, objective: str, part: bool = False
) -> list[Found]:
    """With the most labels of each study, pretrained on a `part` of the patients, or on nearly all
    or nobody knows how many."""

    def wanted(cells: pd.DataFrame) -> pd.Series:
        known = cells["fraction"] < NEARLY_ALL
        most = cells["records"].fillna(0) == cells["records"].fillna(0).max()
        same = (cells["network"] == network) & (cells["objective"] == objective)
        return same & most & (known == part)

    return _find(studies, wanted, {"fraction"} if part else set())


def _with_few_labels(studies: dict[str, Results]) -> list[Found]:
    def wanted(cells: pd.DataFrame) -> pd.Series:
        return (cells["records"] < cells["records"].max()) & (cells["objective"] != RANDOM)

    return _find(studies, wanted, {"records"})


def _find(studies: dict[str, Results], wanted, varied: set[str]) -> list[Found]:
    found = []
    for study, results in studies.items():
        cells = scenarios.describe(results.runs)
        chosen = cells.index[wanted(cells)]
        pairs = [pair for pair in scenarios.pairs(cells) if pair[1] in chosen]
        if not pairs:
            continue
        differences = statistics.compare(statistics.score_runs(results.predictions), pairs)
        for _, row in differences.iterrows():
            baseline, scenario, seeds, difference, wins, p = row.iloc[:6]
            cell, pair = cells.loc[scenario].copy(), f"{scenario} − {baseline}"
            if pd.isna(cells.loc[baseline, "flags"]):
                cell["flags"] = None  # of one of the two nobody knows
            differs = protocol(cell, seeds, varied)
            found.append(Found(study, pair, difference, seeds, wins, p, differs))
    return found


def protocol(cell: pd.Series, seeds: int, varied: set[str] = frozenset()) -> str:
    """In what a pretrained scenario differs from the published protocol, in words."""
    words = {
        "records": "{:,.0f} of {:,} labelled recordings",
        "labels": "labels {}, not {}",
        "max_epochs": "at most {:.0f} of {} epochs",
        "pretraining_dataset": "pretrained on {}, not {}",
        "fraction": "pretrained on {} of the patients",
        "flags": "trained with {}",
    }
    own = scenarios.extra(cell["flags"])
    shown = {"fraction": scenarios.share(cell["fraction"]), "flags": ", ".join(own)}
    same = {name: cell[name] == value for name, value in PROTOCOL.items()}
    same |= {"fraction": cell["fraction"] >= NEARLY_ALL, "flags": not own}
    differs = [f"{seeds} of {SEEDS} seeds"] * (seeds < SEEDS)
    for name, alike in same.items():
        if name in varied:
            continue
        if pd.isna(cell[name]):
            differs.append(f"{name.replace('_', ' ')} {scenarios.UNKNOWN}")
        elif not alike:
            differs.append(words[name].format(shown.get(name, cell[name]), PROTOCOL.get(name)))
    return "; ".join(differs)
