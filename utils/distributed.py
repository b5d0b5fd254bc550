"""Several processes that train one model together, on one machine or several.

    torchrun --nproc-per-node 2 -m pretraining.trainer …

Each takes its share of every batch. The first validates and writes files; the others say nothing,
unless it is an error.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.cli import UserError

PATIENCE = timedelta(hours=12)  # for the first process, which validates while the others wait


class Processes(NamedTuple):
    """Which of how many processes this one is; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Of the examples of a batch, those of this process."""
        return slice(self.rank, None, self.size)

    def describe(self, hardware: object) -> str:
        """Where a run computes, in words."""
        return f"{hardware}" if self.size == 1 else f"{self.size} × {hardware}"

    def check(self, args: argparse.Namespace) -> None:
        """Raises `UserError` where flags of a trainer do not fit so many processes."""
        if args.batch_size % self.size:
            raise UserError(
                f"--batch-size {args.batch_size} cannot be shared equally by {self.size} processes"
            )
        if args.sync_bn and not (self.size > 1 and dist.get_backend() == "nccl"):
            raise UserError("--sync-bn is for several processes on CUDA; leave it out")

    def check_last(self, examples: int, batch_size: int) -> None:
        """Raises `UserError` where the last batch of `examples` is not enough for all processes."""
        if 0 < examples % batch_size < self.size:
            raise UserError(
                f"--batch-size {batch_size} leaves {examples % batch_size} of {examples} recordings"
                f" for the last step, too few for {self.size} processes; choose another"
            )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Do it as the first process, then as the first of a machine, then as one of the others.

        What is written is found by those who follow. Where one fails the others exit without a
        word: it says why.
        """
        turn = 0 if self.first else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
        for _ in range(turn):
            self._exit_if_any(failed=False)
        try:
            yield
        except BaseException:
            self._exit_if_any(failed=True)
            raise
        for _ in range(turn, 3):
            self._exit_if_any(failed=False)

    def _exit_if_any(self, failed: bool) -> None:
        """Exit if another process has failed."""
        if self.size == 1:
            return
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        if not self.add_up(torch.tensor(float(failed), device=device)):
            return
        dist.destroy_process_group()  # all have come this far: nobody waits for anybody
        if not failed:
            sys.exit(2)

    def wrap(self, model: nn.Module, sync_bn: bool) -> nn.Module:
        """`model`, whose gradients are those of all processes.

        Args:
            sync_bn: take batch statistics over all processes, on CUDA.
        """
        if self.size == 1:
            return model
        if sync_bn:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # Where a kernel sees one channel, its strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def add_up(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def send(self, value: Any) -> Any:
        """What the first process has."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def told(self, stop: bool, device: torch.device) -> bool:
        """What the first process says."""
        if self.size == 1:
            return stop
        answer = torch.tensor(float(stop), device=device)
        dist.broadcast(answer, 0)
        return bool(answer)


ALONE = Processes()


def local_device(cuda: bool) -> torch.device:
    """The device of this process: a CUDA device of its own, or the CPU.

    Raises:
        UserError: there are fewer CUDA devices than processes.
    """
    if not cuda:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", 0))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"{torch.cuda.device_count()} CUDA devices for process {number + 1} of this machine; "
            "lower --nproc-per-node or use --device cpu"
        )
    return torch.device("cuda", number)


@contextmanager
def join(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did."""
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    with quiet(not processes.first):
        yield processes
    # Together, as one that leaves early may take the others down; not after an error, though.
    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Print nothing, where `wanted`."""
    if not wanted:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
