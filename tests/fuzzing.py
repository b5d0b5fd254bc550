"""Damaged and hostile files for the readers: how they are made, and what a reader may make of them.

A reader may refuse a file by an error that its command turns into one line, or read it. Anything
else is a failure: another error, 5 s, memory beyond twice what the honest file takes, code that is
run, or a process that dies.
"""

import multiprocessing
import random
import re
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.spectrogram import NetworkError
from recordings import Unusable
from utils.cli import LONGEST, UserError

REFUSED = (Unusable, UserError, NetworkError, OSError)  # what ends in one line, see `utils.cli.run`
SECONDS = 5  # for one file
SPARE = 2**26  # bytes, beside twice what the honest file takes: libraries work in blocks
ADDRESSES = 2**31  # bytes of address space that a file may ask for in vain
EXECUTED = "executed"  # what a payload would make, in the folder above the target's
READ, REFUSAL = "read", "refused"

NUMBER, WORD = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?"), re.compile(rb"[\w./-]+")
ODD_NUMBERS = (
    b"1e12", b"1000000000000", b"-1", b"0", b"-0.0", b"nan", b"NaN", b"Infinity", b"-inf", b"1e308",
    b"1e-308", b"2147483648", b"-250", b"0.001", b"19999.999", b"9" * 25, b"9" * 400, b"9" * 5000,
)  # fmt: skip
ODD_WORDS = (
    *ODD_NUMBERS, b"../../etc/passwd", b"/etc/passwd", b"../x.dat", b"a::b/c.hea", b"..", b"~", b"",
    b"\0", b"\xff\xfe", b"\r", b'"', b"'", b"#", b",", b"null", b"true", b"[]", b"{}", b'"x"',
    b"x" * 300, b"7" * 100_000, b"[" * 100_000, b"\n" * 1000,
)  # fmt: skip
# Integers that sizes, offsets and counts are not.
EXTREMES = (0, -1, 1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
KINDS = ("flip", "cut", *("splice", "number", "word") * 2, "integer", "line")


class Target(NamedTuple):
    """`make` writes honest files into a folder; `read` reads one of them, `file`, when damaged."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    file: str


class Outcome(NamedTuple):
    seed: int  # of the damaged file
    what: str  # `READ`, `REFUSAL` or what went wrong

    @property
    def failed(self) -> bool:
        return self.what not in (READ, REFUSAL)


def attack(target: Target, seeds: range, folder: Path) -> Iterator[Outcome]:
    """Have the target read a damaged file of each seed, in a process of its own, in `folder`."""
    processes = multiprocessing.get_context("fork")
    while seeds:
        mine, its = processes.Pipe(duplex=False)
        process = processes.Process(target=_read_all, args=(target, seeds, folder, its))
        process.start()
        its.close()
        with suppress(EOFError):
            while seeds and mine.poll(4 * SECONDS):
                yield Outcome(seeds[0], mine.recv())
                seeds = seeds[1:]
        process.kill()
        process.join()
        if seeds:
            yield Outcome(seeds[0], f"no answer (exit code {process.exitcode})")
            seeds = seeds[1:]


def _read_all(target: Target, seeds: range, folder: Path, results: Connection) -> None:
    torch.set_num_threads(1)  # those of the parent are not here: they would be waited for
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target.make(folder)
    path = folder / target.file
    honest, before = path.read_bytes(), _peak()
    with suppress(*REFUSED):  # as the payload is
        target.read(path)
    most = before + 2 * (_peak() - before) + SPARE
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + ADDRESSES,) * 2)
    # Not an `Exception`: some readers turn all of these into errors of their own.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for seed in seeds:
        path.write_bytes(mutate(honest, random.Random(f"{path.name} {seed}")))
        what = _read_one(target, path)
        if _peak() > most:
            what, most = f"memory: {(_peak() - before) >> 20} MiB", _peak() + SPARE
        if (folder.parent / EXECUTED).exists():
            what = "something was executed"
        results.send(what)


def _read_one(target: Target, path: Path) -> str:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        target.read(path)
        return READ
    except REFUSED as error:
        # A command prints one line of any error, see `utils.cli`; reasons go to manifests, too.
        line = len(str(error).splitlines()) == 1 and len(str(error)) < LONGEST
        clear = line or not isinstance(error, Unusable)
        return REFUSAL if clear else f"no clear line: {str(error)[:300]!r}"
    except KeyboardInterrupt as error:
        return f"more than {SECONDS} s in {traceback.extract_tb(error.__traceback__)[-2]}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to three ways."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = bytes(_damage(bytearray(content), rng))
    return content


def _damage(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content) + 1)
    stop = start + rng.choice((1, 2, 8, rng.randrange(1, len(content) + 2)))
    match rng.choice(KINDS):
        case "flip":
            for place in rng.choices(range(len(content)), k=rng.randrange(1, 9)) if content else ():
                content[place] ^= 1 << rng.randrange(8)
        case "cut":
            del content[start:]
        case "splice":  # bytes are removed, repeated or inserted
            times = rng.choice((0, 2, 3, min(100, 2**20 // (len(content) + 1) + 1)))
            inserted = rng.randbytes(rng.choice((0, 0, 1, 2, 4, 100)))
            content[start:stop] = content[start:stop] * times + inserted
        case "integer":  # of the file, wherever one may lie, becomes an extreme one
            size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            value = rng.choice(EXTREMES) % 256**size
            content[start : start + size] = value.to_bytes(size, order)
        case "line":  # is repeated, goes elsewhere or is lost
            lines = bytes(content).splitlines(keepends=True) or [b""]
            line = lines.pop(rng.randrange(len(lines)))
            for _ in range(rng.choice((0, 1, 2, 1000 if len(line) < 100 else 2))):
                lines.insert(rng.randrange(len(lines) + 1), line)
            content = bytearray(b"".join(lines))
        case kind:
            pattern, odd = (NUMBER, ODD_NUMBERS) if kind == "number" else (WORD, ODD_WORDS)
            spans = [match.span() for match in pattern.finditer(content, 0, 2**14)]
            start, stop = rng.choice(spans or [(0, 0)])
            content[start:stop] = rng.choice(odd)
    return content
