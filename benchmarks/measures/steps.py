"""A training step in the variants that are to be compared, on random input."""

from collections.abc import Callable
from itertools import repeat

import torch
import torch.nn.functional as F

from benchmarks.measures.limits import wait
from utils.encoders import Classifier, build_encoder
from utils.engine import Batch, Hardware, train_epoch

PLAIN = "plain fp32, Conv1d"  # as PyTorch computes it by default: with TF32 on CUDA


def make_step(
    hardware: Hardware,
    arch: str,
    shape: tuple[int, ...],
    plain: bool = False,
    compiled: bool = False,
) -> Callable[[int], None]:
    """A function that trains so many steps on one random batch, and waits for the last.

    Args:
        shape: of the batch, (B, 1, T). plain: fp32 and Conv1d, whatever is fast on the device.
        compiled: as the trainers' `--compile`.
    """
    if plain:
        hardware = hardware._replace(bf16=False)
    generator = torch.Generator().manual_seed(0)
    encoder = build_encoder(arch, 1, None, generator)
    model = hardware.place(Classifier(encoder, 5, generator))
    encoder.channels_last &= not plain
    trained = hardware.compile(model, compiled)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.randn(shape, generator=generator).to(hardware.device)
    y = torch.randint(5, shape[:1], generator=generator).to(hardware.device)

    def run(steps: int) -> None:
        batches = repeat(Batch(x, y, len(y)), steps)
        train_epoch(trained, batches, optimizer, F.cross_entropy, hardware)
        wait(hardware.device)

    run(3)  # the first steps allocate memory and choose kernels
    return run
