"""Two processes by torchrun do what one does."""

import os
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers import LONG_RUN, ROOT, contents
from tests.interrupting import results
from utils import distributed
from utils.cli import UserError
from utils.distributed import ALONE, Processes

FRAME, BATCH = 256, 8
FLAGS = [
    "--task", "beat", "--frame-size", FRAME, "--batch-size", BATCH, "--stages", 1,
    "--steps-per-epoch", 10, "--samples-per-patient", 16, "--epochs", 1, "--val-patients", 2,
    "--val-size", 32, "--device", "cpu", "--precision", "fp32",
]  # fmt: skip


def launch(*command, processes=2) -> subprocess.Popen:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m"]
    words = [sys.executable, "-m", *(launcher if processes > 1 else ()), *command]
    return subprocess.Popen(
        list(map(str, words)), cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start(*command, processes=2) -> subprocess.CompletedProcess:
    for _ in range(3):
        process = launch(*command, processes=processes)
        out, err = process.communicate(timeout=120)
        # Rarely, on a busy machine, gloo's own threads abort a process that has done its work.
        if "Signal 6 (SIGABRT)" not in err:
            break
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def steps(cohort_folder, tmp_path_factory):
    """What `tests.distributed_steps` saved, by number of processes and rank."""
    results, index = {}, tmp_path_factory.mktemp("index")
    for size in (1, 2):
        out = tmp_path_factory.mktemp("steps")
        flags = ["--job-dir", out / "job", "--train", cohort_folder, "--index", index, *FLAGS]
        found = start("tests.distributed_steps", out, *flags, processes=size)
        assert found.returncode == 0, found
        results[size] = [dict(np.load(out / f"{rank}.npz")) for rank in range(size)]
    return results


def test_two_processes_read_the_frames_of_one(steps):
    (whole,), (one, other) = ([rank["read"] for rank in steps[size]] for size in (1, 2))
    assert len(whole) == 10 * BATCH
    np.testing.assert_array_equal(whole[::2], one)
    np.testing.assert_array_equal(whole[1::2], other)


@pytest.mark.parametrize("name", ["frames", "unequal"])
def test_two_processes_reach_the_weights_of_one(steps, name):
    (one,), (first, second) = steps[1], steps[2]
    np.testing.assert_array_equal(first[f"{name}_weights"], second[f"{name}_weights"])
    assert np.abs(first[f"{name}_weights"] - one[f"{name}_weights"]).max() < 1e-10
    np.testing.assert_allclose(first[f"{name}_scores"], one[f"{name}_scores"], rtol=1e-7)
    assert np.abs(one["frames_weights"] - one["unequal_weights"]).max() > 1e-3


def test_pretraining_and_fine_tuning_by_two_processes(cohort_folder, prepared, tmp_path):
    job, index = tmp_path / "beat", tmp_path / "index"
    flags = ["--job-dir", job, "--train", cohort_folder, "--index", index, "--overwrite", *FLAGS]
    found = start("pretraining.trainer", *flags)
    assert found.returncode == 0, found
    assert "Warning" not in found.stderr
    assert found.stdout.count("epoch 1: loss") == found.stdout.count("patients train") == 1
    assert {"weights.safetensors", "scores.json"} <= contents(job).keys()
    assert '"hardware": "2 × cpu, fp32"' in (job / "args.json").read_text()
    tuned = tmp_path / "af"
    flags = [
        "--job-dir", tuned, "--overwrite", "--train", prepared / "p_train.npz", "--batch-size", 8,
        "--test", prepared / "p_test.npz", "--weights-file", job / "weights.safetensors",
        "--val-size", 0.25, "--epochs", 6, "--patience", 1, "--stop-metric", "val_f1",
        "--device", "cpu",
    ]  # fmt: skip
    flags += [*LONG_RUN, "--mixup", 0.2, "--balance", "loss"]
    found = start("finetuning.trainer", *flags)
    assert found.returncode == 0, found
    assert found.stdout.count("test: macro F1") == 1
    history = pd.read_csv(tuned / "history.csv")
    better = history["macro_f1"].cummax().diff().fillna(1) > 0
    assert better[:-1].all() and (not better.iloc[-1] or len(history) == 6)  # both stopped at once


def test_two_processes_are_stopped_and_continue(cohort_folder, tmp_path):
    flags = ["--train", cohort_folder, "--index", tmp_path / "index", *FLAGS, "--epochs", 2]
    whole, job = tmp_path / "whole", tmp_path / "job"
    assert start("pretraining.trainer", "--job-dir", whole, *flags).returncode == 0
    stopped = launch("pretraining.trainer", "--job-dir", job, "--checkpoint-every", 3, *flags)
    while not (job / "checkpoint.pt").exists():
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.01)
    stopped.terminate()
    out, err = stopped.communicate(timeout=60)
    assert "--resume continues" in out, (out, err)
    found = start("pretraining.trainer", "--job-dir", job, "--resume", *flags)
    assert found.returncode == 0 and found.stdout.count("continues after step") == 1, found
    assert results(job) == results(whole)


def test_what_does_not_fit_is_said_once(cohort_folder, tmp_path):
    flags = ["--job-dir", tmp_path / "job", "--train", tmp_path, "--index", tmp_path / "index"]
    found = start("pretraining.trainer", *flags, *FLAGS)
    assert found.returncode != 0
    assert found.stderr.count("error: ") == 1 and "holds no records" in found.stderr, found
    assert "[rank" not in found.stderr  # nothing of those who waited
    assert not (tmp_path / "job").exists()


def test_shares_and_the_last_step():
    for size in (1, 2, 4, 8):
        shares = [list(range(11))[Processes(rank, size).share] for rank in range(size)]
        assert sorted(chain.from_iterable(shares)) == list(range(11))
    with pytest.raises(UserError, match="--batch-size 8 cannot be shared equally by 3 processes"):
        Processes(0, 3).check(8, False)
    with pytest.raises(UserError, match="--sync-bn is for several processes on CUDA"):
        ALONE.check(8, True)
    for size, examples in ((4, 24), (4, 28), (1, 25)):
        Processes(0, size).check(8, False, examples)
    with pytest.raises(UserError, match="leaves 3 of 27 recordings for the last step"):
        Processes(0, 4).check(8, False, 27)


def test_a_device_for_each_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.local_device(True) == torch.device("cuda", 1)
    assert distributed.local_device(False) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="no CUDA device for process 3"):
        distributed.local_device(True)
