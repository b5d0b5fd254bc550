"""Results of fine-tuning runs as tables, collected from job directories or from saved files."""

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from finetuning.prepared_set import manifest_path
from finetuning.trainer import make_parser
from models import ENCODERS
from pretraining.cohort import STEPS_PER_EPOCH
from utils.cli import SPECTROGRAM_FLAGS, UserError
from utils.files import atomic_path, digest, read_json, write_text
from utils.metrics import read_predictions, split_columns
from utils.model_card import Metadata
from utils.run import ARGUMENTS, BEST, DERIVED, FREE, LIBRARIES, SCORES
from utils.weights import read_weights

RUN = ["scenario", "seed"]  # identify a run in every table
TEST, VALIDATION = "test", "validation"  # the set that predictions are of
IN_JOBS = {TEST: "test_predictions.csv", VALIDATION: "val_predictions.csv"}
SAVED = {TEST: "predictions", VALIDATION: "validation"}  # SCENARIO_predictions.csv.gz
RANDOM = "random"  # objective of runs without pretrained weights
NO_FLAGS = "none"
CHECKPOINT = re.compile(r"(.+)(?:_epoch|/epoch_)(\d+)(?:/model)?\.safetensors")
PATIENTS = {"icentia11k": 11_000, "mitdb": 48}  # in a whole pretraining set
COLUMNS = (  # of runs.csv; stages: where not all are used
    "architecture", "stages", "spectrogram", "objective", "pretraining_dataset",
    "pretraining_patients", "pretraining_fraction", "subset", "records", "chosen_epoch", "epochs",
    "max_epochs", "wall_seconds", "temperature", "flags", "dataset", "labels", "manifest_sha256",
    "pretraining_manifest_sha256", "device", "command", "commit", "versions",
)  # fmt: skip
TEXTS = (  # that may look like numbers
    "record_name", "scenario", "record", "subject", "commit", "manifest_sha256",
    "pretraining_manifest_sha256",
)  # fmt: skip
NETWORK = ["architecture", "stages", "spectrogram"]
PRETRAINING = ["objective", "pretraining_manifest_sha256", "pretraining_fraction"]
# Columns in which all runs of a scenario agree. The number of records is not among them: where
# patients are kept together, it depends on the seed.
SAME = [*NETWORK, *PRETRAINING, "subset", "manifest_sha256", "flags", "max_epochs"]
# Flags that do not change the training, come with the weights, or have a column of their own.
NOT_LISTED = FREE | DERIVED | {
    *SPECTROGRAM_FLAGS, "job_dir", "seed", "train", "val", "test", "weights_file", "subset",
    "epochs", "preset", "precision", "sync_bn",
}  # fmt: skip


class Results(NamedTuple):
    """Runs on the same recordings: all of them on test, those with equal seeds on validation."""

    history: pd.DataFrame  # a row per epoch of each run
    predictions: pd.DataFrame  # a row per recording of each run
    runs: pd.DataFrame  # a row per run, `RUN` and `COLUMNS`
    part: str = TEST


def from_jobs(scenarios: Sequence[tuple[str, Sequence[Path]]]) -> Results:
    """Collect finished runs, given as job directories by scenario: their test predictions, or the
    validation predictions if any of them has no test set.

    Raises:
        UserError: a folder is not a finished run with predictions, the runs cannot be compared, or
            runs of one scenario differ in more than their seed.
    """
    jobs = [(name, job) for name, folders in scenarios for job in folders]
    runs = pd.DataFrame([{"scenario": name, **read_run(job)} for name, job in jobs])
    for name, group in runs.groupby("scenario", sort=False):
        differing = [column for column in SAME if group[column].nunique(dropna=False) > 1]
        if differing or group["seed"].duplicated().any():
            cause = f"differ in {', '.join(differing)}" if differing else "have equal seeds"
            raise UserError(f"the runs of {name} {cause}; name them as two scenarios")
    part = TEST if all((job / IN_JOBS[TEST]).exists() for _, job in jobs) else VALIDATION
    histories = [read_history(job / "history.csv") for _, job in jobs]
    predictions = [_read_predictions(job / IN_JOBS[part]) for _, job in jobs]
    keys = [*zip(runs["scenario"], runs["seed"], strict=True)]
    tables = (pd.concat(t, keys=keys, names=RUN).reset_index(RUN) for t in (histories, predictions))
    return _comparable(Results(*tables, runs, part))


