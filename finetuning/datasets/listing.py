"""What the readers of all data sets hand over: their records and labels, before any signal."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recordings import one_line
from recordings.formats import Recording
from utils.cli import UserError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Listing:
    """A copy of a data set; all arrays are in the order of its records.

    Attributes:
        records: (records,) names, each once.
        y: (records, classes) uint8 of 0 and 1.
        classes: in the order of the columns.
        read: the recording of a name; raises `recordings.Unusable`.
        labels: which version of the labels.
        checksums: SHA-256 of what was read, by name.
        multi_label: whether a record may have several classes, or none.
        leads: names in the order wanted; by default those of the first record.
        parts: (records,) of `PARTS`, where the set comes with a split.
        patients: (records,) names, where they are known; a split keeps a patient's together.
        left_out: records that cannot be used, as in `utils.manifest`.
        beyond: what resampling takes a signal for beyond its ends, as scipy's `padtype`.
    """

    records: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[str], Recording]
    labels: str
    checksums: dict[str, str]
    multi_label: bool = False
    leads: tuple[str, ...] | None = None
    parts: np.ndarray | None = None
    patients: np.ndarray | None = None
    left_out: list[dict[str, Any]] = field(default_factory=list)
    beyond: str = "line"

    def keep(self, chosen: np.ndarray | list[int], **changes: Any) -> "Listing":
        """The records numbered `chosen` only, and other `changes`."""
        arrays = {name: getattr(self, name) for name in ("records", "y", "parts", "patients")}
        kept = {name: None if v is None else v[chosen] for name, v in arrays.items()}
        return replace(self, **kept, **changes)


def multi_hot(labels: Sequence[Collection[str]], classes: Sequence[str]) -> np.ndarray:
    """(records, classes) uint8: which of `classes` each record has; others are not counted."""
    return np.array([[name in own for name in classes] for own in labels], np.uint8)


def read_table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file with a line of names, all cells as text without blanks around it.

    Raises:
        UserError: not such a file, without rows or one of the `needed` columns, with a name that
            occurs twice, a row with more cells than names, or a NUL.
    """
    cells = _read_cells(path)
    names = [name or f"column {place + 1}" for place, name in enumerate(cells.iloc[0])]
    table = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    missing = [name for name in needed if name not in table]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}, only: {', '.join(names)}")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise UserError(f"{path} names the column {repeated[0]} more than once; keep one of them")
    if table.empty:
        raise UserError(f"{path} has no rows; list a recording in each")
    return table


def _read_cells(path: Path) -> pd.DataFrame:
    """All lines, that of the names included: each later one may have as many cells, or fewer."""
    try:
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig",
            skipinitialspace=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; download or write it") from None
    except ValueError as error:  # pandas' errors of parsing, too
        raise UserError(f"{path} is not a CSV file ({one_line(error)})") from None
    for cell in cells.to_numpy().flat:
        if "\0" in cell:  # no path holds one, and NumPy drops it from the end of a text
            raise UserError(f"{path}: {cell!r} holds a NUL; write the table anew")
    return cells.apply(lambda column: column.str.strip())
