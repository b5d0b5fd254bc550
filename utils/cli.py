"""What every command shares: flags with checked values, and one-line errors with exit code 2."""

import argparse
import errno
import math
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from models.spectrogram import NetworkError
from recordings import Unusable
from utils import names
from utils.stopping import stop_with_study

LONGEST = 2000  # characters of an error


class UserError(Exception):
    """Something a person can put right; its message says what, where and what to do."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        # A default of nothing is not worth a word.
        nothing = action.default in (None, False, ())
        return action.help if nothing else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Refuses unknown and shortened flags, in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def given(self) -> set[str]:
        """Names of what was given on the command line, whatever its value."""
        absent = object()
        marked = argparse.Namespace(**{action.dest: absent for action in self._actions})
        found = self.parse_args(namespace=marked)
        return {name for name, value in vars(found).items() if value is not absent}

    def parse_with_preset(self, presets: dict[str, dict[str, object]]) -> argparse.Namespace:
        """Flags with `--preset`'s values for those that were not given."""
        chosen = self.parse_args().preset
        self.set_defaults(**presets.get(chosen, {}))
        return self.parse_args()

    def takes(self, name: str, value: str | int | float | bool) -> None:
        """Raises `UserError` unless there is a flag `name` that takes `value`; a file that it names
        need not be there yet."""
        action = self._option_string_actions.get(f"--{name}")
        if action is None:
            raise UserError(f"{name!r} is no flag (see {self.prog} --help)")
        if isinstance(value, bool) != (action.nargs == 0):
            kind = "true or false" if action.nargs == 0 else "a value, not true or false"
            raise UserError(f"{name} takes {kind}")
        if action.nargs == 0 or action.type in (existing, file):
            return
        try:
            self._get_values(action, [str(value)])
        except argparse.ArgumentError as error:
            raise UserError(str(error).removeprefix("argument ")) from None

    def refuse(self, unused: Iterable[str], why: str) -> None:
        """Refuse flags that were given but would do nothing; `why` is for the message."""
        for name in sorted(self.given() & set(unused)):
            self.error(f"argument --{name.replace('_', '-')}: {why}")


def add_hardware_flags(parser: argparse.ArgumentParser) -> None:
    """Where and how to compute, for `utils.engine.choose_hardware`."""
    flag = parser.add_argument
    flag("--device", choices=names.DEVICES, default="auto", help="auto: CUDA where there is one")
    flag(
        "--precision",
        choices=names.PRECISIONS,
        default="auto",
        help="auto: bf16 where the device multiplies it clearly faster than fp32",
    )


def add_run_flags(parser: Parser) -> None:
    """Flags that both trainers have."""
    flag = parser.add_argument
    flag("--job-dir", type=Path, required=True, help="folder for what this run writes")
    flag("--lr", type=positive, default=1e-3, help="Adam's learning rate")
    add_hardware_flags(parser)
    flag(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the network for training; by default on CUDA, where the first steps then"
        " take a minute",
    )
    flag(
        "--sync-bn", action="store_true", help="[torchrun, CUDA] batch statistics of all processes"
    )
    flag("--seed", type=seed, default=0, help="of everything random")
    flag("--overwrite", action="store_true", help="replace the run in --job-dir")
    flag("--resume", action="store_true", help="continue the run in --job-dir; start it if none is")
    flag(
        "--checkpoint-every",
        type=count,
        help="steps from one checkpoint to the next; by default about five minutes",
    )
    add_preset_flag(parser)


