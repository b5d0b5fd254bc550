"""2-D residual network of the replication, on spectrograms, with TensorFlow's `same` padding."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.keras_rules import same_padding, variance_scaling_
from models.residual import FILTERS, BasicBlock, Layers, build_stages, total_stride
from models.spectrogram import Settings, Spectrogram

BatchNorm = partial(nn.BatchNorm2d, momentum=0.01, eps=1e-3)  # Keras' defaults


class SameConv2d(nn.Module):
    """Convolution with bias, square kernel, `same` padding; (B, in, F, T) to (F, T) / stride."""

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
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        variance_scaling_(self.weight, 2, generator)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        padding = [same_padding(length, kernel, self.stride) for length in x.shape[:-3:-1]]
        x = F.pad(x, (*padding[0], *padding[1]))
        return F.conv2d(x, self.weight, self.bias, self.stride)


class ResNet2d(nn.Module):
    """Residual encoder of a signal, (B, in_channels, T) -> (B, out_features).

    Args:
        blocks: number of blocks in each stage; fewer stages than four make a shorter network.
        in_channels: leads, a spectrogram each.
        generator: source of the initial kernels.
        settings: of the spectrograms.

    Attributes:
        stride: samples from one place in time of the maps to the next.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        in_channels: int,
        generator: torch.Generator,
        settings: Settings,
    ):
        super().__init__()
        self.channels_last = False
        self.spectrogram = Spectrogram(settings)
        self.stride = settings.hop * total_stride(len(blocks))
        self.conv1 = SameConv2d(in_channels, FILTERS[0], 7, 2, generator)
        self.bn1 = BatchNorm(FILTERS[0])
        layers = Layers(SameConv2d, BatchNorm)
        kernels = (3,) * len(blocks)
        self.stages, self.out_features = build_stages(
            BasicBlock, layers, blocks, kernels, generator
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.features(self.spectrogram(x))

    def features(self, image: Tensor) -> Tensor:
        """Features of spectrograms, (B, in_channels, F, T) -> (B, out_features)."""
        return self.pool(self._maps(image))

    def maps(self, x: Tensor) -> Tensor:
        """What the last stage finds at each frequency and place, (B, in_channels, T) ->
        (B, D, F, T / stride)."""
        return self._maps(self.spectrogram(x))

    def pool(self, maps: Tensor) -> Tensor:
        """(B, D, F, places) -> (B, D)."""
        return maps.mean((2, 3))

    def _maps(self, image: Tensor) -> Tensor:
        if self.channels_last:
            image = image.to(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.max_pool2d(x, 2, ceil_mode=True)
        return self.stages(x)
