"""Weights files: safetensors with a contract, saved whole, loaded strictly."""

import errno
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from utils.cli import UserError
from utils.contract import Contract
from utils.encoders import build_encoder
from utils.files import atomic_path

ENCODER = "encoder."


class Transfer(NamedTuple):
    """An encoder taken from a weights file, and what was done with each of its tensors."""

    encoder: nn.Module
    contract: Contract
    transferred: list[str]
    dropped: list[str]

    def report(self, path: Path) -> str:
        """One line for the log."""
        dropped = ", ".join(self.dropped) or "nothing"
        return f"{path}: {len(self.transferred)} encoder tensors transferred; dropped: {dropped}"


def save_weights(path: Path, state: dict[str, Tensor], contract: Contract) -> None:
    """Write `state` and its contract; equal content gives equal bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in _kept(state).items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, contract.to_metadata())
        except SafetensorError as error:
            full = f"os error {errno.ENOSPC}" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], Contract]:
    """All tensors of a weights file, on the CPU, and its contract.

    Raises:
        UserError: missing file, not safetensors, cut short, or without a contract.
    """
    if not Path(path).is_file():
        raise UserError(f"weights file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            contract = Contract.from_metadata(file.metadata(), str(path))
            return {name: file.get_tensor(name) for name in file.keys()}, contract  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from None


def load_encoder(
    path: Path,
    architecture: str | None = None,
    fs: float | None = None,
    in_channels: int | None = None,
) -> Transfer:
    """Rebuild the encoder that a weights file holds; the head, if any, is dropped.

    Args:
        architecture, fs, in_channels: what the caller asks for, and what its data has, if anything.

    Raises:
        UserError: other architecture or input, or the encoder does not match to the last tensor.
    """
    tensors, contract = read_weights(path)
    if architecture not in (None, contract.architecture):
        raise UserError(f"{path} holds {contract.architecture}, not --arch {architecture}")
    for what, has, needed in (
        ("Hz", contract.fs, fs),
        ("leads", contract.in_channels, in_channels),
    ):
        if needed not in (None, has):
            raise UserError(f"{path} is for {has} {what}, the data has {needed}")
    encoder = build_encoder(
        contract.architecture, contract.in_channels, contract.stages, None,
        contract.spectrogram,
    )  # fmt: skip
    kept = _encoder_of(tensors)
    load_strictly(encoder, {k.removeprefix(ENCODER): v for k, v in kept.items()}, path)
    return Transfer(encoder, contract, list(kept), [k for k in tensors if k not in kept])


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of `model`; raises `UserError` as `check_match` does."""
    check_match(model, state, path)
    model.load_state_dict(state, strict=False)


def check_match(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Compare names and shapes: none missing, none left over; `model` may be without values.

    Raises:
        UserError: anything else; `path` is named.
    """
    own = _kept(model.state_dict())
    wrong = sorted(own.keys() ^ state.keys())
    wrong += sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if wrong:
        raise UserError(
            f"{path} does not match the network: {len(wrong)} of {len(own)} tensors missing, "
            f"unknown or of another shape, first {wrong[0]}"
        )


def strip_head(checkpoint: Path, out: Path) -> None:
    """Write the encoder of `checkpoint` to `out`, with the same contract."""
    tensors, contract = read_weights(checkpoint)
    kept = _encoder_of(tensors)
    if not kept:
        raise UserError(f"{checkpoint} holds no encoder")
    save_weights(out, kept, contract)


def _encoder_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(ENCODER)}


def _kept(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds: BN counts its batches, too, which nothing here needs."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