def check_run_flags(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse to both continue and replace a run."""
    if args.resume:
        parser.refuse(["overwrite"], "not with --resume")


def add_preset_flag(parser: Parser) -> None:
    """For `Parser.parse_with_preset`."""
    parser.add_argument(
        "--preset",
        choices=names.PRESETS,
        help="settings of the paper, of its authors' code or of the replication, or those that"
        " this project recommends, for the flags that are not given",
    )


def add_spectrogram_flags(parser: Parser) -> None:
    """Settings of 2-D networks."""
    flag = parser.add_argument
    flag("--spectrogram-window", type=count, default=256, help="[2-D] samples of a Hann window")
    flag("--spectrogram-hop", type=count, default=32, help="[2-D] samples between two windows")
    flag("--spectrogram-bins", type=count, default=128, help="[2-D] frequencies, from bin 1 on")
    flag("--spectrogram-scale", choices=names.SPECTROGRAM_SCALES, default="linear", help="[2-D]")


def spectrogram_flags() -> list[str]:
    """Names of the flags of `add_spectrogram_flags`."""
    return [f"spectrogram_{name}" for name in names.SPECTROGRAM_SETTINGS]


def check_network_flags(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse settings of a network that `--weights-file` brings along, or that it does not have."""
    if args.weights_file:
        parser.refuse(["stages", *spectrogram_flags()], "comes with --weights-file")
    elif args.arch not in names.SPECTRAL_ARCHITECTURES:
        flags = [*spectrogram_flags(), "spectrogram_input"]
        parser.refuse(flags, "only for 2-D networks, such as --arch resnet18_2d")


def spectrogram_settings(args: argparse.Namespace) -> dict[str, int | str]:
    """The flags of `add_spectrogram_flags`, as `SpectrogramSettings` names them."""
    return {name: getattr(args, f"spectrogram_{name}") for name in names.SPECTROGRAM_SETTINGS}


def run(main: Callable[[], None]) -> None:
    """Call `main`; report a `UserError` or a failed read or write in one line, exit code 2."""
    sys.stdout.reconfigure(line_buffering=True)  # so that a log file can be followed
    # As an exception, so that temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stop_with_study()
    try:
        main()
    except (UserError, Unusable, NetworkError) as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        sys.exit(_fail(_describe(error)))
    except ModuleNotFoundError as error:
        sys.exit(_fail(f"{error.name} is not installed: activate the environment that the README"
                       " makes, or pip install -r requirements.txt"))  # fmt: skip
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError, and what torch says where the CPU's memory is short.
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        sys.exit(_fail("out of memory; lower --batch-size, where there is one"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _describe(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Without a number it comes from NumPy, which counts what it could not write.
    hint = "; free some space" if full else "; is the disk full?" if error.errno is None else ""
    return f"{error.filename or 'file system'}: {error.strerror or error}{hint}"


def _fail(message: str) -> int:
    print(f"error: {plain(message[:LONGEST])}", file=sys.stderr)
    return 2


def plain(text: str) -> str:
    """One line for a terminal, of what somebody else may have written: without line ends, marks
    that steer it, or what cannot be encoded."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def count(text: str) -> int:
    """A whole number above zero."""
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def count_or_zero(text: str) -> int:
    """A whole number, zero included."""
    return _number(text, int, lambda value: value >= 0, "a whole number from 0 on")


def seed(text: str) -> int:
    """A seed that scikit-learn takes, too."""
    return _number(text, int, lambda value: 0 <= value < 2**32, "a whole number below 2**32")


def number(text: str) -> float:
    """A finite number."""
    return _number(text, float, math.isfinite, "a number")


def positive(text: str) -> float:
    """A finite number above zero."""
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def not_negative(text: str) -> float:
    """A finite number from zero on."""
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number from 0 on")


def share(text: str) -> float:
    """A fraction in [0, 1)."""
    return _number(text, float, lambda value: 0 <= value < 1, "a share from 0 to below 1")


def proper_share(text: str) -> float:
    """A fraction in (0, 1)."""
    return _number(text, float, lambda value: 0 < value < 1, "a share above 0 and below 1")


def share_or_one(text: str) -> float:
    """A fraction in (0, 1]."""
    return _number(text, float, lambda value: 0 < value <= 1, "a share above 0, at most 1")


def share_or_count(text: str) -> float | int:
    """A fraction in [0, 1) or a whole number of things."""

    def holds(value: float) -> bool:
        return 0 < value < 1 or (value >= 0 and value.is_integer())

    value = _number(text, float, holds, "a share below 1 or a whole number")
    return value if 0 < value < 1 else int(value)


def id_list(text: str) -> list[int]:
    """`0,1,2` and ranges `0-109`, ends included; sorted, each once."""
    ids = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())  # more would fill memory
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not span:
            raise argparse.ArgumentTypeError(f"{text!r} does not read like 0,1,2 or 0-109")
        ids.update(span)
    return sorted(ids)


def existing(text: str) -> Path:
    """A path that is there."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path


def file(text: str) -> Path:
    """A file that is there."""
    path = existing(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file; name one")
    return path


def _number(text: str, kind: Callable, holds: Callable, words: str):
    """`text` as a number that `holds`; `words` say what it has to be."""
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}") from None
    if not holds(value):
        raise argparse.ArgumentTypeError(f"{text} is not {words}")
    return value
