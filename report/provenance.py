"""Where the result of a fine-tuning run comes from: one row of `runs.csv`."""

from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open

from finetuning.prepared import manifest_path
from finetuning.trainer import make_parser
from utils.cli import UserError, spectrogram_flags
from utils.contract import Contract
from utils.files import read_json
from utils.manifest import digest
from utils.names import ARGUMENTS, BEST, SCORES
from utils.runlog import DERIVED, FREE, LIBRARIES

RANDOM = "random"  # objective of a run that starts from no weights
PATIENTS = {"icentia11k": 11_000, "mitdb": 48}  # in the whole of a set to pretrain on
TEXTS = (  # the other columns are numbers
    "architecture", "objective", "pretraining_dataset", "pretraining_manifest_sha256", "flags",
    "dataset", "labels", "manifest_sha256", "device", "command", "commit", "versions",
)  # fmt: skip
# In the order of the table; fraction: of the patients of the whole set. epochs: run, of at most
# max_epochs. flags: see `flags`. records: labelled ones that trained. temperature: of the
# probabilities. device: with the precision of its products.
COLUMNS = (
    "architecture", "objective", "pretraining_dataset", "pretraining_patients",
    "pretraining_fraction", "subset", "records", "chosen_epoch", "epochs", "max_epochs",
    "wall_seconds", "temperature", "flags", "dataset", "labels", "manifest_sha256",
    "pretraining_manifest_sha256", "device", "command", "commit", "versions",
)  # fmt: skip
# Flags that change nothing, come with the weights, or are told by other columns.
ELSEWHERE = FREE | DERIVED | {
    *spectrogram_flags(), "job_dir", "seed", "train", "val", "test", "weights_file", "subset",
    "epochs", "preset", "precision", "sync_bn",
}  # fmt: skip


def read(job: Path) -> dict[str, Any]:
    """`COLUMNS` of a finished run; what its job directory does not tell is None.

    Raises:
        UserError: a file in it is damaged.
    """
    try:
        return _read(job)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, SafetensorError):
        raise UserError(f"{job} holds damaged files of a run; run it again") from None


def _read(job: Path) -> dict[str, Any]:
    saved, scores = read_json(job / ARGUMENTS), read_json(job / SCORES)
    arguments, environment = saved["arguments"], saved.get("environment", {})
    contract = _contract(job / BEST)
    row = {
        "architecture": getattr(contract, "architecture", None),
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
        "versions": _versions(environment),
        **_pretraining(job, arguments.get("weights_file")),
    }
    return {name: row.get(name) for name in COLUMNS}


def flags(arguments: dict[str, Any]) -> str | None:
    """Those of fine-tuning that are not at their defaults, `--lr 0.01, --augment`; None without.

    Runs of an earlier version, which lacked some, had what is their default now.
    """
    parser, words = make_parser(), []
    for name, value in arguments.items():
        if name not in ELSEWHERE and value != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {value}")
    return ", ".join(words) or None


def _pretraining(job: Path, weights: str | None) -> dict[str, Any]:
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
    of_epoch = path.parent.name.startswith("epoch_")
    folder = path.parent.parent if of_epoch else path.parent
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return known
    parts = read_json(manifest)
    patients = sum((parts.get(name) or {}).get("patients", 0) for name in ("train", "validation"))
    passed = _share_of_pass(folder, path.parent.name) if of_epoch else 1
    everyone = PATIENTS.get(contract.dataset)
    known["pretraining_patients"] = round(patients * passed)
    known["pretraining_fraction"] = everyone and round(patients * passed / everyone, 4)
    return known


def _share_of_pass(folder: Path, epoch: str) -> float:
    """A checkpoint of a single pass has seen only the patients up to it."""
    if read_json(folder / ARGUMENTS)["arguments"].get("epochs") is not None:
        return 1
    return int(epoch.removeprefix("epoch_")) / _column(folder / "history.csv", "epoch", max)


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


def _versions(environment: dict[str, Any]) -> str | None:
    names = [name for name in ("python", *LIBRARIES) if name in environment]
    return ", ".join(f"{name} {environment[name]}" for name in names) or None
