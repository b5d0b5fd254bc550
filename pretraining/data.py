"""What a pretraining run trains and validates on."""

import argparse
import sys
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from pretraining.batches import FrameBatches
from pretraining.cohort import (
    Cohort,
    choose_segments,
    draw_patients,
    flagged,
    manifest,
    split_subjects,
)
from pretraining.icentia11k.index import AnnotationIndex, open_index
from pretraining.icentia11k.reader import Constants, read_constants
from pretraining.sampler import Sampler
from pretraining.tasks import TASKS, Task, build_task
from pretraining.validation import StoredFrames, write_frames
from recordings.wfdb_files import ICENTIA_FS
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.files import report_flagged, sha256, summary
from utils.names import SPECTRAL_ARCHITECTURES

TRAINING, VALIDATION = 1, 2  # streams of random numbers
STEPS_PER_EPOCH = 1000


class Data(NamedTuple):
    """Batches to train and to validate on, steps of an epoch, epochs, and what went into them."""

    train: FrameBatches
    validation: Dataset | None
    steps: int
    epochs: int
    dataset: Constants
    manifest: dict[str, Any]


def open_data(args: argparse.Namespace, processes: Processes) -> Data:
    """Choose the segments, split the patients, lay out the stream of batches.

    Raises:
        UserError: the data set, or what the flags ask of it, cannot be used.
    """
    task = build_task(args.task, vars(args))
    constants = read_constants(args.train)
    raw = args.arch in SPECTRAL_ARCHITECTURES and args.spectrogram_input == "raw"
    if raw or args.standardise == "frame":
        constants = constants._replace(mean=0.0, sd=1.0)
    named = args.patient_ids and sorted({*args.patient_ids, *(args.val_patient_ids or ())})
    index = open_index(args.train, args.index, named)
    needed = args.val_patient_ids or ()
    cohort, left_out = choose_segments(index, named, task.window, task.annotated, needed)
    if left_out:
        print(summary(left_out), file=sys.stderr)
    stored = open_stored(args, constants) if args.val_file else None
    if stored:
        source = f"--val-file {args.val_file}"
        patients = stored.about["patients"] if stored.about["dataset"] == constants.name else []
    elif needed:
        source, patients = "--val-patient-ids", needed
    else:
        source = f"--val-patients {args.val_patients}"
        patients = draw_patients(cohort, args.val_patients, args.seed)
    train, val = split_subjects(cohort, patients, constants.same_subject, source)
    if stored:
        print(f"{args.val_file}: {len(val)} of {len(cohort)} usable patients do not train")
        val = {}
    steps_in_pass = -(-len(train) * args.samples_per_patient // args.batch_size)
    steps = args.steps_per_epoch or min(STEPS_PER_EPOCH, steps_in_pass)
    epochs = args.epochs or -(-steps_in_pass // steps)
    stream = Stream(args, task, index, constants)
    total = steps * epochs * args.batch_size
    per_patient, val_size = validation_frames(args, len(val), steps * args.batch_size)
    validating = len(stored.about["patients"]) if stored else len(val)
    print(f"{constants.name}: {len(train)} patients train, {validating} validate")
    report_flagged(flagged(index, train | val))
    used = manifest(index, train, val, left_out)
    if stored:
        used["validation"] = {**stored.about, "sha256": sha256(args.val_file)}
    return Data(
        train=stream.batches(train, args.samples_per_patient, TRAINING, total, processes),
        validation=stored
        or (stream.batches(val, per_patient, VALIDATION, val_size) if val else None),
        steps=steps,
        epochs=epochs,
        dataset=constants,
        manifest=used,
    )


class Stream(NamedTuple):
    """What the batches of training and of validation have in common."""

    args: argparse.Namespace
    task: Task
    index: AnnotationIndex
    constants: Constants

    def batches(
        self,
        cohort: Cohort,
        per_patient: int,
        number: int,
        total: int,
        processes: Processes = ALONE,
    ) -> FrameBatches:
        """`total` examples of the patients in `cohort`; `number` tells random streams apart."""
        args = self.args
        sampler = Sampler(
            list(cohort.values()), self.index.segments["samples"], self.task.window,
            per_patient, (args.seed, number),
        )  # fmt: skip
        return FrameBatches(
            self.task, self.index, sampler, self.constants, args.batch_size, total, processes
        )


def validation_frames(args: argparse.Namespace, patients: int, epoch: int) -> tuple[int, int]:
    """Examples of each validation patient, and in all.

    `--val-size` alone is shared out equally. Without either flag they are a quarter of an `epoch`
    of training, so that validation does not cost more than that.
    """
    if args.val_samples_per_patient:
        per_patient = args.val_samples_per_patient
    else:
        total = args.val_size or min(patients * args.samples_per_patient, epoch // 4)
        per_patient = max(-(-total // max(patients, 1)), 1)
    return per_patient, args.val_size or patients * per_patient


def open_stored(args: argparse.Namespace, constants: Constants) -> StoredFrames:
    """Frames of `--val-file`.

    Raises:
        UserError: they are none, or those of another objective, size or normalisation.
    """
    task = build_task(args.task, vars(args))
    stored = StoredFrames(args.val_file, args.batch_size)
    for name, needed in kind_of_frames(args, constants).items():
        if stored.about.get(name) != needed:
            raise UserError(
                f"{args.val_file} was made with {name} {stored.about.get(name)}, not {needed}; "
                "make another with --cache-val"
            )
    stored.check(task.num_frames, args.frame_size, task.num_outputs)
    return stored


def kind_of_frames(args: argparse.Namespace, constants: Constants) -> dict[str, Any]:
    """What has to be equal where validation frames are to be used again."""
    layout = {name: getattr(args, name) for name in TASKS[args.task].flags()}
    return {
        "task": args.task, "fs": ICENTIA_FS, "frame_size": args.frame_size,
        "mean_mv": constants.mean, "sd_mv": constants.sd, **layout,
    }  # fmt: skip


def cache_validation(args: argparse.Namespace, data: Data) -> None:
    """Write the validation frames to `--cache-val`.

    Raises:
        UserError: there are none.
    """
    if data.validation is None:
        raise UserError("--cache-val: nobody validates; use --val-patients above 0")
    about = {
        "dataset": data.dataset.name,
        "patients": [int(patient) for patient in data.manifest["validation"]["records"]],
        **kind_of_frames(args, data.dataset),
    }
    write_frames(args.cache_val, data.validation, about)
    print(f"{args.cache_val}: {data.validation.total} validation frames")
