"""Results of fine-tuning runs as tidy tables, from job directories or from saved files."""

import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from report import provenance
from utils.cli import UserError
from utils.files import atomic_path, read_json, write_text
from utils.names import ARGUMENTS, SCORES
from utils.predictions import read_predictions, split_columns

RUN = ["scenario", "seed"]  # what tells runs apart, in all tables
TABLES = ("history", "predictions")  # saved by scenario, compressed
RUNS = "runs.csv"
NAMES = ["record_name", "scenario", "record", "subject"]  # that may look like numbers
DIGITS = {"predictions": "%.7g"}  # of float32; more would only be larger


class Results(NamedTuple):
    """`history` has a row per epoch, `predictions` one per test recording, of every run; `runs` a
    row per run that says where it comes from, see `report.provenance`."""

    history: pd.DataFrame
    predictions: pd.DataFrame
    runs: pd.DataFrame


def from_jobs(scenarios: Sequence[tuple[str, Sequence[Path]]]) -> Results:
    """Collect finished runs, given by scenario.

    Raises:
        UserError: a folder is not a finished run with a test set, or the runs cannot be compared.
    """
    runs = [_read_job(scenario, job) for scenario, jobs in scenarios for job in jobs]
    if not runs:
        raise UserError("there is no finished run to collect")
    seen = set()
    for scenario, seed, job, _, predictions in runs:
        if (scenario, seed) in seen:
            raise UserError(f"{job}: {scenario} has two runs with seed {seed}; name them apart")
        seen.add((scenario, seed))
        if not predictions["record_name"].equals(runs[0][-1]["record_name"]):
            raise UserError(f"{job} was tested on other recordings than {runs[0][2]}")
    keys = [(scenario, seed) for scenario, seed, *_ in runs]
    history, predictions = (
        pd.concat([run[place] for run in runs], keys=keys, names=RUN).reset_index(level=RUN)
        for place in (-2, -1)
    )
    sources = [
        {"scenario": name, "seed": seed, **provenance.read(job)} for name, seed, job, *_ in runs
    ]
    return Results(history, predictions, pd.DataFrame(sources))


def name_cells(cells: Iterable[Any]) -> list[tuple[str, list[Path]]]:
    """Runs of a study by scenario, for `from_jobs`; with less than the most labels of the study as
    a scenario of its own, such as `beat_10` for 10 %.

    Args:
        cells: of `study.cells.finished_cells`, with `scenario`, `subset`, `job`.
    """
    cells = list(cells)
    most = max((cell.subset for cell in cells), default=1)
    found = {}
    for cell in cells:
        suffix = f"_{100 * cell.subset:g}" if cell.subset < most else ""
        found.setdefault(cell.scenario + suffix, []).append(cell.job)
    return list(found.items())


def _read_job(scenario: str, job: Path) -> tuple[str, int, Path, pd.DataFrame, pd.DataFrame]:
    if not (job / SCORES).exists():
        raise UserError(f"{job} holds no finished fine-tuning run (no scores.json)")
    try:
        seed = int(read_json(job / ARGUMENTS)["arguments"]["seed"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{job / ARGUMENTS} names no seed; run it again") from None
    predictions = job / "test_predictions.csv"
    if (read_predictions(predictions).true.sum(1) != 1).any():
        raise UserError(f"{job} has several classes to a recording; its scores are in scores.json")
    return scenario, seed, job, read_table(job / "history.csv"), read_table(predictions)


def save(results: Results, folder: Path) -> None:
    """Write one compressed table of predictions and one of histories per scenario, and `runs.csv`;
    scenarios that the folder holds besides are kept."""
    for name in TABLES:
        for scenario, part in getattr(results, name).groupby("scenario", sort=False):
            text = part.to_csv(index=False, float_format=DIGITS.get(name), lineterminator="\n")
            write_text(folder / f"{scenario}_{name}.csv.gz", text)
    runs = results.runs
    if (folder / RUNS).exists():
        before = read_table(folder / RUNS)
        runs = pd.concat([before[~before["scenario"].isin(runs["scenario"])], runs])
    with atomic_path(folder / RUNS) as temporary:
        runs.to_csv(temporary, index=False, lineterminator="\n")


def load(folder: Path) -> Results:
    """Read what `save` wrote, `random` first, then by name.

    Raises:
        UserError: nothing was saved in `folder`.
    """
    tables = []
    for name in TABLES:
        paths = sorted(folder.glob(f"*_{name}.csv.gz"), key=lambda p: ("random" not in p.name, p))
        if not paths:
            raise UserError(f"{folder} holds no saved results (*_{name}.csv.gz)")
        tables.append(pd.concat([_read_saved(path) for path in paths], ignore_index=True))
    runs = tables[-1][RUN].drop_duplicates(ignore_index=True)
    if (folder / RUNS).exists():
        runs = runs.merge(read_table(folder / RUNS), how="left", on=RUN)
    return Results(*tables, runs.reindex(columns=[*RUN, *provenance.COLUMNS]))


def load_all(folder: Path) -> dict[str, Results]:
    """Every study of which results were saved in a folder of its own, by name."""
    folders = sorted({path.parent for path in folder.glob("*/*_predictions.csv.gz")})
    return {folder.name: load(folder) for folder in folders}


def _read_saved(path: Path) -> pd.DataFrame:
    table = read_table(path)
    try:
        values = table.drop(columns=RUN)
        if "predictions" in path.name:
            split_columns(values)
    except (KeyError, ValueError):
        raise UserError(f"{path} is not a saved table") from None
    return table


def read_table(path: Path) -> pd.DataFrame:
    """Read CSV, compressed or not; raises `UserError` where it is none."""
    # Only an empty cell is missing: NA may be the name of a recording.
    try:
        return pd.read_csv(
            path,
            dtype=dict.fromkeys([*NAMES, *provenance.TEXTS], str),
            keep_default_na=False,
            na_values=[""],
            compression="gzip" if path.suffix == ".gz" else None,
        )
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):  # pandas' errors, too
        raise UserError(f"{path} is damaged, or not a table") from None
