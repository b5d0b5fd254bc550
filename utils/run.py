"""A run's job directory: who may write there, saved arguments, history, random seeds."""

import argparse
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from utils.cli import UserError
from utils.files import atomic_path, read_json, remove_leftovers, write_json
from utils.metrics import better
from utils.names import (
    ARGUMENTS,
    BEST,
    CARD,
    CHECKPOINT,
    DEFAULT_ARCHITECTURE,
    PRECISIONS,
    SCORES,
    WEIGHTS,
)  # fmt: skip
from utils.stopping import in_study

# Everything a run writes; --overwrite removes these and nothing else.
OUTPUTS = (
    ARGUMENTS,
    "manifest.json",
    "history.csv",
    "timing.csv",
    SCORES,
    CHECKPOINT,
    WEIGHTS,
    BEST,
    CARD,
    "*_predictions.csv",
    "epoch_*",
)
LOCK = ".lock"  # in a job directory, while a run is there
LEAVING = 60  # seconds in which the run of a study that was killed has saved and gone
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "wfdb")
# Flags that a run may be continued with other values of: they change nothing but the last digits.
# So with paths; it is files that are compared, see `utils.training`.
FREE = {
    "overwrite", "resume", "checkpoint_every", "device", "compile", "data_parallelism", "verbose",
}  # fmt: skip
DERIVED = {"arch", "stages"}  # filled in from the weights file where they are not given


def finished(args: argparse.Namespace, last: str) -> bool:
    """Whether `--resume` finds nothing to do: `last` is what a run writes at its end.

    Raises:
        UserError: as `check_free`.
    """
    if not (args.resume and (args.job_dir / last).exists()):
        return False
    check_free(args)
    done, lock = not (args.job_dir / CHECKPOINT).exists(), args.job_dir / LOCK
    if done and lock.exists():  # of one that was killed in its last moment
        with suppress(Timeout), FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    return done


@contextmanager
def claimed(args: argparse.Namespace) -> Iterator[None]:
    """Keep all other runs out of `args.job_dir`.

    Raises:
        UserError: one is there, or as `check_free`.
    """
    check_free(args)
    args.job_dir.mkdir(parents=True, exist_ok=True)
    lock = args.job_dir / LOCK
    try:
        with FileLock(lock, timeout=LEAVING if in_study() else 0):
            try:
                check_free(args)  # from here on nothing can change
                yield
            finally:
                # While it is held, so that nobody else's is removed.
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(
            f"{args.job_dir} is in use by another run; wait for it, or choose another --job-dir"
        ) from None
    finally:
        if args.job_dir.exists() and not any(args.job_dir.iterdir()):  # nothing was begun
            args.job_dir.rmdir()


def check_free(args: argparse.Namespace) -> None:
    """Raises `UserError` where the job directory holds a run that may be neither replaced nor
    continued."""
    job_dir = args.job_dir
    if job_dir.exists() and not job_dir.is_dir():
        raise UserError(f"--job-dir {job_dir} is a file")
    found = next(_outputs(job_dir), None)
    if not found:
        return
    if not (job_dir / ARGUMENTS).exists():
        # Not even --overwrite: nobody knows whose these are.
        raise UserError(f"{job_dir} holds {found.name} of no run; choose another --job-dir")
    if args.resume:
        _check_same(args)
    elif not args.overwrite:
        raise UserError(
            f"{job_dir} holds a run; choose another --job-dir, or pass --resume to continue it or "
            "--overwrite to replace it"
        )


def _check_same(args: argparse.Namespace) -> None:
    try:
        saved = read_json(args.job_dir / ARGUMENTS)["arguments"]
        known = [name for name in vars(args) if name in saved]  # those that its version had
    except (KeyError, TypeError):
        raise UserError(f"{args.job_dir / ARGUMENTS} is damaged; use --overwrite") from None
    for name in known:
        value, before = getattr(args, name), saved[name]
        default = value is None and name in DERIVED
        if isinstance(value, Path) or name in FREE or value == before:
            continue
        if default and (args.weights_file or before == DEFAULT_ARCHITECTURE):
            continue
        raise UserError(
            f"--{name.replace('_', '-')} is {value}, in the run in {args.job_dir} it was {before}; "
            "--resume it with the same flags, or choose another --job-dir"
        )


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }


