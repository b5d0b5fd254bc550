"""Prepared recordings in the device's memory, and normalised batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.prepared_set import PreparedSet, divide, how_resampled, load_prepared, report_absent
from utils.cli import UserError
from utils.engine import Batch, moments

Constant = float | list[float] | None


@dataclass(frozen=True)
class Recordings:
    """One part of the data (training, validation or test), in the device's memory."""

    signal: Tensor  # (n, C, T) int16, microvolt, as `pad_front` makes it
    lengths: Tensor  # (n,) samples of signal at the end of each row
    y: np.ndarray  # (n, classes) uint8, 0 or 1
    labels: Tensor  # targets of the loss: (n,) int64; (n, classes) float32 in a multi-label set
    record_ids: np.ndarray  # (n,)
    classes: list[str]  # in the order of the columns of `y`
    mean: Constant  # in mV, for `normalize`
    sd: Constant

    def __len__(self) -> int:
        return len(self.labels)

    def in_millivolt(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Signals (B, C, T) float32 in mV, and their mask, see `signal_mask`."""
        mask = signal_mask(self.lengths[indices], self.signal.shape[-1])
        return self.signal[indices].float() / 1000, mask


def pad_front(signal: np.ndarray, size: int) -> np.ndarray:
    """(samples, C) to (C, size): zeros in front of a shorter signal, the end of a longer one."""
    kept = signal[-size:]
    padded = np.zeros((signal.shape[1], size), signal.dtype)
    padded[:, size - len(kept) :] = kept.T
    return padded


def signal_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) samples of signal at the end to a mask (B, 1, size), True on the signal."""
    return torch.arange(size, device=lengths.device) >= size - lengths[:, None, None]


def normalize(x: Tensor, mask: Tensor, mean: Constant, sd: Constant) -> Tensor:
    """Subtract the mean, divide by the standard deviation, and set what is not signal to zero.

    `x` is (B, C, T) in mV, `mask` as of `signal_mask`; `mean` and `sd` in mV are of all leads, or a
    list of one value per lead, or None for those of each recording and lead.
    """
    if mean is None:
        mean, sd = moments(x, mask)
    mean, sd = (
        torch.tensor(value, device=x.device)[:, None] if isinstance(value, list) else value
        for value in (mean, sd)
    )
    return mask * (x - mean) / sd


def load_parts(
    paths: dict[str, Path],
    device: torch.device,
    val_size: float = 0.0,
    subset: float = 1.0,
    seed: int = 0,
    channel: int | None = None,
    per_recording: bool = False,
) -> tuple[dict[str, Recordings], dict[str, Any]]:
    """Read the prepared sets; draw the validation recordings, then the subset of the rest.

    Returns the parts, in the order `train`, `val`, `test`, and the manifest of the training set;
    raises `UserError` if the sets do not fit together, cannot be split, or lack the lead.

    Args:
        paths: by part: `train`, and any of `val` and `test`.
        val_size: share of `train` that validates where `paths` has no `val`; 0 for none.
        subset: share of the remaining recordings that are trained on.
        channel: use this lead only; all by default.
        per_recording: normalise each recording by its own mean and standard deviation.
    """
    sets = {name: load_prepared(path) for name, path in paths.items()}
    for (name, prepared), (other_name, other) in combinations(sets.items(), 2):
        if problem := _conflict(prepared, other, channel):
            raise UserError(f"--{other_name} does not fit --{name}: {problem}")
    train, chosen = sets["train"], {name: np.arange(len(sets[name])) for name in sets}
    if val_size and "val" not in sets:
        sets["val"] = train
        parts = draw(train, chosen["train"], seed, "--val-size", test_size=val_size)
        chosen["train"], chosen["val"] = parts
    if subset < 1:
        chosen["train"], _ = draw(train, chosen["train"], seed, "--subset", train_size=subset)
    names = [name for name in ("train", "val", "test") if name in sets]
    parts = {n: to_device(sets[n], chosen[n], device, channel, per_recording) for n in names}
    for name, part in parts.items():
        report_absent(name, part.y, part.classes)
    print(", ".join(f"{name}: {len(part)} recordings" for name, part in parts.items()))
    return parts, train.manifest


def _conflict(prepared: PreparedSet, other: PreparedSet, channel: int | None) -> str | None:
    """How two sets were prepared differently, or which recordings they share."""
    alike = ("classes", "multi_label", "fs", "resampling", "padtype", "pad", "mean_mv", "sd_mv",
             "labels")  # fmt: skip
    first, second = (s.manifest | how_resampled(s.manifest) for s in (prepared, other))
    for key in alike:
        if (ours := first.get(key)) != (theirs := second.get(key)):
            return f"{key} is {theirs}, not {ours}; prepare both alike"
    if channel is None and prepared.signal.shape[1] != other.signal.shape[1]:
        return "other leads; choose one by --channel"
    shared = np.intersect1d(prepared.record_ids, other.record_ids)
    if len(shared) and prepared.manifest["dataset"] == other.manifest["dataset"]:
        return f"holds {len(shared)} of its recordings, such as {shared[0]}; use files of one split"
    return None


def draw(
    prepared: PreparedSet, pool: np.ndarray, seed: int, flag: str, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split the recordings numbered `pool` in two, see `divide`; both parts are sorted. Raises
    `UserError`, which names `flag`, if a part would be empty, or lack a class."""
    patients = None if prepared.patients is None else prepared.patients[pool]
    try:
        first, second = divide(prepared.y[pool], prepared.multi_label, patients, seed, **sizes)
    except ValueError as error:
        share = f"{next(iter(sizes.values())):g} of {len(pool)} recordings"
        raise UserError(f"{flag} {share}: {error}; choose another share") from None
    return pool[first], pool[second]


def to_device(
    prepared: PreparedSet,
    indices: np.ndarray,
    device: torch.device,
    channel: int | None = None,
    per_recording: bool = False,
) -> Recordings:
    """Pad recordings to the manifest's length and move them to the device; see `load_parts`.
    Raises `UserError`: no such lead, or a recording that is not of exactly one class."""
    manifest, leads, pad = prepared.manifest, prepared.signal.shape[1], prepared.manifest["pad"]
    if channel is not None and channel >= leads:
        raise UserError(f"--channel {channel}: the recordings have leads 0 to {leads - 1}")
    y = prepared.y[indices]
    if not prepared.multi_label and (y.sum(1) != 1).any():
        raise UserError("a recording has no class or several, in a set that is not multi-label")
    used = range(leads) if channel is None else [channel]
    signal = np.empty((len(indices), len(used), pad), np.int16)
    for row, index in zip(signal, indices, strict=True):
        start, stop = prepared.offsets[index : index + 2]
        row[:] = pad_front(prepared.signal[start:stop, used], pad)
    lengths = np.minimum(np.diff(prepared.offsets)[indices], pad)
    labels = y.astype(np.float32) if prepared.multi_label else y.argmax(1)
    signal, lengths, labels = (torch.from_numpy(a).to(device) for a in (signal, lengths, labels))
    mean, sd = (None, None) if per_recording else (manifest["mean_mv"], manifest["sd_mv"])
    if channel is not None:
        mean, sd = (v[channel] if isinstance(v, list) else v for v in (mean, sd))
    names = prepared.record_ids[indices]
    return Recordings(signal, lengths, y, labels, names, prepared.classes.tolist(), mean, sd)


def batches(recordings: Recordings, batch_size: int) -> Iterator[Batch]:
    """Normalised, padded inputs (B, C, T) float32 and their labels, as they are stored."""
    places = torch.arange(len(recordings), device=recordings.signal.device)
    for indices in places.split(batch_size):
        x = normalize(*recordings.in_millivolt(indices), recordings.mean, recordings.sd)
        yield Batch(x, recordings.labels[indices], len(indices))
