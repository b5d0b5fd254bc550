"""A run's job directory: who may write there, saved arguments, history, random seeds."""

import argparse
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utils.cli import UserError
from utils.files import atomic_path, write_json

ARGUMENTS = "args.json"
# Everything a run writes; --overwrite removes these and nothing else.
OUTPUTS = (
    "args.json",
    "manifest.json",
    "history.csv",
    "timing.csv",
    "scores.json",
    "weights.safetensors",
    "best_model.safetensors",
    "*_predictions.csv",
    "epoch_*",
)
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "wfdb")


def check_free(job_dir: Path, overwrite: bool) -> None:
    """Raises `UserError` where `job_dir` holds a run that may not be replaced."""
    if job_dir.exists() and not job_dir.is_dir():
        raise UserError(f"--job-dir {job_dir} is a file")
    found = next(_outputs(job_dir), None)
    if found and not (job_dir / ARGUMENTS).exists():
        # Not even --overwrite: nobody knows whose these are.
        raise UserError(f"{job_dir} holds {found.name} of no run; choose another --job-dir")
    if found and not overwrite:
        raise UserError(f"{job_dir} holds a run; choose another --job-dir or pass --overwrite")


def _outputs(job_dir: Path) -> Iterator[Path]:
    return (path for pattern in OUTPUTS for path in job_dir.glob(pattern))


def start_run(args: argparse.Namespace, hardware: str) -> None:
    """Clear `args.job_dir` of an earlier run and save the arguments there.

    Called once the data has been read, so that a mistyped path costs no earlier result.
    """
    check_free(args.job_dir, args.overwrite)
    for path in _outputs(args.job_dir):
        if path.name != ARGUMENTS:  # replaced below; until then it marks these files as a run's
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    arguments = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        **versions(),
    }
    print(f"computing on {hardware}")
    write_json(args.job_dir / ARGUMENTS, {"arguments": arguments, "environment": environment})


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    return {name: version(name) for name in LIBRARIES}


def line(epoch: int, row: dict[str, float | None], seconds: float) -> str:
    """One epoch in words: `epoch 3: loss 0.412, acc 0.871, … (93 s)`."""
    return f"epoch {epoch}: {words(row)} ({seconds:.0f} s)"


def words(row: dict[str, float | None]) -> str:
    """`loss 0.4120, acc 0.8710`, without what is None."""
    return ", ".join(f"{name} {value:.4f}" for name, value in row.items() if value is not None)


def rng(seed: int, *path: int) -> np.random.Generator:
    """NumPy generator for one purpose of one run; `path` tells the purposes apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


def torch_generator(seed: int) -> torch.Generator:
    """PyTorch generator, for initial weights."""
    return torch.Generator().manual_seed(seed)


class Table:
    """A CSV file that grows by a row at a time and is whole at any time."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict] = []

    def add(self, **row) -> None:
        self.rows.append(row)
        with atomic_path(self.path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False, lineterminator="\n")
