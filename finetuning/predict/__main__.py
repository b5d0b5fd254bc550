"""Predict the classes of your own recordings, with probabilities.

    python -m finetuning.predict recordings/ --csv answers.csv --plot pictures
    python -m finetuning.predict --weights jobs/beat_10/best_model.safetensors A00004.mat

From Python: `from finetuning.predict import Predictor`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finetuning.predict import Predictor
from finetuning.predict.export import FORMATS, export
from finetuning.predict.plots import draw
from finetuning.predict.results import Result, Table, class_descriptions, write_csv, write_results
from recordings import UNITS, Unusable, as_unit
from recordings.formats import RecordFile, find_records, open_recording
from utils import cli
from utils.cli import UserError, plain
from utils.files import spelled

SHIPPED = Path(__file__).parents[2] / "weights" / "af_resnet18.safetensors"
OF_EXPORT = {"weights", "export", "out", "records"}


def parse_arguments() -> argparse.Namespace:
    """Values of the flags, checked."""
    parser = cli.Parser(prog="python -m finetuning.predict", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("records", nargs="*", metavar="RECORD", help="file, WFDB record, folder or glob pattern")
    several = f"probabilities of several are averaged; {SHIPPED.name} by default"
    flag("--weights", type=cli.file, action="append", metavar="FILE", help=several)
    flag("--fs", type=cli.positive, help="sampling rate in Hz, if the file does not state it")
    flag("--unit", type=as_unit, choices=UNITS, help="unit, if the file does not state it")
    flag("--gain", type=cli.positive, help="units per mV, for --unit adu")
    flag("--channel", help="lead, by name or by number from 0; the first by default")
    flag("--abstain", type=cli.share, default=0.5, help="cannot tell below this probability")
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
    if bool(args.records) == bool(args.export):
        parser.error("name recordings, or --export; not both")
    if args.export:
        given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
        for name in sorted(set(given) - OF_EXPORT):
            parser.error(f"argument --{name.replace('_', '-')}: not with --export")
    elif args.out:
        parser.error("argument --out: only with --export")
    if args.export and len(args.weights or [SHIPPED]) > 1:
        parser.error("--export takes one --weights")
    if (args.unit == "adu") != bool(args.gain):
        parser.error("--gain is of --unit adu, and needed there")
    if args.csv and args.csv == args.json:
        parser.error("--csv and --json name one file")
    for path in (args.csv, args.json):
        if path and path.is_dir():
            parser.error(f"{path} is a folder; name a file")
    outputs = [path for path in (args.csv, args.json) if path and path.exists()]
    outputs += args.plot.iterdir() if args.plot and args.plot.is_dir() else []
    if outputs and not args.overwrite:
        parser.error(f"{outputs[0]} exists; name another, or give --overwrite")
    args.weights = args.weights or [SHIPPED]
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
    names, results = short_names([record.path for record in records]), []
    table = Table(class_descriptions(predictor), max(map(len, names)))
    print(table.header())
    try:
        for name, record in zip(names, records, strict=True):
            hints = args.fs, args.unit, args.gain
            result = predict_file(predictor, name, record.path, hints, args.channel, args.plot)
            results.append(result)
            print("\n".join(map(plain, table.lines(result))))
    finally:  # an interruption does not lose the results so far
        if len(results) < len(records):
            print(f"stopped after {len(results)} of {len(records)} recordings")
        if args.csv and results:
            write_csv(args.csv, predictor.metadata.classes, results)
            print(f"answers: {args.csv}")
        if args.json and results:
            write_results(args.json, args.weights, args.tta, predictor, results)
            print(f"answers: {args.json}")
    report_unreadable(records, results)


def predict_file(
    predictor: Predictor,
    name: str,
    path: Path,
    hints: tuple[float | None, str | None, float | None] = (None, None, None),
    channel: str | None = None,
    plots: Path | None = None,
) -> Result:
    """Predict one recording, and draw it in the folder `plots` if there is one.

    Args:
        hints: sampling rate, unit and gain, as `open_recording` takes them.
        channel: name or number of the lead.
    """
    result = Result(name, path)
    try:
        recording = predictor.select_leads(open_recording(path, *hints), channel)
        lead = recording.leads[0] if recording.count == 1 else "all"
        result = result._replace(lead=lead, fs=recording.fs)
        if recording.uncalibrated:
            message = f"{name}: no gain in the header: 200 units per mV are assumed (see --unit)"
            print(message, file=sys.stderr)
        prediction = predictor.predict_recording(recording)
        if plots:
            draw(plots, name, recording, predictor, prediction)
        return result._replace(prediction=prediction)
    except Unusable as reason:
        return result._replace(error=str(reason))


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix if these are unique on any file system, else relative paths."""
    stems = [spelled(path.stem) for path in paths]
    if len({stem.casefold() for stem in stems}) == len(stems):
        return stems
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (links are not resolved)
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    return [spelled(os.path.relpath(path, common)) for path in absolute]


def report_unreadable(records: Sequence[RecordFile], results: Sequence[Result]) -> None:
    """Print how many recordings of folders and patterns are unreadable.

    Raises:
        UserError: no recording can be read, or one that the user named cannot.
    """
    unreadable = [record for record, r in zip(records, results, strict=True) if not r.prediction]
    named = sum(record.named for record in unreadable)
    scanned = len(unreadable) - named
    if scanned and len(unreadable) == len(records):
        raise UserError(f"0 of {len(records)} recordings can be read, see above")
    if scanned:
        print(f"{scanned} of {len(records)} recordings cannot be read, see above")
    if named:
        raise UserError(f"{named} of the recordings named cannot be read, see above")


if __name__ == "__main__":
    cli.run(main)
