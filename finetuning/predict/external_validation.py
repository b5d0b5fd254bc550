"""Validate detectors of atrial fibrillation on a database of another device and lead.

    python -m finetuning.predict.external_validation \\
        --weights jobs/random_10/best_model.safetensors --records data/mitdb \\
        --out report/results/crosscheck/random_10.csv.gz

Each record is cut into windows of 30 s, the usual length in Challenge 2017; the answer is the class
with the highest probability, averaged over the weights. The rules:

- The truth is the rhythm that the annotators marked; a mark holds until the next (Moody & Mark
  2001). A window is AF if all of it is fibrillation, and not AF if none of it is. Mixed windows,
  and those that begin before the first mark, are in the table but not in the scores.
- Flutter is not AF: class A of the Challenge is fibrillation alone (Clifford et al. 2017).
- The first lead of MIT-BIH is MLII, but V5 in records 102, 104 and 114; the Challenge has lead I.
- MIT-BIH's signals lie 0.1 to 1.1 mV below zero, an offset that the device of the Challenge filters
  out; --band-pass filters each window alike (0.5 to 40 Hz).
- Records 201 and 202 are one subject. Paced records (102, 104, 107, 217) are kept.
- Weights whose encoder was pretrained on the same database know these subjects and are refused.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from finetuning.predict import BATCH, WINDOW, Predictor
from recordings import Unusable
from recordings.annotations import ALPHABETS, FIBRILLATION, FLUTTER, SAME_SUBJECT
from recordings.formats import read_recording
from recordings.wfdb_files import read_atr
from utils import cli, metrics
from utils.cli import UserError
from utils.files import summary, write_text
from utils.model_card import UNKNOWN, Metadata

CLASS = "A"  # of Challenge 2017: fibrillation
AF, NOT_AF, MIXED = "AF", "not AF", "mixed"


def main() -> None:
    command, description = (
        "python -m finetuning.predict.external_validation",
        __doc__.split("\n")[0],
    )
    parser = cli.Parser(prog=command, description=description)
    flag = parser.add_argument
    flag("--weights", type=cli.file, required=True, action="append", help="averaged if several")
    flag("--records", type=cli.existing, required=True, help="folder of WFDB records")
    flag("--source", choices=list(ALPHABETS), default="mitdb", help="wfdb: any other database")
    flag("--channel", type=cli.count_or_zero, default=0, help="lead, counted from 0")
    flag("--band-pass", action="store_true", help="keep 0.5 to 40 Hz, as the Challenge's device")
    flag("--out", type=Path, required=True, help="table to write, .csv or .csv.gz")
    cli.add_hardware_flags(parser)
    flag("--overwrite", action="store_true", help="replace an existing table")
    args = parser.parse_args()
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; choose another --out, or --overwrite it")
    predictor = Predictor.load(
        *args.weights, device=args.device, precision=args.precision, band_pass=args.band_pass
    )
    for path, network in zip(args.weights, predictor.networks, strict=True):
        check_unseen(path, network.metadata, args.source)
    tables, left_out = [], []
    records = sorted(path.with_suffix("") for path in args.records.glob("*.hea"))
    for record in tqdm(records, "predicting", unit="record", disable=None):
        try:
            tables.append(predict_windows(predictor, record, args.source, args.channel))
        except Unusable as reason:
            left_out.append({"record": record.name, "reason": str(reason)})
    if not tables:
        reasons = summary(left_out) if records else "it holds no .hea files"
        raise UserError(f"{args.records}: no record can be used ({reasons})")
    table = pd.concat(tables, ignore_index=True)
    write_text(args.out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    print_scores(table)
    if left_out:
        print(summary(left_out), file=sys.stderr)
    print(f"written: {args.out}")


def check_unseen(path: Path, metadata: Metadata, source: str) -> None:
    """Warn if it is not recorded whether weights were made without the database `source`.

    Raises:
        UserError: they were made with it, or the network does not detect fibrillation in one lead.
    """
    if metadata.multi_label or CLASS not in metadata.classes or metadata.in_channels != 1:
        raise UserError(f"{path} does not detect {CLASS} in one lead; use weights of challenge17")
    if source in metadata.lineage:
        raise UserError(f"{path} derives from {source} and knows its subjects; name other weights")
    if UNKNOWN in metadata.lineage:
        warning = f"warning: {path} does not say what its encoder was pretrained on; if that was"
        print(warning, f"{source}, these scores are worthless", file=sys.stderr)


def predict_windows(predictor: Predictor, record: Path, source: str, channel: int) -> pd.DataFrame:
    """Predict all whole windows of a record, a row each.

    Raises:
        Unusable: the record is not annotated, of another rate, too short, or has no such lead.
    """
    recording, marks = read_recording(record), read_atr(record)
    rhythms = read_rhythms(marks.sample, marks.symbol, marks.aux_note)
    fs, lead = recording.fs, recording.signal[:, channel : channel + 1]
    length = round(WINDOW * fs)
    if ALPHABETS[source].fs not in (None, fs):
        raise Unusable(f"{fs:g} Hz, not {ALPHABETS[source].fs} as {source}")
    if not lead.size:
        raise Unusable(f"no lead {channel}")
    if len(lead) < length:
        raise Unusable(f"shorter than a window of {WINDOW} s")
    bands = {network.band for network in predictor.networks} - {None}
    starts = range(0, len(lead) - length + 1, length)
    windows = [lead[start : start + length] for start in starts]
    batches = [windows[first : first + BATCH] for first in range(0, len(windows), BATCH)]
    probabilities = np.concatenate([predictor.probabilities(batch, fs) for batch in batches])
    names, classes = [within(rhythms, s, s + length) for s in starts], predictor.metadata.classes
    return pd.DataFrame({
        "record": record.name,
        "subject": SAME_SUBJECT.get(source, {}).get(record.name, record.name),
        "start": np.arange(len(windows)) * WINDOW,
        "signal": " or ".join(f"{a:g} to {b:g} Hz" for a, b in sorted(bands)) or "as it is",
        "rhythms": list(map(" ".join, names)),
        "truth": list(map(truth, names)),
        "answer": np.array(classes)[probabilities.argmax(1)],
        **{f"prob_{name}": p for name, p in zip(classes, probabilities.T, strict=True)},
    })  # fmt: skip


def read_rhythms(
    samples: Sequence[int], symbols: Sequence[str], notes: Sequence[str]
) -> dict[int, str]:
    """Rhythms by start sample; each holds until the next.

    Rhythm marks are annotations of symbol `+` with a note such as `(AFIB`; other notes (such as
    MISSB of MIT-BIH) are ignored. Of several marks at one sample the last holds.

    Raises:
        Unusable: no marks, marks out of order, or marks that end a rhythm, as in Icentia11k.
    """
    rhythms = {}
    for sample, symbol, note in zip(samples, symbols, notes, strict=True):
        note = note.strip("\0 ")
        if symbol == "+" and ")" in note:
            raise Unusable("rhythm annotations that end, which only Icentia11k's do")
        if symbol == "+" and note.startswith("("):
            rhythms[int(sample)] = note[1:]
    if list(rhythms) != sorted(rhythms) or not rhythms:
        raise Unusable("rhythm annotations out of order" if rhythms else "no rhythm annotations")
    return rhythms


def within(rhythms: dict[int, str], start: int, stop: int) -> list[str]:
    """Distinct rhythms within samples [start, stop), in the order of appearance."""
    names = [UNKNOWN, *rhythms.values()]  # before the first mark it is unknown
    first, end = np.searchsorted(list(rhythms), (start + 1, stop))
    return list(dict.fromkeys(names[first : end + 1]))


def truth(rhythms: Sequence[str]) -> str:
    """AF if fibrillation is the only rhythm, not AF if it does not occur, else mixed or unknown."""
    if UNKNOWN in rhythms:
        return UNKNOWN
    if FIBRILLATION not in rhythms:
        return NOT_AF
    return AF if len(rhythms) == 1 else MIXED


def print_scores(table: pd.DataFrame) -> None:
    """Print scores over the windows that count, and the answers for those with flutter."""
    counted = table[table["truth"].isin([AF, NOT_AF])]
    others = Counter(table["truth"].drop(counted.index))
    true, answered = counted["truth"] == AF, counted["answer"] == CLASS
    records, subjects = counted["record"].nunique(), counted["subject"].nunique()
    print(f"{records} records of {subjects} subjects: {true.sum()} windows AF, "
          f"{(~true).sum()} not; not counted: {_listed(others)}")  # fmt: skip
    columns = true, answered, counted[f"prob_{CLASS}"]
    scores = metrics.detection(*(column.to_numpy() for column in columns))
    print(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    flutter = counted[~true & counted["rhythms"].map(lambda names: FLUTTER in names.split())]
    print(f"{len(flutter)} windows with flutter, answered: {_listed(Counter(flutter['answer']))}")


def _listed(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    cli.run(main)
