"""Files over HTTP, each whole and as expected or not at all, several side by side.

Own threads, because those of `concurrent.futures` hold up the end of the program until the last
server has answered.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import NamedTuple

import requests
import urllib3

from utils.files import atomic_path, sha256

CHUNK = 2**18  # bytes
SLOWEST = 1024  # bytes a second, on average
LATER = (408, 425, 429)  # answers of 4xx that may be others in a while
LONGEST_PAUSE = 120  # seconds, whatever the server asks for
GRACE = 1  # seconds in which threads may clean up when they are stopped

# What a server or the way to it did, by the errors it shows in; the first that fits.
REASONS = (
    ((requests.Timeout, urllib3.exceptions.TimeoutError), "no answer in time"),
    (requests.exceptions.SSLError, "its certificate is not accepted"),
    (requests.TooManyRedirects, "redirected without end"),
    (urllib3.exceptions.HTTPError, "connection broke off"),
    (requests.ConnectionError, "no connection or no answer"),
)


class Patience(NamedTuple):
    """Attempts for each file, seconds before the second one (doubled before each further one),
    and seconds without a byte after which an attempt has failed."""

    attempts: int = 6
    pause: float = 1
    timeout: float = 30


class Task(NamedTuple):
    """A file to load; `limit` is the size in bytes beyond which it cannot be the right one."""

    name: str
    url: str
    path: Path
    digest: str
    limit: int


class Result(NamedTuple):
    """Of one task: whether it had to be loaded, and why it is not whole, if it is not."""

    task: Task
    loaded: bool
    reason: str | None = None


class Failed(Exception):
    """Why a file was not loaded. `final`: trying again is of no use; else not before `after` s."""

    def __init__(self, reason: str, final: bool = False, after: float = 0):
        super().__init__(reason)
        self.final, self.after = final, after


def fetch_all(tasks: Iterable[Task], workers: int, patience: Patience) -> Iterator[int | Result]:
    """Carry out `tasks`, a few at a time, which are taken as there is need of them.

    Yields a `Result` of each, and in between how many bytes came in (negative: were in vain).

    Raises:
        OSError: a file cannot be written.
    """
    tasks, lock, stop, results = iter(tasks), Lock(), Event(), SimpleQueue()

    def work():
        try:
            fetcher = Fetcher(patience, stop, results.put)
            while not stop.is_set():
                with lock:
                    task = next(tasks, None)
                if task is None:
                    break
                results.put(fetcher.complete(task))
            results.put(None)
        except BaseException as error:
            results.put(error)

    threads = [Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        while workers:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                workers -= 1
            else:
                yield result
    finally:
        stop.set()
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))


@dataclass
class Fetcher:
    """What one thread loads with; keeps its connection for the next file.

    `progress` is told how many bytes came in; `stop` ends an attempt.
    """

    patience: Patience
    stop: Event = field(default_factory=Event)
    progress: Callable[[int], None] = lambda count: None
    session: requests.Session = field(default_factory=requests.Session)

    def complete(self, task: Task) -> Result:
        """Load the file unless it is there and right."""

        def check(path: Path, digest: str) -> None:
            if digest != task.digest:
                raise Failed("wrong checksum")

        if task.path.is_file() and sha256(task.path) == task.digest:
            return Result(task, loaded=False)
        try:
            self.fetch(task.url, task.path, task.limit, check)
        except Failed as failure:
            return Result(task, loaded=False, reason=str(failure))
        return Result(task, loaded=True)

    def fetch(self, url: str, path: Path, limit: int, check: Callable[[Path, str], None]) -> None:
        """Load `url` to `path` with patience.

        Args:
            limit: bytes it may have.
            check: is given the temporary file and its SHA-256, and raises `Failed` to refuse it.

        Raises:
            Failed: of the last attempt.
        """
        pause = self.patience.pause
        for left in reversed(range(self.patience.attempts)):
            try:
                return self._attempt(url, path, limit, check)
            except Failed as failure:
                wait = min(max(pause, failure.after), LONGEST_PAUSE)
                if failure.final or not left or self.stop.wait(wait):
                    raise
            pause *= 2

    def _attempt(self, url, path, limit, check) -> None:
        size, digest = 0, hashlib.sha256()
        try:
            with atomic_path(path) as temporary:
                with temporary.open("wb") as file:
                    for chunk in self._chunks(url):
                        size += len(chunk)
                        self.progress(len(chunk))
                        if size > limit:
                            raise Failed(f"longer than {limit:,} bytes")
                        file.write(chunk)
                        digest.update(chunk)
                check(temporary, digest.hexdigest())
        except BaseException:
            self.progress(-size)
            raise

    def _chunks(self, url: str) -> Iterator[bytes]:
        """Bytes as they come; any trouble on the way is `Failed`."""
        try:
            with self.session.get(
                url,
                stream=True,
                timeout=self.patience.timeout,
                headers={"Accept-Encoding": "identity"},  # as it was when its sum was taken
            ) as answer:
                _check_status(answer)
                start, size = time.monotonic(), 0
                while chunk := answer.raw.read1(CHUNK):
                    yield chunk
                    size += len(chunk)
                    late = time.monotonic() - start - self.patience.timeout
                    if size < late * SLOWEST:
                        raise Failed(f"slower than {SLOWEST:,} bytes a second")
                    if self.stop.is_set():
                        raise Failed("interrupted", final=True)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # those of requests are OSErrors
            raise Failed(_reason(error)) from None


def _check_status(answer: requests.Response) -> None:
    code = answer.status_code
    if code != 200:
        after = answer.headers.get("Retry-After", "")
        seconds = int(after) if after.isdecimal() and len(after) < 9 else 0
        raise Failed(f"HTTP {code}", final=code < 500 and code not in LATER, after=seconds)


def _reason(error: Exception) -> str:
    return next((words for kind, words in REASONS if isinstance(error, kind)), str(error))