def _read_predictions(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"{path} is missing: runs are compared on their test sets if all have one,"
                        " else on validation; run it again with --test")  # fmt: skip
    if (read_predictions(path).true.sum(1) != 1).any():
        raise UserError(f"{path} has several classes per recording; its scores are in {SCORES}")
    return read_table(path)


def _comparable(results: Results) -> Results:
    """Refuse runs on different recordings; on validation, only runs with equal seeds share them."""
    if results.runs["manifest_sha256"].nunique() > 1:
        raise UserError("the recordings of these runs were prepared in different ways"
                        " (manifest_sha256); they cannot be compared")  # fmt: skip
    first = {}
    for (scenario, seed), run in results.predictions.groupby(RUN, sort=False):
        truth = run.filter(regex="^(record_name|true_.*)$").to_numpy()
        expected = first.setdefault(seed if results.part == VALIDATION else None, truth)
        if not np.array_equal(truth, expected):  # other classes are NaN, which equals nothing
            raise UserError(f"{scenario}, seed {seed}: other recordings, labels or classes in the"
                            f" {results.part} set than those of another run")  # fmt: skip
    return results


def read_run(job: Path) -> dict[str, Any]:
    """`seed` and `COLUMNS` of a finished run; None for what its job directory does not tell.

    Raises:
        UserError: it is not a finished fine-tuning run, or a file in it is damaged.
    """
    if not (job / SCORES).exists():
        raise UserError(f"{job} holds no finished fine-tuning run (no {SCORES})")
    try:
        saved, scores = read_json(job / ARGUMENTS), read_json(job / SCORES)
        arguments, environment = saved["arguments"], saved.get("environment", {})
        if "task" in arguments:
            raise UserError(f"{job} holds a pretraining run; name fine-tuning runs")
        weights = read_weights(job / BEST)[1] if (job / BEST).exists() else None
        timing = job / "timing.csv"
        train = arguments.get("train")
        manifest = train and _find(job, str(manifest_path(Path(train))))
        versions = {n: v for n, v in environment.items() if n in ("python", *LIBRARIES)}
        row = vars(weights) if weights else {}
        row = {name: row.get(name) for name in COLUMNS} | {
            "spectrogram": _words(row.get("spectrogram")),
            "subset": arguments.get("subset"),
            "records": scores.get("train", {}).get("records"),
            "chosen_epoch": scores.get("epoch"),
            "epochs": _last_epoch(job),
            "max_epochs": arguments.get("epochs"),
            "wall_seconds": sum(read_table(timing)["seconds"]) if timing.exists() else None,
            # Not that of the weights file, which is 1 where no temperature was fitted.
            "temperature": scores.get("temperature"),
            "flags": changed_flags(arguments),
            "labels": _manifest(manifest, weights).get("labels"),
            "device": environment.get("hardware"),
            "command": environment.get("command"),
            "commit": environment.get("commit"),
            "versions": _words(versions),
        }
        row |= _pretraining(job, arguments.get("weights_file"))
        return {"seed": int(arguments["seed"])} | row
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError):
        raise UserError(f"{job} holds damaged files of a run; run it again") from None


def changed_flags(arguments: Mapping[str, Any]) -> str:
    """Flags of fine-tuning that are not at their defaults, `--lr 0.01, --augment`, or `NO_FLAGS`;
    flags that an earlier version did not have count as defaults."""
    parser, words = make_parser(), []
    for name, value in arguments.items():
        if name not in NOT_LISTED and value != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {value}")
    return ", ".join(words) or NO_FLAGS


