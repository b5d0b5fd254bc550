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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recordings.annotations import subject_of
from recordings.formats import Recording

PARTS = ("train", "val", "test")
# A folder or file of one subject, such as `patient001/s0010_re` in PTB or `sub-01` in BIDS.
OF_SUBJECT = re.compile(r"(^|/)((patient|subject)[-_ ]?\d+|sub-\w+)", re.IGNORECASE)


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

    def keep(self, chosen: np.ndarray | list[int]) -> "Listing":
        """The listing of the records with these indices."""
        arrays = {name: getattr(self, name) for name in ("records", "y", "parts", "patients")}
        return replace(self, **{n: a[chosen] for n, a in arrays.items() if a is not None})


def stated_subjects(files: dict[str, Path]) -> np.ndarray | None:
    """(records,) subjects of the recordings in `files`, by record, where names or WFDB headers say
    who they are; others count as one subject each. None if it is said of none."""
    subjects = {}
    for record, file in files.items():
        headed = file.suffix == ".hea" and file.is_file()
        header = file.read_text("utf-8", "replace") if headed else ""
        if match := OF_SUBJECT.search(record):
            subjects[record] = record[: match.end()]
        elif subject := subject_of("", Path(record).stem, header):  # in its folder's data set
            subjects[record] = str(Path(record).with_name(subject))
    return np.array([subjects.get(n, n) for n in files], np.str_) if subjects else None


def multi_hot(labels: Sequence[Collection[str]], classes: Sequence[str]) -> np.ndarray:
    """(records, classes) uint8: 1 where a record has a class; other labels are ignored."""
    return np.array([[name in present for name in classes] for present in labels], np.uint8)


# At the end, because the modules import what is defined above.
_names = [module.name for module in pkgutil.iter_modules(__path__)]
DATASETS = {name: importlib.import_module(f"{__name__}.{name}") for name in _names}
