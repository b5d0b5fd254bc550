"""Pretrain an encoder on annotated single-lead recordings.

    python -m pretraining.trainer --job-dir jobs/beat --task beat --train data/icentia11k

Writes args.json, manifest.json, history.csv, timing.csv, scores.json, epoch_NN/model.safetensors,
and, of the chosen epoch without its head, weights.safetensors and MODEL_CARD.md.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from models import ENCODERS, count_parameters
from pretraining.batches import FrameBatches, StoredFrames, load, store_frames
from pretraining.cohort import Data, DataOptions, open_data
from pretraining.icentia11k.reader import read_constants
from pretraining.tasks import TASKS, Task, build_task
from recordings.wfdb_files import ICENTIA_FS
from utils import cli, metrics
from utils.cli import UserError
from utils.engine import Batch, Epochs, Hardware, Training, open_run
from utils.files import digest, read_json, sha256, write_json
from utils.model_card import Metadata
from utils.run import (
    ARGUMENTS,
    CARD,
    SCORES,
    WEIGHTS,
    Run,
    scores_in_words,
    torch_generator,
    versions,
)
from utils.weights import save_weights, start_encoder, strip_head, write_card

Read = Callable[[FrameBatches | StoredFrames, range], Iterator[Batch]]

METRICS = {"loss": "val_loss", "acc": "val_acc", "f1": "macro_f1"}  # --val-metric: its column


def make_parser() -> cli.Parser:
    """Flags of this command."""
    parser = cli.Parser(prog="python -m pretraining.trainer", description=__doc__.split("\n")[0])
    cli.add_run_flags(parser)
    flag = parser.add_argument
    flag("--task", choices=TASKS, required=True, help="objective")
    flag("--train", type=cli.folder, required=True, help="Icentia11k, or a set in its layout")
    flag("--unzipped", action="store_true", help="no longer needed: unzipped files are found")
    flag("--index", type=Path, help="folder of the annotation index; by default in the data set")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag("--val-patients", type=cli.share_or_count, default=0.05,
         help="share or number of the patients that validate and never train; 0: none")  # fmt: skip
    flag("--val-patient-ids", type=cli.id_list,
         help="patients that validate, besides those of --patient-ids, which train")  # fmt: skip
    flag("--val-size", type=cli.count, help="examples to validate on, shared by those patients")
    flag("--val-samples-per-patient", type=cli.count,
         help="examples of each of them; by default so many that they are a quarter of an epoch,"
         " at most --samples-per-patient")  # fmt: skip
    flag("--cache-val", type=Path, help="write them to this file (.npz), or --overwrite it")
    flag("--val-file", type=cli.file, help="validate on these; their patients never train")
    flag("--frame-size", type=cli.count, default=2048, help="samples at 250 Hz")
    flag("--samples-per-patient", type=cli.count, default=4096, help="examples of each in one pass")
    flag("--data-parallelism", type=cli.count_or_zero, default=0,
         help="processes that read data; the frames do not depend on it")  # fmt: skip
    flag("--batch-size", type=cli.count, default=64, help="examples, of all processes together")
    flag("--steps-per-epoch", type=cli.count,
         help="by default 1000, or one pass over the patients where that is less")  # fmt: skip
    flag("--epochs", type=cli.count, help="by default as many as one pass over the patients takes")
    flag("--val-metric", choices=METRICS, default="loss", help="chooses the epoch")
    flag("--context-size", type=cli.count, default=8, help="[cpc] frames of context")
    flag("--context-overlap", type=cli.count_or_zero, default=0,
         help="[cpc] samples shared by neighbouring frames of the context")  # fmt: skip
    flag("--positive-offset", type=cli.count_or_zero, default=0,
         help="[cpc] frames left out between the context and the positive frame")  # fmt: skip
    flag("--ns", type=cli.count, default=1, help="[cpc] negatives")
    cli.add_network_flags(parser)
    flag("--spectrogram-input", choices=("normalized", "raw"), default="normalized",
         help="[2-D] raw: in millivolt, as the replication pretrained")  # fmt: skip
    flag("--standardise", choices=("dataset", "frame"), default="dataset",
         help="by mean and deviation of the data set, or of each frame")  # fmt: skip
    return parser


def parse_arguments() -> argparse.Namespace:
    """Values of the flags; those that contradict each other or have no effect are refused."""
    parser = make_parser()
    args = parser.parse_with_preset("pretraining")
    if args.task != "cpc":
        parser.refuse(TASKS["cpc"].flags(), "only for --task cpc")
    elif args.context_overlap >= args.frame_size:
        parser.error("argument --context-overlap: must be below --frame-size")
    cli.check_shared_flags(parser, args)
    if args.standardise == "frame":
        parser.refuse(["spectrogram_input"], "not with --standardise frame")
    validation = ["val_size", "val_samples_per_patient", "cache_val"]
    if args.val_file:
        validation += ["val_patients", "val_patient_ids"]
        parser.refuse(validation, "--val-file says who validates")
    elif args.val_patient_ids:
        parser.refuse(["val_patients"], "--val-patient-ids says who validates")
        both = set(args.val_patient_ids) & set(args.patient_ids or ())
        if both:
            parser.error(f"argument --val-patient-ids: {min(both)} is among --patient-ids, too")
    elif not args.val_patients:
        parser.refuse(["val_metric", *validation], "nobody validates (--val-patients 0)")
    if args.cache_val and args.job_dir.resolve() in args.cache_val.resolve().parents:
        parser.error("argument --cache-val: must lie outside --job-dir")
    begun = args.resume and (args.job_dir / ARGUMENTS).exists()  # the file may be of this run
    if args.cache_val and args.cache_val.exists() and not (args.overwrite or begun):
        parser.error(f"argument --cache-val: {args.cache_val} exists; see --overwrite")
    return args


def validate(training: Training, task: Task, batches: Iterable[Batch]) -> dict[str, Any]:
    """Scores on the validation patients, and those of answers that ignore the signal."""
    logits, labels = training.evaluate(training.model, batches)
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    scores = {
        "loss": task.loss(logits, labels).item(),
        "acc": float((predicted == true).mean()),
        "macro_f1": metrics.macro_f1(true, predicted),
    }
    ignorant = metrics.without_input(true)
    return {"epoch": training.epoch, "validation": scores, "without_input": ignorant}


def train(training: Training, data: Data, task: Task, read: Read) -> None:
    """Train all epochs; the main process validates, and saves the weights of each."""
    job_dir, metadata = training.run.job_dir, training.metadata
    for row in training.epochs():
        scores = {}
        if data.validation:
            numbers = range(len(data.validation))
            batches = read(data.validation, numbers)
            with tqdm(batches, "validation", len(numbers), leave=False, disable=None) as progress:
                scores = validate(training, task, progress)
        values = scores["validation"].values() if scores else [None] * len(METRICS)
        row |= dict(zip(METRICS.values(), values, strict=True))
        save_weights(epoch_file(job_dir, training.epoch), training.model.state_dict(), metadata)
        frames = data.steps * data.train.batch_size / training.seconds
        if training.record(row, frames_per_second=frames) and scores:
            write_json(job_dir / SCORES, scores)


def epoch_file(job_dir: Path, epoch: int) -> Path:
    """Weights of one epoch, with the head."""
    return job_dir / f"epoch_{epoch:02d}" / "model.safetensors"


def conclude(job_dir: Path, chosen: int, data: Data) -> None:
    """Write the encoder of the chosen epoch, and its card."""
    scores = read_json(job_dir / SCORES) if data.validation else {}
    if scores:
        print(f"answers that ignore the signal: {scores_in_words(scores['without_input'])}")
    about = {}
    for part in ("train", "validation"):
        patients = data.manifest[part]["patients"]  # their number, or those of a file
        count = len(patients) if isinstance(patients, list) else patients
        about[f"patients, {part}"] = f"{count:,}"
    about["frames, train"] = f"{data.train.total:,} in {data.epochs} epochs"
    strip_head(epoch_file(job_dir, chosen), job_dir / WEIGHTS)
    write_card(job_dir / CARD, job_dir / WEIGHTS, about, scores)


def set_up(
    args: argparse.Namespace,
    options: DataOptions,
    task: Task,
    run: Run,
    hardware: Hardware,
    read: Read,
) -> tuple[Training, Data]:
    """The training and its data; writes `--cache-val`."""
    hardware.processes.check(args.batch_size, args.sync_bn)
    generator = torch_generator(args.seed)
    encoder, described = start_encoder(
        args.weights_file, args.arch, args.stages, cli.spectrogram_settings(args), ICENTIA_FS, 1,
        generator,
    )  # fmt: skip
    model = task.model(encoder, generator)
    with torch.inference_mode():  # reports a frame that is too short before data is read
        encoder.eval()(torch.zeros(1, 1, task.frame_size))
    print(f"{described['architecture']}: {count_parameters(model):,} parameters")
    constants, by_frame = read_constants(args.train), args.standardise == "frame"
    spectral = ENCODERS[described["architecture"]].spectral
    if by_frame or (spectral and args.spectrogram_input == "raw"):
        constants = constants._replace(mean=0.0, sd=1.0)
    context = {name: getattr(args, name) for name in task.flags()}
    kind = {
        "task": args.task, "fs": ICENTIA_FS, "frame_size": args.frame_size,
        "mean_mv": constants.mean, "sd_mv": constants.sd, **context,
    }  # fmt: skip
    stored = args.val_file and StoredFrames(args.val_file, task, args.batch_size, kind)
    data = open_data(options, task, constants, stored, hardware.processes)
    if data.validation and not stored:
        run.resolved["val_size"] = data.validation.total
        run.resolved["val_samples_per_patient"] = data.validation.sampler.samples_per_patient
    if args.cache_val and hardware.processes.main_process:
        if data.validation is None:
            raise UserError("--cache-val: nobody validates; use --val-patients above 0")
        patients = [int(patient) for patient in data.manifest["validation"]["records"]]
        about = {"dataset": constants.name, "patients": patients, **kind}
        store_frames(args.cache_val, data.validation, about)
    metadata = Metadata(
        unit="mV", mean=None if by_frame else constants.mean,
        sd=None if by_frame else constants.sd, frame_size=args.frame_size, task=args.task,
        classes=list(task.classes), dataset=constants.name, seed=args.seed, versions=versions(),
        manifest_sha256=digest(data.manifest), context=context or None, **described,
    )  # fmt: skip
    parameters, steps = hardware.place(model).parameters(), data.steps
    optimizer = torch.optim.Adam(parameters, args.lr, (0.9, 0.98), eps=1e-9, fused=True)
    epochs = Epochs(
        data.epochs, steps,
        lambda epoch, done: read(data.train, range((epoch - 1) * steps + done, epoch * steps)),
        lambda epoch, step: data.train.names((epoch - 1) * steps + step - 1),
    )  # fmt: skip
    metric = METRICS[args.val_metric]
    return Training(run, hardware, model, optimizer, epochs, metadata, task.loss, metric), data


def main() -> None:
    """Pretrain, and in the main process write all files of the run."""
    args = parse_arguments()
    job_dir = args.job_dir
    options = DataOptions(**{f.name: getattr(args, f.name) for f in fields(DataOptions)})

    def content(path: Path) -> str:
        return sha256(path) if path.is_file() else options.annotations.digest(options.named)

    run = Run(vars(args), WEIGHTS, content)
    task = build_task(args.task, vars(args))
    with open_run(run) as hardware:
        if not hardware:
            return
        read = partial(
            load, device=hardware.device, workers=args.data_parallelism,
            standardise=args.standardise == "frame",
        )  # fmt: skip
        with hardware.processes.main_process_first():
            training, data = set_up(args, options, task, run, hardware, read)
        with training.running():
            if hardware.processes.main_process:
                write_json(job_dir / "manifest.json", data.manifest)
            train(training, data, task, read)
            if hardware.processes.main_process:
                conclude(job_dir, training.best_epoch, data)
        by = f"validation {args.val_metric}" if data.validation else "being the last"
        print(f"epoch {training.best_epoch} chosen by {by}; its encoder: {job_dir / WEIGHTS}")


if __name__ == "__main__":
    cli.run(main)
