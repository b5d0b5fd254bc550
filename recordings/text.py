"""Text files: columns of numbers, which pandas parses, below lines that may state rate and unit.

The steps: find the numbers and how they are written, read them as named columns, leave out first
rows that are no samples, tell times and counters from leads, and find rate, gaps and units.
"""

import csv
import re
from dataclasses import replace
from itertools import zip_longest
from math import isclose
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pandas as pd

from recordings import (
    MILLIVOLT,
    RATES,
    UNITS,
    Hints,
    LazyRecording,
    Unusable,
    as_unit,
    is_lead,
    one_line,
    same_rate,
)

HEADER, SAMPLE = 200, 300  # lines above the numbers at most; lines that show how these are written
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+|inf)(e[+-]?\d+)?", re.IGNORECASE)
MISSING = {"", "-", "--", "nan", "na", "n/a", "null", "none"}
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")  # hours, minutes, seconds
STAMP = re.compile(r"[\d\s:.,/+\-tzapm\[\]']+", re.IGNORECASE)
# Lines of one number with a decimal comma, and what tells such a comma from a separator.
COMMA_NUMBER = r"[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?"
ONE_NUMBER, ROW = re.compile(COMMA_NUMBER), re.compile(rf"{COMMA_NUMBER}(\s+{COMMA_NUMBER})+")
DECIMALS = re.compile(r"(?:^|,)[+-]?0\d|(?:^|,)-0(?:,|$)")

# Names of columns that are no leads; with `SIGNAL` they tell a line of names from other lines.
TIME = re.compile(
    r"(?i)\W*(elapsed\W?)?(time|timestamp|t|sample|index|date|datetime|zeit|uhrzeit|tiempo|temps|"
    r"tempo|hora|clock|n?seq|counter|packet|frame|row)([\W_].*)?|.*timestamp.*"
)
SIGNAL = re.compile(r"(?i)(ch|channel|kanal|canal|signal|value|voltage|amplitude)[\W_]*\d*")
NAME_AND_UNIT = re.compile(r"(.*?)[\s_]*[\[(]([^\])]*)[\])]\W*|(.+)[\s_/]((?i:[mnuµμ]v))")
OTHER = re.compile(r"(?i)(c?mm?hg|cmh2o|k?pa|nu|bpm|rpm|%|g|k?ohms?|°?c|.*/.*|m?l)")  # units
SECONDS = {
    name: seconds
    for seconds, names in {
        1: "s sec secs second seconds", 1e-3: "ms msec msecs millisecond milliseconds",
        1e-6: "us μs usec microsecond microseconds", 1e-9: "ns nsec nanosecond nanoseconds",
        60: "min minute minutes",
    }.items() for name in names.split()
}  # fmt: skip

# Lines that state a rate: by its name or per second; as the time of a sample; any number of Hz.
VALUE = r"(\d{1,9}(?:[.,]\d{1,9})?) ?"
FREQUENCY = re.compile(
    rf"(?:sampl\w{{0,9}}[ _-]?(?:rate|freq\w{{0,9}})|\bfs)\b[^\d-]{{0,20}}{VALUE}(k?)"
    rf"|{VALUE}(k?)samples?(?:/| per )s"
)
PERIOD = re.compile(
    rf"(?:\binterval|sampl\w{{0,9}} period|\bdt)\b[^\d-]{{0,9}}{VALUE}([mμu]?)s"
    rf"|{VALUE}([mμu]?)s(?:ec)?(?:/| per )sample"
)
HERTZ = re.compile(rf"^(?!.*(?:filt|pass|notch|mains|band|cut)).*?{VALUE}(k?)(?:hz|hertz)\W*$")
PREFIX = {"k": 1e3, "": 1, "m": 1e-3, "u": 1e-6, "μ": 1e-6}


class NotARecording(Unusable):
    """A text file without a table of numbers, such as a list of labels or checksums."""


