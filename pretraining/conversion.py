"""Sources of annotated recordings, converted to Icentia11k's layout."""

import csv
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pretraining import torrent_source, wfdb_source
from pretraining.icentia11k.reader import DESCRIPTION
from recordings.annotations import ALPHABETS
from recordings.wfdb_files import ICENTIA_FS
from utils.cli import UserError
from utils.datasets import DATA_SETS, JOINED
from utils.files import HINTS, atomic_folder, read_json, summary, write_json
from utils.run import versions

Records = dict[int, list[Path]]  # of each patient


class Source(NamedTuple):
    """What its files are called, how they are found in a folder, and how they are converted to
    another one, which gives the description of this source."""

    files: str
    find_records: Callable[[Path], Records]
    convert_all: Callable[[Records, Path], dict[str, Any]]


SOURCES = {
    name: Source(".hea", wfdb_source.find_records, partial(wfdb_source.convert_all, name))
    for name in ALPHABETS
}
SOURCES["torrent"] = Source(
    "NNNNN_batched.pkl.gz or .npy", torrent_source.find_records, torrent_source.convert_all
)


def convert(
    sources: Sequence[tuple[str, Path]],
    out: Path,
    patient_ids: Sequence[int] | None = None,
    subjects: Path | None = None,
    append: bool = False,
    overwrite: bool = False,
) -> None:
    """Write the records of all sources to `out`, whole or not at all.

    Args:
        sources: name of each, see `SOURCES`, and the folder of its files.
        patient_ids: whom to convert; everybody by default.
        subjects: file of lines `patient,subject`, see `read_subjects`.
        append: add to the set in `out`. overwrite: replace it.

    Raises:
        UserError: no usable records, a patient asked for is not there or has no usable segment,
            two sources have a patient of the same number, or `out` holds something that may not
            be replaced, or nothing that can be added to.
    """
    earlier = _earlier_set(out, append, overwrite)
    for _, folder in sources:
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"--from {folder} lies in --out {out}; choose another --out")
    before = earlier.get("sources", [])
    chosen = _choose(sources, before, patient_ids)
    with atomic_folder(out) as made:
        if append:
            ignored = shutil.ignore_patterns(DESCRIPTION, "annotation_index")
            shutil.copytree(out, made, copy_function=os.link, ignore=ignored, dirs_exist_ok=True)
        added = [
            {"name": name, **SOURCES[name].convert_all(records, made)}
            for (name, _), records in zip(sources, chosen, strict=True)
        ]
        _check_converted(added, patient_ids or ())
        description = describe([*before, *added], subjects, earlier.get("same_subject", {}))
        write_json(made / DESCRIPTION, description)
    print(
        f"{out}: {description['patients']} patients, {description['segments']} segments, "
        f"mean {description['mean_mv']:.4f} mV, sd {description['sd_mv']:.4f} mV"
    )
    for source in added:
        if source.get("uncalibrated"):
            count, hint = len(source["uncalibrated"]), HINTS["uncalibrated"]
            print(f"{source['name']}: {count} records{hint}", file=sys.stderr)
        if source["left_out"]:
            print(summary(source["left_out"]), file=sys.stderr)


def _earlier_set(out: Path, append: bool, overwrite: bool) -> dict[str, Any]:
    """Description of the set that `out` holds and keeps, if any."""
    described = (out / DESCRIPTION).exists()
    if not append:
        if out.exists() and not (overwrite and described):
            raise UserError(f"{out} exists; choose another --out, or --overwrite a converted set")
        return {}
    earlier = read_json(out / DESCRIPTION) if described else {}
    before = earlier.get("sources")
    if not before or any(source["name"] == "torrent" for source in before):
        raise UserError(
            f"{out} is no set that --append can add to; convert all of its sources in one command"
        )
    return earlier


