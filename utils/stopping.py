"""Ctrl-C and SIGTERM, held back until what has been reached is saved."""

import os
import signal
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
