"""Where the result of a fine-tuning run comes from: one row of `runs.csv`."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors import SafetensorError, safe_open

from finetuning.prepared_set import manifest_path
from finetuning.trainer import make_parser
from pretraining.data import STEPS_PER_EPOCH
from utils.cli import SPECTROGRAM_FLAGS, UserError
from utils.contract import Contract
from utils.files import digest, read_json
from utils.run import ARGUMENTS, BEST, DERIVED, FREE, LIBRARIES, SCORES

RANDOM = "random"  # objective of a run that starts from no weights
NO_FLAGS = "none"  # where it is known that there are none
PATIENTS = {"icentia11k": 11_000, "mitdb": 48}  # in the whole of a set to pretrain on
TEXTS = (  # the other columns are numbers
    "architecture", "spectrogram", "objective", "pretraining_dataset",
    "pretraining_manifest_sha256", "flags", "dataset", "labels", "manifest_sha256", "device",
    "command", "commit", "versions", "study",
)  # fmt: skip
# In the order of the table; stages: where not all. spectrogram: settings of a 2-D network.
# patients: that the weights have seen. fraction: of those of the whole set. epochs: run, of at most
# max_epochs. flags: see `flags`. records: labelled ones that trained. temperature: of the
# probabilities. device: with the precision of its products. study: its file.
COLUMNS = (
    "architecture", "stages", "spectrogram", "objective", "pretraining_dataset",
    "pretraining_patients", "pretraining_fraction", "subset", "records", "chosen_epoch", "epochs",
    "max_epochs", "wall_seconds", "temperature", "flags", "dataset", "labels", "manifest_sha256",
    "pretraining_manifest_sha256", "device", "command", "commit", "versions", "study",
)  # fmt: skip
VERSIONS = ("python", *LIBRARIES)
# Flags that change nothing, come with the weights, or are told by other columns.
ELSEWHERE = FREE | DERIVED | {
    *SPECTROGRAM_FLAGS, "job_dir", "seed", "train", "val", "test", "weights_file", "subset",
    "epochs", "preset", "precision", "sync_bn",
}  # fmt: skip


class Origin(NamedTuple):
    """The `run` of pretraining, a job directory, that weights come from, and the epoch; None for
    the one that it chose, which counts for the whole run, as in the published works."""

    run: Path
    epoch: int | None


def read(job: Path, origin: Origin | None = None) -> dict[str, Any]:
    """`COLUMNS` of a finished run; what its job directory does not tell is None.

    Args:
        origin: of its weights, where they do not lie in the directory of their run.

    Raises:
        UserError: a file in it is damaged.
    """
    try:
        return _read(job, origin)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, SafetensorError):
        raise UserError(f"{job} holds damaged files of a run; run it again") from None


def _read(job: Path, origin: Origin | None) -> dict[str, Any]:
    saved, scores = read_json(job / ARGUMENTS), read_json(job / SCORES)
    arguments, environment = saved["arguments"], saved.get("environment", {})
    contract = _contract(job / BEST)
    row = {
        "architecture": getattr(contract, "architecture", None),
        "stages": getattr(contract, "stages", None),
        "spectrogram": _words(getattr(contract, "spectrogram", None)),
        "subset": arguments.get("subset"),
        "records": scores.get("train", {}).get("records"),
        "chosen_epoch": scores.get("epoch"),
        "epochs": _column(job / "history.csv", "epoch", max),
        "max_epochs": arguments.get("epochs"),
        "wall_seconds": _column(job / "timing.csv", "seconds", sum),
        # Not the contract's, which is 1 in files from before there were temperatures.
        "temperature": scores.get("temperature"),
        "flags": flags(arguments),
        "dataset": getattr(contract, "dataset", None),
        "labels": _labels(job, arguments.get("train"), contract),
        "manifest_sha256": getattr(contract, "manifest_sha256", None),
        "device": environment.get("hardware"),
        "command": environment.get("command"),
        "commit": environment.get("commit"),
        "versions": _words({n: environment[n] for n in VERSIONS if n in environment}),
        **_pretraining(job, arguments.get("weights_file"), origin),
    }
    return {name: row.get(name) for name in COLUMNS}


def flags(arguments: dict[str, Any]) -> str:
    """Those of fine-tuning that are not at their defaults, `--lr 0.01, --augment`, or `NO_FLAGS`.

    Runs of an earlier version, which lacked some, had what is their default now.
    """
    parser, words = make_parser(), []
    for name, value in arguments.items():
        if name not in ELSEWHERE and value != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {value}")
    return ", ".join(words) or NO_FLAGS


def _pretraining(job: Path, weights: str | None, origin: Origin | None) -> dict[str, Any]:
    if weights is None:
        return {"objective": RANDOM}
    path = _find(job, weights)
    contract = path and _contract(path)
    if not contract:
        return {}
    known = {
        "objective": contract.task,
        "pretraining_dataset": contract.dataset,
        "pretraining_manifest_sha256": contract.manifest_sha256,
    }
    return known | _patients(origin or _origin(path), contract)


def _origin(weights: Path) -> Origin:
    """Of a file that lies where its run wrote it."""
    if weights.parent.name.startswith("epoch_"):
        return Origin(weights.parents[1], int(weights.parent.name.removeprefix("epoch_")))
    return Origin(weights.parent, None)


def _patients(origin: Origin, contract: Contract) -> dict[str, Any]:
    """How many the weights have seen up to their epoch; nothing where their run is not there."""
    manifest, saved = origin.run / "manifest.json", origin.run / ARGUMENTS
    if not (manifest.exists() and saved.exists()):
        return {}
    parts, arguments = read_json(manifest), read_json(saved)["arguments"]
    if digest(parts) != contract.manifest_sha256:
        return {}
    train, validation = (_count(parts[name]["patients"]) for name in ("train", "validation"))
    frames = (arguments["steps_per_epoch"] or STEPS_PER_EPOCH) * arguments["batch_size"]
    epoch = origin.epoch or _column(origin.run / "history.csv", "epoch", max)
    passes = epoch * frames / (train * arguments["samples_per_patient"])
    seen = (train + validation) * min(passes, 1)  # a pass takes one patient after the other
    everyone = PATIENTS.get(contract.dataset)
    return {
        "pretraining_patients": round(seen),
        "pretraining_fraction": everyone and round(seen / everyone, 4),
    }


def _count(patients: int | list[int]) -> int:
    """Of a part of a manifest; those of a file of frames are listed."""
    return len(patients) if isinstance(patients, list) else patients


def _labels(job: Path, train: str | None, contract: Contract | None) -> str | None:
    """Version of the labels, from the manifest that the run's weights are signed with."""
    path = train and _find(job, str(manifest_path(Path(train))))
    if not path or not contract:
        return None
    manifest = read_json(path)
    return manifest.get("labels") if digest(manifest) == contract.manifest_sha256 else None


def _find(job: Path, path: str) -> Path | None:
    """A path as the run was given it: from here, or from a folder that the job lies in."""
    places = (folder / path for folder in (Path(), *job.resolve().parents))
    return next((place for place in places if place.is_file()), None)


def _contract(path: Path) -> Contract | None:
    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:  # reads the metadata only
        return Contract.from_metadata(file.metadata(), str(path))


def _column(path: Path, name: str, summarise) -> float | None:
    return summarise(pd.read_csv(path)[name].tolist()) if path.exists() else None


def _words(values: dict[str, Any] | None) -> str | None:
    """`torch 2.13.0, numpy 2.4.6`."""
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items()) or None
