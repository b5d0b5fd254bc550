"""Training recipe: optimizer, learning rate, class balancing, augmentation, mixup, test-time
averaging."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from finetuning.batches import Recordings, normalize
from utils.distributed import ALONE, Processes
from utils.engine import Batch
from utils.run import rng, torch_generator

SCHEDULES = ("constant", "cosine")
BALANCES = ("none", "sampling", "loss")
ORDER, AUGMENT, MIXUP = 1, 2, 3  # streams of random numbers

# Augmentation; weak beside what tells the classes apart: a P wave has about 0.1 mV.
MIN_CROP = 0.8  # share of a recording: what makes its label may be brief
MAX_SCALE = 1.5  # and its inverse: contact and skin vary
MAX_NOISE_MV = 0.02  # standard deviation
MAX_WANDER_MV = 0.1  # amplitude of the baseline wander
WANDER_HZ = (0.05, 0.5)  # breathing and slow movement
# Of one-lead recordings: a device with two electrodes can be held either way round. In Challenge
# 2017, 31 % of every 30th recording have their large deflections downwards (negative skewness).
FLIP_PROBABILITY = 0.5
# Test-time averaging: 0.1 s at 250 Hz. It has no factor in common with the strides of the networks,
# which are powers of two, so that each position falls between their grids in another way.
SHIFT = 25


def make_optimizer(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Adam with Keras's epsilon; with a weight decay AdamW (Loshchilov & Hutter 2019), which decays
    kernels, but neither biases nor the scales of batch normalisation."""
    settings = {"lr": lr, "eps": 1e-7, "fused": True}
    if not weight_decay:
        return torch.optim.Adam(model.parameters(), **settings)
    kernels = {"params": [p for p in model.parameters() if p.ndim > 1]}
    others = {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([kernels, others], weight_decay=weight_decay, **settings)


def learning_rate_factor(step: int, steps: int, schedule: str, warmup: float = 0) -> float:
    """Share of the learning rate after `step` of all `steps`: it rises during the warm-up, of so
    many steps or, below 1, that share of all; then it stays, or falls along half a cosine towards 0
    (Loshchilov & Hutter 2017)."""
    warmup = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2


def class_weights(y: np.ndarray) -> np.ndarray:
    """Weights (classes,) that make the classes of one-hot `y` (n, classes) count alike, with mean 1
    over the recordings; 0 for absent classes."""
    counts = y.sum(0, dtype=np.int64)
    present = np.count_nonzero(counts)
    return np.where(counts, len(y) / (present * np.maximum(counts, 1)), 0.0)


def weighted_cross_entropy(recordings: Recordings) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss in which classes count alike; the mean over examples, whatever classes a batch has."""
    weights = torch.from_numpy(class_weights(recordings.y)).float().to(recordings.signal.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)

    return loss


@dataclass(frozen=True)
class TrainingBatches:
    """Batches to train on; they follow from the seed, the epoch and the step alone."""

    recordings: Recordings
    batch_size: int
    seed: int
    fs: float  # Hz
    balanced: bool = False  # draw recordings so that classes are equally frequent on average
    augmented: bool = False  # change recordings by `augment`
    mixup: float = 0.0  # alpha of `mix`; 0 for none
    processes: Processes = ALONE  # each takes its share of every batch

    def __len__(self) -> int:
        """Steps of an epoch; the last batch may be smaller."""
        return -(-len(self.recordings) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the recordings of an epoch: a permutation, or balanced with replacement."""
        random, y = rng(self.seed, ORDER, epoch), self.recordings.y
        if not self.balanced:
            return random.permutation(len(y))
        chances = class_weights(y)[y.argmax(1)]
        return random.choice(len(y), len(y), p=chances / chances.sum())

    def epoch(self, epoch: int, done: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, counted from 1, without the first `done`."""
        recordings, share = self.recordings, self.processes.share
        order = torch.from_numpy(self.order(epoch)).to(recordings.signal.device)
        # Every process makes whole batches, which therefore do not depend on their number.
        for step, indices in enumerate(order.split(self.batch_size)[done:], done + 1):
            (x, mask), labels = recordings.in_millivolt(indices), recordings.labels[indices]
            if self.augmented:
                generator = torch_generator(self.seed, AUGMENT, epoch, step, device=x.device)
                x, mask = augment(x, mask, self.fs, generator)
            x = normalize(x, mask, recordings.mean, recordings.sd)
            if self.mixup:
                random = rng(self.seed, MIXUP, epoch, step)
                x, labels = mix(x, labels, len(recordings.classes), self.mixup, random)
            yield Batch(x[share], labels[share], len(indices))

    def names(self, epoch: int, step: int) -> list[str]:
        """Recordings of a step of an epoch, both counted from 1, for errors."""
        indices = self.order(epoch)[(step - 1) * self.batch_size :][: self.batch_size]
        return self.recordings.record_ids[indices[self.processes.share]].tolist()


def augment(x: Tensor, mask: Tensor, fs: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Crop, move, scale, invert and disturb recordings at random; their labels stay true.

    Takes `x` (B, C, T) in mV, padded in front, and `mask` (B, 1, T), True on the signal; returns
    the same of the changed recordings, whose `x` may hold anything outside of the mask.
    """
    x, mask = crop_and_move(x, mask, generator)
    count, leads, samples = x.shape

    def uniform(low: float, high: float, leads: int = 1) -> Tensor:
        drawn = torch.rand(count, leads, 1, generator=generator, device=x.device)
        return low + (high - low) * drawn

    scale = uniform(-math.log(MAX_SCALE), math.log(MAX_SCALE)).exp()
    if leads == 1:  # of twelve leads only some would change their sign
        scale = torch.where(uniform(0, 1) < FLIP_PROBABILITY, -scale, scale)
    seconds = torch.arange(samples, device=x.device) / fs
    cycles = uniform(*WANDER_HZ) * seconds + uniform(0, 1, leads)
    wander = uniform(0, MAX_WANDER_MV, leads) * (2 * math.pi * cycles).sin()
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return x * scale + wander + uniform(0, MAX_NOISE_MV) * noise, mask


def crop_and_move(x: Tensor, mask: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Put a stretch of `MIN_CROP` or more of each recording anywhere; see `augment`."""
    count, _, samples = x.shape
    share, start, place = torch.rand(3, count, 1, 1, generator=generator, device=x.device)
    lengths = mask.sum(-1, keepdim=True)
    kept = (lengths * (MIN_CROP + (1 - MIN_CROP) * share)).ceil().long()
    source = samples - lengths + (start * (lengths - kept + 1)).long()
    target = (place * (samples - kept + 1)).long()
    places = torch.arange(samples, device=x.device)
    taken = (places + source - target).clamp(0, samples - 1)
    moved = x.gather(-1, taken.expand_as(x))
    return moved, (places >= target) & (places < target + kept)


def mix(
    x: Tensor, labels: Tensor, classes: int, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): blend each example with another one of the batch, all in the same
    shares, of the Beta distribution of `alpha`; its own is the larger. `labels` are (B,) class
    numbers, or (B, classes); returns inputs (B, C, T) and labels (B, classes) float32."""
    if labels.ndim == 1:
        labels = F.one_hot(labels, classes).float()
    share = rng.beta(alpha, alpha)
    share = max(share, 1 - share)
    partner = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    return torch.lerp(x[partner], x, share), torch.lerp(labels[partner], labels, share)


class ShiftAverage(nn.Module):
    """Test-time averaging: mean logits of `model` over inputs (B, C, T) that are moved to the front
    by 0, `SHIFT`, 2 `SHIFT` … samples, with zeros behind."""

    def __init__(self, model: nn.Module, count: int):
        super().__init__()
        self.model, self.count = model, count

    def forward(self, x: Tensor) -> Tensor:
        shifts = range(0, self.count * SHIFT, SHIFT)
        moved = (F.pad(x[..., shift:], (0, shift)) for shift in shifts)
        return torch.stack([self.model(inputs).float() for inputs in moved]).mean(0)
