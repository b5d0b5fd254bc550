"""Device and precision, one epoch of training, evaluation, and runs that can be resumed.

Knows neither flags nor data sets.
"""

import io
import math
import os
import signal
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from utils.cli import UserError, out_of_memory
from utils.distributed import ALONE, Processes, join, local_device
from utils.files import atomic_path
from utils.model_card import Metadata
from utils.run import CHECKPOINT, History, Run, scores_in_words

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
    """A model that is compiled when it is called. If that fails, it runs uncompiled from then on,
    and `on_failure` is called with the reason, one line."""

    def __init__(self, model: nn.Module, on_failure: Callable[[str], None]):
        self.model, self.train, self.on_failure = model, model.train, on_failure
        self.compiled, self.failed = None, False

    def __call__(self, x: Tensor) -> Tensor:
        if self.failed:
            return self.model(x)
        try:
            # One graph for each size of batch: else the smaller last batch would make all dynamic.
            self.compiled = self.compiled or torch.compile(self.model, dynamic=False)
            return self.compiled(x)
        except Exception as error:  # of many kinds
            cause = getattr(error, "inner_exception", error)
            if out_of_memory(cause):
                raise cause from None
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logits, self.failed = self.model(x), True  # other errors than the compiler's come again
        self.on_failure(reason)
        return logits


class Hardware(NamedTuple):
    """Where and how to compute; `bf16` is autocast over fp32 weights."""

    device: torch.device
    bf16: bool
    processes: Processes = ALONE

    def __str__(self) -> str:
        several = f"{self.processes.size} × " if self.processes.size > 1 else ""
        return f"{several}{self.device.type}, {'bf16' if self.bf16 else 'fp32'}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: nn.Module) -> nn.Module:
        """Move `model` to the device, in the channels-last layout, which is faster everywhere."""
        for module in model.modules():
            if hasattr(module, "channels_last"):
                module.channels_last = True
        return model.to(self.device)

    def compiles(self, wanted: bool | None) -> bool:
        """What `--compile` comes to: by default networks are compiled on CUDA only."""
        return self.device.type == "cuda" if wanted is None else wanted


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
    a = torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype)
    return min(timeit.repeat(lambda: a @ a, number=1, repeat=6))  # the first chooses a kernel


