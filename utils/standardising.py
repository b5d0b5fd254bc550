"""Signals to mean 0 and standard deviation 1, each by its own."""

import torch
from torch import Tensor

LEAST_SD = 1e-3  # mV, a unit of the prepared sets: a constant signal becomes zeros


def moments(millivolt: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time, (…, 1) each; the latter is at least `LEAST_SD`.

    Args:
        millivolt: (…, T). inside: which samples count, as `millivolt` or broadcast to it; all by
            default.
    """
    if inside is None:
        inside = torch.ones(millivolt.shape[-1], device=millivolt.device)
    count = inside.sum(-1, keepdim=True)
    mean = (inside * millivolt).sum(-1, keepdim=True) / count
    variance = (inside * (millivolt - mean).square()).sum(-1, keepdim=True) / count
    return mean, variance.sqrt().clamp(min=LEAST_SD)
