"""What every command shares: flags with checked values, and one-line errors with exit code 2."""

import argparse
import errno
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from models import DEFAULT_ARCHITECTURE, ENCODERS
from models.spectrogram import SCALES, NetworkError, SpectrogramSettings
from recordings import Unusable

LONGEST = 2000  # characters of an error
# Settings of the works that are reproduced, by command; the README's table explains them. The
# paper is Weimann & Conrad (2021), `authors-code` the defaults of their repository (of fine-tuning,
# the command of its README), `team1` the replication.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "pretraining": {
        "paper": {"val_patients": 0.05},
        "authors-code": {"batch_size": 32, "samples_per_patient": 1000, "steps_per_epoch": 100,
                         "epochs": 1, "val_patients": 0},
        "team1": {"frame_size": 4096, "batch_size": 512, "steps_per_epoch": 1024,
                  "spectrogram_input": "raw"},
    },
    "prepare": {
        "paper": {"pad": 15000},  # 60 s
        "authors-code": {"pad": 16384},
        "team1": {"pad": 16384, "resampling": "fft"},
    },
    "finetuning": {
        "paper": {"stop_metric": "train_acc"},
        "authors-code": {"val_metric": "loss"},
        "team1": {"batch_size": 128},
    },
}  # fmt: skip


class UserError(Exception):
    """Something a person can put right; its message says what, where and what to do."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        shown = action.default not in (None, False, ())
        return super()._get_help_string(action) if shown else action.help


class Parser(argparse.ArgumentParser):
    """Refuses unknown and shortened flags, in one line that names the flags most like them."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **kwargs)

    def error(self, message: str):
        flags = ["--", *self._option_string_actions]
        # Where a flag is missing, its name may have been mistyped.
        if message.startswith(("unrecognized arguments", "the following arguments are required")):
            for word in {word.partition("=")[0]: None for word in sys.argv[1:] if word[:2] == "--"}:
                name = word.lower().replace("_", "-")
                near = [f for f in flags if f.startswith(name)] or get_close_matches(name, flags, 1)
                if near and word not in flags:
                    message += f"; {word}: did you mean {' or '.join(near[:3])}?"
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def given(self) -> set[str]:
        """Names of the flags on the command line, whatever their values."""
        absent = object()
        marked = argparse.Namespace(**{action.dest: absent for action in self._actions})
        values = vars(self.parse_args(namespace=marked))
        return {name for name, value in values.items() if value is not absent}

    def parse_with_preset(self, command: str) -> argparse.Namespace:
        """Add `--preset`, a key of `PRESETS[command]`, and parse: its values hold for the flags
        that are not given."""
        about = ("settings of the paper, of its authors' code or of the replication, for the flags"
                 " that are not given")  # fmt: skip
        self.add_argument("--preset", choices=PRESETS[command], help=about)
        self.set_defaults(**PRESETS[command].get(self.parse_args().preset, {}))
        return self.parse_args()

    def refuse(self, unused: Iterable[str], why: str) -> None:
        """Refuse flags that were given but would have no effect; `why` is for the message."""
        for name in sorted(self.given() & set(unused)):
            self.error(f"argument --{name.replace('_', '-')}: {why}")


def _number(kind: Callable, holds: Callable[[Any], bool], words: str) -> Callable[[str], Any]:
    """Type of a flag: numbers for which `holds`; `words` say in an error what they are."""

    def parse(text: str):
        try:
            value = kind(text)
            valid = holds(value)
        except ValueError:
            valid = False
        if not valid:
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return value

    return parse


count = _number(int, lambda value: value > 0, "a whole number above 0")
count_or_zero = _number(int, lambda value: value >= 0, "a whole number from 0 on")
seed = _number(int, lambda value: 0 <= value < 2**32, "a whole number below 2**32")
number = _number(float, math.isfinite, "a number")
positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
not_negative = _number(float, lambda value: 0 <= value < math.inf, "a number from 0 on")
share = _number(float, lambda value: 0 <= value < 1, "a share from 0 to below 1")
proper_share = _number(float, lambda value: 0 < value < 1, "a share above 0 and below 1")
share_or_one = _number(float, lambda value: 0 < value <= 1, "a share above 0, at most 1")


def share_or_count(text: str) -> float | int:
    """Type of a flag: a share in (0, 1), or a whole number."""
    value = not_negative(text)
    if value >= 1 and not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a share below 1 or a whole number")
    return value if 0 < value < 1 else int(value)


def id_list(text: str) -> list[int]:
    """Type of a flag: `0,1,2` and ranges `0-109`, ends included; sorted, without repetitions."""
    ids = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())  # more would fill memory
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not span:
            raise argparse.ArgumentTypeError(f"{text!r} does not read like 0,1,2 or 0-109")
        ids.update(span)
    return sorted(ids)


