"""Annotation index: headers and annotations of a data set, read once, then memory-mapped.

A folder `annotation_index/current` in the data set's folder, or in `--index DIR`:
`segments.npy` (a row per segment), flat arrays of all beats and rhythm intervals in the same order,
and `index.json` (what was left out and why; when each folder last changed).
`pretraining.icentia11k.indexing` builds it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pretraining.icentia11k import admit
from pretraining.icentia11k.reader import Header
from recordings import GAINS
from utils.cli import UserError
from utils.files import read_json

# The flat arrays of each kind of annotation.
ARRAYS = {
    "beats": {"beat_ends": "<i4", "beat_codes": "i1"},
    "rhythms": {"rhythm_ends": "<i4", "rhythm_codes": "i1"},
}
COLUMNS = {
    "patient": "i4", "path": "S", "samples": "i8", "gain": "f8", "baseline": "i4", "mapped": "?",
    "offset": "i8", "annotated": "?", "constant": "?", "clipped": "?", "beats": "i8",
    "rhythms": "i8", "first_beats": "i8", "first_rhythms": "i8",
}  # fmt: skip
# What `index.json` says, and of each segment that was left out.
ABOUT = {"beats": int, "rhythms": int, "patients": list, "complete": bool, "watched": dict,
         "left_out": list}  # fmt: skip
LEFT_OUT = {"record": str, "patient": int, "reason": str, "sizes": list}
DTYPES = {name: dtype for arrays in ARRAYS.values() for name, dtype in arrays.items()}


class AnnotationIndex:
    """An index that has been built.

    Raises:
        UserError, OSError, Unusable: there is none, or it cannot be one that was built here.

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
        # A plain array, though mapped: NumPy is slower with its own class of mapped ones.
        self.segments = np.asarray(admit.map_npy(folder / "segments.npy"))
        if not self._is_whole():
            raise UserError(f"{folder} is damaged; delete it")
        self.patients = set(self.about["patients"])
        self._headers = self.segments[list(Header._fields)]
        self.arrays = {
            name: self._map(folder / name, dtype, self.about[kind])
            for kind, arrays in ARRAYS.items()
            for name, dtype in arrays.items()
        }

    def _is_whole(self) -> bool:
        """Whether all is of its kind, the sums are right, and paths stay in the data set."""
        about, table = self.about, self.segments
        if not (_holds(about, ABOUT) and all(_holds(out, LEFT_OUT) for out in about["left_out"])):
            return False
        if table.ndim != 1 or table.dtype.names != tuple(COLUMNS):
            return False
        paths, gain = table["path"], table["gain"]
        if table.dtype != table_dtype(paths.dtype.itemsize):
            return False
        holds = [
            all(type(patient) is int for patient in about["patients"]),
            ~np.strings.startswith(paths, b"/"),
            np.strings.isalnum(np.strings.translate(paths, None, b"/_#")),  # no dots, and no NUL
            (table["samples"] > 0) & (table["offset"] >= 0),
            (gain >= GAINS[0]) & (gain <= GAINS[1]),
            np.diff(table["patient"]) >= 0,
        ]
        for kind, arrays in ARRAYS.items():
            first = np.cumsum(table[kind]) - table[kind]
            holds += [table[kind] >= 0, table[f"first_{kind}"] == first]
            holds += [table[kind].sum() == about[kind]]
            holds += [
                (self.folder / name).stat().st_size == about[kind] * np.dtype(dtype).itemsize
                for name, dtype in arrays.items()
            ]
        return all(map(np.all, holds))

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


def table_dtype(longest: int) -> np.dtype:
    """Of the rows of `segments`; `longest` is the length of paths."""
    return np.dtype([(n, f"S{longest}" if n == "path" else kind) for n, kind in COLUMNS.items()])


def _holds(values: Any, kinds: dict[str, type]) -> bool:
    """Whether these are the values of a dictionary, and more, it may be."""
    return isinstance(values, dict) and all(
        type(values.get(name)) is kind for name, kind in kinds.items()
    )


def _open_same(root: Path, folder: Path, about: dict[str, Any]) -> AnnotationIndex:
    """The index again, in another process."""
    index = AnnotationIndex(root, folder)
    if index.about != about:
        raise UserError(f"{folder} was built anew during the run; start again")
    return index
