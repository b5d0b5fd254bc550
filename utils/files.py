"""Files that are written whole or not at all, JSON, checksums, and what was left out and why."""

import gzip
import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any
from uuid import uuid4

import numpy as np

from utils.cli import UserError

HINTS = {
    "uncalibrated": " (no gain in the header: 200 units per mV are assumed)",
    "partly-flat": " (constant in some of their leads)",
    "out-of-range": " (clipped to ±32.767 mV; a wrong unit or gain?)",
    "implausible": " (amplitudes of no ECG; a wrong unit or gain?)",
}
TEMPORARY = ".tmp"  # how names end under which files are being written


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it takes the name `path` once the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMPORARY}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; it takes its place once the block succeeds."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = {"suffix": TEMPORARY, "prefix": f".{folder.name}.", "dir": folder.parent}
    with TemporaryDirectory(**beside, ignore_cleanup_errors=True) as temporary:
        made = Path(temporary, "made")
        made.mkdir()
        yield made
        for path in filter(Path.is_file, made.rglob("*")):
            _flush(path)
        if folder.exists():
            folder.rename(Path(temporary, "earlier"))
        made.rename(folder)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, compressed where the name ends in .gz: equal texts are equal files."""
    content = text.encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_json(path: Path) -> Any:
    """Read JSON; raises `UserError` where the file is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file; raises `ValueError` if damaged, compressed or of objects."""
    size = path.stat().st_size
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file:
                with file.zip.open(f"{name}.npy") as member:
                    np.lib.format.read_magic(member)
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                if math.prod(shape) * dtype.itemsize > size:  # before memory is allocated
                    raise ValueError(f"{name} is larger than the file, or compressed")
            return dict(file)
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile raise almost any error on damaged files
        raise ValueError(f"not readable arrays ({error})") from None


def spelled(path: Path) -> str:
    """A path as text that can be printed and stored, also where bytes of it are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """Checksum of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest, the same wherever it was made."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def summary(left_out: list[dict[str, Any]]) -> str:
    """`3 left out: 2 × no .dat, such as p00001_s00; 1 × …`, the commonest reasons first."""
    examples = {out["reason"]: out["record"] for out in reversed(left_out)}
    reasons = Counter(out["reason"] for out in left_out).most_common(3)
    listed = [f"{count} × {reason}, such as {examples[reason]}" for reason, count in reasons]
    return f"{len(left_out)} left out: {'; '.join(listed)}{'; …' * (len(examples) > 3)}"


def counted(flagged: dict[str, list[str]]) -> dict[str, Any]:
    """For a manifest: how many records are `constant`, `clipped` ..., and which."""
    return {kind: {"count": len(names), "records": names} for kind, names in flagged.items()}


def report_flagged(flagged: Mapping, notes: Mapping = {}, filled: Mapping = {}) -> None:
    """Say on stderr which records are used although they are doubtful: names by kind, such as
    `constant`, and by note, see `recordings.LazyRecording`; and of which how many samples were
    interpolated, see `recordings.quality`."""
    for kind, names in flagged.items():
        if names:
            signals = f"{kind} signal{'s' * (len(names) > 1)}{HINTS.get(kind, '')}"
            print(f"used, too: {len(names)} {signals}, such as {names[0]}", file=sys.stderr)
    for note, names in notes.items():
        print(f"{len(names)} × {note}, such as {names[0]}", file=sys.stderr)
    if filled:
        counts = shorten(", ".join(f"{count} of {name}" for name, count in filled.items()), 80)
        words = f"missing or impossible samples of {len(filled)} records are interpolated"
        print(f"{words}: {counts}", file=sys.stderr)
