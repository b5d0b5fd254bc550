"""Text files: a table of numbers, which pandas parses, below lines that may state rate and unit."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from recordings import MILLIVOLT, RATES, UNITS, Hints, LazyRecording, Unusable, as_unit, is_lead
from recordings.times import CLOCK, SECONDS, TIME, Column, clock_seconds, part_times, sampling

HEADER, SAMPLE = 200, 300  # lines above the numbers at most; lines that show how these are written
NUMBER = re.compile(r"[+-]?(\d+(\.\d*|,\d+)?|[.,]\d+|inf)(e[+-]?\d+)?", re.IGNORECASE)
MISSING = {"", "-", "--", "nan", "na", "n/a", "null", "none"}
STAMP = re.compile(r"[\d\s:.,/+\-tzapm\[\]']+", re.IGNORECASE)
# Cells that are parts of numbers with decimal commas, such as of `-0,25` or `1,05`.
DECIMALS = re.compile(r"(?:^|,)(?:[+-]?0\d+|-0)(?:,|$)")
# Titles: names of signals, beside those of leads and times; a name with its unit; other units.
SIGNAL = re.compile(r"(?i)(ch|channel|kanal|canal|signal|value|voltage|amplitude)[\W_]*\d*")
NAME_AND_UNIT = re.compile(r"(.{0,99}?)[\s_]?(?:[\[(]([^\])]{0,20})[\])]\W?|[\s_/]((?i:[mnuµμ]v)))")
OTHER = re.compile(r"(?i)c?mm?hg|cmh2o|k?pa|nu|bpm|rpm|%|g|k?ohms?|°?c|.*/.*|m?l")
# Lines in small letters that state a rate by name, any number of Hz, or the time of a sample.
VALUE = r"(\d{1,9}(?:[.,]\d{1,9})?) ?"
FREQUENCY = re.compile(rf"(?:sampl\w*[ _-]?(?:rate|freq\w*)|\bfs)\b[^\d-]{{0,20}}{VALUE}(k?)")
HERTZ = re.compile(rf"^(?!.*(?:filt|pass|notch|mains|band|cut)).*?{VALUE}(k?)(?:hz|hertz)\W*$")
PERIOD = re.compile(rf"^(?=.*(?:interval|period|(?:/| per )sample)\b).*?{VALUE}([mμu]?)s(?:ec)?\b")
PREFIX = {"k": 1e3, "": 1, "m": 1e-3, "u": 1e-6, "μ": 1e-6}


class NotARecording(Unusable):
    """A text file without a table of numbers, such as a list of labels or checksums."""


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names and other lines above them.

    Columns of times and counters are no leads; gaps in them are missing samples, and regular ones
    tell the rate, as do lines such as `Sample Rate,512 hertz`. The unit is told by `Unit,µV`, by
    `ECG (mV)` or by a line of units; where some columns are in volts, those in other units are left
    out, and the notes name them. Raises `Unusable`, `NotARecording` where there is no table.
    """
    with path.open(encoding=_encoding(path), errors="replace") as file:
        above, separator, decimal, kinds = _find_table(file)
        columns = _read_columns(file, separator, decimal, kinds, _titles(above, separator, kinds))
    fs, unit = _stated(above)
    columns, first, notes = _without_first_rows(columns)
    times, signals, digital = part_times(columns)
    leads, others = _part_units(signals)
    if others := digital + others:
        names = ", ".join(column.name or "a column without a name" for column in others)
        notes.append(f"{names[:200]} left out: no lead in uV, mV or V")
    fs, lost = sampling(times, fs or first, hints.fs)
    values = np.column_stack([column.values for column in leads])
    units = {as_unit(column.unit) for column in leads if column.unit} or {unit}
    if len(units) > 1 and units <= set(MILLIVOLT) and all(column.unit for column in leads):
        values *= [MILLIVOLT[as_unit(column.unit)] for column in leads]
        units = {"mV"}
    if times and (missing := lost.sum()):
        notes.append(f"{missing} samples are missing in gaps of the times")
        if missing > 10 * len(values):
            raise Unusable(f"{notes[-1]}, more than ten times those there are; split the file")
        places = np.arange(len(values)) + np.cumsum(lost)
        values = pd.DataFrame(values, places).reindex(range(places[-1] + 1)).to_numpy()
    stated = Hints(fs, units.pop() if len(units) == 1 and units <= set(UNITS) else None)
    recording = LazyRecording.of_values(values, hints, stated, [column.name for column in leads])
    if len(values) < RATES[0]:  # such as a table of answers
        raise NotARecording(f"{len(values)} samples are shorter than 1 s")
    return replace(recording, notes=tuple(notes))


