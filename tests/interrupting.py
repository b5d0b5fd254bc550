"""Runs of the trainers that are killed now and again, and continued."""

import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.helpers import contents
from utils import cli

PRETRAINING, FINETUNING = "pretraining.trainer", "finetuning.trainer"
BEGUN = "computing on"
UNEQUAL = ("timing.csv", "args.json")  # times, and names of folders
# Processes start from one that has imported all: in milliseconds, and with no threads of others.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([PRETRAINING, FINETUNING])


def short_runs(cohort: Path, prepared: Path, steps: int) -> dict[str, list[object]]:
    """Flags of a run of each trainer, of 4 epochs of so many steps and of 12 epochs at most."""
    common = ["--stages", 1, "--device", "cpu", "--precision", "fp32", "--checkpoint-every", 4]
    return {
        PRETRAINING: [
            "--train", cohort, "--task", "beat", "--frame-size", 256, "--batch-size", 8,
            "--steps-per-epoch", steps, "--epochs", 4, "--samples-per-patient", 16,
            "--val-patients", 2, "--val-size", 32, *common,
        ],
        FINETUNING: [
            "--train", prepared / "p_train.npz", "--test", prepared / "p_test.npz", "--epochs", 12,
            "--batch-size", 4, "--val-size", 0.25, "--patience", 8, *common,
        ],
    }  # fmt: skip


def start(module: str, flags: Sequence[object], log: Path) -> multiprocessing.Process:
    """A trainer in a process of its own, on one thread; what it says is added to `log`."""
    words = [str(flag) for flag in flags]
    process = PROCESSES.Process(target=run_trainer, args=(module, words, log))
    process.start()
    return process


def run_trainer(module: str, flags: list[str], log: Path) -> None:
    """In this process, on one thread."""
    import torch

    torch.set_num_threads(1)
    with log.open("a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.argv = [module, *flags]
        cli.run(importlib.import_module(module).main)


def finish(process: multiprocessing.Process, log: Path, code: int = 0) -> str:
    """Wait for a trainer; returns what it has said."""
    process.join()
    assert process.exitcode == code, log.read_text()
    return log.read_text()


def time_whole(module: str, flags: Sequence[object], job_dir: Path) -> float:
    """Run a trainer to its end; returns the seconds after it has read its data."""
    log = job_dir.with_suffix(".log")
    process = start(module, [*flags, "--job-dir", job_dir], log)
    wait_for(job_dir / "args.json", process)
    began = time.monotonic()
    finish(process, log)
    return time.monotonic() - began


def wait_for(path: Path, process: multiprocessing.Process) -> None:
    """Wait until the process has written a file, or ended."""
    while not path.exists() and process.is_alive():
        time.sleep(0.01)


def results(job_dir: Path) -> dict[str, bytes]:
    """Files of a run that equal runs have alike."""
    return {name: data for name, data in contents(job_dir).items() if name not in UNEQUAL}


def kill_and_continue(
    module: str, flags: Sequence[object], job_dir: Path, kills: int, most: float, seed: int = 0
) -> str:
    """Start a run, kill it so often, each time `most` seconds or less after it has read its data,
    and let it finish; returns what it said."""
    draw, log = random.Random(seed), job_dir.with_suffix(".log")
    command = [*flags, "--job-dir", job_dir, "--resume"]
    log.touch()
    while kills:
        begun = log.read_text().count(BEGUN)
        process = start(module, command, log)
        while log.read_text().count(BEGUN) == begun and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, most))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills -= 1
        else:  # it was faster: once more
            assert process.exitcode == 0, log.read_text()
            shutil.rmtree(job_dir)
    return finish(start(module, command, log), log)
