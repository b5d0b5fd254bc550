"""Weights files: safetensors with metadata, written whole and loaded strictly.

    python -m utils.weights jobs/af/best_model.safetensors
    python -m utils.weights jobs/af/best_model.safetensors --half weights/af.safetensors

The command describes a weights file. A half-precision copy is written with its card, here
`weights/af.md`.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models import Classifier, build_encoder
from utils import cli
from utils.cli import UserError, plain
from utils.files import atomic_path, sha256, write_text
from utils.model_card import CARD, Metadata, describe, licence_notices, render

ENCODER = "encoder."
FIRST_KERNEL = "encoder.conv1.weight"  # (out, leads, …)
HALF_ROUNDING = 2**-11  # largest relative rounding error in float16's normal range
HALF_NOTE = (
    "The kernels are stored in half precision (float16) and computed with in float32; scores are "
    "those of the weights before they were rounded."
)


class Transfer(NamedTuple):
    """An encoder built from a weights file.

    Attributes:
        transferred, dropped: names of the file's tensors.
        repeated: number of leads that share the first kernel of an encoder for one lead.
    """

    encoder: nn.Module
    metadata: Metadata
    transferred: list[str]
    dropped: list[str]
    repeated: int = 1

    def report(self, path: Path) -> str:
        """One line for the log."""
        dropped = ", ".join(self.dropped) or "nothing"
        line = f"{path}: {len(self.transferred)} encoder tensors transferred; dropped: {dropped}"
        shared = f"; {FIRST_KERNEL} of one lead repeated over {self.repeated} and divided by it"
        return line + shared * (self.repeated > 1)


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a state_dict with its metadata, whole or not at all; equal content, equal bytes."""
    state = _without_counters(state)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata.to_header()))