class Table(NamedTuple):
    """Where the numbers of a file are, and how they are written."""

    above: list[str]  # lines
    separator: str
    decimal: str
    kinds: list[str]  # of each column: number, clock, text or missing


class Column(NamedTuple):
    name: str
    unit: str  # "" if none is stated
    values: np.ndarray  # float64


def open_text(path: Path, hints: Hints) -> LazyRecording:
    """Read columns of numbers, with or without names and other lines above them.

    Columns of times (numbers that never fall, clock times, stamps) and counters are no leads. Gaps
    in them are missing samples; regular times tell the rate, as do lines such as `Sample Rate,512
    hertz`. The unit is told by `Unit,µV`, by `ECG (mV)` or by a line of units; where some columns
    are in volts, those in other units are left out, and the notes name them.
    """
    with path.open(encoding=_encoding(path), errors="replace") as file:
        table = _find_table(file)
        columns = _read_columns(file, table)
    fs, unit = _stated(table.above)
    columns, lone, notes = _without_first_rows(columns)
    times, leads, others = _classify(columns)
    if others:
        names = ", ".join(column.name or "a column without a name" for column in others)
        notes.append(f"{names[:200]} left out: no lead in uV, mV or V")
    fs = fs or lone
    fits = [(_rate(column, fit, hints.fs or fs), fit) for column in times if (fit := _fit(column))]
    of_times, fit = max(fits, key=lambda pair: bool(pair[0]), default=(None, None))
    if of_times:
        fs = (fs or of_times) if same_rate(fs or of_times, of_times) else None
    if times and not fs and not hints.fs:
        why = "the times are irregular, not in seconds, or not as the lines above say"
        raise Unusable(f"file without a sampling rate ({why}); give --fs")
    if times and not fit:
        notes.append("the times are irregular and not used")
    values = np.column_stack([column.values for column in leads])
    units = {as_unit(column.unit) for column in leads if column.unit} or {unit}
    if len(units) > 1 and units <= set(MILLIVOLT) and all(column.unit for column in leads):
        values *= [MILLIVOLT[as_unit(column.unit)] for column in leads]
        units = {"mV"}
    if fit and (lost := fit.lost.sum()):
        notes.append(f"{lost} samples are missing in gaps of the times")
        if lost > 10 * len(values):
            raise Unusable(f"{notes[-1]}, more than ten times those there are; split the file")
        places = np.arange(len(values)) + np.cumsum(fit.lost)
        values = pd.DataFrame(values, places).reindex(range(places[-1] + 1)).to_numpy()
    stated = Hints(fs, units.pop() if len(units) == 1 and units <= set(UNITS) else None)
    recording = LazyRecording.of_values(values, hints, stated, [column.name for column in leads])
    return replace(recording, notes=tuple(notes))


def _encoding(path: Path) -> str:
    """Encoding by the first bytes: UTF-16, UTF-8 or else Latin-1."""
    with path.open("rb") as file:
        start = file.read(2**16)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in start[:2]:
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    valid = "\ufffd" not in start[: start.rfind(b"\n") + 1].decode(errors="replace")
    return "utf-8-sig" if valid else "latin-1"


def _split(line: str, separator: str) -> list[str]:
    if separator == "  ":
        return re.split(r"\s{2,}", line.strip())
    line = line.strip() if separator == " " else line.strip("\r\n")
    cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return [cell.strip(" '") for cell in cells]


def _kind(cell: str) -> str:
    if cell.casefold() in MISSING:
        return "missing"
    if NUMBER.fullmatch(cell):
        return "number"
    return "clock" if CLOCK.search(cell) and STAMP.fullmatch(cell) else "text"


def _last_number(kinds: list[str]) -> int:
    """Number of columns up to the last one of numbers or clocks."""
    return max((n + 1 for n, kind in enumerate(kinds) if kind in ("number", "clock")), default=0)


