"""Validate detectors of atrial fibrillation on a database of another device and lead.

A window of 30 s is AF if the annotators marked all of it as fibrillation, and not AF if they marked
none of it so; others do not count in the scores. Flutter is not AF: class A of Challenge 2017 is
fibrillation alone (Clifford et al. 2017). MIT-BIH's signals lie 0.1 to 1.1 mV below zero, an offset
that the Challenge's device filters out: see --band-pass.

With --labels, a part of a prepared set, its recordings are instead read from their own files in
--records, answered as `finetuning.predict` does, and scored in all their classes.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import wfdb
from tqdm import tqdm

from finetuning.predict import BATCH, WINDOW, Predictor
from finetuning.prepared_set import PreparedSet, load_prepared
from recordings import Unusable
from recordings.annotations import ALPHABETS, FIBRILLATION, SAME_SUBJECT
from recordings.formats import open_recording, read_recording
from recordings.wfdb_files import read_atr
from utils import cli, metrics
from utils.cli import UserError
from utils.files import summary, write_text
from utils.model_card import UNKNOWN

CLASS = "A"  # of Challenge 2017: fibrillation
AF, NOT_AF, MIXED = "AF", "not AF", "mixed"


def main() -> None:
    command = "python -m finetuning.predict.external_validation"
    parser = cli.Parser(prog=command, description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--weights", type=cli.file, required=True, action="append", help="averaged if several")
    flag("--records", type=cli.existing, required=True, help="folder of WFDB records")
    flag("--source", choices=list(ALPHABETS), default="mitdb", help="wfdb: any other database")
    about = "prepared part: score its recordings, read from their files in --records"
    flag("--labels", type=cli.file, metavar="FILE", help=about)
    flag("--channel", type=cli.count_or_zero, default=0, help="lead, counted from 0")
    flag("--band-pass", action="store_true", help="keep 0.5 to 40 Hz, as the Challenge's device")
    flag("--out", type=Path, required=True, help="table to write, .csv or .csv.gz")
    cli.add_hardware_flags(parser)
    flag("--overwrite", action="store_true", help="replace an existing table")
    args = parser.parse_args()
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; choose another --out, or --overwrite it")
    hardware = {"device": args.device, "precision": args.precision}
    predictor = Predictor.load(*args.weights, **hardware, band_pass=args.band_pass)
    if args.labels:
        if args.channel or args.source != parser.get_default("source"):
            parser.error("--source and --channel are not for --labels")
        table = predict_part(predictor, args.records, load_prepared(args.labels))
        write_table(args.out, table)
        return
    metadata = predictor.metadata
    if metadata.multi_label or CLASS not in metadata.classes or metadata.in_channels != 1:
        raise UserError(f"{args.weights[0]} does not detect {CLASS} in one lead; name other files")
    if any(args.source in network.metadata.lineage for network in predictor.networks):
        raise UserError(f"weights derive from {args.source} and know its subjects; name others")
    tables, left_out = [], []
    for path in tqdm(sorted(args.records.glob("*.hea")), "predicting", disable=None):
        try:
            record = path.with_suffix("")
            tables.append(predict_windows(predictor, record, args.source, args.channel))
        except Unusable as reason:
            left_out.append({"record": path.stem, "reason": str(reason)})
    if not tables:
        reasons = summary(left_out) if left_out else "it holds no .hea files"
        raise UserError(f"{args.records}: no record can be used ({reasons})")
    table = pd.concat(tables, ignore_index=True)
    write_table(args.out, table)
    counts = ", ".join(f"{n} {truth}" for truth, n in table["truth"].value_counts().items())
    print(f"{len(tables)} records of {table['subject'].nunique()} subjects, windows: {counts}")
    table = table[table["truth"].isin([AF, NOT_AF])]
    columns = table["truth"] == AF, table["answer"] == CLASS, table[f"prob_{CLASS}"]
    scores = metrics.detection(*(column.to_numpy() for column in columns))
    print(", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    if left_out:
        print(summary(left_out), file=sys.stderr)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write CSV; equal tables are equal files."""
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def predict_windows(predictor: Predictor, record: Path, source: str, channel: int) -> pd.DataFrame:
    """Predict all whole windows of a record, a row each; raises `Unusable` where that fails."""
    recording, rhythms = read_recording(record), read_rhythms(read_atr(record))
    fs, lead = recording.fs, recording.signal[:, channel : channel + 1]
    length = round(WINDOW * fs)
    if ALPHABETS[source].fs not in (None, fs):
        raise Unusable(f"{fs:g} Hz, not {ALPHABETS[source].fs} as {source}")
    if lead.size < length:
        raise Unusable(f"no lead {channel} of {WINDOW} s or more")
    starts = range(0, len(lead) - length + 1, length)
    windows = [lead[start : start + length] for start in starts]
    batches = [windows[first : first + BATCH] for first in range(0, len(windows), BATCH)]
    probabilities = np.concatenate([predictor.probabilities(batch, fs) for batch in batches])
    names, classes = [within(rhythms, s, s + length) for s in starts], predictor.metadata.classes
    bands = sorted({network.band for network in predictor.networks} - {None})
    return pd.DataFrame({
        "record": record.name,
        "subject": SAME_SUBJECT.get(source, {}).get(record.name, record.name),
        "start": np.arange(len(windows)) * WINDOW,
        "signal": " or ".join(f"{a:g} to {b:g} Hz" for a, b in bands) or "as it is",
        "rhythms": list(map(" ".join, names)),
        "truth": list(map(truth, names)),
        "answer": np.array(classes)[probabilities.argmax(1)],
        **{f"prob_{name}": p for name, p in zip(classes, probabilities.T, strict=True)},
    })  # fmt: skip


