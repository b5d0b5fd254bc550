"""Labelled recordings of your own, listed in a CSV file with a row for each.

Columns: `file` (a path, see `read_listing`), `label` (several are separated by `;` or `|`) and, as
needed, `fs` in Hz, `unit` and `gain` (see `recordings.formats`), `split` (train, val, test) and
`patient`. Others are not read.
"""

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from finetuning.datasets.listing import PARTS, Listing, multi_hot, read_table
from recordings import ADU, UNITS, as_unit
from recordings.formats import Recording, read_recording, record_file
from utils.cli import UserError
from utils.files import sha256

NAME = "table"
MEAN_MV = SD_MV = None  # measured


class Source(NamedTuple):
    """Where a recording lies, and how it was sampled, where its file does not say."""

    path: Path
    fs: float | None
    unit: str | None
    gain: float | None


def read_listing(
    source: Path | None,
    table: Path,
    record_fs: float | None,
    unit: str | None,
    gain: float | None,
) -> Listing:
    """Read the table; every class that occurs is one, and several to a recording if any has so.

    Args:
        source: folder that the paths start from, the table's own by default. They may lead
            anywhere: the table is yours.
        record_fs, unit, gain: where the table does not say.

    Raises:
        UserError: the table does not make sense. Files are opened later: one that cannot be used
            is left out, as is a row without a label.
    """
    rows = read_table(table, ["file", "label"])
    records = rows["file"].to_numpy(np.str_)
    flags = {"fs": record_fs, "unit": unit, "gain": gain}
    folder = table.parent if source is None else source
    refuse_repeats(table, folder, rows["file"])
    sources = {row["file"]: read_row(table, folder, row, flags) for row in rows.to_dict("records")}
    if gain is not None and all(source.unit != ADU for source in sources.values()):
        raise UserError(f"--gain is for recordings in {ADU}; {table} has none, nor --unit")
    labels = [set(re.split(r"\s*[;|]\s*", text)) - {""} for text in rows["label"]]
    classes = sorted(set().union(*labels))
    if len(classes) < 2:
        raise UserError(f"{table} names {len(classes)} classes; at least two are needed")
    listing = Listing(
        records=records,
        y=multi_hot(labels, classes),
        classes=tuple(classes),
        read=partial(read_signal, sources),
        labels=table.name,
        checksums={"table": sha256(table)},
        multi_label=any(len(own) > 1 for own in labels),
        parts=_parts(table, rows),
        patients=_column(table, rows, "patient"),
        left_out=[
            {"record": record, "reason": "no label"}
            for record, own in zip(records.tolist(), labels, strict=True)
            if not own
        ],
    )
    return listing.keep(listing.y.any(1))


def refuse_repeats(table: Path, folder: Path, files: Iterable[str]) -> None:
    """Raises `UserError` where two rows name one recording, however they do."""
    first = {}
    for file in files:
        path = folder / file
        place = os.path.realpath(record_file(path))
        if first.get(place) == file:
            raise UserError(f"{table} lists {file!r} more than once; keep one row of each")
        if place in first:
            raise UserError(f"{table}: {file!r} is also {first[place]!r}; keep one row of each")
        first[place] = file


def read_row(table: Path, folder: Path, row: dict[str, str], flags: dict[str, Any]) -> Source:
    """Raises `UserError` where a cell is no rate, unit or gain."""
    where = f"{table}, {row['file']!r}"
    fs, gain = (_positive(where, row, name) or flags[name] for name in ("fs", "gain"))
    unit = as_unit(row["unit"]) if row.get("unit") else flags["unit"]
    if unit not in (None, *UNITS):
        raise UserError(f"{where}: unknown unit {unit!r}; known: {', '.join(UNITS)}")
    if row.get("gain") and unit != ADU:
        raise UserError(f"{where}: a gain is for the unit {ADU}, not {unit}")
    if unit == ADU and gain is None:
        raise UserError(f"{where}: unit {ADU} needs a gain (units per mV), by column or --gain")
    return Source(folder / row["file"], fs, unit, gain)


def read_signal(sources: dict[str, Source], record: str) -> Recording:
    """Read one recording; raises `Unusable` where it cannot be used."""
    return read_recording(*sources[record])


def _positive(where: str, row: dict[str, str], name: str) -> float | None:
    text = row.get(name)
    value = pd.to_numeric(text, errors="coerce") if text else None
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{where}: {name} {text!r} is not a number above 0")
    return value


def _column(table: Path, rows: pd.DataFrame, name: str) -> np.ndarray | None:
    """A column that has to be filled where it is there."""
    if name not in rows:
        return None
    for file, cell in zip(rows["file"], rows[name], strict=True):
        if not cell:
            raise UserError(f"{table}, {file!r}: {name} is empty; fill it in or drop the column")
    return rows[name].to_numpy(np.str_)


def _parts(table: Path, rows: pd.DataFrame) -> np.ndarray | None:
    parts, patients = (_column(table, rows, name) for name in ("split", "patient"))
    if parts is None:
        return None
    unknown = sorted(set(parts.tolist()) - set(PARTS))
    if unknown:
        raise UserError(f"{table}: unknown split {unknown[0]!r}; known: {', '.join(PARTS)}")
    if patients is not None:
        spread = pd.Series(parts).groupby(patients).nunique()
        if (spread > 1).any():
            raise UserError(f"{table}: patient {spread.idxmax()} is in several splits; keep to one")
    return parts
