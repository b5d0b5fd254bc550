"""Speed and memory of the main paths, each figure beside its reference, measured in turns.

python -m benchmarks.speed train reading finetune predict holter --out speed.json
python -m benchmarks.speed prepare --data data/training2017
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import cycle, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import edfio
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import wfdb
from torch.utils.flop_counter import FlopCounterMode

from finetuning.batches import Recordings, batches
from finetuning.predict import Predictor
from models import Classifier, build_encoder
from pretraining.batches import FrameBatches, blocks, new_signal
from pretraining.cohort import Cohort, choose_segments
from pretraining.icentia11k.index import AnnotationIndex, open_index
from pretraining.icentia11k.reader import open_signal, read_constants
from pretraining.labels import ECTOPIC
from pretraining.sampler import Sampler
from pretraining.tasks import build_task
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17, write_icentia11k
from utils import cli
from utils.engine import Batch, Compiled, Hardware, choose_hardware, evaluate, train_epoch
from utils.files import write_json
from utils.run import versions

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "weights" / "af_resnet18.safetensors"
MATRIX_SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
FRAME = 4096  # samples of a pretraining frame
HOLTER_FS = 300  # Hz

Turns = Iterator[dict[str, float]]  # figures by name, once for each repeat


def seconds(action: Callable, *args: object) -> float:
    """How long `action(*args)` takes."""
    began = time.perf_counter()
    action(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rate(hardware: Hardware) -> float:
    """GFLOP/s of the fastest product of two square matrices, of several sizes."""
    dtype, rates = torch.bfloat16 if hardware.bf16 else torch.float32, []
    for size in MATRIX_SIZES[hardware.device.type]:
        a, b = (torch.randn(size, size, device=hardware.device, dtype=dtype) for _ in range(2))
        rates.append(2 * size**3 / min(seconds(torch.mm, a, b) for _ in range(5)) / 1e9)
    return max(rates)


def gigaflop(action: Callable, *args: object) -> float:
    """Billions of floating-point operations of matrix products and convolutions in `action`."""
    with FlopCounterMode(display=False) as counter:
        action(*args)
    return counter.get_total_flops() / 1e9


def new_model(hardware: Hardware, classes: int) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder("resnet18", 1, None, generator)
    return hardware.place(Classifier(encoder, classes, generator))


def training(
    hardware: Hardware, classes: int, make_batches: Callable[[], Iterator[Batch]], count: int,
    what: str, repeats: int,
) -> Turns:  # fmt: skip
    """Training a ResNet-18 on `count` examples: as the trainers do, and with Conv1d in fp32."""

    def build(plain: bool) -> Callable[[], object]:
        model = new_model(hardware, classes)
        chosen = hardware._replace(bf16=hardware.bf16 and not plain)
        model.encoder.channels_last = not plain
        compiled = not plain and hardware.compiles(None)
        trained = Compiled(model, print) if compiled else model
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        return lambda: train_epoch(trained, make_batches(), optimizer, F.cross_entropy, chosen)

    train_plain, train = build(plain=True), build(plain=False)
    work = gigaflop(train_plain) / count
    train()  # warm-up
    for _ in range(repeats):
        plain, step = count / seconds(train_plain), count / seconds(train)
        yield {
            f"plain fp32, Conv1d, {what}/s": plain,
            f"the trainer's step, {what}/s": step,
            "the trainer's step, GFLOP/s": work * step,
            "matrix product, GFLOP/s": matrix_rate(hardware),
        }


def measure_train(args: argparse.Namespace, folder: Path) -> Turns:
    """Training steps, and the trainer end to end."""
    write_icentia11k(folder / "data", patients=16, segments=2, samples=30_000, seed=0)
    flags = ("--job-dir", folder / "job", "--task", "beat", "--train", folder / "data",
             "--frame-size", FRAME, "--batch-size", args.batch_size, "--epochs", 2,
             "--steps-per-epoch", args.steps, "--val-patients", 0, "--device", args.device,
             "--precision", args.precision, "--overwrite")  # fmt: skip
    hardware = choose_hardware(args.device, args.precision)
    x = torch.randn(args.batch_size, 1, FRAME, device=hardware.device)
    batch = Batch(x, torch.zeros(len(x), dtype=torch.long, device=x.device), len(x))
    count = args.steps * len(x)
    steps = training(hardware, 5, lambda: repeat(batch, args.steps), count, "frames", args.repeats)
    for figures in steps:
        run_module("pretraining.trainer", *flags)
        speed = pd.read_csv(folder / "job" / "timing.csv")["frames_per_second"]
        yield figures | {"pretraining.trainer, frames/s": speed.iloc[1]}


def measure_reading(args: argparse.Namespace, root: Path) -> Turns:
    """Reading int16 frames of 4,096 samples with labels of beats in one process."""
    write_icentia11k(root, args.patients, segments=2, samples=2**17, seed=0)
    index = open_index(root)
    cohort, _ = choose_segments(index, None, FRAME, annotated="beats")
    read_blocks(root, index, cohort, args.frames)  # fills the page cache
    for _ in range(args.repeats):
        in_blocks = seconds(read_blocks, root, index, cohort, args.frames)
        single = seconds(list, islice(single_frames(index, cohort), args.frames))
        yield {
            "blocks, as the trainer reads, frames/s": args.frames / in_blocks,
            "a generator of single frames, frames/s": args.frames / single,
        }


def read_blocks(root: Path, index: AnnotationIndex, cohort: Cohort, total: int) -> None:
    """Read `total` frames in blocks, as the trainer does."""
    per_patient = -(-total // len(cohort))
    samples = index.segments["samples"]
    sampler = Sampler(list(cohort.values()), samples, FRAME, per_patient, (0, 1))
    task = build_task("beat", {"frame_size": FRAME})
    frames = FrameBatches(task, index, sampler, read_constants(root), 512, total)
    stretches = blocks(frames, range(len(frames)))
    signal = new_signal(frames, len(stretches[0]))
    for numbers in stretches:
        frames.read(numbers, signal)


def single_frames(index: AnnotationIndex, cohort: Cohort) -> Iterator[tuple[np.ndarray, int]]:
    """Frames and their labels one by one, as the authors' code makes them."""
    draw, opened = np.random.default_rng(0), {}
    for segment in cycle(np.concatenate(list(cohort.values())).tolist()):
        if segment not in opened:
            signal = open_signal(index.record_path(segment))[0]
            marks = index.annotations(segment)
            opened[segment] = signal, marks["beat_ends"], marks["beat_codes"]
        signal, ends, codes = opened[segment]
        start = draw.integers(len(signal) - FRAME + 1)
        first = np.searchsorted(ends, start, "left") + 1
        last = np.searchsorted(ends, start + FRAME, "right")
        counts = np.bincount(codes[first:last], minlength=5)
        label = ECTOPIC + counts[ECTOPIC:].argmax() if counts[ECTOPIC:].any() else counts.argmax()
        yield signal[start : start + FRAME].copy(), label


