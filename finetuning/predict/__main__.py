"""Answer for recordings of one's own: which class each has, with its probability.

    python -m finetuning.predict recordings/ --csv answers.csv --plot pictures
    python -m finetuning.predict --weights jobs/beat_10/best_model.safetensors A00004.mat

From Python: `from finetuning.predict import Predictor`.
"""

import argparse
from pathlib import Path

from recordings import UNITS, as_unit
from utils import cli, names

SHIPPED = Path(__file__).parents[2] / "weights" / "af_resnet18.safetensors"
OF_EXPORT = {"weights", "export", "out", "records"}


def parse_arguments() -> argparse.Namespace:
    """Values of the flags, checked."""
    parser = cli.Parser(prog="python -m finetuning.predict", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag(
        "records", nargs="*", metavar="RECORD", help="file, WFDB record, folder, or pattern of them"
    )
    flag(
        "--weights",
        type=cli.file,
        action="append",
        metavar="FILE",
        help="of finetuning.trainer; given several times, probabilities are averaged; by default "
        f"those that come with the repository, {SHIPPED.parent.name}/{SHIPPED.name}",
    )
    flag("--fs", type=cli.positive, help="Hz, where the file does not say")
    flag("--unit", type=as_unit, choices=UNITS, help="where the file does not say")
    flag("--gain", type=cli.positive, help="of --unit adu: units per mV")
    flag("--channel", help="lead, by name or by number from 0; the first by default")
    flag(
        "--abstain",
        type=cli.share,
        default=0.5,
        help="cannot tell below this probability; unused where several classes can be true",
    )
    flag(
        "--band-pass",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut signals to the band of the recordings that the network was trained on (Challenge "
        "2017: 0.5 to 40 Hz), which takes an offset away",
    )
    flag("--csv", type=Path, metavar="FILE", help="answers, a row for each recording and window")
    flag("--json", type=Path, metavar="FILE", help="the same, and what the weights are")
    flag("--plot", type=Path, metavar="DIR", help="a picture of each recording")
    flag("--overwrite", action="store_true", help="replace files of --csv, --json and --plot")
    flag("--tta", type=cli.count, default=1, help="average over so many shifts of each recording")
    cli.add_hardware_flags(parser)
    flag("--export", choices=names.EXPORTS, help="write the network for others to run instead")
    flag("--out", type=Path, metavar="FILE", help="of --export; by default beside the weights")
    args = parser.parse_args()
    check(parser, args)
    args.weights = args.weights or [SHIPPED]
    return args


def check(parser: cli.Parser, args: argparse.Namespace) -> None:
    """Refuse flags that make no sense together, or whose files are there."""
    if not args.records and not args.export:
        parser.error("name recordings, or what to --export")
    if args.records and args.export:
        parser.error("--export takes no recordings; name them, or --export, not both")
    if args.out and not args.export:
        parser.error("argument --out: only with --export")
    if args.export and len(args.weights or [1]) > 1:
        parser.error("--export takes one --weights")
    unused = vars(args).keys() - OF_EXPORT if args.export else ()
    for name in sorted(unused):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name.replace('_', '-')}: not with --export")
    if (args.unit == "adu") != bool(args.gain):
        parser.error("--gain is of --unit adu, and needed there")
    for path in (args.csv, args.json):
        if path and (path.is_dir() or (path.exists() and not args.overwrite)):
            parser.error(f"{path} is there; name another, or give --overwrite")
    plots = args.plot.iterdir() if args.plot and args.plot.is_dir() else ()
    if any(plots) and not args.overwrite:
        parser.error(f"{args.plot} holds files; name another folder, or give --overwrite")
    if args.csv and args.csv == args.json:
        parser.error("--csv and --json name one file")


def main() -> None:
    args = parse_arguments()
    # Only now, so that --help and a mistyped flag are answered at once.
    if args.export:
        from finetuning.predict.export import export

        export(args.weights[0], args.export, args.out)
        return
    from finetuning.predict.predicting import predict

    predict(args)


def __getattr__(name: str):
    if name == "Predictor":  # torch takes a second to import, which --help need not wait for
        from finetuning.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    cli.run(main)
