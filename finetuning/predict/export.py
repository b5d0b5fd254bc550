"""Export of fine-tuned networks to ONNX or torch.export, from millivolt to probabilities."""

import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from finetuning.batches import normalize, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.predict import Network
from models import Classifier
from utils.cli import UserError
from utils.engine import choose_hardware
from utils.files import atomic_path
from utils.model_card import Metadata

TOLERANCE = 1e-4  # of probabilities


class FromMillivolt(nn.Module):
    """Network from signals (B, C, frame_size) float32 in mV, left-padded, and the number of samples
    at the end that are signal, (B,) int64 from 1 on, to calibrated probabilities (B, classes)."""

    def __init__(self, model: Classifier, metadata: Metadata):
        super().__init__()
        self.model, self.metadata = model, metadata

    def forward(self, signal: Tensor, valid: Tensor) -> Tensor:
        mask = signal_mask(valid, signal.shape[-1])
        x = normalize(signal, mask, self.metadata.mean, self.metadata.sd)
        logits = self.model(x) / self.metadata.temperature
        return choose_targets(self.metadata.multi_label).probabilities(logits)


def write_onnx(program: ExportedProgram, path: Path, header: dict[str, str]) -> Callable:
    """Write ONNX with the metadata `header`; returns what the file computes."""
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of packages that are optional
    onnx = torch.onnx.export(program, output_names=["probabilities"], verbose=False)
    for node in onnx.model.graph:
        node.metadata_props.clear()  # source code
    onnx.model.metadata_props.update(header)
    onnx.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda signal, valid: torch.from_numpy(
        session.run(None, {"signal": signal.numpy(), "valid": valid.numpy()})[0]
    )


def write_torch(program: ExportedProgram, path: Path, header: dict[str, str]) -> Callable:
    """Write a file for `torch.export.load`; returns what it computes."""
    buffer = io.BytesIO()  # a file would contain its own temporary name
    torch.export.save(program, buffer, extra_files=header)
    path.write_bytes(buffer.getbuffer())
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


FORMATS = {"onnx": (".onnx", write_onnx), "torch": (".pt2", write_torch)}


def export(weights: Path, kind: str, out: Path | None = None) -> Path:
    """Export `FromMillivolt` in fp32 for batches of any size, with the metadata of the weights, to
    a file of a `kind` of `FORMATS`, which is compared with the network before it takes its name."""
    suffix, write = FORMATS[kind]
    out = Path(out or Path(weights).with_suffix(suffix))
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another file with --out")
    if kind == "onnx" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError("packages are missing; pip install -r requirements-export.txt")
    model, metadata, *_ = Network.load(weights, choose_hardware("cpu", "fp32"))
    network = FromMillivolt(model, metadata).eval().requires_grad_(False)
    batches = [example_inputs(metadata, count) for count in (2, 1, 3)]
    with atomic_path(out) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about what they change
        sizes = {0: torch.export.Dim("batch")}  # traced with two: one would be taken for a constant
        program = torch.export.export(network, batches[0], dynamic_shapes=(sizes, sizes))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # holds paths of this machine
        program.example_inputs = None
        exported = write(program, temporary, metadata.to_header())
        differences = torch.stack([(network(*b) - exported(*b)).abs().max() for b in batches])
        error = differences.max().item()
        if not error <= TOLERANCE:  # also refuses NaN
            raise UserError(f"{weights}: probabilities differ by up to {error:.2g} if exported")
    print(f"written: {out}; probabilities differ by up to {error:.2g} on random signals")
    return out


def example_inputs(metadata: Metadata, count: int) -> tuple[Tensor, Tensor]:
    """Noise in mV (count, C, frame_size), and how many samples are signal: all, a half, a third.
    It is about as large and slow as an ECG; white noise gives probabilities of 0 and 1."""
    shape = (count, metadata.in_channels, metadata.frame_size)
    noise = 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    valid = metadata.frame_size // torch.arange(1, count + 1)
    return F.avg_pool1d(noise, 15, 1, 7), valid.clamp(min=1)