def measure_finetune(args: argparse.Namespace, _: Path) -> Turns:
    """Fine-tuning and prediction of recordings of 16,384 samples."""
    hardware, draw = choose_hardware(args.device, args.precision), np.random.default_rng(0)
    count, device = args.recordings, hardware.device
    signal = torch.from_numpy(draw.integers(-1000, 1000, (count, 1, 16384), np.int16))
    y = np.eye(4, dtype=np.uint8)[draw.integers(4, size=count)]
    recordings = Recordings(
        signal.to(device), torch.full((count,), 8192, device=device), y,
        torch.from_numpy(y.argmax(1)).to(device), np.arange(count).astype(str), list("ANO~"),
        0.0075, 0.2373,
    )  # fmt: skip

    def make_batches() -> Iterator[Batch]:
        return batches(recordings, args.batch_size)

    model = new_model(hardware, 4)
    for figures in training(hardware, 4, make_batches, count, "recordings", args.repeats):
        predicting = seconds(evaluate, model, make_batches(), hardware)
        epochs = {f"{name.partition(',')[0]}, 6,395 recordings (calculated), s": 6395 / rate
                  for name, rate in figures.items() if name.endswith("recordings/s")}  # fmt: skip
        yield figures | {"prediction, recordings/s": count / predicting} | epochs


def measure_predict(args: argparse.Namespace, folder: Path) -> Turns:
    """From the file of a 30-s recording to probabilities."""
    write_challenge17(folder, 1, seed=0, seconds=(30.0, 30.001))
    path = folder / "A00001.hea"
    chosen, fp32 = (
        Predictor.load(SHIPPED, device=args.device, precision=name)
        for name in (args.precision, "fp32")
    )

    def predict(predictor: Predictor) -> None:
        recording = read_recording(path)
        predictor.predict(recording.signal, recording.fs)

    work = gigaflop(predict, fp32)
    predict(chosen)
    for _ in range(args.repeats):
        yield {
            "file to probabilities, ms": 1000 * seconds(predict, chosen),
            "the same in fp32, ms": 1000 * seconds(predict, fp32),
            "reading the file, ms": 1000 * seconds(read_recording, path),
            "its matrix products, ms": 1000 * work / matrix_rate(chosen.networks[0].hardware),
        }


