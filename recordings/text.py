"""Columns of numbers from a text file, in little more memory than they take."""

import csv
import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd

from recordings import Unusable
from recordings.lazy import as_unit
from recordings.wfdb_files import MILLIVOLT, RATES, words

# What heads a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
# Lines above the numbers, as watches write them. A name of a time tells its unit by these words.
STATED = {
    "rate": re.compile(
        r"\W{0,9}(?:sampl\w{0,9}[ _-]?(?:rate|freq\w{0,9})|fs)[^\w-]{0,3}(?:hz|hertz)?[^\w-]{0,3}"
        r"(\d{1,9}\.?\d{0,9}) ?(?:hz|hertz)?\W{0,9}",
        re.IGNORECASE,
    ),
    "unit": re.compile(r"\W{0,9}units?\W{1,3}(\w{1,9})\W{0,9}", re.IGNORECASE),
}
SECONDS = {"": 1.0} | dict.fromkeys(("s", "sec", "second", "seconds"), 1.0)
SECONDS |= dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3)
ROWS = 2**18  # read at once
HEADER = 64  # lines above the numbers at most
AGREE = 0.01  # two statements of one rate differ by less


class Columns(NamedTuple):
    """Numbers of a file, and what it says of them.

    Attributes:
        values: (rows, columns) float64, NaN where a cell is empty.
        names: of the columns, where there are any.
        fs: Hz. unit: of `utils.names.UNITS`. unsure: why there is no rate, though there are times.
    """

    values: np.ndarray
    names: list[str] | None
    fs: float | None
    unit: str | None
    unsure: str


class _Head(NamedTuple):
    """What is above the numbers: `units` of the columns, `stated` rate and unit as they stand.

    `near`: whether names may stand right above them.
    """

    separator: str
    columns: int
    names: list[str] | None
    units: list[str] | None
    stated: dict[str, str]
    near: bool


def read_columns(path: Path) -> Columns:
    """Columns of numbers, with names (or 0, 1, 2 …) and other lines above them or not.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is left out. Where its steps are regular it tells the rate, as do lines such as
    `Sample Rate,512 hertz`; `Unit,µV`, or a line of units below the names, tells the unit.

    Raises:
        Unusable: cannot be read, or holds something else.
        OSError, ValueError: cannot be opened.
    """
    with path.open(encoding="utf-8-sig") as file:
        try:
            head = _read_first(file)
            values = _read_numbers(file, head.separator, head.columns)
        except (ValueError, OverflowError, csv.Error) as error:  # of decoding, too
            raise Unusable(f"not columns of numbers ({words(error)})") from None
    names, several = head.names, 1 < values.shape[1] < len(values)
    timed = several and ((names and TIME.fullmatch(names[0])) or _never_falls(values[:, 0]))
    if not timed and not head.near and head.separator == "," and _like_decimals(values):
        raise Unusable("not columns of numbers (decimal commas? else name the columns)")
    first = 1 if timed else 0
    fs, unsure = _rate(head, values[:, 0] if timed else None)
    return Columns(values[:, first:], names and names[first:], fs, _unit(head, first), unsure)


def _read_first(file: TextIO) -> _Head:
    """What is read next are numbers.

    Of the lines above the numbers, such as a watch's about itself, those with as many cells next to
    the numbers count: the first of them holds names, the others may hold units.
    """
    above: list[list[str]] = []
    stated: dict[str, str] = {}
    near: list[str] = []  # right above
    for _ in range(HEADER):
        place = file.tell()
        line = file.readline()
        found = {name: match[1] for name, kind in STATED.items() if (match := kind.fullmatch(line))}
        stated = found | stated
        if found or line.startswith("#") or line.isspace():
            near = []
            continue
        separator = next((mark for mark in ",;\t" if mark in line), " ")
        line = line.strip()
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if any(map(_is_number, cells)) and all(_is_number(cell) or not cell for cell in cells):
            break
        near = [cell.strip("'") for cell in cells]
        above.append(near)
    else:
        raise ValueError(f"none in the first {HEADER} lines, with decimal points")
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return _Head(separator, len(cells), cells, None, stated, True)
    if near and separator == "," and len(near) < len(cells):
        raise ValueError(f"{len(near)} named, {len(cells)} in the line below; decimal commas?")
    file.seek(place)
    alike = list(takewhile(lambda names: len(names) == len(cells), reversed(above)))
    names, *units = alike[::-1] or [None]
    return _Head(separator, len(cells), names, units[0] if units else None, stated, bool(near))


def _rate(head: _Head, times: np.ndarray | None) -> tuple[float | None, str]:
    """Hz, or None and why, where there are `times`."""
    stated = float(head.stated["rate"]) if "rate" in head.stated else None
    if times is None:
        return stated, ""
    called = " ".join(row[0] for row in (head.names, head.units) if row)
    counted, unsure = _rate_of(times, called)
    if stated and counted and not np.isclose(stated, counted, rtol=AGREE):
        return None, f"above its numbers stand {stated:g} Hz, its times say {counted:g}"
    return stated or counted, unsure


def _rate_of(times: np.ndarray, called: str) -> tuple[float | None, str]:
    """Hz of times whose name, or the line below it, says s or ms; s where it says nothing."""
    said = set(re.findall(r"[^\W_]+", called.lower())) - {"elapsed", "time", "timestamp", "t"}
    scale = SECONDS.get(" ".join(sorted(said)))
    with np.errstate(all="ignore"):
        step = (times[-1] - times[0]) / (len(times) - 1)
        off = np.abs(times - times[0] - step * np.arange(len(times))).max()
        fs = 1 / (step * scale) if scale else 0
    if not off < step:  # but for the decimals that were not written
        return None, "the steps of its first column are irregular"
    if not RATES[0] <= fs <= RATES[1]:
        return None, "its first column does not count seconds"
    # As exact as the first and the last time; a whole number where it can be one.
    near = abs(fs - round(fs)) * len(times) <= fs * (2 * off / step + 1e-6)
    return (round(fs) if near else fs), ""


def _unit(head: _Head, first: int) -> str | None:
    """That all columns from the `first` on have."""
    named = {head.stated["unit"]} if "unit" in head.stated else set((head.units or [])[first:])
    found = as_unit(named.pop()) if len(named) == 1 else None
    return found if found in MILLIVOLT else None


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


def _like_decimals(values: np.ndarray) -> bool:
    """Whether these can be numbers at whose commas they were parted, some of them negative."""
    signed = values.shape[1] == 2 and values[:, 0].min() < 0 <= values[:, 1].min()
    return bool(signed and (values == np.rint(values)).all())


def _never_falls(values: np.ndarray) -> bool:
    """Times written with few decimals are equal at neighbours; those of a flat lead all are."""
    return values[0] < values[-1] and bool((values[:-1] <= values[1:]).all())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
