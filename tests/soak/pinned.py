"""Pin what short fp32 runs compute, to compare two versions of the code on one machine.

    ECG_DATA=… python -m tests.soak.pinned --checkout ../before --out pinned.json
    ECG_DATA=… python -m tests.soak.pinned --against pinned.json

Every objective is pretrained (1-D; beats in 2-D too), networks are fine-tuned (1-D, 2-D, several
leads and labels, the whole recipe), and the shipped classifier answers for real recordings.
Tensors, columns of numbers and probabilities are compared to the last bit, not names of columns.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import wfdb
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
RECORDS = ("100", "106", "201", "202", "203", "222")
SIZES = "--steps-per-epoch 3 --epochs 2 --batch-size 8 --val-patients 1 --val-size 16 --seed 3"
PRETRAINING = {
    "beat": "--task beat --frame-size 512",
    "beat_2d": "--task beat --frame-size 1024 --arch resnet18_2d",
    "rhythm": "--task rhythm --frame-size 512 --stages 2",
    "hr": "--task hr --frame-size 1024 --arch resnet34 --stages 1",
    "cpc": "--task cpc --frame-size 256 --ns 2 --context-size 3 --stages 2",
    "frame": "--task beat --frame-size 512 --standardise frame --arch resnet50 --stages 1",
}
RECIPE = (
    "--augment --ema 0.9 --balance sampling --mixup 0.2 --schedule cosine --warmup 0.1 "
    "--weight-decay 0.01 --tta 2 --standardise recording --stages 2"
)
FINETUNING = {
    "random": ("single", "--stages 2"),
    "transfer": ("single", "--weights-file {beat}"),
    "transfer_2d": ("single", "--weights-file {beat_2d} --subset 0.5"),
    "freeze": ("single", "--weights-file {beat} --freeze --val-metric loss"),
    "recipe": ("single", RECIPE),
    "loss": ("single", "--balance loss --stages 1 --val-metric auc --stop-metric train_acc"),
    "leads": ("multiple", "--stages 2"),
    "channel": ("multiple", "--channel 1 --stages 1 --tta 2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkout", type=Path, default=ROOT, help="version of the code to run")
    parser.add_argument("--out", type=Path, help="write what was found")
    parser.add_argument("--against", type=Path, help="compare with what was written before")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = pin(args.checkout.resolve(), Path(folder), args.only)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    wanted = json.loads(args.against.read_text()) if args.against else found
    names = found.keys() | {name for name in wanted if args.only in name}
    wrong = [name for name in names if wanted.get(name) != found.get(name)]
    for name in sorted(wrong):
        print(f"differs: {name}")
    print(f"{len(names) - len(wrong)} of {len(names)} are equal")
    sys.exit(bool(wrong))


def pin(checkout: Path, work: Path, only: str) -> dict[str, str]:
    """SHA-256 by name; of the training runs only those whose name contains `only`."""
    data, found = Path(os.environ["ECG_DATA"]), {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def call(module: str, *flags: object) -> None:
        command = [sys.executable, "-m", module, *map(str, flags)]
        options = {"cwd": checkout, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, **options)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

    for record in RECORDS:
        copy(data / "mitdb", work / "mitdb", record, ("hea", "dat", "atr"))
    call("pretraining.convert", "--source", "mitdb", "--from", work / "mitdb",
         "--out", work / "set")  # fmt: skip
    files = sorted(path for path in (work / "set").rglob("p*_s*") if path.is_file())
    found["convert"] = digest(b"".join(path.read_bytes() for path in files))
    weights = {name: work / name / "weights.safetensors" for name in PRETRAINING}
    for name, flags in PRETRAINING.items():
        if only in name or "transfer" in only:
            call("pretraining.trainer", "--job-dir", work / name, "--train", work / "set",
                 "--precision", "fp32", *f"{SIZES} {flags}".split())  # fmt: skip
            found |= run_digests(f"pretraining {name}", work / name)
    sets = {"single": single_lead(data, work, call), "multiple": several_leads(data, work, call)}
    for name, prefix in sets.items():
        for part in ("train", "test"):
            with np.load(f"{prefix}_{part}.npz") as arrays:
                found[f"prepare {name} {part}"] = digest(*(arrays[key] for key in sorted(arrays)))
    for name, (prepared, flags) in FINETUNING.items():
        if only in name:
            call("finetuning.trainer", "--job-dir", work / f"ft_{name}",
                 "--train", f"{sets[prepared]}_train.npz", "--test", f"{sets[prepared]}_test.npz",
                 "--precision", "fp32", "--epochs", 2, "--batch-size", 8, "--val-size", 0.2,
                 "--seed", 5, *flags.format(**weights).split())  # fmt: skip
            found |= run_digests(f"finetuning {name}", work / f"ft_{name}")
    records = [data / f"training2017/A000{n:02}.mat" for n in range(1, 13)]
    answers = work / "answers.json"
    call("finetuning.predict", *records, data / "mitdb/202", data / "mitdb/208.hea", "--channel", 0,
         "--precision", "fp32", "--tta", 2, "--json", answers)  # fmt: skip
    found["predict"] = digest(json.dumps(numbers(json.loads(answers.read_text()))).encode())
    return found


def copy(source: Path, folder: Path, record: str, suffixes: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    for suffix in suffixes:
        shutil.copy(source / f"{record}.{suffix}", folder)


def single_lead(data: Path, work: Path, call: Callable) -> Path:
    """Sixty recordings of Challenge 2017, prepared."""
    source = work / "training2017"
    rows = [row.split(",") for row in (data / "training2017/REFERENCE.csv").read_text().split()]
    chosen = sorted(row for label in "ANO~" for row in [r for r in rows if r[1] == label][:15])
    for record, _ in chosen:
        copy(data / "training2017", source, record, ("mat", "hea"))
    (source / "RECORDS").write_text("".join(f"{record}\n" for record, _ in chosen))
    (source / "REFERENCE.csv").write_text("".join(f"{a},{b}\n" for a, b in chosen))
    call("finetuning.prepare", "--source", source, "--labels", "zip", "--pad", 2048, "--out",
         work / "single", "--test-size", 0.3, "--seed", 1)  # fmt: skip
    return work / "single"


def several_leads(data: Path, work: Path, call: Callable) -> Path:
    """Stretches of MIT-BIH, two leads, of several labels each, from a table."""
    rows = ["file,label,patient"]
    for record in RECORDS:
        signal = wfdb.rdrecord(str(data / f"mitdb/{record}"), sampto=40_000).p_signal
        for part in range(8):
            np.save(work / f"{record}_{part}.npy", signal[part * 5000 : (part + 1) * 5000 - 300])
            label = ["one", "two", "one;two", "two;three"][(part + int(record)) % 4]
            rows.append(f"{record}_{part}.npy,{label},{record}")
    (work / "table.csv").write_text("\n".join(rows) + "\n")
    call("finetuning.prepare", "--dataset", "table", "--table", work / "table.csv", "--record-fs",
         360, "--unit", "mV", "--pad", 2048, "--out", work / "multiple", "--seed", 2)  # fmt: skip
    return work / "multiple"


def run_digests(run: str, job: Path) -> dict[str, str]:
    """Of each weights file its tensors, of each table its numbers."""
    found = {}
    for path in sorted(job.rglob("*.safetensors")):
        tensors = sorted(load_file(path).items())
        parts = (part for key, tensor in tensors for part in (key.encode(), tensor))
        found[f"{run} {path.relative_to(job)}"] = digest(*parts)
    for path in sorted(job.glob("*.csv")):
        if path.name != "timing.csv":
            found[f"{run} {path.name}"] = digest(path.read_bytes().partition(b"\n")[2])
    return found


def numbers(value: object) -> list[float]:
    """All fractions in a JSON value, in order of size: whatever it calls them."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return sorted(number for part in inside for number in numbers(part))
    return [value] if isinstance(value, float) else []


def digest(*parts: bytes | np.ndarray) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    main()
