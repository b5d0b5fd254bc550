"""Registry of file formats: opening recordings, choosing their leads, finding their files.

A further format is a function `open(path, hints) -> LazyRecording` and a row of `FORMATS`.
"""

import glob
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat

from recordings import (
    LARGEST,
    Hints,
    LazyRecording,
    Unusable,
    check_rate,
    one_line,
    recording_of_values,
)
from recordings.edf import open_edf
from recordings.text import open_text
from recordings.wfdb_files import open_wfdb

SHOWN = 300  # characters of the names of leads that an error lists


class Recording(NamedTuple):
    """A recording in memory: `signal` (samples, leads) float64 in mV, `fs` in Hz, names of the
    leads where there are any, and `uncalibrated` as in `LazyRecording`."""

    signal: np.ndarray
    fs: float
    leads: list[str] | None = None
    uncalibrated: bool = False

    @property
    def count(self) -> int:
        """Number of leads."""
        return self.signal.shape[1]


def open_npy(path: Path, hints: Hints) -> LazyRecording:
    """Map the array of a `.npy` file; samples that are not asked for are not read."""
    try:
        values = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # a damaged header raises almost any error
        raise Unusable(f"not a plain array ({one_line(error)})") from None
    return replace(recording_of_values(values, hints, Hints()), mapped=(path, path.stat().st_size))


def open_mat(path: Path, hints: Hints) -> LazyRecording:
    """Read the variable `val` of a MATLAB file."""
    return recording_of_values(read_val(path.read_bytes()), hints, Hints())


def read_val(content: bytes) -> np.ndarray:
    """The variable `val` of a MATLAB file of the PhysioNet Challenges; raises `Unusable`."""
    try:
        return np.asarray(loadmat(io.BytesIO(content), variable_names=["val"])["val"])
    except KeyError:
        raise Unusable(".mat holds no 'val'") from None
    except NotImplementedError:  # that is HDF5
        raise Unusable(".mat of MATLAB 7.3; save it with -v7") from None
    except Exception:  # scipy's reader raises almost any error on damaged bytes
        raise Unusable(".mat cannot be read; it is damaged, or no MATLAB file") from None


FORMATS: dict[str, Callable[[Path, Hints], LazyRecording]] = {
    ".hea": open_wfdb,
    ".csv": open_text,
    ".txt": open_text,
    ".npy": open_npy,
    ".mat": open_mat,
    ".edf": open_edf,
    ".bdf": open_edf,
}


def open_recording(
    path: Path, fs: float | None = None, unit: str | None = None, gain: float | None = None
) -> LazyRecording:
    """Open one recording, to read parts of it; the ending of its name tells the format.

    A WFDB record is named by its `.hea`, by its `.dat` or `.mat` beside that, or without any
    ending. WFDB and EDF headers state rate and unit; for other formats the arguments give what
    the file does not. Text and `.mat` are read at once, the others when samples are asked for.

    Args:
        fs, unit, gain: as in `recordings.Hints`.

    Raises:
        Unusable: missing, damaged, shorter than a second, of unknown format, rate or unit, or in
            contradiction to the arguments.
    """
    path = record_file(Path(path))
    suffix = path.suffix.lower()
    suffix = ".hea" if suffix in ("", ".dat") else suffix  # a WFDB record without a header
    if suffix not in FORMATS:
        raise Unusable(f"format {suffix} is not one of {', '.join(FORMATS)}")
    try:
        recording = FORMATS[suffix](path, Hints(fs, unit, gain))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unusable(f"file cannot be read ({one_line(error)})") from None
    _check_extent(recording.fs, recording.samples)
    names = [" ".join(str(name).split()) for name in recording.leads or ()]
    distinct = len({name.lower() for name in names if name}) == recording.count == len(names)
    return replace(recording, leads=names if distinct else None)


def read_whole(recording: LazyRecording) -> Recording:
    """Read all samples; those that are missing are NaN."""
    signal = recording.read(0, recording.samples)
    return Recording(signal, recording.fs, recording.leads, recording.uncalibrated)


def read_recording(path: Path, *hints: float | str | None) -> Recording:
    """Read one recording whole; arguments and errors as of `open_recording`.

    Raises:
        Unusable: as there, and if samples are missing.
    """
    recording = read_whole(open_recording(path, *hints))
    check_signal(recording)
    return recording


