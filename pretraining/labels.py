"""Frame labels from annotations. Pure rules, vectorised over frames.

A frame is samples [start, end). An annotation's index marks the end of its beat. The rules are
those of Weimann & Conrad's code.
"""

import numpy as np

from utils.annotations import BEAT_CLASSES

NORMAL = BEAT_CLASSES.index("normal")
ECTOPIC = BEAT_CLASSES.index("pac")  # pac, aberrated, pvc: from here to the end


def beat_labels(
    ends: np.ndarray, codes: np.ndarray, starts: np.ndarray, frame_size: int
) -> np.ndarray:
    """Beat class of each frame, (n,) int64.

    The most frequent of pac, aberrated and pvc if any occurs, else the more frequent of
    undefined and normal; the lowest code wins a tie, and a frame without a complete beat is
    undefined.

    Args:
        ends: (beats,) sample that ends each beat, ascending.
        codes: (beats,) class of each beat, see `utils.annotations.BEAT_CLASSES`.
        starts: (n,) first sample of each frame.
        frame_size: samples.
    """
    counts = count_codes(codes, *complete_beats(ends, starts, frame_size), len(BEAT_CLASSES))
    ectopic = counts[:, ECTOPIC:]
    common = counts[:, :ECTOPIC].argmax(1)
    return np.where(ectopic.any(1), ECTOPIC + ectopic.argmax(1), common)


def complete_beats(
    ends: np.ndarray, starts: np.ndarray, frame_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """First complete beat of each frame, and one past its last, (n,) each.

    The beat that ends first in a frame began before it, hence the one added.
    """
    first = np.searchsorted(ends, starts, "left") + 1
    return first, np.searchsorted(ends, starts + frame_size, "right")


def count_codes(codes: np.ndarray, first: np.ndarray, stop: np.ndarray, classes: int) -> np.ndarray:
    """How often each code occurs in `codes[first:stop]`, (n, classes)."""
    longest = max(int((stop - first).max(initial=0)), 0)
    places = first[:, None] + np.arange(longest)  # (n, longest)
    inside = places < stop[:, None]
    found = np.where(inside, codes[np.where(inside, places, 0)], classes)
    return (found[:, :, None] == np.arange(classes)).sum(1)
