"""Ten steps of training on batches of unequal shares, by one process or as one of several.

python -m tests.distributed_steps OUT; see tests/test_distributed.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers import make_classifier
from utils import distributed
from utils.engine import Batch, Hardware, train_epoch


def batches(processes: distributed.Processes):
    """Batches of seven, of which two processes have four and three."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        x = torch.randn(7, 1, 256, generator=generator, dtype=torch.float64)
        y = torch.randint(4, (7,), generator=generator)
        yield Batch(x[processes.share], y[processes.share], 7)


def main() -> None:
    with distributed.join(torch.device("cpu")) as processes:
        model = make_classifier().double()
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):  # only there examples meet
                norm.eval()
                norm.train = lambda mode=True, norm=norm: norm
        hardware = Hardware(torch.device("cpu"), False, processes)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        trained = processes.wrap(model, sync_bn=False)
        scores = train_epoch(trained, batches(processes), optimizer, F.cross_entropy, hardware)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
        np.savez(Path(sys.argv[1]) / f"{processes.rank}.npz", scores=scores, weights=weights)


if __name__ == "__main__":
    main()
