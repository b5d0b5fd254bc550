"""Ctrl-C and SIGTERM, held back until what has been reached is saved; commands that end with the
study that started them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether this process was asked to stop.

    Attributes:
        code: to exit with: 0 until then, after that 130 or 143.
    """

    def __init__(self) -> None:
        self.code = 0
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold both signals back; only a second Ctrl-C does not wait."""
        earlier = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _) -> None:
        if os.getpid() != self._process:
            return  # one that reads data: the run goes on to its next step, and ends it
        if number == signal.SIGINT and self.code:
            raise KeyboardInterrupt
        self.code = 128 + number


SIGNALS = (signal.SIGINT, signal.SIGTERM)

STUDY = "ECG_STUDY"  # environment variable: process id of the study that started a command


def in_study() -> bool:
    """Whether a study started this process, and has not left it alone since."""
    return os.environ.get(STUDY) == str(os.getppid())


def stop_with_study() -> None:
    """Where a study started this process: SIGTERM once that has gone, even if it was killed."""
    if in_study():
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while in_study():
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
