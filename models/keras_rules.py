"""Rules of Keras and TensorFlow that the published networks rest on."""

import math

import torch
from torch import Tensor, nn

# Deviation that is left of a unit normal cut at two deviations.
_CUT = 0.87962566103423978


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's zeros in front of and behind `length` samples; the smaller half in front."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def variance_scaling_(kernel: Tensor, scale: float, generator: torch.Generator | None) -> None:
    """Fill (out, in, …) from a truncated normal of variance `scale` / fan-in, in place.

    Keras' VarianceScaling; of scale 2 it is He-normal. Without a generator nothing is drawn: it
    takes seconds, for nothing where values are to be loaded.
    """
    if generator is None:
        return
    sd = math.sqrt(scale / kernel[0].numel()) / _CUT
    nn.init.trunc_normal_(kernel, std=sd, a=-2 * sd, b=2 * sd, generator=generator)


def glorot_(dense: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Start a dense layer as Keras does: Glorot uniform, zero bias."""
    nn.init.xavier_uniform_(dense.weight, generator=generator)
    nn.init.zeros_(dense.bias)
    return dense
