"""Answers averaged over several positions of a recording."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# 0.1 s at 250 Hz. It has no factor in common with the strides of the networks, which are powers of
# two, so that each position falls between their grids in another way.
STEP = 25


class OverShifts(nn.Module):
    """Mean logits of `model` over `count` positions, each `STEP` samples before the last."""

    def __init__(self, model: nn.Module, count: int):
        super().__init__()
        self.model, self.count = model, count

    def forward(self, x: Tensor) -> Tensor:
        shifts = range(0, self.count * STEP, STEP)
        return torch.stack([self.model(earlier(x, shift)).float() for shift in shifts]).mean(0)


def over_shifts(model: nn.Module, count: int) -> nn.Module:
    """`model` itself where one position is all."""
    return OverShifts(model, count) if count > 1 else model


def earlier(x: Tensor, samples: int) -> Tensor:
    """(B, C, T), moved to the front by so many samples, with zeros behind."""
    return F.pad(x[..., samples:], (0, samples))
