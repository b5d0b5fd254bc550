"""Annotation index of a data set: headers and annotations, read once, then memory-mapped.

A folder `annotation_index/current` in the data set's folder, or in `--index DIR`, holds
`segments.npy` (a row for each segment), flat arrays of all beats and rhythm intervals in the same
order, and `index.json` (what was left out and why, and when each folder last changed). Only the
patients asked for are read, and again only where their files have changed since.
"""

import hashlib
import json
import multiprocessing
import sys
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from pretraining.icentia11k import reader, torrent
from pretraining.icentia11k.reader import Header
from recordings import Unusable, one_line
from utils.cli import UserError
from utils.files import atomic_folder, read_json, write_json

VERSION = 5  # an index of another version is built again
FOLDER = "annotation_index"
DISTRIBUTIONS = (reader, torrent)  # modules with functions and constants of the same names
ARRAYS = {  # types, and the columns that count them
    "beat_ends": ("<i4", "beats"), "beat_codes": ("i1", "beats"),
    "rhythm_ends": ("<i4", "rhythms"), "rhythm_codes": ("i1", "rhythms"),
}  # fmt: skip
COLUMNS = {
    "path": "S", "samples": "i8", "gain": "f8", "baseline": "i4", "mapped": "?", "offset": "i8",
    "annotated": "?", "constant": "?", "clipped": "?", "beats": "i8", "rhythms": "i8",
}  # fmt: skip
Records = dict[int, list[Path]]  # of each patient, sorted


