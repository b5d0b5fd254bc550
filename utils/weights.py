"""Weights files: safetensors with metadata, written whole and loaded strictly.

    python -m utils.weights jobs/af/best_model.safetensors --half weights/af.safetensors

describes a file, and writes a half-precision copy with its card, here `weights/af.md`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models import DEFAULT_ARCHITECTURE, Classifier, build_encoder
from utils import cli
from utils.cli import UserError, plain
from utils.files import atomic_path, sha256, write_text
from utils.model_card import Metadata, render
from utils.run import CARD

ENCODER = "encoder."
FIRST_KERNEL = "encoder.conv1.weight"  # (out, leads, …)
COUNTER = "num_batches_tracked"  # of batch normalisation; not stored, for nothing here needs it
HALF_ROUNDING = 2**-11  # largest relative rounding error in float16's normal range
NOTE = "\nKernels are stored in half precision; the scores are those before they were rounded.\n"


class Transfer(NamedTuple):
    """An encoder that was built from a weights file."""

    encoder: nn.Module
    metadata: Metadata
    transferred: list[str]  # names of the file's tensors
    dropped: list[str]
    report: str  # one line about them for the log


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a state_dict with its metadata, whole or not at all; equal content, equal bytes."""
    state = {name: value for name, value in state.items() if not name.endswith(COUNTER)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata.to_header()))


