"""What a study consists of, read from a TOML file and checked.

folder = "jobs/cpu"            # job directories and logs; by default jobs/NAME
[data.set250]                  # a command that makes data, unless the data are there
command = "pretraining.convert"
makes = "data/mitdb250"        # or a list; other keys are flags, as everywhere below
from = "data/mitdb"
out = "data/mitdb250"
overwrite = true               # so that a step that was interrupted begins again
[pretraining]                  # flags of every pretraining run
train = "data/mitdb250"
[pretraining.beat25]           # a run, its own flags
task = "beat"
patients = 0.25                # share of them
[finetuning]                   # flags of every fine-tuning run
train = "data/physionet_train.npz"
[scenarios.random_2d]          # flags that tell it apart; "random" and the names of the
arch = "resnet18_2d"           # pretraining runs are scenarios without being listed
[scenarios.beat_first]
pretraining = "beat"           # a run, at an epoch other than the chosen one
epoch = 1
[[cells]]                      # fine-tuning runs: subsets × seeds × scenarios
scenarios = ["random", "beat25"]
seeds = [10, 20]               # by default 10, 20, … 100
subsets = [0.1, 1.0]           # by default that of [finetuning]
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from study import checks
from study.checks import Flags
from utils.cli import UserError

SEEDS = list(range(10, 101, 10))  # of the replication
RANDOM = "random"  # the scenario of new weights
KINDS = {"folder": str, "data": dict, "pretraining": dict, "finetuning": dict, "scenarios": dict,
         "cells": list}  # fmt: skip


class Cell(NamedTuple):
    """A fine-tuning run: share of the training recordings, seed."""

    scenario: str
    subset: float
    seed: int


class Study(NamedTuple):
    """A comparison; flags are complete, shared ones included.

    Attributes:
        folder: for job directories. data: by name of the step, with `command` and `makes`.
        pretraining: by name of the run, perhaps with `patients`. scenarios: by name, perhaps with
        `pretraining` and `epoch`. cells: in order, each once. subset: that most cells have.
    """

    folder: Path
    data: dict[str, Flags]
    pretraining: dict[str, Flags]
    scenarios: dict[str, Flags]
    cells: list[Cell]
    subset: float


def load(path: Path, changes: Sequence[str] = (), folder: Path | None = None) -> Study:
    """Read a description.

    Args:
        changes: `key.key=value` to set. folder: in place of the study's own.

    Raises:
        UserError: it is no such description; names the key.
    """
    try:
        described = _parse(path.read_bytes(), "see the TOML files in studies/")
        for change in changes:
            hint = f"--set {change!r} must read KEY=VALUE, text in quotes: 'KEY=\"text\"'"
            _merge(described, _parse(change.encode(), hint))
        checks.check_kinds(described, KINDS, "")
        folder = folder or Path(described.get("folder", Path("jobs", path.stem)))
        return _study(_fill(described, str(folder)), folder)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(content: bytes, hint: str) -> Flags:
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{error}; {hint}") from None


def _merge(into: Flags, changes: Flags) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _fill(value: Any, folder: str) -> Any:
    """`value` with the folder's name for `{folder}`."""
    if isinstance(value, dict):
        return {key: _fill(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_fill(part, folder) for part in value]
    return value.replace("{folder}", folder) if isinstance(value, str) else value


def _study(described: Flags, folder: Path) -> Study:
    data = checks.tables("data", described.get("data", {}))
    runs, common = checks.divide(described.get("pretraining", {}))
    pretrained = {name: common | own for name, own in runs.items()}
    own = checks.tables("scenarios", described.get("scenarios", {}))
    own = {RANDOM: {}} | {name: {"pretraining": name} for name in runs} | own
    finetuning = described.get("finetuning", {})
    scenarios = {name: finetuning | flags for name, flags in own.items()}
    checks.check_shared(finetuning)
    for name, step in data.items():
        checks.check_step(f"[data.{name}]", step)
    for name, flags in pretrained.items():
        checks.check_pretraining(f"[pretraining.{name}]", flags)
    for name, flags in scenarios.items():
        checks.check_scenario(f"[scenarios.{name}]", own[name], runs)
        checks.check_finetuning(f"[finetuning] or [scenarios.{name}]", flags)
    subset = finetuning.get("subset", 1.0)
    cells = [cell for group in described.get("cells", []) for cell in _cells(group, subset)]
    for cell in cells:
        if cell.scenario not in scenarios:
            known = ", ".join(scenarios)
            raise UserError(f"[[cells]] names the scenario {cell.scenario!r}; known are {known}")
    if not cells and not runs:
        raise UserError("it holds neither [[cells]] nor a run such as [pretraining.beat]")
    return Study(folder, data, pretrained, scenarios, list(dict.fromkeys(cells)), subset)


def _cells(group: Any, subset: float) -> list[Cell]:
    """By subset, then by seed: what is compared comes close together."""
    checks.check_cells(group)
    return [
        Cell(scenario, share, seed)
        for share in group.get("subsets", [subset])
        for seed in group.get("seeds", SEEDS)
        for scenario in group["scenarios"]
    ]