def _choose(
    sources: Sequence[tuple[str, Path]],
    before: Iterable[Mapping[str, Any]],
    patient_ids: Sequence[int] | None,
) -> list[Records]:
    """Records of the patients asked for, of each source."""
    owners = {
        patient: source["name"]
        for source in before
        for patient in source["patient_of_record"].values()
    }
    chosen = []
    for name, folder in sources:
        records = SOURCES[name].find_records(folder)
        if not records:
            files = SOURCES[name].files
            raise UserError(f"{folder} holds no {files} files; name the folder of the records")
        wanted = records if patient_ids is None else records.keys() & set(patient_ids)
        for patient in sorted(wanted):
            if patient in owners:
                raise UserError(
                    f"patient {patient} of {name} is also in {owners[patient]}; convert them to "
                    "sets of their own, or choose by --patient-ids"
                )
            owners[patient] = name
        chosen.append({patient: records[patient] for patient in sorted(wanted)})
    for patient in patient_ids or ():
        if patient not in owners:
            raise UserError(f"patient {patient} is not in {sources[-1][1]}")
    for (_, folder), records in zip(sources, chosen, strict=True):
        if not records:
            raise UserError(f"{folder} has none of the patients of --patient-ids")
    return chosen


def _check_converted(added: Iterable[Mapping[str, Any]], patient_ids: Sequence[int]) -> None:
    done = {patient for source in added for patient in source["patient_of_record"].values()}
    left_out = [out for source in added for out in source["left_out"]]
    lost = sorted(set(patient_ids) - done)
    if lost:
        raise UserError(
            f"patient {lost[0]} cannot be used; name others by --patient-ids ({summary(left_out)})"
        )


def describe(
    sources: Sequence[dict[str, Any]], subjects: Path | None, same_subject: Mapping[str, int]
) -> dict[str, Any]:
    """Content of `dataset.json`: mean and deviation of the whole set, subjects, each source.

    Args:
        sources: as the converters describe them. subjects: see `read_subjects`.
        same_subject: what is already known of patients who are the same person.
    """
    records: dict[str, int] = {}
    pairs = list(same_subject.items())
    for source in sources:
        records |= source["patient_of_record"]
        pairs += source.get("same_subject", {}).items()
    pairs = [(int(patient), other) for patient, other in pairs]
    if subjects:
        pairs += read_subjects(subjects, records)
    same = unite(pairs)
    patients = sum(source["patients"] for source in sources)
    samples = sum(source["samples"] for source in sources)
    mean = sum(source["samples"] / samples * source["mean_mv"] for source in sources)
    square = sum(
        source["samples"] / samples * (source["sd_mv"] ** 2 + source["mean_mv"] ** 2)
        for source in sources
    )
    single = sources[0] if len(sources) == 1 else None
    name = "icentia11k" if single and single["name"] == "torrent" else None
    return {
        "name": name or JOINED.join(dict.fromkeys(source["name"] for source in sources)),
        "mean_mv": single["mean_mv"] if single else mean,
        "sd_mv": single["sd_mv"] if single else math.sqrt(square - mean**2),
        "fs": ICENTIA_FS,
        "patients": patients,
        "subjects": patients - len(same),
        "segments": sum(source["segments"] for source in sources),
        "samples": samples,
        "same_subject": same,
        "sources": [{**source, "licence": _licence(source["name"])} for source in sources],
        "versions": versions(),
    }


def unite(pairs: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Of pairs of patients who are one person: each patient but the first of that person, and who
    the first is."""
    groups: dict[int, set[int]] = {}
    for pair in pairs:
        group = set().union(*(groups.get(patient, {patient}) for patient in pair))
        groups |= dict.fromkeys(group, group)
    return {str(p): min(groups[p]) for p in sorted(groups) if p != min(groups[p])}


def read_subjects(path: Path, patient_of_record: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of patients who are one person.

    Args:
        path: lines `patient,subject`, perhaps below that heading; a patient is a record's name or
            the number of a patient, a subject any text.

    Raises:
        UserError: the file is no such text, or a line is no pair, or names no patient of the set.
    """
    numbers = {str(number): number for number in patient_of_record.values()} | patient_of_record
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no text of lines patient,subject: {error}") from None
    if rows and rows[0] == ["patient", "subject"]:
        rows = rows[1:]
    first: dict[str, int] = {}
    pairs = []
    for row in rows:
        if len(row) != 2 or row[0] not in numbers:
            raise UserError(f"{path}: {','.join(row)!r} is not a patient of the set and a subject")
        number = numbers[row[0]]
        pairs.append((number, first.setdefault(row[1], number)))
    return pairs


def _licence(source: str) -> str | None:
    known = DATA_SETS.get("icentia11k" if source == "torrent" else source)
    return known and f"{known.licence.name}, {known.licence.url}"
