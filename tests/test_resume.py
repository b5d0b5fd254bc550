"""A run that is stopped, killed or out of disk continues as if nothing had been."""

import json
import os
import resource
import shutil
import signal

import pandas as pd
import pytest
import torch

import finetuning.trainer
import pretraining.trainer
from tests.helpers import LONG_RUN, command, contents, put_weights
from tests.interrupting import (
    FINETUNING,
    PRETRAINING,
    finish,
    kill_and_continue,
    results,
    short_runs,
    start,
    time_whole,
    wait_for,
)
from utils import engine
from utils.files import read_json, write_json
from utils.run import CHECKPOINT

MAIN = {PRETRAINING: pretraining.trainer.main, FINETUNING: finetuning.trainer.main}


@pytest.fixture(scope="module")
def flags(cohort_folder, prepared):
    """Of a run of each trainer: a second or so."""
    return short_runs(cohort_folder, prepared, steps=16)


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """Folder of an uninterrupted run of each, and seconds that it computed."""
    folder = tmp_path_factory.mktemp("whole")
    return {m: (folder / m[:4], time_whole(m, flags[m], folder / m[:4])) for m in MAIN}


def stop_after(step, module, words, job, monkeypatch, method="pause"):
    """Run a trainer that is asked to stop in a method of its training, after so many steps."""
    original = getattr(engine.Training, method)

    def stopped(self, *arguments):
        self.exit_code = 130 * (self.steps_done >= step)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Training, method, stopped)
        result = command(MAIN[module], *words, "--job-dir", job)
    assert result.code == 130, result
    return result


@pytest.mark.parametrize("module", MAIN)
def test_killed_again_and_again(flags, whole, tmp_path, module):
    job, seconds = whole[module]
    said = kill_and_continue(module, flags[module], tmp_path / "job", 5, seconds / 2)
    assert "continues after step" in said
    assert results(tmp_path / "job") == results(job)
    assert CHECKPOINT not in results(job)
    timing = pd.read_csv(tmp_path / "job/timing.csv")["seconds"]
    assert len(timing) == len(pd.read_csv(job / "history.csv")) and (timing > 0).all()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", MAIN)
def test_stopped_by_a_signal(flags, whole, tmp_path, module, number, code):
    job, log = tmp_path / "job", tmp_path / "log"
    words = [*flags[module], "--job-dir", job, "--checkpoint-every", 10**6]
    process = start(module, words, log)
    wait_for(job / "history.csv", process)
    os.kill(process.pid, number)
    assert "--resume continues" in finish(process, log, code)
    assert not list(job.glob(".*"))
    resumed = command(MAIN[module], *words, "--resume")
    assert resumed.code == 0 and "continues after step" in resumed.out
    assert results(job).keys() == results(whole[module][0]).keys()


@pytest.mark.parametrize("module", MAIN)
def test_a_finished_run_is_left_alone(flags, whole, module):
    job, main = whole[module][0], MAIN[module]
    before, words = contents(job), [*flags[module], "--job-dir", job]
    result = command(main, *words, "--resume")
    assert result.code == 0 and "this run is finished" in result.out
    command(main, *words).refused("holds a run", "--resume")
    command(main, *words, "--resume", "--lr", 0.5).refused("--lr is 0.5", "was 0.001")
    command(main, *words, "--resume", "--arch", "resnet34").refused("is resnet34", "was None")
    if module == FINETUNING:
        assert words[2] == "--test"
        without = [*words[:2], *words[4:], "--resume"]
        command(main, *without).refused("--test is None", "p_test.npz")
    assert contents(job) == before


def finish_and_resume(module, words, job, moved, others):
    """Run a trainer; `moved` are flags of equal contents elsewhere, `others` flags of others."""
    words, main = [*words, "--device", "cpu", "--job-dir", job], MAIN[module]
    assert (result := command(main, *words)).code == 0, result
    about = json.loads((job / "args.json").read_text())
    assert "finished" in command(main, *words, "--resume", *moved).out
    for flag, value in others:
        command(main, *words, "--resume", flag, value).refused(f"{flag} {value} holds other data")
    return about