def _encoding(path: Path) -> str:
    """UTF-16 if its mark is there, UTF-8, or else Latin-1."""
    with path.open("rb") as file:
        start = file.read(2**16)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    valid = "\ufffd" not in start[: start.rfind(b"\n") + 1].decode(errors="replace")
    return "utf-8-sig" if valid else "latin-1"


def _split(line: str, separator: str) -> list[str]:
    """The cells of a line, without the empty one behind a last separator."""
    line = line.strip("\r\n").removesuffix(separator)
    rows = [line.split()] if separator == " " else csv.reader([line], delimiter=separator)
    return [cell.strip(" '\"") for cell in next(iter(rows), [])]


def _kind(cell: str) -> str:
    if cell.casefold() in MISSING:
        return "missing"
    if NUMBER.fullmatch(cell):
        return "number"
    return "clock" if STAMP.fullmatch(cell) and CLOCK.search(cell[:99]) else "text"


def _is_row(cells: list[str], kinds: list[str]) -> bool:
    """Whether a line is written as others are, the last cell of which may be missing."""
    pairs = list(zip(map(_kind, cells), kinds, strict=False))
    alike = all("missing" in pair or pair[0] == pair[1] for pair in pairs)
    given = [cell for cell in cells if cell]  # pandas numbers columns that have no names
    numbered = len(cells) > 1 and given == [str(number) for number in range(len(given))]
    return alike and len(kinds) - len(cells) in (0, 1) and "number" in dict(pairs) and not numbered


