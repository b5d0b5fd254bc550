"""Device and precision, one epoch of training, evaluation, and runs that can be resumed.

Knows neither flags nor data sets.
"""

import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from utils.cli import UserError
from utils.distributed import ALONE, Processes, local_device
from utils.files import atomic_path
from utils.run import CHECKPOINT, History, Run, Stop, scores_in_words

READ_EVERY = 50  # steps from one look at the loss to the next: each waits for the device
CLEARLY = 1.2  # how many times as fast bf16 must multiply on a CPU for `--precision auto`
MATRIX_SIZE = 768  # of the products that are timed to find out
CHECKPOINT_SECONDS = 300  # from one checkpoint to the next, by default
LEAST_SD = 1e-3  # mV, a unit of the prepared sets: a constant signal becomes zeros

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels


class Batch(NamedTuple):
    """The share of a batch that one process has, on its device."""

    inputs: Tensor  # (B, C, T) float32
    labels: Tensor  # (B,) int64 class numbers, or (B, classes) floats of 0 and 1 if several hold
    total: int  # examples of the batch, of all processes together


def describe_examples(names: Sequence[str], finite: np.ndarray, what: str) -> str:
    """`a, b, c, … (64 frames)`, or, if some are not finite, `b (1 of 64 frames, not finite)`;
    `finite` (n,) holds whether all values of an example are, `what` the word for examples."""
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    count = f"{len(bad)} of {len(names)} {what}, not finite" if bad else f"{len(names)} {what}"
    chosen = bad or names
    more = ["…"] if len(chosen) > 3 else []
    return f"{', '.join([*chosen[:3], *more])} ({count})"


def moments(millivolt: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of (…, T) over time, (…, 1) each; the latter is at least
    `LEAST_SD`. `mask`, broadcast to `millivolt`, marks the samples that count."""
    if mask is None:
        mask = torch.ones(millivolt.shape[-1], device=millivolt.device)
    count = mask.sum(-1, keepdim=True)
    mean = (mask * millivolt).sum(-1, keepdim=True) / count
    variance = (mask * (millivolt - mean).square()).sum(-1, keepdim=True) / count
    return mean, variance.sqrt().clamp(min=LEAST_SD)


class Compiled:
    """A model that is compiled when it is first called; if that fails, it runs uncompiled, and
    `on_failure` is called once with the reason."""

    def __init__(self, model: nn.Module, on_failure: Callable[[str], None]):
        self.model, self.on_failure = model, on_failure
        # One graph for each size of batch: else the smaller last batch would make all dynamic.
        self.compiled: Callable | None = torch.compile(model, dynamic=False)

    def train(self) -> None:
        self.model.train()

    def __call__(self, x: Tensor) -> Tensor:
        if self.compiled is None:
            return self.model(x)
        try:
            return self.compiled(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what all errors of the compiler are
            logits = self.model(x)  # any other error is raised here, too
            self.compiled = None
            self.on_failure(str(error).strip().partition("\n")[0])
            return logits


class Hardware(NamedTuple):
    """Where and how to compute; `bf16` is autocast over fp32 weights."""

    device: torch.device
    bf16: bool

    def __str__(self) -> str:
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the channels-last layout, which is faster everywhere."""
        for module in model.modules():
            if hasattr(module, "channels_last"):
                module.channels_last = True
        return model.to(self.device)

    def compile(
        self, model: nn.Module, wanted: bool | None, on_failure: Callable[[str], None] = print
    ) -> nn.Module | Compiled:
        """`model`, compiled for training if `wanted`; None: on CUDA only."""
        if wanted or (wanted is None and self.device.type == "cuda"):
            return Compiled(model, on_failure)
        return model


@cache
def faster_bf16(device: torch.device) -> bool:
    """Whether `auto` takes bf16: on CUDA where it is native, on a CPU where a matrix product is
    clearly faster in it. Having the instructions is not enough: Intel processors with avx512_bf16
    but without AMX multiply bf16 at half the rate of fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return False
    return _product_seconds(torch.float32) > CLEARLY * _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    """The shortest time of one product of two square matrices on the CPU."""
    a, b = (torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):  # the first chooses a kernel
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return min(times)


def choose_hardware(device: str, precision: str) -> Hardware:
    """Resolve `auto`: CUDA where there is one, and the faster precision, see `faster_bf16`; raises
    `UserError` if CUDA is asked for where there is none, or not one for each process."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; use --device cpu")
    chosen = local_device(device != "cpu" and torch.cuda.is_available())
    return Hardware(chosen, precision == "bf16" or (precision == "auto" and faster_bf16(chosen)))


