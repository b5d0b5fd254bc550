"""Holter recordings through `finetuning.predict`, file to table, each in a process of its own."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import edfio
import numpy as np
import torch

from benchmarks.measures.infer import write_weights
from benchmarks.measures.timing import describe, save
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17
from utils.cli import UserError

FS = 300
ROOT = Path(__file__).parents[2]
# Runs a command and prints its peak memory: a process also counts what the one that started it held
# at most, here a day's recording.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def measure(args: argparse.Namespace) -> None:
    """Print seconds and peak memory for each format.

    Raises:
        UserError: it is not known how much memory another process took, as on Windows.
    """
    if os.name != "posix":
        raise UserError("this benchmark needs Linux or macOS")
    seconds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        weights = args.weights or write_weights(Path(folder) / "weights.safetensors")
        paths = write_recordings(Path(folder), args.hours)
        command = [sys.executable, "-m", "finetuning.predict", "--weights", str(weights)]
        command += ["--device", args.device, "--csv", f"{folder}/answers.csv", "--overwrite"]
        for _ in range(args.repeats):
            for name, path in paths.items():
                took, peak = run([*command, str(path)])
                seconds.setdefault(name, []).append(took)
                memory.setdefault(name, []).append(peak)
    print(f"{args.hours:g} h at {FS} Hz; {describe(torch.device('cpu'))}")
    print(f"{'':20}{'seconds':>10}{'peak memory, MB':>20}")
    for name in paths:
        print(f"{name:20}{np.median(seconds[name]):10.1f}{np.median(memory[name]):20,.0f}")
    save(args, torch.device("cpu"), seconds=seconds, peak_mb=memory)


def write_recordings(folder: Path, hours: float) -> dict[str, Path]:
    """A synthetic minute over and over: WFDB of two leads, and EDF."""
    write_challenge17(folder / "source", 1, seed=0, seconds=(60.0, 60.001))
    minute = read_recording(folder / "source" / "A00001.hea").signal[: 60 * FS, 0]
    microvolt = np.tile(np.rint(minute * 1000).astype(np.int16), round(hours * 60))
    np.column_stack([microvolt, microvolt]).tofile(folder / "holter.dat")
    lead = "holter.dat 16 1000/mV 16 0 0 0 0"
    lines = [f"holter 2 {FS} {len(microvolt)}", f"{lead} II", f"{lead} V5"]
    (folder / "holter.hea").write_text("\n".join(lines) + "\n")
    signal = edfio.EdfSignal(microvolt / 1000, FS, label="II", physical_dimension="mV")
    edfio.Edf([signal]).write(folder / "holter.edf")
    return {"WFDB, two leads": folder / "holter.hea", "EDF, one lead": folder / "holter.edf"}


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process.

    Raises:
        UserError: it failed.
    """
    began = time.perf_counter()
    launched = [sys.executable, "-c", LAUNCHER, *command]
    found = subprocess.run(launched, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if found.returncode:
        raise UserError(f"{' '.join(command)} failed")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
    return time.perf_counter() - began, int(found.stdout) / unit
