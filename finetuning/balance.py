"""Classes that count alike, however many recordings each has."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(y: np.ndarray) -> np.ndarray:
    """(classes,) such that classes weigh alike, and recordings 1 on average; 0 for absent ones.

    Args:
        y: (n, classes), one-hot.
    """
    counts = y.sum(0, dtype=np.int64)
    present = np.count_nonzero(counts)
    return np.where(counts, len(y) / (present * np.maximum(counts, 1)), 0.0)


def draw(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of n recordings, each class equally often on average; some occur again."""
    chances = class_weights(y)[y.argmax(1)]
    return rng.choice(len(y), len(y), p=chances / chances.sum())


def weighted_loss(y: np.ndarray, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross entropy in which each class has its weight; the mean over examples, so that it does
    not matter which are in one batch."""
    return partial(_weighted, torch.from_numpy(class_weights(y)).float().to(device))


def _weighted(weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)
