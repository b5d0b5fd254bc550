"""Predictions as a table on the terminal, as CSV and as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from finetuning.predict import Answer, Prediction, Predictor
from utils.files import sha256, spelled, write_json, write_text
from utils.model_card import DATA_SETS

CANNOT_TELL, NONE = "cannot tell", "none of these"
COLUMNS = ["recording", "lead", "window", "start_s", "stop_s", "answer", "reason"]
MOST_CLASSES = 8  # with more classes the table shows no probabilities


class Result(NamedTuple):
    """Prediction for one recording, or the error if it cannot be read.

    Attributes:
        name: as it is printed.
        lead: name or number of the lead.
        fs: Hz.
    """

    name: str
    path: Path
    lead: str = ""
    fs: float | None = None
    prediction: Prediction | None = None
    error: str = ""


def class_descriptions(predictor: Predictor) -> dict[str, str]:
    """Description of each class in words, in the order of the classes."""
    dataset = DATA_SETS.get(predictor.metadata.dataset)
    described = dataset.classes if dataset else {}
    return {name: described.get(name, name) for name in predictor.metadata.classes}


def describe(answer: Answer, descriptions: Mapping[str, str]) -> str:
    """The answer in words, without the reason."""
    if answer.reason:
        return CANNOT_TELL
    return ", ".join(descriptions[name] for name in answer.classes) or NONE


def format_time(seconds: float) -> str:
    """`0:30:05` for 1805 seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


class Table:
    """Lines for the terminal; `width` is the length of the longest name of a recording."""

    def __init__(self, descriptions: Mapping[str, str], width: int):
        self.descriptions = descriptions
        self.width = max(width, len("recording"))
        self.answer_width = max(map(len, [*descriptions.values(), CANNOT_TELL]))
        self.show_probabilities = len(descriptions) <= MOST_CLASSES

    def _line(self, name: str, lead: str, length: str, answer: str, rest: str) -> str:
        columns = f"{name:{self.width}}  {lead:6.6} {length:>9}  {answer:{self.answer_width}} "
        return (columns + rest).rstrip()

    def header(self) -> str:
        classes = [f"{name:>6.5}" for name in self.descriptions if self.show_probabilities]
        return self._line("recording", "lead", "length", "answer", "".join(classes))

    def lines(self, result: Result) -> list[str]:
        """The answer for a recording, and for a long one the share of the time by answer."""
        if result.prediction is None:
            answer = f"cannot be read: {result.error}"
            return [self._line(result.name, result.lead, "", answer, "")]
        _, whole, windows = result.prediction
        length = f"{whole.stop:.1f} s" if whole.stop < 120 else format_time(whole.stop)
        show = whole.readable and self.show_probabilities
        rest = "".join(f"{p:6.2f}" for p in whole.probabilities if show)
        rest += f"  {whole.reason}" if whole.reason else ""
        answer = describe(whole, self.descriptions)
        lines = [self._line(result.name, result.lead, length, answer, rest)]
        if len(windows) > 1:
            shares = [(share, name) for name, share in result.prediction.shares().items() if share]
            named = [(share, self.descriptions.get(name, CANNOT_TELL)) for share, name in shares]
            text = ", ".join(f"{name} {share:.1%}" for share, name in sorted(named, reverse=True))
            lines.append(f"{'':{self.width}}  of {len(windows)} windows: {text}")
        return lines


def write_results(
    path: Path, weights: Sequence[Path], tta: int, predictor: Predictor, results: Sequence[Result]
) -> None:
    """Write all predictions as JSON, with the checksums of the weights and the settings."""
    document = {
        "weights": [{"file": spelled(file), "sha256": sha256(file)} for file in weights],
        "classes": predictor.metadata.classes,
        "abstain": predictor.abstain,
        "tta": tta,
        "band_pass_hz": [network.band for network in predictor.networks],
        "recordings": [json_entry(result) for result in results],
    }
    write_json(path, document)


def json_entry(result: Result) -> dict[str, Any]:
    """A recording in JSON; probabilities are rounded, and None where there are none."""
    entry = {"recording": result.name, "file": spelled(result.path), "lead": result.lead}
    if result.prediction is None:
        return entry | {"cannot_be_read": result.error}
    names, whole, windows = result.prediction

    def of_answer(answer: Answer) -> dict[str, Any]:
        values = [None if math.isnan(p) else round(float(p), 6) for p in answer.probabilities]
        return {
            "start_s": answer.start, "stop_s": answer.stop, "answer": list(answer.classes),
            "cannot_tell": answer.reason, "probabilities": dict(zip(names, values, strict=True)),
        }  # fmt: skip

    entry |= {"fs": result.fs} | of_answer(whole)
    if len(windows) > 1:
        entry["share_of_time"] = result.prediction.shares()
        entry["windows"] = [of_answer(window) for window in windows]
    return entry


def write_csv(path: Path, classes: Sequence[str], results: Sequence[Result]) -> None:
    """Write a row for each recording, and one for each window of a long recording."""
    columns = [*COLUMNS, *(f"prob_{name}" for name in classes)]
    table = pd.DataFrame([row for result in results for row in csv_rows(result)], columns=columns)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def csv_rows(result: Result) -> Iterator[dict[str, Any]]:
    """Rows of a recording: the whole first, then its windows, numbered from 1."""
    entry = json_entry(result)
    for number, values in enumerate([entry, *entry.get("windows", [])]):
        row = {"recording": result.name, "lead": result.lead, "window": number or "whole"}
        if "cannot_be_read" in entry:
            yield row | {"reason": f"cannot be read: {result.error}"}
            continue
        row |= {key: values[key] for key in ("start_s", "stop_s")}
        row |= {"answer": ";".join(values["answer"]), "reason": values["cannot_tell"]}
        yield row | {f"prob_{name}": p for name, p in values["probabilities"].items()}
