"""Load files from a server that fails at random, killed now and then, until all are there.

    python -m tests.soak.download --files 500 --faults 0.3 --kills 3 --seed 0

Prints how often each fault was met, and fails unless the folder then holds the right bytes and
nothing else.
"""

import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from recordings.downloading import DATASETS, LIST, RECORD, download
from recordings.fetching import Patience
from tests.faulty_server import ANSWERS, Server
from utils import cli

KINDS = sorted(set(ANSWERS) - {"whole"})
PATIENCE = Patience(attempts=6, pause=0.01, timeout=0.1)
MOST_RUNS = 1000


def main() -> None:
    parser = cli.Parser(prog="python -m tests.soak.download", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag("--files", type=cli.count, default=500, help="to load, of 1 to 65,536 bytes")
    flag("--faults", type=cli.share, default=0.3, help="share of the answers")
    flag(
        "--kills",
        type=cli.count_or_zero,
        default=3,
        help="SIGKILLs, each within a second of loading",
    )
    flag("--workers", type=cli.count, default=8, help="files loaded side by side")
    flag("--seed", type=cli.seed, default=0, help="of files and faults")
    args = parser.parse_args()
    os.environ["PYTHONWARNINGS"] = "ignore"  # of what tqdm could not close when killed
    rng = np.random.default_rng(args.seed)
    files = make_files(rng, args.files)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(files, random_faults(rng, args.faults), delay=0.2) as server,
    ):
        out = Path(folder, "icentia11k")
        runs = load(out, server, rng, args.kills, args.workers)
        log = list(server.log)
        check(out, server, files)
    report(log, files, runs)


def make_files(rng: np.random.Generator, count: int) -> dict[str, bytes]:
    """Random bytes under names of Icentia11k, ten segments to a patient."""
    suffixes = list(DATASETS["icentia11k"].sizes)
    places = [(n // 30, n // 3 % 10, suffixes[n % 3]) for n in range(count)]
    names = [f"p{p // 1000:02d}/p{p:05d}/p{p:05d}_s{s:02d}.{suffix}" for p, s, suffix in places]
    return {name: rng.bytes(rng.integers(1, 2**16 + 1)) for name in names}


def random_faults(rng: np.random.Generator, share: float):
    def fault(name: str, times: int) -> str:
        kind = rng.choice(KINDS) if rng.random() < share else "whole"
        # Of the list a gigabyte would be believed.
        return "whole" if (name, kind) == (LIST, "endless") else str(kind)

    return fault


def load(out: Path, server: Server, rng: np.random.Generator, kills: int, workers: int) -> int:
    """Run the downloader until it says that all is there; returns how many runs that took."""
    processes = multiprocessing.get_context("spawn")
    for run in range(1, MOST_RUNS):
        process = processes.Process(target=run_once, args=(out, server.url, workers))
        before = len(server.log)
        process.start()
        if run <= kills:
            while process.is_alive() and len(server.log) == before:
                process.join(0.01)
            process.join(rng.uniform(0, 1))
            process.kill()
        process.join()
        if process.exitcode == 0:
            return run
    sys.exit(f"not done after {MOST_RUNS} runs")


def run_once(out: Path, url: str, workers: int) -> None:
    settings = {"base_url": url, "workers": workers, "patience": PATIENCE}
    cli.run(lambda: download("icentia11k", out, **settings))


def check(out: Path, server: Server, files: dict[str, bytes]) -> None:
    """All bytes are right, nothing is there besides, and nothing more is asked for."""
    from tests.helpers import contents  # only here: PyTorch takes its time in every process

    found = contents(out)
    assert found.pop(LIST) == server.files[LIST] and found.pop(RECORD)
    assert found == files, sorted(set(found) ^ set(files))
    server.asked()
    run_once(out, server.url, workers=1)
    assert not server.asked()


def report(log: list[tuple[str, str]], files: dict[str, bytes], runs: int) -> None:
    met = Counter(kind for _, kind in log)
    whole = Counter(name for name, kind in log if kind == "whole" and name != LIST)
    print(", ".join(f"{kind} {met[kind]}" for kind in KINDS))
    print(
        f"{len(log):,} answers, {len(log) - met['whole']:,} of them faults, {runs} runs:"
        f" {len(files):,} of {len(files):,} files are right;"
        f" {whole.total() - len(files)} answers were lost by kills"
    )


if __name__ == "__main__":
    cli.run(main)
