"""Validation frames in a file (.npz), written and read a batch at a time."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pretraining.batches import FrameBatches, Frames, blocks, new_signal
from utils.cli import UserError
from utils.engine import describe_examples
from utils.files import atomic_path, load_npz

ABOUT = "about"  # JSON: what the frames are, see `write_frames`
DTYPES = {"signal": "<i2", "scale": "<f4", "shift": "<f4", "labels": "<i8"}


def write_frames(path: Path, batches: FrameBatches, about: dict[str, Any]) -> None:
    """Write all batches, a block at a time.

    Args:
        about: `patients` (their ids) and `dataset`, so that they never train, and all that has to
            be the same in a run that uses the file.
    """
    small: dict[str, list[np.ndarray]] = {name: [] for name in DTYPES if name != "signal"}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with _member(archive, "signal") as file:
            for numbers in blocks(batches, range(len(batches))):
                frames = batches[numbers]._asdict()
                signal = frames.pop("signal")[frames.pop("rows")].numpy()
                if not numbers.start:
                    header = {
                        "descr": DTYPES["signal"],
                        "fortran_order": False,
                        "shape": (batches.total, *signal.shape[1:]),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(signal.astype(DTYPES["signal"]).tobytes())
                for name, tensor in frames.items():
                    small[name].append(tensor.numpy())
        arrays = {name: np.concatenate(parts) for name, parts in small.items()}
        for name, array in (arrays | {ABOUT: np.array(json.dumps(about))}).items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str):
    # A ZipInfo of its own has a fixed date: equal frames give equal bytes.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


class StoredFrames(Dataset):
    """Range of batch numbers -> `Frames` of a file by `write_frames`; its signal is mapped.

    Raises:
        UserError: not such a file; also by `check`.
    """

    def __init__(self, path: Path, batch_size: int):
        self.path, self.batch_size = path, batch_size
        try:
            read = load_npz(path, {ABOUT, *DTYPES} - {"signal"})
            self.about = json.loads(str(read[ABOUT]))
            self.arrays = {name: read[name] for name in DTYPES if name != "signal"}
            self.arrays["signal"] = _map_member(path, "signal.npy")
            patients, dataset = self.about["patients"], self.about["dataset"]
        except OSError:
            raise
        except Exception:  # a damaged file raises almost any error
            raise self._refusal() from None
        known = isinstance(patients, list) and all(type(p) is int and p >= 0 for p in patients)
        if not (known and patients and isinstance(dataset, str)):
            raise self._refusal()

    def _refusal(self) -> UserError:
        return UserError(f"{self.path} holds no validation frames; write it with --cache-val")

    def check(self, frames: int, frame_size: int, answers: int) -> None:
        """Hold the arrays against what an example should be, with labels below `answers`."""
        labels = self.arrays["labels"]
        each = (labels.size, frames)
        shapes = {"signal": (*each, frame_size), "scale": (*each, 1), "shift": (*each, 1)}
        alike = all(
            self.arrays[name].dtype == dtype
            and self.arrays[name].shape == shapes.get(name, labels.shape)
            for name, dtype in DTYPES.items()
        )
        if not (alike and labels.ndim == 1 and labels.size):
            raise self._refusal()
        finite = np.isfinite(self.arrays["scale"]).all() and np.isfinite(self.arrays["shift"]).all()
        if not finite or labels.min() < 0 or labels.max() >= answers:
            raise self._refusal()

    def __reduce__(self):
        return StoredFrames, (self.path, self.batch_size)  # another process maps it again

    def __len__(self) -> int:
        return -(-len(self.arrays["labels"]) // self.batch_size)

    @property
    def share_size(self) -> int:
        """Examples of a batch that are read here: all of them."""
        return self.batch_size

    @property
    def batch_shape(self) -> tuple[int, int]:
        """Of the signal of a batch: frames, samples."""
        _, frames, samples = self.arrays["signal"].shape
        return self.batch_size * frames, samples

    def __getitem__(self, numbers: range) -> Frames:
        return self.read(numbers, new_signal(self, len(numbers)))

    def read(self, numbers: range, signal: Tensor) -> Frames:
        """Batches of these numbers; their signal is copied into the first rows of `signal`."""
        part = slice(numbers.start * self.batch_size, numbers.stop * self.batch_size)
        arrays = {name: np.array(self.arrays[name][part]) for name in DTYPES if name != "signal"}
        frames = self.arrays["signal"][part]  # (n, K, T)
        signal = signal[: frames.shape[0] * frames.shape[1]]
        signal.numpy().reshape(frames.shape)[:] = frames
        rows = torch.arange(len(signal)).view(frames.shape[:2])
        return Frames(signal, rows, **{k: torch.from_numpy(v) for k, v in arrays.items()})

    def describe(self, number: int) -> str:
        """Which examples of the file a batch holds, as `describe_batch` says it, for errors."""
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        signal, scale, shift = (self.arrays[name][part] for name in ("signal", "scale", "shift"))
        with np.errstate(all="ignore"):
            finite = np.isfinite(signal * scale + shift).all((1, 2))
        examples = range(len(self.arrays["labels"]))[part]
        names = [f"{self.path.name} example {n}" for n in examples]
        return describe_examples(names, finite, "examples")


def _map_member(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed `.npz`, memory-mapped where it lies.

    Raises:
        ValueError: compressed, or not plain numbers.
    """
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(name)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        header = member.tell()
    if fortran or dtype.hasobject:
        raise ValueError(name)
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the name and of the extra field
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + header
    return np.memmap(path, dtype, "r", offset, shape)
