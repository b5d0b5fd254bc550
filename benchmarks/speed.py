"""Speed and memory of the main paths, each figure beside its reference, measured in turns.

python -m benchmarks.speed train reading finetune predict holter --out speed.json
python -m benchmarks.speed prepare --data data/training2017
"""

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from itertools import cycle, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import edfio
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from finetuning.batches import Recordings, batches
from finetuning.predict import Predictor
from models import Classifier, build_encoder
from pretraining.batches import FrameBatches, blocks, new_signal
from pretraining.cohort import choose_segments
from pretraining.icentia11k.index import AnnotationIndex, open_index
from pretraining.icentia11k.reader import open_signal, read_constants
from pretraining.labels import ECTOPIC
from pretraining.sampler import Sampler
from pretraining.tasks import build_task
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17, write_icentia11k
from utils import cli
from utils.engine import Batch, Hardware, choose_hardware, evaluate, train_epoch
from utils.files import write_json
from utils.run import versions

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "weights" / "af_resnet18.safetensors"
MATRIX_SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
HOLTER_FS = 300  # Hz

Measure = Callable[[], float]


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    began = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_rate(hardware: Hardware) -> float:
    """FLOP/s of the fastest product of two square matrices, of several sizes."""
    dtype = torch.bfloat16 if hardware.bf16 else torch.float32
    rates = []
    for size in MATRIX_SIZES[hardware.device.type]:
        a, b = (torch.randn(size, size, device=hardware.device, dtype=dtype) for _ in range(2))
        out = torch.mm(a, b)
        fastest = min(seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) for _ in range(5))
        rates.append(2 * size**3 / fastest)
    return max(rates)


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in `action`."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def training_pass(
    hardware: Hardware, plain: bool = False, classes: int = 5
) -> tuple[Classifier, Callable[[Iterator[Batch]], object]]:
    """A new ResNet-18 and a function that trains it on batches; `plain`: with Conv1d in fp32."""
    hardware = hardware._replace(bf16=False) if plain else hardware
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder("resnet18", 1, None, generator)
    model = hardware.place(Classifier(encoder, classes, generator))
    model.encoder.channels_last = not plain
    trained = hardware.compile(model, False if plain else None)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    return model, lambda b: train_epoch(trained, b, optimizer, F.cross_entropy, hardware)


