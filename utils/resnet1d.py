"""1-D residual networks of Weimann & Conrad (2021), with TensorFlow's `same` padding.

Tensors are (batch, channels, samples). With `channels_last` the same kernels, stored
(out, in, k), compute as (1, k) 2-D convolutions on channels-last memory: the layout that bf16
kernels are fast in.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = (64, 128, 256, 512)
KERNELS = (7, 5, 5, 3)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's zeros in front of and behind `length` samples; the smaller half in front."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    front, behind = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (front, behind)) if front or behind else x


class SameConv1d(nn.Module):
    """Convolution without bias, `same` padding; (B, in, T) or (B, in, 1, T) to T / stride.

    Kernels come from a truncated normal of variance 1 / fan-in (Keras' VarianceScaling).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        generator: torch.Generator,
    ):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))
        # Cutting a unit normal at two deviations leaves a deviation of 0.8796.
        sd = (in_channels * kernel) ** -0.5 / 0.87962566103423978
        nn.init.trunc_normal_(self.weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        front, behind = same_padding(x.shape[-1], kernel, self.stride)
        if front != behind:
            x, front = F.pad(x, (front, behind)), 0
        if x.ndim == 4:
            return F.conv2d(x, self.weight.unsqueeze(2), None, (1, self.stride), (0, front))
        return F.conv1d(x, self.weight, None, self.stride, front)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, C, T) and (B, C, 1, T); momentum 0.1 and eps 1e-5."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, ReLU."""

    def __init__(
        self, in_channels: int, filters: int, kernel: int, stride: int, generator: torch.Generator
    ):
        super().__init__()
        self.conv1 = SameConv1d(in_channels, filters, kernel, stride, generator)
        self.bn1 = BatchNorm(filters)
        self.conv2 = SameConv1d(filters, filters, kernel, 1, generator)
        self.bn2 = BatchNorm(filters)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != filters:
            self.shortcut = nn.Sequential(
                SameConv1d(in_channels, filters, 1, stride, generator), BatchNorm(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet1d(nn.Module):
    """Residual encoder, (B, in_channels, T) -> (B, out_features).

    Args:
        blocks: number of blocks in each stage; fewer stages than four make a shorter network.
        in_channels: leads.
        generator: source of the initial kernels.
    """

    def __init__(self, blocks: tuple[int, ...], in_channels: int, generator: torch.Generator):
        super().__init__()
        self.channels_last = False
        self.conv1 = SameConv1d(in_channels, FILTERS[0], KERNELS[0], 2, generator)
        self.bn1 = BatchNorm(FILTERS[0])
        widths = (FILTERS[0], *FILTERS[: len(blocks)])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        BasicBlock(
                            width if first else filters,
                            filters,
                            KERNELS[stage],
                            2 if first and stage else 1,
                            generator,
                        )
                        for first in [True] + [False] * (blocks[stage] - 1)
                    )
                )
                for stage, (width, filters) in enumerate(pairwise(widths))
            )
        )
        self.out_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.unsqueeze(2).to(memory_format=torch.channels_last)  # (B, C, 1, T)
        x = F.relu(self.bn1(self.conv1(x)))
        # After ReLU, zeros pad as well as TensorFlow's -inf does.
        x = _pad_same(x, 3, 2)
        x = F.max_pool2d(x, (1, 3), (1, 2)) if self.channels_last else F.max_pool1d(x, 3, 2)
        return self.stages(x).flatten(2).mean(-1)  # (B, D)
