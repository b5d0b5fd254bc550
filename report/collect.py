"""Results of fine-tuning runs as tidy tables, from job directories or from saved files."""

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from report import provenance
from report.provenance import Origin
from report.scenarios import DESCRIBED, UNKNOWN
from utils.cli import UserError
from utils.files import atomic_path, read_json, write_text
from utils.metrics import read_predictions, split_columns
from utils.run import ARGUMENTS, SCORES

RUN = ["scenario", "seed"]  # what tells runs apart, in all tables
RUNS = "runs.csv"
NAMES = ["record_name", "scenario", "record", "subject"]  # that may look like numbers
TEST, VALIDATION = "test", "validation"  # the recordings that results are of
IN_JOBS = {TEST: "test_predictions.csv", VALIDATION: "val_predictions.csv"}
HISTORY = "history"  # saved by scenario, compressed, as are the predictions of
SAVED = {TEST: "predictions", VALIDATION: "validation"}
DIGITS = "%.7g"  # of float32; more would only be larger


class Results(NamedTuple):
    """`history` has a row per epoch, `predictions` one per recording of the `part` that they are
    of, of every run; `runs` a row per run that says where it comes from, see `report.provenance`.

    Runs are tested on the same recordings; validated on the same where their seeds are.
    """

    history: pd.DataFrame
    predictions: pd.DataFrame
    runs: pd.DataFrame
    part: str = TEST


def from_jobs(
    scenarios: Sequence[tuple[str, Sequence[Path]]],
    origins: Mapping[Path, Origin] | None = None,
    study: Path | None = None,
) -> Results:
    """Collect finished runs, given by scenario: their test predictions, or those on validation
    where not every run has a test set.

    Args:
        origins: of their weights by run, as far as a study knows. study: its file.

    Raises:
        UserError: a folder is not a finished run with predictions, the runs cannot be compared, or
            those of a scenario are not alike.
    """
    jobs = [(scenario, _seed(job), job) for scenario, jobs in scenarios for job in jobs]
    if not jobs:
        raise UserError("there is no finished run to collect")
    for place, (scenario, seed, job) in enumerate(jobs):
        if (scenario, seed) in [earlier[:2] for earlier in jobs[:place]]:
            raise UserError(f"{job}: {scenario} has two runs with seed {seed}; name them apart")
    tested = all((job / IN_JOBS[TEST]).exists() for *_, job in jobs)
    part = TEST if tested else VALIDATION
    keys = [(scenario, seed) for scenario, seed, _ in jobs]
    history, predictions = (
        pd.concat(tables, keys=keys, names=RUN).reset_index(level=RUN)
        for tables in (
            [read_table(job / "history.csv") for *_, job in jobs],
            [_read_predictions(job, part) for *_, job in jobs],
        )
    )
    origins = origins or {}
    sources = [
        {"scenario": name, "seed": seed, **provenance.read(job, origins.get(job))}
        for name, seed, job in jobs
    ]
    runs = pd.DataFrame(sources).assign(study=study and str(study))
    _check_alike(runs)
    results = Results(history, predictions, runs, part)
    _check_recordings(results)
    return results


def _check_alike(runs: pd.DataFrame) -> None:
    """Refuse what would be averaged as one scenario, and is not."""
    for scenario, own in runs.groupby("scenario", sort=False):
        for name in DESCRIBED:
            found = own[name].astype(object).fillna(UNKNOWN).map(str).unique()
            if len(found) > 1:
                raise UserError(
                    f"{scenario} holds runs with {name} {found[0]} and with {found[1]}; give them"
                    " as scenarios of their own"
                )


def _check_recordings(results: Results) -> None:
    """Refuse runs that cannot be compared: only those with other seeds may validate on others."""
    if results.runs["manifest_sha256"].dropna().nunique() > 1:
        raise UserError("the runs are of recordings that were prepared in different ways"
                        " (manifest_sha256); they cannot be compared")  # fmt: skip
    try:
        split_columns(results.predictions.drop(columns=RUN))
    except ValueError:
        raise UserError("the runs have other classes; they cannot be compared") from None
    first = {}
    for (scenario, seed), run in results.predictions.groupby(RUN, sort=False):
        truth = run.filter(regex="^(record_name|true_.*)$").to_numpy()
        name, expected = first.setdefault(
            seed if results.part == VALIDATION else None, (f"{scenario}, seed {seed},", truth)
        )
        if not np.array_equal(truth, expected):
            raise UserError(
                f"{scenario}, seed {seed}, and {name} have other recordings or labels in their"
                f" {results.part} sets; they cannot be compared"
            )


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


