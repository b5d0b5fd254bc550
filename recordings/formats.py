"""Registry of file formats: opening recordings, choosing their leads, finding their files.

A further format is a function `open(path, hints) -> LazyRecording` and a row of `FORMATS`.
"""

import glob
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat, whosmat

from recordings import Hints, LazyRecording, Unusable, bare_lead, check_rate, ecg_lead, one_line
from recordings.edf import open_edf
from recordings.quality import fill_missing, mark_impossible
from recordings.text import open_text
from recordings.wfdb_files import list_segments, open_wfdb

NUMBERS = re.compile("double|single|u?int(8|16|32|64)")  # classes of MATLAB's arrays


class Recording(NamedTuple):
    """A recording in memory; leads, uncalibrated and notes are as in `LazyRecording`."""

    signal: np.ndarray  # (samples, leads) float64 in mV
    fs: float  # Hz
    leads: list[str] | None = None
    uncalibrated: bool = False
    notes: tuple[str, ...] = ()
    filled: int = 0  # samples of all leads that were missing or impossible, and interpolated

    @property
    def count(self) -> int:  # of leads
        return self.signal.shape[1]


def open_npy(path: Path, hints: Hints) -> LazyRecording:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses sizes beyond the file's
    return LazyRecording.of_values(mapped, hints, Hints())


def open_mat(path: Path, hints: Hints) -> LazyRecording:
    return LazyRecording.of_values(read_mat(path.read_bytes()), hints, Hints())


def read_mat(content: bytes) -> np.ndarray:
    """The variable `val` of a MATLAB file, as in the PhysioNet Challenges, or else the only array
    of numbers that can be a recording: a long one, with fewer leads. Raises `Unusable`."""
    try:
        variables = whosmat(io.BytesIO(content))
        names = [name for name, shape, kind in variables if NUMBERS.fullmatch(kind)
                 and len(shape) == 2 and 20 <= max(shape) > min(shape)]  # fmt: skip
        names = ["val"] if any(name == "val" for name, *_ in variables) else names
        if len(names) == 1:
            return np.asarray(loadmat(io.BytesIO(content), variable_names=names)[names[0]])
    except Exception as error:  # scipy's reader raises almost any error on damaged bytes
        raise Unusable(f".mat cannot be read ({one_line(error)})") from None
    listed = ", ".join(f"{name} {shape}" for name, shape, _ in variables)[:300] or "nothing"
    raise Unusable(f".mat holds no 'val', nor one array of samples alone, but {listed}")


FORMATS: dict[str, Callable[[Path, Hints], LazyRecording]] = {
    ".hea": open_wfdb, ".csv": open_text, ".txt": open_text, ".npy": open_npy, ".mat": open_mat,
    ".edf": open_edf, ".bdf": open_edf,
}  # fmt: skip


def open_recording(path: Path, *hints: float | str | None) -> LazyRecording:
    """Open one recording, to read parts of it; the ending of its name tells the format.

    A WFDB record is named by its `.hea`, `.dat` or `.mat`, or without ending. Raises `Unusable` if
    it is missing, damaged, shorter than a second, of unknown format, rate or unit, or contradicts
    the `hints`, which are those of `Hints`.
    """
    path = record_file(Path(path))
    suffix = path.suffix.lower().replace(".dat", "") or ".hea"  # a WFDB record without a header
    if suffix not in FORMATS:
        raise Unusable(f"format {suffix} is not one of {', '.join(FORMATS)}")
    if suffix != ".hea" and not path.is_file():
        raise Unusable("not found")
    try:
        recording = FORMATS[suffix](path, Hints(*hints))
    except Unusable:
        raise
    except Exception as error:  # the libraries raise almost any error on damaged files
        raise Unusable(f"unreadable {suffix} file ({one_line(error)})") from None
    check_rate(recording.fs, recording.samples)
    leads = [" ".join(str(name).split()) for name in recording.leads or ()]
    distinct = len({name.lower() for name in leads if name}) == recording.count == len(leads)
    return replace(recording, leads=leads if distinct else None)


