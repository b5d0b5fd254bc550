"""Pretrain an encoder on annotated single-lead recordings.

    python -m pretraining.trainer --job-dir jobs/beat --task beat --train data/icentia11k

Writes args.json, manifest.json, history.csv, timing.csv, epoch_NN/model.safetensors and
weights.safetensors: the chosen epoch without its classifier.
"""

import argparse
from pathlib import Path

from pretraining.tasks import TASKS
from utils import cli
from utils.run import ARGUMENTS

VALIDATION_FLAGS = ("val_size", "val_samples_per_patient", "cache_val")


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m pretraining.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser, "pretraining")
    flag = parser.add_argument
    flag("--task", choices=TASKS, required=True, help="objective")
    add_data_flags(parser)
    flag("--batch-size", type=cli.count, default=64, help="examples, of all processes together")
    flag(
        "--steps-per-epoch",
        type=cli.count,
        help="by default 1000, or one pass over the patients where that is less",
    )
    flag("--epochs", type=cli.count, help="by default as many as one pass over the patients takes")
    flag("--val-metric", choices=("loss", "acc", "f1"), default="loss", help="chooses the epoch")
    add_context_flags(parser)
    cli.add_network_flags(parser)
    flag(
        "--spectrogram-input",
        choices=("normalized", "raw"),
        default="normalized",
        help="[2-D] raw: millivolt as they are, as the replication pretrained",
    )
    flag(
        "--standardise",
        choices=("dataset", "frame"),
        default="dataset",
        help="by whose mean and deviation: frame: of each its own",
    )
    return parser


def parse_arguments() -> argparse.Namespace:
    """Values of the flags, checked."""
    parser = make_parser()
    args = parser.parse_with_preset("pretraining")
    check(parser, args)
    return args


def add_data_flags(parser: cli.Parser) -> None:
    """Which examples are trained and validated on."""
    flag = parser.add_argument
    flag("--train", type=cli.existing, required=True, help="Icentia11k, or a set in its layout")
    flag(
        "--unzipped",
        action="store_true",
        help="as in earlier commands; unzipped files of the torrent are found without it",
    )
    flag("--index", type=Path, help="folder of the annotation index; by default in the data set")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag(
        "--val-patients",
        type=cli.share_or_count,
        default=0.05,
        help="share or number of the patients that validate and never train; 0 for none",
    )
    flag(
        "--val-patient-ids",
        type=cli.id_list,
        help="patients that validate, besides those of --patient-ids, which train",
    )
    flag("--val-size", type=cli.count, help="examples to validate on, shared by those patients")
    flag("--cache-val", type=Path, help="write them to this file (.npz), or --overwrite it")
    flag("--val-file", type=cli.file, help="validate on these; their patients never train")
    flag("--frame-size", type=cli.count, default=2048, help="samples at 250 Hz")
    flag("--samples-per-patient", type=cli.count, default=4096, help="examples of each in one pass")
    flag(
        "--val-samples-per-patient",
        type=cli.count,
        help="the same for validation; by default so many that they are a quarter of an epoch,"
        " at most --samples-per-patient",
    )
    flag(
        "--data-parallelism",
        type=cli.count_or_zero,
        default=0,
        help="processes that read data; the frames do not depend on it",
    )


def add_context_flags(parser: cli.Parser) -> None:
    """Frames of an example of CPC."""
    flag = parser.add_argument
    flag("--context-size", type=cli.count, default=8, help="[cpc] frames of context")
    flag(
        "--context-overlap", type=cli.count_or_zero, default=0, help="[cpc] samples, of neighbours"
    )
    flag(
        "--positive-offset",
        type=cli.count_or_zero,
        default=0,
        help="[cpc] frames left out between the context and the frame to find",
    )
    flag("--ns", type=cli.count, default=1, help="[cpc] other frames that it is found among")


def check(parser: cli.Parser, args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, or would do nothing."""
    if args.task != "cpc":
        parser.refuse(TASKS["cpc"].flags(), "only for --task cpc")
    elif args.context_overlap >= args.frame_size:
        parser.error("argument --context-overlap: must be below --frame-size")
    cli.check_shared_flags(parser, args)
    if args.standardise == "frame":
        parser.refuse(["spectrogram_input"], "not with --standardise frame")
    if args.val_file:
        others = ["val_patients", "val_patient_ids", *VALIDATION_FLAGS]
        parser.refuse(others, "--val-file says who validates")
    elif args.val_patient_ids:
        parser.refuse(["val_patients"], "--val-patient-ids says who validates")
        both = set(args.val_patient_ids) & set(args.patient_ids or ())
        if both:
            parser.error(f"argument --val-patient-ids: {min(both)} is among --patient-ids, too")
    elif not args.val_patients:
        parser.refuse(["val_metric", *VALIDATION_FLAGS], "nobody validates (--val-patients 0)")
    if args.cache_val and args.job_dir.resolve() in args.cache_val.resolve().parents:
        parser.error("argument --cache-val: must lie outside --job-dir")
    begun = args.resume and (args.job_dir / ARGUMENTS).exists()  # by this run
    if args.cache_val and args.cache_val.exists() and not (args.overwrite or begun):
        parser.error(f"argument --cache-val: {args.cache_val} exists; see --overwrite")


def main() -> None:
    args = parse_arguments()
    # Only now, so that --help and a mistyped flag are answered at once.
    from pretraining.run import run

    run(args)


if __name__ == "__main__":
    cli.run(main)
