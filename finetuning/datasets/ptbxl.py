"""PTB-XL: twelve leads of 10 s with SCP-ECG statements, and ten folds by patient.

Read as it is distributed: `ptbxl_database.csv`, `scp_statements.csv` and WFDB records in
`records500/` and `records100/`. The folds 1 to 8 are meant to train on, 9 to validate, 10 to test
(Wagner et al., Sci Data 7, 154 (2020)).
"""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from finetuning.datasets.listing import Listing, multi_hot, read_table
from recordings.formats import Recording, read_recording
from utils.cli import UserError
from utils.datasets import TWELVE_LEADS
from utils.files import sha256

NAME = "ptbxl"
MEAN_MV = (
    -0.0018, -0.0013, 0.0005, 0.0015, -0.0011, -0.0004,
    0.0002, -0.0009, -0.0015, -0.0018, -0.0012, -0.0012,
)  # fmt: skip
SD_MV = (
    0.1921, 0.1677, 0.1791, 0.1454, 0.1553, 0.1500, 0.2339, 0.3384, 0.3351, 0.3101, 0.2901, 0.2464,
)  # fmt: skip
DATABASE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
FILE_NAMES = {500: "filename_hr", 100: "filename_lr"}  # Hz: column


def read_listing(
    source: Path, category: str, ptbxl_rate: int, val_folds: list[int], test_folds: list[int]
) -> Listing:
    """Read the statements of one category, "diagnostic", "form" or "rhythm", of all records.

    Classes are the category's statements in the order of the file; any likelihood counts, 0 (not
    known) included, as in the benchmark of Strodthoff et al. (2021). Records without one are left
    out. Folds that neither validate nor test are trained on.

    Raises:
        UserError: a file or column is missing, a row does not make sense, or folds overlap.
    """
    both = sorted(set(val_folds) & set(test_folds))
    if both:
        raise UserError(f"fold {both[0]} is in --val-folds and in --test-folds; keep it in one")
    database, statements = source / DATABASE, source / STATEMENTS
    columns = ("ecg_id", "patient_id", "scp_codes", "strat_fold", FILE_NAMES[ptbxl_rate])
    table = read_table(database, columns)
    records, patients, codes, folds, paths = (table[name].to_numpy(np.str_) for name in columns)
    if len(set(records)) < len(records):
        raise UserError(f"{database} names an ecg_id twice; download it again")
    known = read_table(statements, [category])
    classes = known.iloc[:, 0][pd.to_numeric(known[category], errors="coerce") == 1].tolist()
    y = multi_hot(_each(parse_codes, database, records, codes), classes)
    folds = np.array(_each(parse_fold, database, records, folds))
    for fold in (*val_folds, *test_folds):
        if fold not in folds:
            raise UserError(f"{database} has no record in fold {fold}; choose other folds")
    parts = np.where(np.isin(folds, val_folds), "val", "train")
    paths = _each(parse_path, database, records, paths)
    listing = Listing(
        records=records,
        y=y,
        classes=tuple(classes),
        read=partial(read_signal, source, dict(zip(records, paths, strict=True))),
        labels=category,
        checksums={path.name: sha256(path) for path in (database, statements)},
        multi_label=True,
        leads=TWELVE_LEADS,
        parts=np.where(np.isin(folds, test_folds), "test", parts),
        patients=patients,
        left_out=[
            {"record": record, "reason": f"no {category} statement"}
            for record in records[~y.any(1)].tolist()
        ],
    )
    return listing.keep(y.any(1))


def parse_codes(text: str) -> dict[str, float]:
    """Statements and likelihoods, written as a Python dictionary; nothing in it is executed."""
    try:
        codes = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(isinstance(code, str) for code in codes):
        raise ValueError("scp_codes is not a dictionary of statements")
    return codes


def parse_fold(text: str) -> int:
    """A whole number."""
    if not text.isdecimal():
        raise ValueError(f"strat_fold {text!r} is no number")
    return int(text)


def parse_path(text: str) -> str:
    """A path that does not leave the set's folder."""
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{text!r} is no file of the set")
    return text


def read_signal(source: Path, paths: dict[str, str], record: str) -> Recording:
    """Read one record; raises `Unusable` where it cannot be used."""
    return read_recording(source / f"{paths[record]}.hea")


def _each(parse: Callable[[str], Any], database: Path, records: np.ndarray, cells: np.ndarray):
    """Every cell parsed; raises `UserError` that says where one does not make sense."""
    values = []
    for record, cell in zip(records, cells, strict=True):
        try:
            values.append(parse(str(cell)))
        except ValueError as error:
            raise UserError(f"{database} ecg_id {record}: {error}; download it again") from None
    return values
