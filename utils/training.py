"""Epochs of a run that can be stopped at any step, and continued as if it had not been."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.cli import UserError
from utils.contract import Contract
from utils.distributed import Processes
from utils.engine import Batch, Hardware, NotFinite, Totals, predict, train_epoch
from utils.files import sha256
from utils.run import CHECKPOINT, Log
from utils.stopping import Stop
from utils.weights import read_tensors, save_tensors

INTERVAL = 300  # seconds from one checkpoint to the next, by default


class Stream(NamedTuple):
    """What is trained on.

    Attributes:
        epochs: at most. steps: of each.
        batches: of an epoch, from 1 on, without its first so many.
        describe: what a step of an epoch, both from 1 on, is made of.
        right_answers: see `train_epoch`.
    """

    epochs: int
    steps: int
    batches: Callable[[int, int], Iterable[Batch]]
    describe: Callable[[int, int], str]
    right_answers: Callable[[Tensor, Tensor], Tensor] | None = None


class Training:
    """A network on its way through the epochs.

    Random numbers are no part of where it stands: all are drawn from the seed and the position.

    Attributes:
        modules: what is saved and restored: the `model`, and an `average` of it, if one is kept.
        epoch: under way, from 1 on. totals: of it. seconds: that earlier processes spent on it.
        log: what the first process has written down.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        contract: Contract,
        hardware: Hardware,
        processes: Processes,
        log: Log,
    ):
        self.args, self.model, self.optimizer, self.contract = args, model, optimizer, contract
        self.modules = {"model": model}
        self.hardware, self.processes = hardware, processes
        self.epoch, self.seconds = 1, 0.0
        self.totals = Totals(hardware.device)
        self.log = log
        self.identity = _identity(args, contract, hardware, processes) if processes.first else None
        self.stop = Stop()
        self._began = self._saved = time.monotonic()

    @property
    def judged(self) -> nn.Module:
        """What is validated and saved: the average, if one is kept, else the model."""
        return self.modules.get("average", self.model)

    @property
    def spent(self) -> float:
        """Seconds on this epoch."""
        return self.seconds + time.monotonic() - self._began

    def epochs(
        self,
        stream: Stream,
        loss: Callable[[Tensor, Tensor], Tensor],
        ended: Callable[[], bool] = lambda: False,
        quiet: bool | None = None,
    ) -> Iterator[dict[str, float]]:
        """Loss and accuracy of each epoch; what is done with them belongs to it, too.

        Args:
            ended: asked of the first process before each epoch.
            quiet: without a progress bar; None: where there is no terminal.

        Raises:
            UserError: the loss is no longer finite.
        """
        device = self.hardware.device
        wrapped = self.processes.wrap(self.model, self.args.sync_bn)
        trained = self.hardware.compile(wrapped, self.args.compile)
        self._began = self._saved = time.monotonic()
        while self.epoch <= stream.epochs and not self.processes.told(ended(), device):
            name = f"epoch {self.epoch}/{stream.epochs}"
            batches = stream.batches(self.epoch, self.totals.step)
            with tqdm(batches, name, stream.steps, unit="step", leave=False, disable=quiet,
                      initial=self.totals.step) as progress:  # fmt: skip
                row = self._train(trained, progress, loss, stream)
            yield row
            chosen = self.log.chose(self.epoch)
            self.epoch, self.totals, self.seconds = self.epoch + 1, Totals(device), 0.0
            self._began = time.monotonic()
            if chosen and self.processes.first:
                self.save()  # with it what was written of this epoch stays true

    def _train(
        self,
        trained: nn.Module,
        progress: tqdm,
        loss: Callable,
        stream: Stream,
    ) -> dict[str, float]:
        try:
            means = train_epoch(
                trained, progress, self.optimizer, loss, self.hardware, self.totals,
                self.processes, lambda: self._after_step(progress), stream.right_answers,
            )  # fmt: skip
        except NotFinite as error:
            made_of = stream.describe(self.epoch, error.step)
            raise UserError(
                f"epoch {self.epoch}, step {error.step}, made of {made_of}: {error}"
            ) from None
        return dict(zip(("loss", "acc"), means, strict=True))

    def _after_step(self, progress: tqdm) -> None:
        if self.totals.means:
            progress.set_postfix(loss=f"{self.totals.means[0]:.3f}", refresh=False)
        if self.processes.first:
            every = self.args.checkpoint_every
            past = time.monotonic() - self._saved
            if self.totals.step % every == 0 if every else past > INTERVAL:
                self.save()
            self.pause()

    def follow(self, *stream_and_loss) -> None:
        """Train beside the first process, and stop when it does."""
        with self.stop.listening():
            try:
                for _ in self.epochs(*stream_and_loss):
                    pass
            except RuntimeError as error:
                if not self.stop.code and "onnection" not in str(error):
                    raise
                sys.exit(self.stop.code or 2)  # the first process has left, and said why

    def predict(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """As `utils.engine.predict`; the run may be stopped between two batches.

        Raises:
            UserError: what the network answers is no longer finite.
        """
        try:
            return predict(model, self._watched(batches), self.hardware)
        except NotFinite as error:
            raise UserError(f"epoch {self.epoch}, what is predicted with it: {error}") from None

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.pause()
            yield batch

    def pause(self) -> None:
        """Save and exit, if that was asked for."""
        if self.stop.code:
            self.save()
            done = f"after step {self.totals.step} of epoch {self.epoch}"
            print(f"stopped {done}; the same command with --resume continues")
            sys.exit(self.stop.code)

    @property
    def _path(self) -> Path:
        return self.args.job_dir / CHECKPOINT

    def save(self) -> None:
        """Write down where this run stands.

        Raises:
            NotFinite: a loss or a weight is not.
        """
        state = {
            "identity": self.identity,
            "epoch": self.epoch,
            "totals": self.totals.state(),
            "seconds": self.spent,
            "log": self.log.state(),
        }
        tensors = {
            f"{part}.{name}": value
            for part, module in self.modules.items()
            for name, value in module.state_dict().items()
        }
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise NotFinite(self.totals.step)
        save_tensors(self._path, tensors, {"run": json.dumps(state)})
        self._saved = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What the checkpoint holds, if there is one and that is wanted.

        Raises:
            UserError: it is damaged, or of another run.
        """
        if not (self.args.resume and self._path.exists()):
            return None
        tensors, metadata = read_tensors(self._path)
        try:
            state = json.loads(metadata["run"])
            if state["identity"] != self.identity:
                raise UserError(
                    f"{self._path} is of other data, another network, precision or number of "
                    "processes; --overwrite starts again"
                )
        except (KeyError, TypeError, ValueError):
            raise self._damaged() from None
        return tensors, state

    def resume(self, found: tuple[dict[str, Tensor], dict[str, Any]] | None) -> bool:
        """Continue from what the first process has `read`; whether there was anything.

        Raises:
            UserError: it is damaged.
        """
        found = self.processes.send(found)
        if not found:
            return False
        try:
            self._restore(*found)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            raise self._damaged() from None
        print(f"continues after step {self.totals.step} of epoch {self.epoch}")
        return True

    def _damaged(self) -> UserError:
        return UserError(f"{self._path} holds no state of this run; --overwrite starts again")

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        self.totals = Totals(self.hardware.device, **state["totals"])
        self.log.restore(state["log"])
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*self.modules, "optimizer")}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        for part, module in self.modules.items():
            module.load_state_dict(parts[part])
        moments = self.optimizer.state_dict()
        for name, tensor in parts["optimizer"].items():
            number, _, rest = name.partition(".")
            moments["state"].setdefault(int(number), {})[rest] = tensor
        self.optimizer.load_state_dict(moments)
        for parameter in filter(lambda p: p.requires_grad, self.model.parameters()):
            if self.optimizer.state[parameter]["exp_avg"].shape != parameter.shape:
                raise ValueError

    def finish(self) -> None:
        """Remove the checkpoint of a run that is done."""
        self._path.unlink(missing_ok=True)


def _identity(
    args: argparse.Namespace, contract: Contract, hardware: Hardware, processes: Processes
) -> dict[str, Any]:
    """What has to be equal for a run to go on; libraries, and where files lie, may change."""
    kept = {name: value for name, value in asdict(contract).items() if name != "versions"}
    files = {
        name: sha256(value)
        for name, value in vars(args).items()
        if isinstance(value, Path) and value.is_file() and name != "cache_val"
    }
    return {**kept, "files": files, "bf16": hardware.bf16, "processes": processes.size}
