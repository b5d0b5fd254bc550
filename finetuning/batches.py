"""Prepared recordings to normalised, padded tensors."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetuning.normalising import Constant, normalise
from finetuning.prepared_set import PreparedSet
from finetuning.targets import TARGETS
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.engine import Batch
from utils.naming import few


class Recordings(NamedTuple):
    """Recordings of one part of the data, padded, in the device's memory.

    Attributes:
        signal: (n, C, T) int16 in microvolt, padded in front; only the end of longer ones.
        valid: (n,) samples at the end that are signal.
        y: (n, classes) uint8 of 0 and 1.
        labels: what is learned of them, (n,) int64 or (n, classes) float32.
        record_ids: (n,).
        classes: in the order of the labels.
        mean, sd: in mV; lists have one for each lead; None: of each recording its own.
    """

    signal: Tensor
    valid: Tensor
    y: np.ndarray
    labels: Tensor
    record_ids: np.ndarray
    classes: list[str]
    mean: Constant
    sd: Constant

    def __len__(self) -> int:
        return len(self.labels)

    def millivolt(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Recordings of these numbers, (B, C, T) float32, and what of it is signal, (B, 1, T)."""
        places = torch.arange(self.signal.shape[-1], device=self.signal.device)
        inside = places >= len(places) - self.valid[chosen, None, None]
        return self.signal[chosen].float() / 1000, inside


def pad_recordings(
    prepared: PreparedSet,
    chosen: np.ndarray,
    channel: int | None,
    device: torch.device,
    standardised: bool = False,
) -> Recordings:
    """Pad the recordings numbered `chosen` to the manifest's length, and move them to the device.

    Args:
        channel: use this lead only; all by default.
        standardised: each by its own mean and deviation, not by those of the manifest.

    Raises:
        UserError: no such lead, or a recording that is not of exactly one class.
    """
    manifest, leads = prepared.manifest, prepared.signal.shape[1]
    if channel is not None and channel >= leads:
        raise UserError(f"--channel {channel}: the recordings have leads 0 to {leads - 1}")
    y = prepared.y[chosen]
    if not prepared.multi_label and (y.sum(1) != 1).any():
        raise UserError("a recording has no class or several, in a set that is not multi-label")
    used = range(leads) if channel is None else [channel]
    pad = manifest["pad"]
    signal = np.zeros((len(chosen), len(used), pad), np.int16)
    valid = np.minimum(np.diff(prepared.offsets)[chosen], pad)
    for row, length, end in zip(signal, valid, prepared.offsets[chosen + 1], strict=True):
        row[:, pad - length :] = prepared.signal[end - length : end, used].T
    constants = (_of_lead(manifest[name], channel) for name in ("mean_mv", "sd_mv"))
    return Recordings(
        torch.from_numpy(signal).to(device),
        torch.from_numpy(valid).to(device),
        y,
        torch.from_numpy(TARGETS[prepared.multi_label].labels(y)).to(device),
        prepared.record_ids[chosen],
        prepared.classes.tolist(),
        *((None, None) if standardised else constants),
    )


def _of_lead(values: float | list[float], channel: int | None) -> float | list[float]:
    return values if channel is None or not isinstance(values, list) else values[channel]


def batches(
    recordings: Recordings,
    batch_size: int,
    order: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """Inputs (B, C, T) float32, normalised and then padded with zeros, and their labels.

    Args:
        order: numbers of the recordings; as they come by default.
        processes: each takes its share of every batch.
    """
    order = np.arange(len(recordings)) if order is None else order
    for batch in numbers_of_batches(recordings, batch_size, order):
        chosen = batch[processes.share]
        x = normalise(*recordings.millivolt(chosen), recordings.mean, recordings.sd)
        yield Batch(x, recordings.labels[chosen], len(batch))


def numbers_of_batches(
    recordings: Recordings, batch_size: int, order: np.ndarray
) -> Sequence[Tensor]:
    """Numbers of the recordings of each batch, of all processes together, on their device."""
    numbers = torch.from_numpy(order).to(recordings.signal.device)
    return numbers.split(batch_size) if len(order) else ()


def describe(
    recordings: Recordings,
    batch_size: int,
    number: int,
    order: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> str:
    """Recordings of batch `number` of `batches`, from 0, as `few` says it, for errors.

    Args:
        batch_size, order, processes: as `batches` was given them.
    """
    order = np.arange(len(recordings)) if order is None else order
    chosen = order[number * batch_size :][:batch_size][processes.share]
    (batch,) = batches(recordings, len(chosen), chosen)
    finite = batch.inputs.isfinite().flatten(1).all(1).tolist()
    return few(recordings.record_ids[chosen].tolist(), finite, "recordings")
