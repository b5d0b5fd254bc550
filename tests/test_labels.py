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
TACHYCARDIA, BRADYCARDIA, NORMAL_RATE, NOISE = range(4)
ENDS = np.array([10, 20, 30, 40])
BEATS, RHYTHMS = (beat_labels, BEAT_CLASSES), (rhythm_labels, RHYTHM_CLASSES)
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
    first, durations, begin = sum(place <= start for place in ends), [0] * 6, start
    for k in range(first, len(ends)):
        last = ends[k] >= end or k == len(ends) - 1
        durations[codes[k]] += (end if last else ends[k]) - begin
        if last:
            break
        begin = ends[k]
    for group in (("undefined", "afib", "aflut"), ("end", "noise", "normal")):
        numbers = map(RHYTHM_CLASSES.index, group)
        longest = max(numbers, key=lambda k: (durations[k], -k))
        if durations[longest] > 0:
            return longest
    return RHYTHM_CLASSES.index("undefined")


annotations = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 5)), max_size=20).map(sorted)


@settings(deadline=None, max_examples=500)
@given(st.lists(annotations, min_size=1, max_size=4), st.data(), st.integers(1, 60))
def test_labels_equal_the_worded_rules(segments, data, frame_size):
    """Of frames of many segments at once. Beats and rhythms have the same ends here."""
    frames = st.tuples(st.integers(0, len(segments) - 1), st.integers(0, 90))
    numbers, starts = np.array(data.draw(st.lists(frames, max_size=9)), int).reshape(-1, 2).T
    ends, codes = np.array([pair for s in segments for pair in s], np.int32).reshape(-1, 2).T
    codes, beats = codes.astype(np.int8), np.minimum(codes, PVC).astype(np.int8)
    stop = np.cumsum([len(segment) for segment in segments])
    within = (stop - [len(segment) for segment in segments])[numbers], stop[numbers]
    literal = [
        ([e for e, _ in segments[n]], [c for _, c in segments[n]], s, s + frame_size)
        for n, s in zip(numbers, starts.tolist(), strict=True)
    ]
    found = (
        beat_labels(ends, beats, within, starts, frame_size),
        rhythm_labels(ends, codes, within, starts, frame_size),
        heart_rate_labels(ends, within, starts, frame_size, FS),
    )
    assert all(labels.dtype == np.int64 for labels in found)
    rhythms = [literal_rhythm(*arguments) for arguments in literal]
    assert tuple(labels.tolist() for labels in found) == (
        [literal_beat(e, [min(code, PVC) for code in c], *frame) for e, c, *frame in literal],
        rhythms,
        [literal_heart_rate(e, *frame) for e, _, *frame in literal],
    )
    if len(segments) == 1:
        ends, codes = merge_runs(ends, codes)
        within = np.zeros_like(starts), np.full_like(starts, len(ends))
        assert rhythm_labels(ends, codes, within, starts, frame_size).tolist() == rhythms


def one_frame(rule, ends, codes, start, end, *more):
    arguments = [np.array(ends)] if codes is None else [np.array(ends), np.array(codes, np.int8)]
    within = np.array([0]), np.array([len(ends)])
    return rule(*arguments, within, np.array([start]), end - start, *more).item()


def test_a_code_of_no_class_is_an_error():
    for code in (-1, 5, 127):
        with pytest.raises(ValueError, match="no class"):
            one_frame(beat_labels, ENDS, [NORMAL, code, NORMAL, NORMAL], 0, 30)


def test_heart_rate_at_its_limits():
    # Samples at 250 Hz: 100 and 60 bpm are normal; of 2,000, one beat only is complete.
    limits = {149: "tachycardia", 150: "normal", 250: "normal", 251: "bradycardia", 2000: "noise"}
    for interval, expected in limits.items():
        found = one_frame(heart_rate_labels, np.arange(1, 40) * interval, None, 0, 4096, 250)
        assert HEART_RATE_CLASSES[found] == expected, interval


@pytest.mark.parametrize(
    ("rule", "classes", "names", "start", "end", "expected"),
    [  # of the intervals that end at 10, 20, 30, 40
        (*RHYTHMS, "normal afib normal normal", 0, 40, "afib"),  # however short
        (*RHYTHMS, "normal afib normal normal", 20, 40, "normal"),
        (*RHYTHMS, "normal afib normal normal", 19, 40, "afib"),  # by one sample
        (*RHYTHMS, "afib aflut normal normal", 0, 40, "afib"),  # a tie
        (*RHYTHMS, "undefined aflut normal normal", 0, 40, "undefined"),
        (*RHYTHMS, "noise normal end end", 0, 40, "end"),
        (*RHYTHMS, "normal noise normal noise", 5, 100, "noise"),  # the last one to the end
        (*RHYTHMS, "normal normal normal afib", 40, 50, "undefined"),  # after the last
        (*BEATS, "pvc normal normal normal", 5, 45, "normal"),  # the first one is not complete
        (*BEATS, "normal normal normal pvc", 5, 45, "pvc"),  # one outweighs all others
        (*BEATS, "normal pvc pac undefined", 5, 45, "pac"),  # a tie
        (*BEATS, "normal pvc pvc pac", 5, 45, "pvc"),
        (*BEATS, "normal undefined normal normal", 5, 45, "normal"),
        (*BEATS, "normal undefined undefined normal", 5, 45, "undefined"),
    ],
)
def test_which_class_wins(rule, classes, names, start, end, expected):
    codes = [classes.index(name) for name in names.split()]
    assert classes[one_frame(rule, ENDS, codes, start, end)] == expected


def test_known_frame_of_icentia11k(ecg_data):
    record = ecg_data / "icentia11k/p00/p00000/p00000_s17"
    ends, codes, _, _ = reader.read_annotations(record)
    within, start = (np.array([0]), np.array([len(ends)])), np.array([45_678])
    first, stop = complete_beats(ends, within, start, 4096)
    complete = codes[first.item() : stop.item()]
    assert np.bincount(complete, minlength=5).tolist() == [6, 20, 0, 0, 0]
    assert beat_labels(ends, codes, within, start, 4096).item() == NORMAL
