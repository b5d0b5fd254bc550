"""Predictions as a table on the terminal, as CSV and as JSON."""

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from finetuning.predict import Answer, Prediction, Predictor
from utils.files import sha256, spelled, write_json, write_text

CANNOT_TELL = "cannot tell"
COLUMNS = ["recording", "lead", "window", "start_s", "stop_s", "answer", "reason"]
LAYOUT = "{:{width}}  {:6.6} {:>9}  {:19} {}"  # name, lead, length, answer, probabilities
MOST_CLASSES = 8  # with more classes the table shows no probabilities


class Result(NamedTuple):
    """Prediction for the recording `path`, or the error if it cannot be read."""

    name: str
    path: Path
    lead: str = ""
    fs: float | None = None  # Hz
    prediction: Prediction | None = None
    error: str = ""
    foreign: bool = False  # the file is no recording at all


def describe(answer: Answer, descriptions: Mapping[str, str]) -> str:
    """The answer in words, without the reason."""
    present = ", ".join(descriptions[name] for name in answer.classes)
    return CANNOT_TELL if answer.reason else present or "none of these"


def table_header(descriptions: Mapping[str, str], width: int) -> str:
    """First line for the terminal; `width` is that of the longest name of a recording."""
    classes = "".join(f"{name:>6.5}" for name in descriptions if len(descriptions) <= MOST_CLASSES)
    return LAYOUT.format("recording", "lead", "length", "answer", classes, width=width).rstrip()


def table_lines(result: Result, descriptions: Mapping[str, str], width: int) -> list[str]:
    """The answer for a recording, and for a long one the share of the time by answer."""
    if result.prediction is None:
        cells = result.name, result.lead, "", f"cannot be read: {result.error}", ""
        return [LAYOUT.format(*cells, width=width).rstrip()]
    _, whole, windows, _ = result.prediction
    long = str(timedelta(seconds=round(whole.stop)))
    length = f"{whole.stop:.1f} s" if whole.stop < 120 else long
    shown = whole.readable and len(descriptions) <= MOST_CLASSES
    rest = "".join(f"{p:6.2f}" for p in whole.probabilities if shown)
    rest += f"  {whole.reason}" if whole.reason else ""
    cells = result.name, result.lead, length, describe(whole, descriptions), rest
    lines = [LAYOUT.format(*cells, width=width).rstrip()]
    if len(windows) > 1:
        shares = sorted(result.prediction.shares().items(), key=lambda item: -item[1])
        words = [f"{descriptions.get(name, CANNOT_TELL)} {p:.1%}" for name, p in shares if p]
        lines.append(f"{'':{width}}  of {len(windows)} windows: {', '.join(words)}")
    return lines


def write_results(
    path: Path, weights: Sequence[Path], tta: int, predictor: Predictor, results: Sequence[Result]
) -> None:
    """Write all predictions as JSON, with the checksums of the weights and the settings."""
    write_json(path, {
        "weights": [{"file": spelled(file), "sha256": sha256(file)} for file in weights],
        "classes": predictor.metadata.classes, "abstain": predictor.abstain, "tta": tta,
        "band_pass_hz": [network.band for network in predictor.networks],
        "recordings": [json_entry(result) for result in results],
    })  # fmt: skip


def json_entry(result: Result) -> dict[str, Any]:
    """A recording in JSON; probabilities are rounded, and None where there are none."""
    entry = {"recording": result.name, "file": spelled(result.path), "lead": result.lead}
    if result.prediction is None:
        return entry | {"cannot_be_read": result.error}
    names, whole, windows, notes = result.prediction
    answers = []
    for start, stop, probabilities, classes, reason in (whole, *windows):
        values = [None if math.isnan(p) else round(float(p), 6) for p in probabilities]
        answers.append({
            "start_s": start, "stop_s": stop, "answer": list(classes), "cannot_tell": reason,
            "probabilities": dict(zip(names, values, strict=True)),
        })  # fmt: skip
    entry |= {"fs": result.fs, "notes": list(notes)} | answers[0]
    if len(windows) > 1:
        entry |= {"share_of_time": result.prediction.shares(), "windows": answers[1:]}
    return entry


def write_csv(path: Path, classes: Sequence[str], results: Sequence[Result]) -> None:
    """Write a row for each recording, and one for each window of a long one, from 1 on."""
    rows = []
    for entry in map(json_entry, results):
        error = entry.get("cannot_be_read")
        for number, answer in enumerate([entry, *entry.get("windows", [])]):
            probabilities = answer.get("probabilities", {}).items()
            rows.append(entry | answer | {f"prob_{name}": p for name, p in probabilities} | {
                "window": number or "whole", "answer": ";".join(answer.get("answer", ())),
                "reason": f"cannot be read: {error}" if error else answer["cannot_tell"],
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=[*COLUMNS, *(f"prob_{name}" for name in classes)])
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
