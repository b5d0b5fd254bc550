"""Prepared sets: recordings as int16 arrays in an `.npz`, with a JSON manifest beside them.

This is what the trainer reads, whatever data set the recordings came from.
"""

import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from utils.cli import UserError
from utils.contract import FRAME, FS, LARGEST
from utils.files import atomic_path, load_npz, read_json, sha256

UNIT = "uV"
_KEYS = ("signal", "offsets", "y", "record_ids", "classes")
_MOST = {"fs": FS, "pad": FRAME}
_CONSTANTS = ("mean_mv", "sd_mv")
_AGAIN = "prepare the set again"


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
        """(records,) number of the patient, where they are known."""
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

    `signals` are int16 (samples, channels) in microvolt, `y` is (records, classes) of 0 and 1.
    The manifest, which lists this file's checksum, is the caller's to write, last.
    """
    offsets = np.zeros(len(signals) + 1, dtype=np.int64)
    np.cumsum([len(signal) for signal in signals], out=offsets[1:])
    arrays = {
        "signal": np.concatenate(signals),
        "offsets": offsets,
        "y": np.asarray(y, dtype=np.uint8),
        "record_ids": np.array(record_ids, dtype=np.str_),
        "classes": np.array(classes, dtype=np.str_),
    }
    _check_arrays(path, arrays)
    # An open file, because given a name NumPy would append ".npz" to it. Not compressed: ECG at
    # 1 uV hardly shrinks, and reading would take several times as long.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_prepared(path: Path) -> PreparedSet:
    """Read one split and its manifest.

    Raises `UserError` where the file is not a prepared set, has no manifest beside it or is not
    the file that the manifest lists.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; write it with python -m finetuning.prepare")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not a prepared set (.npz); write one with python -m finetuning.prepare"
        )
    manifest = _load_manifest(path)
    arrays = _load_arrays(path)
    _check_arrays(path, arrays)
    if list(arrays["classes"]) != manifest.get("classes"):
        raise UserError(f"{path} and {manifest_path(path)} name different classes; {_AGAIN}")
    _check_numbers(manifest_path(path), manifest, arrays)
    return PreparedSet(**arrays, manifest=manifest)


def _load_manifest(path: Path) -> dict[str, Any]:
    beside = manifest_path(path)
    if not beside.is_file():
        if "_" not in path.stem:
            raise UserError(f"{path} is not named as a prepared set is (…_train.npz); {_AGAIN}")
        raise UserError(f"{path} has no manifest {beside.name} beside it; copy it too or {_AGAIN}")
    manifest = read_json(beside)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{beside} is not the manifest of a prepared set; {_AGAIN}")
    entries = [e for e in manifest["files"].values() if isinstance(e, dict)]
    listed = [entry.get("sha256") for entry in entries if entry.get("name") == path.name]
    if not listed:
        raise UserError(f"{beside} does not list {path.name}; {_AGAIN}")
    if listed != [sha256(path)]:
        raise UserError(f"{path} does not have the checksum that {beside.name} lists; {_AGAIN}")
    for key, most in _MOST.items():
        if not _is_number(manifest.get(key)) or not 0 < manifest[key] <= most:
            raise UserError(f"{beside} gives no number for {key!r}, or none to use; {_AGAIN}")
    if type(manifest["pad"]) is not int or type(manifest.get("multi_label", False)) is not bool:
        raise UserError(
            f"{beside}: 'pad' is no count, or 'multi_label' not true or false; {_AGAIN}"
        )
    if not isinstance(manifest.get("dataset"), str):
        raise UserError(f"{beside} names no dataset; {_AGAIN}")
    if manifest.get("unit") != UNIT:
        raise UserError(f"{beside} gives the unit {manifest.get('unit')!r}, not {UNIT}; {_AGAIN}")
    return manifest


def _check_numbers(beside: Path, manifest: dict, arrays: dict[str, np.ndarray]) -> None:
    leads, patients = arrays["signal"].shape[1], manifest.get("patients")
    for key in _CONSTANTS:
        given = manifest.get(key)
        values = given if isinstance(given, list) else [given] * leads
        if len(values) != leads or not all(map(_is_number, values)):
            raise UserError(f"{beside}: {key!r} is no number, nor one for each lead; {_AGAIN}")
        if key == "sd_mv" and min(values) <= 1 / LARGEST:
            raise UserError(f"{beside}: {key!r} is not above 0; {_AGAIN}")
    numbers = patients if isinstance(patients, dict) else {}
    numbered = (type(numbers.get(record)) is int for record in arrays["record_ids"])
    if patients is not None and not all(numbered):
        raise UserError(f"{beside} lists no patient of some records; {_AGAIN}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = load_npz(path)
    except ValueError:
        raise UserError(f"{path} cannot be read as plain arrays; {_AGAIN}") from None
    if set(arrays) != set(_KEYS):
        found = ", ".join(name[:40] for name in arrays)
        raise UserError(f"{path} holds {found}, not {', '.join(_KEYS)}; {_AGAIN}")
    return arrays


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    signal, offsets, y, record_ids, classes = (arrays[key] for key in _KEYS)
    n = record_ids.size
    rules = (
        (signal.dtype == np.int16 and signal.ndim == 2, "signal is not int16 (samples, channels)"),
        (offsets.dtype == np.int64 and offsets.shape == (n + 1,), "offsets are not int64 (n + 1)"),
        (y.dtype == np.uint8 and y.shape == (n, classes.size), "y is not uint8 (n, classes)"),
        (record_ids.dtype.kind == "U" and record_ids.ndim == 1, "record_ids are not text (n)"),
        (classes.dtype.kind == "U" and classes.ndim == 1, "classes are not text (classes)"),
        (n > 0 and signal.size > 0, "there is no record"),
    )
    for holds, problem in rules:
        if not holds:
            raise UserError(f"{path}: {problem}; {_AGAIN}")
    if offsets[0] != 0 or offsets[-1] != len(signal) or (np.diff(offsets) <= 0).any():
        raise UserError(f"{path}: offsets do not divide the signal into records; {_AGAIN}")
    if y.max(initial=0) > 1:
        raise UserError(f"{path}: y holds values other than 0 and 1; {_AGAIN}")
    if len(set(record_ids)) != n or len(set(classes)) != len(classes):
        raise UserError(f"{path}: a record or a class is named twice; {_AGAIN}")


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
