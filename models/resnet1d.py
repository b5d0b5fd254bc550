"""1-D residual networks of Weimann & Conrad (2021), with TensorFlow's `same` padding.

Tensors are (batch, channels, samples). With `channels_last` the same kernels, stored
(out, in, k), compute as (1, k) 2-D convolutions on channels-last memory: the layout that bf16
kernels are fast in.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.keras_rules import same_padding, variance_scaling_
from models.residual import FILTERS, BasicBlock, Bottleneck, Layers, build_stages, total_stride

KERNELS = (7, 5, 5, 3)


class SameConv1d(nn.Module):
    """Convolution without bias, `same` padding; (B, in, T) or (B, in, 1, T) to T / stride."""

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
        variance_scaling_(self.weight, 1, generator)

    def forward(self, x: Tensor) -> Tensor:
        front, behind = same_padding(x.shape[-1], self.weight.shape[-1], self.stride)
        if front != behind:
            x, front = F.pad(x, (front, behind)), 0
        if x.ndim == 4:
            return F.conv2d(x, self.weight.unsqueeze(2), None, (1, self.stride), (0, front))
        return F.conv1d(x, self.weight, None, self.stride, front)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, C, T) and (B, C, 1, T); momentum 0.1 and eps 1e-5."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class ResNet1d(nn.Module):
    """Residual encoder, (B, in_channels, T) -> (B, out_features).

    Args:
        blocks: number of blocks in each stage; fewer stages than four make a shorter network.
        in_channels: leads.
        generator: source of the initial kernels.

    Attributes:
        stride: samples from one place of the maps to the next.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        in_channels: int,
        generator: torch.Generator,
    ):
        super().__init__()
        self.channels_last = False
        self.stride = total_stride(len(blocks))
        self.conv1 = SameConv1d(in_channels, FILTERS[0], 7, 2, generator)
        self.bn1 = BatchNorm(FILTERS[0])
        layers = Layers(SameConv1d, BatchNorm)
        self.stages, self.out_features = build_stages(block, layers, blocks, KERNELS, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.maps(x))

    def maps(self, x: Tensor) -> Tensor:
        """What the last stage finds at each place, (B, in_channels, T) -> (B, D, T / stride)."""
        if self.channels_last:
            x = x.unsqueeze(2).to(memory_format=torch.channels_last)  # (B, C, 1, T)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        # The pool pads with -inf, as TensorFlow does; in ceil mode it looks beyond the end only.
        front, behind = same_padding(x.shape[-1], 3, 2)
        if self.channels_last:
            x = F.max_pool2d(x, (1, 3), (1, 2), (0, front), ceil_mode=front < behind)
        else:
            x = F.max_pool1d(x, 3, 2, front, ceil_mode=front < behind)
        return self.stages(x).flatten(2)

    def pool(self, maps: Tensor) -> Tensor:
        """(B, D, places) -> (B, D)."""
        return maps.mean(-1)
