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
RATE = re.compile(
    r"\W{0,9}(?:sampl\w{0,9}[ _-]?(?:rate|freq\w{0,9})|fs)[^\w-]{0,3}(?:hz|hertz)?[^\w-]{0,3}"
    r"(\d{1,9}\.?\d{0,9}) ?(?:hz|hertz)?\W{0,9}",
    re.IGNORECASE,
)
UNIT = re.compile(r"\W{0,9}units?\W{1,3}(\w{1,9})\W{0,9}", re.IGNORECASE)
# Seconds of a unit of time, by the words that may follow `time` in a name.
SECONDS = dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0)
SECONDS |= dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3)
HEADER = 64  # lines above the numbers at most


class _Header(NamedTuple):
    """What is above the numbers: `titles` of the columns (names, then units, as far as there are
    any), and the rate and unit that lines of their own state. `adjacent`: whether there is text
    right above the numbers."""

    separator: str
    columns: int
    titles: list[list[str]]
    fs: float | None
    unit: str | None
    adjacent: bool


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names (or 0, 1, 2 …) and other lines above them.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is left out. Regular times tell the rate, as do lines such as
    `Sample Rate,512 hertz`; `Unit,µV`, or a line of units below the names, tells the unit.

    Raises:
        Unusable: the file holds something else, or rate and unit are not known.
    """
    with path.open(encoding="utf-8-sig") as file:
        try:
            header = _read_header(file)
            values = pd.read_csv(
                file, sep=r"\s+" if header.separator == " " else header.separator, header=None,
                comment="#", skipinitialspace=True, dtype=np.float64,
            ).to_numpy()  # fmt: skip
            if values.shape[1] != header.columns:
                raise ValueError(f"{header.columns} in the first line, {values.shape[1]} below")
        except (ValueError, OverflowError, csv.Error) as error:  # of decoding, too
            raise Unusable(f"not columns of numbers ({one_line(error)})") from None
    names, units, *_ = [*header.titles, None, None]
    time, leads = values[:, 0], values.shape[1]
    # Times written with few decimals are equal at neighbours; those of a flat lead all are.
    rises = time[0] < time[-1] and (time[:-1] <= time[1:]).all()
    timed = 1 < leads < len(values) and (rises or bool(names and TIME.fullmatch(names[0])))
    if not timed and not header.adjacent and header.separator == "," and leads == 2:
        signed = time.min() < 0 <= values[:, 1].min()
        if signed and (values == np.rint(values)).all():
            raise Unusable("not columns of numbers (decimal commas? else name the columns)")
    first = int(timed)
    different = {header.unit} if header.unit else set((units or [])[first:])
    unit = as_unit(different.pop()) if len(different) == 1 else None
    fs = _rate(header, time, hints.fs) if timed else header.fs
    stated = Hints(fs, unit if unit in MILLIVOLT else None)
    return recording_of_values(values[:, first:], hints, stated, names and names[first:])


def _read_header(file: TextIO) -> _Header:
    """Read up to the first number.

    Of the lines above the numbers, such as a watch's about itself, those right above them with as
    many cells count: the first of these holds names, the second may hold units.
    """
    above: list[list[str]] = []
    fs = unit = None
    adjacent = False
    for _ in range(HEADER):
        place = file.tell()
        line = file.readline()
        rate_line, unit_line = RATE.fullmatch(line), UNIT.fullmatch(line)
        fs = fs or (float(rate_line[1]) if rate_line else None)
        unit = unit or (unit_line[1] if unit_line else None)
        if rate_line or unit_line or line.startswith("#") or line.isspace():
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
        return _Header(separator, len(cells), [cells], fs, unit, True)
    if adjacent and separator == "," and len(above[-1]) < len(cells):
        raise ValueError(f"{len(above[-1])} named, {len(cells)} in the line below; decimal commas?")
    file.seek(place)
    titles = list(takewhile(lambda row: len(row) == len(cells), reversed(above)))[::-1]
    return _Header(separator, len(cells), titles, fs, unit, adjacent)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rate(header: _Header, times: np.ndarray, hint: float | None) -> float | None:
    """Sampling rate in Hz, as the header states it or else as the times tell it.

    The title of the times may tell their unit; otherwise it is seconds.

    Raises:
        Unusable: no rate, or two different ones, and no `hint` from the user.
    """
    title = " ".join(row[0] for row in header.titles[:2]).lower()
    unit = set(re.findall(r"[^\W_]+", title)) - {"elapsed", "time", "timestamp", "t"}
    with np.errstate(all="ignore"):
        step = (times[-1] - times[0]) / (len(times) - 1)
        deviation = np.abs(times - times[0] - step * np.arange(len(times))).max()
        fs = 1 / (step * SECONDS.get(" ".join(sorted(unit)), np.nan))
    # As exact as the first and the last time; a whole number where it can be one.
    if abs(fs - np.rint(fs)) * len(times) <= fs * (2 * deviation / step + 1e-6):
        fs = round(fs)
    doubt, stated = "", header.fs
    if not deviation < step:  # but for the decimals that were not written
        doubt = "the steps of its first column are irregular"
    elif not RATES[0] <= fs <= RATES[1]:
        doubt = "its first column does not count seconds"
    elif stated and not np.isclose(stated, fs, rtol=RATE_TOLERANCE):
        doubt = f"above its numbers stand {stated:g} Hz, its times say {fs:g}"
        stated = None
    if doubt and not stated and not hint:
        raise Unusable(f"file without a sampling rate ({doubt}); give --fs, in a table a column fs")
    return stated or (None if doubt else fs)