def _path(holds: Callable[[Path], bool], kind: str) -> Callable[[str], Path]:
    """Type of a flag: a path that exists and is of a kind."""

    def parse(text: str) -> Path:
        path = Path(text)
        if not holds(path):
            why = f"is not a {kind}; name one" if path.exists() else "does not exist"
            raise argparse.ArgumentTypeError(f"{text} {why}")
        return path

    return parse


existing = _path(Path.exists, "path")
file, folder = _path(Path.is_file, "file"), _path(Path.is_dir, "folder")


def add_hardware_flags(parser: Parser) -> None:
    """Where and how to compute, for `utils.engine.choose_hardware`."""
    flag, devices = parser.add_argument, ("auto", "cpu", "cuda")
    flag("--device", choices=devices, default="auto", help="auto: CUDA where there is one")
    about = "auto: bf16 where the device multiplies it clearly faster than fp32"
    flag("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=about)


def add_run_flags(parser: Parser) -> None:
    """Flags of both trainers: job directory, optimiser, hardware."""
    flag = parser.add_argument
    flag("--job-dir", type=Path, required=True, help="folder for what this run writes")
    flag("--lr", type=positive, default=1e-3, help="Adam's learning rate")
    add_hardware_flags(parser)
    about = "compile the network for training; by default on CUDA, where it takes a minute at first"
    flag("--compile", action=argparse.BooleanOptionalAction, help=about)
    flag("--sync-bn", action="store_true", help="[torchrun, CUDA] batch statistics over processes")
    flag("--seed", type=seed, default=0, help="of everything random")
    flag("--overwrite", action="store_true", help="replace the run in --job-dir")
    flag("--resume", action="store_true", help="continue the run in --job-dir; start it if none is")
    about = "steps from one checkpoint to the next; by default about five minutes"
    flag("--checkpoint-every", type=count, help=about)


def add_network_flags(parser: Parser) -> None:
    """Flags of both trainers: the network and where its weights come from."""
    flag = parser.add_argument
    flag("--weights-file", type=file, help="start from this encoder; its head is dropped")
    flag("--arch", choices=ENCODERS, help="by default the weights file's, else resnet18")
    flag("--stages", type=count, help="keep the first stages of a new encoder only")
    flag("--spectrogram-window", type=count, default=256, help="[2-D] samples of a Hann window")
    flag("--spectrogram-hop", type=count, default=32, help="[2-D] samples between two windows")
    flag("--spectrogram-bins", type=count, default=128, help="[2-D] frequencies, from bin 1 on")
    flag("--spectrogram-scale", choices=SCALES, default="linear", help="[2-D]")


SPECTROGRAM_FLAGS = [f"spectrogram_{field.name}" for field in fields(SpectrogramSettings)]


def check_shared_flags(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse flags of `add_run_flags` and `add_network_flags` that contradict each other."""
    if args.resume:
        parser.refuse(["overwrite"], "not with --resume")
    if args.weights_file:
        parser.refuse(["stages", *SPECTROGRAM_FLAGS], "comes with --weights-file")
    elif not ENCODERS[args.arch or DEFAULT_ARCHITECTURE].spectral:
        flags = [*SPECTROGRAM_FLAGS, "spectrogram_input"]
        parser.refuse(flags, "only for 2-D networks, such as --arch resnet18_2d")


def spectrogram_settings(args: argparse.Namespace) -> dict[str, int | str]:
    """The flags `--spectrogram-…`, as `SpectrogramSettings` names them."""
    return {name.removeprefix("spectrogram_"): getattr(args, name) for name in SPECTROGRAM_FLAGS}


def run(main: Callable[[], None]) -> None:
    """Call `main`; report what the user can put right in one line, and exit with code 2. Ends
    silently where nobody reads its output any more, as in `| head`."""
    sys.stdout.reconfigure(line_buffering=True)  # so that a log file can be followed
    # As an exception, so that temporary files are removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return main()
    except BrokenPipeError:
        if not _reader_left("\n"):
            raise
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, Unusable, NetworkError) as error:
        message = str(error)
    except OSError as error:
        # Without a number it comes from NumPy, which counts what it could not write.
        hint = "; is the disk full?" if error.errno in (None, errno.ENOSPC, errno.EDQUOT) else ""
        message = f"{error.filename or 'file system'}: {error.strerror or error}{hint}"
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install -r requirements.txt"
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        message = "out of memory; lower --batch-size, where there is one"
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        _reader_left()
    print(f"error: {plain(message[:LONGEST])}", file=sys.stderr)
    sys.exit(2)


def _reader_left(text: str = "") -> bool:
    """Write `text`; whether nobody reads the output any more, so that the rest is dropped."""
    try:
        print(end=text, flush=True)
    except BrokenPipeError:  # Python would report it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU or, to Python or to PyTorch's allocator, of the CPU is short."""
    short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return short or "DefaultCPUAllocator" in str(error)


def plain(text: str) -> str:
    """`text` as one line for a terminal: without line ends and control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
