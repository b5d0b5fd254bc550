"""Contrastive predictive coding: which frames an example takes, and the network."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import ENCODERS, build_encoder, count_parameters
from pretraining.cpc import CPC, TransformerLayer
from pretraining.sampler import Sampler
from pretraining.tasks import ContextPrediction

SAMPLES = np.array([4000, 5000, 900])
PATIENTS = [np.array([0]), np.array([1])]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("overlap", [0, 30, 99])
@pytest.mark.parametrize("offset", [0, 2])
def test_the_frame_to_find_follows_the_context_and_never_overlaps_it(overlap, offset):
    task = ContextPrediction(100, 5, overlap, offset, ns=3)
    sampler = Sampler(PATIENTS, SAMPLES, task.window, 30, (0, 1))
    segments, starts, labels = task.examples(None, sampler, 0, 60)
    assert segments.shape == starts.shape == (60, 5 + 4)
    assert (np.diff(starts[:, :5]) == 100 - overlap).all()
    assert (segments[:, 1:5] == segments[:, :1]).all()
    assert set(labels) == {0, 1, 2, 3}
    positive = np.arange(4) == labels[:, None]
    assert (segments[:, 5:][positive] == segments[:, 0]).all()
    assert (starts[:, 5:][positive] == starts[:, 4] + 100 * (1 + offset)).all()
    assert (starts + 100 <= SAMPLES[segments]).all()
    assert task.window == 4 * (100 - overlap) + 100 * (2 + offset)
    assert set(segments[:, 5:][~positive]) == {0, 1}
    assert len(set(starts[:, 5:][~positive])) > 100  # negatives come from anywhere


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


def test_context_and_candidates():
    model = CPC(build_encoder("resnet18", 1, 1, generator()), 3, generator()).eval()
    frames, pooled = torch.randn(2, 7, 256, generator=generator()), []
    scores = model(frames)
    # Candidates are scored apart; the order of the context matters.
    torch.testing.assert_close(model(frames[:, [0, 1, 2, 6, 5, 4, 3]]), scores.flip(1))
    assert not torch.allclose(model(frames[:, [2, 1, 0, 3, 4, 5, 6]]), scores, atol=1e-3)
    # Each has batch statistics of its own.
    model.train().layers.register_forward_hook(lambda *hooked: pooled.append(hooked[2]))
    model(frames)
    frames[:, 3:] *= 100
    model(frames)
    assert torch.equal(*pooled) and model.encoder.bn1.num_batches_tracked == 4