class NotFinite(UserError):
    """The loss or a logit is infinite or NaN."""

    def __init__(self, step: int | None = None):
        self.step = step  # of its epoch, from 1 on
        super().__init__("the loss is no longer finite; lower --lr or use --precision fp32")


class RunningTotals:
    """Sums of losses and correct answers of an epoch so far, over the examples of all processes.

    The sums of the last steps stay on the device until they are read, so that nothing waits.
    `means` are the mean loss and accuracy when they were last read.
    """

    def __init__(self, device: torch.device, step=0, examples=0, loss=0.0, correct=0.0):
        self.step, self.examples, self.loss, self.correct = step, examples, loss, correct
        self.means: tuple[float, float] | None = None
        self._latest = torch.zeros((READ_EVERY, 2), dtype=torch.float64, device=device)
        self._unread = 0

    def add(self, sums: Tensor, examples: int) -> None:
        """Add a step: its loss and number of correct answers, (2,), summed over its examples."""
        self._latest[self._unread] = sums
        self._unread += 1
        self.step += 1
        self.examples += examples
        if self._unread == READ_EVERY:
            self.read()

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy; raises `NotFinite` if the loss of a step was not finite."""
        latest, self._unread = self._latest[: self._unread].tolist(), 0
        # One by one, so that sums do not depend on when they are read.
        for step, (loss, correct) in enumerate(latest, self.step - len(latest) + 1):
            if not math.isfinite(loss):
                raise NotFinite(step)
            self.loss += loss
            self.correct += correct
        self.means = self.loss / self.examples, self.correct / self.examples
        return self.means

    def state(self) -> dict[str, float]:
        """Arguments of the same totals; raises as `read`."""
        if self.step:
            self.read()
        return {name: getattr(self, name) for name in ("step", "examples", "loss", "correct")}


def num_correct(logits: Tensor, y: Tensor) -> Tensor:
    """How many examples are answered correctly; with several classes to an example, the share of
    its classes."""
    if y.is_floating_point():
        return ((logits > 0) == (y > 0)).float().mean(-1).sum()
    return (logits.argmax(-1) == y).float().sum()


def train_epoch(
    model: nn.Module | Compiled,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss_function: Loss,
    hardware: Hardware,
    totals: RunningTotals | None = None,
    processes: Processes = ALONE,
    after_step: Callable[[], None] = lambda: None,
    count_correct: Loss = num_correct,
) -> tuple[float, float]:
    """Train on `batches`; returns the mean loss and the accuracy over their examples, and over
    those of the steps in `totals`, to which they are added. Raises `NotFinite`.

    `model` is wrapped by `processes` if they are several.
    """
    model.train()
    totals = totals or RunningTotals(hardware.device)
    for x, y, total in batches:
        with hardware.autocast():
            logits = model(x)
        loss = loss_function(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; each counts as much as it has examples.
        (loss * (processes.size * len(y) / total)).backward()
        optimizer.step()
        sums = torch.stack((loss.detach() * len(y), count_correct(logits.detach(), y)))
        totals.add(processes.all_reduce(sums), total)
        after_step()
    return totals.read()


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], hardware: Hardware
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) float32 and their labels, both on the CPU, in the order given; raises
    `NotFinite`."""
    model.eval()
    logits, labels = [], []
    for x, y, _ in batches:
        with hardware.autocast():
            logits.append(model(x).float())
        labels.append(y)
    joined = torch.cat(logits).cpu()
    if not joined.isfinite().all():
        raise NotFinite
    return joined, torch.cat(labels).cpu()


