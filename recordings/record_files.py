"""Recordings that a command line names: files, WFDB records, folders and globs."""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from recordings import Unusable
from recordings.formats import FORMATS, STATING, names_wfdb


class Found(NamedTuple):
    """A recording's file (a WFDB record's header), and whether it was itself named."""

    path: Path
    named: bool


def find_records(names: Sequence[str]) -> list[Found]:
    """Recordings of all `names`, in their order, each once.

    A name is a file, a WFDB record without ending, a folder, which is searched to any depth, or a
    glob. What these two find is sorted, numbers by their value; other files and hidden ones are
    left out.

    Raises:
        Unusable: a name is none of these, or there is no recording.
    """
    found: dict[str, Found] = {}
    for name in names:
        for each in _find(str(name)):
            place = os.path.realpath(each.path)
            earlier = found.setdefault(place, each)
            found[place] = earlier._replace(named=earlier.named or each.named)
    return list(found.values())


def _find(name: str) -> list[Found]:
    path = Path(name)
    if name and path.is_dir():
        files = [Path(folder, file) for folder, _, held in os.walk(path) for file in held]
        return _scanned(name, (file for file in files if _shown(file.relative_to(path))))
    if path.is_file() or _header(path).is_file():
        return [Found(_header(path), True)]
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)  # noqa: PTH207 (absolute ones, too)
        return _scanned(name, map(Path, matches))
    raise Unusable(f"{name} does not exist; name a recording, a WFDB record, a folder or a glob")


def _scanned(name: str, files: Iterable[Path]) -> list[Found]:
    """The recordings among `files`."""
    headers = {_header(path) for path in files if path.is_file()}
    endings = {".hea", *FORMATS, *STATING}
    kept = [path for path in headers if path.suffix.lower() in endings]
    if not kept:
        raise Unusable(f"{name} holds no recording ({', '.join(sorted(endings))})")
    return [Found(path, False) for path in sorted(kept, key=_natural)]


def _header(path: Path) -> Path:
    """The header of the WFDB record that a path names, if it has one; else the path."""
    if path.is_file():
        header = path.with_suffix(".hea") if names_wfdb(path) else path
    else:
        header = Path(f"{path}.hea")
    return header if header.is_file() else path


def _shown(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts r2 before r10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
