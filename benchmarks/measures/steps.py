"""A training step in the variants that are to be compared, on random input."""

from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measures.limits import wait
from models import Classifier, build_encoder
from utils.engine import Batch, Hardware, train_epoch

PLAIN = "plain fp32, Conv1d"  # as PyTorch computes it by default: with TF32 on CUDA


class Variant(NamedTuple):
    """A network on a device, `model` to predict with, `trained` to train."""

    hardware: Hardware
    model: Classifier
    trained: nn.Module


def make_variant(
    hardware: Hardware,
    arch: str,
    classes: int,
    plain: bool = False,
    bf16: bool | None = None,
    compiled: bool | None = None,
) -> Variant:
    """A new network.

    Args:
        plain: fp32 and Conv1d, whatever is fast on the device.
        bf16: or fp32; by default what `hardware` has.
        compiled: as the trainers' `--compile`, and by default as they are.
    """
    if plain:
        bf16 = compiled = False
    if bf16 is not None:
        hardware = hardware._replace(bf16=bf16)
    generator = torch.Generator().manual_seed(0)
    model = Classifier(build_encoder(arch, 1, None, generator), classes, generator)
    hardware.place(model)
    model.encoder.channels_last &= not plain
    return Variant(hardware, model, hardware.compile(model, compiled))


def make_step(variant: Variant, shape: tuple[int, ...]) -> Callable[[int], None]:
    """A function that trains so many steps on one random batch, and waits for the last.

    Args:
        shape: of the batch, (B, 1, T).
    """
    hardware, model, trained = variant
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.randn(shape, generator=generator).to(hardware.device)
    y = torch.randint(model.head.out_features, shape[:1], generator=generator).to(hardware.device)

    def run(steps: int) -> None:
        batches = repeat(Batch(x, y, len(y)), steps)
        train_epoch(trained, batches, optimizer, F.cross_entropy, hardware)
        wait(hardware.device)

    run(3)  # the first steps allocate memory and choose kernels
    return run
