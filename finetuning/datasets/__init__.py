"""Labelled data sets: each module of this package is one of them, under the module's name.

To add a data set, add a module that defines

    PREFIX           beginning of the names of the files that are written by default
    MEAN_MV, SD_MV   mean and standard deviation in mV, a value for each lead, or None: measured
    FLAGS            flags of `finetuning.prepare`: name to arguments of `add_argument`
    read_listing     takes the values of FLAGS by name, returns a `Listing`
"""

import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import ModuleType

import numpy as np

from recordings.annotations import SUBJECT_IN_HEADER
from recordings.formats import Recording

PARTS = ("train", "val", "test")
# Parts of names that say whom a recording is of: `data_84_2` in CPSC 2021, `118e06` in NSTDB,
# `patient001/s0010_re` in PTB, `sub-01` in BIDS. Other names of files may mean anything.
SUBJECT_NAME = re.compile(
    r"(^|/)(data_\d+(?=_\d+$)|11[89](?=e[_\d]\d$)|(patient|subject)[-_ ]?\d+|sub-\w+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Listing:
    """Records and labels of a data set, before any signal is read."""

    records: np.ndarray  # (records,) unique names; the other arrays are in the same order
    y: np.ndarray  # (records, classes) uint8 of 0 and 1; `prepare` leaves records without 1 out
    classes: tuple[str, ...]  # in the order of the columns of `y`
    read: Callable[[str], Recording]  # the recording of a name; raises `recordings.Unusable`
    labels: str  # version of the labels
    checksums: dict[str, str]  # SHA-256 of the files that were read, by name
    multi_label: bool = False  # whether a record may have several classes, or none
    leads: tuple[str, ...] | None = None  # to write, in order; by default those of the first record
    parts: np.ndarray | None = None  # (records,) of `PARTS`, if the set comes with a split
    patients: np.ndarray | None = None  # (records,) names, if known; no split separates a patient's
    tolerated: float = 1.0  # largest share of records that may be left out
    padtype: str = "line"  # how resampling extends a signal beyond its ends

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of records of each class."""
        return dict(zip(self.classes, self.y.sum(0, dtype=int).tolist(), strict=True))

    def separated(self) -> str | None:
        """A patient whose records are in several parts of the split, if there is one."""
        pairs = set(zip(self.patients.tolist(), self.parts.tolist(), strict=True))
        name, parts = Counter(patient for patient, _ in pairs).most_common(1)[0]
        return name if parts > 1 else None

    def keep(self, chosen: np.ndarray | list[int]) -> "Listing":
        """The listing of the records with these indices."""
        arrays = {name: getattr(self, name) for name in ("records", "y", "parts", "patients")}
        return replace(self, **{n: a[chosen] for n, a in arrays.items() if a is not None})


def stated_subjects(headers: dict[str, str]) -> np.ndarray | None:
    """(records,) whom the recordings are of, where headers (text by name of the record, "" for
    none) or names say so; others count as one subject each. None if it is said of none."""
    subjects = []
    for record, header in headers.items():
        path = PurePosixPath(record)
        match = SUBJECT_NAME.search(str(path.with_suffix("")))
        lines = (SUBJECT_IN_HEADER.fullmatch(line.strip()) for line in header.splitlines())
        line = next(filter(None, lines), None)
        # A number in a header is one of a data set, hence of a folder.
        subjects.append(f"{path.parent}: {line[1]}" if line else match and record[: match.end()])
    if not any(subjects):
        return None
    return np.array([s or record for s, record in zip(subjects, headers, strict=True)], np.str_)


def multi_hot(labels: Sequence[Collection[str]], classes: Sequence[str]) -> np.ndarray:
    """(records, classes) uint8: 1 where a record has a class; other labels are ignored."""
    return np.array([[name in present for name in classes] for present in labels], np.uint8)


# At the end, because the modules import what is defined above.
DATASETS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}
