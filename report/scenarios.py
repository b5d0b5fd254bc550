"""What the scenarios of a study are, and which of them are compared."""

from collections.abc import Iterator

import pandas as pd

from report.provenance import RANDOM
from utils import names

ALIKE = ["architecture", "records", "flags"]  # in these, pretrained and random weights are
START = ["objective", "pretraining_manifest_sha256", "fraction", "max_epochs"]


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario, named by it: `seeds`, `network` (1-D or 2-D), and `objective`,
    `fraction` (of the set to pretrain on), `records`, `max_epochs`, … of its first run."""
    table = runs.groupby("scenario", sort=False).first()
    table.insert(0, "seeds", runs.groupby("scenario", sort=False)["seed"].apply(sorted))
    spectral = table["architecture"].isin(names.SPECTRAL_ARCHITECTURES)
    table.insert(1, "network", spectral.map({True: "2-D", False: "1-D"}))
    # Results saved without `runs.csv` have their names only.
    guessed = [RANDOM if name.startswith(RANDOM) else None for name in table.index]
    table["objective"] = (
        table["objective"]
        .astype(object)
        .combine_first(pd.Series(guessed, table.index, dtype=object))
    )
    return table.rename(columns={"pretraining_fraction": "fraction"}).sort_values(
        ["network", "records", "fraction"], kind="stable", na_position="first"
    )


def groups(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Scenarios with the same network and number of labelled recordings, with words for them."""
    for (network, records), group in cells.groupby(["network", "records"], dropna=False):
        known = f", {records:,.0f} labelled recordings" if pd.notna(records) else ""
        yield f"{network}{known}", group


def pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(random, pretrained) with the same architecture, labelled recordings and flags."""
    found = {}
    for _, group in cells.groupby(ALIKE, dropna=False):
        random = group["objective"] == RANDOM
        found |= {name: list(group.index[random]) for name in group.index[~random]}
    return [(random, name) for name in cells.index for random in found.get(name, [])]


def variants(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(baseline, variant) that start from the same weights and differ in their flags: the baseline
    has the fewest, a variant has these and others."""
    same = [name for name in [*ALIKE, *START] if name != "flags"]
    found = []
    for _, group in cells.groupby(same, dropna=False):
        sets = {name: set(flags(text)) for name, text in group["flags"].items()}
        baseline = min(sets, key=lambda name: len(sets[name]))
        found += [(baseline, name) for name in sets if sets[baseline] < sets[name]]
    return found


def temperature(runs: pd.DataFrame, scenario: str) -> str:
    """`temperature 1.31 to 1.52` of its runs; `without temperature` of runs from before there was
    one, or of another program."""
    found = runs.loc[runs["scenario"] == scenario, "temperature"].dropna()
    if found.empty:
        return "without temperature"
    ends = dict.fromkeys(f"{value:.2f}" for value in (found.min(), found.max()))
    return f"temperature {' to '.join(ends)}"


def flags(text: str | None) -> list[str]:
    """Each of what `report.provenance.flags` wrote."""
    return text.split(", ") if isinstance(text, str) else []


def share(fraction: float) -> str:
    """`25 %`."""
    return f"{100 * fraction:.3g} %"
