"""What several test files share: commands run in this process, tiny networks, folders as bytes."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from edfio import Bdf, BdfSignal, Edf, EdfSignal
from scipy.io import savemat

from models import Classifier, build_encoder
from utils import cli
from utils.model_card import TWELVE_LEADS, Metadata
from utils.weights import save_weights

ROOT = Path(__file__).parents[1]
LONG_RUN = [  # what is common in long runs, at once
    "--schedule", "cosine", "--warmup", 0.05, "--weight-decay", 0.01, "--ema", 0.999, "--augment",
]  # fmt: skip


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert exit code 2 and one line of error that holds `words`; warnings may precede it."""
        assert self.code == 2, self
        assert self.err.splitlines()[-1].startswith("error: "), self.err
        assert self.err.count("error: ") == 1 and "Traceback" not in self.err, self.err
        for word in words:
            assert word in self.err, self.err


def command(main, *flags) -> Result:
    """What `python -m … flags` would do, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    argv = mock.patch.object(sys, "argv", ["command", *map(str, flags)])
    with argv, redirect_stdout(out), redirect_stderr(err):
        try:
            cli.run(main)
        except SystemExit as stop:
            code = stop.code or 0
    return Result(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones included."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def make_metadata(**changes) -> Metadata:
    values = {
        "architecture": "resnet18", "stages": 1, "in_channels": 1, "fs": 250, "unit": "mV",
        "mean": 0.1, "sd": 1.5, "frame_size": 256, "task": "beat", "classes": list("abcd"),
        "dataset": "made up", "manifest_sha256": "0" * 64, "seed": 0, "versions": {"torch": "2"},
    }  # fmt: skip
    return Metadata(**values | changes)


def make_classifier(stages: int = 1, classes: int = 4, in_channels: int = 1) -> Classifier:
    """A network whose batch statistics are those of noise, not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    model = Classifier(
        build_encoder("resnet18", in_channels, stages, generator), classes, generator
    )
    with torch.no_grad():
        model(torch.randn(4, in_channels, 64, generator=generator))
    return model


def noise(samples=600, leads=12, seed=0) -> np.ndarray:
    """(samples, leads) int16, each lead louder than the one before."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((samples, leads)) * (100 + 20 * np.arange(leads))).astype(np.int16)


def put_challenge(path: Path, units: np.ndarray, fs=500, leads=TWELVE_LEADS, comments=()) -> None:
    """Write `path`.mat and .hea as the PhysioNet Challenges do; `units` (samples, leads) in uV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(f"{path}.mat", {"val": units.T}, format="4")
    lines = [f"{path.name} {units.shape[1]} {fs} {len(units)} 12-May-2020 12:33:59"]
    for column, lead in zip(units.T, leads, strict=True):
        checksum = column.sum(dtype=np.int16)
        lines.append(f"{path.name}.mat 16+24 1000/mV 16 0 {column[0]} {checksum} 0 {lead}")
    Path(f"{path}.hea").write_text("\n".join([*lines, *comments]) + "\n")


def put_edf(path: Path, signal: np.ndarray, fs=500, leads=("ECG",), unit="mV", notes=()) -> None:
    """Write `signal` (samples, leads) in `unit` as EDF, or as BDF where `path` ends in .bdf."""
    kind, file = (BdfSignal, Bdf) if path.suffix == ".bdf" else (EdfSignal, Edf)
    edges = (np.floor(signal.min()), np.ceil(signal.max()))
    file([
        kind(column, fs, label=lead, physical_dimension=unit, physical_range=edges)
        for column, lead in zip(signal.T, leads, strict=True)
    ], annotations=notes).write(path)  # fmt: skip


def put_weights(path: Path, **changes) -> Path:
    """Weights of a network of one stage, with a classifier for five classes."""
    metadata = make_metadata(**changes)
    model = make_classifier(classes=5, in_channels=metadata.in_channels)
    save_weights(path, model.state_dict(), metadata)
    return path
