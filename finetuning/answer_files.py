"""Answers as files: a CSV table for people's spreadsheets, JSON for programs."""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from finetuning.answers import Answer, Prediction
from finetuning.predictor import Predictor
from utils.files import atomic_path, sha256, write_json

WHOLE = "whole"


class Result(NamedTuple):
    """What was found of a recording.

    Attributes:
        name: to print. lead: name or number. prediction: or why there is none.
    """

    name: str
    path: Path
    lead: str
    fs: float
    prediction: Prediction | str


def write(args: argparse.Namespace, predictor: Predictor, results: Sequence[Result]) -> None:
    """The files that the flags ask for."""
    if args.csv:
        table = pd.DataFrame([row for result in results for row in rows(predictor, result)])
        with atomic_path(args.csv) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        print(f"answers: {args.csv}")
    if args.json:
        write_json(args.json, document(args, predictor, results))
        print(f"answers: {args.json}")


def rows(predictor: Predictor, result: Result) -> Iterator[dict[str, Any]]:
    """One for the whole recording, and one for each window of a long one."""
    about = {"recording": result.name, "lead": result.lead}
    if isinstance(result.prediction, str):
        yield about | {"window": WHOLE, "reason": f"cannot be read: {result.prediction}"}
        return
    whole, windows = result.prediction.whole, result.prediction.windows
    numbered = enumerate(windows, 1) if len(windows) > 1 else ()
    for window, answer in [(WHOLE, whole), *numbered]:
        found = {f"prob_{name}": p for name, p in
                 zip(result.prediction.names, answer.probabilities, strict=True)}  # fmt: skip
        times = {"window": window, "start_s": answer.start, "stop_s": answer.stop}
        said = {"answer": ";".join(answer.classes), "reason": answer.reason}
        yield about | times | said | found


def document(
    args: argparse.Namespace, predictor: Predictor, results: Sequence[Result]
) -> dict[str, Any]:
    """Everything, and which weights it comes from."""
    return {
        "weights": [{"file": str(path), "sha256": sha256(path)} for path in args.weights],
        "classes": predictor.contract.classes,
        "abstain": predictor.rule.abstain,
        "recordings": [described(result) for result in results],
    }


def described(result: Result) -> dict[str, Any]:
    about = {"recording": result.name, "file": str(result.path), "lead": result.lead}
    if isinstance(result.prediction, str):
        return about | {"cannot_be_read": result.prediction}
    prediction = result.prediction
    about |= {"fs": result.fs} | of_answer(prediction.whole, prediction.names)
    if len(prediction.windows) > 1:
        about["share_of_time"] = prediction.shares()
        about["windows"] = [of_answer(window, prediction.names) for window in prediction.windows]
    return about


def of_answer(answer: Answer, names: Sequence[str]) -> dict[str, Any]:
    probabilities = map(float, answer.probabilities)
    found = {name: None if math.isnan(p) else round(p, 6) for name, p in
             zip(names, probabilities, strict=True)}  # fmt: skip
    return {"start_s": answer.start, "stop_s": answer.stop, "answer": list(answer.classes),
            "cannot_tell": answer.reason, "probabilities": found}  # fmt: skip
