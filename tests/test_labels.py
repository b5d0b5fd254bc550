"""Frame labels follow the rules to the letter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining import icentia11k
from pretraining.labels import beat_labels, complete_beats
from utils.annotations import BEAT_CLASSES

UNDEFINED, NORMAL, PAC, ABERRATED, PVC = range(5)
ENDS = np.array([10, 20, 30, 40])


def literal_label(ends: list[int], codes: list[int], start: int, end: int) -> int:
    """The rule as it is worded, one frame at a time."""
    began_before = sum(place < start for place in ends) + 1
    over = sum(place <= end for place in ends)
    complete = codes[began_before:over]
    ectopic = [code for code in (PAC, ABERRATED, PVC) if code in complete]
    if ectopic:
        return max(ectopic, key=lambda code: (complete.count(code), -code))
    return NORMAL if complete.count(NORMAL) > complete.count(UNDEFINED) else UNDEFINED


def label(codes, start, end, ends=ENDS):
    return beat_labels(ends, np.array(codes, np.int8), np.array([start]), end - start).item()


beats = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 4)), max_size=25)


@settings(deadline=None, max_examples=300)
@given(beats, st.lists(st.integers(0, 90), max_size=8), st.integers(1, 50))
def test_labels_equal_the_worded_rule(beats, starts, frame_size):
    ends, codes = zip(*sorted(beats), strict=True) if beats else ((), ())
    expected = [literal_label(list(ends), list(codes), s, s + frame_size) for s in starts]
    arrays = np.array(ends, np.int32), np.array(codes, np.int8), np.array(starts, np.int64)
    found = beat_labels(*arrays, frame_size)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10, 40, [1, 2, 3]),  # both ends on an annotation: both count
        (9, 40, [1, 2, 3]),  # the beat that ends at 10 began before the frame
        (11, 40, [2, 3]),  # now the one that ends at 20 did
        (10, 39, [1, 2]),
        (10, 20, [1]),
        (11, 20, []),
        (0, 9, []),
        (40, 90, []),
        (41, 90, []),
    ],
)
def test_complete_beats_at_the_edges(start, end, expected):
    first, stop = complete_beats(ENDS, np.array([start]), end - start)
    assert list(range(first.item(), stop.item())) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([PVC, NORMAL, NORMAL, NORMAL], NORMAL),  # the first beat is not complete
        ([NORMAL, NORMAL, NORMAL, PVC], PVC),  # one ectopic beat outweighs all others
        ([NORMAL, PVC, PAC, UNDEFINED], PAC),
        ([NORMAL, PVC, ABERRATED, ABERRATED], ABERRATED),
        ([NORMAL, PVC, PVC, PAC], PVC),
        ([NORMAL, UNDEFINED, NORMAL, NORMAL], NORMAL),
        ([NORMAL, UNDEFINED, UNDEFINED, NORMAL], UNDEFINED),
    ],
)
def test_which_class_wins(codes, expected):
    assert label(codes, 5, 45) == expected


def test_undefined_wins_a_tie_and_an_empty_frame():
    assert label([NORMAL, NORMAL, UNDEFINED, NORMAL], 10, 35) == UNDEFINED
    assert label([NORMAL] * 4, 41, 90) == UNDEFINED
    assert label([], 0, 90, ends=ENDS[:0]) == UNDEFINED


def test_known_frame_of_icentia11k(ecg_data):
    record = ecg_data / "icentia11k/p00/p00000/p00000_s17"
    ends, codes, _, _ = icentia11k.read_annotations(record)
    start = np.array([45_678])
    first, stop = complete_beats(ends, start, 4096)
    complete = codes[first.item() : stop.item()]
    assert np.bincount(complete, minlength=5).tolist() == [6, 20, 0, 0, 0]
    assert BEAT_CLASSES[beat_labels(ends, codes, start, 4096).item()] == "normal"
