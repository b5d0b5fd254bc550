"""Fine-tuned networks as files for other programs, ONNX or torch.export, from millivolt to
probabilities."""

import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from finetuning.batches import normalize, signal_mask
from finetuning.evaluation import choose_targets
from finetuning.predict.member import Member
from models import Classifier
from utils.cli import UserError
from utils.contract import Contract
from utils.engine import choose_hardware
from utils.files import atomic_path

TOLERANCE = 1e-4  # of probabilities
Run = Callable[[Tensor, Tensor], Tensor]


class FromMillivolt(nn.Module):
    """All that lies between a signal and its probabilities, as the contract says.

    (B, C, frame_size) float32 in mV, padded in front with whatever is finite, and the number of
    samples at the end that are signal, (B,) int64 from 1 on, to (B, classes) float32.
    """

    def __init__(self, model: Classifier, contract: Contract):
        super().__init__()
        self.model, self.contract = model, contract

    def forward(self, signal: Tensor, valid: Tensor) -> Tensor:
        mask = signal_mask(valid, signal.shape[-1])
        x = normalize(signal, mask, self.contract.mean, self.contract.sd)
        logits = self.model(x) / self.contract.temperature
        return choose_targets(self.contract.multi_label).probabilities(logits)


def export(weights: Path, kind: str, out: Path | None = None) -> Path:
    """Write what `FromMillivolt` computes, in fp32, for batches of any size; returns the file.

    The file holds the contract, too: in ONNX's metadata, in torch.export's extra files. Before it
    takes its name it is read back, and its answers are compared with those of the network.

    Args:
        weights: of `finetuning.trainer`. kind: a key of `FORMATS`.
        out: by default beside `weights`, with the ending of the kind.

    Raises:
        UserError: other weights, a file in the way, missing packages, or other answers.
    """
    form = FORMATS[kind]
    out = Path(weights).with_suffix(form.suffix) if out is None else Path(out)
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another file with --out")
    missing = [name for name in form.packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not installed; pip install -r requirements-export.txt"
        )
    member = Member.load(weights, choose_hardware("cpu", "fp32"))
    contract = member.contract
    network = FromMillivolt(member.model, contract).eval().requires_grad_(False)
    with atomic_path(out) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about what they will change
        form.write(trace(network), temporary, contract.to_metadata())
        found = difference(network, form.read(temporary))
        if not found <= TOLERANCE:  # NaN is no agreement
            raise UserError(
                f"{weights}: what was exported answers otherwise than the network, by up to "
                f"{found:.2g}; nothing is written"
            )
    print(f"written: {out}; probabilities differ by up to {found:.2g} on random signals")
    return out


def trace(network: FromMillivolt) -> ExportedProgram:
    """The operations of `network`, for any size of batch."""
    examples = _examples(network.contract, 2)  # of one recording alone it would take one only
    sizes = {0: torch.export.Dim("batch")}
    program = torch.export.export(network, examples, dynamic_shapes=(sizes, sizes))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    program.example_inputs = None
    return program


def difference(network: FromMillivolt, run: Run) -> float:
    """Largest difference of probabilities between `network` and `run`, on random signals; NaN where
    there is any."""
    batches = [_examples(network.contract, size) for size in (1, 3)]
    return (
        torch.stack([(network(*batch) - run(*batch)).abs().max() for batch in batches]).max().item()
    )


def _examples(contract: Contract, count: int) -> tuple[Tensor, Tensor]:
    """Noise in mV, (count, C, frame_size), and how much of each counts: all, a half, a third.

    It is about as large and as slow as ECG: of white noise networks are too sure to be compared.
    """
    shape = (count, contract.in_channels, contract.frame_size)
    noise = 0.4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    valid = contract.frame_size // torch.arange(1, count + 1)
    return F.avg_pool1d(noise, 15, 1, 7), valid.clamp(min=1)


def _write_onnx(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of packages that it can do without
    found = torch.onnx.export(program, output_names=["probabilities"], verbose=False)
    for node in found.model.graph:
        node.metadata_props.clear()  # of the code that it comes from
    found.model.metadata_props.update(metadata)
    found.save(path, external_data=False)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(signal: Tensor, valid: Tensor) -> Tensor:
        inputs = {"signal": signal.numpy(), "valid": valid.numpy()}
        return torch.from_numpy(session.run(["probabilities"], inputs)[0])

    return run


def _write_torch(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    buffer = io.BytesIO()  # in a file of its own it would write that file's name, a temporary one
    torch.export.save(program, buffer, extra_files=metadata)
    path.write_bytes(buffer.getbuffer())


def _read_torch(path: Path) -> Run:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


class Format(NamedTuple):
    """How networks are written and read back.

    Attributes:
        suffix: of the file. packages: that it needs.
        write: program and metadata to a file. read: what runs a file.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, dict[str, str]], None]
    read: Callable[[Path], Run]


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "torch": Format(".pt2", (), _write_torch, _read_torch),
}
