"""Table of encoders, (B, C, T) -> (B, D), and the classifier that puts a dense layer on one."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.keras_rules import glorot_
from models.residual import BasicBlock, Bottleneck
from models.resnet1d import ResNet1d
from models.resnet2d import ResNet2d
from models.spectrogram import NetworkError, read_settings


class Architecture(NamedTuple):
    """Constructor of an encoder, blocks of each stage, and whether it sees spectrograms."""

    constructor: Callable[..., nn.Module]
    blocks: tuple[int, ...]
    spectral: bool = False


ENCODERS = {
    "resnet18": Architecture(partial(ResNet1d, BasicBlock), (2, 2, 2, 2)),
    "resnet34": Architecture(partial(ResNet1d, BasicBlock), (3, 4, 6, 3)),
    "resnet50": Architecture(partial(ResNet1d, Bottleneck), (3, 4, 6, 3)),
    "resnet18_2d": Architecture(ResNet2d, (2, 2, 2, 2), spectral=True),
}


def build_encoder(
    architecture: str,
    in_channels: int,
    stages: int | None,
    generator: torch.Generator | None,
    spectrogram: dict[str, Any] | None = None,
) -> nn.Module:
    """Encoder with new weights.

    Args:
        stages: keep the first ones only.
        generator: source of the weights; None where they are to be loaded.
        spectrogram: settings of a network that sees one, see `models.spectrogram.Settings`; the
            replication's by default.

    Raises:
        NetworkError: unknown architecture or settings, or more stages than there are.
    """
    if architecture not in ENCODERS:
        raise NetworkError(f"unknown architecture {architecture!r}; known: {', '.join(ENCODERS)}")
    constructor, blocks, spectral = ENCODERS[architecture]
    if stages is not None and not 1 <= stages <= len(blocks):
        raise NetworkError(f"--stages {stages}: {architecture} has 1 to {len(blocks)}")
    if not spectral:
        return constructor(blocks[:stages], in_channels, generator)
    settings = read_settings(spectrogram or {})
    return constructor(blocks[:stages], in_channels, generator, settings)


def settings_of(encoder: nn.Module) -> dict[str, Any] | None:
    """Its spectrogram's settings, for the contract; None where it sees none."""
    front = getattr(encoder, "spectrogram", None)
    return front and front.settings._asdict()


class Classifier(nn.Module):
    """Encoder and dense layer, (B, C, T) -> (B, classes) logits."""

    def __init__(self, encoder: nn.Module, classes: int, generator: torch.Generator):
        super().__init__()
        self.encoder = encoder
        self.head = glorot_(nn.Linear(encoder.out_features, classes), generator)

    def freeze_encoder(self) -> None:
        """Train the dense layer only; the encoder's batch statistics stay as they are, too."""
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        frozen = not any(parameter.requires_grad for parameter in self.encoder.parameters())
        self.encoder.train(mode and not frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def explain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) as `forward` has them, and the evidence for them, in one pass.

        The evidence (B, classes, places), float32, is the class-activation map (Zhou et al. 2016).
        Behind the average over places there is but a dense layer, so that it is exact: its mean
        over places, plus the bias, is the logits. See `by_sample` for where the places lie.
        """
        maps = self.encoder.maps(x)  # (B, D, places), or (B, D, F, places)
        with torch.autocast(x.device.type, enabled=False):
            over_time = maps.float().mean(2) if maps.ndim == 4 else maps.float()
            evidence = self.head.weight @ over_time
        return self.head(self.encoder.pool(maps)), evidence

    def evidence(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, classes, places); see `explain`."""
        return self.explain(x)[1]

    def by_sample(self, evidence: Tensor, samples: int) -> Tensor:
        """Evidence (…, places) as (…, samples): place i stands for `encoder.stride` samples from
        i * stride on; it sees farther to both sides."""
        place = torch.arange(samples, device=evidence.device) // self.encoder.stride
        return evidence[..., place.clamp_max(evidence.shape[-1] - 1)]


def count_parameters(model: nn.Module) -> int:
    """Parameters as Keras counts them: BN's running mean and variance included."""
    state = model.state_dict()
    return sum(v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked"))
