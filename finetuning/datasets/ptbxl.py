"""PTB-XL: twelve leads of 10 s with SCP-ECG statements, and ten folds by patient.

Read as it is distributed: `ptbxl_database.csv`, `scp_statements.csv` and WFDB records in
`records500/` and `records100/`. The folds 1 to 8 are meant to train on, 9 to validate, 10 to test
(Wagner et al., Sci Data 7, 154 (2020)).
"""

import ast
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from finetuning.datasets import Listing, multi_hot, read_table
from recordings.formats import read_recording
from utils import cli
from utils.cli import UserError
from utils.files import sha256
from utils.model_card import TWELVE_LEADS

PREFIX = "ptbxl"
MEAN_MV = (
    -0.0018, -0.0013, 0.0005, 0.0015, -0.0011, -0.0004,
    0.0002, -0.0009, -0.0015, -0.0018, -0.0012, -0.0012,
)  # fmt: skip
SD_MV = (
    0.1921, 0.1677, 0.1791, 0.1454, 0.1553, 0.1500, 0.2339, 0.3384, 0.3351, 0.3101, 0.2901, 0.2464,
)  # fmt: skip
CATEGORIES = ("diagnostic", "form", "rhythm")
FILE_NAMES = {500: "filename_hr", 100: "filename_lr"}  # Hz: column
FLAGS = {
    "source": {"type": cli.existing, "required": True, "help": "folder of PTB-XL"},
    "category": {"choices": CATEGORIES, "default": "rhythm", "help": "statements to classify"},
    "ptbxl_rate": {"type": int, "choices": tuple(FILE_NAMES), "default": 500, "help": "Hz to read"},
    "val_folds": {"type": cli.id_list, "default": "9", "help": "folds to validate on"},
    "test_folds": {"type": cli.id_list, "default": "10", "help": "folds to test on; others train"},
}


def read_listing(
    source: Path, category: str, ptbxl_rate: int, val_folds: list[int], test_folds: list[int]
) -> Listing:
    """Read the statements of one of `CATEGORIES` of all records.

    Classes are the category's statements in the order of the file; any likelihood counts, also 0
    (unknown), as in the benchmark of Strodthoff et al. (2021). Records without one are left out.

    Raises:
        UserError: a column is missing, a row does not make sense, or folds overlap or are missing.
    """
    both = set(val_folds) & set(test_folds)
    if both:
        raise UserError(f"fold {min(both)} is in --val-folds and in --test-folds; keep it in one")
    database, statements = source / "ptbxl_database.csv", source / "scp_statements.csv"
    columns = ["ecg_id", "patient_id", "scp_codes", "strat_fold", FILE_NAMES[ptbxl_rate]]
    table = read_table(database, columns)
    rows = {}
    for ecg_id, _, *cells in table[columns].itertuples(index=False):
        try:
            rows[ecg_id] = parse_row(*cells)
        except ValueError as error:
            raise UserError(f"{database} ecg_id {ecg_id}: {error}; download it again") from None
    if len(rows) < len(table):
        raise UserError(f"{database} names an ecg_id twice; download it again")
    known = read_table(statements, [category])
    classes = known.iloc[:, 0][pd.to_numeric(known[category], errors="coerce") == 1].tolist()
    labels, folds, _ = zip(*rows.values(), strict=True)
    missing = set(val_folds + test_folds).difference(folds)
    if missing:
        raise UserError(f"{database} has no record in fold {min(missing)}; choose other folds")
    records, y = np.array(list(rows)), multi_hot(labels, classes)
    reason = f"no {category} statement"
    parts = np.where(np.isin(folds, val_folds), "val", "train")
    listing = Listing(
        records=records,
        y=y,
        classes=tuple(classes),
        read=lambda record: read_recording(source / f"{rows[record][2]}.hea"),
        labels=category,
        checksums={path.name: sha256(path) for path in (database, statements)},
        multi_label=True,
        leads=TWELVE_LEADS,
        parts=np.where(np.isin(folds, test_folds), "test", parts),
        patients=table["patient_id"].to_numpy(np.str_),
        left_out=[{"record": name, "reason": reason} for name in records[~y.any(1)].tolist()],
    )
    return listing.keep(y.any(1))


def parse_row(scp_codes: str, strat_fold: str, file_name: str) -> tuple[set[str], int, str]:
    """Statements, fold, and path below the set's folder; raises `ValueError`.

    `scp_codes` is a Python dictionary of statements and likelihoods; nothing in it is executed.
    """
    try:
        codes = ast.literal_eval(scp_codes)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(isinstance(code, str) for code in codes):
        raise ValueError("scp_codes is not a dictionary of statements")
    if not strat_fold.isdecimal():
        raise ValueError(f"strat_fold {strat_fold!r} is not a number")
    path = PurePosixPath(file_name)
    if not file_name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file_name!r} is not a file of the set")
    return (set(codes), int(strat_fold), file_name)
