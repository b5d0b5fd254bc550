"""`map` in several processes, or in this one."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def mapping(in_processes: bool) -> Iterator[Callable]:
    """Yield `map` or one that shares the work out, results in order. An exception on the way ends
    all of it."""
    if not in_processes:
        yield map
        return
    # Spawned, because a fork of a process that runs threads may hang.
    executor = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)