def _find_table(file: TextIO) -> tuple[list[str], str, str, list[str]]:
    """Find the first line written as those in the middle are, and place the file there.

    Returns the lines above, what separates cells and decimals, and the kind of each column.
    """
    lines = [line.strip("\r\n") for line in file.readlines(2**22)[: HEADER + SAMPLE]]
    body = [line for line in lines[len(lines) // 2 :] if line.strip() and line[0] != "#"]
    separator = _separator(body)
    rows = [_split(line, separator) for line in body[-100:]]
    cells, width = [cell for row in rows for cell in row], max(map(len, rows), default=0)
    shown = [[_kind(cell) for cell in row] + ["missing"] * (width - len(row)) for row in rows]
    kinds = min(shown, key=lambda row: row.count("missing") + row.count("text"), default=[])
    fits = [_is_row(_split(line, separator), kinds) for line in lines[: HEADER + 1]]
    last = max((n for n, kind in enumerate(kinds) if kind in ("number", "clock")), default=0)
    if True not in fits or 2 * kinds[:last].count("text") > last:  # as in lists of labels
        raise NotARecording(f"no table of numbers in the first {HEADER} lines")
    start = fits.index(True)
    if separator == "," and not any("." in cell or "," in cell for cell in cells):
        # Whole numbers, unless names above, uneven lines or zeros show that commas are decimal.
        named = len(_split(lines[start - 1], ",")) if start else 0
        uneven = len(set(map(len, rows))) > 1 or any(map(DECIMALS.search, body))
        if uneven or (named < width and (named or width == 2)):
            said = f"{named} columns named, but {width} below; decimal commas?"
            raise Unusable(f"{said} Write points, or semicolons or tabs between columns")
    file.seek(0)
    for _ in range(start):
        file.readline()
    comma = any("," in cell and NUMBER.fullmatch(cell) for cell in cells)
    return lines[:start], separator, "," if comma else ".", kinds


def _separator(body: list[str]) -> str:
    """What separates cells; a tab, which is not there, for one column with decimal commas."""
    longest = max(body, key=len, default="")
    if "\t" in longest or ";" in longest:
        return "\t" if "\t" in longest else ";"
    words = longest.split()
    if "," not in longest or (len(words) > 1 and all(map(NUMBER.fullmatch, words))):
        return " "
    decimal = any("," not in line or DECIMALS.search(line) for line in body)
    return "\t" if decimal and all(NUMBER.fullmatch(line.strip()) for line in body) else ","


def _read_columns(
    file: TextIO, separator: str, decimal: str, kinds: list[str], titles: list[tuple[str, str]]
) -> list[Column]:
    """The columns of numbers and clocks that are not empty, from where the file is."""
    width = len(kinds)
    types = dict(enumerate(float if kind == "number" else str for kind in [*kinds, "missing"]))
    try:  # the column more than there are is for trailing separators
        frame = pd.read_csv(
            file, sep=r"\s+" if separator == " " else separator, header=None,
            names=range(width + 1), decimal=decimal, skipinitialspace=True, comment="#",
            dtype=types if len(set(kinds)) > 1 else np.float64,  # far faster for wide tables
            na_values=["-", "--"], skip_blank_lines=width > 1,
        )  # fmt: skip
    except ValueError:  # the message of which would show the text
        raise Unusable("unreadable numbers (text among them)") from None
    if width == 1:  # a blank line among them is a missing sample, unless every other line is blank
        frame = frame[: (frame[0].last_valid_index() or 0) + 1]
        frame = frame[::2] if len(frame) > 2 and frame[0][1::2].isna().all() else frame
    if frame[width].notna().any():
        raise Unusable("lines with more cells than those above them")
    if len(frame) < width:  # a line for each lead
        rows = frame.loc[:, [kind == "number" for kind in kinds] + [False]].to_numpy(np.float64)
        return [Column("", "", row) for row in rows]
    columns = []
    for number, (name, unit) in enumerate(titles):
        if kinds[number] == "clock":
            columns.append(Column(name, "s", clock_seconds(frame[number])))
        elif kinds[number] != "text":
            values = pd.to_numeric(frame[number], errors="coerce").to_numpy(np.float64)
            columns.append(Column(name, unit, values))
    return [column for column in columns if not np.isnan(column.values).all()]


def _titles(above: list[str], separator: str, kinds: list[str]) -> list[tuple[str, str]]:
    """Name and unit of each column, "" where there is none; a line of units may follow names.

    A line is names only where a word of it is known (time, ECG, aVR, channel 1, a unit), as the
    name of a patient must not become one of a lead.
    """
    width, units = len(kinds), [""] * len(kinds)
    for number, line in enumerate(above, 1):
        described = re.fullmatch(r"(\d{1,3}) channels?\W*", line)  # AcqKnowledge: name, unit, …
        count = int(described[1]) if described else 0
        if 0 < count <= width and len(above) >= number + 2 * count:
            texts = [text.strip(" ,;\t") for text in above[number : number + 2 * count]]
            return [("", "")] * (width - count) + list(zip(texts[::2], texts[1::2], strict=True))
    for line in reversed(above):
        cells = _cells_above(line, separator, width)
        if {"number", "clock"} & set(map(_kind, cells)):
            continue
        plain = [re.sub(r"^[\d.]+ ", "", cell).strip("[]() ") for cell in cells]  # of `10 mV`
        is_unit = [as_unit(cell) in MILLIVOLT or cell.casefold() in SECONDS for cell in plain]
        leads = [is_lead(cell) for cell in cells]
        if any(is_unit) and not any(np.greater(leads, is_unit)):  # V is a lead's name, too
            units = plain
            continue
        split = [NAME_AND_UNIT.fullmatch(cell) for cell in cells]
        parts = [(match[1], match[2] or match[3] or "") if match else (cell, "")
                 for match, cell in zip(split, cells, strict=True)]  # fmt: skip
        known = any(TIME.fullmatch(cell) or SIGNAL.fullmatch(cell) for cell in cells)
        if known or any(leads) or any(as_unit(unit) in MILLIVOLT for _, unit in parts):
            return [(name, unit or own) for unit, (name, own) in zip(units, parts, strict=True)]
    return [("", unit) for unit in units]


def _cells_above(line: str, separator: str, width: int) -> list[str]:
    """The cells of a line above as many columns, whatever separates them; else []."""
    if width == 1 and re.search("[,;:=]", line):  # `Lead,Lead I`
        return []
    blanks = re.sub(" {2,}", "\t", line.strip("# "))
    for mark, text in ((separator, line.strip("# ")), *((mark, blanks) for mark in "\t;,")):
        cells = _split(text, mark)
        if width - len(cells) in (0, 1):
            return cells + [""] * (width - len(cells))
    return []


def _stated(above: list[str]) -> tuple[float | None, str | None]:
    """Rate in Hz and unit of volts that lines state, None unless all state the same."""
    rates, units = set(), set()
    for line in (line[:500].casefold().strip(" #'\"]),;\t") for line in above):
        for pattern, power in ((FREQUENCY, 1), (HERTZ, 1), (PERIOD, -1)):
            if (match := pattern.search(line)) and (value := float(match[1].replace(",", "."))):
                fs = (value * PREFIX[match[2]]) ** power
                fs = round(fs) if power < 0 and abs(fs - round(fs)) < 1e-4 * fs else fs  # 3.3333 ms
                rates |= {fs} if RATES[0] <= fs <= RATES[1] else set()
        words = re.split(r"[,;:=\t(\[]+| in ", line)
        unit = as_unit(words[-1])
        if len(words) < 3 and unit in MILLIVOLT and (unit != "V" or "unit" in line):
            units.add(unit)
    return (rates.pop() if len(rates) == 1 else None), (units.pop() if len(units) == 1 else None)


def _without_first_rows(columns: list[Column]) -> tuple[list[Column], float | None, list[str]]:
    """Leave out up to three first rows that are no samples: the number of samples, or far outside
    of all others, as a start time or a rate, which is returned; and note them."""
    values = np.column_stack([column.values[:10_003] for column in columns])
    if len(values) < 3 + RATES[0]:
        return columns, None, []
    low, high = np.nanpercentile(values[3:], [1, 99], axis=0)
    whole = (values[3:] == np.rint(values[3:])).all()  # in such units first samples may be far off
    far = np.where((high > low) & ~whole, 5 * (high - low), np.inf)
    first, fs = 0, None
    for number, row in enumerate(values[:3]):
        count = np.abs(row - len(columns[0].values) + number + 1) <= 1
        count &= (row < low) | (row > high)
        odd = count | (row < low - far) | (row > high + far)
        if odd.any() and (odd | np.isnan(row)).all():
            first = number + 1
            if len(row) == 1 and RATES[0] <= row[0] <= RATES[1] and not count.all():
                fs = float(row[0])
    columns = [column._replace(values=column.values[first:]) for column in columns]
    numbers = ", ".join(f"{value:g}" for value in values[:first].ravel())
    said = f"first lines that are no samples are left out: {numbers}"
    return columns, fs, [said[:200]] if first else []


def _part_units(signals: list[Column]) -> tuple[list[Column], list[Column]]:
    """Part signals into leads and others: where some are in volts, only these and what is named as
    a lead are leads; else all but those in units that are known to be no voltage."""
    volts = [as_unit(signal.unit) in MILLIVOLT for signal in signals]
    leads, others = [], []
    for signal, volt in zip(signals, volts, strict=True):
        may_be = not signal.unit and is_lead(signal.name)
        fits = volt or may_be if any(volts) else not OTHER.fullmatch(signal.unit)
        (leads if fits else others).append(signal)
    if not leads:
        raise NotARecording("no column is in uV, mV or V")
    return leads, others