def read_recording(path: Path, *hints: float | str | None) -> Recording:
    """Read one recording whole, as `open_recording` does, and `repair` it."""
    lazy = open_recording(path, *hints)
    signal = lazy.read(0, lazy.samples)
    return repair(Recording(signal, lazy.fs, lazy.leads, lazy.uncalibrated, lazy.notes))


def repair(recording: Recording) -> Recording:
    """Interpolate missing and impossible samples, see `recordings.quality`. Raises `Unusable` if
    there are many, at a rate that is no ECG's, or under a second."""
    check_rate(recording.fs, len(recording.signal))
    signal, filled = fill_missing(mark_impossible(recording.signal), recording.fs)
    return recording._replace(signal=signal, filled=filled)


def lead_number(recording: LazyRecording, channel: str | None) -> int:
    """Number of the lead that `channel` names or numbers, by default the ECG; else `Unusable`."""
    leads = recording.leads or list(map(str, range(recording.count)))
    if channel is None:
        return ecg_lead(leads)
    for spell in (str.lower, bare_lead):
        names, wanted = list(map(spell, leads)), spell(channel.strip())
        if names.count(wanted) == 1:
            return names.index(wanted)
    if channel.strip().isdecimal() and int(channel) < recording.count:
        return int(channel)
    said = "; ".join([f"from 0 on there are {', '.join(leads)[:300]}", *recording.notes])
    raise Unusable(f"no lead {channel!r}; {said}")


def lead_order(recording: Recording | LazyRecording, count: int, leads: list | None) -> list[int]:
    """Numbers of the recording's leads in the order of `leads`, if both have names; that of an only
    lead does not matter. Raises `Unusable` at another `count`, or other names."""
    if recording.count != count:
        raise Unusable(f"number of leads is {recording.count}, not {count}")
    if count == 1 or not leads or not recording.leads:
        return list(range(count))
    for spell in (str.lower, bare_lead):
        names, wanted = (list(map(spell, names)) for names in (recording.leads, leads))
        if sorted(names) == sorted(set(wanted)):
            return [names.index(name) for name in wanted]
    raise Unusable(f"leads are {', '.join(recording.leads)}, not {', '.join(leads)}")


def record_file(path: Path) -> Path:
    """The header of the WFDB record that a path names, if it has one; else the path."""
    part = path.suffix.lower() in (".hea", ".dat", ".mat")
    header = path.with_suffix(".hea") if part else Path(f"{path}.hea")
    return header if header.is_file() else path


def find_records(names: Sequence[str]) -> dict[Path, bool]:
    """Files of the recordings of all `names`, in their order, and whether each itself was named.

    A name is a file, a WFDB record without ending, a folder, which is searched to any depth, or a
    glob. What these two hold is sorted, numbers by value; hidden files, other formats, and segments
    of other records are left out. Raises `Unusable` where a name stands for no recording.
    """
    records = {}  # the first of several paths to one file, and whether it was named, by real path
    for name in map(str, names):
        folder, named = Path(name), False
        if name and folder.is_dir():
            paths = [path for path in folder.rglob("*")
                     if "/." not in f"/{path.relative_to(folder).as_posix()}"]  # fmt: skip
        elif named := record_file(folder).is_file():
            paths = [folder]
        else:
            paths = map(Path, glob.glob(name, recursive=True))  # noqa: PTH207 (absolute ones, too)
        files = {record_file(path) for path in paths if named or path.is_file()}
        files = [path for path in files if named or path.suffix.lower() in FORMATS]
        if not files:
            missing = not folder.exists() and not glob.has_magic(name)
            said = "is not found" if missing else f"holds no recording ({', '.join(FORMATS)})"
            raise Unusable(f"{name} {said}")
        for path in sorted(files, key=_by_number):
            place = os.path.realpath(path)
            first, before = records.get(place, (path, False))
            records[place] = first, named or before
    listed = [segment for path, _ in records.values() for segment in list_segments(path)]
    segments = set(map(os.path.realpath, listed))
    return dict(row for place, row in records.items() if row[1] or place not in segments)


def _by_number(path: Path) -> list[str | int]:
    """Sorts r2 before r10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