def predict_part(predictor: Predictor, folder: Path, part: PreparedSet) -> pd.DataFrame:
    """Answer the recordings of a prepared part from their files, as `finetuning.predict` does, and
    print the scores: of the most probable class of all recordings (signals that cannot be used have
    none), and of the answers alone, without "cannot tell"."""
    whole, classes = [], predictor.metadata.classes
    if predictor.metadata.multi_label or part.classes.tolist() != classes:
        raise UserError(f"--labels has classes {part.classes.tolist()}, the network {classes}")
    for name in tqdm(part.record_ids, "predicting", disable=None):
        recording = predictor.select_leads(open_recording(folder / name))
        whole.append(predictor.predict_recording(recording).whole)
    probabilities, present = np.array([w.probabilities for w in whole]), part.y > 0
    most = probabilities == probabilities.max(1, keepdims=True)  # NaN equals nothing
    told = np.array([w.reason is None for w in whole])
    print(f"cannot tell: {(~told).sum()} of {len(told)}, {np.isnan(probabilities).any(1).sum()} of"
          " them because of the signal")  # fmt: skip
    seen, cinc3 = present.any(0), np.isin(classes, metrics.CINC3)
    for words, rows in (("most probable class", told | True), ("answers", told)):
        f1 = metrics.f1_of_columns(present[rows], most[rows])
        by_class = ", ".join(f"{name} {value:.3f}" for name, value in zip(classes, f1, strict=True))
        means = f"macro F1 {f1[seen].mean():.3f}, CinC-3 {f1[seen & cinc3].mean():.3f}"
        print(f"{words}: {rows.sum()} recordings, {means}, F1 {by_class}")
    return pd.DataFrame({
        "record": part.record_ids, "truth": part.classes[part.y.argmax(1)],
        "answer": ["".join(w.classes) for w in whole], "reason": [w.reason or "" for w in whole],
        **{f"prob_{name}": p for name, p in zip(classes, probabilities.T, strict=True)},
    })  # fmt: skip


def read_rhythms(marks: wfdb.Annotation) -> dict[int, str]:
    """Rhythms by start sample, of notes such as `(AFIB`, which hold until the next; `Unusable` if
    there are none, or if they have ends, as in Icentia11k."""
    pairs = zip(marks.sample, marks.symbol, marks.aux_note, strict=True)
    notes = {int(at): note.strip("\0 ") for at, symbol, note in pairs if symbol == "+"}
    rhythms = {at: notes[at][1:] for at in sorted(notes) if notes[at].startswith("(")}
    if not rhythms or ")" in "".join(notes.values()):
        raise Unusable("no rhythm annotations, or those of Icentia11k, which end")
    return rhythms


def within(rhythms: dict[int, str], start: int, stop: int) -> list[str]:
    """Distinct rhythms within samples [start, stop), in the order of appearance."""
    names = [UNKNOWN, *rhythms.values()]  # before the first mark it is unknown
    first, end = np.searchsorted(list(rhythms), (start + 1, stop))
    return list(dict.fromkeys(names[first : end + 1]))


def truth(rhythms: list[str]) -> str:
    """AF if fibrillation is the only rhythm, not AF if it does not occur, else mixed or unknown."""
    if UNKNOWN in rhythms:
        return UNKNOWN
    if FIBRILLATION not in rhythms:
        return NOT_AF
    return AF if len(rhythms) == 1 else MIXED


if __name__ == "__main__":
    cli.run(main)
