"""Weights files: safetensors with a contract, saved whole, loaded strictly."""

import errno
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models import Classifier, build_encoder
from utils.cli import UserError
from utils.contract import Contract
from utils.files import atomic_path

ENCODER = "encoder."
FIRST_KERNEL = "encoder.conv1.weight"  # (out, leads, …)


class Transfer(NamedTuple):
    """An encoder taken from a weights file, and what was done with each of its tensors."""

    encoder: nn.Module
    contract: Contract
    transferred: list[str]
    dropped: list[str]
    repeated: int = 1  # leads that share the first kernel of an encoder for one

    def report(self, path: Path) -> str:
        """One line for the log."""
        dropped = ", ".join(self.dropped) or "nothing"
        line = f"{path}: {len(self.transferred)} encoder tensors transferred; dropped: {dropped}"
        shared = f"; {FIRST_KERNEL} of one lead repeated over {self.repeated}, each its share"
        return line + shared * (self.repeated > 1)


def save_weights(path: Path, state: dict[str, Tensor], contract: Contract) -> None:
    """Write `state` and its contract; equal content gives equal bytes."""
    save_tensors(path, _kept(state), contract.to_metadata())


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors, whole or not at all.

    Args:
        metadata: of one key; several would be written in no fixed order.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], Contract]:
    """All tensors of a weights file, on the CPU, float32 however they are stored, and its contract.

    Raises:
        UserError: as `read_tensors`, or without a contract.
    """
    tensors, metadata = read_tensors(path)
    contract = Contract.from_metadata(metadata, str(path))
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, contract


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, on the CPU, as they are stored, and its metadata.

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
    """Rebuild the encoder that a weights file holds; the head, if any, is dropped.

    An encoder for one lead serves several: its first kernel is repeated over them and divided by
    their number, so that equal leads have the features of one.

    Args:
        architecture, fs, in_channels: what the caller asks for, and what its data has, if anything.

    Raises:
        UserError: other architecture or input, or the encoder does not match to the last tensor.
    """
    tensors, contract = read_weights(path)
    if architecture not in (None, contract.architecture):
        raise UserError(f"{path} holds {contract.architecture}, not --arch {architecture}")
    leads = in_channels or contract.in_channels
    if fs not in (None, contract.fs):
        raise UserError(f"{path} is for {contract.fs} Hz, the data has {fs}")
    if contract.in_channels not in (1, leads):
        raise UserError(f"{path} is for {contract.in_channels} leads, the data has {leads}")
    encoder = build_encoder(
        contract.architecture, leads, contract.stages, None, contract.spectrogram
    )
    kept = _encoder_of(tensors)
    repeated = leads // contract.in_channels
    if repeated > 1 and FIRST_KERNEL in kept:
        kept[FIRST_KERNEL] = torch.cat([kept[FIRST_KERNEL]] * repeated, 1) / repeated
    load_strictly(encoder, {k.removeprefix(ENCODER): v for k, v in kept.items()}, path)
    return Transfer(encoder, contract, list(kept), [k for k in tensors if k not in kept], repeated)


def build_classifier(contract: Contract) -> Classifier:
    """The network of a fine-tuned weights file, whose values are to be loaded; raises
    `NetworkError` as `build_encoder`."""
    encoder = build_encoder(
        contract.architecture, contract.in_channels, contract.stages, None, contract.spectrogram
    )
    return Classifier(encoder, len(contract.classes), torch.Generator())


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
