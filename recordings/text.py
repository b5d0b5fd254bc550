"""Text files: columns of numbers, which pandas parses, below lines that may state rate and unit."""

import csv
import re
from itertools import takewhile
from math import isclose
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from recordings import MILLIVOLT, RATE_TOLERANCE, RATES, Hints, LazyRecording, Unusable, as_unit

# Names of a column that is no lead: `time`, `Time (s)`, `t_ms`, `'sample #'`.
TIME = re.compile(r"\W*(time|timestamp|t|sample|index)([\W_].*)?", re.IGNORECASE)
# Lines above the numbers, as watches write them.
RATE = re.compile(
    r"(?i)\W{0,9}(?:sampl\w{0,9}[ _-]?(?:rate|freq\w{0,9})|fs)[^\w-]{0,3}(?:hz|hertz)?[^\w-]{0,3}"
    r"(\d{1,9}\.?\d{0,9}) ?(?:hz|hertz)?\W{0,9}"
)
UNIT = re.compile(r"\W{0,9}units?\W{1,3}(\w{1,9})\W{0,9}", re.IGNORECASE)
# Seconds of a unit of time, by the words that may follow `time` in a name.
SECONDS = dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0)
SECONDS |= dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3)
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+|nan|inf)(e[+-]?\d+)?\s*", re.IGNORECASE)
HEADER = 64  # lines above the numbers at most


class NotARecording(Unusable):
    """A text file without a table of numbers, such as a list of labels or checksums."""


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names (or 0, 1, 2 …) and other lines above them.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead. Regular times tell the rate, as do lines such as `Sample Rate,512 hertz`;
    `Unit,µV`, or a line of units below the names, tells the unit.
    """
    with path.open(encoding="utf-8-sig") as file:
        separator, titles, cells_above, fs, unit = _read_header(file)
        values = pd.read_csv(
            file, sep=r"\s+" if separator == " " else separator, header=None, comment="#",
            skipinitialspace=True, dtype=np.float64,
        ).to_numpy()  # fmt: skip
    names, units, *_ = [*titles, [], []]
    first, columns = values[:, 0], values.shape[1]
    # Times written with few decimals are equal at neighbours; those of a flat lead all are.
    rises = first[0] < first[-1] and (first[:-1] <= first[1:]).all()
    timed = 1 < columns < len(values) and (rises or bool(names and TIME.fullmatch(names[0])))
    integers = columns == 2 and not timed and (values == np.rint(values)).all()
    decimals = integers and not cells_above and first.min() < 0 <= values[:, 1].min()
    if separator == "," and (0 < cells_above < columns or decimals):
        raise Unusable(f"{cells_above} columns named, but {columns} below; decimal commas?")
    if timed:
        of_times = _rate(" ".join(row[0] for row in titles[:2]), first)
        if of_times and not isclose(fs or of_times, of_times, rel_tol=RATE_TOLERANCE):
            fs = of_times = None
        fs = fs or of_times
        if not fs and not hints.fs:
            why = "the times are irregular, not in seconds, or not as the lines above say"
            raise Unusable(f"file without a sampling rate ({why}); give --fs")
        values, names, units = values[:, 1:], names[1:], units[1:]
    distinct = {unit} if unit else set(units)
    unit = as_unit(distinct.pop()) if len(distinct) == 1 else None
    stated = Hints(fs, unit if unit in MILLIVOLT else None)
    return LazyRecording.of_values(values, hints, stated, names)


def _read_header(file: TextIO) -> tuple[str, list[list[str]], int, float | None, str | None]:
    """Read up to the first number: separator, titles, cells in the line right above the numbers,
    rate in Hz and unit that lines of their own state.

    Titles are the last lines with as many cells as there are numbers: names, then perhaps units.
    """
    above, fs, unit = [[]], None, None
    for _ in range(HEADER):
        place, line, cells = file.tell(), file.readline(), []
        if match := RATE.fullmatch(line):
            fs = fs or float(match[1])
        elif match := UNIT.fullmatch(line):
            unit = unit or match[1]
        elif line.strip() and line[0] != "#":
            separator = next((mark for mark in ",;\t" if mark in line), " ")
            cells = next(csv.reader([line.strip()], delimiter=separator, skipinitialspace=True))
            if any(cells) and all(not cell or NUMBER.fullmatch(cell) for cell in cells):
                break
        above.append([cell.strip("'") for cell in cells])
    else:
        raise NotARecording(f"no numbers, with decimal points, in the first {HEADER} lines")
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return separator, [cells], len(cells), fs, unit
    file.seek(place)
    rows = [row for row in above if row]
    titles = list(takewhile(lambda row: len(row) == len(cells), reversed(rows)))[::-1]
    return separator, titles, len(above[-1]), fs, unit


def _rate(title: str, times: np.ndarray) -> float | None:
    """Sampling rate in Hz that regular times tell, in the unit of their title or in seconds."""
    unit = set(re.findall(r"[^\W_]+", title.lower())) - {"elapsed", "time", "timestamp", "t"}
    with np.errstate(all="ignore"):
        step = (times[-1] - times[0]) / (len(times) - 1)
        deviation = np.abs(times - times[0] - step * np.arange(len(times))).max()
        fs = 1 / (step * SECONDS.get(" ".join(sorted(unit)), np.nan))
    # As exact as the first and the last time; a whole number where it can be one.
    if abs(fs - np.rint(fs)) * len(times) <= fs * (2 * deviation / step + 1e-6):
        fs = round(fs)
    # Regular but for the decimals that were not written.
    return fs if deviation < step and RATES[0] <= fs <= RATES[1] else None
