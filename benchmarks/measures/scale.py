"""Simulated cohorts of many small files: building the index, starting with it, the first batches.

Each is measured in a process of its own, so that memory is that of a trainer's reading alone.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from benchmarks.measures.timing import describe, save
from recordings.synthetic import write_icentia11k
from recordings.wfdb_files import segment_path
from utils.cli import UserError

ICENTIA = 11_000  # patients
IMPORTS = "of_which_import_s"
PARTS = (IMPORTS, "of_which_open_s", "of_which_batch_s")
WORDS = {
    "build_s": "index built, s",
    "start_s": "process started to first batch, s",
    "of_which_import_s": "  of which imports, s",
    "of_which_open_s": "  of which model and data, s",
    "of_which_batch_s": "  of which first batch, s",
    "anonymous_mb": "anonymous memory, MB",
    "open_files": "open files",
    "index_mb": "index on disk, MB",
}


def measure(args: argparse.Namespace) -> None:
    """Print each figure for each size, and what a straight line through the last two promises.

    Raises:
        UserError: not on Linux, whose /proc says how much memory is anonymous.
    """
    if not Path("/proc/self/status").exists():
        raise UserError("this benchmark reads /proc and needs Linux")
    columns: dict[int, dict[str, float]] = {}
    for patients in args.patients:
        with TemporaryDirectory() as folder:
            root = Path(folder) / "icentia11k"
            write_cohort(root, patients, args.segments, args.samples)
            built = probe(root)
            started = [probe(root) for _ in range(args.repeats)]
            figures = {name: statistics.median(run[name] for run in started) for name in started[0]}
            size = sum(path.stat().st_size for path in (root / "annotation_index").rglob("*"))
            columns[patients] = {"build_s": built["of_which_open_s"], **figures}
            columns[patients]["index_mb"] = size / 1e6
    if len(columns) > 1 and ICENTIA not in columns:
        columns[ICENTIA] = extrapolate(columns)
    heads = [f"{n:,}" + " (extrapolated)" * (n not in args.patients) for n in columns]
    segment = f"{args.segments} segments of {args.samples} samples"
    print(f"patients of {segment}; {describe(torch.device('cpu'))}")
    print(f"{'':34}" + "".join(f"{head:>22}" for head in heads))
    for name, words in WORDS.items():
        print(f"{words:34}" + "".join(f"{found[name]:22,.2f}" for found in columns.values()))
    save(args, torch.device("cpu"), by_patients=columns)


def write_cohort(root: Path, patients: int, segments: int, samples: int) -> None:
    """One synthetic patient under many names: the number of files is what counts here."""
    write_icentia11k(root, 1, segments, samples, seed=0)
    first = [segment_path(root, 0, segment) for segment in range(segments)]
    for patient in tqdm(range(1, patients), "cohort", disable=None):
        for segment, (folder, name) in enumerate(first):
            where, copy = segment_path(root, patient, segment)
            where.mkdir(parents=True, exist_ok=True)
            header = (folder / f"{name}.hea").read_text().replace(name, copy)
            (where / f"{copy}.hea").write_text(header)
            for suffix in (".dat", ".atr"):
                if (folder / f"{name}{suffix}").exists():
                    shutil.copyfile(folder / f"{name}{suffix}", where / f"{copy}{suffix}")


def probe(root: Path) -> dict[str, float]:
    """What `benchmarks.measures.start` measures in a new process."""
    command = [sys.executable, "-m", "benchmarks.measures.start", str(root)]
    found = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    return json.loads(found.stdout.splitlines()[-1])


def extrapolate(columns: dict[int, dict[str, float]]) -> dict[str, float]:
    """At 11,000 patients, on the line through the two largest sizes; imports do not grow."""
    low, high = sorted(columns)[-2:]
    times = (ICENTIA - high) / (high - low)
    found = {
        name: value + times * (value - columns[low][name]) for name, value in columns[high].items()
    }
    found[IMPORTS] = columns[high][IMPORTS]
    return found | {"start_s": sum(found[name] for name in PARTS)}
