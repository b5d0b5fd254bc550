"""One recording from its file to probabilities, the process being warm."""

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measures.limits import flops, matrix_rate
from benchmarks.measures.timing import describe, in_turns, save, seconds, show
from finetuning.predict import Predictor
from models import Classifier, build_encoder
from recordings.formats import read_recording
from recordings.synthetic import write_challenge17
from utils.contract import Contract
from utils.weights import save_weights

WHOLE, READ, NETWORK = "file to probabilities", "of which: reading the file", "of which: the rest"
PLAIN, LIMIT = "file to probabilities, fp32", "its matrix products at the machine's rate"


def measure(args: argparse.Namespace) -> None:
    """Print milliseconds of each part."""
    with TemporaryDirectory() as folder:
        path = args.record or write_recording(Path(folder))
        weights = args.weights or write_weights(Path(folder) / "weights.safetensors")
        auto, plain = (
            Predictor.load(weights, device=args.device, precision=p) for p in ("auto", "fp32")
        )
        recording = read_recording(path)
        actions = {
            WHOLE: lambda: answer(auto, path),
            READ: lambda: read_recording(path),
            NETWORK: lambda: auto.predict(recording.signal, recording.fs),
            PLAIN: lambda: answer(plain, path),
        }
        for action in actions.values():
            action()
        work = flops(actions[PLAIN])
        variants = {name: partial(milliseconds, args.runs, run) for name, run in actions.items()}
        variants[LIMIT] = lambda: 1000 * work / matrix_rate(auto.hardware)
        figures = in_turns(variants, args.repeats)
    long = len(recording.signal) / recording.fs
    print(f"{auto.metadata.architecture}, {auto.metadata.frame_size} samples; {auto.hardware}")
    print(f"{describe(auto.hardware.device)}; {path.name}: {long:.1f} s at {recording.fs:g} Hz")
    show("ms", figures, PLAIN, digits=2)
    save(args, auto.hardware.device, milliseconds=figures)


def milliseconds(runs: int, action) -> float:
    """Of one run, the mean of so many."""
    return 1000 * seconds(lambda: [action() for _ in range(runs)]) / runs


def answer(predictor: Predictor, path: Path):
    """Probabilities of the classes of a recording."""
    recording = read_recording(path)
    return predictor.predict(recording.signal, recording.fs)


def write_recording(folder: Path) -> Path:
    write_challenge17(folder / "training2017", 1, seed=0, seconds=(30.0, 30.001))
    return folder / "training2017" / "A00001.hea"


def write_weights(path: Path) -> Path:
    """Of a network that has learned nothing, which takes as long."""
    generator = torch.Generator().manual_seed(0)
    model = Classifier(build_encoder("resnet18", 1, None, generator), 4, generator)
    contract = Contract(
        "resnet18", None, 1, 250, "mV", 0.0075, 0.2373, 16384, "classification", list("ANO~"),
        dataset="none", manifest_sha256="", seed=0, versions={},
    )  # fmt: skip
    save_weights(path, model.state_dict(), contract)
    return path
