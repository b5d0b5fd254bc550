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

from finetuning.batches import normalize, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.predict import Network
from models import Classifier
from utils.cli import UserError
from utils.engine import choose_hardware
from utils.files import atomic_path
from utils.model_card import Metadata

TOLERANCE = 1e-4  # of probabilities
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class FromMillivolt(nn.Module):
    """Network with normalisation in front and calibrated probabilities (B, classes) behind.

    Its inputs are signals (B, C, frame_size) float32 in mV, left-padded with any finite values, and
    the number of samples at the end that are signal, (B,) int64, at least 1.
    """

    def __init__(self, model: Classifier, metadata: Metadata):
        super().__init__()
        self.model, self.metadata = model, metadata

    def forward(self, signal: Tensor, valid: Tensor) -> Tensor:
        mask = signal_mask(valid, signal.shape[-1])
        x = normalize(signal, mask, self.metadata.mean, self.metadata.sd)
        logits = self.model(x) / self.metadata.temperature
        return choose_targets(self.metadata.multi_label).probabilities(logits)


def export(weights: Path, kind: str, out: Path | None = None) -> Path:
    """Export `FromMillivolt` in fp32 for batches of any size, and return the file.

    The file also holds the metadata of the weights. Before it takes its name it is read back, and
    its probabilities are compared with those of the network.

    Args:
        kind: key of `FORMATS`.
        out: by default beside `weights`.

    Raises:
        UserError: other weights, an existing file, missing packages, or other probabilities.
    """
    suffix, write, read = FORMATS[kind]
    out = Path(out or Path(weights).with_suffix(suffix))
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another file with --out")
    if kind == "onnx" and not all(map(find_spec, ONNX_PACKAGES)):
        raise UserError("packages are missing; pip install -r requirements-export.txt")
    loaded = Network.load(weights, choose_hardware("cpu", "fp32"))
    network = FromMillivolt(loaded.model, loaded.metadata).eval().requires_grad_(False)
    with atomic_path(out) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about what they change
        write(trace(network), temporary, loaded.metadata.to_header())
        error = max_difference(network, read(temporary))
        if not error <= TOLERANCE:  # also refuses NaN
            raise UserError(f"{weights}: probabilities differ by up to {error:.2g} if exported")
    print(f"written: {out}; probabilities differ by up to {error:.2g} on random signals")
    return out


def trace(network: FromMillivolt) -> torch.export.ExportedProgram:
    """The network as a graph that takes batches of any size."""
    examples = _examples(network.metadata, 2)  # from a batch of one it would take one only
    sizes = {0: torch.export.Dim("batch")}
    program = torch.export.export(network, examples, dynamic_shapes=(sizes, sizes))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds paths of this machine
    program.example_inputs = None
    return program


def max_difference(network: FromMillivolt, exported: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Largest difference of probabilities on random signals; NaN if there is any NaN."""
    batches = [_examples(network.metadata, size) for size in (1, 3)]
    return torch.stack([(network(*b) - exported(*b)).abs().max() for b in batches]).max().item()


def _examples(metadata: Metadata, count: int) -> tuple[Tensor, Tensor]:
    """Noise in mV (count, C, frame_size), and how many samples are signal: all, a half, a third.
    It is about as large and slow as an ECG; white noise gives probabilities of 0 and 1."""
    shape = (count, metadata.in_channels, metadata.frame_size)
    noise = 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    valid = metadata.frame_size // torch.arange(1, count + 1)
    return F.avg_pool1d(noise, 15, 1, 7), valid.clamp(min=1)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, header: dict[str, str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of packages that are optional
    onnx = torch.onnx.export(program, output_names=["probabilities"], verbose=False)
    for node in onnx.model.graph:
        node.metadata_props.clear()  # source code
    onnx.model.metadata_props.update(header)
    onnx.save(path, external_data=False)


def _read_onnx(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(signal: Tensor, valid: Tensor) -> Tensor:
        inputs = {"signal": signal.numpy(), "valid": valid.numpy()}
        return torch.from_numpy(session.run(["probabilities"], inputs)[0])

    return run


def _write_torch(program: torch.export.ExportedProgram, path: Path, header: dict[str, str]) -> None:
    buffer = io.BytesIO()  # a file would contain its own temporary name
    torch.export.save(program, buffer, extra_files=header)
    path.write_bytes(buffer.getbuffer())


def _read_torch(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


# Suffix, writer and reader of each format.
FORMATS = {
    "onnx": (".onnx", _write_onnx, _read_onnx),
    "torch": (".pt2", _write_torch, _read_torch),
}
