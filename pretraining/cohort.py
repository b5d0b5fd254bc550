"""What a run trains and validates on: patients, segments, and the streams of batches."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.batches import FrameBatches, StoredFrames
from pretraining.icentia11k.index import AnnotationIndex, open_index
from pretraining.icentia11k.reader import Constants
from pretraining.sampler import Sampler
from pretraining.tasks import Task
from recordings.quality import Quality
from utils.cli import UserError
from utils.distributed import ALONE, Processes
from utils.files import counted, report_flagged, sha256, summary
from utils.run import rng

TRAINING, VALIDATION = 1, 2  # streams of random numbers
STEPS_PER_EPOCH = 1000
Cohort = dict[int, np.ndarray]  # patient: numbers of the segments used, (segments,) int64


def choose_segments(
    index: AnnotationIndex, patient_ids: Collection[int] | None, window: int, annotated: str,
    needed: Collection[int] = (),
) -> tuple[Cohort, list[dict[str, Any]]]:  # fmt: skip
    """Usable segments by patient, and record, patient and reason of those that are left out.

    Those are shorter than the `window` of an example or lack what has to be `annotated`, see
    `Task`. A UserError says that a patient named in `patient_ids` (None: all) or `needed` is
    missing or unusable, or that nothing is left.
    """
    table = index.segments
    wanted = index.patients if patient_ids is None else set(patient_ids)
    usable = np.isin(table["patient"], sorted(wanted))
    left_out = [out for out in index.left_out if out["patient"] in wanted]
    only_rhythms = (table["beats"] == 0) & (table["rhythms"] > 0)
    for reason, mask in {
        f"shorter than an example of {window} samples": table["samples"] < window,
        "no annotations": ~table["annotated"] & bool(annotated),
        "rhythm marks but no beats": only_rhythms & (annotated == "beats"),
    }.items():
        left_out += [
            {"record": path.decode(), "patient": patient, "reason": reason}
            for patient, path in table[["patient", "path"]][usable & mask].tolist()
        ]
        usable &= ~mask
    rows = np.flatnonzero(usable)
    patients, first = np.unique(table["patient"][rows], return_index=True)
    cohort = dict(zip(patients.tolist(), np.split(rows, first)[1:], strict=True))
    for patient in [*(patient_ids or ()), *needed]:
        if patient not in cohort:
            reasons = [out["reason"] for out in left_out if out["patient"] == patient]
            reason = f"cannot be used: {reasons[0]}" if reasons else f"is not in {index.root}"
            raise UserError(f"patient {patient} {reason}")
    if not cohort:
        raise UserError(f"{index.root}: no segment can be used ({summary(left_out)})")
    return cohort, left_out


def draw_patients(
    cohort: Cohort, val_patients: float | int, seed: int, same_subject: Mapping[int, int]
) -> list[int]:
    """A patient of each of some subjects drawn at random: a share of the subjects (rounded, at
    least one), or their number."""
    drawn = {}
    for patient in rng(seed).permutation(list(cohort)).tolist():
        drawn.setdefault(same_subject.get(patient, patient), patient)
    share = isinstance(val_patients, float)
    count = max(round(val_patients * len(drawn)), 1) if share else val_patients
    return list(drawn.values())[:count]


def split_subjects(
    cohort: Cohort, patients: Sequence[int], same_subject: Mapping[int, int], source: str
) -> tuple[Cohort, Cohort]:
    """The cohort without these patients, to train on, and these patients: all of one subject are on
    the same side. `source`, for errors, is the flag that names them."""
    subjects = {same_subject.get(patient, patient) for patient in patients}
    sides: tuple[Cohort, Cohort] = {}, {}
    for patient, rows in cohort.items():
        sides[same_subject.get(patient, patient) in subjects][patient] = rows
    if not sides[0]:
        count = f"all of {len(cohort)} usable patients"
        raise UserError(f"{source} takes {count} and leaves none to train on")
    return sides


def names(index: AnnotationIndex, rows: np.ndarray) -> list[str]:
    return [path.decode().rpartition("/")[2] for path in index.segments["path"][rows].tolist()]


def flagged(index: AnnotationIndex, cohort: Cohort) -> dict[str, list[str]]:
    """Names of the segments whose signal is `constant`, and of those where it is `clipped`."""
    rows = np.concatenate([np.zeros(0, np.int64), *cohort.values()])
    return {kind: names(index, rows[index.segments[kind][rows]]) for kind in Quality._fields}


def manifest(
    index: AnnotationIndex, train: Cohort, val: Cohort, left_out: list[dict[str, Any]]
) -> dict[str, Any]:
    """Patients and segments used and left out, for JSON; no paths of this machine."""

    def used(cohort: Cohort) -> dict[str, Any]:
        return {
            "patients": len(cohort),
            "segments": sum(map(len, cohort.values())),
            "samples": sum(int(index.segments["samples"][rows].sum()) for rows in cohort.values()),
            **counted(flagged(index, cohort)),
            "records": {str(patient): names(index, rows) for patient, rows in cohort.items()},
        }

    return {"train": used(train), "validation": used(val), "left_out": left_out}


@dataclass(frozen=True)
class DataOptions:
    """Which examples a run trains and validates on: the flags of the same names."""

    train: Path
    index: Path | None
    patient_ids: list[int] | None
    val_patients: float | int
    val_patient_ids: list[int] | None
    val_file: Path | None
    val_size: int | None
    val_samples_per_patient: int | None
    samples_per_patient: int
    batch_size: int
    steps_per_epoch: int | None
    epochs: int | None
    seed: int

    @property
    def named(self) -> list[int] | None:
        """Patients who are asked for, to train or to validate; None: all."""
        return self.patient_ids and sorted({*self.patient_ids, *(self.val_patient_ids or ())})

    @cached_property
    def annotations(self) -> AnnotationIndex:
        """The index of `train`, opened once: that looks at every file of the data set."""
        return open_index(self.train, self.index, self.named)

    def validation_examples(self, patients: int, epoch: int) -> tuple[int, int]:
        """Examples of each validation patient, and in all.

        `val_size` alone is shared equally. Without either flag they are a quarter of the examples
        of an `epoch`, so that validation does not take longer than training.
        """
        total = self.val_size or min(patients * self.samples_per_patient, epoch // 4)
        per_patient = self.val_samples_per_patient or -(-total // patients)
        return per_patient, self.val_size or patients * per_patient


class Data(NamedTuple):
    train: FrameBatches
    validation: FrameBatches | StoredFrames | None
    steps: int  # of an epoch
    epochs: int
    manifest: dict[str, Any]


def open_data(
    options: DataOptions, task: Task, constants: Constants, stored: StoredFrames | None,
    processes: Processes,
) -> Data:  # fmt: skip
    """Choose the segments, split the patients, lay out the streams of batches. `stored` frames are
    those of `options.val_file`."""
    needed, index = options.val_patient_ids or (), options.annotations
    cohort, left_out = choose_segments(index, options.named, task.window, task.annotated, needed)
    if left_out:
        print(summary(left_out), file=sys.stderr)
    if stored:
        source = f"--val-file {options.val_file}"
        patients = stored.about["patients"] if stored.about["dataset"] == constants.name else []
    elif needed:
        source, patients = "--val-patient-ids", needed
    else:
        source = f"--val-patients {options.val_patients}"
        patients = draw_patients(cohort, options.val_patients, options.seed, constants.same_subject)
    train, val = split_subjects(cohort, patients, constants.same_subject, source)
    if stored:
        val = {}
    steps_in_pass = -(-len(train) * options.samples_per_patient // options.batch_size)
    steps = options.steps_per_epoch or min(STEPS_PER_EPOCH, steps_in_pass)
    epochs = options.epochs or -(-steps_in_pass // steps)

    def batches(cohort: Cohort, per_patient: int, stream: int, total: int, processes: Processes):
        patients, seed = list(cohort.values()), (options.seed, stream)
        sampler = Sampler(patients, index.segments["samples"], task.window, per_patient, seed)
        return FrameBatches(task, index, sampler, constants, options.batch_size, total, processes)

    used, validation = manifest(index, train, val, left_out), stored
    if stored:
        used["validation"] = {**stored.about, "sha256": sha256(options.val_file)}
    elif val:
        per_patient, total = options.validation_examples(len(val), steps * options.batch_size)
        validation = batches(val, per_patient, VALIDATION, total, ALONE)
    validating = len(stored.about["patients"]) if stored else len(val)
    print(f"{constants.name}: {len(train)} patients train, {validating} validate")
    report_flagged(flagged(index, train | val))
    total = steps * epochs * options.batch_size
    training = batches(train, options.samples_per_patient, TRAINING, total, processes)
    return Data(training, validation, steps, epochs, used)