def read_weights(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read all tensors of a weights file, as float32 on the CPU, and its metadata.

    Raises:
        UserError: as `read_tensors`, or invalid metadata.
    """
    tensors, header = read_tensors(path)
    metadata = Metadata.from_header(header, str(path))
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file, of the stored types on the CPU, and its header.

    Raises:
        UserError: missing file, not safetensors, or cut short.
    """
    if not Path(path).is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from None


def load_encoder(
    path: Path,
    architecture: str | None = None,
    fs: float | None = None,
    in_channels: int | None = None,
) -> Transfer:
    """Build the encoder that a weights file holds; a head is dropped.

    An encoder for one lead can serve several: its first kernel is repeated over them and divided by
    their number, so that equal leads give the features of one.

    Args:
        architecture, fs, in_channels: required architecture, sampling rate in Hz and number of
            leads, if any.

    Raises:
        UserError: the file is for another input or architecture, or a tensor of the encoder is
            missing, unknown or of another shape.
    """
    tensors, metadata = read_weights(path)
    if architecture not in (None, metadata.architecture):
        raise UserError(f"{path} holds {metadata.architecture}, not --arch {architecture}")
    if fs not in (None, metadata.fs):
        raise UserError(f"{path} is for {metadata.fs} Hz, the data has {fs}")
    leads = in_channels or metadata.in_channels
    if metadata.in_channels not in (1, leads):
        raise UserError(f"{path} is for {metadata.in_channels} leads, the data has {leads}")
    encoder = _build_encoder(metadata, leads)
    state = {name: value for name, value in tensors.items() if name.startswith(ENCODER)}
    transferred, dropped = list(state), [name for name in tensors if name not in state]
    repeated = leads // metadata.in_channels
    if repeated > 1 and FIRST_KERNEL in state:
        state[FIRST_KERNEL] = torch.cat([state[FIRST_KERNEL]] * repeated, 1) / repeated
    load_strictly(encoder, {k.removeprefix(ENCODER): v for k, v in state.items()}, path)
    return Transfer(encoder, metadata, transferred, dropped, repeated)


def build_classifier(metadata: Metadata) -> Classifier:
    """Build the network of a fine-tuned weights file; its weights are to be loaded.

    Raises:
        NetworkError: as `models.build_encoder`.
    """
    encoder = _build_encoder(metadata, metadata.in_channels)
    return Classifier(encoder, len(metadata.classes), torch.Generator())


def _build_encoder(metadata: Metadata, leads: int) -> nn.Module:
    architecture, spectrogram = metadata.architecture, metadata.spectrogram
    return build_encoder(architecture, leads, metadata.stages, None, spectrogram)


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of `model`; raises `UserError` as `check_match` does."""
    check_match(model, state, path)
    model.load_state_dict(state, strict=False)


def check_match(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Compare the names and shapes of `state`, read from `path`, with those of a model.

    Raises:
        UserError: a tensor is missing, unknown or of another shape.
    """
    expected = _without_counters(model.state_dict())
    wrong = sorted(expected.keys() ^ state.keys())
    common = expected.keys() & state.keys()
    wrong += sorted(name for name in common if expected[name].shape != state[name].shape)
    if wrong:
        raise UserError(
            f"{path} does not match the network: {len(wrong)} of {len(expected)} tensors missing, "
            f"unknown or of another shape, first {wrong[0]}"
        )


def strip_head(checkpoint: Path, out: Path) -> None:
    """Write the encoder of `checkpoint` to `out`, with the same metadata."""
    tensors, metadata = read_weights(checkpoint)
    state = {name: value for name, value in tensors.items() if name.startswith(ENCODER)}
    if not state:
        raise UserError(f"{checkpoint} holds no encoder")
    save_weights(out, state, metadata)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Batch normalisation's batch counters are not stored: nothing here needs them."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


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


def write_card(
    path: Path,
    weights: Path,
    data: Mapping[str, str] | None = None,
    scores: Mapping[str, Any] | None = None,
) -> None:
    """Write the model card of a weights file to `path`; `data` and `scores` as for `render`."""
    write_text(path, render(weights.name, *read_weights(weights), data or {}, scores or {}))


def store_half(weights: Path, out: Path) -> None:
    """Write a half-precision copy and its card; `read_weights` gives float32 again."""
    tensors, metadata = read_weights(weights)
    cards = [p for p in (card_beside(weights), weights.with_name(CARD)) if p.is_file()]
    if cards:
        card = cards[0].read_text(encoding="utf-8").replace(weights.name, out.name)
    else:
        card = render(out.name, tensors, metadata, {}, {})
    if HALF_NOTE not in card:
        title, _, rest = card.partition("\n")
        card = f"{title}\n\n{HALF_NOTE}\n{rest}"
    save_weights(out, {name: to_half(tensor) for name, tensor in tensors.items()}, metadata)
    write_text(card_beside(out), card)


def to_half(tensor: Tensor) -> Tensor:
    """Convert a kernel to float16 where nothing but rounding is lost.

    Vectors stay as they are: batch statistics and biases are few and may be tiny or huge. So do
    kernels that change by more than rounding: those with a number beyond 65,504, or so small that
    too few digits are left.
    """
    half, exact = tensor.half(), tensor.double()
    change = (half.double() - exact).norm()  # not finite where a number is out of range
    return half if tensor.ndim > 1 and change <= HALF_ROUNDING * exact.norm() else tensor


def main() -> None:
    parser = cli.Parser(prog="python -m utils.weights", description="Describe a weights file.")
    flag = parser.add_argument
    flag("file", type=cli.file, help=".safetensors")
    flag("--tensors", action="store_true", help="list each tensor, too")
    flag("--half", type=Path, metavar="OUT", help="write a half-precision copy of the weights")
    flag("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args()
    if args.half:
        check_free(args.half, args.overwrite)
        store_half(args.file, args.half)
    path = args.half or args.file
    tensors, header = read_tensors(path)
    metadata = Metadata.from_header(header, str(path))
    rows = describe(tensors, metadata)
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    counts = ", ".join(f"{count} of {kind}" for kind, count in Counter(types.values()).items())
    rows["tensors"] = f"{len(tensors)}: {counts}"
    rows["size"] = f"{path.stat().st_size:,} bytes"
    rows["SHA-256"] = sha256(path)
    if args.tensors:
        rows |= {name: f"{types[name]} {list(tensors[name].shape)}" for name in tensors}
    width = max(map(len, rows))
    lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
    for line in [*lines, *licence_notices(metadata.lineage)]:
        print(plain(line[: cli.LONGEST]))


if __name__ == "__main__":
    cli.run(main)
