"""Contrastive predictive coding: which of several frames follows a context of frames?

As in Weimann & Conrad's code: every frame goes through the encoder, a transformer pools the
context behind a learned token, and the dot product with the token's output scores each candidate.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resnet1d import glorot_

LAYERS = 3
HEADS = 8


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a shortcut and layer normalisation behind it.

    (B, K, D) -> (B, K, D); no dropout. Attention logits are divided by the root of D, not of the
    heads' width: the authors' scale, which their weights need.
    """

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()

        def dense(inputs: int, outputs: int) -> nn.Linear:
            return glorot_(nn.Linear(inputs, outputs), generator)

        self.query, self.key, self.value, self.out = (dense(width, width) for _ in range(4))
        self.norm1 = nn.LayerNorm(width, eps=1e-3)
        self.ff1, self.ff2 = dense(width, 2 * width), dense(2 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            dense(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (B, heads, K, D / heads)
            for dense in (self.query, self.key, self.value)
        )
        pooled = F.scaled_dot_product_attention(q, k, v, scale=x.shape[-1] ** -0.5)
        x = self.norm1(self.out(pooled.transpose(1, 2).flatten(2)) + x)
        return self.norm2(self.ff2(F.relu(self.ff1(x))) + x)


class CPC(nn.Module):
    """Encoder and pooling transformer, (B, context_size + candidates, T) -> (B, candidates) scores
    of the frames that come after the context."""

    def __init__(self, encoder: nn.Module, context_size: int, generator: torch.Generator):
        super().__init__()
        width = encoder.out_features
        self.context_size, self.encoder = context_size, encoder
        self.pool_token = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.pool_token, generator=generator)
        self.layers = nn.Sequential(*(TransformerLayer(width, generator) for _ in range(LAYERS)))

    def forward(self, frames: Tensor) -> Tensor:
        # Apart, as in the authors' code: each has batch statistics of its own.
        parts = frames.tensor_split([self.context_size], dim=1)
        context, candidates = (
            self.encoder(part.flatten(0, 1).unsqueeze(1)).unflatten(0, part.shape[:2])
            for part in parts
        )  # (B, K, D)
        token = self.pool_token.expand(len(frames), 1, -1)
        sequence = torch.cat([token, context], 1) * math.sqrt(context.shape[-1])
        pooled = self.layers(sequence + positions(*sequence.shape[1:]).to(sequence))[:, 0]
        return torch.einsum("bd,bnd->bn", pooled, candidates)


def positions(length: int, width: int) -> Tensor:
    """Sinusoidal positions, (length, width): sine in even channels, cosine in odd ones."""
    channel = torch.arange(width)
    angle = torch.arange(length)[:, None] / 10000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
