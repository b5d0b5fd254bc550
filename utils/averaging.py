"""Exponential moving average of a network's weights."""

import torch
from torch import nn


def decay_at(step: int, decay: float) -> float:
    """Share of the average that step `step`, from 1 on, keeps: less at first, so that the initial
    weights are soon forgotten (as TensorFlow's `ExponentialMovingAverage`)."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `average` towards `model`, of the same structure.

    Running means and variances of batch normalisation are averaged alike: those of the last step
    belong to its weights, not to the average.
    """
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:  # how many batches were counted
            mean.copy_(value)
