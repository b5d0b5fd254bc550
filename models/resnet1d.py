"""1-D residual networks of Weimann & Conrad (2021), and the parts that the 2-D network shares.

Padding and initial weights are those of TensorFlow and Keras, so that imported weights give the
same outputs. With `channels_last`, kernels (out, in, k) are applied as (1, k) 2-D convolutions in
channels-last memory, for which bf16 convolutions are fast.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = (64, 128, 256, 512)  # of the four stages
STEM_STRIDE = 4  # of the first convolution and the max-pool together
TRUNCATED_SD = 0.87962566103423978  # of a unit normal truncated at two standard deviations


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Number of zeros that TensorFlow adds in front of and behind `length` samples."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def variance_scaling_(kernel: Tensor, scale: float, generator: torch.Generator) -> None:
    """Fill a kernel (out, in, …) in place as Keras' VarianceScaling (fan-in, truncated normal);
    with `scale` 2 this is He-normal."""
    sd = math.sqrt(scale / kernel[0].numel()) / TRUNCATED_SD
    nn.init.trunc_normal_(kernel, std=sd, a=-2 * sd, b=2 * sd, generator=generator)


def glorot_(dense: nn.Linear, generator: torch.Generator) -> nn.Linear:
    """Initialise a dense layer in place as Keras does (Glorot uniform, zero bias); return it."""
    nn.init.xavier_uniform_(dense.weight, generator=generator)
    nn.init.zeros_(dense.bias)
    return dense


def make_shortcut(net: "ResNet", in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A 1×1 convolution and batch normalisation where width or stride change."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(net.conv(in_channels, out_channels, 1, stride), net.norm(out_channels))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, ReLU."""

    expansion = 1

    def __init__(self, net: "ResNet", in_channels: int, filters: int, kernel: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = net.conv(in_channels, filters, kernel, stride), net.norm(filters)
        self.conv2, self.bn2 = net.conv(filters, filters, kernel, 1), net.norm(filters)
        self.shortcut = make_shortcut(net, in_channels, filters, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)).add_(self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    """1×1 conv-BN-ReLU, conv-BN-ReLU, 1×1 conv-BN of four times the filters plus shortcut, ReLU."""

    expansion = 4

    def __init__(self, net: "ResNet", in_channels: int, filters: int, kernel: int, stride: int):
        super().__init__()
        width = filters * self.expansion
        self.conv1, self.bn1 = net.conv(in_channels, filters, 1, 1), net.norm(filters)
        self.conv2, self.bn2 = net.conv(filters, filters, kernel, stride), net.norm(filters)
        self.conv3, self.bn3 = net.conv(filters, width, 1, 1), net.norm(width)
        self.shortcut = make_shortcut(net, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """Residual encoder, (B, in_channels, T) -> (B, out_features); arguments as `build_encoder`.

    The first block of each stage but the first has stride 2. `stride` is the number of samples from
    one position in time of the feature maps to the next. Subclasses define `feature_maps`, the
    kernel size of each stage, `conv(in_channels, out_channels, kernel, stride)` with the `scale` of
    its initial kernels, and `norm(channels)`.
    """

    spectrogram_settings = None

    def __init__(
        self, block: type[BasicBlock | Bottleneck], blocks: Sequence[int], in_channels: int,
        generator: torch.Generator | None,
    ):  # fmt: skip
        super().__init__()
        self.channels_last = False
        self.stride = STEM_STRIDE * 2 ** max(len(blocks) - 1, 0)
        self.conv1, self.bn1 = self.conv(in_channels, FILTERS[0], 7, 2), self.norm(FILTERS[0])
        self.stages, channels = nn.Sequential(), FILTERS[0]
        for stage, count in enumerate(blocks):
            filters, kernel = FILTERS[stage], self.kernels[stage]
            self.stages.append(nn.Sequential())
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                self.stages[stage].append(block(self, channels, filters, kernel, stride))
                channels = filters * block.expansion
        self.out_features = channels
        if generator is not None:
            for module in self.modules():
                if isinstance(module, self.conv):
                    variance_scaling_(module.weight, module.scale, generator)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.feature_maps(x)
        return maps.mean(tuple(range(2, maps.ndim)))


class SameConv1d(nn.Module):
    """Convolution without bias, `same` padding; (B, in, T) or (B, in, 1, T) to T / stride."""

    scale = 1

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel))

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


class ResNet1d(ResNet):
    """Encoder of signals; see `ResNet`."""

    conv, norm, kernels = SameConv1d, BatchNorm, (7, 5, 5, 3)

    def feature_maps(self, x: Tensor) -> Tensor:
        """Output of the last stage, (B, in_channels, T) -> (B, D, T / stride)."""
        if self.channels_last:
            x = x.unsqueeze(2).to(memory_format=torch.channels_last)  # (B, C, 1, T)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        # The pool pads with -inf, as TensorFlow does; ceil mode extends it at the end only.
        front, behind = same_padding(x.shape[-1], 3, 2)
        if self.channels_last:
            x = F.max_pool2d(x, (1, 3), (1, 2), (0, front), ceil_mode=front < behind)
        else:
            x = F.max_pool1d(x, 3, 2, front, ceil_mode=front < behind)
        return self.stages(x).flatten(2)
