"""Prepared sets: recordings as int16 arrays in an `.npz`, with a JSON manifest beside them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from recordings.resampling import METHODS, PADTYPES
from utils.cli import UserError
from utils.files import atomic_path, load_npz, read_json, sha256
from utils.model_card import MAX_FRAME, MAX_FS, MAX_NUMBER

UNIT = "uV"


@dataclass(frozen=True)
class PreparedSet:
    """The recordings of one split; record i is `signal[offsets[i] : offsets[i + 1]]`."""

    signal: np.ndarray  # (total samples, channels) int16, microvolt
    offsets: np.ndarray  # (records + 1,) int64, in samples
    y: np.ndarray  # (records, classes) uint8, 0 or 1; one-hot unless the set is multi-label
    record_ids: np.ndarray  # (records,) unicode
    classes: np.ndarray  # (classes,) unicode
    manifest: dict[str, Any]  # `fs` in Hz, `pad` in samples, `mean_mv`, `sd_mv`; see `prepare`

    def __len__(self) -> int:
        return len(self.record_ids)

    @property
    def multi_label(self) -> bool:
        """Whether a record may have several classes, or none."""
        return self.manifest.get("multi_label", False)

    @property
    def patients(self) -> np.ndarray | None:
        """(records,) number of the patient, if patients are known."""
        numbers = self.manifest.get("patients")
        return None if numbers is None else np.array([numbers[name] for name in self.record_ids])

    def is_consistent(self) -> bool:
        """Whether the set keeps its contract; values of other kinds may also raise an error."""
        signal, offsets, y, manifest = self.signal, self.offsets, self.y, self.manifest
        mean, sd = (np.array(manifest[key]) for key in ("mean_mv", "sd_mv"))
        records, pad, patients = self.record_ids.tolist(), manifest["pad"], self.patients
        return (
            [array.dtype for array in (signal, offsets, y)] == [np.int16, np.int64, np.uint8]
            and y.shape == (len(records), len(self.classes)) == (len(set(records)), y.shape[1])
            and (signal.ndim == 2 and {mean.shape, sd.shape} <= {(), signal.shape[1:]})
            and (offsets[0] == 0 and offsets[-1] == len(signal) and (np.diff(offsets) > 0).all())
            and (len(offsets) == len(records) + 1 and y.max() <= 1)
            and (manifest["classes"] == self.classes.tolist() and manifest["unit"] == UNIT)
            and (0 < manifest["fs"] <= MAX_FS and type(pad) is int and 0 < pad <= MAX_FRAME)
            and {mean.dtype.kind, sd.dtype.kind} <= {"i", "f"}
            and (abs(mean).max() < MAX_NUMBER > sd.max() and sd.min() > 1 / MAX_NUMBER)
            and (isinstance(manifest["dataset"], str) and type(self.multi_label) is bool)
            and all(v in (*METHODS, *PADTYPES) for v in how_resampled(manifest).values())
            and (patients is None or patients.dtype.kind == "i")
        )


def how_resampled(manifest: dict[str, Any]) -> dict[str, str]:
    """How recordings were resampled, also of sets written before manifests stated it."""
    padtype = "constant" if manifest["dataset"] == "challenge17" else "line"
    earlier = {"resampling": "polyphase", "padtype": padtype}
    return {key: manifest.get(key, value) for key, value in earlier.items()}


def manifest_path(path: Path) -> Path:
    """`data/physionet_train.npz` → `data/physionet_manifest.json`."""
    return path.with_name(f"{path.stem.rpartition('_')[0]}_manifest.json")


def write_prepared(
    path: Path, signals: list[np.ndarray], y: np.ndarray, record_ids: Sequence, classes: Sequence
) -> None:
    """Write one split: `signals` int16 (samples, channels) in microvolt, `y` (records, classes) of
    0 and 1. Equal arguments give equal bytes. The caller writes the manifest afterwards."""
    arrays = {
        "signal": np.concatenate(signals),
        "offsets": np.cumsum([0, *map(len, signals)], dtype=np.int64),
        "y": np.asarray(y, dtype=np.uint8),
        "record_ids": np.array(record_ids, dtype=np.str_),
        "classes": np.array(classes, dtype=np.str_),
    }
    # Given a name, NumPy would append ".npz". Not compressed: slower to read, and hardly smaller.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_prepared(path: Path) -> PreparedSet:
    """Read one split; raises `UserError` if it is not what the manifest beside it lists."""
    beside = manifest_path(path)
    if not beside.is_file():
        raise UserError(f"{beside} is missing; write it with python -m finetuning.prepare")
    manifest = read_json(beside)
    try:
        listed = {file["name"]: file["sha256"] for file in manifest["files"].values()}
        if listed.get(path.name) != sha256(path):
            raise ValueError("other checksum")
        prepared = PreparedSet(**load_npz(path), manifest=manifest)
        if prepared.is_consistent():
            return prepared
        raise ValueError("other values")
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        problem = f"{path} is not the prepared set of {beside.name} ({error})"
        raise UserError(f"{problem}; prepare the set again") from None


def divide(
    y: np.ndarray, multi_label: bool, patients: np.ndarray | None, seed: int, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ascending indices of two parts of recordings, drawn at random: the share `train_size` or the
    rest of `test_size`. Raises `ValueError` if a part would lack what it must have.

    Known patients are kept together, whatever their classes. Otherwise the split is stratified by
    class, except in multi-label sets, where many combinations of classes occur only once.
    """
    if patients is None:
        strata = None if multi_label else y.argmax(1)
        parts = train_test_split(np.arange(len(y)), random_state=seed, stratify=strata, **sizes)
    else:
        parts = next(GroupShuffleSplit(1, random_state=seed, **sizes).split(y, groups=patients))
    return np.sort(parts[0]), np.sort(parts[1])


def report_absent(part: str, y: np.ndarray, classes: Sequence[str]) -> None:
    """Name on stderr the classes of which `part` has no recording, if any."""
    if missing := list(compress(classes, ~y.any(0))):
        names = shorten(", ".join(missing), 80)
        print(f"{part} has no recording of {len(missing)} classes: {names}", file=sys.stderr)
