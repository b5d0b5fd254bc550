"""Runs the jobs of a study, several at once, until all are done or it is time to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tqdm import tqdm

from study import status
from study.durations import Durations
from study.jobs import STOPPED, Job
from study.plan import needed, wanted
from utils.cli import UserError
from utils.run import Stop

STUDY = "ECG_STUDY"

LEFT = os.EX_TEMPFAIL  # exit code: there is more to do
PAUSE = 0.2  # seconds between two looks at the processes
GRACE = 60  # seconds before the time limit, or a tenth of it, in which commands save and leave


class Process(NamedTuple):
    """A job under way, since when (monotonic), and how long earlier processes worked on it."""

    job: Job
    popen: subprocess.Popen
    began: float
    earlier: float


def run(folder: Path, jobs: Sequence[Job], at_once: int, minutes: float | None) -> None:
    """Run what is not finished; exits with a code of `python -m study`.

    Raises:
        UserError: another study runs in the folder, or some runs failed.
    """
    limit = 60 * minutes if minutes else float("inf")
    end = time.monotonic() + limit
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        runner = Runner(jobs, at_once, end - min(GRACE, limit / 10), end)
        runner.run()
    runner.report()
    if runner.stop.code or runner.left:
        sys.exit(runner.stop.code or LEFT)
    if runner.failed:
        raise UserError(f"{len(runner.failed)} of {len(jobs)} jobs failed, see above")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder} is in use by another study; wait, or give --folder") from None


class Runner:
    """What is under way, what is left, and what failed.

    Attributes:
        left: to be started. failed: with the reason. blocked: with what they wait for.
        deadline: when processes are told to stop. end: when those still there are killed.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int, deadline: float, end: float):
        self.jobs, self.at_once, self.deadline, self.end = jobs, at_once, deadline, end
        self.left = wanted(jobs)
        self.running: list[Process] = []
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.stop = Stop()
        self.known = Durations(jobs)
        self.needs = {job.name: {other.name for other in needed(job, jobs)} for job in self.left}

    @property
    def stopping(self) -> bool:
        return bool(self.stop.code) or time.monotonic() > self.deadline

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def run(self) -> None:
        """Start and await processes."""
        done = len(self.jobs) - len(self.left)
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        bar = tqdm(total=len(self.jobs), initial=done, desc="study", unit="job", disable=None,
                   bar_format=form)  # fmt: skip
        with bar, self.stop.listening():
            try:
                asked = False
                while self.running or (self.left and not self.stopping):
                    if not self.stopping:
                        self.fill()
                    elif not asked:
                        asked = True
                        for process in self.running:
                            process.popen.terminate()
                    for process in self.running if self.over else ():
                        process.popen.kill()
                    bar.set_postfix_str(self.time_left())
                    time.sleep(PAUSE)
                    self.reap(bar)
            finally:
                for process in self.running:  # a second Ctrl-C, or an error here
                    process.popen.kill()
                    process.popen.wait()

    def fill(self) -> None:
        """Start what can be, in order."""
        for job in list(self.left):
            if len(self.running) == self.at_once:
                return
            needs, ahead = self.needs[job.name], {other.name for other in self.ahead}
            if bad := needs & self.not_done:
                self.left.remove(job)
                self.blocked[job.name] = min(bad)
            elif not needs & ahead:
                self.left.remove(job)
                self.running.append(start(job, self.at_once))

    @property
    def ahead(self) -> list[Job]:
        """Left or under way."""
        return self.left + [process.job for process in self.running]

    def time_left(self) -> str:
        """In words."""
        now = time.monotonic()
        spent = {run.job.name: now - run.began + run.earlier for run in self.running}
        return self.known.words(self.ahead, spent, self.at_once)

    @property
    def not_done(self) -> set[str]:
        return self.failed.keys() | self.blocked.keys()

    def reap(self, bar: tqdm) -> None:
        """Take note of the processes that have ended."""
        for process in [process for process in self.running if process.popen.poll() is not None]:
            self.running.remove(process)
            job, code = process.job, process.popen.returncode
            seconds = time.monotonic() - process.began
            killed = self.over and code == -signal.SIGKILL
            how = "killed at the time limit" if killed else f"ended with exit code {code}"
            with job.log.open("a") as log:
                log.write(f"{how} after {seconds:.0f} s\n")
            if code == 0:
                job.begun.unlink(missing_ok=True)
                self.known.add(job)
                words = f"finished, {job.seconds():.0f} s in epochs {status.score(job)}".rstrip()
                bar.update()
            elif killed or code in STOPPED:
                self.left.append(job)
                self.deadline = 0  # whoever stopped it by itself wants all to stop
                words = how if killed else "stopped"
            else:
                self.failed[job.name] = job.last_words()[0]
                words = "failed"
            tqdm.write(f"{job.name}: {words}; {self.time_left()}")

    def report(self) -> None:
        """Say what is finished, what failed, and what is left."""
        names = {job.name: job for job in self.jobs}
        for name, reason in self.failed.items():
            print(f"{name} failed: {reason} ({names[name].log})")
        for name, needs in self.blocked.items():
            print(f"{name} was not run: it needs {needs}")
        if self.left:
            few = ", ".join(job.name for job in self.left[:3])
            print(f"left: {len(self.left)} jobs ({few}{', …' * (len(self.left) > 3)}); the same"
                  " command continues")  # fmt: skip
        else:
            done = len(self.jobs) - len(self.not_done)
            print(f"{done} of {len(self.jobs)} jobs are finished")


def start(job: Job, at_once: int) -> Process:
    """A process, whose output goes to the log, with its share of the threads."""
    environment = os.environ | {STUDY: str(os.getpid())}
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = str(max(threads() // at_once, 1))
    if job.kind == "data":
        job.begun.touch()
    with job.log.open("a") as log:
        log.write(f"$ {job.command()}\n")
        log.flush()
        popen = subprocess.Popen(
            [sys.executable, "-m", *job.argv()], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    return Process(job, popen, time.monotonic(), job.seconds())


def threads() -> int:
    """That this process may use."""
    mine = getattr(os, "sched_getaffinity", None)  # not on macOS
    return int(os.environ.get("OMP_NUM_THREADS") or (len(mine(0)) if mine else os.cpu_count() or 1))
