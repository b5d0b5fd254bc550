"""Device, precision, one epoch of training, prediction. Knows no flags and no data sets."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.cli import UserError

Batches = Iterable[tuple[Tensor, Tensor]]  # (B, C, T) float32 and labels, on the device


class Hardware(NamedTuple):
    """Where and how to compute; `bf16` is autocast over fp32 weights."""

    device: torch.device
    bf16: bool

    def __str__(self) -> str:
        return f"{self.device}, {'bf16' if self.bf16 else 'fp32'}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the memory layout that is fast there."""
        for module in model.modules():
            if hasattr(module, "channels_last"):
                module.channels_last = self.bf16 or self.device.type == "cuda"
        return model.to(self.device)


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself, without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_hardware(device: str, precision: str) -> Hardware:
    """Resolve `auto`: CUDA where there is one, bf16 where the device does it natively.

    Raises:
        UserError: CUDA asked for where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; use --device cpu")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Hardware(chosen, precision == "bf16" or (precision == "auto" and native_bf16(chosen)))


def train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    hardware: Hardware,
) -> tuple[float, float]:
    """One pass over `batches`; returns the mean loss and the accuracy over its examples.

    Labels are (B,) int64, or (B, classes) floats of 0 and 1, of which each counts for itself. Sums
    stay on the device: nothing waits for it before the end.

    Raises:
        UserError: the loss is no longer finite.
    """
    model.train()
    loss_sum = torch.zeros((), device=hardware.device)
    hits = torch.zeros((), device=hardware.device)
    seen = 0
    for x, y in batches:
        with hardware.autocast():
            logits = model(x)
        loss = loss_function(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(y)
        hits += _hits(logits.detach(), y)
        seen += len(y)
    _check_finite(loss_sum)
    return loss_sum.item() / seen, hits.item() / seen


@torch.inference_mode()
def predict(model: nn.Module, batches: Batches, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) float32 and their labels, both on the CPU, in the order given.

    Raises:
        UserError: a logit is no longer finite.
    """
    model.eval()
    logits, labels = [], []
    for x, y in batches:
        with hardware.autocast():
            logits.append(model(x).float().cpu())
        labels.append(y.cpu())
    _check_finite(torch.cat(logits))
    return torch.cat(logits), torch.cat(labels)


def _hits(logits: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return ((logits > 0) == (y > 0)).float().mean(-1).sum()
    return (logits.argmax(-1) == y).sum()


def _check_finite(values: Tensor) -> None:
    if not values.isfinite().all():
        raise UserError("the loss is no longer finite; lower --lr or use --precision fp32")
