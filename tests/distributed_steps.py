"""Ten steps of pretraining and ten of unequal shares, by one process or as one of several.

python -m tests.distributed_steps OUT FLAGS…; see tests/test_distributed.py.
"""

import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from pretraining import trainer
from pretraining.batches import load
from pretraining.cohort import DataOptions, open_data
from pretraining.icentia11k.reader import read_constants
from pretraining.tasks import build_task
from utils import distributed
from utils.engine import Batch, Hardware, train_epoch

CPU = torch.device("cpu")
STEPS = 10


def freeze_statistics(model: torch.nn.Module) -> torch.nn.Module:
    """Batch normalisation by fixed statistics: the only place where examples meet."""
    generator = torch.Generator().manual_seed(1)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm
    return model


def unequal(processes: distributed.Processes):
    """Batches of seven, of which two processes have four and three."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        x = torch.randn(7, 1, 256, generator=generator, dtype=torch.float64)
        y = torch.randint(5, (7,), generator=generator)
        yield Batch(x[processes.share], y[processes.share], 7)


def main() -> None:
    out, sys.argv = Path(sys.argv[1]), sys.argv[:1] + sys.argv[2:]
    args = trainer.parse_arguments()
    with distributed.join(CPU) as processes:
        task = build_task(args.task, vars(args))
        model, _ = trainer.build_network(args, task)
        model = freeze_statistics(model).double()
        options = DataOptions(**{f.name: getattr(args, f.name) for f in fields(DataOptions)})
        with processes.main_process_first():
            data = open_data(options, task, read_constants(args.train), None, processes)
        trained = processes.wrap(model, sync_bn=False)
        read = list(load(data.train, range(STEPS), CPU))
        pretraining = [Batch(x.double(), y, total) for x, y, total in read]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        results = {}
        for name, batches in (("frames", pretraining), ("unequal", unequal(processes))):
            hardware = Hardware(CPU, False, processes)
            scores = train_epoch(trained, batches, optimizer, F.cross_entropy, hardware)
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            results |= {f"{name}_scores": scores, f"{name}_weights": weights.numpy()}
        results["read"] = torch.cat([batch.inputs for batch in read]).numpy()
        np.savez(out / f"{processes.rank}.npz", **results)


if __name__ == "__main__":
    main()
