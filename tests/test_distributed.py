"""Two processes by torchrun do what one does."""

import os
import subprocess
import sys
import time
from dataclasses import fields
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import torch

from pretraining.batches import load
from pretraining.cohort import DataOptions, open_data
from pretraining.icentia11k.reader import read_constants
from pretraining.tasks import Beat
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


def test_two_processes_read_the_frames_of_one(cohort_folder, tmp_path):
    options = dict.fromkeys(field.name for field in fields(DataOptions)) | {
        "train": cohort_folder, "index": tmp_path, "val_patients": 2, "samples_per_patient": 16,
        "batch_size": BATCH, "epochs": 1, "seed": 0,
    }  # fmt: skip
    constants = read_constants(cohort_folder)

    def read(processes):
        data = open_data(DataOptions(**options), Beat(FRAME), constants, None, processes)
        batches = load(data.train, range(data.steps), torch.device("cpu"))
        return torch.cat([batch.inputs for batch in batches])

    whole = read(ALONE)
    assert len(whole) == 4 * 16
    for rank in (0, 1):
        assert torch.equal(read(Processes(rank, 2)), whole[rank::2])


def test_two_processes_reach_the_weights_of_one(tmp_path):
    found = {}
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        done = start("tests.distributed_steps", tmp_path / str(size), processes=size)
        assert done.returncode == 0, done
        found[size] = [dict(np.load(tmp_path / f"{size}/{rank}.npz")) for rank in range(size)]
    (one,), (first, second) = found[1], found[2]
    np.testing.assert_array_equal(first["weights"], second["weights"])
    assert np.abs(first["weights"] - one["weights"]).max() < 1e-10
    np.testing.assert_allclose(first["scores"], one["scores"], rtol=1e-7)


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
