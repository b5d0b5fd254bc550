"""Recordings to two parts, at random, and classes that a part lacks."""

import sys
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

SHOWN = 3  # classes to name in a line


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


def absent(y: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Which of the classes no recording has; `y` is (recordings, classes) of 0 and 1."""
    return [name for name, present in zip(classes, y.any(0), strict=True) if not present]


def report_absent(part: str, y: np.ndarray, classes: Sequence[str]) -> None:
    """Say in one line of error output which classes a part of the data lacks, if any."""
    missing = absent(y, classes)
    if missing:
        named = ", ".join(missing[:SHOWN] + ["…"] * (len(missing) > SHOWN))
        count = f"{len(missing)} of {len(classes)} classes"
        print(f"{part} has no recording of {count}: {named}", file=sys.stderr)
