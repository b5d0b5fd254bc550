"""How weights follow their gradients: decay, learning rate by step, their average."""

import argparse
import copy

import torch
from torch import nn

from utils import averaging, schedule
from utils.training import Training


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """Adam; with `--weight-decay` AdamW (Loshchilov & Hutter 2019), which draws kernels towards 0,
    neither biases nor the scales of batch normalisation."""
    settings = {"lr": args.lr, "eps": 1e-7, "fused": True}
    if not args.weight_decay:
        return torch.optim.Adam(model.parameters(), **settings)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": args.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **settings)


def attend(training: Training, steps: int) -> None:
    """Let the learning rate and the average keep up with each step, where flags ask for it.

    Args:
        steps: of an epoch.
    """
    args, optimizer = training.args, training.optimizer
    total = args.epochs * steps
    warmup = schedule.warmup_steps(args.warmup, total)

    def before() -> int:
        """Steps before the one under way."""
        return (training.epoch - 1) * steps + training.totals.step

    def set_rate(*_) -> None:
        share = schedule.rate(before(), total, args.schedule, warmup)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * share

    def average(*_) -> None:
        decay = averaging.decay_at(before() + 1, args.ema)
        averaging.update(training.modules["average"], training.model, decay)

    if args.schedule != "constant" or warmup:
        optimizer.register_step_pre_hook(set_rate)
    if args.ema:
        training.modules["average"] = copy.deepcopy(training.model)
        optimizer.register_step_post_hook(average)
