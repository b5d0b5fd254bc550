"""Results of fine-tuning runs as tidy tables, from job directories or from saved files."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.cli import UserError
from utils.files import atomic_path, read_json
from utils.predictions import read_predictions, split_columns
from utils.runlog import ARGUMENTS

RUN = ["scenario", "seed"]  # what tells runs apart, in both tables


class Results(NamedTuple):
    """`history` has a row per epoch, `predictions` one per test recording, of every run."""

    history: pd.DataFrame
    predictions: pd.DataFrame


def from_jobs(scenarios: Sequence[tuple[str, Sequence[Path]]]) -> Results:
    """Collect finished runs, given by scenario.

    Raises:
        UserError: a folder is not a finished run with a test set, or the runs cannot be compared.
    """
    runs = [_read_job(scenario, job) for scenario, jobs in scenarios for job in jobs]
    seen = set()
    for scenario, seed, job, _, predictions in runs:
        if (scenario, seed) in seen:
            raise UserError(f"{job}: {scenario} has two runs with seed {seed}; name them apart")
        seen.add((scenario, seed))
        if not predictions["record_name"].equals(runs[0][-1]["record_name"]):
            raise UserError(f"{job} was tested on other recordings than {runs[0][2]}")
    keys = [(scenario, seed) for scenario, seed, *_ in runs]
    return Results(
        *(
            pd.concat([run[place] for run in runs], keys=keys, names=RUN).reset_index(level=RUN)
            for place in (-2, -1)
        )
    )


def _read_job(scenario: str, job: Path) -> tuple[str, int, Path, pd.DataFrame, pd.DataFrame]:
    if not (job / "scores.json").exists():
        raise UserError(f"{job} holds no finished fine-tuning run (no scores.json)")
    try:
        seed = int(read_json(job / ARGUMENTS)["arguments"]["seed"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{job / ARGUMENTS} names no seed; run it again") from None
    predictions = job / "test_predictions.csv"
    if (read_predictions(predictions).true.sum(1) != 1).any():
        raise UserError(f"{job} has several classes to a recording; its scores are in scores.json")
    return scenario, seed, job, _read(job / "history.csv"), _read(predictions)


def save(results: Results, folder: Path) -> None:
    """Write one compressed table of predictions and one of histories per scenario."""
    for name, table in results._asdict().items():
        for scenario, part in table.groupby("scenario", sort=False):
            with atomic_path(folder / f"{scenario}_{name}.csv.gz") as temporary:
                # A fixed time inside the archive, so that equal results are equal files.
                part.to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})


def load(folder: Path) -> Results:
    """Read what `save` wrote, `random` first, then by name.

    Raises:
        UserError: nothing was saved in `folder`.
    """
    tables = []
    for name in Results._fields:
        paths = sorted(folder.glob(f"*_{name}.csv.gz"), key=lambda p: ("random" not in p.name, p))
        if not paths:
            raise UserError(f"{folder} holds no saved results (*_{name}.csv.gz)")
        tables.append(pd.concat([_read_saved(path) for path in paths], ignore_index=True))
    return Results(*tables)


def _read_saved(path: Path) -> pd.DataFrame:
    table = _read(path)
    try:
        values = table.drop(columns=RUN)
        if "predictions" in path.name:
            split_columns(values)
    except (KeyError, ValueError):
        raise UserError(f"{path} is not a saved table") from None
    return table


def _read(path: Path) -> pd.DataFrame:
    # Only an empty cell is missing: NA may be the name of a recording.
    try:
        return pd.read_csv(
            path,
            dtype={"record_name": str, "scenario": str},
            keep_default_na=False,
            na_values=[""],
            compression="gzip" if path.suffix == ".gz" else None,
        )
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):  # pandas' errors, too
        raise UserError(f"{path} is damaged, or not a table") from None
