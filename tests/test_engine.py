"""Hardware, precision, training steps and losses that are no longer finite."""

import json
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from pretraining.trainer import main as pretrain
from tests.helpers import command, make_classifier
from utils import engine
from utils.cli import UserError
from utils.engine import Batch, Hardware, NotFinite, choose_hardware, evaluate, train_epoch

CPU = Hardware(torch.device("cpu"), bf16=False)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Broken(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1) * float("nan")


def test_cuda_asked_for_in_vain(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda"):
        choose_hardware("cuda", "auto")
    assert choose_hardware("auto", "fp32") == CPU
    assert choose_hardware("cpu", "bf16").bf16


@pytest.mark.parametrize(
    ("device", "flag", "compiled"),
    [("cpu", None, False), ("cpu", True, True), ("cuda", None, True), ("cuda", False, False)],
)
def test_compiled_on_cuda_or_where_asked_for(device, flag, compiled):
    assert Hardware(torch.device(device), bf16=False).compiles(flag) == compiled


def test_where_compilation_fails_training_goes_on_uncompiled(monkeypatch, cohort_folder, tmp_path):
    words = ["--train", cohort_folder, "--task", "beat", "--stages", 1, "--frame-size", 128,
             "--batch-size", 4, "--epochs", 1, "--steps-per-epoch", 2, "--val-patients", 0,
             "--device", "cpu", "--precision", "fp32", "--index", tmp_path / "index"]  # fmt: skip
    assert command(pretrain, *words, "--job-dir", tmp_path / "plain").code == 0
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    result = command(pretrain, *words, "--job-dir", tmp_path / "job", "--compile")
    warnings = [line for line in result.err.splitlines() if "compile" in line]
    assert result.code == 0 and len(warnings) == 1 and "Traceback" not in result.err, result
    assert "no-such-compiler" in warnings[0] and "goes on uncompiled" in warnings[0]
    (note,) = json.loads((tmp_path / "job/args.json").read_text())["notes"]
    assert note.startswith("not compiled: ") and warnings[0].startswith(note)
    history = [(tmp_path / job / "history.csv").read_text() for job in ("job", "plain")]
    assert history[0] == history[1]


@pytest.mark.parametrize(
    ("error", "kept"), [(torch.OutOfMemoryError("x"), True), (OSError("no nvcc\nat"), False)]
)
def test_too_little_memory_is_no_failed_compilation(monkeypatch, error, kept):
    monkeypatch.setattr(torch, "compile", mock.Mock(side_effect=error))
    reasons, x = [], noise(2, 1, 64)
    model = engine.Compiled(make_classifier().eval(), reasons.append)
    if kept:
        with pytest.raises(type(error)):
            model(x)
    else:
        assert model(x).equal(model(x)) and reasons == ["no nvcc"]


def test_the_loss_is_looked_at_now_and_then(monkeypatch):
    def forward(x):
        steps.append(len(steps) + 1)
        return model(x) * (float("nan") if len(steps) == 3 else 1)

    monkeypatch.setattr(engine, "READ_EVERY", 2)
    model, steps = make_classifier(), []
    wrapped = mock.Mock(side_effect=forward)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [Batch(noise(4, 1, 64), torch.arange(4), 4)] * 9
    with pytest.raises(NotFinite, match="no longer finite; lower --lr") as raised:
        train_epoch(wrapped, batches, optimizer, F.cross_entropy, CPU)
    assert raised.value.step == 3
    assert steps == [1, 2, 3, 4]  # the fourth step is the next look
    with pytest.raises(NotFinite, match="no longer finite; lower --lr"):
        evaluate(Broken(), batches, CPU)


# Which precision `--precision auto` takes, and that a resumed run keeps its own


@pytest.fixture
def measured(monkeypatch):
    """Set the seconds that a product takes in fp32 and in bf16, and whether bf16 is native."""

    def measured(fp32, bf16, native=True):
        seconds = {torch.float32: fp32, torch.bfloat16: bf16}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": native})
        monkeypatch.setattr(engine, "_product_seconds", seconds.__getitem__)
        engine.faster_bf16.cache_clear()

    yield measured
    monkeypatch.undo()
    engine.faster_bf16.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "native", "expected"),
    [(1.21, 1, True, True), (1.19, 1, True, False), (2, 1, False, False)],
)
def test_auto_takes_the_faster_one(measured, fp32, bf16, native, expected):
    measured(fp32, bf16, native)
    assert engine.choose_hardware("cpu", "auto") == Hardware(CPU.device, expected)
    assert engine.choose_hardware("cpu", "bf16").bf16
    assert not engine.choose_hardware("cpu", "fp32").bf16


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