def _find_table(file: TextIO) -> Table:
    """Find the first line of numbers, where the file then is; `Unusable` if there is none."""
    lines, size = [], 0
    for line in file:
        lines.append(line.strip("\r\n"))
        size += len(line)
        if len(lines) == HEADER + SAMPLE or size > 4_000_000:
            break
    body = [line for line in lines[len(lines) // 2 :] if line.strip() and line[0] != "#"]
    separator = _separator(body) if body else ","
    rows = [_split(line, separator) for line in body[-100:]]
    width = max(map(len, rows), default=0)
    shown = list(zip_longest(*([_kind(cell) for cell in row] for row in rows), fillvalue="missing"))
    kinds = [
        max(sorted({*column} - {"missing"}), key=column.count, default="missing")
        for column in shown
    ]
    least = _last_number(kinds)

    def fits(line: str) -> bool:
        """Whether a line is a row of the table, not of numbers (0, 1, 2 …) as names."""
        cells = _split(line, separator)
        given = [cell for cell in cells if cell]
        counted = given == [str(number) for number in range(len(given))]
        if len(cells) not in (width, least) or (counted and (len(given) > 1 or not cells[0])):
            return False
        found = [_kind(cell) for cell in cells]
        expected = [{kind, "missing", "number" if kind == "missing" else kind} for kind in kinds]
        alike = all(kind in may for kind, may in zip(found, expected, strict=False))
        return alike and "number" in found and not FREQUENCY.search(line[:500].casefold())

    start = next((number for number, line in enumerate(lines[: HEADER + 1]) if fits(line)), None)
    texts = sum(column.count("text") > len(rows) / 2 for column in shown)
    if start is None or "number" not in kinds or texts >= least / 2:  # as in lists of labels
        raise NotARecording(f"no table of numbers in the first {HEADER} lines")
    above, cells = lines[:start], [cell for row in rows for cell in row]
    if separator == "," and not any("." in cell or "," in cell for cell in cells):
        named = len(_split(above[-1], ",")) if above and above[-1].strip() else 0
        first, second = ([row[number][:1] == "-" for row in rows] for number in (0, -1))
        if (
            len({len(row) for row in rows}) > 1 or 0 < named < width
            or (not kinds.count("clock") and any(map(DECIMALS.search, body)))
            or (width == 2 and not named and any(first) and not any(second))
        ):  # fmt: skip
            said = f"{named} columns named, but {width} below; decimal commas?"
            raise Unusable(f"{said} Write points, or semicolons or tabs between columns")
    comma = any("," in cell and NUMBER.fullmatch(cell) for cell in cells)
    file.seek(0)
    for _ in range(start):
        file.readline()
    return Table(above, separator, "," if comma else ".", kinds)


def _separator(body: list[str]) -> str:
    """What separates the columns; a tab, which is not there, for a column with decimal commas."""
    line = max(body, key=len)
    for mark in "\t;":
        if mark in line:
            return mark
    if "," not in line or all(ROW.fullmatch(line.strip()) for line in body):
        return " "
    if all(ONE_NUMBER.fullmatch(line.strip()) for line in body):
        commas = {"," in line for line in body}
        return "\t" if len(commas) > 1 or any(map(DECIMALS.search, body)) else ","
    return ","


def _read_columns(file: TextIO, table: Table) -> list[Column]:
    """The columns of numbers and clocks that are not empty, from where the file is."""
    width, kinds = len(table.kinds), dict(enumerate([*table.kinds, "missing"]))
    types = {number: float if kind == "number" else str for number, kind in kinds.items()}
    try:  # the column more than there are is for trailing separators
        frame = pd.read_csv(
            file, sep=r"\s+" if table.separator == " " else table.separator, header=None,
            names=range(width + 1), decimal=table.decimal, skipinitialspace=True, comment="#",
            dtype=types if len(set(table.kinds)) > 1 else np.float64,  # far faster for wide tables
            na_values=["-", "--"],
        )  # fmt: skip
    except ValueError as error:  # which would show the text
        why = one_line(error) if isinstance(error, pd.errors.ParserError) else "text among them"
        raise Unusable(f"unreadable numbers ({why})") from None
    if frame[width].notna().any():
        raise Unusable("lines with more cells than those above them")
    if len(frame) < width:  # a line for each lead
        rows = frame.to_numpy()[:, [kind == "number" for kind in kinds.values()]].astype(np.float64)
        return [Column("", "", row) for row in rows]
    columns = []
    for number, (name, unit) in enumerate(zip(*_titles(table), strict=True)):
        if kinds[number] == "clock":
            columns.append(Column(name, "s", _clock_seconds(frame[number])))
        elif kinds[number] != "text":
            values = pd.to_numeric(frame[number], errors="coerce").to_numpy(np.float64)
            columns.append(Column(name, unit, values))
    return [column for column in columns if not np.isnan(column.values).all()]


def _clock_seconds(cells: pd.Series) -> np.ndarray:
    """Seconds of clock times, with or without a date, through midnight."""
    cells = cells.str.replace(r"(:\d\d):(\d{3})\b", r"\1.\2", regex=True)
    parts = cells.str.extract(CLOCK)
    hours, minutes, seconds = (
        pd.to_numeric(parts[number].str.replace(",", "."), errors="coerce") for number in range(3)
    )
    half = cells.str.extract(r"(?i)\d ?([ap])m\b")[0].str.lower()
    hours = hours.where(half.isna(), hours % 12 + 12 * (half == "p"))
    turn = 3600 if hours.isna().all() else 86400  # hours may be left out before the first one
    times = (hours.fillna(0) * 3600 + minutes * 60 + seconds).to_numpy(np.float64)
    return times + turn * np.cumsum(np.diff(times, prepend=times[0]) < -turn / 2)


def _titles(table: Table) -> tuple[list[str], list[str]]:
    """Name and unit of each column, "" where there is none; a line of units may follow names.

    A line is names where a word of it is known (time, ECG, aVR, channel 1, a unit). Any words will
    do right above three columns or more, as nobody's name stands in such a line.
    """
    width, least = len(table.kinds), _last_number(table.kinds)
    names, units = [""] * width, [""] * width
    for number, line in enumerate(reversed(table.above)):
        if channels := re.fullmatch(r"(\d{1,3}) channels?\W*", line):  # AcqKnowledge: name, unit, …
            lines = [text.strip(" ,;\t") for text in table.above[-number:]]
            place = slice(max(least - int(channels[1]), 0), least)
            pairs = lines[: 2 * (place.stop - place.start)]
            names[place], units[place] = pairs[::2], pairs[1::2]
        if any(names):
            continue
        if sensors := re.search(r'"column": ?\[(.*?)\]', line):  # OpenSignals
            line = sensors[1]
        cells = _cells_above(line, table.separator, least, width)
        plain = [re.sub(r"^[\d.]+ ", "", cell).strip("[]() ") for cell in cells]
        of_units = [as_unit(cell) in MILLIVOLT or cell.casefold() in SECONDS for cell in plain]
        leads = [is_lead(cell) for cell in cells]
        if any(of_units) and not any(np.greater(leads, of_units)):
            units = plain
            continue
        split = [NAME_AND_UNIT.fullmatch(cell) for cell in cells]
        parts = [(match[1] or match[3] or "", match[2] or match[4] or "") if match else (cell, "")
                 for match, cell in zip(split, cells, strict=True)]  # fmt: skip
        known = any(leads) or any(as_unit(unit) in MILLIVOLT for _, unit in parts)
        known |= any(TIME.fullmatch(cell) or SIGNAL.fullmatch(cell) for cell in cells)
        words = [cell for cell in cells if _kind(cell) == "text"]
        right_above = number == 0 and line[:1] != "#" and len(set(words)) == least > 2
        if known or right_above:
            names = [name for name, _ in parts]
            units = [unit or of_name for unit, (_, of_name) in zip(units, parts, strict=True)]
    return names, units


def _cells_above(line: str, separator: str, least: int, width: int) -> list[str]:
    """The cells of a line above as many columns, whatever separates them; [] if it has others."""
    if width == 1 and re.search("[,;:=]", line):  # `Lead,Lead I`
        return []
    for mark in dict.fromkeys((separator, *"\t;,", "  ", " ")):
        cells = _split(line.strip("# "), mark)
        if len(cells) == least - 1 > 1 and mark == separator:  # the first column has no name
            cells = ["", *cells]
        if least <= len(cells) <= width:
            return cells + [""] * (width - len(cells))
    return []


def _stated(above: list[str]) -> tuple[float | None, str | None]:
    """Rate in Hz and unit of volts that lines state, if they state one."""
    by_name, in_hertz, units = set(), set(), set()
    for line in (line[:500].casefold().strip() for line in above):
        for pattern, found in ((FREQUENCY, by_name), (PERIOD, by_name), (HERTZ, in_hertz)):
            if match := pattern.search(line):
                value, prefix = (group for group in match.groups() if group is not None)
                fs = float(value.replace(",", ".")) * PREFIX[prefix]
                if pattern is PERIOD:
                    fs = 1 / fs if fs else 0
                    fs = round(fs) if isclose(fs, round(fs), rel_tol=1e-4) else fs  # 3.3333 ms
                found |= {fs} if RATES[0] <= fs <= RATES[1] else set()
        words = [word.strip() for word in re.split(r"[,;:=\t(\[]| in ", line.strip(" #'\"])"))]
        words = [word for word in words if word]
        unit = as_unit(words[-1]) if 0 < len(words) < 3 else None
        if unit in MILLIVOLT and (unit != "V" or "unit" in line):
            units.add(unit)
    rates = by_name or in_hertz
    return (rates.pop() if len(rates) == 1 else None), (units.pop() if len(units) == 1 else None)


def _without_first_rows(columns: list[Column]) -> tuple[list[Column], float | None, list[str]]:
    """Leave out up to three first rows of numbers that are no samples: the number of samples, or
    far outside of all others, as a start time or a rate, which is returned if it may be one."""
    values = np.column_stack([column.values[:10_003] for column in columns])
    first, fs, rest = 0, None, values[3:]
    if len(rest) > RATES[0] and (rest % 1 > 0).any():
        low, high = np.nanpercentile(rest, [1, 99], axis=0)
        far = np.where(high > low, 5 * (high - low), np.inf)
        for number, row in enumerate(values[:3]):
            given = ~np.isnan(row)
            counts = np.abs(row - len(columns[0].values) + number + 1) <= 1
            outside = (row < low - far) | (row > high + far)
            if given.any() and (counts[given].all() or outside[given].all()):
                first = number + 1
                if len(row) == 1 and RATES[0] <= row[0] <= RATES[1] and not counts.all():
                    fs = float(row[0])
    said = f"{first} lines of numbers above the samples left out ({values[:first].tolist()})"
    columns = [column._replace(values=column.values[first:]) for column in columns]
    return columns, fs, [said[:200]] if first else []


def _classify(columns: list[Column]) -> tuple[list[Column], list[Column], list[Column]]:
    """Part columns into times (and counters, made to rise throughout), leads and others."""
    times, leads, others, wrapped = [], [], [], False
    for column in columns:
        steps = np.diff(column.values[~np.isnan(column.values)])
        up, down = steps[steps > 0], steps[steps < 0]
        # A counter that starts again, as 0 to 15: steps of 1, and few, large ones back.
        wraps = len(up) > 3 * len(down) > 0 and (up == 1).mean() > 0.9 and np.median(down) < -2
        if wraps:
            modulus = np.nanmax(column.values) - np.nanmin(column.values) + 1
            turns = np.diff(column.values, prepend=column.values[0]) % modulus
            column, wrapped = column._replace(values=np.cumsum(turns)), True
        words = {column.name.casefold(), column.unit.casefold()}
        named = TIME.fullmatch(column.name) or not words.isdisjoint(SECONDS)
        rises = len(columns) > 1 and len(up) and not len(down)
        (times if named or rises or wraps else leads).append(column)
    if not leads:  # numbers called time or sample, which are the only ones
        times, leads = times[:-1], times[-1:]
    volts = [as_unit(column.unit) in MILLIVOLT for column in leads]
    for column, volt in list(zip(leads, volts, strict=True)):
        other = not volt and bool(column.unit if any(volts) else OTHER.fullmatch(column.unit))
        other |= any(volts) and not volt and not is_lead(column.name)
        seldom = np.isnan(column.values).mean() > 0.5
        digital = wrapped and len(np.unique(column.values)) < 3  # lines beside a packet counter
        if other or seldom or digital:
            leads = [lead for lead in leads if lead is not column]
            others.append(column)
    if not leads:
        raise Unusable("no column is in uV, mV or V")
    return times, leads, others


class Fit(NamedTuple):
    """How regular times are."""

    period: float  # of a sample, in the unit of the times
    tolerance: float  # of the period, relative
    lost: np.ndarray  # samples before each


def _fit(column: Column) -> Fit | None:
    """Period and gaps of times that never fall; None where they are irregular.

    Several samples may have one time, as in packets, or where few decimals were written. A gap is
    what later times never make up for: a packet that is late is none.
    """
    times = pd.Series(column.values).interpolate(limit_direction="both").to_numpy()
    starts = np.flatnonzero(np.diff(times, prepend=-np.inf) > 0)
    if (np.diff(times) < 0).any() or len(starts) < 4:
        return None
    steps, counts = np.diff(times[starts]), np.diff(starts)
    lost, each = np.zeros(len(times), np.int64), steps / counts
    scaled = ((10.0**power, steps / 10.0**power) for power in range(7, -10, -1))
    unit = next((u for u, s in scaled if s.min() > 0.9 and np.abs(s - np.rint(s)).max() < 0.01), 0)
    period = steps[1:].sum() / counts[1:].sum()
    residual = times[starts[1:]] - period * starts[1:]
    rounded = np.ptp(each) <= 1.01 * unit or counts.max() > 1
    slack = (
        2.1 * unit * rounded + period * (counts.max() > 1 and np.ptp(counts) > 0) + 1e-3 * period
    )
    if np.ptp(residual) > slack:
        keep = each <= 1.5 * np.median(each)
        for _ in range(2):
            period = steps[keep].sum() / counts[keep].sum()
            residual = times[starts] - period * starts
            lasting = np.diff(np.minimum.accumulate(residual[::-1])[::-1])
            jitter = np.median(np.abs(steps - period * counts))
            keep = lasting <= max(0.5 * period, 6 * jitter)
        lost[starts[1:]] = np.where(keep, 0, np.rint(lasting / period))
        residual -= period * np.cumsum(lost)[starts]
    spread = np.ptp(residual)
    return Fit(period, 2 * spread / period / len(times), lost) if spread < 100 * period else None


def _rate(column: Column, fit: Fit, known: float | None) -> float | None:
    """Rate in Hz that times tell: in the unit of their name, else in seconds if it can be, else in
    ms, us or ns if they are stamps since 1970, agree with the known rate, or are the only unit
    with a usual rate."""
    words = re.findall(r"[^\W\d_]+", f"{column.name} {column.unit}".casefold())
    named = [SECONDS[word] for word in words if word in SECONDS]
    scales = named[-1:] or [1, 1e-3, 1e-6, 1e-9]
    stamps = [scale for scale in scales if 1e9 <= column.values[0] * scale < 1e10]
    for scale in stamps or scales:
        fs = 1 / (fit.period * scale)
        if abs(fs - np.rint(fs)) <= fs * max(fit.tolerance, 1e-9):
            fs = round(fs)
        agrees = known and same_rate(fs, known)
        usual = not known and 50 <= fs <= 2000 and abs(fit.period - 1) > 1e-3
        if RATES[0] <= fs <= RATES[1] and (named or stamps or scale == 1 or agrees or usual):
            return fs
    return None
