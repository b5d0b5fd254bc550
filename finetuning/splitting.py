"""Recordings to two parts, at random."""

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split


def stratified(multi_label: bool, patients: np.ndarray | None) -> bool:
    """Whether classes are shared out in equal parts, so that each has to be in both."""
    return not multi_label and patients is None


def divide(
    y: np.ndarray, multi_label: bool, patients: np.ndarray | None, seed: int, **sizes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the recordings of two parts, each ascending; equal seeds, equal parts.

    Known patients are shuffled whole, whatever their classes. Else recordings are: with one class
    each in equal shares of every class, with several regardless of them, as many combinations
    occur once.

    Args:
        y: (recordings, classes) of 0 and 1. patients: (recordings,).
        sizes: `train_size` or `test_size`, a share, of the first or the second part.

    Raises:
        ValueError: a part would be empty, or lack a class that it should have.
    """
    places = np.arange(len(y))
    if patients is not None:
        splitter = GroupShuffleSplit(1, random_state=seed, **sizes)
        parts = next(splitter.split(places, groups=patients))
    else:
        strata = y.argmax(1) if stratified(multi_label, patients) else None
        parts = train_test_split(places, random_state=seed, stratify=strata, **sizes)
    return np.sort(parts[0]), np.sort(parts[1])
