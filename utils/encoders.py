"""Table of encoders, (B, C, T) -> (B, D), and the classifier that puts a dense layer on one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.cli import UserError
from utils.resnet1d import ResNet1d

# architecture: (constructor, blocks of each stage)
ENCODERS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "resnet18": (ResNet1d, (2, 2, 2, 2)),
}


def build_encoder(
    architecture: str, in_channels: int, stages: int | None, generator: torch.Generator
) -> nn.Module:
    """Encoder with new weights; `stages` keeps the first ones only.

    Raises:
        UserError: unknown architecture, or more stages than it has.
    """
    if architecture not in ENCODERS:
        raise UserError(f"unknown architecture {architecture!r}; known: {', '.join(ENCODERS)}")
    constructor, blocks = ENCODERS[architecture]
    if stages is not None and not 1 <= stages <= len(blocks):
        raise UserError(f"--stages {stages}: {architecture} has 1 to {len(blocks)}")
    return constructor(blocks[:stages], in_channels, generator)


class Classifier(nn.Module):
    """Encoder and dense layer, (B, C, T) -> (B, classes) logits.

    The dense layer starts as Keras' does: Glorot uniform, zero bias.
    """

    def __init__(self, encoder: nn.Module, classes: int, generator: torch.Generator):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_features, classes)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        nn.init.zeros_(self.head.bias)

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


def count_parameters(model: nn.Module) -> int:
    """Parameters as Keras counts them: BN's running mean and variance included."""
    state = model.state_dict()
    return sum(v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked"))
