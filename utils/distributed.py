"""Several processes that train one model together, on one machine or several.

    torchrun --nproc-per-node 2 -m pretraining.trainer …

Each process takes its share of every batch. The main process, of rank 0, evaluates, prints and
writes files; the others print nothing.
"""

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

TIMEOUT = timedelta(hours=12)  # the other processes wait while the main process evaluates


class Processes(NamedTuple):
    """Rank of this process, and how many processes there are."""

    rank: int = 0
    size: int = 1

    @property
    def main_process(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The examples of a batch that belong to this process."""
        return slice(self.rank, None, self.size)

    def check(self, batch_size: int, sync_bn: bool, examples: int = 0) -> None:
        """Check the flags of a trainer against the number of processes; raises `UserError`.
        `examples` are those of an epoch, if its last batch may be smaller."""
        batch, processes = f"--batch-size {batch_size}", f"{self.size} processes"
        if batch_size % self.size:
            raise UserError(f"{batch} cannot be shared equally by {processes}")
        if sync_bn and not (self.size > 1 and dist.get_backend() == "nccl"):
            raise UserError("--sync-bn is for several processes on CUDA; leave it out")
        if 0 < examples % batch_size < self.size:
            left = f"{examples % batch_size} of {examples} recordings"
            raise UserError(f"{batch} leaves {left} for the last step, too few for {processes}")

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process, then in all others, which find the files it wrote.

        If it fails in one process, that process reports the error and the others exit silently.
        """
        if not self.main_process:
            self._exit_if_any_failed()
        try:
            yield
        except BaseException:
            self._exit_if_any_failed(failed=True)
            raise
        if self.main_process:
            self._exit_if_any_failed()
        self._exit_if_any_failed()

    def _exit_if_any_failed(self, failed: bool = False) -> None:
        if self.size == 1:
            return
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        if self.all_reduce(torch.tensor(float(failed), device=device)):
            dist.destroy_process_group()  # all processes are here, so that none waits for another
            if not failed:
                sys.exit(2)

    def wrap(self, model: nn.Module, sync_bn: bool) -> nn.Module:
        """`model` with gradients that are averaged over the processes, and on CUDA with
        `sync_bn` batch statistics of all processes."""
        if self.size == 1:
            return model
        if sync_bn:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # The strides of a kernel for one channel are arbitrary.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum `values` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """The main process's `value`, in all processes."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]


ALONE = Processes()


def local_device(cuda: bool) -> torch.device:
    """The CPU, or the CUDA device of this process; raises `UserError` if there are too few."""
    number = int(os.environ.get("LOCAL_RANK", 0))
    if cuda and number >= torch.cuda.device_count():
        hint = "lower --nproc-per-node or use --device cpu"
        raise UserError(f"no CUDA device for process {number + 1} of this machine; {hint}")
    return torch.device("cuda", number) if cuda else torch.device("cpu")


@contextmanager
def join(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun, `ALONE`."""
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    backend, device_id = ("nccl", device) if cuda else ("gloo", None)
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device_id)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    if processes.main_process:
        yield processes
    else:
        with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
            yield processes
    # Leave together: one that leaves early may abort the others. Not after an error, though.
    dist.barrier()
    dist.destroy_process_group()
