"""What every command shares: flags with checked values, and one-line errors with exit code 2."""

import argparse
import errno
import sys
from collections.abc import Callable
from pathlib import Path

from utils import names


class UserError(Exception):
    """Something a person can put right; its message says what, where and what to do."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        # A default of nothing is not worth a word.
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Refuses unknown and shortened flags, in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_run_flags(parser: Parser) -> None:
    """Flags that both trainers have."""
    flag = parser.add_argument
    flag("--job-dir", type=Path, required=True, help="folder for what this run writes")
    flag("--lr", type=positive, default=1e-3, help="Adam's learning rate")
    flag("--device", choices=names.DEVICES, default="auto", help="auto: CUDA where there is one")
    flag(
        "--precision",
        choices=names.PRECISIONS,
        default="auto",
        help="auto: bf16 where the device computes it natively",
    )
    flag("--seed", type=seed, default=0, help="of everything random")
    flag("--overwrite", action="store_true", help="replace the run in --job-dir")


def run(main: Callable[[], None]) -> None:
    """Call `main`; report a `UserError` or a failed read or write in one line, exit code 2."""
    sys.stdout.reconfigure(line_buffering=True)  # so that a log file can be followed
    try:
        main()
    except UserError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        hint = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        sys.exit(_fail(f"{error.filename or 'file system'}: {error.strerror or error}{hint}"))
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError, and what torch says where the CPU's memory is short.
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        sys.exit(_fail("out of memory; lower --batch-size"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def count(text: str) -> int:
    """A whole number above zero."""
    return _checked(int(text), lambda value: value > 0, "must be above 0")


def count_or_zero(text: str) -> int:
    """A whole number, zero included."""
    return _checked(int(text), lambda value: value >= 0, "must not be negative")


def seed(text: str) -> int:
    """A seed that scikit-learn takes, too."""
    return _checked(int(text), lambda value: 0 <= value < 2**32, "must be in [0, 2**32)")


def positive(text: str) -> float:
    """A finite number above zero."""
    return _checked(float(text), lambda value: 0 < value < float("inf"), "must be above 0")


def share(text: str) -> float:
    """A fraction in [0, 1)."""
    return _checked(float(text), lambda value: 0 <= value < 1, "must be in [0, 1)")


def share_or_one(text: str) -> float:
    """A fraction in (0, 1]."""
    return _checked(float(text), lambda value: 0 < value <= 1, "must be in (0, 1]")


def share_or_count(text: str) -> float | int:
    """A fraction in [0, 1) or a whole number of things."""
    value = float(text)
    if 0 < value < 1:
        return value
    return int(_checked(value, lambda v: v >= 0 and v.is_integer(), "must be a share or a count"))


def id_list(text: str) -> list[int]:
    """`0,1,2` and ranges `0-109`, ends included; sorted, each once."""
    ids = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        span = range(int(first), int(last if dash else first) + 1)
        if not span:
            raise argparse.ArgumentTypeError(f"{part} is an empty range")
        ids.update(span)
    return sorted(ids)


def existing(text: str) -> Path:
    """A path that is there."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def _checked(value, holds: Callable, message: str):
    if not holds(value):
        raise argparse.ArgumentTypeError(f"{value} {message}")
    return value
