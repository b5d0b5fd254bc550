"""Windows of an annotated database, as networks answer them, to a table and scores."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from finetuning.predict.predictor import BATCH, Predictor
from finetuning.predict.rhythms import AF, CLASS, NOT_AF, read_rhythms, truth, within
from finetuning.predict.windows import WINDOW
from recordings import Unusable
from recordings.annotations import ALPHABETS, FLUTTER, SAME_SUBJECT
from recordings.formats import read_recording
from recordings.wfdb_files import read_atr
from utils import metrics
from utils.cli import UserError
from utils.contract import Contract
from utils.datasets import UNKNOWN
from utils.files import summary, write_text


def crosscheck(args: argparse.Namespace) -> None:
    """Answer, write and score as the flags of `finetuning.predict.external_validation` say."""
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; choose another --out, or --overwrite it")
    predictor = Predictor.load(
        *args.weights, device=args.device, precision=args.precision, band_pass=args.band_pass
    )
    unsure = []
    for path, member in zip(args.weights, predictor.members, strict=True):
        check_contract(path, member.contract)
        unsure += [] if is_unseen(path, member.contract, args.source) else [path]
    records = sorted(path.with_suffix("") for path in args.records.glob("*.hea"))
    rows, left_out = [], []
    for record in tqdm(records, "answering", unit="record", disable=None):
        try:
            rows += answer(predictor, record, args.source, args.channel)
        except Unusable as reason:
            left_out.append({"record": record.name, "reason": str(reason)})
    if not rows:
        found = summary(left_out) if records else "it holds no .hea files"
        raise UserError(f"{args.records}: no record can be used ({found})")
    table = pd.DataFrame(rows)
    write_text(args.out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    print_scores(table)
    for path in unsure:
        print(
            f"warning: {path} does not say what its encoder was pretrained on; if that was "
            f"{args.source}, these scores are worthless",
            file=sys.stderr,
        )
    if left_out:
        print(summary(left_out), file=sys.stderr)
    print(f"written: {args.out}")


def check_contract(path: Path, contract: Contract) -> None:
    """Raises `UserError` unless a network tells fibrillation from one lead."""
    if contract.multi_label or CLASS not in contract.classes:
        raise UserError(f"{path} has no class {CLASS}; name weights fine-tuned on challenge17")
    if contract.in_channels != 1:
        raise UserError(f"{path} needs {contract.in_channels} leads; name weights for one")


def is_unseen(path: Path, contract: Contract, source: str) -> bool:
    """Whether it is known that a network was made without `source`.

    Raises:
        UserError: it is known that it was not.
    """
    if source in contract.lineage:
        raise UserError(f"{path} derives from {source} and knows its subjects; name other weights")
    return UNKNOWN not in contract.lineage


def answer(
    predictor: Predictor, record: Path, source: str, channel: int
) -> Iterator[dict[str, Any]]:
    """A row for each whole window of a record.

    Raises:
        Unusable: no annotated recording of `source` with such a lead and a window's length.
    """
    recording = read_recording(record)
    marks = read_atr(record)
    rhythms = read_rhythms(marks.sample, marks.symbol, marks.aux_note)
    if ALPHABETS[source].fs not in (None, recording.fs):
        raise Unusable(f"{recording.fs:g} Hz, not {ALPHABETS[source].fs} as {source}")
    if channel >= recording.signal.shape[1]:
        raise Unusable(f"no lead {channel}")
    lead, length = recording.signal[:, [channel]], round(WINDOW * recording.fs)
    if len(lead) < length:
        raise Unusable(f"shorter than a window of {WINDOW} s")
    subject = SAME_SUBJECT.get(source, {}).get(record.name, record.name)
    bands = {member.band for member in predictor.members} - {None}
    signal = " or ".join(f"{low:g} to {high:g} Hz" for low, high in sorted(bands)) or "as it is"
    starts = range(0, len(lead) - length + 1, length)
    windows = [lead[start : start + length] for start in starts]
    some = [windows[first : first + BATCH] for first in range(0, len(windows), BATCH)]
    found = np.concatenate([predictor.probabilities(each, recording.fs) for each in some])
    for start, probabilities in zip(starts, found, strict=True):
        held = within(rhythms, start, start + length)
        yield {
            "record": record.name, "subject": subject, "start": start // length * WINDOW,
            "signal": signal,
            "rhythms": " ".join(held), "truth": truth(held),
            "answer": predictor.rule.names[int(probabilities.argmax())],
            **{f"prob_{name}": p for name, p in
               zip(predictor.rule.names, probabilities, strict=True)},
        }  # fmt: skip


def print_scores(table: pd.DataFrame) -> None:
    """Scores over all windows that count, and how those of flutter were answered."""
    counted = table[table["truth"].isin([AF, NOT_AF])]
    left_out = table.loc[~table.index.isin(counted.index), "truth"].value_counts()
    true, answered = counted["truth"] == AF, counted["answer"] == CLASS
    print(
        f"{counted['record'].nunique()} records of {counted['subject'].nunique()} subjects: "
        f"{true.sum()} windows AF, {(~true).sum()} not; not counted: "
        + (", ".join(f"{count} {name}" for name, count in left_out.items()) or "none")
    )
    scores = metrics.detection(
        *(part.to_numpy() for part in (true, answered, counted[f"prob_{CLASS}"]))
    )
    print(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    flutter = counted[~true & counted["rhythms"].str.split().map(lambda names: FLUTTER in names)]
    answers = ", ".join(f"{count} {name}" for name, count in Counter(flutter["answer"]).items())
    print(f"{len(flutter)} windows with flutter, answered: {answers or 'none'}")
