"""Results of fine-tuning runs as two tidy tables, from job directories or from saved files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.cli import UserError
from utils.files import atomic_path, read_json
from utils.runlog import ARGUMENTS


class Results(NamedTuple):
    """`history` has a row per epoch, `predictions` one per test recording; both tell `scenario`
    and `seed` of the run."""

    history: pd.DataFrame
    predictions: pd.DataFrame


def from_jobs(scenarios: Mapping[str, Sequence[Path]]) -> Results:
    """Collect finished runs, given by scenario.

    Raises:
        UserError: a folder is not a finished fine-tuning run with a test set.
    """
    tables: dict[str, list[pd.DataFrame]] = {"history": [], "test_predictions": []}
    for scenario, folders in scenarios.items():
        for folder in folders:
            if not (folder / "scores.json").exists():
                raise UserError(f"{folder} holds no finished fine-tuning run (no scores.json)")
            seed = read_json(folder / ARGUMENTS)["arguments"]["seed"]
            for name, parts in tables.items():
                part = _read(folder / f"{name}.csv")
                part.insert(0, "seed", seed)
                part.insert(0, "scenario", scenario)
                parts.append(part)
    return Results(*(pd.concat(parts, ignore_index=True) for parts in tables.values()))


def save(results: Results, folder: Path) -> None:
    """Write one compressed table of predictions and one of histories per scenario."""
    for name, table in results._asdict().items():
        for scenario, part in table.groupby("scenario", sort=False):
            with atomic_path(folder / f"{scenario}_{name}.csv.gz") as temporary:
                # A fixed time inside the archive, so that equal results are equal files.
                part.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})


def load(folder: Path) -> Results:
    """Read what `save` wrote, scenarios in the order of their names, `random` first.

    Raises:
        UserError: nothing was saved in `folder`.
    """
    tables = []
    for name in Results._fields:
        paths = sorted(folder.glob(f"*_{name}.csv.gz"), key=lambda p: ("random" not in p.name, p))
        if not paths:
            raise UserError(f"{folder} holds no saved results (*_{name}.csv.gz)")
        tables.append(pd.concat([_read(path) for path in paths], ignore_index=True))
    return Results(*tables)


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"{path} does not exist; run the trainer with --test")
    return pd.read_csv(path, dtype={"record_name": str, "scenario": str})