def _outputs(job_dir: Path) -> Iterator[Path]:
    return (path for pattern in OUTPUTS for path in job_dir.glob(pattern))


def precision(args: argparse.Namespace) -> str:
    """`--precision`; where that is `auto` and a run is resumed, what it was begun with."""
    saved = args.job_dir / ARGUMENTS
    if args.precision == "auto" and args.resume and saved.exists():
        with suppress(UserError, AttributeError, KeyError, TypeError):
            stated = read_json(saved)["environment"]["hardware"].rpartition(", ")[2]
            return stated if stated in PRECISIONS else "auto"
    return args.precision


def start_run(args: argparse.Namespace, hardware: str, resumed: bool) -> None:
    """Save the arguments in `args.job_dir`, and clear it of an earlier run unless it is `resumed`.

    Called once the data has been read, so that a mistyped path costs no earlier result.
    """
    print(f"computing on {hardware}")
    for folder in (args.job_dir, *args.job_dir.glob("epoch_*")):
        remove_leftovers(folder)
    about = {"arguments": _plain(args), "environment": _environment(hardware)}
    if resumed:
        before = read_json(args.job_dir / ARGUMENTS)
        later = [*before.get("continued", []), about["environment"]]
        about = before | {"continued": later}
    else:
        for path in _outputs(args.job_dir):
            if path.name != ARGUMENTS:  # until it is replaced it marks these files as a run's
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(args.job_dir / ARGUMENTS, about)


def _environment(hardware: str) -> dict[str, Any]:
    return {
        "command": _command(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        **versions(),
    }


def _command() -> str:
    spec = sys.modules["__main__"].__spec__
    started = ["-m", spec.name] if spec else sys.argv[:1]
    return shlex.join(["python", *started, *sys.argv[1:]])


def _commit() -> str | None:
    """Of this repository, with a `+` where files differ from it; None outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40",
               "--dirty=+", "--exclude=*"]  # fmt: skip
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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


def torch_generator(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """PyTorch generator: for initial weights, or with a `path` as `rng`."""
    start = int(rng(seed, *path).integers(2**63)) if path else seed
    return torch.Generator(device).manual_seed(start)


class Table:
    """A CSV file that grows by a row at a time and is whole at any time."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict] = []

    def add(self, **row) -> None:
        self.rows.append(row)
        with atomic_path(self.path) as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False, lineterminator="\n")


@dataclass
class Best:
    """The best value of a column of the history so far, and its epoch."""

    column: str
    value: float | None = None
    epoch: int = 0

    def improved(self, epoch: int, value: float | None) -> bool:
        """Take note of an epoch; whether it is the best. The first is, and where there is no value
        the last."""
        best = value is None or epoch == 1 or better(self.column, value, self.value)
        if best:
            self.epoch, self.value = epoch, value
        return best


class Log:
    """What is written down of the epochs of a run.

    Attributes:
        history, timing: tables. bests: by what they are for.
    """

    def __init__(self, job_dir: Path, **bests: Best):
        self.history = Table(job_dir / "history.csv")
        self.timing = Table(job_dir / "timing.csv")
        self.bests = bests

    def chose(self, epoch: int) -> bool:
        """Whether it is the best in anything."""
        return any(best.epoch == epoch for best in self.bests.values())

    def state(self) -> dict[str, Any]:
        """As JSON can hold it."""
        bests = {name: asdict(best) for name, best in self.bests.items()}
        return {"history": self.history.rows, "timing": self.timing.rows, "bests": bests}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.history.rows, self.timing.rows = state["history"], state["timing"]
        self.bests = {name: Best(**state["bests"][name]) for name in self.bests}
