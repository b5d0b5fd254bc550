"""Columns of numbers from a text file, in little more memory than they take."""

import csv
import re
from itertools import takewhile
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from utils.wfdb_io import Unusable, words

# What heads a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
ROWS = 2**18  # read at once
HEADER = 64  # lines above the numbers at most


def read_columns(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Columns of numbers, with names (or 0, 1, 2 …) and other lines above them or not.

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
            separator, columns, names = _read_first(file)
            values = _read_numbers(file, separator, columns)
        except (ValueError, OverflowError, csv.Error) as error:  # of decoding, too
            raise Unusable(f"not columns of numbers ({words(error)})") from None
    several = 1 < values.shape[1] < len(values)
    timed = several and ((names and TIME.fullmatch(names[0])) or _never_falls(values[:, 0]))
    first = 1 if timed else 0
    return values[:, first:], names and names[first:]


def _read_first(file: TextIO) -> tuple[str, int, list[str] | None]:
    """Separator and number of columns, and their names, if any; what is read next are numbers.

    Of the lines above the numbers, such as a watch's about itself, those with as many cells next to
    the numbers count: the first of them holds names, the others may hold units.
    """
    above: list[list[str]] = []
    for _ in range(HEADER):
        place = file.tell()
        line = file.readline()
        if line.startswith("#") or line.isspace():
            continue
        separator = next((mark for mark in ",;\t" if mark in line), " ")
        line = line.strip()
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if any(map(_is_number, cells)) and all(_is_number(cell) or not cell for cell in cells):
            break
        above.append(cells)
    else:
        raise ValueError(f"none in the first {HEADER} lines")
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return separator, len(cells), cells
    file.seek(place)
    alike = list(takewhile(lambda names: len(names) == len(cells), reversed(above)))
    names = [name.strip("'") for name in alike[-1]] if alike else None
    return separator, len(cells), names


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