def _seed(job: Path) -> int:
    if not (job / SCORES).exists():
        raise UserError(f"{job} holds no finished fine-tuning run (no scores.json)")
    try:
        arguments = read_json(job / ARGUMENTS)["arguments"]
        if "task" in arguments:
            raise UserError(f"{job} holds a run of pretraining; name runs of fine-tuning")
        return int(arguments["seed"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{job / ARGUMENTS} names no seed; run it again") from None


def _read_predictions(job: Path, part: str) -> pd.DataFrame:
    path = job / IN_JOBS[part]
    if not path.exists():
        raise UserError(
            f"{job} has no {path.name}: runs are compared by their test sets where all have one,"
            " else by validation; run it again with --test, or without --val-size 0"
        )
    if (read_predictions(path).true.sum(1) != 1).any():
        raise UserError(f"{job} has several classes to a recording; its scores are in scores.json")
    return read_table(path)


def save(results: Results, folder: Path) -> None:
    """Write one compressed table of predictions and one of histories per scenario, and `runs.csv`;
    scenarios that the folder holds besides are kept.

    Raises:
        UserError: those are damaged, or cannot be compared with these.
    """
    runs, saved = results.runs, _part(folder)
    if saved and saved != results.part:
        raise UserError(f"{folder} holds results of {saved} sets, these are of {results.part} sets;"
                        " choose another folder")  # fmt: skip
    if saved:
        runs = _merge(load(folder), results).runs
    for name, table in ((HISTORY, results.history), (SAVED[results.part], results.predictions)):
        digits = None if name == HISTORY else DIGITS
        for scenario, rows in table.groupby("scenario", sort=False):
            text = rows.to_csv(index=False, float_format=digits, lineterminator="\n")
            write_text(folder / f"{scenario}_{name}.csv.gz", text)
    with atomic_path(folder / RUNS) as temporary:
        runs.to_csv(temporary, index=False, lineterminator="\n")


def _merge(before: Results, results: Results) -> Results:
    """With the scenarios of `before` that `results` lacks; refuses what cannot be compared."""
    new = results.runs["scenario"].unique()
    tables = (
        pd.concat([old[~old["scenario"].isin(new)], table])
        for old, table in zip(before[:3], results[:3], strict=True)
    )
    merged = Results(*tables, results.part)
    _check_recordings(merged)
    return merged


def _part(folder: Path) -> str | None:
    """Which recordings the results saved in a folder are of."""
    found = [part for part, name in SAVED.items() if any(folder.glob(f"*_{name}.csv.gz"))]
    if len(found) > 1:
        raise UserError(f"{folder} holds results of test and of validation sets; keep them apart")
    return found[0] if found else None


def load(folder: Path) -> Results:
    """Read what `save` wrote, `random` first, then by name.

    Raises:
        UserError: nothing was saved in `folder`, or something is damaged.
    """
    part = _part(folder)
    if not part:
        raise UserError(f"{folder} holds no saved results (*_predictions.csv.gz)")
    history, predictions = (_read_saved(folder, name) for name in (HISTORY, SAVED[part]))
    runs = predictions[RUN].drop_duplicates(ignore_index=True)
    if set(history[RUN].itertuples(index=False)) != set(runs.itertuples(index=False)):
        raise UserError(f"{folder} lacks files: its histories and predictions are of other runs")
    if (folder / RUNS).exists():
        try:
            runs = runs.merge(read_table(folder / RUNS), how="left", on=RUN, validate="one_to_one")
        except (KeyError, ValueError):
            raise UserError(f"{folder / RUNS} is not a table of runs, each once") from None
    runs = runs.reindex(columns=[*RUN, *provenance.COLUMNS])
    results = Results(history, predictions, runs, part)
    _check_recordings(results)
    return results


def load_all(folder: Path) -> dict[str, Results]:
    """Every study of which results were saved in a folder of its own, by name."""
    folders = sorted(path for path in folder.glob("*/") if _part(path))
    return {folder.name: load(folder) for folder in folders}


def _read_saved(folder: Path, name: str) -> pd.DataFrame:
    """One table of all scenarios."""
    paths = sorted(folder.glob(f"*_{name}.csv.gz"), key=lambda p: ("random" not in p.name, p))
    tables = []
    for path in paths:
        table = read_table(path)
        try:
            values = table.drop(columns=RUN)
            if name == HISTORY:
                values[["epoch", "macro_f1"]].astype(float)
            else:
                split_columns(values)
        except (KeyError, ValueError):
            raise UserError(f"{path} is not a saved table") from None
        tables.append(table)
    return pd.concat(tables or [pd.DataFrame(columns=RUN)], ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read CSV, compressed or not; raises `UserError` where it is none."""
    # Only an empty cell is missing: NA may be the name of a recording.
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys([*NAMES, *provenance.TEXTS], str),
            keep_default_na=False,
            na_values=[""],
            compression="gzip" if path.suffix == ".gz" else None,
        )
        return table.rename(columns={"f1": "macro_f1"})  # its name in earlier histories
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):  # pandas' errors, too
        raise UserError(f"{path} is damaged, or not a table") from None
