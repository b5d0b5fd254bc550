"""Annotation index: headers and annotations of a data set, read once, then memory-mapped.

A folder `annotation_index/current` in the data set's folder, or in `--index DIR`:
`segments.npy` (a row per segment), flat arrays of all beats and rhythm intervals in the same order,
and `index.json` (what was left out and why; when each folder last changed). `pretraining.indexing`
builds it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pretraining.icentia11k import Header
from utils.cli import UserError
from utils.files import read_json

# The flat arrays of each kind of annotation.
ARRAYS = {
    "beats": {"beat_ends": "<i4", "beat_codes": "i1"},
    "rhythms": {"rhythm_ends": "<i4", "rhythm_codes": "i1"},
}
DTYPES = {name: dtype for arrays in ARRAYS.values() for name, dtype in arrays.items()}


class AnnotationIndex:
    """An index that has been built.

    Attributes:
        segments: structured array with `path` (relative, without extension), `patient`,
            `samples`, `gain` (units per mV), `baseline`, `annotated`, whether its signal is
            `constant` or `clipped`, and how many `beats` and `rhythms` it has, the first of which
            are at `first_beats` and `first_rhythms`.
        patients: that were looked into.
        left_out: record, patient and reason of each segment that cannot be used.
        arrays: annotations of all segments, by name, see `ARRAYS`; mapped.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self.about = read_json(folder / "index.json")
        self.patients = set(self.about["patients"])
        # As plain arrays, though mapped: NumPy is slower with its own class of mapped ones.
        self.segments = np.asarray(np.load(folder / "segments.npy", mmap_mode="r"))
        self._headers = self.segments[list(Header._fields)]
        self.arrays = {
            name: self._map(folder / name, dtype, self.about[kind])
            for kind, arrays in ARRAYS.items()
            for name, dtype in arrays.items()
        }

    @staticmethod
    def _map(path: Path, dtype: str, length: int) -> np.ndarray:
        # An empty file cannot be mapped.
        if not length:
            return np.zeros(0, dtype)
        return np.asarray(np.memmap(path, dtype, "r", shape=(length,)))

    def __reduce__(self):
        return _open_same, (self.root, self.folder, self.about)

    @property
    def left_out(self) -> list[dict[str, Any]]:
        return self.about["left_out"]

    def within(self, kind: str, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in the arrays the `beats` or `rhythms` of segments begin and end, (n,) each."""
        first = self.segments[f"first_{kind}"][segments]
        return first, first + self.segments[kind][segments]

    def annotations(self, segment: int) -> dict[str, np.ndarray]:
        """`beat_ends` and `beat_codes` of one segment, (beats,); `rhythm_ends` and `rhythm_codes`,
        (rhythms,): neighbouring intervals of one rhythm are one."""
        return {
            name: self.arrays[name][slice(*self.within(kind, segment))]
            for kind, names in ARRAYS.items()
            for name in names
        }

    def record_path(self, segment: int) -> Path:
        """Without extension."""
        return self.root / self.segments["path"][segment].decode()

    def header(self, segment: int) -> Header:
        return Header(*self._headers[segment].item())


def _open_same(root: Path, folder: Path, about: dict[str, Any]) -> AnnotationIndex:
    """The index again, in another process."""
    index = AnnotationIndex(root, folder)
    if index.about != about:
        raise UserError(f"{folder} was built anew during the run; start again")
    return index
