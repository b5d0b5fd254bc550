"""Text files: columns of numbers, which pandas parses, below lines that may state rate and unit."""

import csv
import re
from itertools import takewhile
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from recordings import MILLIVOLT, RATE_TOLERANCE, RATES, Hints, LazyRecording, Unusable, as_unit

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


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names (or 0, 1, 2 …) and other lines above them.

    A first column that is called so (`TIME`), or that rises and never falls, is time, or a count,
    and no lead: it is left out. Regular times tell the rate, as do lines such as
    `Sample Rate,512 hertz`; `Unit,µV`, or a line of units below the names, tells the unit. Raises
    `Unusable`, or an error of pandas, if the file holds something else.
    """
    with path.open(encoding="utf-8-sig") as file:
        separator, titles, fs, unit, adjacent = _header(file)
        values = pd.read_csv(
            file, sep=r"\s+" if separator == " " else separator, header=None, comment="#",
            skipinitialspace=True, dtype=np.float64,
        ).to_numpy()  # fmt: skip
    names, units, *_ = [*titles, None, None]
    time, leads = values[:, 0], values.shape[1]
    # Times written with few decimals are equal at neighbours; those of a flat lead all are.
    rises = time[0] < time[-1] and (time[:-1] <= time[1:]).all()
    timed = 1 < leads < len(values) and (rises or bool(names and TIME.fullmatch(names[0])))
    if not timed and not adjacent and separator == "," and leads == 2:
        signed = time.min() < 0 <= values[:, 1].min()
        if signed and (values == np.rint(values)).all():
            raise Unusable("not columns of numbers (decimal commas? else name the columns)")
    first = int(timed)
    distinct = {unit} if unit else set((units or [])[first:])
    unit = as_unit(distinct.pop()) if len(distinct) == 1 else None
    fs = _rate(titles, fs, time, hints.fs) if timed else fs
    stated = Hints(fs, unit if unit in MILLIVOLT else None)
    return LazyRecording.of_values(values[:, first:], hints, stated, names and names[first:])


def _header(file: TextIO) -> tuple[str, list[list[str]], float | None, str | None, bool]:
    """Read up to the first number: separator, titles, rate in Hz and unit that lines of their own
    state, and whether there is text right above the numbers.

    Titles are the lines right above the numbers with as many cells: names, then perhaps units.
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
        raise Unusable(f"no numbers, with decimal points, in the first {HEADER} lines")
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return separator, [cells], fs, unit, True
    if adjacent and separator == "," and len(above[-1]) < len(cells):
        raise Unusable(f"{len(above[-1])} columns named, but {len(cells)} below; decimal commas?")
    file.seek(place)
    titles = list(takewhile(lambda row: len(row) == len(cells), reversed(above)))[::-1]
    return separator, titles, fs, unit, adjacent


def _is_number(text: str) -> bool:
    try:
        return float(text) is not None
    except ValueError:
        return False


def _rate(
    titles: list[list[str]], stated: float | None, times: np.ndarray, hint: float | None
) -> float | None:
    """Sampling rate in Hz, as `stated` above the numbers or else as the times tell it.

    The title of the times may tell their unit; otherwise it is seconds. Raises `Unusable` without
    a rate, or with two different ones, unless there is a `hint` from the user.
    """
    title = " ".join(row[0] for row in titles[:2]).lower()
    unit = set(re.findall(r"[^\W_]+", title)) - {"elapsed", "time", "timestamp", "t"}
    with np.errstate(all="ignore"):
        step = (times[-1] - times[0]) / (len(times) - 1)
        deviation = np.abs(times - times[0] - step * np.arange(len(times))).max()
        fs = 1 / (step * SECONDS.get(" ".join(sorted(unit)), np.nan))
    # As exact as the first and the last time; a whole number where it can be one.
    if abs(fs - np.rint(fs)) * len(times) <= fs * (2 * deviation / step + 1e-6):
        fs = round(fs)
    if not deviation < step:  # but for the decimals that were not written
        problem = "the steps of its first column are irregular"
    elif not RATES[0] <= fs <= RATES[1]:
        problem = "its first column does not count seconds"
    elif not stated or np.isclose(stated, fs, rtol=RATE_TOLERANCE):
        return stated or fs
    else:
        problem = f"above its numbers stand {stated:g} Hz, its times say {fs:g}"
        stated = None
    if not stated and not hint:
        raise Unusable(f"file without a sampling rate ({problem}); give --fs")
    return stated