def measure_train(args: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Frames/s of training steps, frame 4096, and of the trainer end to end; GFLOP/s."""
    hardware = choose_hardware(args.device, "auto")
    x = torch.randn(args.batch_size, 1, 4096, device=hardware.device)
    batch = Batch(x, torch.zeros(len(x), dtype=torch.long, device=x.device), len(x))
    variants = {
        "plain fp32, Conv1d": (hardware, True),
        "fp32, channels-last": (hardware._replace(bf16=False), False),
        "bf16, channels-last": (hardware._replace(bf16=True), False),
        "the trainer's step": (hardware, False),
    }
    steps = {name: training_pass(*variant)[1] for name, variant in variants.items()}
    work = flops(lambda: steps["plain fp32, Conv1d"](repeat(batch, 1)))
    took = {name: seconds(partial(step, repeat(batch, 3))) / 3 for name, step in steps.items()}
    count = max(round(args.seconds / took["the trainer's step"]), 1)

    def speed(step: Callable) -> float:
        return count * len(x) / seconds(partial(step, repeat(batch, count)))

    def trainer_speed() -> float:
        flags = {
            "--job-dir": folder / "job", "--task": "beat", "--train": data, "--frame-size": 4096,
            "--batch-size": args.batch_size, "--epochs": 2, "--steps-per-epoch": count,
            "--val-patients": 0, "--device": args.device,
        }  # fmt: skip
        run_module("pretraining.trainer", *sum(flags.items(), ()), "--overwrite")
        return pd.read_csv(folder / "job/timing.csv")["frames_per_second"].iloc[1]

    data = folder / "icentia11k"
    write_icentia11k(data, patients=16, segments=2, samples=30_000, seed=0)
    measures = {f"{name}, frames/s": partial(speed, step) for name, step in steps.items()}
    measures["pretraining.trainer, frames/s"] = trainer_speed
    trainer, gigaflop = steps["the trainer's step"], work / len(x) / 1e9
    measures["the trainer's step, GFLOP/s"] = lambda: gigaflop * speed(trainer)
    measures["matrix product, GFLOP/s"] = lambda: matrix_rate(hardware) / 1e9
    return measures


def measure_reading(args: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Frames/s of reading int16 frames of 4,096 samples with labels of beats, in one process."""
    root = folder / "reading"
    write_icentia11k(root, args.patients, segments=2, samples=2**17, seed=0)
    index, size, total = open_index(root), 4096, args.frames

    def open_batches() -> FrameBatches:
        task = build_task("beat", {"frame_size": size})
        patients = list(choose_segments(index, None, size, annotated=True)[0].values())
        per_patient = -(-total // len(patients))
        sampler = Sampler(patients, index.segments["samples"], size, per_patient, (0, 1))
        return FrameBatches(task, index, sampler, read_constants(root), 512, total)

    def read_blocks() -> None:
        frame_batches = open_batches()
        stretches = blocks(frame_batches, range(len(frame_batches)))
        signal = new_signal(frame_batches, len(stretches[0]))
        for numbers in stretches:
            frame_batches.read(numbers, signal)

    cohort, _ = choose_segments(index, None, size, annotated=True)
    segments = np.concatenate(list(cohort.values())).tolist()
    ways = {
        "blocks, as the trainer reads": read_blocks,
        "a generator of single frames": lambda: list(islice(single_frames(index, segments), total)),
    }
    for way in ways.values():
        way()  # fills the page cache
    measures = {
        f"{name}, frames/s": lambda way=way: total / seconds(way) for name, way in ways.items()
    }

    def build_index() -> None:
        shutil.rmtree(root / "annotation_index")
        open_index(root)

    return measures | {f"index of {2 * args.patients} segments, s": lambda: seconds(build_index)}


def single_frames(index: AnnotationIndex, segments: list[int], size: int = 4096) -> Iterator[tuple]:
    """Frames and their labels one by one, as the authors' code makes them."""
    draw, opened = np.random.default_rng(0), {}
    for segment in cycle(segments):
        if segment not in opened:
            signal = open_signal(index.record_path(segment), index.header(segment))[0]
            marks = index.annotations(segment)
            opened[segment] = signal, marks["beat_ends"], marks["beat_codes"]
        signal, ends, codes = opened[segment]
        start = draw.integers(len(signal) - size + 1)
        first = np.searchsorted(ends, start, "left") + 1
        counts = np.bincount(
            codes[first : np.searchsorted(ends, start + size, "right")], minlength=5
        )
        label = ECTOPIC + counts[ECTOPIC:].argmax() if counts[ECTOPIC:].any() else counts.argmax()
        yield signal[start : start + size].copy(), label


def measure_finetune(args: argparse.Namespace, _: Path) -> dict[str, Measure]:
    """Recordings/s of fine-tuning and prediction, 16,384 samples; an epoch of 6,395 in seconds."""
    hardware = choose_hardware(args.device, "auto")
    count, draw = args.recordings, np.random.default_rng(0)
    signal = torch.from_numpy(draw.integers(-1000, 1000, (count, 1, 16384), np.int16))
    y = np.eye(4, dtype=np.uint8)[draw.integers(4, size=count)]
    device, labels = hardware.device, torch.from_numpy(y.argmax(1))
    recordings = Recordings(
        signal.to(device), torch.full((count,), 8192, device=device), y, labels.to(device),
        np.arange(count).astype(str), list("ANO~"), 0.0075, 0.2373,
    )  # fmt: skip
    _, train_plain = training_pass(hardware, plain=True, classes=4)
    model, train = training_pass(hardware, classes=4)

    def rate(action: Callable) -> float:
        return count / seconds(lambda: action(batches(recordings, args.batch_size)))

    train(batches(recordings, args.batch_size))
    return {
        "plain fp32, recordings/s": partial(rate, train_plain),
        "the trainer, recordings/s": partial(rate, train),
        "prediction, recordings/s": partial(rate, lambda b: evaluate(model, b, hardware)),
        "an epoch of 6,395, calculated, s": lambda: 6395 / rate(train),
    }


def measure_predict(args: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Milliseconds from the file of a 30-s recording to probabilities."""
    write_challenge17(folder / "one", 1, seed=0, seconds=(30.0, 30.001))
    path = folder / "one" / "A00001.hea"
    predictors = {
        name: Predictor.load(SHIPPED, device=args.device, precision=name)
        for name in ("auto", "fp32")
    }

    def predict(precision: str) -> None:
        recording = read_recording(path)
        predictors[precision].predict(recording.signal, recording.fs)

    work = flops(partial(predict, "fp32"))
    hardware = choose_hardware(args.device, "auto")
    predict("auto")
    return {
        "file to probabilities, ms": lambda: 1000 * seconds(partial(predict, "auto")),
        "the same in fp32, ms": lambda: 1000 * seconds(partial(predict, "fp32")),
        "reading the file, ms": lambda: 1000 * seconds(lambda: read_recording(path)),
        "its matrix products, ms": lambda: 1000 * work / matrix_rate(hardware),
    }


def measure_holter(args: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Seconds and peak memory from the file of a day's recording to the table of answers."""
    write_challenge17(folder / "minute", 1, seed=0, seconds=(60.0, 60.001))
    minute = read_recording(folder / "minute" / "A00001.hea").signal[: 60 * HOLTER_FS, 0]
    microvolt = np.tile(np.rint(minute * 1000).astype(np.int16), round(args.hours * 60))
    np.column_stack([microvolt, microvolt]).tofile(folder / "holter.dat")
    lead = "holter.dat 16 1000/mV 16 0 0 0 0"
    header = [f"holter 2 {HOLTER_FS} {len(microvolt)}", f"{lead} II", f"{lead} V5"]
    (folder / "holter.hea").write_text("\n".join(header) + "\n")
    signal = edfio.EdfSignal(microvolt / 1000, HOLTER_FS, label="II", physical_dimension="mV")
    edfio.Edf([signal]).write(folder / "holter.edf")
    measures = {}
    for kind, name in {"WFDB, two leads": "holter.hea", "EDF, one lead": "holter.edf"}.items():
        flags = (folder / name, "--device", args.device, "--csv", folder / "a.csv", "--overwrite")
        measures |= process_measures(kind, "finetuning.predict", *flags)
    return measures


def measure_prepare(args: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Seconds and peak memory of preparing Challenge 2017 (--data)."""
    flags = ("--source", args.data, "--labels", "zip", "--out", folder / "set", "--overwrite")
    return process_measures("finetuning.prepare", "finetuning.prepare", *flags)


def process_measures(name: str, module: str, *flags: object) -> dict[str, Measure]:
    """Seconds and peak memory of a command in a process of its own."""
    peaks: list[float] = []
    return {
        f"{name}, s": lambda: seconds(lambda: peaks.append(run_module(module, *flags))),
        f"{name}, peak MB": lambda: peaks[-1],
    }


def run_module(module: str, *flags: object) -> float:
    """Run `python -m module flags` and return its peak memory in MB."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=2); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", module, *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise cli.UserError(f"python -m {module} failed: {done.stderr.strip()[-300:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
    return int(done.stdout) / unit


def describe_machine(device: torch.device) -> str:
    """The GPU's name, or the processor, its instruction set and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {kind}, {torch.get_num_threads()} threads"


MEASURES = {
    name.removeprefix("measure_"): function
    for name, function in list(globals().items())
    if name.startswith("measure_")
}


def main() -> None:
    parser = cli.Parser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("what", nargs="+", choices=MEASURES, help="what to measure")
    flag("--repeats", type=cli.count, default=5, help="of each figure")
    flag("--seconds", type=cli.positive, default=10.0, help="[train] of each figure")
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
    device = choose_hardware(args.device, "auto")
    print(f"{describe_machine(device.device)}; {device}")
    print(f"{'':48}{'median':>12}{'lowest':>12}{'highest':>12}")
    figures: dict[str, list[float]] = {}
    for what in args.what:
        with TemporaryDirectory() as folder:
            measures = MEASURES[what](args, Path(folder))
            for _ in range(args.repeats):  # in turns, so that a drift of the speed hits all alike
                for name, measure in measures.items():
                    figures.setdefault(f"{what}: {name}", []).append(measure())
        for name in [name for name in figures if name.startswith(f"{what}: ")]:
            values = (statistics.median(figures[name]), min(figures[name]), max(figures[name]))
            print(f"{name:48}" + "".join(f"{value:12,.1f}" for value in values))
    if args.out:
        about = {"date": date.today().isoformat(), "machine": describe_machine(device.device)}
        write_json(args.out, {**about, "versions": versions(), "figures": figures})


if __name__ == "__main__":
    cli.run(main)
