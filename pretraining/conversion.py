"""Sources of annotated recordings, converted to Icentia11k's layout."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pretraining import torrent_source, wfdb_source
from pretraining.icentia11k import DESCRIPTION
from utils.annotations import ALPHABETS
from utils.cli import UserError
from utils.files import atomic_folder, write_json
from utils.manifest import summary
from utils.runlog import versions
from utils.segments import FS

Records = dict[int, list[Path]]  # of each patient


class Source(NamedTuple):
    """What its files are called, how they are found in a folder, and how they are converted to
    another one, which gives the set's description."""

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
    source: str, folder: Path, out: Path, patient_ids: Sequence[int] | None, overwrite: bool
) -> None:
    """Write the records of `folder` to `out`, whole or not at all.

    Args:
        patient_ids: whom to convert; everybody by default.

    Raises:
        UserError: no usable records, a patient asked for is not there or has no usable segment,
            or `out` holds something that may not be replaced.
    """
    if out.exists() and not (overwrite and (out / DESCRIPTION).exists()):
        raise UserError(f"{out} exists; choose another --out, or --overwrite a converted set")
    if out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise UserError(f"--from {folder} lies in --out {out}; choose another --out")
    records = _choose(SOURCES[source], folder, patient_ids)
    with atomic_folder(out) as made:
        description = SOURCES[source].convert_all(records, made)
        _check_converted(description, patient_ids or ())
        write_json(
            made / DESCRIPTION, {**description, "source": source, "fs": FS, "versions": versions()}
        )
    print(
        f"{out}: {description['patients']} patients, {description['segments']} segments, "
        f"mean {description['mean_mv']:.4f} mV, sd {description['sd_mv']:.4f} mV"
    )
    if description["left_out"]:
        print(summary(description["left_out"]), file=sys.stderr)


def _choose(source: Source, folder: Path, patient_ids: Sequence[int] | None) -> Records:
    records = source.find_records(folder)
    if not records:
        raise UserError(f"{folder} holds no {source.files} files; name the folder of the records")
    for patient in patient_ids or ():
        if patient not in records:
            raise UserError(f"patient {patient} is not in {folder}")
    return {patient: records[patient] for patient in patient_ids or records}


def _check_converted(description: dict[str, Any], patient_ids: Sequence[int]) -> None:
    lost = sorted(set(patient_ids) - set(description["patient_of_record"].values()))
    if lost:
        raise UserError(
            f"patient {lost[0]} cannot be used; name others by --patient-ids "
            f"({summary(description['left_out'])})"
        )
