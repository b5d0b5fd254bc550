"""What a machine can do at best, measured; and what a step asks of it."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measures.timing import seconds
from utils.engine import Hardware

SIDES = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384)}


def matrix_rate(hardware: Hardware) -> float:
    """FLOP/s of the fastest product of two square matrices, of several sizes."""
    return max(_product_rate(hardware, side) for side in SIDES[hardware.device.type])


def _product_rate(hardware: Hardware, side: int) -> float:
    dtype = torch.bfloat16 if hardware.bf16 else torch.float32
    a, b = (torch.randn(side, side, device=hardware.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def multiply() -> None:
        torch.mm(a, b, out=out)
        wait(hardware.device)

    multiply()
    return 2 * side**3 / min(seconds(multiply) for _ in range(5))


def copy_rate(array: np.ndarray, block: int) -> float:
    """Bytes/s of copying `array` into one block of memory, `block` bytes at a time."""
    source = array.reshape(-1).view(np.uint8)
    target = np.ones(block, np.uint8)

    def copy() -> None:
        for first in range(0, len(source) - block + 1, block):
            np.copyto(target, source[first : first + block])

    return len(source) // block * block / seconds(copy)


def flops(action: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions in `action`."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
