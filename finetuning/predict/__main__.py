"""Predict the classes of your own recordings, with probabilities.

python -m finetuning.predict recordings/ --csv answers.csv --plot pictures
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from finetuning.predict import ABSTAIN, SHIPPED, Predictor, results
from finetuning.predict.export import FORMATS, export
from finetuning.predict.plots import draw
from finetuning.predict.results import Result
from recordings import UNITS, Unusable, as_unit
from recordings.formats import find_records, open_recording
from recordings.text import NotARecording
from utils import cli
from utils.cli import UserError, plain
from utils.files import spelled


def parse_arguments() -> argparse.Namespace:
    """Values of the flags, checked."""
    parser = cli.Parser(prog="python -m finetuning.predict", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("records", nargs="*", metavar="RECORD", help="file, WFDB record, folder or glob pattern")
    flag("--weights", type=cli.file, action="append", help="averaged if several; default: shipped")
    flag("--fs", type=cli.positive, help="sampling rate in Hz, if the file does not state it")
    flag("--unit", type=as_unit, choices=UNITS, help="unit, if the file does not state it")
    flag("--gain", type=cli.positive, help="units per mV, for --unit adu")
    flag("--channel", help="lead, by name or number from 0; by default the ECG")
    flag("--abstain", type=cli.share, default=ABSTAIN, help="cannot tell below this probability")
    band = "filter signals to the band of the training data (Challenge 2017: 0.5 to 40 Hz)"
    flag("--band-pass", action=argparse.BooleanOptionalAction, default=True, help=band)
    flag("--csv", type=Path, metavar="FILE", help="write a row for each recording and window")
    flag("--json", type=Path, metavar="FILE", help="write the same with details of the weights")
    flag("--plot", type=Path, metavar="DIR", help="draw each recording")
    flag("--overwrite", action="store_true", help="replace files of --csv, --json and --plot")
    flag("--tta", type=cli.count, default=1, help="number of shifts to average over")
    cli.add_hardware_flags(parser)
    flag("--export", choices=list(FORMATS), help="export the network instead")
    flag("--out", type=Path, metavar="FILE", help="file of --export; default: beside the weights")
    args = parser.parse_args()
    args.weights = args.weights or [SHIPPED]
    if bool(args.records) == bool(args.export):
        parser.error("name recordings, or --export; not both")
    given = {k for k, value in vars(args).items() if value not in (parser.get_default(k), [])}
    if args.export and (given - {"weights", "export", "out"} or len(args.weights) > 1):
        parser.error("--export takes one --weights and --out, and no other flags")
    if args.out and not args.export:
        parser.error("argument --out: only with --export")
    if (args.unit == "adu") != bool(args.gain):
        parser.error("--gain is of --unit adu, and needed there")
    for path in filter(None, (args.csv, args.json, args.plot)):
        if path.exists() and not args.overwrite:
            parser.error(f"{path} exists; name another, or give --overwrite")
        if path.is_dir() and path != args.plot:
            parser.error(f"{path} is no file; name another")
    return args


def main() -> None:
    args = parse_arguments()
    if args.export:
        export(args.weights[0], args.export, args.out)
        return
    records = find_records(args.records)
    for folder in (args.csv and args.csv.parent, args.json and args.json.parent, args.plot):
        if folder:  # made before any computing, so that no result is lost
            folder.mkdir(parents=True, exist_ok=True)
    predictor = Predictor.load(
        *args.weights, device=args.device, precision=args.precision, tta=args.tta,
        abstain=args.abstain, band_pass=args.band_pass,
    )  # fmt: skip
    names, done, passed_over = short_names(list(records)), [], []
    layout = predictor.descriptions, max(9, *map(len, names))
    print(results.table_header(*layout))
    hints = args.fs, args.unit, args.gain
    try:
        for name, path in zip(names, records, strict=True):
            result = predict_file(predictor, name, path, hints, args.channel, args.plot)
            if result.foreign and not records[path]:
                passed_over.append(spelled(path.name))
                continue
            done.append(result)
            print("\n".join(map(plain, results.table_lines(done[-1], *layout))))
    finally:  # an interruption does not lose the results so far
        if args.csv and done:
            results.write_csv(args.csv, predictor.metadata.classes, done)
        if args.json and done:
            results.write_results(args.json, args.weights, args.tta, predictor, done)
    if passed_over:
        words = shorten(", ".join(passed_over), 200)
        print(f"passed over, as no tables of numbers: {plain(words)}", file=sys.stderr)
    if not done:
        raise UserError("none of the files is a recording; name one, or another folder")
    if unreadable := [result.path for result in done if not result.prediction]:
        message = f"{len(unreadable)} of {len(done)} recordings cannot be read, see above"
        if len(unreadable) == len(done) or any(records[path] for path in unreadable):
            raise UserError(message)
        print(message)


def predict_file(
    predictor: Predictor, name: str, path: Path, hints: tuple, channel: str | None,
    plots: Path | None,
) -> Result:  # fmt: skip
    """Predict a recording, and draw it in the folder `plots` if there is one; `hints` are those of
    `open_recording`."""
    try:
        recording = predictor.select_leads(open_recording(path, *hints), channel)
        prediction = predictor.predict_recording(recording)
        assumed = "no gain in the header: 200 units per mV are assumed (see --unit)"
        notes = (*recording.notes, *[assumed] * recording.uncalibrated, *prediction.notes)
        prediction = prediction._replace(notes=notes)
        for note in notes:
            print(plain(f"{name}: {note}"), file=sys.stderr)
        if plots:
            draw(plots, name, recording, predictor, prediction)
        lead = recording.leads[0] if recording.count == 1 else "all"
        return Result(name, path, lead, recording.fs, prediction)
    except Unusable as reason:
        foreign = isinstance(reason, NotARecording)
        return Result(name, path, error=str(reason), foreign=foreign)


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix if these are unique on any file system, else relative paths."""
    stems = [spelled(path.stem) for path in paths]
    if len({stem.casefold() for stem in stems}) == len(stems):
        return stems
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (links are not resolved)
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    return [spelled(os.path.relpath(path, common)) for path in absolute]


if __name__ == "__main__":
    cli.run(main)
