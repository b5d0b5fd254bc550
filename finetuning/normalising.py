"""Millivolt to what a network sees."""

import torch
from torch import Tensor

from utils.standardising import moments

Constant = float | list[float] | None


def normalise(millivolt: Tensor, inside: Tensor, mean: Constant, sd: Constant) -> Tensor:
    """Signals minus a mean and divided by a deviation, and zeros where there is none.

    Args:
        millivolt: (B, C, T). inside: which samples are signal, (B, 1, T) or (T,).
        mean, sd: in mV, lists have one for each lead; None: those of each recording and lead.
    """
    if mean is None:
        center, scale = moments(millivolt, inside)
    else:
        center, scale = (_by_lead(value, millivolt.device) for value in (mean, sd))
    return inside * (millivolt - center) / scale


def _by_lead(values: float | list[float], device: torch.device) -> float | Tensor:
    """A number as it is, a list as (C, 1)."""
    return torch.tensor(values, device=device)[:, None] if isinstance(values, list) else values
