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

BEGUN = "computing on"
UNEQUAL = ("timing.csv", "args.json")  # times, and names of folders
# Processes start from one that has imported all: in milliseconds, and with no threads of others.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pretraining.trainer", "finetuning.trainer"])


def start(module: str, flags: Sequence[object], log: Path) -> multiprocessing.Process:
    """A trainer in a process of its own, on one thread; what it says is added to `log`."""
    process = PROCESSES.Process(
        target=run_trainer, args=(module, [str(flag) for flag in flags], log)
    )
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


def said(log: Path) -> str:
    """What runs have added to `log`."""
    return log.read_text() if log.exists() else ""


def results(job_dir: Path) -> dict[str, bytes]:
    """Files of a run that equal runs have alike."""
    return {name: data for name, data in contents(job_dir).items() if name not in UNEQUAL}


def kill_and_continue(
    module: str, flags: Sequence[object], job_dir: Path, kills: int, most: float, seed: int = 0
) -> str:
    """Start a run, kill it so often, each time `most` seconds or less after it has read its data,
    and let it finish.

    Returns:
        What it said.
    """
    draw, log = random.Random(seed), job_dir.with_suffix(".log")
    command = [*flags, "--job-dir", job_dir, "--resume"]
    while kills:
        process = start(module, command, log)
        begun = said(log).count(BEGUN)
        while said(log).count(BEGUN) == begun and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, most))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills -= 1
        else:  # it was faster: once more
            assert process.exitcode == 0, log.read_text()
            shutil.rmtree(job_dir)
    process = start(module, command, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()
