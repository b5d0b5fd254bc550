"""Prepared recordings to normalised, padded tensors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.prepared import PreparedSet
from utils.cli import UserError


class Recordings(NamedTuple):
    """Recordings of one part of the data, padded, in the device's memory.

    Attributes:
        signal: (n, C, T) int16 in microvolt, padded in front; only the end of longer ones.
        valid: (n,) samples at the end that are signal.
        labels: (n,) int64.
        record_ids: (n,).
        classes: in the order of the labels.
        mean, sd: in mV.
    """

    signal: Tensor
    valid: Tensor
    labels: Tensor
    record_ids: np.ndarray
    classes: list[str]
    mean: float
    sd: float

    def __len__(self) -> int:
        return len(self.labels)


def pad_recordings(
    prepared: PreparedSet, chosen: np.ndarray, channel: int | None, device: torch.device
) -> Recordings:
    """Pad the recordings numbered `chosen` to the manifest's length, and move them to the device.

    Args:
        channel: use this lead only; all by default.

    Raises:
        UserError: no such lead, or a recording that is not of exactly one class.
    """
    manifest, leads = prepared.manifest, prepared.signal.shape[1]
    if channel is not None and channel >= leads:
        raise UserError(f"--channel {channel}: the recordings have leads 0 to {leads - 1}")
    if (prepared.y[chosen].sum(1) != 1).any():
        raise UserError("a recording has no class or several; each must have one")
    used = range(leads) if channel is None else [channel]
    pad = manifest["pad"]
    signal = np.zeros((len(chosen), len(used), pad), np.int16)
    valid = np.minimum(np.diff(prepared.offsets)[chosen], pad)
    for row, length, end in zip(signal, valid, prepared.offsets[chosen + 1], strict=True):
        row[:, pad - length :] = prepared.signal[end - length : end, used].T
    return Recordings(
        torch.from_numpy(signal).to(device),
        torch.from_numpy(valid).to(device),
        torch.from_numpy(prepared.y[chosen].argmax(1)).to(device),
        prepared.record_ids[chosen],
        prepared.classes.tolist(),
        manifest["mean_mv"],
        manifest["sd_mv"],
    )


def batches(
    recordings: Recordings, batch_size: int, order: np.ndarray | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, C, T) float32, normalised and then padded with zeros, and labels (B,).

    Args:
        order: numbers of the recordings; as they come by default.
    """
    order = np.arange(len(recordings)) if order is None else order
    device = recordings.signal.device
    places = torch.arange(recordings.signal.shape[-1], device=device)
    for chosen in torch.from_numpy(order).to(device).split(batch_size):
        millivolt = recordings.signal[chosen].float() / 1000
        inside = places >= len(places) - recordings.valid[chosen, None, None]
        yield inside * (millivolt - recordings.mean) / recordings.sd, recordings.labels[chosen]