def read_weights(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read all tensors of a weights file, as float32 on the CPU, and its metadata; `UserError` if
    the file is missing or damaged, or not of this project."""
    if not Path(path).is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = Metadata.from_header(file.metadata() or {}, path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from None
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, metadata


def load_encoder(
    path: Path, architecture: str | None = None, fs: float | None = None, leads: int | None = None
) -> Transfer:
    """Build the encoder that a weights file holds; a head is dropped. Raises `UserError` if the
    file is incomplete, or for another architecture, rate in Hz or number of leads.

    An encoder for one lead can serve several: its first kernel is repeated over them and divided by
    their number, so that equal leads give the features of one.
    """
    tensors, m = read_weights(path)
    leads = leads or m.in_channels
    if architecture not in (None, m.architecture):
        raise UserError(f"{path} holds {m.architecture}, not --arch {architecture}")
    if fs not in (None, m.fs):
        raise UserError(f"{path} is for {m.fs} Hz, the data has {fs}")
    if m.in_channels not in (1, leads):
        raise UserError(f"{path} is for {m.in_channels} leads, the data has {leads}")
    encoder = build_encoder(m.architecture, leads, m.stages, None, m.spectrogram)
    state = {name: value for name, value in tensors.items() if name.startswith(ENCODER)}
    dropped = [name for name in tensors if name not in state]
    names = ", ".join(dropped) or "nothing"
    report = f"{path}: {len(state)} encoder tensors transferred; dropped: {names}"
    if leads > m.in_channels and FIRST_KERNEL in state:
        state[FIRST_KERNEL] = torch.cat([state[FIRST_KERNEL]] * leads, 1) / leads
        report += f"; {FIRST_KERNEL} of one lead repeated over {leads} and divided by it"
    load_strictly(encoder, {k.removeprefix(ENCODER): v for k, v in state.items()}, path)
    return Transfer(encoder, m, list(state), dropped, report)


def start_encoder(
    weights_file: Path | None, architecture: str | None, stages: int | None,
    spectrogram: dict[str, int | str] | None, fs: float, leads: int, generator: torch.Generator,
    verbose: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """Encoder to train, of a weights file (with its stages and spectrogram) or else a new one, and
    the fields of its metadata; raises as `load_encoder` and `build_encoder`. `verbose` lists the
    tensors that are transferred."""
    lineage = []
    if weights_file:
        encoder, m, transferred, _, report = load_encoder(weights_file, architecture, fs, leads)
        print("\n  transferred ".join([report, *transferred] if verbose else [report]))
        architecture, stages, lineage = m.architecture, m.stages, m.lineage
    else:
        architecture = architecture or DEFAULT_ARCHITECTURE
        encoder = build_encoder(architecture, leads, stages, generator, spectrogram)
    return encoder, {
        "architecture": architecture, "stages": stages, "in_channels": leads, "fs": fs,
        "spectrogram": encoder.spectrogram_settings, "derived_from": lineage,
    }  # fmt: skip


def build_classifier(m: Metadata) -> Classifier:
    """Build the network of a fine-tuned weights file; its weights are to be loaded."""
    encoder = build_encoder(m.architecture, m.in_channels, m.stages, None, m.spectrogram)
    return Classifier(encoder, len(m.classes), torch.Generator())


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, assign: bool = False
) -> None:
    """Load every tensor of `model` from `state`, which was read from `path`; `UserError` where a
    tensor is missing, unknown or of another shape."""
    expected = {(k, v.shape) for k, v in model.state_dict().items() if not k.endswith(COUNTER)}
    wrong = {name for name, _ in expected ^ {(k, v.shape) for k, v in state.items()}}
    if wrong:
        words = f"{len(wrong)} of {len(expected)} tensors missing, unknown or of another shape"
        raise UserError(f"{path} does not match the network: {words}, first {min(wrong)}")
    model.load_state_dict(state, strict=False, assign=assign)


def strip_head(checkpoint: Path, out: Path) -> None:
    """Write the encoder of `checkpoint` to `out`, with the same metadata."""
    tensors, metadata = read_weights(checkpoint)
    state = {name: value for name, value in tensors.items() if name.startswith(ENCODER)}
    if not state:
        raise UserError(f"{checkpoint} holds no encoder")
    save_weights(out, state, metadata)


def card_beside(weights: Path) -> Path:
    """Card of a file outside a job directory: `af.safetensors` → `af.md`."""
    return weights.with_suffix(".md")


def check_free(out: Path, overwrite: bool) -> None:
    """Raises `UserError` if writing weights and the card beside them would replace a file."""
    if out == card_beside(out):
        raise UserError(f"{out} is the name of the card; name a .safetensors file")
    for path in (out, card_beside(out)):
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; name another file or pass --overwrite")


def write_card(card: Path, weights: Path, data: Mapping = {}, scores: Mapping = {}) -> None:
    """Write the model card of a weights file; `data` and `scores` as for `render`."""
    write_text(card, render(weights.name, *read_weights(weights), data, scores))


def store_half(weights: Path, out: Path) -> None:
    """Write a half-precision copy and its card; `read_weights` gives float32 again."""
    tensors, metadata = read_weights(weights)
    cards = [c for c in (card_beside(weights), weights.with_name(CARD)) if c.is_file()]
    text = cards[0].read_text("utf-8") if cards else render(weights.name, tensors, metadata)
    save_weights(out, {name: to_half(tensor) for name, tensor in tensors.items()}, metadata)
    text = text.replace(weights.name, out.name).removesuffix(NOTE) + NOTE
    write_text(card_beside(out), text)


def to_half(tensor: Tensor) -> Tensor:
    """Convert a kernel to float16 unless more than rounding is lost; vectors stay as they are."""
    half, exact = tensor.half(), tensor.double()
    change = (half.double() - exact).norm()  # not finite where a number is out of range
    return half if tensor.ndim > 1 and change <= HALF_ROUNDING * exact.norm() else tensor


def main() -> None:
    parser = cli.Parser(prog="python -m utils.weights", description="Describe a weights file.")
    flag = parser.add_argument
    flag("file", type=cli.file, help=".safetensors")
    flag("--half", type=Path, metavar="OUT", help="write a half-precision copy of the weights")
    flag("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args()
    if args.half:
        check_free(args.half, args.overwrite)
        store_half(args.file, args.half)
    path = args.half or args.file
    rows = {"size": f"{path.stat().st_size:,} bytes", "SHA-256": sha256(path)}
    text = render(path.name, *read_weights(path), rows)
    print(*map(plain, text.partition("\n## Scores")[0].splitlines()), sep="\n")


if __name__ == "__main__":
    cli.run(main)
