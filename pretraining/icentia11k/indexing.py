"""Build the annotation index of a data set, or bring it up to date.

Only patients asked for are read, and again only those whose folder or files changed since, or of
whom something that was left out has changed.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pretraining.icentia11k import distributions
from pretraining.icentia11k.distributions import distribution_of
from pretraining.icentia11k.index import ARRAYS, DTYPES, AnnotationIndex, table_dtype
from pretraining.icentia11k.reader import Header
from pretraining.parallel import mapping
from recordings import Unusable, one_line
from recordings.quality import Quality
from utils.cli import UserError
from utils.files import write_json

VERSION = 4  # an index of another one is built anew
FOLDER = "annotation_index"


class Part(NamedTuple):
    """What was read of one patient; arrays run over the annotations of all segments."""

    rows: list[tuple]  # (path, *header, annotated, *quality, beats, rhythms)
    arrays: dict[str, np.ndarray]
    left_out: list[dict[str, Any]]


def open_index(
    root: Path, folder: Path | None = None, patient_ids: Sequence[int] | None = None
) -> AnnotationIndex:
    """Open the index of the data set at `root`; build it, or bring it up to date, first.

    Args:
        folder: where the index lies; by default in `root`.
        patient_ids: whom to look into, beside those in the index already; everybody by default.

    Raises:
        UserError: no data set at `root`, or the index cannot be written.
    """
    current = (folder or root / FOLDER) / "current"
    old = _open_old(root, current)
    if (
        old
        and _unchanged(old)
        and not _changed_records(old)
        and (old.about["complete"] if patient_ids is None else old.patients >= set(patient_ids))
    ):
        return old
    records, watched = distributions.find_records(root)
    if patient_ids is not None:
        wanted = set(patient_ids) | (old.patients if old else set())
        records = {patient: paths for patient, paths in records.items() if patient in wanted}
    _build(root, current, records, watched, old, complete=patient_ids is None)
    return AnnotationIndex(root, current)


def _open_old(root: Path, current: Path) -> AnnotationIndex | None:
    try:
        old = AnnotationIndex(root, current)
    except (OSError, UserError, Unusable):
        return None
    return old if old.about.get("version") == VERSION else None


def _unchanged(old: AnnotationIndex) -> bool:
    return all(_changed_at(old.root / name) == time for name, time in old.about["watched"].items())


def _changed_records(old: AnnotationIndex) -> set[int]:
    """Patients of whom a segment was left out whose files are no longer the same."""
    return {
        out["patient"] for out in old.left_out if _sizes(old.root / out["record"]) != out["sizes"]
    }


def _changed_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _sizes(record: Path) -> list[int]:
    paths = distribution_of(record).files(record)
    return [path.stat().st_size if path.exists() else -1 for path in paths]


def _build(
    root: Path,
    current: Path,
    records: dict[int, list[Path]],
    watched: list[Path],
    old: AnnotationIndex | None,
    complete: bool,
) -> None:
    partial = current.with_name(f"partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{partial} cannot be made ({error.strerror}); name another folder by --index"
        ) from None
    try:
        # Taken first: what changes while the index is being built is seen next time.
        times = {str(path.relative_to(root)): _changed_at(path) for path in watched}
        rows, left_out = [], []
        files = {name: (partial / name).open("wb") for name in DTYPES}
        for patient, part in _read(root, records, old):
            rows += [(patient, *row) for row in part.rows]
            left_out += part.left_out
            for name, dtype in DTYPES.items():
                part.arrays[name].astype(dtype).tofile(files[name])
        for file in files.values():
            file.close()
        table = _segment_table(rows)
        np.save(partial / "segments.npy", table)
        about = {
            "version": VERSION,
            **{kind: int(table[kind].sum()) for kind in ARRAYS},
            "patients": list(records),
            "complete": complete,
            "watched": times,
            "left_out": left_out,
        }
        write_json(partial / "index.json", about)
        shutil.rmtree(current, ignore_errors=True)
        partial.rename(current)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _segment_table(rows: list[tuple]) -> np.ndarray:
    longest = max((len(row[1]) for row in rows), default=1)
    table = np.zeros(len(rows), table_dtype(longest))
    table[:] = [(*row, 0, 0) for row in rows]
    for kind in ARRAYS:
        table[f"first_{kind}"] = np.cumsum(table[kind]) - table[kind]
    return table


def _reusable(root: Path, records: dict[int, list[Path]], old: AnnotationIndex | None) -> set[int]:
    """Patients of the old index whose folders or files are as they were."""
    if old is None:
        return set()
    before = [
        (patient, path.decode()) for patient, path in old.segments[["patient", "path"]].tolist()
    ]
    before += [(out["patient"], out["record"]) for out in old.left_out]
    watched: dict[int, set[Path]] = {}  # what is gone included
    for patient, record in before:
        watched.setdefault(patient, set()).update(_watched(root / record))
    times = old.about["watched"]
    return {
        patient
        for patient in records.keys() & watched.keys() - _changed_records(old)
        if all(
            times.get(str(path.relative_to(root))) == _changed_at(path)
            for path in watched[patient].union(*map(_watched, records[patient]))
        )
    }


def _watched(record: Path) -> list[Path]:
    return distribution_of(record).watched(record)


def _part_of(old: AnnotationIndex, patient: int) -> Part:
    numbers = range(*np.searchsorted(old.segments["patient"], [patient, patient + 1]))
    names = ("path", *Header._fields, "annotated", *Quality._fields, *ARRAYS)
    rows = [tuple(old.segments[number][list(names)].tolist()) for number in numbers]
    arrays = {
        name: np.concatenate([np.zeros(0, dtype), *(old.annotations(n)[name] for n in numbers)])
        for name, dtype in DTYPES.items()
    }
    left_out = [out for out in old.left_out if out["patient"] == patient]
    return Part([(row[0].decode(), *row[1:]) for row in rows], arrays, left_out)


def _read(
    root: Path, records: dict[int, list[Path]], old: AnnotationIndex | None
) -> Iterator[tuple[int, Part]]:
    """Parts of all patients in order, read in parallel where there is much to read."""
    same = _reusable(root, records, old)
    jobs = {patient: paths for patient, paths in records.items() if patient not in same}
    count = sum(map(len, jobs.values()))
    at_once = max((distribution_of(paths[0]).at_once for paths in jobs.values()), default=0)
    progress = tqdm(total=count, desc="annotations", unit="record", disable=None)
    with progress, mapping(in_processes=count > at_once) as run:
        parts = run(_read_patient, [root] * len(jobs), jobs, jobs.values())
        for patient, paths in records.items():
            if patient in same:
                yield patient, _part_of(old, patient)
            else:
                yield patient, next(parts)
                progress.update(len(paths))


def _read_patient(root: Path, patient: int, paths: list[Path]) -> Part:
    rows, left_out = [], []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in DTYPES}
    for record, segment in chain.from_iterable(map(distributions.read, paths)):
        name = str(record.relative_to(root))
        if isinstance(segment, Exception):
            out = {"record": name, "patient": patient, "reason": one_line(segment)}
            left_out.append(out | {"sizes": _sizes(record)})
            continue
        header, annotated, beat_ends, beat_codes, *rhythm, quality = segment
        rhythm = merge_runs(*rhythm)
        rows.append((name, *header, annotated, *quality, len(beat_ends), len(rhythm[0])))
        for column, values in zip(columns.values(), (beat_ends, beat_codes, *rhythm), strict=True):
            column.append(values)
    arrays = {
        name: np.concatenate([np.zeros(0, DTYPES[name]), *column])
        for name, column in columns.items()
    }
    return Part(rows, arrays, left_out)


def merge_runs(ends: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring intervals of one code as one: the sum over each code stays, in any frame."""
    last = np.append(codes[1:] != codes[:-1], True)[: len(codes)]
    return ends[last], codes[last]