def measure_holter(args: argparse.Namespace, folder: Path) -> Turns:
    """From the file of a day's recording to the table of answers."""
    write_challenge17(folder, 1, seed=0, seconds=(60.0, 60.001))
    minute = read_recording(folder / "A00001.hea").signal[: 60 * HOLTER_FS, 0]
    microvolt = np.tile(np.rint(minute * 1000).astype(np.int16), round(args.hours * 60))
    leads = {"units": ["mV"] * 2, "sig_name": ["II", "V5"], "fmt": ["16"] * 2,
             "adc_gain": [1000] * 2, "baseline": [0] * 2}  # fmt: skip
    both = np.column_stack([microvolt, microvolt])
    wfdb.wrsamp("holter", HOLTER_FS, d_signal=both, write_dir=str(folder), **leads)
    signal = edfio.EdfSignal(microvolt / 1000, HOLTER_FS, label="II", physical_dimension="mV")
    edfio.Edf([signal]).write(folder / "holter.edf")
    files = {"WFDB, two leads": folder / "holter.hea", "EDF, one lead": folder / "holter.edf"}
    flags = ("--device", args.device, "--csv", folder / "a.csv", "--overwrite")
    for _ in range(args.repeats):
        used = {k: run_module("finetuning.predict", path, *flags) for k, path in files.items()}
        took = {f"{kind}, s": value for kind, (value, _) in used.items()}
        yield took | {f"{kind}, peak MB": value for kind, (_, value) in used.items()}


def measure_prepare(args: argparse.Namespace, folder: Path) -> Turns:
    """Preparing Challenge 2017 (--data)."""
    flags = ("--source", args.data, "--labels", "zip", "--out", folder / "set", "--overwrite")
    for _ in range(args.repeats):
        took, peak = run_module("finetuning.prepare", *flags)
        yield {"finetuning.prepare, s": took, "finetuning.prepare, peak MB": peak}


def run_module(module: str, *flags: object) -> tuple[float, float]:
    """Run `python -m module flags`; returns its seconds and its peak memory in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", module, *map(str, flags)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise cli.UserError(f"python -m {module} failed: {done.stderr.strip()[-300:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
    return time.perf_counter() - began, int(done.stdout) / unit


MEASURES = {
    "train": measure_train, "reading": measure_reading, "finetune": measure_finetune,
    "predict": measure_predict, "holter": measure_holter, "prepare": measure_prepare,
}  # fmt: skip


def main() -> None:
    parser = cli.Parser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("what", nargs="+", choices=MEASURES, help="what to measure")
    flag("--repeats", type=cli.count, default=5, help="of each figure")
    flag("--steps", type=cli.count, default=20, help="[train] of each figure")
    flag("--batch-size", type=cli.count, default=32, help="[train, finetune]")
    flag("--frames", type=cli.count, default=100_000, help="[reading]")
    flag("--patients", type=cli.count, default=64, help="[reading] in the synthetic cohort")
    flag("--recordings", type=cli.count, default=128, help="[finetune] that are measured")
    flag("--hours", type=cli.positive, default=24.0, help="[holter]")
    flag("--data", type=cli.existing, help="[prepare] the folder training2017")
    flag("--out", type=Path, help="write the figures to this file (JSON)")
    cli.add_hardware_flags(parser)
    args = parser.parse_args()
    if "prepare" in args.what and not args.data:
        parser.error("prepare needs --data")
    hardware = choose_hardware(args.device, args.precision)
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    machine = f"{processor}, {torch.get_num_threads()} threads; {hardware}"
    if hardware.device.type == "cuda":
        machine = f"{torch.cuda.get_device_name(hardware.device)}, {machine}"
    print(f"{machine}\n{'':48}{'median':>12}{'lowest':>12}{'highest':>12}")
    figures: dict[str, list[float]] = {}
    for what in args.what:
        with TemporaryDirectory() as folder:
            turns = pd.DataFrame(MEASURES[what](args, Path(folder))).add_prefix(f"{what}: ")
        for name, column in turns.items():
            values = (column.median(), column.min(), column.max())
            print(f"{name:48}" + "".join(f"{value:12,.1f}" for value in values))
        figures |= turns.to_dict("list")
    if args.out:
        about = {"date": date.today().isoformat(), "machine": machine}
        write_json(args.out, {**about, "versions": versions(), "figures": figures})


if __name__ == "__main__":
    cli.run(main)
