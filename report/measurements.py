"""Tables of the other saved measurements: precisions, objectives, speed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from report import stats as statistics
from utils.files import read_json


def precisions(folder: Path) -> pd.DataFrame | None:
    """Validation scores of the same pretraining runs in bf16 and fp32 (`bf16_seed1.csv`, …), and
    their differences seed by seed."""
    runs = {}
    for path in sorted(folder.glob("*_seed*.csv")):
        precision, _, seed = path.stem.partition("_seed")
        history = pd.read_csv(path).rename(columns={"f1": "macro_f1"})
        last, chosen = history.iloc[-1], history.loc[history["val_loss"].idxmin()]
        runs[precision, int(seed)] = {
            "loss, last epoch": last["val_loss"],
            "loss, chosen epoch": chosen["val_loss"],
            "macro F1, last epoch": last["macro_f1"],
            "macro F1, chosen epoch": chosen["macro_f1"],
        }
    if {precision for precision, _ in runs} != {"bf16", "fp32"}:
        return None
    values = pd.DataFrame(runs).T
    difference = (values.loc["bf16"] - values.loc["fp32"]).dropna()
    return pd.DataFrame(
        {
            "on validation": values.columns,
            "seeds": len(difference),
            **{
                name: values.loc[name].agg(statistics.mean_and_sd).array
                for name in ("bf16", "fp32")
            },
            "bf16 minus fp32, 95 % over seeds": [
                str(statistics.over_seeds(difference[name])) for name in values
            ],
        }
    )


def objectives(folder: Path) -> pd.DataFrame | None:
    """Validation scores of pretraining at its chosen epoch, beside answers without the signal."""
    rows = []
    for path in sorted(folder.glob("*_scores.json")):
        scores = read_json(path)
        row = {"objective": path.name.removesuffix("_scores.json"), "chosen epoch": scores["epoch"]}
        for name, label in {"loss": "loss", "acc": "accuracy", "macro_f1": "macro F1"}.items():
            for column, part in (
                (label, "validation"),
                (f"{label}, without the signal", "without_input"),
            ):
                values = {"macro_f1" if k == "f1" else k: v for k, v in scores[part].items()}
                row[column] = f"{values[name]:.3f}"
        rows.append(row)
    return pd.DataFrame(rows) if rows else None


def benchmarks(folder: Path) -> pd.DataFrame | None:
    """Every measured figure: median and range over its repeats."""
    rows = [row for path in sorted(folder.glob("*.json")) for row in _measured(path)]
    return pd.DataFrame(rows) if rows else None


def _measured(path: Path) -> list[dict[str, Any]]:
    saved = read_json(path)
    measured = saved.get("flags", {}).get("patients", [])
    rows = []
    for quantity, values in saved.items():
        if quantity in ("date", "machine", "versions", "flags") or not isinstance(values, dict):
            continue
        if quantity == "by_patients":  # the others in the file are calculated from these
            values = {
                f"{n}: {name}": value
                for n in map(str, measured)
                for name, value in values[n].items()
            }
        for name, value in values.items():
            repeats = value if isinstance(value, list) else [value]
            rows.append(
                {
                    "benchmark": path.stem,
                    "quantity": quantity.replace("_", " "),
                    "of": name,
                    "median": _short(np.median(repeats)),
                    "range": f"{_short(min(repeats))} to {_short(max(repeats))}"
                    if len(repeats) > 1
                    else "",
                    "repeats": len(repeats),
                    "machine": f"{saved.get('machine', '')}, {saved.get('date', '')}",
                }
            )
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
