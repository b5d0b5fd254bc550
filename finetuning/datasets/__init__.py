"""Labelled data sets: each module of this package is one of them, under the module's name.

To add a data set, add a module that defines

    PREFIX           beginning of the names of the files that are written by default
    MEAN_MV, SD_MV   mean and standard deviation of the signals in mV, one value for each lead;
                     None if they are to be measured on the training part
    FLAGS            flags of `finetuning.prepare` that the data set needs: name to arguments of
                     `add_argument`
    read_listing     takes the values of FLAGS by name, returns a `Listing`
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from recordings import one_line
from recordings.formats import Recording
from utils.cli import UserError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Listing:
    """Records and labels of a data set, before any signal is read."""

    records: np.ndarray  # (records,) unique names; the other arrays are in the same order
    y: np.ndarray  # (records, classes) uint8 of 0 and 1
    classes: tuple[str, ...]  # in the order of the columns of `y`
    read: Callable[[str], Recording]  # the recording of a name; raises `recordings.Unusable`
    labels: str  # version of the labels
    checksums: dict[str, str]  # SHA-256 of the files that were read, by name
    multi_label: bool = False  # whether a record may have several classes, or none
    leads: tuple[str, ...] | None = None  # to write, in order; by default those of the first record
    parts: np.ndarray | None = None  # (records,) of `PARTS`, if the set comes with a split
    patients: np.ndarray | None = None  # (records,) names, if known; no split separates a patient's
    left_out: list[dict[str, Any]] = field(default_factory=list)  # as in `utils.manifest`
    beyond: str = "line"  # how resampling extends a signal beyond its ends: scipy's `padtype`

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of records of each class."""
        return dict(zip(self.classes, self.y.sum(0, dtype=int).tolist(), strict=True))

    def keep(self, chosen: np.ndarray | list[int], **changes: Any) -> "Listing":
        """The listing of the records with these indices (or this mask), with other `changes`."""
        arrays = {name: getattr(self, name) for name in ("records", "y", "parts", "patients")}
        kept = {name: None if v is None else v[chosen] for name, v in arrays.items()}
        return replace(self, **kept, **changes)


def multi_hot(labels: Sequence[Collection[str]], classes: Sequence[str]) -> np.ndarray:
    """(records, classes) uint8: 1 where a record has a class; other labels are ignored."""
    return np.array([[name in present for name in classes] for present in labels], np.uint8)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file with a header line; all cells are text, stripped of blanks.

    Raises:
        UserError: the file is not a CSV file, holds a NUL, has no rows or lacks one of `columns`, a
            column name occurs twice, or a row has more cells than the header.
    """
    if b"\0" in path.read_bytes():  # NumPy would drop it from the end of a text
        raise UserError(f"{path} holds a NUL; write the table anew")
    try:  # read without a header, pandas refuses rows that are longer than the first
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig",
            skipinitialspace=True,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path} is not a CSV file ({one_line(error)})") from None
    cells = cells.apply(lambda column: column.str.strip())
    names = [name or f"column {number}" for number, name in enumerate(cells.iloc[0], 1)]
    table = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}, only: {', '.join(names)}")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise UserError(f"{path} names the column {repeated[0]} more than once; keep one of them")
    if table.empty:
        raise UserError(f"{path} has no rows; list a recording in each")
    return table


# At the end, because the modules import what is defined above.
DATASETS: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
}
