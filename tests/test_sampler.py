"""Which frames are drawn, and the batches made of them."""

import pickle

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining import labels
from pretraining.batches import FrameBatches, load
from pretraining.cohort import choose_segments
from pretraining.icentia11k import reader as icentia11k
from pretraining.icentia11k.index import open_index
from pretraining.icentia11k.reader import Constants
from pretraining.sampler import MIXED_PATIENTS, Sampler
from pretraining.tasks import TASKS

PATIENTS, PER_PATIENT, FRAME = 40, 7, 100
SEGMENTS = [np.array([2 * patient, 2 * patient + 1]) for patient in range(PATIENTS)]
SAMPLES = 1000 + 10 * np.arange(2 * PATIENTS)
ALL = PATIENTS * PER_PATIENT


def make(*seed, segments=SEGMENTS, samples=SAMPLES, frame=FRAME, per_patient=PER_PATIENT):
    return Sampler(segments, samples, frame, per_patient, seed or (0, 1))


def patients(sampler, first, count):
    return sampler.frames(first, count)[0] // 2


def same(one, other):
    return all(map(np.array_equal, one, other))


def test_every_pass_takes_every_patient_equally():
    sampler = make()
    assert sampler.pass_length == ALL
    for number in range(3):
        counts = np.bincount(patients(sampler, number * ALL, ALL), minlength=PATIENTS)
        assert set(counts) == {PER_PATIENT}


def test_patients_are_mixed_sixteen_at_a_time():
    drawn = patients(make(), 0, ALL)
    groups = np.split(drawn, [16 * PER_PATIENT, 32 * PER_PATIENT])
    assert [len(set(group)) for group in groups] == [MIXED_PATIENTS, MIXED_PATIENTS, 8]
    for group in groups:
        assert (np.diff(group) != 0).mean() > 0.7
    first_seen = list(dict.fromkeys(drawn.tolist()))
    assert first_seen != sorted(first_seen)


def test_all_places_of_all_segments_are_drawn_and_no_others():
    samples = np.array([FRAME, FRAME + 2, 99_999, FRAME + 1])
    chosen = [np.array([0, 1]), np.array([3])]  # segment 2 was left out
    segments, starts = make(segments=chosen, samples=samples, per_patient=200).frames(0, 400)
    assert segments.dtype == starts.dtype == np.int64
    drawn = {number: set(starts[segments == number].tolist()) for number in np.unique(segments)}
    assert drawn == {0: {0}, 1: {0, 1, 2}, 3: {0, 1}}
    assert 60 < (segments == 0).sum() < 140  # segments of one patient are equally likely
    segments, starts = make(per_patient=500).frames(0, PATIENTS * 500)
    places = starts / (SAMPLES[segments] - FRAME)
    assert np.histogram(places, 10, (0, 1))[0] / len(places) == pytest.approx(0.1, abs=0.02)


stretches = st.lists(st.tuples(st.integers(0, 3 * ALL), st.integers(1, ALL)), max_size=6)


@settings(deadline=None, max_examples=25)
@given(stretches)
def test_any_stretch_in_any_order_is_the_same_stream(asked):
    whole = np.stack(make().frames(0, 4 * ALL))
    sampler = make()
    for first, count in asked:
        np.testing.assert_array_equal(sampler.frames(first, count), whole[:, first : first + count])
    assert same(pickle.loads(pickle.dumps(sampler)).frames(50, 400), whole[:, 50:450])
    assert not np.array_equal(whole[:, :ALL], whole[:, ALL : 2 * ALL])


def test_other_frames_come_from_the_same_sixteen_patients():
    sampler, size = make(), FRAME // 2
    segments, starts, place = sampler.negatives(0, ALL, 3, size)
    assert segments.shape == starts.shape == (ALL, 3)
    group = slice(16 * PER_PATIENT, 32 * PER_PATIENT)
    own = set(patients(sampler, 16 * PER_PATIENT, 16 * PER_PATIENT))
    assert set((segments[group] // 2).ravel()) == own
    assert (starts >= 0).all() and (starts + size <= SAMPLES[segments]).all()
    assert (starts + FRAME > SAMPLES[segments]).any()  # up to the last sample
    counts = np.bincount(place, minlength=4)
    assert len(counts) == 4 and counts.min() > ALL / 8
    parts = [sampler.negatives(first, 10, 3, size) for first in range(105, 145, 10)]
    for whole, part in zip((segments, starts, place), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole[105:145])


@pytest.fixture(scope="module")
def index(cohort_folder, tmp_path_factory):
    return open_index(cohort_folder, tmp_path_factory.mktemp("index"))


def make_batches(index, total=100, batch_size=32, frame=512):
    cohort, _ = choose_segments(index, None, frame, annotated=True)
    sampler = Sampler(list(cohort.values()), index.segments["samples"], frame, 8, (0, 1))
    constants = Constants("synthetic", 0.02, 0.3, {})
    return FrameBatches(TASKS["beat"](frame), index, sampler, constants, batch_size, total)


def read_all(batches, workers=0):
    loaded = load(batches, range(len(batches)), torch.device("cpu"), workers)
    inputs, labels, totals = zip(*loaded, strict=True)
    assert totals == tuple(map(len, labels))
    return inputs, labels


def test_each_frame_by_its_own_mean_and_deviation(index):
    batches, cpu = make_batches(index), torch.device("cpu")
    plain, found = (list(load(batches, range(2), cpu, standardise=own)) for own in (False, True))
    for (before, y, _), (x, same_y, _) in zip(plain, found, strict=True):
        sd, mean = torch.std_mean(before, -1, correction=0, keepdim=True)
        torch.testing.assert_close(x, (before - mean) / sd)
        assert torch.equal(y, same_y)


def test_batches_hold_the_normalised_frames_and_their_labels(cohort_copy):
    path = cohort_copy / "p00/p00001/p00001_s00.hea"
    path.write_text(path.read_text().replace("74.36482269503546(0)/mV", "150(40)/mV"))
    index = open_index(cohort_copy)
    batches = make_batches(index)
    signals, found = read_all(batches)
    assert [tuple(signal.shape) for signal in signals] == [(32, 1, 512)] * 3 + [(4, 1, 512)]
    assert signals[0].dtype == torch.float32 and found[0].dtype == torch.int64
    signals, found = torch.cat(signals).numpy()[:, 0], torch.cat(found).numpy()
    segments, starts = batches.sampler.frames(0, 100)
    assert set(segments) == set(range(12))
    for segment in range(12):
        path = str(index.record_path(segment))
        millivolts = wfdb.rdrecord(path).p_signal[:, 0]
        ends, codes, _, _ = icentia11k.read_annotations(path)
        for number in np.flatnonzero(segments == segment):
            start = starts[number]
            expected = (millivolts[start : start + 512] - 0.02) / 0.3
            np.testing.assert_allclose(signals[number], expected, atol=1e-5)
            within = np.array([0]), np.array([len(ends)])
            label = labels.beat_labels(ends, codes, within, starts[[number]], 512)
            assert found[number] == label.item()
    assert len(set(found)) > 2


def test_batches_do_not_depend_on_who_asks_or_when(index):
    batches = make_batches(index)
    expected = read_all(batches)
    one = [range(number, number + 1) for number in range(4)]
    backwards = [make_batches(index)[number] for number in reversed(one)]
    for number, frames in zip(reversed(range(4)), backwards, strict=True):
        assert torch.equal(frames.labels, expected[1][number])
        assert same(frames, pickle.loads(pickle.dumps(batches))[one[number]])
    for one, other in zip(read_all(batches, workers=2), expected, strict=True):
        assert all(map(torch.equal, one, other))
