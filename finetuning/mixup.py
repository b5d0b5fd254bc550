"""Mixup (Zhang et al. 2018): recordings and labels blended in pairs."""

import numpy as np
import torch
from torch import Tensor


def mix(x: Tensor, labels: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each of a batch with another one, all in the same shares, of which its own is the larger.

    Args:
        x: (B, C, T). labels: (B, classes) float. alpha: of the Beta distribution of the shares.
    """
    share = rng.beta(alpha, alpha)
    own = max(share, 1 - share)
    partner = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    return tuple(torch.lerp(mixed[partner], mixed, own) for mixed in (x, labels))
