"""Files that are written whole or not at all, JSON, checksums, and manifests.

A manifest says what went into a data set or a run, and what was left out, as a list of
`{"record": …, "reason": …}`.
"""

import glob
import gzip
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import UserError

HINTS = {"uncalibrated": " (no gain in the header: 200 units per mV are assumed)"}
HOST = re.sub(r"\W", "-", platform.node())  # folders may be shared by several machines


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; it takes the name `path` once the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
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
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder)
    made, earlier = temporary / "made", temporary / "earlier"
    made.mkdir(parents=True)
    try:
        yield made
        for path in made.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            folder.rename(earlier)
        made.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A name for this process to write `path` under, once leftovers of it are removed."""
    remove_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what processes of this machine that were killed left in `folder`, of file `name` or
    of all; a folder that was just being replaced is put back."""
    pattern = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{pattern}.{HOST}.*.tmp"):
        target, _, pid = path.name[1:].removesuffix(".tmp").rpartition(f".{HOST}.")
        if not pid.isdecimal() or _runs(int(pid)):
            continue
        earlier = path / "earlier"
        if earlier.exists() and not (folder / target).exists():
            earlier.rename(folder / target)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return False  # of a process that had this number before, as after the start of a container
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, compressed where the name ends in .gz: equal texts are equal files."""
    content = text.encode()
    with atomic_path(path) as temporary:
        # Neither time nor name inside the archive.
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_json(path: Path) -> Any:
    """Read JSON; raises `UserError` where the file is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def load_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an uncompressed `.npz` file by name, all or those of `names` that it holds.

    Raises:
        ValueError: it is damaged or compressed, or holds objects.
    """
    size = path.stat().st_size
    try:
        with np.load(path, allow_pickle=False) as file:
            chosen = [name for name in file if names is None or name in names]
            for name in chosen:
                with file.zip.open(f"{name}.npy") as member:
                    np.lib.format.read_magic(member)
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                # Checked before memory is allocated.
                if math.prod(shape) * dtype.itemsize > size:
                    raise ValueError(f"{name} is larger than the file, or compressed")
            return {name: file[name] for name in chosen}
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
    more = ["…"] if len(examples) > len(reasons) else []
    return f"{len(left_out)} left out: {'; '.join(listed + more)}"


def counted(flagged: dict[str, list[str]]) -> dict[str, Any]:
    """For a manifest: how many records there are of each kind, and which.

    Args:
        flagged: names of the records that are `constant`, `clipped`.
    """
    return {kind: {"count": len(names), "records": names} for kind, names in flagged.items()}


def report_flagged(flagged: dict[str, list[str]]) -> None:
    """Where there are any, say `used, too: 2 constant signals, such as A00012; 1 clipped …`."""
    words = [
        f"{len(names)} {kind} signal{'s' * (len(names) > 1)}{HINTS.get(kind, '')}, such as "
        f"{names[0]}"
        for kind, names in flagged.items()
        if names
    ]
    if words:
        print(f"used, too: {'; '.join(words)}", file=sys.stderr)
