"""Results of fine-tuning runs as tables, collected from job directories or from saved files."""

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from finetuning.prepared_set import manifest_path
from finetuning.trainer import make_parser
from models import ENCODERS
from pretraining.cohort import STEPS_PER_EPOCH
from utils.cli import SPECTROGRAM_FLAGS, UserError
from utils.files import digest, read_json, write_text
from utils.metrics import read_predictions, split_columns
from utils.model_card import Metadata
from utils.run import ARGUMENTS, BEST, FREE, LIBRARIES, SCORES
from utils.weights import read_weights

RUN = ["scenario", "seed"]  # identify a run in every table
TEST, VALIDATION = "test", "validation"  # the set that predictions are of
# In job directories; compressed where they are saved.
HISTORY, RUNS = "history.csv", "runs.csv"
PREDICTIONS = {TEST: "test_predictions.csv", VALIDATION: "val_predictions.csv"}
RANDOM = "random"  # objective of runs without pretrained weights
NO_FLAGS = "none"
CHECKPOINT = re.compile(r"(.+)(?:_epoch|/epoch_)(\d+)(?:/model)?\.safetensors")
PATIENTS = {"icentia11k": 11_000, "mitdb": 48}  # in a whole pretraining set
TEXTS = ("record_name", "commit", "manifest_sha256", "pretraining_manifest_sha256")
NETWORK = ["architecture", "stages", "spectrogram"]
PRETRAINING = ["objective", "pretraining_manifest_sha256", "pretraining_fraction"]
# Columns in which all runs of a scenario agree. The number of records is not among them: where
# patients are kept together, it depends on the seed.
SAME = [*NETWORK, *PRETRAINING, "subset", "manifest_sha256", "flags", "max_epochs"]
# Flags that do not change the training, come with the weights, or have a column of their own.
NOT_LISTED = FREE | {
    *SPECTROGRAM_FLAGS, "arch", "stages", "job_dir", "seed", "train", "val", "test",
    "weights_file", "subset", "epochs", "preset", "precision", "sync_bn",
}  # fmt: skip


class Results(NamedTuple):
    """Runs on the same recordings: all of them on test, those with equal seeds on validation."""

    history: pd.DataFrame  # a row per epoch of each run
    predictions: pd.DataFrame  # a row per recording of each run
    runs: pd.DataFrame  # a row per run, see `read_run`
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
    part = TEST if all((job / PREDICTIONS[TEST]).exists() for _, job in jobs) else VALIDATION
    histories, predictions = {}, {}
    for (_, job), run in zip(jobs, runs[RUN].itertuples(index=False, name=None), strict=True):
        path = job / PREDICTIONS[part]
        if (read_predictions(path).true.sum(1) != 1).any():
            raise UserError(f"{path} has several classes per recording; its scores are in {SCORES}")
        predictions[run] = read_table(path)
        histories[run] = read_table(job / HISTORY, epoch=int, macro_f1=float)
    joined = (pd.concat(t, names=RUN).reset_index(RUN) for t in (histories, predictions))
    return _comparable(Results(*joined, runs, part))


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
    """Seed and provenance of a finished run; None for what its job directory does not tell.

    Raises:
        UserError: it is not a finished fine-tuning run, or a file in it is damaged.
    """
    if not (job / SCORES).exists():
        raise UserError(f"{job} holds no finished fine-tuning run (no {SCORES})")
    try:
        saved, scores = read_json(job / ARGUMENTS), read_json(job / SCORES)
        arguments, environment = saved["arguments"], saved["environment"]
        if "task" in arguments:
            raise UserError(f"{job} holds a pretraining run; name fine-tuning runs")
        weights = read_weights(job / BEST)[1]
        manifest = _find(job, str(manifest_path(Path(arguments["train"]))))
        return {
            "seed": int(arguments["seed"]),
            "architecture": weights.architecture,
            "stages": weights.stages,
            "spectrogram": weights.spectrogram and _words(weights.spectrogram),
            **_pretraining(job, arguments["weights_file"]),
            "subset": arguments["subset"],
            "records": scores["train"]["records"],
            "chosen_epoch": scores["epoch"],
            "epochs": _last_epoch(job),
            "max_epochs": arguments["epochs"],
            "wall_seconds": read_table(job / "timing.csv", seconds=float)["seconds"].sum(),
            "temperature": scores["temperature"],
            "flags": changed_flags(arguments),
            "dataset": weights.dataset,
            "labels": _manifest(manifest, weights).get("labels"),
            "manifest_sha256": weights.manifest_sha256,
            "device": environment["hardware"],
            "command": environment["command"],
            "commit": environment["commit"],
            "versions": _words({name: environment[name] for name in ("python", *LIBRARIES)}),
        }
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError):
        raise UserError(f"{job} holds damaged files of a run; run it again") from None