def check_signal(recording: Recording) -> None:
    """Raises `Unusable` at a rate that is no ECG's, under a second, or if samples are missing."""
    _check_extent(recording.fs, len(recording.signal))
    if not (np.abs(recording.signal) <= LARGEST).all():
        raise Unusable("signal holds NaN or infinite values")


def _check_extent(fs: float, samples: int) -> None:
    check_rate(fs)
    if samples < fs:
        raise Unusable(f"{samples} samples are shorter than 1 s")


def lead_number(recording: LazyRecording, channel: str | None) -> int:
    """Number of the lead that `channel` names, in any capitals, or numbers from 0; None: the first.

    Raises:
        Unusable: there is no such lead.
    """
    if channel is None:
        return 0
    wanted, names = channel.strip().lower(), [name.lower() for name in recording.leads or ()]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < recording.count:
        return int(wanted)
    named = ", ".join(recording.leads or ["without names"])[:SHOWN]
    raise Unusable(f"no lead {channel!r}; there are {recording.count}, from 0 on: {named}")


def lead_order(
    recording: Recording | LazyRecording, count: int, leads: Sequence[str] | None
) -> list[int]:
    """Numbers of the recording's leads in the order in which `leads` names them.

    Capitals do not matter, nor does the name of an only lead. If either side has no names, the
    leads stay in their order.

    Raises:
        Unusable: not `count` leads, or other names.
    """
    if recording.count != count:
        raise Unusable(f"number of leads is {recording.count}, not {count}")
    if count == 1 or not leads or not recording.leads:
        return list(range(count))
    names, wanted = ([name.lower() for name in names] for names in (recording.leads, leads))
    if sorted(names) != sorted(wanted):
        raise Unusable(f"leads are {', '.join(recording.leads)}, not {', '.join(leads)}")
    return [names.index(name) for name in wanted]


def record_file(path: Path) -> Path:
    """The header of the WFDB record that a path names, if it has one; else the path."""
    part = path.suffix.lower() in (".hea", ".dat", ".mat")
    header = path.with_suffix(".hea") if part else Path(f"{path}.hea")
    return header if header.is_file() else path


class RecordFile(NamedTuple):
    """File of a recording (the header of a WFDB record), and whether the user named it."""

    path: Path
    named: bool


def find_records(names: Sequence[str]) -> list[RecordFile]:
    """Recordings of all `names`, in their order, each once.

    A name is a file, a WFDB record without ending, a folder, which is searched to any depth, or a
    glob. What a folder or a glob holds is sorted, numbers by value; hidden files and those of
    other formats are left out.

    Raises:
        Unusable: a name is none of these, or stands for no recording.
    """
    records: dict[str, RecordFile] = {}
    for record in chain.from_iterable(_find(str(name)) for name in names):
        earlier = records.setdefault(os.path.realpath(record.path), record)
        named = earlier.named or record.named
        records[os.path.realpath(record.path)] = earlier._replace(named=named)
    return list(records.values())


def _find(name: str) -> list[RecordFile]:
    path = Path(name)
    if name and path.is_dir():
        files = [Path(folder, file) for folder, _, held in os.walk(path) for file in held]
        hidden = [file for file in files if "/." in f"/{file.relative_to(path).as_posix()}"]
        return _scanned(name, set(files) - set(hidden))
    if record_file(path).is_file():
        return [RecordFile(record_file(path), True)]
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)  # noqa: PTH207 (absolute ones, too)
        return _scanned(name, map(Path, matches))
    raise Unusable(f"{name} does not exist; name a recording, a WFDB record, a folder or a glob")


def _scanned(name: str, files: Iterable[Path]) -> list[RecordFile]:
    """The recordings among `files`."""
    paths = {record_file(path) for path in files if path.is_file()}
    kept = [path for path in paths if path.suffix.lower() in FORMATS]
    if not kept:
        raise Unusable(f"{name} holds no recording ({', '.join(sorted(FORMATS))})")
    return [RecordFile(path, False) for path in sorted(kept, key=_by_number)]


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts r2 before r10."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
