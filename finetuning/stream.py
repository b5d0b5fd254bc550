"""What a run trains on, epoch by epoch: the order of the recordings, and how they are varied."""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from finetuning import balance
from finetuning.augmentation import augment
from finetuning.batches import batches, describe, numbers_of_batches
from finetuning.data import Data
from finetuning.mixup import mix
from finetuning.normalising import normalise
from finetuning.targets import Targets
from utils import run as runlog
from utils.distributed import Processes
from utils.engine import Batch, hits
from utils.training import Stream

ORDER, AUGMENT, MIXUP = 1, 2, 3  # streams of random numbers


def stream(args: argparse.Namespace, data: Data, processes: Processes) -> Stream:
    """All recordings, or as many of balanced classes, in an order of its own in each epoch."""
    recordings = data.parts["train"]
    varied = args.augment or args.mixup

    def order(epoch: int) -> np.ndarray:
        rng = runlog.rng(args.seed, ORDER, epoch)
        if args.balance == "sampling":
            return balance.draw(recordings.y, rng)
        return rng.permutation(len(recordings))

    def of_epoch(epoch: int, done: int) -> Iterator[Batch]:
        left = order(epoch)[done * args.batch_size :]
        if varied:
            return vary(args, data, epoch, done, left, processes)
        return batches(recordings, args.batch_size, left, processes)

    def described(epoch: int, step: int) -> str:
        return describe(recordings, args.batch_size, step - 1, order(epoch), processes)

    steps = steps_of_epoch(args, data)
    return Stream(args.epochs, steps, of_epoch, described, right_answers(args, data.targets))


def steps_of_epoch(args: argparse.Namespace, data: Data) -> int:
    """Batches of an epoch, the last of which may be smaller."""
    return -(-len(data.parts["train"]) // args.batch_size)


def training_loss(args: argparse.Namespace, data: Data) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean loss of logits (B, classes) and labels, in training."""
    recordings = data.parts["train"]
    if args.balance == "loss":
        return balance.weighted_loss(recordings.y, recordings.signal.device)
    return data.targets.loss


def right_answers(args: argparse.Namespace, targets: Targets) -> Callable[[Tensor, Tensor], Tensor]:
    """How many of logits are right; of a mixture, the larger part is asked for."""
    if not args.mixup:
        return hits
    return lambda logits, labels: hits(logits, targets.harden(labels))


def vary(
    args: argparse.Namespace,
    data: Data,
    epoch: int,
    done: int,
    order: np.ndarray,
    processes: Processes,
) -> Iterator[Batch]:
    """As `finetuning.batches.batches`, augmented and mixed as the flags say.

    Each process makes whole batches and takes its share of them, so that they do not depend on the
    number of processes.

    Args:
        done: steps of this epoch before these.
    """
    recordings = data.parts["train"]
    numbers = numbers_of_batches(recordings, args.batch_size, order)
    for step, chosen in enumerate(numbers, done + 1):
        millivolt, inside = recordings.millivolt(chosen)
        if args.augment:
            path, device = (AUGMENT, epoch, step), chosen.device
            generator = runlog.torch_generator(args.seed, *path, device=device)
            millivolt, inside = augment(millivolt, inside, data.manifest["fs"], generator)
        x = normalise(millivolt, inside, recordings.mean, recordings.sd)
        labels = recordings.labels[chosen]
        if args.mixup:
            rng = runlog.rng(args.seed, MIXUP, epoch, step)
            x, labels = mix(x, data.targets.soften(labels, recordings.classes), args.mixup, rng)
        yield Batch(x[processes.share], labels[processes.share], len(chosen))
