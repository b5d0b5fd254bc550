"""Frame labels follow the rules to the letter."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.index import merge_runs
from pretraining.labels import beat_labels, complete_beats, heart_rate_labels, rhythm_labels
from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES

UNDEFINED, NORMAL, PAC, ABERRATED, PVC = range(5)
RHYTHM = {name: code for code, name in enumerate(RHYTHM_CLASSES)}
TACHYCARDIA, BRADYCARDIA, NORMAL_RATE, NOISE = range(4)
ENDS = np.array([10, 20, 30, 40])


@pytest.mark.parametrize("code", [-1, 5, 127])
def test_a_code_of_no_class_is_an_error(code):
    codes = np.array([NORMAL, code, NORMAL, NORMAL], np.int8)
    with pytest.raises(ValueError, match="no class"):
        beat_labels(ENDS, codes, np.array([0, 20]), 30)


def literal_label(ends: list[int], codes: list[int], start: int, end: int) -> int:
    """The rule as it is worded, one frame at a time."""
    began_before = sum(place < start for place in ends) + 1
    over = sum(place <= end for place in ends)
    complete = codes[began_before:over]
    ectopic = [code for code in (PAC, ABERRATED, PVC) if code in complete]
    if ectopic:
        return max(ectopic, key=lambda code: (complete.count(code), -code))
    return NORMAL if complete.count(NORMAL) > complete.count(UNDEFINED) else UNDEFINED


def literal_complete(ends: list[int], start: int, end: int) -> list[int]:
    """Numbers of the complete beats."""
    before = sum(place < start for place in ends) + 1
    return [k for k in range(len(ends)) if before <= k and ends[k] <= end]


def literal_heart_rate(ends: list[int], start: int, end: int, fs: int) -> int:
    complete = [ends[k] for k in literal_complete(ends, start, end)]
    if len(complete) < 2:
        return NOISE
    intervals = [Fraction(b - a, fs) for a, b in pairwise(complete)]
    mean = sum(intervals) / len(intervals)
    if not mean:
        return TACHYCARDIA
    bpm = 60 / mean
    return BRADYCARDIA if bpm < 60 else NORMAL_RATE if bpm <= 100 else TACHYCARDIA


def literal_rhythm(ends: list[int], codes: list[int], start: int, end: int) -> int:
    """Durations interval by interval, as the rule is worded."""
    numbers, k = [], sum(place <= start for place in ends)
    while k < len(ends):
        numbers.append(k)
        if ends[k] >= end:
            break
        k += 1
    durations = dict.fromkeys(range(6), 0)
    for position, k in enumerate(numbers):
        begin = start if position == 0 else ends[k - 1]
        stop = end if position == len(numbers) - 1 else ends[k]
        durations[codes[k]] += stop - begin
    for group in (("undefined", "afib", "aflut"), ("end", "noise", "normal")):
        longest = max((RHYTHM[name] for name in group), key=lambda k: (durations[k], -k))
        if durations[longest] > 0:
            return longest
    return RHYTHM["undefined"]


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


rhythms = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 5)), max_size=12)
frames = st.lists(st.integers(0, 90), min_size=1, max_size=8)


@settings(deadline=None, max_examples=400)
@given(rhythms, frames, st.integers(1, 60))
def test_rhythm_labels_equal_the_worded_rule(rhythms, starts, frame_size):
    ends, codes = zip(*sorted(rhythms), strict=True) if rhythms else ((), ())
    expected = [literal_rhythm(list(ends), list(codes), s, s + frame_size) for s in starts]
    ends, codes = np.array(ends, np.int32), np.array(codes, np.int8)
    found = rhythm_labels(ends, codes, np.array(starts, np.int64), frame_size)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    merged = rhythm_labels(*merge_runs(ends, codes), np.array(starts, np.int64), frame_size)
    assert merged.tolist() == expected


@settings(deadline=None, max_examples=400)
@given(st.lists(st.integers(0, 80), max_size=25), frames, st.integers(1, 60), st.integers(1, 30))
def test_heart_rate_labels_equal_the_worded_rule(ends, starts, frame_size, fs):
    ends = sorted(ends)
    expected = [literal_heart_rate(ends, s, s + frame_size, fs) for s in starts]
    found = heart_rate_labels(np.array(ends, np.int32), np.array(starts), frame_size, fs)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(rhythms, min_size=1, max_size=5), st.data(), st.integers(1, 60))
def test_frames_of_many_segments_at_once(segments, data, frame_size):
    """Beats and rhythms have the same ends here; the rules look at them in their own ways."""
    frames = st.tuples(st.integers(0, len(segments) - 1), st.integers(0, 90))
    numbers, starts = np.array(data.draw(st.lists(frames, min_size=1, max_size=9))).T
    columns = [np.array(sorted(one), np.int32).reshape(-1, 2).T for one in segments]
    ends, codes = np.concatenate(columns, axis=1)
    stop = np.cumsum([len(column[0]) for column in columns])
    first = stop - [len(column[0]) for column in columns]
    within = first[numbers], stop[numbers]
    beats = np.minimum(codes, 4)
    for whole, alone in (
        (
            beat_labels(ends, beats, starts, frame_size, within),
            lambda e, c, *f: beat_labels(e, np.minimum(c, 4), *f),
        ),
        (rhythm_labels(ends, codes, starts, frame_size, within), rhythm_labels),
        (
            heart_rate_labels(ends, starts, frame_size, 9, within),
            lambda e, c, *f: heart_rate_labels(e, *f, 9),
        ),
    ):
        one_by_one = [
            alone(*columns[number], np.array([start]), frame_size).item()
            for number, start in zip(numbers, starts, strict=True)
        ]
        assert whole.tolist() == one_by_one


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (149, "tachycardia"),
        (150, "normal"),  # 100 bpm at 250 Hz
        (250, "normal"),  # 60 bpm
        (251, "bradycardia"),
        (2000, "noise"),  # one complete beat only
    ],
)
def test_heart_rate_at_its_limits(interval, expected):
    ends = np.arange(1, 40) * interval
    found = heart_rate_labels(ends, np.array([0]), 4096, 250)
    assert HEART_RATE_CLASSES[found.item()] == expected


@pytest.mark.parametrize(
    ("names", "start", "end", "expected"),
    [  # of the intervals that end at 10, 20, 30, 40
        (["normal", "afib", "normal", "normal"], 0, 40, "afib"),  # however short
        (["normal", "afib", "normal", "normal"], 20, 40, "normal"),
        (["normal", "afib", "normal", "normal"], 19, 40, "afib"),  # by one sample
        (["afib", "aflut", "aflut", "normal"], 0, 40, "aflut"),
        (["afib", "aflut", "normal", "normal"], 0, 40, "afib"),  # a tie
        (["undefined", "aflut", "normal", "normal"], 0, 40, "undefined"),
        (["noise", "normal", "end", "noise"], 0, 40, "noise"),
        (["noise", "normal", "end", "end"], 0, 40, "end"),
        (["normal", "noise", "normal", "noise"], 5, 100, "noise"),  # the last one to the end
        (["normal", "normal", "normal", "afib"], 40, 50, "undefined"),  # behind the last
    ],
)
def test_which_rhythm_wins(names, start, end, expected):
    codes = np.array([RHYTHM[name] for name in names], np.int8)
    found = rhythm_labels(ENDS, codes, np.array([start]), end - start)
    assert RHYTHM_CLASSES[found.item()] == expected


def test_no_annotations_at_all():
    nothing, starts = np.zeros(0, np.int64), np.array([0, 7])
    assert rhythm_labels(nothing, nothing, starts, 10).tolist() == [RHYTHM["undefined"]] * 2
    assert heart_rate_labels(nothing, starts, 10, 250).tolist() == [NOISE] * 2
    assert rhythm_labels(ENDS, ENDS, starts[:0], 10).shape == (0,)


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
