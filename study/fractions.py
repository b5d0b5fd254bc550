"""A share of the patients of a data set, the same for the same seed; smaller ones lie in larger."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

STREAM = 25  # of random numbers, none of the trainers'


@lru_cache
def patient_ids(root: Path, share: float, seed: int) -> list[int]:
    """Patients of the data set in `root`, found by their files.

    Raises:
        UserError: there are none.
    """
    from pretraining.icentia11k.index import find_records
    from pretraining.icentia11k.reader import read_constants

    return choose(find_records(root)[0], read_constants(root).same_subject, share, seed)


def choose(
    patients: Iterable[int], same_subject: Mapping[int, int], share: float, seed: int
) -> list[int]:
    """So many patients, or one more where the last one drawn comes with one of the same subject.

    Args:
        same_subject: patients that are somebody else again, and who.
    """
    subjects: dict[int, list[int]] = {}
    for patient in sorted(patients):
        subjects.setdefault(same_subject.get(patient, patient), []).append(patient)
    wanted = max(round(share * sum(map(len, subjects.values()))), 1)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM,)))
    chosen: list[int] = []
    for subject in generator.permutation(sorted(subjects)).tolist():
        if len(chosen) >= wanted:
            break
        chosen += subjects[subject]
    return sorted(chosen)
