"""Answers as files: a CSV table for people's spreadsheets, JSON for programs."""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from finetuning.predict.answers import Answer, Prediction
from finetuning.predict.predictor import Predictor
from utils.cli import UserError
from utils.files import sha256, spelled, write_json, write_text

WHOLE = "whole"
COLUMNS = ["recording", "lead", "window", "start_s", "stop_s", "answer", "reason"]


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


def make_folders(args: argparse.Namespace) -> None:
    """For all that the flags ask for, so that no answers are found in vain.

    Raises:
        UserError, OSError: one cannot be made, or written to.
    """
    files = [path for path in (args.csv, args.json) if path]
    for folder in [*(path.parent for path in files), *([args.plot] if args.plot else [])]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{folder} is a file; name a folder") from None
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder} cannot be written to; name another folder")


def write(args: argparse.Namespace, predictor: Predictor, results: Sequence[Result]) -> None:
    """The files that the flags ask for; without any results none, so that none is replaced."""
    if args.csv and results:
        names = predictor.rule.names
        columns = [*COLUMNS, *(f"prob_{name}" for name in names)]
        found = [row for result in results for row in rows(result)]
        table = pd.DataFrame(found, columns=columns)
        write_text(args.csv, table.to_csv(index=False, lineterminator="\n"))
        print(f"answers: {args.csv}")
    if args.json and results:
        write_json(args.json, document(args, predictor, results))
        print(f"answers: {args.json}")


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """One for the whole recording, and one for each window of a long one."""
    about = {"recording": result.name, "lead": result.lead}
    if isinstance(result.prediction, str):
        yield about | {"window": WHOLE, "reason": f"cannot be read: {result.prediction}"}
        return
    whole, windows = result.prediction.whole, result.prediction.windows
    numbered = enumerate(windows, 1) if len(windows) > 1 else ()
    for window, answer in [(WHOLE, whole), *numbered]:
        found = rounded(answer, result.prediction.names)
        times = {"window": window, "start_s": answer.start, "stop_s": answer.stop}
        said = {"answer": ";".join(answer.classes), "reason": answer.reason}
        yield about | times | said | {f"prob_{name}": p for name, p in found.items()}


def document(
    args: argparse.Namespace, predictor: Predictor, results: Sequence[Result]
) -> dict[str, Any]:
    """Everything, and which weights it comes from."""
    return {
        "weights": [{"file": spelled(path), "sha256": sha256(path)} for path in args.weights],
        "classes": predictor.contract.classes,
        "abstain": predictor.rule.abstain,
        "tta": args.tta,
        "band_pass_hz": [member.band for member in predictor.members],
        "recordings": [described(result) for result in results],
    }


def described(result: Result) -> dict[str, Any]:
    about = {"recording": result.name, "file": spelled(result.path), "lead": result.lead}
    if isinstance(result.prediction, str):
        return about | {"cannot_be_read": result.prediction}
    prediction = result.prediction
    about |= {"fs": result.fs} | of_answer(prediction.whole, prediction.names)
    if len(prediction.windows) > 1:
        about["share_of_time"] = prediction.shares()
        about["windows"] = [of_answer(window, prediction.names) for window in prediction.windows]
    return about


def of_answer(answer: Answer, names: Sequence[str]) -> dict[str, Any]:
    return {"start_s": answer.start, "stop_s": answer.stop, "answer": list(answer.classes),
            "cannot_tell": answer.reason, "probabilities": rounded(answer, names)}  # fmt: skip


def rounded(answer: Answer, names: Sequence[str]) -> dict[str, float | None]:
    """Probabilities by class, None where there are none."""
    pairs = zip(names, map(float, answer.probabilities), strict=True)
    return {name: None if math.isnan(p) else round(p, 6) for name, p in pairs}
