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

from finetuning.datasets import PARTS, Listing, multi_hot, read_table
from recordings import ADU, UNITS, Unusable, as_unit, millivolt
from recordings.formats import read_recording, record_file
from utils import cli
from utils.cli import UserError
from utils.files import sha256

PREFIX = "table"
MEAN_MV = SD_MV = None  # measured
FLAGS = {
    "table": {
        "type": cli.file,
        "required": True,
        "help": "CSV file with columns file, label, …",
    },
    "source": {"type": cli.existing, "help": "where paths start, by default beside the table"},
    "record_fs": {"type": cli.positive, "help": "Hz, where neither table nor file says"},
    "unit": {"type": as_unit, "choices": UNITS, "help": "where neither table nor file says"},
    "gain": {"type": cli.positive, "help": "units per mV, with --unit adu"},
}


def read_listing(
    table: Path,
    source: Path | None = None,
    record_fs: float | None = None,
    unit: str | None = None,
    gain: float | None = None,
) -> Listing:
    """Read the table. The classes are all that occur; if a row has several, the set is multi-label.

    Args:
        source: folder that the paths start from, by default that of the table. They may lead
            anywhere, as the user wrote the table.
        record_fs, unit, gain: for rows that do not say, as in `recordings.Hints`.

    Raises:
        UserError: the table does not make sense. Files are opened later: one that cannot be used
            is left out, as is a row without a label.
    """
    rows = read_table(table, ["file", "label"])
    folder = table.parent if source is None else source
    sources, places = {}, {}
    for row in rows.to_dict("records"):
        file, path = row["file"], folder / row["file"]
        try:
            row_fs = cli.positive(row["fs"]) if row.get("fs") else record_fs
            row_gain = cli.positive(row["gain"]) if row.get("gain") else gain
            row_unit = as_unit(row["unit"]) if row.get("unit") else unit
            if row_unit:
                millivolt(row_unit, row_gain)
        except (ArgumentTypeError, Unusable) as error:
            raise UserError(f"{table}, {file!r}: {error}") from None
        if row_gain and row_unit not in (None, ADU):
            raise UserError(f"{table}, {file!r}: a gain is for the unit {ADU}, not {row_unit}")
        sources[file] = path, row_fs, row_unit, row_gain
        place = os.path.realpath(record_file(path))
        if place in places:
            raise UserError(f"{table}: {file!r} is the recording {places[place]!r}; keep one row")
        places[place] = file
    labels = [set(re.split(r"\s*[;|]\s*", text)) - {""} for text in rows["label"]]
    classes = sorted(set().union(*labels))
    if len(classes) < 2:
        raise UserError(f"{table} names {len(classes)} classes; at least two are needed")
    parts, patients = (read_column(table, rows, name) for name in ("split", "patient"))
    if parts is not None:
        check_parts(table, parts, patients)
    records, y = rows["file"].to_numpy(np.str_), multi_hot(labels, classes)
    listing = Listing(
        records=records,
        y=y,
        classes=tuple(classes),
        read=lambda record: read_recording(*sources[record]),
        labels=table.name,
        checksums={"table": sha256(table)},
        multi_label=any(len(present) > 1 for present in labels),
        parts=parts,
        patients=patients,
        left_out=[{"record": name, "reason": "no label"} for name in records[~y.any(1)].tolist()],
    )
    return listing.keep(y.any(1))


def read_column(table: Path, rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """A column that may be missing, but has no empty cells; raises `UserError`."""
    if name not in rows:
        return None
    for file in rows["file"][rows[name] == ""]:
        raise UserError(f"{table}, {file!r}: {name} is empty; fill it in or drop the column")
    return rows[name].to_numpy(np.str_)


def check_parts(table: Path, parts: np.ndarray, patients: np.ndarray | None) -> None:
    """Raises `UserError` at an unknown part, or a patient in several."""
    unknown = set(parts.tolist()) - set(PARTS)
    if unknown:
        raise UserError(f"{table}: unknown split {min(unknown)!r}; known: {', '.join(PARTS)}")
    spread = pd.Series(parts).groupby(patients).nunique() if patients is not None else None
    if spread is not None and spread.max() > 1:
        raise UserError(f"{table}: patient {spread.idxmax()} is in several splits; keep to one")
