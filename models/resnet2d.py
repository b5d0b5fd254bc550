"""2-D residual network of the replication, on spectrograms, with TensorFlow's `same` padding."""

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet1d import ResNet, same_padding
from models.spectrogram import Spectrogram, SpectrogramSettings

BatchNorm = partial(nn.BatchNorm2d, momentum=0.01, eps=1e-3)  # Keras' defaults


class SameConv2d(nn.Module):
    """Convolution with bias, square kernel, `same` padding; (B, in, F, T) to (F, T) / stride."""

    scale = 2

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        padding = [same_padding(length, kernel, self.stride) for length in x.shape[:-3:-1]]
        x = F.pad(x, (*padding[0], *padding[1]))
        return F.conv2d(x, self.weight, self.bias, self.stride)


class ResNet2d(ResNet):
    """Encoder of signals by their spectrograms, one for each lead; other arguments as `ResNet`."""

    conv, norm, kernels = SameConv2d, BatchNorm, (3, 3, 3, 3)

    def __init__(self, *args: Any, settings: SpectrogramSettings):
        super().__init__(*args)
        self.spectrogram = Spectrogram(settings)
        self.spectrogram_settings = asdict(settings)
        self.stride *= settings.hop

    def feature_maps(self, x: Tensor) -> Tensor:
        """Output of the last stage, (B, in_channels, T) -> (B, D, F, T / stride)."""
        image = self.spectrogram(x)
        if self.channels_last:
            image = image.to(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(image)))
        return self.stages(F.max_pool2d(x, 2, ceil_mode=True))
