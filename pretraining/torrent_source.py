"""The torrent of Icentia11k, converted to the layout it has on PhysioNet.

The rhythm of a beat is that of the interval it lies in. Zones sit on beats and there are none of
undefined rhythm, end and noise, so that these three read back as noise, as in PhysioNet's files;
a segment without a beat reads back as one without annotations.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pretraining.icentia11k import distributions, torrent
from pretraining.icentia11k.reader import BEAT_CODES, ICENTIA11K, RHYTHM_CODES, Segment
from pretraining.parallel import mapping
from recordings import Unusable
from recordings.wfdb_files import ICENTIA_GAIN, segment_path, write_segment
from utils.cli import UserError
from utils.files import sha256, summary

SYMBOLS = {code: symbol for symbol, code in BEAT_CODES.items()}
ZONES = {code: mark for mark, code in RHYTHM_CODES.items()}


class Converted(NamedTuple):
    """Of one patient: segments and samples written, what was not, checksums of what was read."""

    segments: int
    samples: int
    left_out: list[dict[str, Any]]
    checksums: dict[str, str]


def find_records(folder: Path) -> dict[int, list[Path]]:
    """The record of each patient.

    Raises:
        UserError: two are of one patient.
    """
    return torrent.find_records(folder)[0]


def convert_all(records: dict[int, list[Path]], out: Path) -> dict[str, Any]:
    """Convert each patient; returns the set's description, with Icentia11k's own constants."""
    jobs = [(patient, record) for patient, paths in records.items() for record in paths]
    with mapping(in_processes=len(jobs) > distributions.TORRENT.at_once) as run:
        parts = run(_convert_patient, *zip(*jobs, strict=True), [out] * len(jobs))
        parts = list(tqdm(parts, "converting", len(jobs), unit="patient", disable=None))
    left_out = [reason for part in parts for reason in part.left_out]
    converted = {
        record.name: patient
        for (patient, record), part in zip(jobs, parts, strict=True)
        if part.segments
    }
    if not converted:
        raise UserError(f"no record can be used ({summary(left_out)})")
    return {
        "mean_mv": ICENTIA11K.mean, "sd_mv": ICENTIA11K.sd,
        "patients": len(converted),
        "segments": sum(part.segments for part in parts),
        "samples": sum(part.samples for part in parts),
        "patient_of_record": converted,
        "left_out": left_out,
        "source_sha256": {name: sha for part in parts for name, sha in part.checksums.items()},
    }  # fmt: skip


def _convert_patient(patient: int, record: Path, out: Path) -> Converted:
    samples, left_out = [], []
    try:
        signal = torrent.open_signal(record)
        for number, (path, segment) in enumerate(torrent.read_segments(record, signal)):
            if isinstance(segment, Unusable):
                left_out.append({"record": path.name, "reason": str(segment)})
                continue
            _write(*segment_path(out, patient, number), signal[number], segment)
            samples.append(segment.header.samples)
    except Unusable as reason:
        left_out.append({"record": record.name, "reason": str(reason)})
    read = torrent.read_from(record) if samples else []
    return Converted(len(samples), sum(samples), left_out, {p.name: sha256(p) for p in read})


def _write(folder: Path, name: str, signal: np.ndarray, segment: Segment) -> None:
    symbols = [SYMBOLS[code] for code in segment.beat_codes.tolist()]
    # The interval each beat lies in; behind the last one there is none.
    intervals = np.searchsorted(segment.rhythm_ends, segment.beat_ends, "left")
    codes = np.append(segment.rhythm_codes, -1)[intervals]
    zones = [ZONES.get(code, "") for code in codes.tolist()]
    write_segment(
        folder, name, torrent.to_units(signal), ICENTIA_GAIN, segment.beat_ends, symbols, zones
    )
