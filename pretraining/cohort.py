"""Which patients and segments a run uses, which it leaves out and why, and who validates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pretraining.icentia11k.index import AnnotationIndex
from recordings.quality import Quality
from utils.cli import UserError
from utils.files import counted, summary
from utils.run import rng

Cohort = dict[int, np.ndarray]  # patient: numbers of the segments used, (segments,) int64


def choose_segments(
    index: AnnotationIndex,
    patient_ids: Collection[int] | None,
    window: int,
    annotated: bool,
    needed: Collection[int] = (),
) -> tuple[Cohort, list[dict[str, Any]]]:
    """Usable segments by patient, and record, patient and reason of those that are left out.

    Args:
        patient_ids: patients that were named, or None for all.
        window: samples that an example takes; shorter segments are left out.
        annotated: leave out segments without annotations.
        needed: further patients that were named.

    Raises:
        UserError: a patient that was named is missing or unusable, or nothing is left.
    """
    table = index.segments
    wanted = index.patients if patient_ids is None else set(patient_ids)
    chosen = np.isin(table["patient"], sorted(wanted))
    short = chosen & (table["samples"] < window)
    unannotated = chosen & ~short & ~table["annotated"] & annotated
    left_out = [
        {name: out[name] for name in ("record", "patient", "reason")}
        for out in index.left_out
        if out["patient"] in wanted
    ]
    for mask, reason in (
        (short, f"shorter than an example of {window} samples"),
        (unannotated, "no annotations"),
    ):
        left_out += [
            {"record": row["path"].decode(), "patient": int(row["patient"]), "reason": reason}
            for row in table[mask]
        ]
    usable = np.flatnonzero(chosen & ~short & ~unannotated)
    patients, first = np.unique(table["patient"][usable], return_index=True)
    cohort = dict(zip(patients.tolist(), np.split(usable, first)[1:], strict=True))
    for patient in [*(patient_ids or ()), *needed]:
        if patient not in cohort:
            reasons = [out["reason"] for out in left_out if out["patient"] == patient]
            raise UserError(
                f"patient {patient} cannot be used: {reasons[0]}" if reasons
                else f"patient {patient} is not in {index.root}"
            )  # fmt: skip
    if not cohort:
        raise UserError(f"{index.root}: no segment can be used ({summary(left_out)})")
    return cohort, left_out


def draw_patients(cohort: Cohort, val_patients: float | int, seed: int) -> list[int]:
    """Patients drawn at random: a share of them (rounded, at least one), or their number."""
    count = val_patients
    if isinstance(val_patients, float):
        count = max(round(val_patients * len(cohort)), 1)
    return rng(seed).permutation(list(cohort))[:count].tolist()


def split_subjects(
    cohort: Cohort, patients: Sequence[int], same_subject: Mapping[int, int], source: str
) -> tuple[Cohort, Cohort]:
    """The cohort without these patients, to train on, and these patients.

    Args:
        same_subject: duplicate patients and the patient they are, see `reader.Constants`. All
            patients of one subject are on the same side.
        source: what names the patients, for the error.

    Raises:
        UserError: nobody would be left to train on.
    """
    subjects = {same_subject.get(patient, patient) for patient in patients}
    sides: tuple[Cohort, Cohort] = {}, {}
    for patient, rows in cohort.items():
        sides[same_subject.get(patient, patient) in subjects][patient] = rows
    if not sides[0]:
        raise UserError(
            f"{source} takes all of {len(cohort)} usable patients and leaves none to train on"
        )
    return sides


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
