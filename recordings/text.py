"""Text files: columns of numbers, which pandas parses, below lines that may state rate and unit."""

import csv
import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd

from recordings import (
    MILLIVOLT,
    RATE_TOLERANCE,
    RATES,
    Hints,
    LazyRecording,
    Unusable,
    as_unit,
    one_line,
    recording_of_values,
)

# Names of a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
# Lines above the numbers, as watches write them.
STATEMENTS = {
    "rate": re.compile(
        r"\W{0,9}(?:sampl\w{0,9}[ _-]?(?:rate|freq\w{0,9})|fs)[^\w-]{0,3}(?:hz|hertz)?[^\w-]{0,3}"
        r"(\d{1,9}\.?\d{0,9}) ?(?:hz|hertz)?\W{0,9}",
        re.IGNORECASE,
    ),
    "unit": re.compile(r"\W{0,9}units?\W{1,3}(\w{1,9})\W{0,9}", re.IGNORECASE),
}
# Seconds of a unit of time, by the words that may follow `time` in a name.
SECONDS = dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0)
SECONDS |= dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3)
HEADER = 64  # lines above the numbers at most


class _Header(NamedTuple):
    """What is above the numbers: `names` and `units` of the columns, and the rate and unit that
    lines of their own `state`; `adjacent` tells whether text stands right above the numbers."""

    separator: str
    columns: int
    names: list[str] | None
    units: list[str] | None
    stated: dict[str, str]
    adjacent: bool


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names (or 0, 1, 2 …) and other lines above them.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is left out. Regular times tell the rate, as do lines such as
    `Sample Rate,512 hertz`; `Unit,µV`, or a line of units below the names, tells the unit.

    Raises:
        Unusable: the file holds something else, or rate and unit are not known.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        try:
            header = _read_header(file)
            values = _read_numbers(file, header)
        except (ValueError, OverflowError, csv.Error) as error:  # of decoding, too
            raise Unusable(f"not columns of numbers ({one_line(error)})") from None
    names, several = header.names, 1 < values.shape[1] < len(values)
    timed = several and ((names and TIME.fullmatch(names[0])) or _never_falls(values[:, 0]))
    if not timed and not header.adjacent and header.separator == "," and _like_decimals(values):
        raise Unusable("not columns of numbers (decimal commas? else name the columns)")
    first = 1 if timed else 0
    fs, doubt = _rate(header, values[:, 0] if timed else None)
    unit, leads = _unit(header, first), names and names[first:]
    return recording_of_values(
        values[:, first:], path.suffix.lower(), hints, fs, unit, leads, doubt
    )


def _read_header(file: TextIO) -> _Header:
    """Read up to the first number.

    Of the lines above the numbers, such as a watch's about itself, those right above them with as
    many cells count: the first of these holds names, the second may hold units.
    """
    above: list[list[str]] = []
    stated: dict[str, str] = {}
    adjacent = False
    for _ in range(HEADER):
        place = file.tell()
        line = file.readline()
        matches = {name: rule.fullmatch(line) for name, rule in STATEMENTS.items()}
        new = {name: match[1] for name, match in matches.items() if match}
        stated = new | stated
        if new or line.startswith("#") or line.isspace():
            adjacent = False
            continue
        separator = next((mark for mark in ",;\t" if mark in line), " ")
        cells = next(csv.reader([line.strip()], delimiter=separator, skipinitialspace=True), [])
        if any(map(_is_number, cells)) and all(_is_number(cell) or not cell for cell in cells):
            break
        above.append([cell.strip("'") for cell in cells])
        adjacent = True
    else:
        raise ValueError(f"none in the first {HEADER} lines, with decimal points")
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return _Header(separator, len(cells), cells, None, stated, True)
    if adjacent and separator == "," and len(above[-1]) < len(cells):
        raise ValueError(f"{len(above[-1])} named, {len(cells)} in the line below; decimal commas?")
    file.seek(place)
    titles = list(takewhile(lambda row: len(row) == len(cells), reversed(above)))[::-1]
    names, units, *_ = [*titles, None, None]
    return _Header(separator, len(cells), names, units, stated, adjacent)


def _read_numbers(file: TextIO, header: _Header) -> np.ndarray:
    """(rows, columns) float64, NaN where a cell is empty."""
    separator = r"\s+" if header.separator == " " else header.separator
    values = pd.read_csv(
        file, sep=separator, header=None, comment="#", skipinitialspace=True, dtype=np.float64
    ).to_numpy()
    if values.shape[1] != header.columns:
        raise ValueError(f"{header.columns} in the first line, {values.shape[1]} below")
    return values


def _rate(header: _Header, times: np.ndarray | None) -> tuple[float | None, str]:
    """Hz, or None, and why there is none, although there are `times`."""
    stated = float(header.stated["rate"]) if "rate" in header.stated else None
    if times is None:
        return stated, ""
    called = " ".join(row[0] for row in (header.names, header.units) if row)
    counted, doubt = _rate_of(times, called)
    if stated and counted and not np.isclose(stated, counted, rtol=RATE_TOLERANCE):
        return None, f"above its numbers stand {stated:g} Hz, its times say {counted:g}"
    return stated or counted, doubt


def _rate_of(times: np.ndarray, called: str) -> tuple[float | None, str]:
    """Rate in Hz of times, whose name `called` may tell their unit; without one it is seconds."""
    unit = set(re.findall(r"[^\W_]+", called.lower())) - {"elapsed", "time", "timestamp", "t"}
    scale = SECONDS.get(" ".join(sorted(unit)))
    with np.errstate(all="ignore"):
        step = (times[-1] - times[0]) / (len(times) - 1)
        deviation = np.abs(times - times[0] - step * np.arange(len(times))).max()
        fs = 1 / (step * scale) if scale else 0
    if not deviation < step:  # but for the decimals that were not written
        return None, "the steps of its first column are irregular"
    if not RATES[0] <= fs <= RATES[1]:
        return None, "its first column does not count seconds"
    # As exact as the first and the last time; a whole number where it can be one.
    whole = abs(fs - round(fs)) * len(times) <= fs * (2 * deviation / step + 1e-6)
    return (round(fs) if whole else fs), ""


def _unit(header: _Header, first: int) -> str | None:
    """The one unit of all columns from the `first` on, if it is known."""
    if "unit" in header.stated:
        units = {header.stated["unit"]}
    else:
        units = set((header.units or [])[first:])
    unit = as_unit(units.pop()) if len(units) == 1 else None
    return unit if unit in MILLIVOLT else None


def _like_decimals(values: np.ndarray) -> bool:
    """Whether two columns may be numbers split at decimal commas, some of them negative."""
    signed = values.shape[1] == 2 and values[:, 0].min() < 0 <= values[:, 1].min()
    return bool(signed and (values == np.rint(values)).all())


def _never_falls(values: np.ndarray) -> bool:
    """Whether values rise, with equal neighbours at most (times written with few decimals)."""
    return values[0] < values[-1] and bool((values[:-1] <= values[1:]).all())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