def _words(values: Mapping[str, Any]) -> str:
    """`torch 2.13.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def changed_flags(arguments: Mapping[str, Any]) -> str:
    """Flags of fine-tuning that are not at their defaults, `--lr 0.01, --augment`, or `NO_FLAGS`;
    flags that an earlier version did not have count as defaults."""
    parser, words = make_parser(), []
    for name, value in arguments.items():
        if name not in NOT_LISTED and value != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {value}")
    return ", ".join(words) or NO_FLAGS


def split_flags(text: str) -> list[str]:
    """The single flags of what `changed_flags` wrote."""
    return [] if text == NO_FLAGS else text.split(", ")


def _pretraining(job: Path, weights_file: str | None) -> dict[str, Any]:
    """What is known of the weights that a run started from. How many patients they have seen is
    known if their file is named like a checkpoint of its run, or lies in its job directory."""
    known = dict.fromkeys([*PRETRAINING, "pretraining_dataset", "pretraining_patients"])
    path = _find(job, weights_file) if weights_file else None
    if not path:
        return known | {"objective": None if weights_file else RANDOM}
    weights = read_weights(path)[1]
    known |= {"objective": weights.task, "pretraining_dataset": weights.dataset,
              "pretraining_manifest_sha256": weights.manifest_sha256}  # fmt: skip
    checkpoint = CHECKPOINT.fullmatch(str(path))
    run = Path(checkpoint[1]) if checkpoint else path.parent
    manifest = _manifest(run / "manifest.json", weights)
    if manifest and (run / ARGUMENTS).exists():
        arguments = read_json(run / ARGUMENTS)["arguments"]
        train, validation = (manifest[name]["patients"] for name in ("train", "validation"))
        # The chosen weights of a run count for the whole run, as in the published works.
        epochs = int(checkpoint[2]) if checkpoint else _last_epoch(run)
        steps = epochs * (arguments["steps_per_epoch"] or STEPS_PER_EPOCH)
        # A pass takes one patient after the other.
        passes = steps * arguments["batch_size"] / (train * arguments["samples_per_patient"])
        seen, total = round((train + validation) * min(passes, 1)), PATIENTS.get(weights.dataset)
        known |= {"pretraining_patients": seen, "pretraining_fraction": total and seen / total}
    return known


def _last_epoch(job: Path) -> int:
    return int(read_table(job / HISTORY, epoch=int)["epoch"].max())


def _manifest(path: Path | None, weights: Metadata) -> dict[str, Any]:
    """A manifest, if the weights were made from its data."""
    manifest = read_json(path) if path and path.exists() else {}
    return manifest if digest(manifest) == weights.manifest_sha256 else {}


def _find(job: Path, path: str) -> Path | None:
    """A path as the run was given it: from here, or from a folder above the job directory."""
    places = (folder / path for folder in (Path(), *job.resolve().parents))
    return next((place for place in places if place.is_file()), None)


def save(results: Results, folder: Path) -> None:
    """Write histories, predictions and runs; other scenarios in the folder are kept.

    Raises:
        UserError: the folder is damaged, or its results cannot be compared with these.
    """
    if (folder / RUNS).exists():
        saved, new = load(folder), results.runs["scenario"].unique()
        if saved.part != results.part:
            raise UserError(f"{folder} holds results of {saved.part} sets, these are of"
                            f" {results.part} sets; choose another folder")  # fmt: skip
        pairs = zip(saved[:3], results[:3], strict=True)
        tables = (pd.concat([old[~old["scenario"].isin(new)], table]) for old, table in pairs)
        results = _comparable(Results(*tables, results.part))
    names = f"{HISTORY}.gz", f"{PREDICTIONS[results.part]}.gz", RUNS
    for name, table in zip(names, results[:3], strict=True):
        digits = "%.7g" if table is results.predictions else None  # those of float32
        text = table.to_csv(index=False, float_format=digits, lineterminator="\n")
        write_text(folder / name, text)


def load(folder: Path) -> Results:
    """Read what `save` wrote.

    Raises:
        UserError: nothing was saved in `folder`, or a file is missing or damaged.
    """
    part = TEST if (folder / f"{PREDICTIONS[TEST]}.gz").exists() else VALIDATION
    run = {"scenario": str, "seed": int}
    history = read_table(folder / f"{HISTORY}.gz", **run, epoch=int, macro_f1=float)
    predictions = read_table(folder / f"{PREDICTIONS[part]}.gz", **run)
    runs = read_table(folder / RUNS, **run, architecture=str, flags=str)
    try:
        split_columns(predictions.drop(columns=RUN))
    except ValueError:
        raise UserError(f"{folder} holds no table of predictions") from None
    known = [set(t[RUN].itertuples(index=False)) for t in (history, predictions, runs)]
    if not known[0] == known[1] == known[2] or len(runs) != len(known[2]):
        raise UserError(f"{folder}: its histories, predictions and {RUNS} are of other runs")
    return Results(history, predictions, runs, part)


def load_all(folder: Path) -> dict[str, Results]:
    """Results of every study by name; each is saved in a folder of its own."""
    return {path.parent.name: load(path.parent) for path in sorted(folder.glob(f"*/{RUNS}"))}


def read_table(path: Path, **types: type) -> pd.DataFrame:
    """Read CSV, compressed or not; raises `UserError` if it is no table with columns of `types`."""
    types = dict.fromkeys(TEXTS, str) | types  # texts may look like numbers
    try:  # Only an empty cell is missing: NA may be the name of a recording.
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
        return table.astype({name: kind for name, kind in types.items() if name not in TEXTS})
    except (KeyError, ValueError, OverflowError, EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is damaged, or not such a table") from None


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """The first run of each scenario, indexed by its name, with `network` (1-D or 2-D)."""
    table = runs.drop_duplicates("scenario").set_index("scenario")
    spectral = table["architecture"].map(lambda name: ENCODERS[name].spectral)
    table = table.assign(network=np.where(spectral, "2-D", "1-D"))
    table = table.astype({"pretraining_fraction": float})  # where all are None
    order = ["network", "records", "pretraining_fraction"]
    return table.sort_values(order, kind="stable", na_position="first")


def pretrained_pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(random, pretrained) scenarios of `describe` with the same network, number of labelled
    recordings and flags."""
    same, pairs = [*NETWORK, "records", "flags"], []
    for _, group in cells.groupby(same, dropna=False, sort=False):
        random = group["objective"] == RANDOM
        pairs += product(group.index[random], group.index[~random])
    return sorted(pairs, key=lambda pair: cells.index.get_loc(pair[1]))


def variant_pairs(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(baseline, variant) scenarios of `describe` that start from the same weights; the variant has
    the flags of the baseline and others."""
    same, pairs = [*NETWORK, *PRETRAINING, "records", "max_epochs"], []
    for _, group in cells.groupby(same, dropna=False):
        flags = {name: set(split_flags(text)) for name, text in group["flags"].items()}
        baseline = min(flags, key=lambda name: len(flags[name]))
        pairs += [(baseline, name) for name in flags if flags[baseline] < flags[name]]
    return pairs
