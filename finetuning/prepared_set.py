"""Prepared sets: recordings as int16 arrays in an `.npz`, with a JSON manifest beside them.

The trainer reads these, whatever data set the recordings came from.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from utils.cli import UserError
from utils.files import atomic_path, load_npz, read_json, sha256
from utils.model_card import MAX_FRAME, MAX_FS, MAX_NUMBER

UNIT = "uV"
AGAIN = "prepare the set again"


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
        if numbers is None:
            return None
        return np.array([numbers[record] for record in self.record_ids])


def manifest_path(path: Path) -> Path:
    """`data/physionet_train.npz` → `data/physionet_manifest.json`."""
    path = Path(path)
    return path.with_name(f"{path.stem.rpartition('_')[0]}_manifest.json")


def write_prepared(
    path: Path,
    signals: Sequence[np.ndarray],
    y: np.ndarray,
    record_ids: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Write one split; equal arguments give equal bytes.

    The manifest, which lists the file's checksum, has to be written afterwards by the caller.

    Args:
        signals: int16 (samples, channels) in microvolt. y: (records, classes) of 0 and 1.
    """
    arrays = {
        "signal": np.concatenate(signals),
        "offsets": np.cumsum([0, *map(len, signals)], dtype=np.int64),
        "y": np.asarray(y, dtype=np.uint8),
        "record_ids": np.array(record_ids, dtype=np.str_),
        "classes": np.array(classes, dtype=np.str_),
    }
    # Given a name, NumPy would append ".npz" to it. Not compressed: ECG at 1 uV hardly shrinks, and
    # reading would take several times as long.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_prepared(path: Path) -> PreparedSet:
    """Read one split and its manifest.

    Raises:
        UserError: the file is not a prepared set, or not the one that the manifest beside it lists.
    """
    path, beside = Path(path), manifest_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"{file} is missing; write it with python -m finetuning.prepare")
    manifest = read_json(beside)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    files = files.values() if isinstance(files, dict) else ()
    listed = [file for file in files if isinstance(file, dict) and file.get("name") == path.name]
    if [file.get("sha256") for file in listed] != [sha256(path)]:
        raise UserError(f"{beside} does not list {path.name} with its checksum; {AGAIN}")
    try:
        prepared = PreparedSet(**load_npz(path), manifest=manifest)
    except (ValueError, TypeError):  # a damaged archive, or other arrays
        prepared = None
    if prepared is None or not _arrays_fit(prepared):
        raise UserError(f"{path} does not hold the arrays of a prepared set; {AGAIN}")
    for key, holds in _check_manifest(prepared).items():
        if not holds:
            raise UserError(f"{beside}: {key!r} is missing or cannot be used; {AGAIN}")
    return prepared


def _arrays_fit(prepared: PreparedSet) -> bool:
    """Whether the arrays are as `PreparedSet` describes them, and no name occurs twice."""
    signal, offsets, y = prepared.signal, prepared.offsets, prepared.y
    names = (prepared.record_ids, prepared.classes)
    if [signal.dtype, offsets.dtype, y.dtype] != [np.int16, np.int64, np.uint8]:
        return False
    if any(array.dtype.kind != "U" or array.ndim != 1 for array in names):
        return False
    if (signal.ndim, y.ndim) != (2, 2) or not signal.size or not y.size:
        return False
    if offsets.shape != (len(y) + 1,) or y.max() > 1:
        return False
    divided = offsets[0] == 0 and offsets[-1] == len(signal) and (np.diff(offsets) > 0).all()
    unique = tuple(map(len, names)) == tuple(len(set(array)) for array in names) == y.shape
    return bool(divided) and unique


def _check_manifest(prepared: PreparedSet) -> dict[str, bool]:
    """Whether the trainer can use each value of the manifest."""
    manifest, leads = prepared.manifest, prepared.signal.shape[1]
    fs, pad, mean, sd = (manifest.get(key) for key in ("fs", "pad", "mean_mv", "sd_mv"))
    patients = manifest.get("patients", dict.fromkeys(prepared.record_ids.tolist(), 0))
    return {
        "dataset": isinstance(manifest.get("dataset"), str),
        "unit": manifest.get("unit") == UNIT,
        "classes": manifest.get("classes") == prepared.classes.tolist(),
        "multi_label": type(prepared.multi_label) is bool,
        "fs": _are_numbers([fs], 1) and 0 < fs <= MAX_FS,
        "pad": type(pad) is int and 0 < pad <= MAX_FRAME,
        "mean_mv": _are_numbers(mean, leads),
        "sd_mv": _are_numbers(sd, leads) and np.min(sd) > 1 / MAX_NUMBER,
        "patients": isinstance(patients, dict)
        and all(type(patients.get(record)) is int for record in prepared.record_ids),
    }


def _are_numbers(value: Any, count: int) -> bool:
    """Whether `value` is a number, or a list of `count` numbers."""
    values = value if isinstance(value, list) else [value] * count
    numbers = all(type(number) in (int, float) and abs(number) < MAX_NUMBER for number in values)
    return numbers and len(values) == count


def divide(
    y: np.ndarray, multi_label: bool, patients: np.ndarray | None, seed: int, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split recordings at random in two parts; equal seeds give equal parts.

    Known patients are kept together, whatever their classes. Otherwise the split is stratified by
    class, except in multi-label sets, where many combinations of classes occur only once.

    Args:
        y: (recordings, classes) of 0 and 1. patients: (recordings,).
        sizes: `train_size` or `test_size`, a share, of the first or the second part.

    Returns:
        The indices of the recordings of each part, ascending.

    Raises:
        ValueError: a part would be empty, or lack a class that it must have.
    """
    indices = np.arange(len(y))
    stratified = patients is None and not multi_label
    try:
        if patients is None:
            strata = y.argmax(1) if stratified else None
            parts = train_test_split(indices, random_state=seed, stratify=strata, **sizes)
        else:
            splitter = GroupShuffleSplit(1, random_state=seed, **sizes)
            parts = next(splitter.split(indices, groups=patients))
    except ValueError:
        needed = "every class needs two recordings and a place in both parts"
        raise ValueError(needed if stratified else "a part would be empty") from None
    return np.sort(parts[0]), np.sort(parts[1])


def report_absent(part: str, y: np.ndarray, classes: Sequence[str]) -> None:
    """Print a line to stderr that names the classes of which `part` has no recording, if any."""
    missing = [name for name, present in zip(classes, y.any(0), strict=True) if not present]
    if missing:
        named = ", ".join(missing[:3] + ["…"] * (len(missing) > 3))
        count = f"{len(missing)} of {len(classes)} classes"
        print(f"{part} has no recording of {count}: {named}", file=sys.stderr)
