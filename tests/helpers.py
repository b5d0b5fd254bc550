"""What several test files share: commands run in this process, tiny networks, folders as bytes."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from utils import cli
from utils.contract import Contract
from utils.encoders import Classifier, build_encoder

ROOT = Path(__file__).parents[1]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert exit code 2 and one line of error that holds `words`."""
        assert self.code == 2, self
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
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


def make_contract(**changes) -> Contract:
    values = {
        "architecture": "resnet18", "stages": 1, "in_channels": 1, "fs": 250, "unit": "mV",
        "mean": 0.1, "sd": 1.5, "frame_size": 256, "task": "beat", "classes": list("abcd"),
        "dataset": "made up", "manifest_sha256": "0" * 64, "seed": 0, "versions": {"torch": "2"},
    }  # fmt: skip
    return Contract(**values | changes)


def make_classifier(stages: int = 1, classes: int = 4, in_channels: int = 1) -> Classifier:
    """A network whose batch statistics are those of noise, not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    model = Classifier(
        build_encoder("resnet18", in_channels, stages, generator), classes, generator
    )
    with torch.no_grad():
        model(torch.randn(4, in_channels, 64, generator=generator))
    return model
