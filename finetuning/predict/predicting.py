"""The work of `finetuning.predict`: recordings one by one, their answers on the terminal and in
files."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from finetuning.predict import answer_files, plots
from finetuning.predict.answer_files import Result
from finetuning.predict.answer_table import Table, words_of
from finetuning.predict.predictor import Predictor
from recordings import LazyRecording, Unusable
from recordings.formats import RecordFile, find_records, lead_number, lead_order, open_recording
from utils.cli import UserError, plain
from utils.datasets import DATA_SETS
from utils.files import spelled


def predict(args: argparse.Namespace) -> None:
    """Answer for all recordings that the flags name.

    Raises:
        UserError: weights that cannot be used; at the end, see `tell_unusable`.
    """
    found = find_records(args.records)
    answer_files.make_folders(args)
    predictor = Predictor.load(
        *args.weights, device=args.device, precision=args.precision, tta=args.tta,
        abstain=args.abstain, band_pass=args.band_pass,
    )  # fmt: skip
    names, results = short_names([record.path for record in found]), []
    table = Table(predictor, max(map(len, names)))
    print(table.header())
    try:
        for name, record in zip(names, found, strict=True):
            results.append(look(args, predictor, name, record))
            print("\n".join(map(plain, table.lines(results[-1]))))
    finally:  # what was found before Ctrl-C is not lost
        if len(results) < len(found):
            print(f"stopped after {len(results)} of {len(found)} recordings")
        answer_files.write(args, predictor, results)
    tell_unusable(found, results)


def look(args: argparse.Namespace, predictor: Predictor, name: str, record: RecordFile) -> Result:
    """Answer for one recording, and draw it where the flags say so."""
    lead, fs = "", float("nan")
    try:
        recording = in_order(open_recording(record.path, args.fs, args.unit, args.gain), predictor)
        fs, number = recording.fs, choose_lead(recording, args.channel, predictor)
        lead = describe_lead(recording, number)
        if recording.uncalibrated:
            print(f"{name}: no gain in the header: 200 units per mV are assumed (see --unit)",
                  file=sys.stderr)  # fmt: skip
        prediction = predictor.predict_recording(recording, number)
        if args.plot:
            words = words_of(predictor)
            # Letters of a name that the font lacks.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                plots.draw(args.plot, name, recording, number, predictor, prediction, words)
        return Result(name, record.path, lead, fs, prediction)
    except Unusable as reason:
        return Result(name, record.path, lead, fs, str(reason))


def in_order(recording: LazyRecording, predictor: Predictor) -> LazyRecording:
    """As networks of several leads take it; raises `Unusable` where it has other leads."""
    contract = predictor.contract
    if contract.in_channels == 1:
        return recording
    known = DATA_SETS.get(contract.dataset)
    order = lead_order(recording, contract.in_channels, known.leads if known else None)
    return recording.select(order)


def choose_lead(recording: LazyRecording, channel: str | None, predictor: Predictor) -> int | None:
    """Number of the lead that the networks look at; None for all.

    Raises:
        Unusable: no such lead, or no choice of them.
    """
    wanted = predictor.contract.in_channels
    if wanted == 1:
        return lead_number(recording, channel)
    if channel is not None:
        raise Unusable(f"--channel is for networks of one lead, these take {wanted}")
    return None


def describe_lead(recording: LazyRecording, number: int | None) -> str:
    if number is None:
        return "all"
    return recording.leads[number] if recording.leads else str(number)


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names without endings, where these tell the recordings apart (on all file systems), else
    paths from the folder that holds all of them."""
    stems = [spelled(path.stem) for path in paths]
    if len({stem.casefold() for stem in stems}) == len(stems):
        return stems
    whole = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (links stay as they are)
    common = os.path.commonpath([os.path.dirname(path) for path in whole])  # noqa: PTH120
    return [spelled(os.path.relpath(path, common)) for path in whole]


def tell_unusable(found: Sequence[RecordFile], results: Sequence[Result]) -> None:
    """Say how many recordings cannot be read that were only found.

    Raises:
        UserError: none can be read, or one that was named cannot.
    """
    bad = [isinstance(result.prediction, str) for result in results]
    named = sum(record.named for record, is_bad in zip(found, bad, strict=True) if is_bad)
    if all(bad) and named < len(bad):
        raise UserError(f"0 of {len(bad)} recordings can be read, see above")
    if sum(bad) > named:
        print(f"{sum(bad) - named} of {len(found)} recordings cannot be read, see above")
    if named:
        raise UserError(f"{named} of the recordings named cannot be read, see above")
