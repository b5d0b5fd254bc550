"""Contrastive predictive coding: which frames an example takes, and the network."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import ENCODERS, build_encoder, count_parameters
from pretraining.batches import FrameBatches
from pretraining.cohort import choose_segments
from pretraining.cpc import CPC, TransformerLayer
from pretraining.icentia11k.index import open_index
from pretraining.icentia11k.reader import Constants
from pretraining.sampler import Sampler
from pretraining.tasks import ContextPrediction

SAMPLES = np.array([4000, 5000, 900])
PATIENTS = [np.array([0]), np.array([1])]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(task, count=60):
    sampler = Sampler(PATIENTS, SAMPLES, task.window, 30, (0, 1))
    return task.examples(None, sampler, 0, count)


@pytest.mark.parametrize("overlap", [0, 30, 99])
@pytest.mark.parametrize("offset", [0, 2])
def test_the_frame_to_find_follows_the_context_and_never_overlaps_it(overlap, offset):
    task = ContextPrediction(100, 5, overlap, offset, ns=3)
    segments, starts, labels = draw(task)
    assert segments.shape == starts.shape == (60, 5 + 4)
    assert (np.diff(starts[:, :5]) == 100 - overlap).all()
    rows = np.arange(60)
    assert (segments[:, 1:5] == segments[:, :1]).all()
    assert (segments[rows, 5 + labels] == segments[:, 0]).all()
    last = starts[:, 4] + 100
    assert (starts[rows, 5 + labels] == last + 100 * offset).all()
    assert (starts[rows, 5 + labels] + 100 <= SAMPLES[segments[:, 0]]).all()
    assert task.window == 4 * (100 - overlap) + 100 * (2 + offset)


def test_other_candidates_come_from_anywhere_and_the_right_one_sits_anywhere():
    segments, starts, labels = draw(ContextPrediction(100, 2, 0, 0, 2))
    assert set(labels) == {0, 1, 2}
    wrong = np.arange(3) != labels[:, None]
    assert set(segments[:, 2:][wrong]) == {0, 1}
    assert len(set(starts[:, 2:][wrong])) > 100


def test_batches_hold_every_frame_in_its_own_scale(cohort_copy, tmp_path):
    path = cohort_copy / "p00/p00001/p00001_s00.hea"
    path.write_text(path.read_text().replace("74.36482269503546(0)/mV", "150(40)/mV"))
    index = open_index(cohort_copy)
    task = ContextPrediction(256, 3, 56, 0, 2)
    cohort, _ = choose_segments(index, None, task.window, annotated=False)
    sampler = Sampler(list(cohort.values()), index.segments["samples"], task.window, 8, (0, 1))
    batches = FrameBatches(task, index, sampler, Constants("made up", 0.1, 0.5, {}), 16, 40)
    frames = batches[range(1, 2)]
    segments, starts, labels = task.examples(index, sampler, 16, 16)
    assert frames.signal.shape == (16 * 6, 256) and frames.labels.tolist() == labels.tolist()
    normalised = (frames.signal[frames.rows] * frames.scale + frames.shift).numpy()
    for row, column in np.ndindex(16, 6):
        header = index.header(segments[row, column])
        raw = np.fromfile(f"{index.record_path(segments[row, column])}.dat", "<i2")
        part = raw[starts[row, column] :][:256]
        expected = ((part - header.baseline) / header.gain - 0.1) / 0.5
        np.testing.assert_allclose(normalised[row, column], expected, atol=1e-4)
    assert len(set(index.segments["gain"][segments.ravel()])) == 2


def test_parameters_are_those_that_keras_counts():
    encoder = build_encoder("resnet18", 1, None, generator())
    assert count_parameters(CPC(encoder, 8, generator())) == 10_801_344


@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_encoder_gets_a_gradient_in_every_parameter(architecture):
    model = CPC(build_encoder(architecture, 1, 2, generator()), 2, generator())
    frames = torch.randn(6, 5, 512, generator=generator())
    F.cross_entropy(model(frames), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Adding a constant to all keys changes no attention: their bias has no gradient but rounding.
    assert not [name for name in without if not name.endswith("key.bias")]


def test_attention_is_scaled_by_the_whole_width():
    layer, x = TransformerLayer(16, generator()), torch.randn(2, 3, 16, generator=generator())
    q, k, v = (dense(x).view(2, 3, 8, 2) for dense in (layer.query, layer.key, layer.value))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(16)).softmax(-1)
    attended = torch.einsum("bhij,bjhd->bihd", weights, v).reshape(2, 3, 16)
    y = layer.norm1(x + layer.out(attended))
    expected = layer.norm2(y + layer.ff2(layer.ff1(y).relu()))
    torch.testing.assert_close(layer(x), expected)


def test_candidates_are_scored_apart_and_the_order_of_the_context_matters():
    model = CPC(build_encoder("resnet18", 1, 1, generator()), 3, generator()).eval()
    frames = torch.randn(2, 7, 256, generator=generator())
    scores = model(frames)
    shuffled = frames[:, [0, 1, 2, 6, 5, 4, 3]]
    torch.testing.assert_close(model(shuffled), scores.flip(1))
    reordered = frames[:, [2, 1, 0, 3, 4, 5, 6]]
    assert not torch.allclose(model(reordered), scores, atol=1e-3)


def test_context_and_candidates_have_batch_statistics_of_their_own():
    encoder = build_encoder("resnet18", 1, 1, generator())
    model = CPC(encoder, 3, generator()).train()
    frames = torch.randn(2, 5, 256, generator=generator())
    pooled = {}
    model.layers.register_forward_hook(lambda *hooked: pooled.update(out=hooked[2]))
    model(frames)
    before = pooled["out"]
    frames[:, 3:] *= 100
    model(frames)
    assert torch.equal(pooled["out"], before)
    assert encoder.bn1.num_batches_tracked == 4
