"""Frame labels follow the rules to the letter."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining.icentia11k import reader
from pretraining.icentia11k.index import merge_runs
from pretraining.labels import beat_labels, complete_beats, heart_rate_labels, rhythm_labels
from recordings.annotations import BEAT_CLASSES, HEART_RATE_CLASSES, RHYTHM_CLASSES

UNDEFINED, NORMAL, PAC, ABERRATED, PVC = range(5)
RHYTHM = {name: code for code, name in enumerate(RHYTHM_CLASSES)}
TACHYCARDIA, BRADYCARDIA, NORMAL_RATE, NOISE = range(4)
ENDS = np.array([10, 20, 30, 40])
FS = 9  # Hz; intervals of a few samples are then of all classes


def literal_complete(ends: list[int], start: int, end: int) -> list[int]:
    """Numbers of the complete beats."""
    before = sum(place < start for place in ends) + 1
    return [k for k in range(len(ends)) if before <= k and ends[k] <= end]


def literal_beat(ends: list[int], codes: list[int], start: int, end: int) -> int:
    """The rule as it is worded, one frame at a time."""
    complete = [codes[k] for k in literal_complete(ends, start, end)]
    ectopic = [code for code in (PAC, ABERRATED, PVC) if code in complete]
    if ectopic:
        return max(ectopic, key=lambda code: (complete.count(code), -code))
    return NORMAL if complete.count(NORMAL) > complete.count(UNDEFINED) else UNDEFINED


def literal_heart_rate(ends: list[int], start: int, end: int) -> int:
    complete = [ends[k] for k in literal_complete(ends, start, end)]
    if len(complete) < 2:
        return NOISE
    intervals = [Fraction(b - a, FS) for a, b in pairwise(complete)]
    mean = sum(intervals) / len(intervals)
    if not mean:
        return TACHYCARDIA
    return BRADYCARDIA if 60 / mean < 60 else NORMAL_RATE if 60 / mean <= 100 else TACHYCARDIA


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


annotations = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 5)), max_size=20).map(sorted)


@settings(deadline=None, max_examples=500)
@given(st.lists(annotations, min_size=1, max_size=4), st.data(), st.integers(1, 60))
def test_labels_equal_the_worded_rules(segments, data, frame_size):
    """Of frames of many segments at once. Beats and rhythms have the same ends here."""
    frames = st.tuples(st.integers(0, len(segments) - 1), st.integers(0, 90))
    numbers, starts = np.array(data.draw(st.lists(frames, min_size=1, max_size=9))).T
    ends, codes = np.array([pair for s in segments for pair in s], np.int32).reshape(-1, 2).T
    codes, beats = codes.astype(np.int8), np.minimum(codes, PVC).astype(np.int8)
    stop = np.cumsum([len(segment) for segment in segments])
    first = stop - [len(segment) for segment in segments]
    literal = [
        ([e for e, _ in segments[n]], [c for _, c in segments[n]], s, s + frame_size)
        for n, s in zip(numbers, starts.tolist(), strict=True)
    ]
    expected = (
        [literal_beat(e, [min(code, PVC) for code in c], *frame) for e, c, *frame in literal],
        [literal_rhythm(*arguments) for arguments in literal],
        [literal_heart_rate(e, *frame) for e, _, *frame in literal],
    )
    withins = [(first[numbers], stop[numbers])] + [None] * (len(segments) == 1)
    for within in withins:
        found = (
            beat_labels(ends, beats, starts, frame_size, within),
            rhythm_labels(ends, codes, starts, frame_size, within),
            heart_rate_labels(ends, starts, frame_size, FS, within),
        )
        assert all(labels.dtype == np.int64 for labels in found)
        assert tuple(labels.tolist() for labels in found) == expected
    if len(segments) == 1:
        merged = rhythm_labels(*merge_runs(ends, codes), starts, frame_size)
        assert merged.tolist() == expected[1]


@pytest.mark.parametrize("code", [-1, 5, 127])
def test_a_code_of_no_class_is_an_error(code):
    codes = np.array([NORMAL, code, NORMAL, NORMAL], np.int8)
    with pytest.raises(ValueError, match="no class"):
        beat_labels(ENDS, codes, np.array([0, 20]), 30)


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
        (["afib", "aflut", "normal", "normal"], 0, 40, "afib"),  # a tie
        (["undefined", "aflut", "normal", "normal"], 0, 40, "undefined"),
        (["noise", "normal", "end", "end"], 0, 40, "end"),
        (["normal", "noise", "normal", "noise"], 5, 100, "noise"),  # the last one to the end
        (["normal", "normal", "normal", "afib"], 40, 50, "undefined"),  # after the last
    ],
)
def test_which_rhythm_wins(names, start, end, expected):
    codes = np.array([RHYTHM[name] for name in names], np.int8)
    found = rhythm_labels(ENDS, codes, np.array([start]), end - start)
    assert RHYTHM_CLASSES[found.item()] == expected


def test_no_annotations_and_no_frames():
    nothing, starts = np.zeros(0, np.int64), np.array([0, 7])
    assert rhythm_labels(nothing, nothing, starts, 10).tolist() == [RHYTHM["undefined"]] * 2
    assert heart_rate_labels(nothing, starts, 10, 250).tolist() == [NOISE] * 2
    assert beat_labels(nothing, nothing, starts, 10).tolist() == [UNDEFINED] * 2
    assert rhythm_labels(ENDS, ENDS, starts[:0], 10).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([PVC, NORMAL, NORMAL, NORMAL], NORMAL),  # the first beat is not complete
        ([NORMAL, NORMAL, NORMAL, PVC], PVC),  # one ectopic beat outweighs all others
        ([NORMAL, PVC, PAC, UNDEFINED], PAC),  # a tie
        ([NORMAL, PVC, PVC, PAC], PVC),
        ([NORMAL, UNDEFINED, NORMAL, NORMAL], NORMAL),
        ([NORMAL, UNDEFINED, UNDEFINED, NORMAL], UNDEFINED),
    ],
)
def test_which_class_wins(codes, expected):
    assert beat_labels(ENDS, np.array(codes, np.int8), np.array([5]), 40).item() == expected


def test_known_frame_of_icentia11k(ecg_data):
    record = ecg_data / "icentia11k/p00/p00000/p00000_s17"
    ends, codes, _, _ = reader.read_annotations(record)
    start = np.array([45_678])
    first, stop = complete_beats(ends, start, 4096)
    complete = codes[first.item() : stop.item()]
    assert np.bincount(complete, minlength=5).tolist() == [6, 20, 0, 0, 0]
    assert BEAT_CLASSES[beat_labels(ends, codes, start, 4096).item()] == "normal"
