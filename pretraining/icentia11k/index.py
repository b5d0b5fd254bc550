"""Annotation index of a data set: headers and annotations, read once, then memory-mapped.

A folder `annotation_index/current` in the data set's folder, or in `--index DIR`, holds
`segments.npy` (a row for each segment), flat arrays of all beats and rhythm intervals in the same
order, and `index.json` (what was left out and why, and the state of each patient's files). Only the
patients asked for are read, and again only where sizes or times of their files have changed.
"""

import hashlib
import json
import multiprocessing
import os
import stat
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from pretraining.icentia11k import reader, torrent
from pretraining.icentia11k.reader import Header
from recordings import Unusable, one_line
from utils.cli import UserError
from utils.files import atomic_folder, read_json, write_json

VERSION = 8  # an index of another version is built again
FOLDER = "annotation_index"
ARRAYS = {  # types, and the columns that count them
    "beat_ends": ("<i4", "beats"), "beat_codes": ("i1", "beats"),
    "rhythm_ends": ("<i4", "rhythms"), "rhythm_codes": ("i1", "rhythms"),
}  # fmt: skip
COLUMNS = {
    "path": "S", "samples": "i8", "gain": "f8", "baseline": "i4", "annotated": "?",
    "constant": "?", "clipped": "?", "beats": "i8", "rhythms": "i8",
}  # fmt: skip


class AnnotationIndex:
    """An index that has been built; any error where there is none, or it is damaged.

    `segments` is a structured array of `patient` and `COLUMNS` (`path` without extension, `gain` in
    units per mV); `arrays` are the mapped annotations of all segments, by name; `patients` were
    looked into; `left_out` has record, patient and reason; the `distribution` reads the records.
    """

    def __init__(self, root: Path, folder: Path, sha256: str | None = None):
        self.root, self.folder, self.arrays = root, folder, {}
        # Plain arrays, though mapped: NumPy is slower with its own class of mapped ones.
        self.segments = np.asarray(np.load(folder / "segments.npy", "r", allow_pickle=False))
        self._stop = {kind: np.cumsum(self.segments[kind]) for kind in ("beats", "rhythms")}
        for name, (dtype, kind) in ARRAYS.items():
            length, path = int(self.segments[kind].sum()), folder / name
            mapped = np.memmap(path, dtype, "r", shape=length) if length else np.zeros(0, dtype)
            self.arrays[name] = np.asarray(mapped)
        # Last, because another process may have put a new index in place of the one opened so far.
        self.about = read_json(folder / "index.json")
        paths, expected = self.segments["path"], checksum(self.about, self.segments)
        inside = np.strings.isalnum(np.strings.translate(paths, None, b"/_#"))  # no dots, no NUL
        inside &= ~np.strings.startswith(paths, b"/")
        if {self.about["sha256"], sha256 or expected} != {expected} or not inside.all():
            raise UserError(f"{folder} is damaged, or was built again during the run; start again")
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
        """The `arrays` of one segment; neighbouring intervals of one rhythm are merged."""
        places = {kind: slice(*self.within(kind, segment)) for kind in self._stop}
        return {name: self.arrays[name][places[kind]] for name, (_, kind) in ARRAYS.items()}

    def record_path(self, segment: int) -> Path:
        """Path of a segment, without extension."""
        return self.root / self.segments["path"][segment].decode()

    def header(self, segment: int) -> Header:
        return Header(*self.segments[list(Header._fields)][segment].item())

    def digest(self, patients: Collection[int] | None) -> str:
        """SHA-256 of what the set states of these patients, or of all, wherever it lies."""
        patients = self.patients if patients is None else patients
        out = sorted((o["patient"], o["record"]) for o in self.left_out if o["patient"] in patients)
        content = hashlib.sha256(repr((reader.read_constants(self.root), out)).encode())
        for segment in np.flatnonzero(np.isin(self.segments["patient"], sorted(patients))):
            content.update(repr(self.segments[segment].item()).encode())
            for array in self.annotations(segment).values():
                content.update(array)
        return content.hexdigest()


def checksum(about: dict[str, Any], segments: np.ndarray) -> str:
    """SHA-256 of what `index.json` and `segments.npy` state, and of the version."""
    content = {name: value for name, value in about.items() if name != "sha256"}
    text = json.dumps([VERSION, str(segments.dtype), content], sort_keys=True)
    return hashlib.sha256(text.encode() + segments.tobytes()).hexdigest()


def distribution_of(path: Path) -> ModuleType:
    """The module that reads a record or segment of this name."""
    return torrent if torrent.RECORD_NAME.fullmatch(path.name) else reader


def find_records(root: Path) -> tuple[ModuleType, dict[int, list[Path]]]:
    """The distribution, and sorted records of each patient."""
    results = [(module, module.find_records(root)) for module in (reader, torrent)]
    results = [result for result in results if result[1]]
    if len(results) != 1:
        names = "pNNNNN_sMM.hea or NNNNN_batched.pkl.gz, or both kinds"
        raise UserError(f"{root} holds no records named {names}; see pretraining.convert")
    return results[0]


