"""A run's job directory: who may write there, arguments, history, seeds, signals."""

import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from utils.cli import UserError
from utils.files import TEMPORARY, atomic_path, read_json, sha256, write_json
from utils.metrics import better

# Files in a job directory.
ARGUMENTS = "args.json"
CHECKPOINT = "checkpoint.pt"  # only while a run is not finished
WEIGHTS = "weights.safetensors"  # the last that pretraining writes
BEST = "best_model.safetensors"  # of fine-tuning, so far
SCORES = "scores.json"  # the last that fine-tuning writes
CARD = "MODEL_CARD.md"  # of the weights that a run ends with
# Everything a run writes; --overwrite removes these and nothing else.
OUTPUTS = (
    ARGUMENTS, "manifest.json", "history.csv", "timing.csv", SCORES, "checkpoint.*", WEIGHTS, BEST,
    CARD, "*_predictions.csv", "epoch_*",
)  # fmt: skip
LOCK = ".lock"  # in a job directory while a run uses it
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "wfdb")
# A run may be resumed with other values of these flags, which change no result or set others, and
# with other paths of its inputs: their contents are compared.
FREE = {
    "overwrite", "resume", "checkpoint_every", "device", "compile", "data_parallelism", "verbose",
    "index", "preset",
}  # fmt: skip
INPUTS = ("train", "val", "test", "val_file", "weights_file")


class Run:
    """A run of a trainer and its job directory.

    Args:
        arguments: all flags by name, to be saved; among them `job_dir`, `resume`, `overwrite` and
            `precision`.
        last: name of the file that the run writes last.
        content: checksum of an input, the same wherever it lies.

    `resolved` holds what flags came to that leave a choice, once the run has been set up.
    """

    def __init__(
        self, arguments: dict[str, Any], last: str, content: Callable[[Path], str] = sha256
    ):
        self.arguments, self.last, self.content = arguments, last, content
        self.resolved: dict[str, Any] = {}
        self.job_dir: Path = arguments["job_dir"]
        self.resume: bool = arguments["resume"]

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Checksums of what the run reads, by flag."""
        paths = {name: self.arguments.get(name) for name in INPUTS}
        return {name: self.content(path) for name, path in paths.items() if path}

    def finished(self) -> bool:
        """Whether `--resume` has nothing to do; raises `UserError` if the flags or inputs are
        others than those of the run in the job directory."""
        if not (self.resume and (self.job_dir / self.last).exists()):
            return False
        self._check_free()
        return not (self.job_dir / CHECKPOINT).exists()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep other runs out of the job directory; raises `UserError` if another run uses it, or
        it holds a run that may neither be replaced nor resumed."""
        self.job_dir.mkdir(parents=True, exist_ok=True)
        lock = self.job_dir / LOCK
        try:
            with FileLock(lock, timeout=0):
                try:
                    self._check_free()
                    yield
                finally:
                    lock.unlink(missing_ok=True)  # while it is held, so that it is our own
        except Timeout:
            message = "is in use by another run; wait for it, or choose another --job-dir"
            raise UserError(f"{self.job_dir} {message}") from None
        finally:
            with suppress(OSError):
                self.job_dir.rmdir()  # if nothing was written

    def _outputs(self) -> Iterator[Path]:
        return (path for pattern in OUTPUTS for path in self.job_dir.glob(pattern))

    def _check_free(self) -> None:
        outputs = list(self._outputs())
        if not outputs:
            return
        if not (self.job_dir / ARGUMENTS).exists():  # nor with --overwrite: they may be somebody's
            raise UserError(f"{outputs[0]} belongs to no run; choose another --job-dir")
        if not (self.resume or self.arguments["overwrite"]):
            raise UserError(
                f"{self.job_dir} holds a run; choose another --job-dir, or pass --resume to "
                "continue it or --overwrite to replace it"
            )
        about = self._saved() if self.resume else {"arguments": {}}
        saved = about["arguments"]
        for name in self.arguments.keys() & saved.keys() - FREE:  # its version may lack some
            value, before = self.arguments[name], saved[name]
            if before is None if isinstance(value, Path) else value != before:
                raise UserError(
                    f"--{name.replace('_', '-')} is {value}, in the run in {self.job_dir} it was "
                    f"{before}; --resume it with the same flags, or choose another --job-dir"
                )
        for name, before in about.get("inputs", {}).items():
            if self.inputs.get(name) != before:
                raise UserError(
                    f"--{name.replace('_', '-')} {self.arguments[name]} holds other data than in "
                    f"the run in {self.job_dir}; choose another --job-dir, or --overwrite it"
                )

    def _saved(self) -> dict[str, Any]:
        path = self.job_dir / ARGUMENTS
        about = read_json(path)
        if not isinstance(about, dict) or not isinstance(about.get("arguments"), dict):
            raise UserError(f"{path} is damaged; use --overwrite")
        return about

    def precision(self) -> str:
        """`--precision`; a resumed run with `auto` keeps the precision that it was begun with."""
        precision = self.arguments["precision"]
        if precision == "auto" and self.resume and (self.job_dir / ARGUMENTS).exists():
            return self._saved()["environment"]["hardware"].rpartition(", ")[2]
        return precision

    def identity(self, metadata: Mapping[str, Any], bf16: bool, processes: int) -> dict[str, Any]:
        """What must be equal for a run to be resumed; libraries and paths may change. `metadata`
        are those of the weights that the run writes."""
        files = {
            name: sha256(value)
            for name, value in self.arguments.items()
            if isinstance(value, Path) and value.is_file() and name != "cache_val"
        }
        known = {name: value for name, value in metadata.items() if name != "versions"}
        return {**known, "files": files, "bf16": bf16, "processes": processes}

    def start(self, hardware: str, resumed: bool) -> None:
        """Save the arguments, and remove the files of an earlier run unless it is `resumed`.

        Call it once the data has been read, so that a mistyped path costs no earlier result.
        """
        print(f"computing on {hardware}")
        for path in self.job_dir.rglob(f".*{TEMPORARY}"):  # of a run that was killed
            path.unlink()
        arguments = {k: str(v) if isinstance(v, Path) else v for k, v in self.arguments.items()}
        resolved = {name: self.resolved.get(name, value) for name, value in arguments.items()}
        about = {"arguments": arguments, "resolved": resolved, "inputs": self.inputs,
                 "environment": _environment(hardware)}  # fmt: skip
        if resumed:
            before = self._saved()
            about = before | {"continued": [*before.get("continued", []), about["environment"]]}
        else:
            for path in self._outputs():
                if path.name != ARGUMENTS:  # until it is replaced it marks the files as a run's
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_json(self.job_dir / ARGUMENTS, about)

    def add_note(self, text: str) -> None:
        """Add a remark to the saved arguments."""
        about = self._saved()
        write_json(self.job_dir / ARGUMENTS, about | {"notes": [*about.get("notes", []), text]})