def _pretraining(job: Path, weights_file: str | None) -> dict[str, Any]:
    """What is known of the weights that a run started from. How many patients they have seen is
    known if their file is named like a checkpoint of its run, or lies in its job directory."""
    path = weights_file and _find(job, weights_file)
    if not path:
        return {} if weights_file else {"objective": RANDOM}
    weights = read_weights(path)[1]
    known = {"objective": weights.task, "pretraining_dataset": weights.dataset,
             "pretraining_manifest_sha256": weights.manifest_sha256}  # fmt: skip
    checkpoint = CHECKPOINT.fullmatch(str(path))
    run = Path(checkpoint[1]) if checkpoint else path.parent
    manifest = _manifest(run / "manifest.json", weights)
    if not manifest or not (run / ARGUMENTS).exists():
        return known
    arguments = read_json(run / ARGUMENTS)["arguments"]
    parts = [manifest[name]["patients"] for name in ("train", "validation")]
    train, validation = (len(part) if isinstance(part, list) else part for part in parts)
    # The chosen weights of a run count for the whole run, as in the published works.
    epochs = int(checkpoint[2]) if checkpoint else _last_epoch(run)
    frames = epochs * (arguments["steps_per_epoch"] or STEPS_PER_EPOCH) * arguments["batch_size"]
    # A pass takes one patient after the other.
    seen = (train + validation) * min(frames / (train * arguments["samples_per_patient"]), 1)
    total = PATIENTS.get(weights.dataset)
    known["pretraining_patients"] = round(seen)
    return known | {"pretraining_fraction": total and round(seen / total, 4)}


def _last_epoch(job: Path) -> int:
    return max(read_table(job / "history.csv")["epoch"].tolist())


def _manifest(path: Path | None, weights: Metadata | None) -> dict[str, Any]:
    """A manifest, if the weights were made from its data."""
    manifest = read_json(path) if path and weights and path.exists() else {}
    return manifest if manifest and digest(manifest) == weights.manifest_sha256 else {}


def _find(job: Path, path: str) -> Path | None:
    """A path as the run was given it: from here, or from a folder above the job directory."""
    places = (folder / path for folder in (Path(), *job.resolve().parents))
    return next((place for place in places if place.is_file()), None)


