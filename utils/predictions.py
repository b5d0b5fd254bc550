"""The predictions table: `record_name, true_A …, prob_A …`, one row per recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.cli import UserError
from utils.files import atomic_path


class Predictions(NamedTuple):
    """record_names (n,), classes, true (n, classes) of 0 and 1, prob (n, classes)."""

    record_names: np.ndarray
    classes: list[str]
    true: np.ndarray
    prob: np.ndarray


def write_predictions(
    path: Path, names: Sequence[str], classes: Sequence[str], true: np.ndarray, prob: np.ndarray
) -> None:
    """Write the table; `true` and `prob` are (n, classes)."""
    table = pd.DataFrame({"record_name": names})
    # Nine digits tell any two float32 apart, so that scores counted from the table are the run's.
    table[[f"true_{name}" for name in classes]] = true.astype(np.uint8)
    table[[f"prob_{name}" for name in classes]] = prob
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: not such a table.
    """
    try:
        table = pd.read_csv(path, dtype={"record_name": str}, keep_default_na=False)
        return split_columns(table)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError:  # pandas' errors of parsing, too
        raise UserError(f"{path} is not a table of predictions") from None


def split_columns(table: pd.DataFrame) -> Predictions:
    """Raises `ValueError` where the columns are not those of a table of predictions."""
    classes = [name.removeprefix("true_") for name in table if name.startswith("true_")]
    expected = ["record_name", *(f"{p}_{name}" for p in ("true", "prob") for name in classes)]
    if list(table) != expected or not classes:
        raise ValueError("other columns")
    try:
        true, prob = np.split(table[expected[1:]].to_numpy(float), 2, axis=1)
    except OverflowError:
        raise ValueError("a number of hundreds of digits") from None
    if not len(table) or not np.isin(true, (0, 1)).all() or not np.isfinite(prob).all():
        raise ValueError("no rows, or values that are no classes or probabilities")
    return Predictions(table["record_name"].to_numpy(), classes, true.astype(int), prob)