def _environment(hardware: str) -> dict[str, Any]:
    main = sys.modules["__main__"].__spec__
    started = ["-m", main.name] if main else sys.argv[:1]
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40",
           "--dirty=+", "--exclude=*"]  # fmt: skip
    try:  # of this repository, with a `+` where files differ from the commit
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "command": shlex.join(["python", *started, *sys.argv[1:]]),
        "commit": commit,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    return {name: version(name) for name in LIBRARIES}


def rng(seed: int, *path: int) -> np.random.Generator:
    """NumPy generator for one purpose of one run; `path` tells the purposes apart."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))


def torch_generator(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """PyTorch generator: for initial weights, or with a `path` as `rng`."""
    start = int(rng(seed, *path).integers(2**63)) if path else seed
    return torch.Generator(device).manual_seed(start)


def scores_in_words(scores: Mapping[str, float | None]) -> str:
    """`loss 0.4120, acc 0.8710`, without what is None."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)


class History:
    """Rows of history.csv and timing.csv, one per epoch."""

    def __init__(self, job_dir: Path):
        self.job_dir = job_dir
        self.rows: list[dict[str, Any]] = []
        self.timing: list[dict[str, Any]] = []

    def add(
        self, epoch: int, scores: Mapping[str, float | None], timing: Mapping[str, float]
    ) -> None:
        """Write both tables with one more row."""
        values = {k: None if v is None else float(v) for k, v in scores.items()}
        self.rows.append({"epoch": epoch, **values})
        self.timing.append({"epoch": epoch, **timing})
        for name, rows in (("history.csv", self.rows), ("timing.csv", self.timing)):
            with atomic_path(self.job_dir / name) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")

    def best_epoch(self, column: str, ties: str | None = None) -> int:
        """The best epoch so far, 0 without any; of epochs without a value the last, of equal ones
        that with the best value in the column `ties`, or else the first."""
        best = None
        for row in self.rows:
            by = ties if ties and best and row[column] == best[column] else column
            if not best or row[by] is None or better(by, row[by], best[by]):
                best = row
        return best["epoch"] if best else 0