def _words(values: Mapping[str, Any] | None) -> str | None:
    """`torch 2.13.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items()) or None


def save(results: Results, folder: Path) -> None:
    """Write the predictions and the history of each scenario, compressed, and `runs.csv`; other
    scenarios in the folder are kept.

    Raises:
        UserError: the folder is damaged, or its results cannot be compared with these.
    """
    part, new, runs = _part(folder), results.runs["scenario"].unique(), results.runs
    if part not in (None, results.part):
        raise UserError(f"{folder} holds results of {part} sets, these are of {results.part} sets;"
                        " choose another folder")  # fmt: skip
    if part:
        pairs = zip(load(folder)[:3], results[:3], strict=True)
        tables = (pd.concat([old[~old["scenario"].isin(new)], table]) for old, table in pairs)
        runs = _comparable(Results(*tables, part)).runs
    for name, table, digits in (("history", results.history, None),  # seven: those of float32
                                (SAVED[results.part], results.predictions, "%.7g")):  # fmt: skip
        for scenario, rows in table.groupby("scenario", sort=False):
            text = rows.to_csv(index=False, float_format=digits, lineterminator="\n")
            write_text(folder / f"{scenario}_{name}.csv.gz", text)
    with atomic_path(folder / "runs.csv") as temporary:
        runs.to_csv(temporary, index=False, lineterminator="\n")


def _part(folder: Path) -> str | None:
    parts = [part for part, name in SAVED.items() if any(folder.glob(f"*_{name}.csv.gz"))]
    if len(parts) > 1:
        raise UserError(f"{folder} holds results of test and of validation sets; keep them apart")
    return parts[0] if parts else None


def load(folder: Path) -> Results:
    """Read what `save` wrote; scenarios named random… come first, the others by name.

    Raises:
        UserError: nothing was saved in `folder`, or a file is damaged.
    """
    part = _part(folder)
    if not part:
        raise UserError(f"{folder} holds no saved results (*_predictions.csv.gz)")
    history, predictions = (_load_tables(folder, name) for name in ("history", SAVED[part]))
    runs = predictions[RUN].drop_duplicates(ignore_index=True)
    if set(history[RUN].itertuples(index=False)) != set(runs.itertuples(index=False)):
        raise UserError(f"{folder} lacks files: its histories and predictions are of other runs")
    path = folder / "runs.csv"
    try:
        runs = runs.merge(read_table(path), how="left", on=RUN, validate="one_to_one")
    except (KeyError, ValueError):
        raise UserError(f"{path} is not a table of runs, each once") from None
    return _comparable(Results(history, predictions, runs.reindex(columns=[*RUN, *COLUMNS]), part))


def load_all(folder: Path) -> dict[str, Results]:
    """Results of every study by name; each is saved in a folder of its own."""
    return {path.name: load(path) for path in sorted(folder.glob("*/")) if _part(path)}


def _load_tables(folder: Path, name: str) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=RUN)]
    for path in sorted(folder.glob(f"*_{name}.csv.gz"), key=lambda p: ("random" not in p.name, p)):
        tables.append(read_history(path) if name == "history" else read_table(path))
        try:
            values = tables[-1].drop(columns=RUN)
            split_columns(values) if name != "history" else None
        except (KeyError, ValueError):
            raise UserError(f"{path} is not a saved table") from None
    return pd.concat(tables[1:] or tables, ignore_index=True)


def read_history(path: Path) -> pd.DataFrame:
    """With the column `macro_f1`, which earlier versions called `f1`."""
    table = read_table(path).rename(columns={"f1": "macro_f1"})
    try:
        return table.astype({"epoch": int, "macro_f1": float})
    except (KeyError, ValueError, OverflowError):
        raise UserError(f"{path} is not a history of training") from None


def read_table(path: Path) -> pd.DataFrame:
    """Read CSV, compressed or not; raises `UserError` if it is not a table."""
    compression = "gzip" if path.suffix == ".gz" else None
    try:  # Only an empty cell is missing: NA may be the name of a recording.
        return pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False,
                           na_values=[""], compression=compression)  # fmt: skip
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile):  # includes errors of pandas
        raise UserError(f"{path} is damaged, or not a table") from None


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario, indexed by its name: `COLUMNS` of its first run, with `network`
    (1-D or 2-D) and `fraction` (of the patients to pretrain on)."""
    table = runs.drop_duplicates("scenario").set_index("scenario").astype({"flags": object})
    spectral = [name in ENCODERS and ENCODERS[name].spectral for name in table["architecture"]]
    table["network"] = np.where(spectral, "2-D", "1-D")
    table["fraction"] = table["pretraining_fraction"].astype(float)
    return table.sort_values(["network", "records", "fraction"], kind="stable", na_position="first")


def pretrained_pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(random, pretrained) scenarios of `describe` with the same network, number of labelled
    recordings and flags; flags that were not recorded count as none."""
    same, baselines = [*NETWORK, "records", "flags"], {}
    for _, group in cells.fillna({"flags": NO_FLAGS}).groupby(same, dropna=False):
        random = group["objective"] == RANDOM
        baselines |= dict.fromkeys(group.index[~random], group.index[random])
    return [(random, name) for name in cells.index for random in baselines.get(name, [])]


def variant_pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(baseline, variant) scenarios of `describe` that start from the same weights; the variant has
    the flags of the baseline and others."""
    same, pairs = [*NETWORK, *PRETRAINING, "records", "max_epochs"], []
    for _, group in cells.groupby(same, dropna=False):
        flags = {name: set(split_flags(text)) for name, text in group["flags"].items()}
        baseline = min(flags, key=lambda name: len(flags[name]))
        pairs += [(baseline, name) for name in flags if flags[baseline] < flags[name]]
    return pairs


def split_flags(text: str | None) -> list[str]:
    """The single flags of what `changed_flags` wrote."""
    return text.split(", ") if isinstance(text, str) and text != NO_FLAGS else []
