"""Residual blocks and stages, of 1-D or 2-D layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = (64, 128, 256, 512)  # of the four stages
STEM_STRIDE = 4  # of convolution and pool in front of them


class Layers(NamedTuple):
    """`conv(in_channels, out_channels, kernel, stride, generator)` and `norm(channels)`."""

    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]

    def shortcut(
        self, in_channels: int, out_channels: int, stride: int, generator: torch.Generator
    ) -> nn.Module:
        """A 1×1 convolution and BN where width or stride change."""
        if stride == 1 and in_channels == out_channels:
            return nn.Identity()
        conv = self.conv(in_channels, out_channels, 1, stride, generator)
        return nn.Sequential(conv, self.norm(out_channels))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, ReLU."""

    expansion = 1

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        filters: int,
        kernel: int,
        stride: int,
        generator: torch.Generator,
    ):
        super().__init__()
        self.conv1 = layers.conv(in_channels, filters, kernel, stride, generator)
        self.bn1 = layers.norm(filters)
        self.conv2 = layers.conv(filters, filters, kernel, 1, generator)
        self.bn2 = layers.norm(filters)
        self.shortcut = layers.shortcut(in_channels, filters, stride, generator)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)).add_(self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    """1×1 conv-BN-ReLU, conv-BN-ReLU, 1×1 conv-BN of four times the filters plus shortcut, ReLU."""

    expansion = 4

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        filters: int,
        kernel: int,
        stride: int,
        generator: torch.Generator,
    ):
        super().__init__()
        width = filters * self.expansion
        self.conv1 = layers.conv(in_channels, filters, 1, 1, generator)
        self.bn1 = layers.norm(filters)
        self.conv2 = layers.conv(filters, filters, kernel, stride, generator)
        self.bn2 = layers.norm(filters)
        self.conv3 = layers.conv(filters, width, 1, 1, generator)
        self.bn3 = layers.norm(width)
        self.shortcut = layers.shortcut(in_channels, width, stride, generator)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)).add_(self.shortcut(x)), inplace=True)


def build_stages(
    block: type[BasicBlock | Bottleneck],
    layers: Layers,
    blocks: Sequence[int],
    kernels: Sequence[int],
    generator: torch.Generator,
) -> tuple[nn.Sequential, int]:
    """Stages behind a stem of 64 channels, and their output channels.

    The first block of each stage but the first has stride 2.

    Args:
        blocks: number of blocks of each stage. kernels: size in each stage.
    """
    widths = (FILTERS[0], *(filters * block.expansion for filters in FILTERS[: len(blocks)]))
    stages = [
        nn.Sequential(
            *(
                block(
                    layers,
                    width if first else out_width,
                    FILTERS[stage],
                    kernels[stage],
                    2 if first and stage else 1,
                    generator,
                )
                for first in [True] + [False] * (blocks[stage] - 1)
            )
        )
        for stage, (width, out_width) in enumerate(pairwise(widths))
    ]
    return nn.Sequential(*stages), widths[-1]


def total_stride(stages: int) -> int:
    """What one place behind the stem and so many stages stands for, in samples or columns."""
    return STEM_STRIDE * 2 ** max(stages - 1, 0)