class AnnotationIndex:
    """An index that has been built; any error where there is none, or it is damaged.

    Attributes:
        segments: structured array with `patient`, `path` (relative, without extension),
            `samples`, `gain` (units per mV), `baseline`, whether it is `annotated`, whether its
            signal is `constant` or `clipped`, and its numbers of `beats` and `rhythms`.
        patients: that were looked into.
        left_out: record, patient and reason of each segment that cannot be used.
        arrays: annotations of all segments, by name, see `ARRAYS`; mapped.
        distribution: the module that reads the records.
    """

    def __init__(self, root: Path, folder: Path, sha256: str | None = None):
        self.root, self.folder = root, folder
        self.about = read_json(folder / "index.json")
        # Plain arrays, though mapped: NumPy is slower with its own class of mapped ones.
        self.segments = np.asarray(torrent.map_npy(folder / "segments.npy"))
        if self.about["sha256"] != checksum(self.about, self.segments):
            raise UserError(f"{folder} is damaged, or of another version; delete it")
        if sha256 not in (None, self.about["sha256"]):
            raise UserError(f"{folder} was built again during the run; start again")
        paths = self.segments["path"]
        inside = np.strings.isalnum(np.strings.translate(paths, None, b"/_#"))  # no dots, no NUL
        if not (inside & ~np.strings.startswith(paths, b"/")).all():
            raise UserError(f"{folder} names files of other folders; delete it")
        self._stop = {kind: np.cumsum(self.segments[kind]) for kind in ("beats", "rhythms")}
        self.arrays = {
            name: _map(folder / name, dtype, int(self.segments[kind].sum()))
            for name, (dtype, kind) in ARRAYS.items()
        }
        self.patients = set(map(int, self.about["patients"]))
        self.left_out: list[dict[str, Any]] = self.about["left_out"]
        self.distribution = distribution_of(self.record_path(0)) if len(paths) else reader

    def __reduce__(self):
        return AnnotationIndex, (self.root, self.folder, self.about["sha256"])

    def within(self, kind: str, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the `beats` or `rhythms` of segments begin and end in the arrays, (n,) each."""
        stop = self._stop[kind][segments]
        return stop - self.segments[kind][segments], stop

    def annotations(self, segment: int) -> dict[str, np.ndarray]:
        """`beat_ends` and `beat_codes` of one segment, (beats,); `rhythm_ends` and `rhythm_codes`,
        (rhythms,): neighbouring intervals of one rhythm are merged."""
        return {
            name: self.arrays[name][slice(*self.within(kind, segment))]
            for name, (_, kind) in ARRAYS.items()
        }

    def record_path(self, segment: int) -> Path:
        """Path of a segment, without extension."""
        return self.root / self.segments["path"][segment].decode()

    def header(self, segment: int) -> Header:
        return Header(*self.segments[list(Header._fields)][segment].item())


def _map(path: Path, dtype: str, length: int) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, "r", shape=length)) if length else np.zeros(0, dtype)


def checksum(about: dict[str, Any], segments: np.ndarray) -> str:
    """SHA-256 of what `index.json` and `segments.npy` state, and of the version."""
    content = {name: value for name, value in about.items() if name != "sha256"}
    text = json.dumps([VERSION, str(segments.dtype), content], sort_keys=True)
    return hashlib.sha256(text.encode() + segments.tobytes()).hexdigest()


def distribution_of(path: Path) -> ModuleType:
    """The distribution of a record or segment of this name."""
    return torrent if torrent.RECORD_NAME.fullmatch(path.name) else reader


def find_records(root: Path) -> tuple[Records, list[Path]]:
    """Records, and the folders that change with them.

    Raises:
        UserError: no such folder, no records in it, those of both distributions, or two of one
            patient where there may be one.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    results = [distribution.find_records(root) for distribution in DISTRIBUTIONS]
    results = [(records, folders) for records, folders in results if records]
    if not results:
        raise UserError(
            f"{root} holds no records named pNNNNN_sMM.hea or NNNNN_batched.pkl.gz; name their "
            "folder, or convert another database first (python -m pretraining.convert)"
        )
    if len(results) > 1:
        raise UserError(
            f"{root} holds records of both distributions, pNNNNN_sMM and NNNNN_batched; move one "
            "of them to a folder of its own"
        )
    return results[0]


def open_index(
    root: Path, folder: Path | None = None, patient_ids: Collection[int] | None = None
) -> AnnotationIndex:
    """Open the index of the data set at `root`; build it, or bring it up to date, first.

    Of several processes that do so at the same time one builds, and the others wait for it.

    Args:
        folder: where the index lies; by default in `root`.
        patient_ids: whom to look into, besides those in the index already; everybody by default.

    Raises:
        UserError: no data set at `root`, or the index cannot be written.
    """
    folder = folder or root / FOLDER
    index = _open_current(root, folder / "current")
    if index and _is_up_to_date(index, patient_ids):
        return index
    with _lock(folder):
        index = _open_current(root, folder / "current")  # another process may have built it
        if not (index and _is_up_to_date(index, patient_ids)):
            _build(root, folder / "current", index, patient_ids)
            index = AnnotationIndex(root, folder / "current")
        return index


def _lock(folder: Path):
    """Lock by which only one process builds the index in `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that builds {folder}", file=sys.stderr)
            return lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); name another folder by --index"
        ) from None


def _open_current(root: Path, current: Path) -> AnnotationIndex | None:
    try:
        return AnnotationIndex(root, current)
    except Exception:  # whatever is wrong with it, it is built again
        return None


def _is_up_to_date(index: AnnotationIndex, patient_ids: Collection[int] | None) -> bool:
    if not (index.about["complete"] if patient_ids is None else index.patients >= set(patient_ids)):
        return False
    times = dict(ChainMap(index.about["folders"], *index.about["patients"].values()))
    return times == _times(index.root, map(index.root.joinpath, times)) and not _completed(index)


def _times(root: Path, paths: Iterable[Path]) -> dict[str, int | None]:
    """When each was last changed; None where there is no such file or folder."""
    return {str(p.relative_to(root)): p.stat().st_mtime_ns if p.exists() else None for p in paths}


def _completed(index: AnnotationIndex) -> set[int]:
    """Patients with a segment that was left out whose files have another size now."""
    return {
        out["patient"]
        for out in index.left_out
        if out["sizes"] != _sizes(index.root / out["record"])
    }


def _sizes(record: Path) -> list[int]:
    paths = distribution_of(record).files(record)
    return [path.stat().st_size if path.exists() else -1 for path in paths]


def _build(
    root: Path, current: Path, old: AnnotationIndex | None, patient_ids: Collection[int] | None
) -> None:
    records, folders = find_records(root)
    if patient_ids is not None:
        wanted = set(patient_ids) | (old.patients if old else set())
        records = {patient: paths for patient, paths in records.items() if patient in wanted}
    # Taken first: what changes while the index is being built is seen next time.
    patients = {
        str(patient): _times(
            root, chain.from_iterable(map(distribution_of(paths[0]).watched, paths))
        )
        for patient, paths in records.items()
    }
    about = {
        "complete": patient_ids is None, "folders": _times(root, folders), "patients": patients,
    }  # fmt: skip
    same = set()
    if old:
        before = old.about["patients"]
        same = {p for p in records if before.get(str(p)) == patients[str(p)]} - _completed(old)
    rows, left_out = [], []
    with atomic_folder(current) as made, ExitStack() as stack:
        files = {name: stack.enter_context((made / name).open("wb")) for name in ARRAYS}
        for patient, segments in _read(root, records, old, same):
            for segment in segments:
                if isinstance(segment, dict):
                    left_out.append(segment)
                    continue
                row, arrays = segment
                rows.append((patient, *row))
                for name, array in arrays.items():
                    array.astype(ARRAYS[name][0]).tofile(files[name])
        longest = max((len(path) for _, path, *_ in rows), default=1)
        columns = [(n, f"S{longest}" if n == "path" else kind) for n, kind in COLUMNS.items()]
        table = np.array(rows, [("patient", "i4"), *columns])
        np.save(made / "segments.npy", table)
        about["left_out"] = left_out
        write_json(made / "index.json", about | {"sha256": checksum(about, table)})


# A segment's row of `COLUMNS` and its arrays, or what `index.json` states where it is left out.
Entry = tuple[tuple, dict[str, np.ndarray]] | dict[str, Any]


def _read(
    root: Path, records: Records, old: AnnotationIndex | None, same: Collection[int]
) -> Iterator[tuple[int, list[Entry]]]:
    """Segments of all patients in order; those of patients that are not the `same` are read."""
    jobs = {patient: paths for patient, paths in records.items() if patient not in same}
    count = sum(map(len, jobs.values()))
    alone = max((distribution_of(paths[0]).READ_ALONE for paths in jobs.values()), default=0)
    progress = tqdm(total=count, desc="annotations", unit="record", disable=None)
    with progress, parallel_map(in_processes=count > alone) as run:
        results = run(_read_patient, [root] * len(jobs), jobs, jobs.values())
        for patient, paths in records.items():
            yield patient, _kept(old, patient) if patient in same else next(results)
            progress.update(0 if patient in same else len(paths))


@contextmanager
def parallel_map(in_processes: bool) -> Iterator[Callable]:
    """Yield `map`, or the same in several processes. An exception on the way ends all of it."""
    # Spawned, because a fork of a process that runs threads may hang; not before there is work.
    executor = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor.map if in_processes else map
    finally:
        executor.shutdown(cancel_futures=True)


def _kept(old: AnnotationIndex, patient: int) -> list[Entry]:
    first, stop = np.searchsorted(old.segments["patient"], [patient, patient + 1])
    rows = old.segments[first:stop][list(COLUMNS)].tolist()
    entries = list(zip(rows, map(old.annotations, range(first, stop)), strict=True))
    return entries + [out for out in old.left_out if out["patient"] == patient]


def _read_patient(root: Path, patient: int, paths: list[Path]) -> list[Entry]:
    entries = []
    for record, segment in chain.from_iterable(map(read_record, paths)):
        name = str(record.relative_to(root))
        if isinstance(segment, Exception):
            out = {"record": name, "patient": patient, "reason": one_line(segment)}
            entries.append(out | {"sizes": _sizes(record)})
            continue
        header, annotated, *beats, ends, codes, quality = segment
        arrays = dict(zip(ARRAYS, (*beats, *merge_runs(ends, codes)), strict=True))
        counts = len(arrays["beat_ends"]), len(arrays["rhythm_ends"])
        entries.append(((name.encode(), *header, annotated, *quality, *counts), arrays))
    return entries


def read_record(record: Path) -> Iterator[tuple[Path, reader.Segment | Exception]]:
    """Path of each segment of a record, and the segment or why it, or the record, is unusable."""
    try:
        yield from distribution_of(record).read(record)
    except (Unusable, OSError) as error:
        yield record, error


def merge_runs(ends: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring intervals of one code as one: the sum of each code stays, in any frame."""
    last = np.append(codes[1:] != codes[:-1], True)[: len(codes)]
    return ends[last], codes[last]