def open_index(
    root: Path, folder: Path | None = None, patient_ids: Collection[int] | None = None
) -> AnnotationIndex:
    """Open the index of the data set at `root`; build it, or bring it up to date, first.

    It lies in `folder`, by default in `root`. Besides the patients in the index already, those of
    `patient_ids` are looked into, by default everybody. Of several processes one builds.
    """
    folder = folder or root / FOLDER
    current = folder / "current"
    index, records, states = _look(root, current, patient_ids)
    if not index or index.about["patients"] != states:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            # Again: another process may have built it, and files may have changed meanwhile.
            index, records, states = _look(root, current, patient_ids)
            if not index or index.about["patients"] != states:
                _build(root, current, index, records, states)
                index = AnnotationIndex(root, current)
    return index


def _look(
    root: Path, current: Path, patient_ids: Collection[int] | None
) -> tuple[AnnotationIndex | None, dict[int, list[Path]], dict[str, str]]:
    """The index as it is, if it can be opened; the records of the patients who should be in it, and
    the state of their files."""
    distribution, records = find_records(root)
    try:
        index = AnnotationIndex(root, current)
    except Exception:  # whatever is wrong with it, it is built again
        index = None
    if patient_ids is not None:
        wanted = set(patient_ids) | (index.patients if index else set())
        records = {patient: paths for patient, paths in records.items() if patient in wanted}
    states = {str(patient): _state(distribution, paths) for patient, paths in records.items()}
    return index, records, states


def _state(distribution: ModuleType, records: list[Path]) -> str:
    """Checksum of the names, sizes and times of what a patient's records are read from."""
    stamps = []
    for path in dict.fromkeys(map(str, chain(*map(distribution.watched, records)))):
        try:
            found = os.stat(path)  # noqa: PTH116, there are a million
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            stamps.append((path.rpartition("/")[2], found.st_mtime_ns, size))
        except OSError:
            stamps.append(path.rpartition("/")[2])
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _build(
    root: Path, current: Path, old: AnnotationIndex | None, records: dict[int, list[Path]],
    states: dict[str, str],
) -> None:  # fmt: skip
    """Write the index. The `states` were taken before: what changes meanwhile is seen next time."""
    before = old.about["patients"] if old else {}
    changed = {p: paths for p, paths in records.items() if before.get(str(p)) != states[str(p)]}
    few = distribution_of(next(chain(*records.values()), Path())).READ_ALONE
    in_processes, rows, left_out = sum(map(len, changed.values())) > few, [], []
    with atomic_folder(current) as made, ExitStack() as stack, parallel_map(in_processes) as run:
        files = {name: stack.enter_context((made / name).open("wb")) for name in ARRAYS}
        results = run(_read_patient, repeat(root), changed, changed.values())
        results = iter(tqdm(results, "annotations", len(changed), unit="patient", disable=None))
        for patient in records:
            entries, unusable = next(results) if patient in changed else _kept(old, patient)
            left_out += unusable
            for row, arrays in entries:
                rows.append((patient, *row))
                for name, array in arrays.items():
                    array.astype(ARRAYS[name][0]).tofile(files[name])
        longest = max((len(path) for _, path, *_ in rows), default=1)
        columns = [(n, f"S{longest}" if n == "path" else kind) for n, kind in COLUMNS.items()]
        table = np.array(rows, [("patient", "i4"), *columns])
        np.save(made / "segments.npy", table)
        about = {"left_out": left_out, "patients": states}
        write_json(made / "index.json", about | {"sha256": checksum(about, table)})


@contextmanager
def parallel_map(in_processes: bool) -> Iterator[Callable]:
    """Yield `map`, or the same in several processes; an exception ends all of it."""
    # Spawned, because a fork of a process that runs threads may hang; not before there is work.
    executor = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    try:
        yield executor.map if in_processes else map
    finally:
        executor.shutdown(cancel_futures=True)


def _kept(old: AnnotationIndex, patient: int) -> tuple[list, list]:
    """A row of `COLUMNS` and the arrays of each segment, and what is left out."""
    first, stop = np.searchsorted(old.segments["patient"], [patient, patient + 1])
    rows = old.segments[first:stop][list(COLUMNS)].tolist()
    entries = list(zip(rows, map(old.annotations, range(first, stop)), strict=True))
    return entries, [out for out in old.left_out if out["patient"] == patient]


def _read_patient(root: Path, patient: int, paths: list[Path]) -> tuple[list, list]:
    """What `_kept` returns, from the files."""
    entries, left_out = [], []
    for record, segment in chain.from_iterable(map(read_record, paths)):
        name = str(record.relative_to(root))
        if isinstance(segment, Exception):
            left_out.append({"record": name, "patient": patient, "reason": one_line(segment)})
            continue
        header, _, quality, annotated, beats, codes, *rhythms = segment
        ends, rhythms = merge_runs(*rhythms)
        row = name.encode(), *header, annotated, *quality, len(beats), len(ends)
        entries.append((row, dict(zip(ARRAYS, (beats, codes, ends, rhythms), strict=True))))
    return entries, left_out


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