def choose_hardware(device: str, precision: str) -> Hardware:
    """Resolve `auto`: CUDA where there is one, and the faster precision, see `faster_bf16`; raises
    `UserError` if CUDA is asked for where there is none, or not one for each process."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; use --device cpu")
    chosen = local_device(device != "cpu" and torch.cuda.is_available())
    return Hardware(chosen, precision == "bf16" or (precision == "auto" and faster_bf16(chosen)))


class NotFinite(UserError):
    """The loss, a logit or a weight is infinite or NaN."""

    def __init__(self, step: int | None = None):
        self.step = step  # of its epoch, from 1 on
        super().__init__("the loss is no longer finite; lower --lr or use --precision fp32")


@dataclass
class RunningTotals:
    """Sums of losses and correct answers of an epoch so far, over the examples of all processes.

    Those of the last steps stay on the device, `unread`, so that not every step waits for it.
    """

    step: int = 0
    examples: int = 0
    loss: float = 0.0
    correct: float = 0.0
    unread: list[Tensor] = field(default_factory=list)

    def add(self, sums: Tensor, examples: int) -> None:
        """Add a step: its loss and number of correct answers, (2,), summed over its examples."""
        self.unread.append(sums)
        self.step += 1
        self.examples += examples
        if len(self.unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Add what is unread; raises `NotFinite` if the loss of a step was not finite."""
        latest = torch.stack(self.unread).tolist() if self.unread else []
        # One by one, so that sums do not depend on when they are read.
        for step, (loss, correct) in enumerate(latest, self.step - len(latest) + 1):
            if not math.isfinite(loss):
                raise NotFinite(step)
            self.loss += loss
            self.correct += correct
        self.unread.clear()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of (B, classes) logits are largest at their label (B,)."""
    return (logits.argmax(-1) == labels).float().sum()


def train_epoch(
    model: nn.Module | Compiled,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    loss_function: Loss,
    hardware: Hardware,
    totals: RunningTotals | None = None,
    after_step: Callable[[], None] = lambda: None,
    count_correct: Loss = num_correct,
) -> tuple[float, float]:
    """Train on `batches`; returns the mean loss and the accuracy over their examples, and over
    those of the steps in `totals`, to which they are added. Raises `NotFinite`.

    `model` is wrapped by the processes of `hardware` if they are several.
    """
    model.train()
    totals, processes = totals or RunningTotals(), hardware.processes
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
    totals.read()
    return totals.loss / totals.examples, totals.correct / totals.examples


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


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the weights and batch statistics of `model`, to be updated
    after each step.

    Each step keeps the share `decay` of the average, less at first, so that the initial weights are
    soon forgotten (as TensorFlow's `ExponentialMovingAverage`).
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], _) -> None:
        step = averaged.n_averaged.item()
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
    names: Callable[[int, int], Sequence[str]]  # of the examples of an epoch's step, for errors


@contextmanager
def open_run(run: Run) -> Iterator[Hardware | None]:
    """Join the processes of a run and claim its job directory; None if the run is finished."""
    hardware = choose_hardware(run.arguments["device"], run.precision())
    with join(hardware.device) as processes, ExitStack() as claim:
        if processes.broadcast(processes.main_process and run.finished()):
            print(f"{run.job_dir / run.last}: this run is finished")
            yield None
            return
        with processes.main_process_first():
            if processes.main_process:
                claim.enter_context(run.claim())
        yield Hardware(hardware.device, processes.broadcast(hardware.bf16), processes)


class Training:
    """A run on its way through the epochs; it can be stopped at any step, and resumed.

    A resumed run equals an uninterrupted one. Random numbers are no part of its state: all are
    drawn from the seed and the position.

    Args:
        run: its arguments `checkpoint_every`, `compile` and `sync_bn` hold.
        metadata: of the weights that the run writes; a resumed run must have the same.
        loss: mean loss of logits and labels.
        metric: column of the history whose best value chooses an epoch.
        learning_rate: by the number of steps done; by default that of the optimizer.
        ema: decay of the moving average of the weights; 0 for none.
    """

    def __init__(
        self,
        run: Run,
        hardware: Hardware,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Epochs,
        metadata: Metadata,
        loss: Loss,
        metric: str,
        learning_rate: Callable[[int], float] | None = None,
        ema: float = 0.0,
        count_correct: Loss = num_correct,
    ):
        self.run, self.hardware, self.model, self.optimizer = run, hardware, model, optimizer
        self.data, self.metadata, self.metric = data, metadata, metric
        self.loss, self.count_correct = loss, count_correct
        self.history = History(run.job_dir)
        self.epoch, self.totals = 1, RunningTotals()
        self.average = average_weights(model, ema) if ema else None
        self.exit_code = 0  # 130 or 143 once Ctrl-C or SIGTERM has asked to stop
        self._path, self._identity = run.job_dir / CHECKPOINT, None
        if hardware.processes.main_process:
            self._identity = run.identity(asdict(metadata), hardware.bf16, hardware.processes.size)
        self._began = self._saved = time.monotonic()
        if learning_rate:

            def set_learning_rate(*_) -> None:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(self.steps_done)

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
        return time.monotonic() - self._began

    @property
    def best_epoch(self) -> int:
        """The best epoch so far by the metric; of equal ones that with the lowest `val_loss`."""
        return self.history.best_epoch(self.metric, ties="val_loss")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start or continue the run; Ctrl-C and SIGTERM are held back until a checkpoint has been
        saved, a second Ctrl-C interrupts at once. Afterwards the checkpoint is removed."""
        self._begin()
        process, main_process = os.getpid(), self.hardware.processes.main_process

        def note(number: int, _) -> None:
            if os.getpid() != process:
                return  # a process that reads data: the training process ends it
            if number == signal.SIGINT and self.exit_code:
                raise KeyboardInterrupt
            self.exit_code = 128 + number

        handlers = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
            if main_process:
                self._path.unlink(missing_ok=True)
        except RuntimeError as error:
            if main_process or not (self.exit_code or "onnection" in str(error)):
                raise
            sys.exit(self.exit_code or 2)  # the main process has left, and said why
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def epochs(
        self, ended: Callable[[], bool] = lambda: False, quiet: bool | None = None
    ) -> Iterator[dict[str, float]]:
        """Train; yields loss and accuracy of each epoch, in the main process only. What is done
        with them belongs to the epoch, too: a resumed run does it again. Raises `UserError` if the
        loss is not finite.

        Args:
            ended: whether to stop early; asked of the main process before each epoch.
            quiet: without a progress bar; None: where there is no terminal.
        """
        processes, flags = self.hardware.processes, self.run.arguments
        model = processes.wrap(self.model, flags["sync_bn"])
        if self.hardware.compiles(flags["compile"]):
            model = Compiled(model, self._not_compiled)
        while self.epoch <= self.data.count and not processes.broadcast(ended()):
            row = self._train_epoch(model, quiet)
            if processes.main_process:
                yield row
            chosen = self.best_epoch == self.epoch
            self.epoch, self.totals = self.epoch + 1, RunningTotals()
            self._began = time.monotonic()
            if chosen and processes.main_process:
                self.save()  # with it the files that were written of this epoch stay valid

    def _not_compiled(self, reason: str) -> None:
        note = f"not compiled: {reason}"
        print(f"{note}; training goes on uncompiled", file=sys.stderr)
        if self.hardware.processes.main_process:
            self.run.add_note(note)

    def _train_epoch(self, model: nn.Module | Compiled, quiet: bool | None) -> dict[str, float]:
        name = f"epoch {self.epoch}/{self.data.count}"
        batches = self.data.batches(self.epoch, self.totals.step)
        with tqdm(batches, name, self.data.steps, unit="step", leave=False, disable=quiet,
                  initial=self.totals.step) as progress:  # fmt: skip
            try:
                loss, accuracy = train_epoch(
                    model, progress, self.optimizer, self.loss, self.hardware, self.totals,
                    lambda: self._after_step(progress), self.count_correct,
                )  # fmt: skip
            except NotFinite as error:
                names = ", ".join(self.data.names(self.epoch, error.step)[:3])
                where = f"epoch {self.epoch}, step {error.step}, made of {names} …"
                raise UserError(f"{where}: {error}") from None
        return {"loss": loss, "acc": accuracy}

    def _after_step(self, progress: tqdm) -> None:
        totals, every = self.totals, self.run.arguments["checkpoint_every"]
        if self.average:
            self.average.update_parameters(self.model)
        if not totals.unread:
            progress.set_postfix(loss=f"{totals.loss / totals.examples:.3f}", refresh=False)
        if self.hardware.processes.main_process:
            past = time.monotonic() - self._saved
            if totals.step % every == 0 if every else past > CHECKPOINT_SECONDS:
                self.save()
            self.pause()

    def record(self, scores: Mapping[str, float | None], **timing: float) -> bool:
        """Add this epoch to the history, and `timing` to timing.csv, and print it; returns whether
        it is the best epoch so far."""
        seconds = self.seconds
        print(f"epoch {self.epoch}: {scores_in_words(scores)} ({seconds:.0f} s)")
        # Batch statistics start at mean 0 and variance 1; each step replaces the share `momentum`.
        new = () if self.run.arguments.get("weights_file") else self.model.modules()
        momenta = [module.momentum for module in new if hasattr(module, "running_mean")]
        if (share := (1 - min(momenta, default=1.0)) ** self.steps_done) > 0.01:
            cause = f"after {self.steps_done} steps {share:.0%} of the running batch statistics"
            print(f"epoch {self.epoch}: {cause} are initial values, so that its scores and "
                  "predictions mean little; take more steps", file=sys.stderr)  # fmt: skip
        self.history.add(self.epoch, scores, {"seconds": round(seconds, 3), **timing})
        return self.best_epoch == self.epoch

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """As `utils.engine.evaluate`; the run may be stopped between two batches."""
        return evaluate(model, (self.pause() or batch for batch in batches), self.hardware)

    def pause(self) -> None:
        """Save and exit, if a signal asked for it."""
        if self.exit_code:
            self.save()
            done = f"after step {self.totals.step} of epoch {self.epoch}"
            print(f"stopped {done}; the same command with --resume continues")
            sys.exit(self.exit_code)

    def save(self) -> None:
        """Write a checkpoint; raises `NotFinite` if a loss or a weight is not finite."""
        self.totals.read()
        state = {
            "identity": self._identity,
            "epoch": self.epoch,
            "totals": asdict(self.totals),
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

    def _begin(self) -> None:
        """Continue from the checkpoint, if there is one and `--resume` was given; else start the
        run, which removes the files of an earlier one."""
        processes = self.hardware.processes
        with processes.main_process_first():
            wanted = processes.main_process and self.run.resume and self._path.exists()
            state = self._read() if wanted else None
        state = processes.broadcast(state)
        if state:
            self.epoch, self.totals = state["epoch"], RunningTotals(**state["totals"])
            self.history.rows, self.history.timing = state["history"], state["timing"]
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            print(f"continues after step {self.totals.step} of epoch {self.epoch}")
        if processes.main_process:
            m, hardware = self.metadata, self.hardware
            self.run.resolved |= {
                "arch": m.architecture, "stages": m.stages, "epochs": self.data.count,
                "steps_per_epoch": self.data.steps, "device": hardware.device.type,
                "precision": "bf16" if hardware.bf16 else "fp32",
                "compile": hardware.compiles(self.run.arguments["compile"]),
                **{f"spectrogram_{k}": value for k, value in (m.spectrogram or {}).items()},
            }  # fmt: skip
            self.run.start(str(hardware), resumed=bool(state))
        self._saved = time.monotonic()
        self._began = self._saved - (state["seconds"] if state else 0)

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            same = state["identity"] == self._identity
        except OSError:
            raise
        except Exception:  # of many kinds
            raise UserError(f"{self._path} is damaged; --overwrite starts again") from None
        if not same:
            other = "other data, another network, precision or number of processes"
            raise UserError(f"{self._path} is of {other}; --overwrite starts again")
        return state
