"""Registry of encoders, (B, C, T) -> (B, D), and the classifier that adds a dense layer to one."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.resnet1d import BasicBlock, Bottleneck, ResNet, ResNet1d, glorot_
from models.resnet2d import ResNet2d
from models.spectrogram import NetworkError, SpectrogramSettings


class Architecture(NamedTuple):
    network: type[ResNet]
    block: type[nn.Module]
    blocks: tuple[int, ...]  # number in each stage

    @property
    def spectral(self) -> bool:
        """Whether the input of the first layer is a spectrogram."""
        return self.network is ResNet2d


ENCODERS = {
    "resnet18": Architecture(ResNet1d, BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(ResNet1d, BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(ResNet1d, Bottleneck, (3, 4, 6, 3)),
    "resnet18_2d": Architecture(ResNet2d, BasicBlock, (2, 2, 2, 2)),
}
DEFAULT_ARCHITECTURE = "resnet18"


def build_encoder(
    architecture: str, in_channels: int, stages: int | None, generator: torch.Generator | None,
    spectrogram: dict[str, Any] | None = None,
) -> nn.Module:  # fmt: skip
    """Build an encoder for `in_channels` leads; raises `NetworkError` if there is no such encoder.

    Of `stages` only the first ones are kept, None keeps all. The initial weights are drawn from the
    `generator`; None leaves the kernels unset. `spectrogram` holds fields of `SpectrogramSettings`,
    which 1-D networks ignore.
    """
    if architecture not in ENCODERS:
        raise NetworkError(f"unknown architecture {architecture!r}; known: {', '.join(ENCODERS)}")
    network, block, blocks = ENCODERS[architecture]
    if stages is not None and not 1 <= stages <= len(blocks):
        raise NetworkError(f"--stages {stages}: {architecture} has 1 to {len(blocks)}")
    if network is not ResNet2d:
        return network(block, blocks[:stages], in_channels, generator)
    try:
        settings = SpectrogramSettings(**(spectrogram or {}))
    except TypeError:
        raise NetworkError(f"{spectrogram} are not settings of a spectrogram") from None
    return network(block, blocks[:stages], in_channels, generator, settings=settings)


class Classifier(nn.Module):
    """Encoder and dense layer, (B, C, T) -> (B, classes) logits."""

    def __init__(self, encoder: nn.Module, classes: int, generator: torch.Generator):
        super().__init__()
        self.encoder = encoder
        self.head = glorot_(nn.Linear(encoder.out_features, classes), generator)

    def train(self, mode: bool = True) -> "Classifier":
        """The batch statistics of an encoder whose weights are frozen stay unchanged, too."""
        super().train(mode)
        frozen = not any(parameter.requires_grad for parameter in self.encoder.parameters())
        self.encoder.train(mode and not frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def class_activation_map(self, x: Tensor) -> Tensor:
        """Contribution of each position to each logit (Zhou et al. 2016), (B, C, T) ->
        (B, classes, positions) float32: its mean over positions, plus the bias, is the logits."""
        maps = self.encoder.feature_maps(x)  # (B, D, positions), or (B, D, F, positions)
        with torch.autocast(x.device.type, enabled=False):
            over_time = maps.float().mean(2) if maps.ndim == 4 else maps.float()
            return self.head.weight @ over_time

    def upsample_map(self, activation: Tensor, samples: int) -> Tensor:
        """(…, positions) -> (…, samples): position i stands for samples i * stride and later."""
        position = torch.arange(samples, device=activation.device) // self.encoder.stride
        return activation[..., position.clamp_max(activation.shape[-1] - 1)]


def count_parameters(model: nn.Module) -> int:
    """Count parameters as Keras does: batch normalisation's running mean and variance included."""
    state = model.state_dict()
    return sum(v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked"))
