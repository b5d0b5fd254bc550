"""Device, precision, one epoch of training, prediction. Knows no flags and no data sets."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.cli import UserError
from utils.distributed import ALONE, Processes, local_device

READ_EVERY = 50  # steps from one look at the loss to the next: each waits for the device


class Batch(NamedTuple):
    """What one process has of a batch, on its device.

    Attributes:
        inputs: (B, C, T) float32.
        labels: (B,) int64, or (B, classes) floats of 0 and 1, of which each counts for itself.
        total: examples of the batch, of all processes together.
    """

    inputs: Tensor
    labels: Tensor
    total: int


class Hardware(NamedTuple):
    """Where and how to compute; `bf16` is autocast over fp32 weights."""

    device: torch.device
    bf16: bool

    def __str__(self) -> str:
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the memory layout that is fast there."""
        for module in model.modules():
            if hasattr(module, "channels_last"):
                module.channels_last = self.bf16 or self.device.type == "cuda"
        return model.to(self.device)

    def compile(self, model: nn.Module, wanted: bool | None) -> nn.Module:
        """`model`, compiled for training where `wanted`; None: on CUDA only."""
        if wanted or (wanted is None and self.device.type == "cuda"):
            torch._dynamo.config.suppress_errors = True  # without a compiler it runs as it is
            # One graph for each size of batch: else the smaller last one would make all dynamic.
            return torch.compile(model, dynamic=False)
        return model


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_hardware(device: str, precision: str) -> Hardware:
    """Resolve `auto`: CUDA where there is one, bf16 where the device does it natively.

    Raises:
        UserError: CUDA asked for where there is none, or not one for each process.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; use --device cpu")
    chosen = local_device(device != "cpu" and torch.cuda.is_available())
    return Hardware(chosen, precision == "bf16" or (precision == "auto" and native_bf16(chosen)))


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    hardware: Hardware,
    processes: Processes = ALONE,
    report: Callable[[float], None] = lambda loss: None,
) -> tuple[float, float]:
    """One pass over `batches`; returns the mean loss and the accuracy over its examples.

    Sums stay on the device and are read every `READ_EVERY` steps and at the end: nothing waits in
    between.

    Args:
        model: wrapped by `processes`, where they are several.
        report: is told the mean loss so far, now and then.

    Raises:
        UserError: the loss is no longer finite.
    """
    model.train()
    sums = torch.zeros(2, dtype=torch.float64, device=hardware.device)  # losses, right answers
    seen = 0
    for step, (x, y, total) in enumerate(batches, 1):
        with hardware.autocast():
            logits = model(x)
        loss = loss_function(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; each counts as much as it has examples.
        (loss * (processes.size * len(y) / total)).backward()
        optimizer.step()
        sums += torch.stack((loss.detach() * len(y), _hits(logits.detach(), y)))
        seen += len(y)
        if step % READ_EVERY == 0:
            report(_finite(sums[0]).item() / seen)
    *sums, seen = processes.add_up(torch.cat((_finite(sums), sums.new_tensor([seen]))))
    return tuple((value / seen).item() for value in sums)


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[Batch], hardware: Hardware
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) float32 and their labels, both on the CPU, in the order given.

    Raises:
        UserError: a logit is no longer finite.
    """
    model.eval()
    logits, labels = [], []
    for x, y, _ in batches:
        with hardware.autocast():
            logits.append(model(x).float())
        labels.append(y)
    return _finite(torch.cat(logits)).cpu(), torch.cat(labels).cpu()


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return ((logits > 0) == (y > 0)).float().mean(-1).sum()
    return (logits.argmax(-1) == y).float().sum()


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise UserError("the loss is no longer finite; lower --lr or use --precision fp32")
    return values
