"""Records of an annotated WFDB database, converted to Icentia11k's layout."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recordings import Hints, Unusable
from recordings.annotations import ALPHABETS, SAME_SUBJECT, Alphabet
from recordings.formats import Recording, read_whole
from recordings.resampling import resample
from recordings.wfdb_files import ICENTIA_FS, open_wfdb, read_atr, segment_path, write_segment
from utils.cli import UserError
from utils.files import sha256, summary

GAIN = 1000  # units per mV
LIMIT = np.iinfo(np.int16).max


def find_records(folder: Path) -> dict[int, list[Path]]:
    """Each patient's record, without extension.

    The patient's number is the record's where all names are numbers of up to five digits, else
    its rank.
    """
    names = sorted(path.stem for path in folder.glob("*.hea"))
    numbers = [int(name) for name in names if name.isdecimal() and len(name) <= 5]
    if len(set(numbers)) < len(names):
        numbers = range(len(names))
    return {number: [folder / name] for number, name in zip(numbers, names, strict=True)}


def convert_all(source: str, records: dict[int, list[Path]], out: Path) -> dict[str, Any]:
    """Convert each record; returns the set's description."""
    sums = np.zeros(3)  # samples, their sum, their sum of squares, in mV
    segments, clipped, converted, left_out, checksums, uncalibrated = 0, 0, {}, [], {}, []
    for patient, (record,) in tqdm(records.items(), "converting", unit="record", disable=None):
        try:
            recording = _read_signal(record, ALPHABETS[source].fs)
            ends, symbols, zones = _read_annotations(record, ALPHABETS[source])
        except Unusable as reason:
            left_out.append({"record": record.name, "reason": str(reason)})
            continue
        # Continued in a line: leads have offsets, which zeros beyond the ends would make steps.
        signal, fs = resample(recording.signal, recording.fs, ICENTIA_FS, "line"), recording.fs
        uncalibrated += [record.name] * recording.uncalibrated
        digital = np.clip(np.rint(signal * GAIN), -LIMIT, LIMIT)
        clipped += int((np.abs(signal * GAIN) > LIMIT).sum())
        sums += digital.size, digital.sum() / GAIN, (digital**2).sum() / GAIN**2
        ends = np.minimum(np.rint(ends * (ICENTIA_FS / fs)).astype(np.int64), len(signal) - 1)
        for lead in range(signal.shape[1]):
            samples = digital[:, lead].astype(np.int16)
            write_segment(*segment_path(out, patient, lead), samples, GAIN, ends, symbols, zones)
        segments += signal.shape[1]
        converted[record.name] = patient
        checksums |= {
            path.name: sha256(path)
            for path in map(record.with_suffix, (".hea", ".dat", ".atr"))
            if path.exists()
        }
    if not converted:
        raise UserError(f"no record can be used ({summary(left_out)})")
    mean = sums[1] / sums[0]
    return {
        "mean_mv": mean, "sd_mv": math.sqrt(sums[2] / sums[0] - mean**2),
        "patients": len(converted), "segments": segments, "samples": int(sums[0]),
        "clipped_samples": clipped, "uncalibrated": uncalibrated,
        "patient_of_record": converted, "left_out": left_out,
        "same_subject": {
            converted[record]: converted[other]
            for record, other in SAME_SUBJECT.get(source, {}).items()
            if {record, other} <= converted.keys()
        },
        "source_sha256": checksums,
    }  # fmt: skip


def _read_signal(record: Path, fs: float | None) -> Recording:
    """Signal in mV, without missing samples; `fs` is the rate in Hz that it has to have."""
    recording = read_whole(open_wfdb(Path(f"{record}.hea"), Hints()))
    if fs not in (None, recording.fs):
        raise Unusable(f"header says {recording.fs} Hz, not {fs}")
    if not np.isfinite(recording.signal).all():
        raise Unusable("missing (NaN) samples")
    return recording


def _read_annotations(record: Path, alphabet: Alphabet) -> tuple[np.ndarray, list[str], list[str]]:
    """Beat samples (n,) at the record's rate, Icentia11k's symbol and rhythm of each beat."""
    marks = read_atr(record)
    ends, symbols, rhythms, rhythm = [], [], [], ""
    for place, symbol, note in zip(marks.sample, marks.symbol, marks.aux_note, strict=True):
        if symbol == "+" and note.startswith("("):
            rhythm = alphabet.rhythms.get(note.strip("\0"), "")
        elif symbol in alphabet.beats:
            ends.append(place)
            symbols.append(alphabet.beats[symbol])
            rhythms.append(rhythm)
    return np.array(ends, np.int64), symbols, rhythms
