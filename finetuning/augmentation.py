"""Recordings changed at random, in ways that leave their labels true.

The strengths are small against what tells the classes apart: a P wave has some 0.1 mV, a recording
lasts 9 s at least.
"""

import math

import torch
from torch import Generator, Tensor

KEPT = 0.8  # of a recording at least: what makes its label may be brief
SCALE = 1.5  # at most, and its inverse at least: contact and skin vary
NOISE_MV = 0.02  # standard deviation at most
WANDER_MV = 0.1  # amplitude at most
WANDER_HZ = (0.05, 0.5)  # breathing and slow movement
# Of one-lead recordings: a device of two electrodes can be held either way round. Of every 30th
# recording of Challenge 2017, 31 % have their large deflections downwards (negative skewness).
FLIPPED = 0.5


def augment(
    millivolt: Tensor, inside: Tensor, fs: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """A batch whose recordings are cropped, moved, scaled, turned over, and disturbed.

    Args:
        millivolt: (B, C, T), padded in front. inside: (B, 1, T) which samples are signal.
        fs: Hz. generator: on the device; equal states, equal changes.

    Returns:
        The same of the changed recordings; outside of them there may be anything.
    """
    millivolt, inside = crop_and_move(millivolt, inside, generator)
    count, leads, samples = millivolt.shape

    def uniform(least: float, most: float, leads: int = 1) -> Tensor:
        drawn = torch.rand(count, leads, 1, generator=generator, device=millivolt.device)
        return least + (most - least) * drawn

    scale = uniform(-math.log(SCALE), math.log(SCALE)).exp()
    if leads == 1:  # of twelve, only some would change their sign
        scale = torch.where(uniform(0, 1) < FLIPPED, -scale, scale)
    seconds = torch.arange(samples, device=millivolt.device) / fs
    turns = uniform(*WANDER_HZ) * seconds + uniform(0, 1, leads)
    wander = uniform(0, WANDER_MV, leads) * (2 * math.pi * turns).sin()
    noise = torch.randn(millivolt.shape, generator=generator, device=millivolt.device)
    return millivolt * scale + wander + uniform(0, NOISE_MV) * noise, inside


def crop_and_move(millivolt: Tensor, inside: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A stretch of each recording, of `KEPT` or more, anywhere in the padding; as `augment`."""
    count, _, samples = millivolt.shape
    device = millivolt.device
    share, from_start, place = torch.rand(3, count, 1, 1, generator=generator, device=device)
    valid = inside.sum(-1, keepdim=True)
    kept = (valid * (KEPT + (1 - KEPT) * share)).ceil().long()
    source = samples - valid + (from_start * (valid - kept + 1)).long()
    target = (place * (samples - kept + 1)).long()
    places = torch.arange(samples, device=device)
    taken = (places + source - target).clamp(0, samples - 1)
    moved = millivolt.gather(-1, taken.expand_as(millivolt))
    return moved, (places >= target) & (places < target + kept)