def test_a_finished_finetuning_knows_its_inputs(prepared, tmp_path):
    moved, padded = (shutil.copytree(prepared, tmp_path / name) for name in ("moved", "padded"))
    manifest = (padded / "p_manifest.json").read_text()
    (padded / "p_manifest.json").write_text(manifest.replace('"pad": 512', '"pad": 256'))
    weights = [put_weights(tmp_path / f"{n}.safetensors", seed=n) for n in (0, 1)]
    train, test = "p_train.npz", "p_test.npz"
    words = ["--train", prepared / train, "--test", prepared / test, "--val-size", 0.25,
             "--epochs", 1, "--weights-file", weights[0], "--preset", "authors-code"]  # fmt: skip
    others = [("--train", prepared / test), ("--train", padded / train),
              ("--test", prepared / train), ("--weights-file", weights[1])]  # fmt: skip
    moved = ["--train", moved / train, "--test", moved / test]
    about = finish_and_resume(FINETUNING, words, tmp_path / "job", moved, others)
    resolved = about["resolved"]
    assert resolved.keys() == about["arguments"].keys() and about["arguments"]["arch"] is None
    expected = {"arch": "resnet18", "stages": 1, "val_metric": "loss", "compile": False}
    assert expected.items() <= resolved.items() and resolved["precision"] in ("fp32", "bf16")


def test_a_finished_pretraining_knows_its_inputs(cohort_folder, cohort_copy, tmp_path):
    other = shutil.copytree(cohort_copy, tmp_path / "other")
    path = other / "p00/p00003/p00003_s01.atr"
    content = bytearray(path.read_bytes())
    beats = [n for n in range(1, len(content), 2) if content[n] >> 2 == 1]  # normal ones
    content[beats[5]] ^= (1 ^ 5) << 2  # becomes a premature ventricular contraction
    path.write_bytes(content)
    words = ["--train", cohort_folder, "--task", "beat", "--stages", 1, "--epochs", 1,
             "--frame-size", 128, "--batch-size", 4, "--steps-per-epoch", 2,
             "--val-patients", 1]  # fmt: skip
    moved, others = ["--train", cohort_copy], [("--train", other)]
    about = finish_and_resume(PRETRAINING, words, tmp_path / "job", moved, others)
    assert about["resolved"]["val_size"] == 2 and about["resolved"]["steps_per_epoch"] == 2


def test_the_recipe_beyond_the_paper_continues_alike(flags, tmp_path, monkeypatch):
    recipe = [*LONG_RUN, "--mixup", 0.2, "--balance", "sampling", "--tta", 2,
              "--standardise", "recording", "--epochs", 3]  # fmt: skip
    words, job = [*flags[FINETUNING], *recipe], tmp_path / "job"
    assert command(MAIN[FINETUNING], *words, "--job-dir", tmp_path / "whole").code == 0
    stopped = stop_after(13, FINETUNING, words, job, monkeypatch)
    assert "after step 4 of epoch 2" in stopped.out
    result = command(MAIN[FINETUNING], *words, "--job-dir", job, "--resume")
    assert result.code == 0 and "continues after step 4 of epoch 2" in result.out, result
    assert results(job) == results(tmp_path / "whole")


@pytest.mark.parametrize("module", MAIN)
def test_stopped_while_it_validates(flags, whole, tmp_path, monkeypatch, module):
    job = tmp_path / "job"
    stop_after(17, module, flags[module], job, monkeypatch, "evaluate")
    result = command(MAIN[module], *flags[module], "--job-dir", job, "--resume")
    assert result.code == 0 and "of epoch 2" in result.out, result
    assert results(job) == results(whole[module][0])
    assert len(read_json(job / "args.json")["continued"]) == 1


def test_moved_data_and_flags_of_a_later_version(flags, tmp_path, monkeypatch):
    job, words, main = tmp_path / "job", flags[FINETUNING], MAIN[FINETUNING]
    stages = words.index("--stages")
    words = [*words[:stages], *words[stages + 2 :], "--weights-file", put_weights(tmp_path / "one")]
    stop_after(20, FINETUNING, words, job, monkeypatch)
    about = read_json(job / "args.json")
    del about["arguments"]["tta"]
    write_json(job / "args.json", about)
    moved = shutil.copytree(words[1].parent, tmp_path / "moved")
    data = ["--train", moved / "p_train.npz", "--test", moved / "p_test.npz"]
    again = [*words, "--job-dir", job, "--resume", *data]
    other = put_weights(tmp_path / "other", seed=1)
    command(main, *again, "--weights-file", other).refused("--weights-file", "holds other data")
    command(main, *again, "--precision", "bf16").refused("--precision is bf16")
    result = command(main, *again)
    assert result.code == 0 and "continues after" in result.out, result