def average_weights(model: nn.Module, decay: float, steps_done: Callable[[], int]) -> AveragedModel:
    """Exponential moving average of the weights and batch statistics of `model`.

    Each step keeps the share `decay` of the average, less at first, so that the initial weights are
    soon forgotten (as TensorFlow's `ExponentialMovingAverage`). Update it after each step, which
    `steps_done` counts.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], _) -> None:
        step = steps_done()
        new_share = 1 - min(decay, (1 + step) / (10 + step))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, new_share)
            else:  # the number of batches counted
                average.copy_(value)

    averaged = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    averaged.n_averaged.fill_(1)  # else the first update would replace the initial weights
    return averaged


class Epochs(NamedTuple):
    """Training data, epoch by epoch; epochs and steps are counted from 1 on."""

    count: int  # epochs at most
    steps: int  # of each epoch
    batches: Callable[[int, int], Iterable[Batch]]  # of an epoch, without so many first steps
    describe: Callable[[int, int], str]  # the examples of an epoch's step, for errors


class Training:
    """A run on its way through the epochs; it can be stopped at any step, and resumed.

    A resumed run equals an uninterrupted one. Random numbers are no part of its state: all are
    drawn from the seed and the position.

    Args:
        loss: mean loss of logits and labels.
        metadata: of the weights that the run writes; a resumed run must have the same.
        checkpoint_every: steps; None: every five minutes.
        compile: see `Hardware.compile`. sync_bn: see `Processes.wrap`.
        learning_rate: factor of the learning rate by the number of steps done.
        ema: decay of the moving average of the weights; 0 for none.
    """

    def __init__(
        self,
        run: Run,
        history: History,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Epochs,
        loss: Loss,
        hardware: Hardware,
        processes: Processes,
        metadata: Mapping[str, Any],
        checkpoint_every: int | None = None,
        compile: bool | None = None,
        sync_bn: bool = False,
        learning_rate: Callable[[int], float] | None = None,
        ema: float = 0.0,
        count_correct: Loss = num_correct,
    ):
        self.run, self.history, self.model, self.optimizer = run, history, model, optimizer
        self.data, self.loss, self.count_correct = data, loss, count_correct
        self.hardware, self.processes = hardware, processes
        self.checkpoint_every, self.compile, self.sync_bn = checkpoint_every, compile, sync_bn
        self.epoch, self.totals = 1, RunningTotals(hardware.device)
        self.stop = Stop()
        self.average = average_weights(model, ema, lambda: self.steps_done) if ema else None
        self._path = run.job_dir / CHECKPOINT
        self._identity = None
        if processes.main_process:
            self._identity = run.identity(metadata, hardware.bf16, processes.size)
        self._earlier = 0.0  # seconds that earlier processes spent on this epoch
        self._began = self._saved = time.monotonic()
        if learning_rate:
            base = [group["lr"] for group in optimizer.param_groups]

            def set_learning_rate(*_) -> None:
                for group, rate in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = rate * learning_rate(self.steps_done)

            optimizer.register_step_pre_hook(set_learning_rate)

    @property
    def trained(self) -> nn.Module:
        """The model to evaluate and to save: the average, if one is kept."""
        return self.average.module if self.average else self.model

    @property
    def steps_done(self) -> int:
        """Steps of all epochs so far."""
        return (self.epoch - 1) * self.data.steps + self.totals.step

    @property
    def seconds(self) -> float:
        """Time spent on this epoch."""
        return self._earlier + time.monotonic() - self._began

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Answer Ctrl-C and SIGTERM by saving a checkpoint and exiting with code 130 or 143."""
        with self.stop.listening():
            try:
                yield
            except RuntimeError as error:
                left = self.stop.code or "onnection" in str(error)
                if self.processes.main_process or not left:
                    raise
                sys.exit(self.stop.code or 2)  # the main process has left, and said why

    def epochs(
        self, ended: Callable[[], bool] = lambda: False, quiet: bool | None = None
    ) -> Iterator[dict[str, float]]:
        """Train; yields loss and accuracy of each epoch. What is done with them belongs to the
        epoch, too: a resumed run does it again. Raises `UserError` if the loss is not finite.

        Args:
            ended: whether to stop early; asked of the main process before each epoch.
            quiet: without a progress bar; None: where there is no terminal.
        """
        model = self.processes.wrap(self.model, self.sync_bn)
        model = self.hardware.compile(model, self.compile, self._note_uncompiled)
        self._began = self._saved = time.monotonic()
        while self.epoch <= self.data.count and not self.processes.broadcast(ended()):
            yield self._train_epoch(model, quiet)
            chosen = self.epoch in map(self.history.best_epoch, self.history.columns)
            self.epoch, self.totals = self.epoch + 1, RunningTotals(self.hardware.device)
            self._earlier, self._began = 0.0, time.monotonic()
            if chosen and self.processes.main_process:
                self.save()  # with it the files that were written of this epoch stay valid

    def _train_epoch(self, model: nn.Module | Compiled, quiet: bool | None) -> dict[str, float]:
        name = f"epoch {self.epoch}/{self.data.count}"
        batches = self.data.batches(self.epoch, self.totals.step)
        with tqdm(batches, name, self.data.steps, unit="step", leave=False, disable=quiet,
                  initial=self.totals.step) as progress:  # fmt: skip
            try:
                loss, accuracy = train_epoch(
                    model, progress, self.optimizer, self.loss, self.hardware, self.totals,
                    self.processes, lambda: self._after_step(progress), self.count_correct,
                )  # fmt: skip
            except NotFinite as error:
                examples = self.data.describe(self.epoch, error.step)
                where = f"epoch {self.epoch}, step {error.step}, made of {examples}"
                raise UserError(f"{where}: {error}") from None
        return {"loss": loss, "acc": accuracy}

    def _after_step(self, progress: tqdm) -> None:
        if self.average:
            self.average.update_parameters(self.model)
        if self.totals.means:
            progress.set_postfix(loss=f"{self.totals.means[0]:.3f}", refresh=False)
        if self.processes.main_process:
            every = self.checkpoint_every
            past = time.monotonic() - self._saved
            if self.totals.step % every == 0 if every else past > CHECKPOINT_SECONDS:
                self.save()
            self.pause()

    def _note_uncompiled(self, reason: str) -> None:
        note = f"not compiled: {reason}"
        print(f"{note}; training goes on without --compile", file=sys.stderr)
        if self.processes.main_process:
            self.run.add_note(note)

    def record(self, scores: Mapping[str, float | None], **timing: float) -> set[str]:
        """Add this epoch to the history, and `timing` to timing.csv, and print it; returns the
        purposes for which it is the best epoch so far, see `History`."""
        seconds = self.seconds
        print(f"epoch {self.epoch}: {scores_in_words(scores)} ({seconds:.0f} s)")
        return self.history.add(self.epoch, scores, {"seconds": round(seconds, 3), **timing})

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """As `utils.engine.evaluate`; the run may be stopped between two batches."""
        try:
            return evaluate(model, (self.pause() or batch for batch in batches), self.hardware)
        except NotFinite as error:
            raise UserError(f"epoch {self.epoch}, evaluation: {error}") from None

    def pause(self) -> None:
        """Save and exit, if a signal asked for it."""
        if self.stop.code:
            self.save()
            done = f"after step {self.totals.step} of epoch {self.epoch}"
            print(f"stopped {done}; the same command with --resume continues")
            sys.exit(self.stop.code)

    def save(self) -> None:
        """Write a checkpoint; raises `NotFinite` if a loss or a weight is not finite."""
        state = {
            "identity": self._identity,
            "epoch": self.epoch,
            "totals": self.totals.state(),
            "seconds": self.seconds,
            "history": self.history.rows,
            "timing": self.history.timing,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
        }
        tensors = [*state["model"].values(), *state["average"].values()]
        tensors += [v for values in state["optimizer"]["state"].values() for v in values.values()]
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise NotFinite(self.totals.step)
        buffer = io.BytesIO()  # torch.save to a full disk raises no OSError
        torch.save(state, buffer)
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self._saved = time.monotonic()

    def begin(self) -> None:
        """Continue from the checkpoint, if there is one and `--resume` was given; else start the
        run, which removes the files of an earlier one. Raises `UserError` if the checkpoint is
        damaged, or of another run."""
        with self.processes.main_process_first():
            wanted = self.processes.main_process and self.run.resume and self._path.exists()
            state = self._read() if wanted else None
        state = self.processes.broadcast(state)
        if state:
            self.epoch, self._earlier = state["epoch"], state["seconds"]
            self.totals = RunningTotals(self.hardware.device, **state["totals"])
            self.history.rows, self.history.timing = state["history"], state["timing"]
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            print(f"continues after step {self.totals.step} of epoch {self.epoch}")
        if self.processes.main_process:
            several = f"{self.processes.size} × " if self.processes.size > 1 else ""
            self.run.start(f"{several}{self.hardware}", resumed=bool(state))

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except OSError:
            raise
        except Exception:  # of many kinds
            raise UserError(f"{self._path} is damaged; --overwrite starts again") from None
        if identity != self._identity:
            other = "other data, another network, precision or number of processes"
            raise UserError(f"{self._path} is of {other}; --overwrite starts again")
        return state

    def finish(self) -> None:
        """Remove the checkpoint of a run that is done."""
        self._path.unlink(missing_ok=True)
