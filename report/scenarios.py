"""What the scenarios of a study are, and which of them are compared."""

from collections.abc import Iterator
from functools import cache

import pandas as pd

from models import ENCODERS
from report import provenance
from report.provenance import NO_FLAGS, RANDOM
from utils.cli import PRESETS

NETWORK = ["architecture", "stages", "spectrogram"]
ALIKE = [*NETWORK, "records", "flags"]  # in these, pretrained and random weights are
START = ["objective", "pretraining_manifest_sha256", "fraction", "max_epochs"]
# All runs of a scenario are alike in these. Where patients stay together, the number of records
# depends on the seed, and not only on the data and their share.
DESCRIBED = [
    *NETWORK, "subset", "manifest_sha256", "flags", "objective", "pretraining_manifest_sha256",
    "pretraining_fraction", "max_epochs",
]  # fmt: skip
UNKNOWN = "not recorded"
WORKS = ("paper", "authors-code", "team1")  # whose flags are the published ones


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario, named by it: `seeds`, `network` (1-D or 2-D), `flags`, and `objective`,
    `fraction` (of the set to pretrain on), `records`, `max_epochs`, … of its first run, whether
    that has them or not."""
    by_scenario = runs.groupby("scenario", sort=False)
    table = runs.drop_duplicates("scenario").set_index("scenario")
    table["seeds"] = by_scenario["seed"].apply(sorted)
    # Other ones, which earlier versions collected as one scenario, are like those of no other.
    flags = runs["flags"].astype(object).fillna(UNKNOWN)
    flags = flags.groupby(runs["scenario"]).agg(lambda own: "; ".join(own.unique()))
    table["flags"] = flags[flags != UNKNOWN]
    spectral = table["architecture"].isin([name for name, row in ENCODERS.items() if row.spectral])
    table.insert(0, "network", spectral.map({True: "2-D", False: "1-D"}))
    # Results saved without `runs.csv` have their names only.
    guessed = [RANDOM if name.startswith(RANDOM) else None for name in table.index]
    table["objective"] = (
        table["objective"]
        .astype(object)
        .combine_first(pd.Series(guessed, table.index, dtype=object))
    )
    table["fraction"] = table.pop("pretraining_fraction").astype(float)
    return table.sort_values(["network", "records", "fraction"], kind="stable", na_position="first")


def groups(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Scenarios with the same network and number of labelled recordings, with words for them."""
    for (network, records), group in cells.groupby(["network", "records"], dropna=False):
        known = f", {records:,.0f} labelled recordings" if pd.notna(records) else ""
        yield f"{network}{known}", group


def pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(random, pretrained) with the same network, labelled recordings and flags; those that nobody
    recorded are taken for none."""
    found = {}
    for _, group in cells.fillna({"flags": NO_FLAGS}).groupby(ALIKE, dropna=False):
        random = group["objective"] == RANDOM
        found |= {name: list(group.index[random]) for name in group.index[~random]}
    return [(random, name) for name in cells.index for random in found.get(name, [])]


def variants(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(baseline, variant) that start from the same weights and differ in their flags: the baseline
    has none but published ones, a variant has these and others."""
    same = [name for name in [*ALIKE, *START] if name != "flags"]
    found = []
    for _, group in cells.groupby(same, dropna=False):
        sets = {name: set(flags(text)) for name, text in group["flags"].items()}
        plain = [name for name, text in group["flags"].items() if not extra(text)]
        for baseline in sorted(plain, key=lambda name: len(sets[name]))[:1]:
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
    return text.split(", ") if isinstance(text, str) and text != NO_FLAGS else []


def extra(text: str | None) -> list[str]:
    """Those that no published work has."""
    return [flag for flag in flags(text) if flag not in _published()]


@cache
def _published() -> set[str]:
    texts = [provenance.flags(PRESETS["finetuning"][work]) for work in WORKS]
    return {flag for text in texts for flag in flags(text)}


def network(cell: pd.Series) -> str:
    """`resnet18`, with what else tells it apart: `resnet18, stages 1`; empty where not recorded."""
    words = {"architecture": "{}", "stages": "stages {:.0f}", "spectrogram": "{}"}
    known = [word.format(cell[name]) for name, word in words.items() if pd.notna(cell[name])]
    return ", ".join(known)


def share(fraction: float) -> str:
    """`25 %`."""
    return f"{100 * fraction:.3g} %"
