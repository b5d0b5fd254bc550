"""Which patients and segments a run uses, which it leaves out and why, who validates."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.icentia11k.index import AnnotationIndex
from pretraining.icentia11k.reader import Constants
from recordings.quality import Quality
from utils.cli import UserError
from utils.files import counted, summary
from utils.run import rng

Cohort = dict[int, np.ndarray]  # patient: numbers of the segments used, (segments,) int64


def choose_segments(
    index: AnnotationIndex,
    patient_ids: Sequence[int] | None,
    window: int,
    annotated: bool,
) -> tuple[Cohort, list[dict[str, Any]]]:
    """Segments that can be used, by patient, and the record and reason of those left out.

    Args:
        patient_ids: patients asked for, or None for all that there are.
        window: samples that an example takes; shorter segments are left out.
        annotated: leave out segments without annotations.

    Raises:
        UserError: a patient asked for is not there or cannot be used, or nothing is left.
    """
    table = index.segments
    asked = sorted(index.patients if patient_ids is None else set(patient_ids))
    chosen = np.isin(table["patient"], asked)
    short = chosen & (table["samples"] < window)
    silent = chosen & ~short & ~table["annotated"] if annotated else np.zeros_like(chosen)
    left_out = [
        {"record": out["record"], "patient": out["patient"], "reason": out["reason"]}
        for out in index.left_out
        if out["patient"] in asked
    ]
    for mask, reason in (
        (short, f"shorter than an example of {window} samples"),
        (silent, "no annotations"),
    ):
        left_out += [
            {"record": row["path"].decode(), "patient": int(row["patient"]), "reason": reason}
            for row in table[mask]
        ]
    usable = np.flatnonzero(chosen & ~short & ~silent)
    patients, first = np.unique(table["patient"][usable], return_index=True)
    cohort = dict(zip(patients.tolist(), np.split(usable, first)[1:], strict=True))
    _check(index, patient_ids or (), cohort, left_out)
    return cohort, left_out


def _check(index, patient_ids, cohort: Cohort, left_out: list[dict[str, Any]]) -> None:
    for patient in patient_ids:
        if patient not in cohort:
            reasons = [out["reason"] for out in left_out if out["patient"] == patient]
            raise UserError(
                f"patient {patient} is not in {index.root}" if not reasons
                else f"patient {patient} cannot be used: {reasons[0]}"
            )  # fmt: skip
    if not cohort:
        raise UserError(f"{index.root}: no segment can be used ({summary(left_out)})")


def split_patients(
    cohort: Cohort, val_patients: float | int, seed: int, same_subject: Mapping[int, int]
) -> tuple[Cohort, Cohort]:
    """Training and validation patients, drawn at random; nobody is in both.

    Args:
        val_patients: a share of the patients (rounded, at least one), or their number; 0 for none.
        same_subject: patients that are somebody else again, and who; they go together, so that
            there may be a validation patient more.

    Raises:
        UserError: nobody would be left to train on.
    """
    count = val_patients
    if isinstance(val_patients, float):
        count = max(round(val_patients * len(cohort)), 1)
    drawn = rng(seed).permutation(list(cohort))[:count].tolist()
    train, val = _part(cohort, drawn, same_subject)
    if not train:
        raise UserError(
            f"--val-patients {val_patients} takes all of {len(cohort)} usable patients and leaves "
            "none to train on; use fewer, or 0 for no validation"
        )
    return train, val


def part_patients(
    index: AnnotationIndex,
    cohort: Cohort,
    val_ids: Sequence[int],
    left_out: list[dict[str, Any]],
    same_subject: Mapping[int, int],
) -> tuple[Cohort, Cohort]:
    """Training and validation patients, the latter by number; records of one subject go together.

    Raises:
        UserError: a validation patient cannot be used, or nobody would be left to train on.
    """
    _check(index, val_ids, cohort, left_out)
    train, val = _part(cohort, val_ids, same_subject)
    if not train:
        raise UserError("--val-patient-ids takes all usable patients and leaves none to train on")
    return train, val


def _part(
    cohort: Cohort, patients: Iterable[int], same_subject: Mapping[int, int]
) -> tuple[Cohort, Cohort]:
    """All but the subjects who these patients are, and those."""
    subjects = {same_subject.get(patient, patient) for patient in patients}
    parts: tuple[Cohort, Cohort] = {}, {}
    for patient, rows in cohort.items():
        parts[same_subject.get(patient, patient) in subjects][patient] = rows
    return parts


def without(cohort: Cohort, about: Mapping[str, Any], constants: Constants, source: Path) -> Cohort:
    """The patients of `cohort` who are not validated on in a file of frames.

    Args:
        about: what the file says of its frames: `dataset` and `patients`. source: its path.

    Raises:
        UserError: nobody would be left to train on.
    """
    taken = about["patients"] if about["dataset"] == constants.name else ()
    train, out = _part(cohort, taken, constants.same_subject)
    if not train:
        raise UserError(f"{source} holds frames of all usable patients; none is left to train on")
    print(f"{source}: {len(out)} of {len(cohort)} usable patients are in it and do not train")
    return train


def names(index: AnnotationIndex, rows: np.ndarray) -> list[str]:
    """Names of segments, without folders."""
    return [path.decode().rpartition("/")[2] for path in index.segments["path"][rows].tolist()]


def flagged(index: AnnotationIndex, cohort: Cohort) -> dict[str, list[str]]:
    """Names of the segments whose signal is `constant`, and of those where it is `clipped`."""
    rows = np.concatenate([np.zeros(0, np.int64), *cohort.values()])
    table = index.segments
    return {kind: names(index, rows[table[kind][rows]]) for kind in Quality._fields}


def manifest(
    index: AnnotationIndex, train: Cohort, val: Cohort, left_out: list[dict[str, Any]]
) -> dict[str, Any]:
    """Patients and segments used and left out, as JSON can hold them; no paths of this machine."""

    def used(cohort: Cohort) -> dict[str, Any]:
        return {
            "patients": len(cohort),
            "segments": sum(map(len, cohort.values())),
            "samples": sum(int(index.segments["samples"][rows].sum()) for rows in cohort.values()),
            **counted(flagged(index, cohort)),
            "records": {str(patient): names(index, rows) for patient, rows in cohort.items()},
        }

    return {"train": used(train), "validation": used(val), "left_out": left_out}
