"""Start as `pretraining.trainer` does, up to the first batch; prints the figures as JSON.

python -m benchmarks.measures.start FOLDER
"""

import io
import json
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

PROC = Path("/proc/self")


def process_seconds() -> float:
    """Since this process was started."""
    ticks = int((PROC / "stat").read_text().rpartition(") ")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    before = process_seconds()
    began = time.perf_counter()
    import torch

    from pretraining import run, trainer
    from pretraining.batches import load
    from pretraining.data import open_data
    from utils.distributed import ALONE
    from utils.files import digest, write_json

    imported = time.perf_counter()
    sys.argv[1:] = ["--job-dir", "job", "--task", "beat", "--train", sys.argv[1]]
    args = trainer.parse_arguments()
    with redirect_stdout(io.StringIO()):
        run.build_model(args)
        data = open_data(args, ALONE)
    digest(data.manifest)
    write_json(args.train.parent / "manifest.json", data.manifest)
    opened = time.perf_counter()
    numbers = range(min(100, len(data.train)))
    batches = load(data.train, numbers, torch.device("cpu"))
    next(batches)
    first = time.perf_counter()
    for _ in batches:
        pass
    memory = (PROC / "status").read_text().partition("RssAnon:")[2].split()[0]
    found = {
        "start_s": before + first - began,
        "of_which_import_s": before + imported - began,
        "of_which_open_s": opened - imported,
        "of_which_batch_s": first - opened,
        "anonymous_mb": int(memory) / 1000,
        "open_files": len(list((PROC / "fd").iterdir())),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
