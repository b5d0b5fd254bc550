"""PTB-XL: twelve leads of 10 s with SCP-ECG statements, and ten folds by patient.

Read as it is distributed: `ptbxl_database.csv`, `scp_statements.csv` and WFDB records in
`records500/` and `records100/`. The folds 1 to 8 are meant to train on, 9 to validate, 10 to test
(Wagner et al., Sci Data 7, 154 (2020)).
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from finetuning.datasets import Listing, multi_hot
from recordings.formats import read_recording
from utils import cli
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
    (unknown), as in the benchmark of Strodthoff et al. (2021).
    """
    database, statements = source / "ptbxl_database.csv", source / "scp_statements.csv"
    columns = ["ecg_id", "patient_id", "scp_codes", "strat_fold", FILE_NAMES[ptbxl_rate]]
    try:
        table = pd.read_csv(database, usecols=columns, dtype=str, keep_default_na=False)
        records, patients, codes, folds, files = (table[n].to_numpy(np.str_) for n in columns)
        folds, paths = folds.astype(int), dict(zip(records, files, strict=True))
        # Dictionaries of statements and likelihoods, as Python writes them; nothing is executed.
        labels = [ast.literal_eval(text).keys() for text in codes]
        known = pd.read_csv(statements, index_col=0)
        classes = tuple(known.index[known[category] == 1].astype(str))
        if len(paths) < len(table) or not table[columns[-1]].str.fullmatch(r"\w+(/\w+)*").all():
            raise ValueError("an ecg_id occurs twice, or a file lies outside the folder")
    except Exception as error:  # pandas and ast raise almost any error on damaged files
        problem = f"{database} or {statements.name}: {error!r}"
        raise cli.UserError(f"{problem}; download both again") from None
    chosen = [*val_folds, *test_folds]
    if len(set(chosen) & set(folds)) < len(chosen):
        known_folds = ", ".join(map(str, sorted(set(folds))))
        raise cli.UserError(f"--val-folds and --test-folds: name different ones of {known_folds}")
    parts = np.where(np.isin(folds, val_folds), "val", "train")
    return Listing(
        records, multi_hot(labels, classes), classes,
        lambda record: read_recording(source / f"{paths[record]}.hea"), category,
        {path.name: sha256(path) for path in (database, statements)}, multi_label=True,
        leads=TWELVE_LEADS, parts=np.where(np.isin(folds, test_folds), "test", parts),
        patients=patients,
    )  # fmt: skip
