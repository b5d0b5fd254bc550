"""Your labelled recordings, listed in a CSV file with a row for each.

Columns: `file` (a path, see `read_listing`), `label` (several are separated by `;` or `|`) and, as
needed, `fs` in Hz, `unit` and `gain` (see `recordings.Hints`), `split` (train, val, test) and
`patient`. Others are not read.
"""

import os
import re
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pandas as pd

from finetuning.datasets import PARTS, Listing, multi_hot, stated_subjects
from recordings import ADU, UNITS, Hints, Unusable, as_unit, one_line
from recordings.formats import Recording, read_recording, record_file
from utils import cli
from utils.files import sha256

PREFIX = "table"
MEAN_MV = SD_MV = None  # measured
FLAGS = {
    "table": {"type": cli.file, "required": True, "help": "CSV file: columns file, label, …"},
    "source": {"type": cli.existing, "help": "where paths start, by default beside the table"},
    "record_fs": {"type": cli.positive, "help": "Hz, where neither table nor file says"},
    "unit": {"type": as_unit, "choices": UNITS, "help": "where neither table nor file says"},
    "gain": {"type": cli.positive, "help": "units per mV, with --unit adu"},
    "allow_missing": {"action": "store_true", "help": "go on if over a tenth cannot be used"},
}
COLUMNS = ("file", "label", "fs", "unit", "gain", "split", "patient")


def read_listing(
    table: Path, source: Path | None, record_fs: float | None, unit: str | None,
    gain: float | None, allow_missing: bool = False,
) -> Listing:  # fmt: skip
    """Read the table. The classes are all that occur; if a row has several, the set is multi-label.
    Paths start from `source`, by default the folder of the table; `record_fs`, `unit` and `gain`
    are for rows that do not say. Raises `UserError` if the table does not make sense."""
    rows, hints, places = read_table(table), {}, set()
    for row in rows.itertuples():
        path = record_file((source or table.parent) / row.file)
        try:
            row_fs = cli.positive(row.fs) if row.fs else record_fs
            row_gain = cli.positive(row.gain) if row.gain else gain
            row_unit = as_unit(row.unit) or unit
            if row_unit:
                Hints(row_fs, row_unit, row_gain).millivolt()
            if row_gain and row_unit != ADU:
                raise Unusable(f"a gain is for the unit {ADU}")
            if (place := os.path.realpath(path)) in places:
                raise Unusable("the recording has two rows; keep one")
        except (ArgumentTypeError, Unusable) as error:
            raise cli.UserError(f"{table}, {row.file!r}: {error}") from None
        hints[row.file] = path, row_fs, row_unit, row_gain
        places.add(place)
    labels = [set(re.split(r"\s*[;|]\s*", text)) - {""} for text in rows["label"]]
    classes = tuple(sorted(set().union(*labels)))
    if len(classes) < 2:
        raise cli.UserError(f"{table} names {len(classes)} classes; at least two are needed")
    filled = rows[["split", "patient"]] != ""
    if (filled.any() & ~filled.all()).any() or not set(rows["split"]) <= {"", *PARTS}:
        expected = f"a split ({', '.join(PARTS)}) or patient; without any, drop the column"
        raise cli.UserError(f"{table}: not every row has {expected}")
    parts, patients = (rows[n].to_numpy(np.str_) if filled[n].all() else None for n in filled)
    if patients is None:
        patients = stated_subjects({name: path for name, (path, *_) in hints.items()})
    return Listing(
        rows["file"].to_numpy(np.str_), multi_hot(labels, classes), classes,
        lambda record: read_row(*hints[record]), table.name, {"table": sha256(table)},
        multi_label=any(len(present) > 1 for present in labels), parts=parts, patients=patients,
        tolerated=1.0 if allow_missing else 0.1,
    )  # fmt: skip


def read_row(path: Path, *hints: float | str | None) -> Recording:
    """The recording of a row; reasons why it is `Unusable` name the flag of this data set."""
    try:
        return read_recording(path, *hints)
    except Unusable as error:  # of finetuning.prepare, --fs is the rate to write
        raise Unusable(str(error).replace("--fs", "--record-fs")) from None


def read_table(path: Path) -> pd.DataFrame:
    """`COLUMNS` of a CSV file with a header line, as stripped text; "" where one is missing.
    Cells are separated by the comma, semicolon or tab, whichever the header holds most of; where it
    is no comma, numbers may have decimal commas."""
    content = path.read_bytes()
    mark = max(",;\t", key=content.lstrip().partition(b"\n")[0].decode("utf-8", "replace").count)
    text = {"dtype": str, "keep_default_na": False, "skipinitialspace": True, "sep": mark}
    try:  # read without a header, pandas refuses rows that are longer than the first
        cells = pd.read_csv(path, header=None, **text)
        names = cells.iloc[0].str.strip().tolist()
        once = all(names.count(name) <= 1 for name in COLUMNS)
        if not once or not {"file", "label"} <= {*names} or b"\0" in content:
            raise ValueError("it needs file and label, each column once, and no NUL")
    except ValueError as error:
        raise cli.UserError(f"{path} is not a table of recordings ({one_line(error)})") from None
    columns = {n: cells[names.index(n)][1:].str.strip() if n in names else "" for n in COLUMNS}
    rows = pd.DataFrame(columns)
    if mark != ",":
        rows[["fs", "gain"]] = rows[["fs", "gain"]].replace(",", ".", regex=True)
    return rows
