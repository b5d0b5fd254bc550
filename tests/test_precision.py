"""Which precision `--precision auto` takes, and that a run which is resumed keeps its own."""

import json

import pytest
import torch

from pretraining.trainer import main as pretrain
from tests.helpers import command
from utils import engine

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Set the seconds that a product takes in fp32 and in bf16, and whether bf16 is native."""

    def measured(fp32, bf16, native=True):
        seconds = {torch.float32: fp32, torch.bfloat16: bf16}
        monkeypatch.setattr(engine, "native_bf16", lambda device: native)
        monkeypatch.setattr(engine, "_product_seconds", seconds.__getitem__)
        engine.faster_bf16.cache_clear()

    yield measured
    monkeypatch.undo()
    engine.faster_bf16.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "native", "expected"),
    [(2, 1, True, True), (1.21, 1, True, True), (1.19, 1, True, False), (1, 2, True, False),
     (2, 1, False, False)],
)  # fmt: skip
def test_auto_takes_the_faster_one(measured, fp32, bf16, native, expected):
    measured(fp32, bf16, native)
    assert engine.choose_hardware("cpu", "auto") == engine.Hardware(CPU, expected)
    assert engine.choose_hardware("cpu", "bf16").bf16
    assert not engine.choose_hardware("cpu", "fp32").bf16


def test_products_are_timed():
    assert 0 < engine._product_seconds(torch.float32) < 60


@pytest.mark.parametrize("first", ["bf16", "fp32"])
def test_a_resumed_run_keeps_its_precision(measured, cohort_folder, tmp_path, first):
    fast, slow = ((2, 1), (1, 2)) if first == "bf16" else ((1, 2), (2, 1))
    words = ["--train", cohort_folder, "--index", tmp_path / "index", "--job-dir", tmp_path / "job",
             "--task", "beat", "--stages", 1, "--frame-size", 128, "--batch-size", 4, "--epochs", 1,
             "--steps-per-epoch", 2, "--val-patients", 0, "--device", "cpu"]  # fmt: skip
    measured(*fast)
    begun = command(pretrain, *words)
    assert begun.code == 0 and f"computing on cpu, {first}" in begun.out, begun
    (tmp_path / "job/weights.safetensors").unlink()  # as if it had died before the end
    measured(*slow)
    command(pretrain, *words, "--resume", "--precision", first).refused(f"--precision is {first}")
    again = command(pretrain, *words, "--resume")
    assert again.code == 0 and f"computing on cpu, {first}" in again.out, again
    other = {"bf16": "fp32", "fp32": "bf16"}[first]
    afresh = command(pretrain, *words, "--overwrite")
    assert afresh.code == 0 and f"computing on cpu, {other}" in afresh.out, afresh
    stated = json.loads((tmp_path / "job/args.json").read_text())["environment"]["hardware"]
    assert stated == f"cpu, {other}"
