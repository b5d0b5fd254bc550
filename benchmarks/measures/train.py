"""Pretraining, from recordings to weights, and its bare step."""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.measures.limits import flops, matrix_rate
from benchmarks.measures.steps import PLAIN, make_step, make_variant
from benchmarks.measures.timing import describe, in_turns, save, seconds, show
from recordings.synthetic import write_icentia11k
from utils.engine import choose_hardware

CLASSES = 5  # of beats
PRECISIONS = {"bf16, channels-last": True, "fp32, channels-last": False}  # auto takes one of them
STEP, COMPILED, TRAINER = "the trainer's step", "compiled", "pretraining.trainer"


def measure(args: argparse.Namespace) -> None:
    """Print frames/s of each variant and the share of the machine's rate that the step reaches."""
    hardware = choose_hardware(args.device, "auto")
    shape = args.batch_size, 1, args.frame_size
    steps = {
        PLAIN: make_step(make_variant(hardware, args.arch, CLASSES, plain=True), shape),
        STEP: make_step(make_variant(hardware, args.arch, CLASSES), shape),
        **{
            name: make_step(make_variant(hardware, args.arch, CLASSES, bf16=bf16), shape)
            for name, bf16 in PRECISIONS.items()
        },
    }
    if args.compile:  # on a CPU: on CUDA the trainer's step is
        compiled = make_variant(hardware, args.arch, CLASSES, compiled=True)
        steps[COMPILED] = make_step(compiled, shape)
    work = flops(lambda: steps[PLAIN](1)) / args.batch_size
    print(f"{args.arch}, frame {args.frame_size}, batch {args.batch_size}; the trainer: {hardware}")
    print(f"{describe(hardware.device)}; {work / 1e9:.2f} GFLOP a frame and step")
    with TemporaryDirectory() as folder:
        data = Path(folder) / "icentia11k"
        samples = max(30_000, 2 * args.frame_size)
        write_icentia11k(data, patients=16, segments=2, samples=samples, seed=0)
        variants = {name: partial(speed, args, run) for name, run in steps.items()}
        count = number_of_steps(args, steps[STEP])
        variants[TRAINER] = partial(trainer_speed, args, data, count, Path(folder) / "job")
        variants["matrix product"] = partial(matrix_rate, hardware)
        figures = dict(in_turns(variants, args.repeats))
    rates = {
        "matrix product": [rate / 1e9 for rate in figures.pop("matrix product")],
        **{name: [work / 1e9 * speed for speed in figures[name]] for name in (STEP, TRAINER)},
    }
    show("frames/s", figures, PLAIN)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"{TRAINER} reaches {medians[TRAINER] / medians[STEP]:.1%} of its bare step")
    show("GFLOP/s", rates, "matrix product", digits=0)
    save(args, hardware.device, frames_per_second=figures, gflops_per_second=rates)


def number_of_steps(args: argparse.Namespace, run: Callable[[int], None]) -> int:
    """As many as fit into `--seconds`."""
    return max(round(args.seconds / seconds(partial(run, 1))), 1)


def speed(args: argparse.Namespace, run: Callable[[int], None]) -> float:
    """Frames/s of a bare step."""
    count = number_of_steps(args, run)
    return count * args.batch_size / seconds(partial(run, count))


def trainer_speed(args: argparse.Namespace, data: Path, steps: int, job: Path) -> float:
    """Frames/s of the second epoch of a run of the trainer's command; the first warms up."""
    flags = {
        "--job-dir": job, "--task": "beat", "--train": data, "--arch": args.arch,
        "--frame-size": args.frame_size, "--batch-size": args.batch_size, "--epochs": 2,
        "--steps-per-epoch": steps, "--val-patients": 0, "--device": args.device,
    }  # fmt: skip
    words = [str(word) for flag in flags.items() for word in flag]
    command = [sys.executable, "-m", "pretraining.trainer", *words, "--overwrite"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return pd.read_csv(job / "timing.csv")["frames_per_second"].iloc[1]