def test_other_flags_or_data_are_not_continued(flags, cohort_copy, tmp_path, monkeypatch):
    job, words, main = tmp_path / "job", flags[PRETRAINING], MAIN[PRETRAINING]
    stop_after(20, PRETRAINING, words, job, monkeypatch)
    again = [*words, "--job-dir", job, "--resume"]
    command(main, *again, "--overwrite").refused("--overwrite", "not with --resume")
    command(main, *again, "--batch-size", 4).refused("--batch-size is 4", "it was 8")
    (cohort_copy / "p00/p00001/p00001_s01.dat").unlink()
    result = command(main, *again, "--train", cohort_copy, "--index", tmp_path / "index")
    assert result.code == 2 and f"--train {cohort_copy} holds other data" in result.err


def test_a_damaged_checkpoint_and_none(flags, tmp_path, monkeypatch):
    job, words, main = tmp_path / "job", flags[FINETUNING], MAIN[FINETUNING]
    stop_after(20, FINETUNING, words, job, monkeypatch)
    intact = (job / CHECKPOINT).read_bytes()
    for content in (b"\0" * 100, intact[:-100], b""):
        (job / CHECKPOINT).write_bytes(content)
        command(main, *words, "--job-dir", job, "--resume").refused(CHECKPOINT, "--overwrite")
    (job / CHECKPOINT).unlink()
    (job / ".history.csv.0.tmp").write_bytes(b"half")
    result = command(main, *words, "--job-dir", job, "--resume")
    assert result.code == 0 and "continues" not in result.out and not list(job.glob(".*"))


def test_two_runs_in_one_folder(flags, tmp_path):
    job, log = tmp_path / "job", tmp_path / "log"
    words = [*flags[PRETRAINING], "--job-dir", job]
    process = start(PRETRAINING, words, log)
    wait_for(job / "args.json", process)
    for flag in ("--resume", "--overwrite"):
        command(MAIN[PRETRAINING], *words, flag).refused(str(job), "in use by another run")
    finish(process, log)


def test_a_full_disk_leaves_the_last_checkpoint(flags, whole, tmp_path, monkeypatch):
    """A file may not grow beyond what is left on the disk: the checkpoint is the largest."""
    job, kind, main = tmp_path / "job", resource.RLIMIT_FSIZE, MAIN[PRETRAINING]
    again = [*flags[PRETRAINING], "--job-dir", job, "--resume"]
    stop_after(20, PRETRAINING, flags[PRETRAINING], job, monkeypatch)
    before, limits = (job / CHECKPOINT).read_bytes(), resource.getrlimit(kind)
    resource.setrlimit(kind, (len(before) - 1000, limits[1]))
    result = command(main, *again)
    resource.setrlimit(kind, limits)
    result.refused(f"{job / CHECKPOINT}: File too large")
    assert (job / CHECKPOINT).read_bytes() == before and not list(job.glob(".*"))
    assert command(main, *again).code == 0
    assert results(job) == results(whole[PRETRAINING][0])


@pytest.mark.parametrize(
    ("module", "words"), [(PRETRAINING, ["epoch 2, step 5, made of p0000", "from sample"]),
                          (FINETUNING, ["epoch 3, step 3, made of A000"])],
)  # fmt: skip
def test_a_loss_that_is_not_finite_names_step_and_records(
    flags, tmp_path, monkeypatch, module, words
):
    job = tmp_path / "job"
    stop_after(20, module, flags[module], job, monkeypatch)
    state = torch.load(job / CHECKPOINT)
    state["model"]["encoder.conv1.weight"][:] = 1e38
    torch.save(state, job / CHECKPOINT)
    before = results(job)
    result = command(MAIN[module], *flags[module], "--job-dir", job, "--resume")
    result.refused(*words, "no longer finite", "--lr")
    assert results(job) == before
