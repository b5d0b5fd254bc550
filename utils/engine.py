"""Device, precision, one epoch of training, prediction. Knows no flags and no data sets."""

import math
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.cli import UserError
from utils.distributed import ALONE, Processes, local_device

READ_EVERY = 50  # steps from one look at the loss to the next: each waits for the device
CLEARLY = 1.2  # how many times as fast bf16 must multiply on a CPU for `--precision auto`
SIDE = 768  # of the matrices that are multiplied to find out


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
        return f"{self.device.type}, {self.precision}"

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the channels-last layout, which is the faster one
        everywhere."""
        for module in model.modules():
            if hasattr(module, "channels_last"):
                module.channels_last = True
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


@cache
def faster_bf16(device: torch.device) -> bool:
    """Whether `auto` takes bf16: on CUDA where it is native, on a CPU where a matrix product is
    clearly faster in it. Having the instructions is not enough: Intel processors with avx512_bf16
    but without AMX multiply bf16 at half the rate of fp32."""
    if device.type == "cuda" or not native_bf16(device):
        return native_bf16(device)
    return _product_seconds(torch.float32) > CLEARLY * _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    """The shortest time of one product of two square matrices on the CPU."""
    a, b = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):  # the first chooses a kernel
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return min(times)


def choose_hardware(device: str, precision: str) -> Hardware:
    """Resolve `auto`: CUDA where there is one, and the faster precision, see `faster_bf16`.

    Raises:
        UserError: CUDA asked for where there is none, or not one for each process.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; use --device cpu")
    chosen = local_device(device != "cpu" and torch.cuda.is_available())
    return Hardware(chosen, precision == "bf16" or (precision == "auto" and faster_bf16(chosen)))


class NotFinite(UserError):
    """What a network computes is no longer a number."""

    def __init__(self, step: int | None = None):
        self.step = step  # of its epoch, from 1 on
        super().__init__("the loss is no longer finite; lower --lr or use --precision fp32")


class Totals:
    """Losses and right answers of an epoch so far, over the examples of all processes.

    Those of the last steps stay on the device until they are read: nothing waits in between.

    Attributes:
        step: that were done. seen: examples. loss, hits: sums over the examples that were read.
        means: mean loss and accuracy when they were last read.
    """

    def __init__(self, device: torch.device, step=0, seen=0, loss=0.0, hits=0.0):
        self.step, self.seen, self.loss, self.hits = step, seen, loss, hits
        self.means: tuple[float, float] | None = None
        self._latest = torch.zeros((READ_EVERY, 2), dtype=torch.float64, device=device)
        self._unread = 0

    def add(self, sums: Tensor, examples: int) -> None:
        """Losses and right answers of a step, (2,), summed over its examples."""
        self._latest[self._unread] = sums
        self._unread += 1
        self.step += 1
        self.seen += examples
        if self._unread == READ_EVERY:
            self.read()

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy.

        Raises:
            NotFinite: the loss of a step was not.
        """
        latest, self._unread = self._latest[: self._unread].tolist(), 0
        # One by one, so that sums do not depend on when they were read.
        for step, (loss, hits) in enumerate(latest, self.step - len(latest) + 1):
            if not math.isfinite(loss):
                raise NotFinite(step)
            self.loss += loss
            self.hits += hits
        self.means = self.loss / self.seen, self.hits / self.seen
        return self.means

    def state(self) -> dict[str, float]:
        """Arguments of the same totals; as `read`."""
        if self.step:
            self.read()
        return {name: getattr(self, name) for name in ("step", "seen", "loss", "hits")}


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    hardware: Hardware,
    totals: Totals | None = None,
    processes: Processes = ALONE,
    after_step: Callable[[], None] = lambda: None,
    right_answers: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[float, float]:
    """Train on `batches`; returns the mean loss and the accuracy over their examples.

    Args:
        model: wrapped by `processes`, where they are several.
        totals: of the steps of this epoch that were done before; are added to.
        right_answers: how many of logits are right; `hits` by default.

    Raises:
        NotFinite: the loss is no longer finite.
    """
    model.train()
    totals = totals or Totals(hardware.device)
    right_answers = right_answers or hits
    for x, y, total in batches:
        with hardware.autocast():
            logits = model(x)
        loss = loss_function(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; each counts as much as it has examples.
        (loss * (processes.size * len(y) / total)).backward()
        optimizer.step()
        sums = torch.stack((loss.detach() * len(y), right_answers(logits.detach(), y)))
        totals.add(processes.add_up(sums), total)
        after_step()
    return totals.read()


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[Batch], hardware: Hardware
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) float32 and their labels, both on the CPU, in the order given.

    Raises:
        NotFinite: a logit is not.
    """
    model.eval()
    logits, labels = [], []
    for x, y, _ in batches:
        with hardware.autocast():
            logits.append(model(x).float())
        labels.append(y)
    found = torch.cat(logits).cpu()
    if not found.isfinite().all():
        raise NotFinite
    return found, torch.cat(labels).cpu()


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """How many answers are right, of several classes each its share."""
    if y.is_floating_point():
        return ((logits > 0) == (y > 0)).float().mean(-1).sum()
    return (logits.argmax(-1) == y).float().sum()
