"""Columns of numbers from a text file, in little more memory than they take."""

import csv
import re
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from utils.wfdb_io import Unusable, words

# What heads a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
ROWS = 2**18  # read at once


def read_columns(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Columns of numbers, with a line of names (or of 0, 1, 2 …) above them or not.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is left out.

    Returns:
        (rows, columns) float64, and their names; NaN where a cell is empty.

    Raises:
        Unusable: cannot be read, or holds something else.
        OSError, ValueError: cannot be opened.
    """
    with path.open(encoding="utf-8-sig") as file:
        try:
            separator, cells, named = _read_first(file)
            values = _read_numbers(file, separator, len(cells))
        except (ValueError, OverflowError, csv.Error) as error:  # of decoding, too
            raise Unusable(f"not columns of numbers ({words(error)})") from None
    several = 1 < values.shape[1] < len(values)
    timed = several and ((named and TIME.fullmatch(cells[0])) or _never_falls(values[:, 0]))
    first = 1 if timed else 0
    return values[:, first:], cells[first:] if named else None


def _read_first(file: TextIO) -> tuple[str, list[str], bool]:
    """Separator and cells of the first line, and whether they are names; numbers stay unread."""
    place, line = 0, "#"
    while line.startswith("#") or line.isspace():
        place = file.tell()
        line = file.readline()
    line = line.strip()
    separator = next((mark for mark in ",;\t" if mark in line), " ")
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    named = not all(map(_is_number, cells))
    counted = len(cells) > 1 and cells == [str(place) for place in range(len(cells))]
    if not named and not counted:
        file.seek(place)
    return separator, cells, named


def _read_numbers(file: TextIO, separator: str, columns: int) -> np.ndarray:
    values = np.empty((0, columns))
    for rows in pd.read_csv(
        file, sep=r"\s+" if separator == " " else separator, header=None, comment="#",
        skipinitialspace=True, dtype=np.float64, chunksize=ROWS,
    ):  # fmt: skip
        if rows.shape[1] != columns:
            raise ValueError(f"{columns} in the first line, {rows.shape[1]} below")
        values.resize((len(values) + len(rows), columns), refcheck=False)  # where it is
        values[-len(rows) :] = rows
    return values


def _never_falls(values: np.ndarray) -> bool:
    """Times written with few decimals are equal at neighbours; those of a flat lead all are."""
    return values[0] < values[-1] and bool((values[:-1] <= values[1:]).all())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
