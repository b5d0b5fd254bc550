"""Which frames are drawn, and the batches made of them."""

import pickle

import numpy as np
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pretraining.batches import FrameBatches, load
from pretraining.cohort import choose_segments
from pretraining.icentia11k.index import open_index
from pretraining.icentia11k.reader import Constants, read_annotations
from pretraining.labels import beat_labels
from pretraining.sampler import MIXED_PATIENTS, Sampler
from pretraining.tasks import Beat, ContextPrediction

PATIENTS, PER_PATIENT, FRAME = 40, 7, 100
SEGMENTS = [np.array([2 * patient, 2 * patient + 1]) for patient in range(PATIENTS)]
SAMPLES = 1000 + 10 * np.arange(2 * PATIENTS)
ALL = PATIENTS * PER_PATIENT


def make(segments=SEGMENTS, samples=SAMPLES, per_patient=PER_PATIENT):
    return Sampler(segments, samples, FRAME, per_patient, (0, 1))


def patients(sampler, first, count):
    return sampler.frames(first, count)[0] // 2


def same(one, other):
    return all(map(np.array_equal, one, other))


def test_a_pass_takes_every_patient_equally_and_mixes_sixteen_at_a_time():
    sampler = make()
    for number in range(3):
        drawn = patients(sampler, number * ALL, ALL)
        assert set(np.bincount(drawn, minlength=PATIENTS)) == {PER_PATIENT}
        groups = np.split(drawn, [16 * PER_PATIENT, 32 * PER_PATIENT])
        assert [len(set(group)) for group in groups] == [MIXED_PATIENTS, MIXED_PATIENTS, 8]
        assert all((np.diff(group) != 0).mean() > 0.7 for group in groups)
        assert (np.diff(list(dict.fromkeys(drawn.tolist()))) < 0).any()  # in no order


def test_all_places_of_all_segments_are_drawn_and_no_others():
    samples = np.array([FRAME, FRAME + 2, 99_999, FRAME + 1])
    chosen = [np.array([0, 1]), np.array([3])]  # segment 2 was left out
    segments, starts = make(chosen, samples, per_patient=200).frames(0, 400)
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
    others = make().negatives(0, 4 * ALL, 3, FRAME)
    sampler = pickle.loads(pickle.dumps(make()))
    for first, count in asked:
        stretch = slice(first, first + count)
        assert np.array_equal(sampler.frames(first, count), whole[:, stretch])
        negatives = sampler.negatives(first, count, 3, FRAME)
        assert same(negatives, [array[stretch] for array in others])
    assert not np.array_equal(whole[:, :ALL], whole[:, ALL : 2 * ALL])


def test_negatives_come_from_the_same_sixteen_patients():
    sampler, size = make(), FRAME // 2
    segments, starts, place = sampler.negatives(0, ALL, 3, size)
    group = slice(16 * PER_PATIENT, 32 * PER_PATIENT)
    members = set(patients(sampler, 16 * PER_PATIENT, 16 * PER_PATIENT))
    assert set((segments[group] // 2).ravel()) == members
    assert (starts >= 0).all() and (starts + size <= SAMPLES[segments]).all()
    assert (starts + FRAME > SAMPLES[segments]).any()  # up to the last sample
    counts = np.bincount(place, minlength=4)
    assert len(counts) == 4 and counts.min() > ALL / 8


BEAT, CPC = Beat(512), ContextPrediction(256, 3, 56, 0, 2)


def make_batches(index, task=BEAT):
    cohort, _ = choose_segments(index, None, task.window, task.annotated)
    sampler = Sampler(list(cohort.values()), index.segments["samples"], task.window, 8, (0, 1))
    return FrameBatches(task, index, sampler, Constants("synthetic", 0.02, 0.3, {}), 32, 100)


def read_all(batches, **options):
    loaded = load(batches, range(len(batches)), torch.device("cpu"), **options)
    inputs, labels, totals = zip(*loaded, strict=True)
    assert totals == tuple(map(len, labels)) == (32, 32, 32, 4)
    return torch.cat(inputs), torch.cat(labels)


@pytest.mark.parametrize("task", [BEAT, CPC])
def test_batches_hold_the_normalised_frames_and_their_labels(cohort_copy, task):
    path = cohort_copy / "p00/p00001/p00001_s00.hea"
    path.write_text(path.read_text().replace("74.36482269503546(0)/mV", "150(40)/mV"))
    index = open_index(cohort_copy)
    batches = make_batches(index, task)
    signals, found = read_all(batches)
    segments, starts, labels = task.examples(index, batches.sampler, 0, 100)
    assert signals.shape == (*segments.shape, task.frame_size) and signals.dtype == torch.float32
    assert set(segments.ravel()) == set(range(12))
    assert len(set(labels)) > 2 and found.tolist() == labels.tolist()
    records = [str(index.record_path(segment)) for segment in range(12)]
    millivolts = [wfdb.rdrecord(record).p_signal[:, 0] for record in records]
    for row, column in np.ndindex(segments.shape):
        segment, start = segments[row, column], starts[row, column]
        expected = (millivolts[segment][start : start + task.frame_size] - 0.02) / 0.3
        np.testing.assert_allclose(signals[row, column], expected, atol=1e-5)
        if task is BEAT:
            ends, codes, _, _ = read_annotations(records[segment])
            within = np.array([0]), np.array([len(ends)])
            assert labels[row] == beat_labels(ends, codes, within, np.array([start]), 512)


def test_batches_do_not_depend_on_who_asks_or_when(cohort_copy):
    index = open_index(cohort_copy)
    batches = make_batches(index)
    x, y = read_all(batches)
    assert all(map(torch.equal, read_all(batches, workers=2), (x, y)))
    for number in reversed(range(4)):
        one = range(number, number + 1)
        frames = make_batches(index)[one]
        assert torch.equal(frames.labels, y[number * 32 :][:32])
        assert same(frames, pickle.loads(pickle.dumps(batches))[one])
    own, same_y = read_all(batches, standardise=True)  # by each frame's mean and deviation
    sd, mean = torch.std_mean(x, -1, correction=0, keepdim=True)
    torch.testing.assert_close(own, (x - mean) / sd)
    assert torch.equal(same_y, y)
