"""Bring annotated WFDB databases, or the torrent of Icentia11k, into Icentia11k's layout.

    python -m pretraining.convert --source mitdb --from data/mitdb --out data/mitdb250

Of a database, one patient per record, one segment per lead, at 250 Hz. Several databases become one
set, in one command or, with `--append`, one after the other; `dataset.json` describes it. Of the
torrent, the rhythm of a beat is that of the interval it lies in; undefined rhythm, end and noise
read back as noise, as in PhysioNet's files, a segment without a beat as one without annotations.
"""

import math
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pretraining.icentia11k import torrent
from pretraining.icentia11k.index import FOLDER, parallel_map
from pretraining.icentia11k.reader import BEAT_CODES, DESCRIPTION, ICENTIA11K, RHYTHM_CODES
from recordings import Unusable
from recordings.annotations import ALPHABETS, SAME_SUBJECT, Alphabet
from recordings.formats import Recording, read_recording
from recordings.resampling import resample
from recordings.wfdb_files import (
    ICENTIA_FS,
    ICENTIA_GAIN,
    read_atr,
    segment_path,
    write_segment,
)
from utils import cli
from utils.cli import UserError
from utils.files import HINTS, atomic_folder, read_json, sha256, summary, write_json
from utils.model_card import DATA_SETS, JOINED
from utils.run import versions

SOURCES = (*ALPHABETS, "torrent")
GAIN = 1000  # units per mV of what is converted from databases
LIMIT = np.iinfo(np.int16).max
SYMBOLS = {code: symbol for symbol, code in BEAT_CODES.items()}
ZONES = {code: mark for mark, code in RHYTHM_CODES.items()}


class Converted(NamedTuple):
    """What was written and what was read of one record."""

    left_out: list[dict[str, str]]  # names of what cannot be used, and why
    segments: int = 0
    sums: tuple[float, float, float] = (0, 0, 0)  # number of samples, sum (mV), of squares (mV²)
    clipped: int = 0  # samples beyond what int16 holds
    uncalibrated: bool = False  # no gain was stated
    sha256: Mapping[str, str] = {}  # of the files that were read


def find_records(source: str, folder: Path) -> dict[int, Path]:
    """Record of each patient, without extension.

    In a database, a patient's number is the record's where all names are numbers of up to five
    digits, else its rank.
    """
    if source == "torrent":
        files, records = "NNNNN_batched.pkl.gz or .npy", torrent.find_records(folder)[0]
        records = {patient: record for patient, (record,) in records.items()}
    else:
        files, names = ".hea", sorted(path.stem for path in folder.glob("*.hea"))
        numbers = [int(name) for name in names if name.isdecimal() and len(name) <= 5]
        if len(set(numbers)) < len(names):
            numbers = range(len(names))
        records = {n: folder / name for n, name in zip(numbers, names, strict=True)}
    if not records:
        raise UserError(f"{folder} holds no {files} files; name the folder of the records")
    return records


def convert(
    sources: Sequence[tuple[str, Path]], out: Path, patient_ids: Collection[int] | None = None,
    subjects: Path | None = None, append: bool = False, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write the records of all sources to `out`, whole or not at all.

    Args:
        sources: name of each, see `SOURCES`, and the folder of its files.
        patient_ids: whom to convert; everybody by default.
        subjects: file of lines `patient,subject`, see `read_subjects`.
        append: add to the set in `out`. overwrite: replace it.
    """
    earlier = read_json(out / DESCRIPTION) if (out / DESCRIPTION).exists() else {}
    before = earlier.get("sources", []) if append else []
    if append and (not before or any(source["name"] == "torrent" for source in before)):
        raise UserError(f"{out} is no set that --append can add to; convert all sources together")
    if out.exists() and not (append or (overwrite and earlier)):
        raise UserError(f"{out} exists; choose another --out, or --overwrite a converted set")
    source_of = {patient: s["name"] for s in before for patient in s["patient_of_record"].values()}
    chosen = []
    for name, folder in sources:
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"--from {folder} lies in --out {out}; choose another --out")
        records = sorted(find_records(name, folder).items())
        records = {n: path for n, path in records if patient_ids is None or n in patient_ids}
        for patient in sorted(records.keys() & source_of.keys()):
            both = f"patient {patient} of {name} is also in {source_of[patient]}"
            raise UserError(f"{both}; convert them to sets of their own, or see --patient-ids")
        source_of |= dict.fromkeys(records, name)
        chosen.append(records)
    for patient in sorted(set(patient_ids or ()) - source_of.keys()):
        raise UserError(f"patient {patient} is not in {sources[-1][1]}")
    if not all(chosen):
        folder = sources[chosen.index({})][1]
        raise UserError(f"{folder} has none of the patients of --patient-ids")
    with atomic_folder(out) as made:
        if append:
            ignored = shutil.ignore_patterns(DESCRIPTION, FOLDER)
            shutil.copytree(out, made, copy_function=os.link, ignore=ignored, dirs_exist_ok=True)
        names = [name for name, _ in sources]
        added = [convert_source(*part, made) for part in zip(names, chosen, strict=True)]
        done = {patient for source in added for patient in source["patient_of_record"].values()}
        for patient in sorted(set(patient_ids or ()) - done):
            reasons = summary([out for source in added for out in source["left_out"]])
            raise UserError(f"patient {patient} cannot be used; see --patient-ids ({reasons})")
        same = earlier.get("same_subject", {}) if append else {}
        description = describe([*before, *added], subjects, same)
        write_json(made / DESCRIPTION, description)
    print(
        f"{out}: {description['patients']} patients, {description['segments']} segments, "
        f"mean {description['mean_mv']:.4f} mV, sd {description['sd_mv']:.4f} mV"
    )
    for source in added:
        if count := len(source["uncalibrated"]):
            print(f"{source['name']}: {count} records{HINTS['uncalibrated']}", file=sys.stderr)
        if source["left_out"]:
            print(summary(source["left_out"]), file=sys.stderr)


def convert_source(source: str, records: Mapping[int, Path], out: Path) -> dict[str, Any]:
    """Convert all records of a source; returns its description in `dataset.json`."""
    torrents = source == "torrent"
    one = _convert_torrent if torrents else partial(_convert_wfdb, source)
    with parallel_map(in_processes=torrents and len(records) > torrent.READ_ALONE) as run:
        parts = run(one, records.keys(), records.values(), repeat(out))
        parts = list(tqdm(parts, "converting", len(records), unit="record", disable=None))
    left_out = [out for part in parts for out in part.left_out]
    rows = list(zip(records.items(), parts, strict=True))
    patients = {path.name: patient for (patient, path), part in rows if part.segments}
    if not patients:
        raise UserError(f"no record can be used ({summary(left_out)})")
    samples, total, squares = map(sum, zip(*(part.sums for part in parts), strict=True))
    mean, sd = total / samples, math.sqrt(squares / samples - (total / samples) ** 2)
    licence = DATA_SETS["icentia11k" if torrents else source].licence if source != "wfdb" else None
    return {
        "name": source,
        "mean_mv": ICENTIA11K.mean if torrents else mean,
        "sd_mv": ICENTIA11K.sd if torrents else sd,
        "patients": len(patients),
        "segments": sum(part.segments for part in parts),
        "samples": int(samples),
        "clipped_samples": sum(part.clipped for part in parts),
        "uncalibrated": [path.name for (_, path), part in rows if part.uncalibrated],
        "patient_of_record": patients,
        "left_out": left_out,
        "same_subject": {
            patients[record]: patients[other]
            for record, other in SAME_SUBJECT.get(source, {}).items()
            if {record, other} <= patients.keys()
        },
        "source_sha256": {name: sha for part in parts for name, sha in part.sha256.items()},
        "licence": licence,
    }


def _convert_wfdb(source: str, patient: int, record: Path, out: Path) -> Converted:
    """One record of an annotated database."""
    try:
        recording, ends, symbols, zones = read_annotated(record, ALPHABETS[source])
    except Unusable as reason:
        return Converted([{"record": record.name, "reason": str(reason)}])
    # Continued in a line: leads have offsets, which zeros beyond the ends would make steps.
    signal = resample(recording.signal, recording.fs, ICENTIA_FS, "line")
    digital = np.clip(np.rint(signal * GAIN), -LIMIT, LIMIT)
    ends = np.minimum(np.rint(ends * (ICENTIA_FS / recording.fs)).astype(np.int64), len(signal) - 1)
    for lead, samples in enumerate(digital.T.astype(np.int16)):
        write_segment(*segment_path(out, patient, lead), samples, GAIN, ends, symbols, zones)
    files = (record.with_suffix(suffix) for suffix in (".hea", ".dat", ".atr"))
    sums = digital.size, digital.sum() / GAIN, (digital**2).sum() / GAIN**2
    clipped = int((np.abs(signal * GAIN) > LIMIT).sum())
    checksums = {path.name: sha256(path) for path in files if path.exists()}
    return Converted([], signal.shape[1], sums, clipped, recording.uncalibrated, checksums)


def read_annotated(
    record: Path, alphabet: Alphabet
) -> tuple[Recording, np.ndarray, list[str], list[str]]:
    """Recording in mV; beats (n,) at its rate, Icentia11k's symbol and rhythm zone of each."""
    recording = read_recording(Path(f"{record}.hea"))
    if alphabet.fs not in (None, recording.fs):
        raise Unusable(f"header says {recording.fs} Hz, not {alphabet.fs}")
    marks = read_atr(record)
    ends, symbols, zones, zone = [], [], [], ""
    for position, symbol, note in zip(marks.sample, marks.symbol, marks.aux_note, strict=True):
        if symbol == "+" and note.startswith("("):
            zone = alphabet.rhythms.get(note.strip("\0"), "")
        elif symbol in alphabet.beats:
            ends.append(position)
            symbols.append(alphabet.beats[symbol])
            zones.append(zone)
    return recording, np.array(ends, np.int64), symbols, zones


def _convert_torrent(patient: int, record: Path, out: Path) -> Converted:
    """All segments of one patient of the torrent."""
    left_out, samples = [], []
    try:
        signal = torrent.open_signal(record)
        for number, (path, segment) in enumerate(torrent.read(record, signal)):
            if isinstance(segment, Unusable):
                left_out.append({"record": path.name, "reason": str(segment)})
                continue
            # The interval each beat lies in; after the last one there is none.
            intervals = np.searchsorted(segment.rhythm_ends, segment.beat_ends, "left")
            codes = np.append(segment.rhythm_codes, -1)[intervals].tolist()
            symbols = [SYMBOLS[code] for code in segment.beat_codes.tolist()]
            zones = [ZONES.get(code, "") for code in codes]
            place, units = segment_path(out, patient, number), torrent.to_units(signal[number])
            write_segment(*place, units, ICENTIA_GAIN, segment.beat_ends, symbols, zones)
            samples.append(segment.header.samples)
    except Unusable as reason:
        left_out.append({"record": record.name, "reason": str(reason)})
    files = (torrent.first_file(record, kind) for kind in (torrent.SIGNALS, torrent.LABELS))
    checksums = {path.name: sha256(path) for path in files if path and samples}
    return Converted(left_out, len(samples), (sum(samples), 0, 0), sha256=checksums)


def describe(
    sources: Sequence[dict[str, Any]], subjects: Path | None, same_subject: Mapping[str, int]
) -> dict[str, Any]:
    """Content of `dataset.json`; `same_subject` is that of an earlier set."""
    records = {name: n for source in sources for name, n in source["patient_of_record"].items()}
    known = [same_subject, *(source.get("same_subject", {}) for source in sources)]
    pairs = [(int(patient), other) for pairs in known for patient, other in pairs.items()]
    same = unite(pairs + (read_subjects(subjects, records) if subjects else []))
    counts = {name: sum(s[name] for s in sources) for name in ("patients", "segments", "samples")}
    parts = [(s["samples"] / counts["samples"], s["mean_mv"], s["sd_mv"]) for s in sources]
    mean = sum(share * part_mean for share, part_mean, _ in parts)
    squares = sum(share * (sd * sd + (part_mean - mean) ** 2) for share, part_mean, sd in parts)
    names = ["icentia11k" if s["name"] == "torrent" else s["name"] for s in sources]
    return {
        "name": JOINED.join(dict.fromkeys(names)),
        "mean_mv": mean,
        "sd_mv": math.sqrt(squares),  # exactly that of a single source
        "fs": ICENTIA_FS,
        **counts,
        "subjects": counts["patients"] - len(same),
        "same_subject": same,
        "sources": sources,
        "versions": versions(),
    }


def unite(pairs: Iterable[tuple[int, int]]) -> dict[str, int]:
    """Mapping of duplicate patients to the first of a person, from pairs who are one person."""
    groups: dict[int, set[int]] = {}
    for pair in pairs:
        group = set().union(*(groups.get(patient, {patient}) for patient in pair))
        groups |= dict.fromkeys(group, group)
    return {str(p): min(groups[p]) for p in sorted(groups) if p != min(groups[p])}


def read_subjects(path: Path, patient_of_record: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of patients who are one person, from lines `patient,subject`, perhaps below that
    heading. A patient is named as its record or by its number."""
    numbers = {str(number): number for number in patient_of_record.values()} | patient_of_record
    lines = path.read_text("utf-8-sig", "replace").splitlines()
    first, pairs = {}, []
    for line in filter(str.strip, lines[lines[:1] == ["patient,subject"] :]):
        patient, _, subject = map(str.strip, line.partition(","))
        if patient not in numbers or not subject or "," in subject:
            raise UserError(f"{path}: {line!r} is not a patient of the set and a subject")
        pairs.append((numbers[patient], first.setdefault(subject, numbers[patient])))
    return pairs


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.convert", description=__doc__.split("\n")[0])
    flag = parser.add_argument
    flag(
        "--source", choices=SOURCES, action="append", required=True,
        help="mitdb, svdb, wfdb for any other database with beat annotations (.atr), or torrent; "
        "given several times, each with its --from",
    )  # fmt: skip
    flag(
        "--from", type=cli.existing, action="append", required=True, dest="folders",
        metavar="FOLDER", help="folder of its files",
    )  # fmt: skip
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag(
        "--subjects", type=cli.file,
        help="file of lines patient,subject: records of one person, where the source does not say",
    )  # fmt: skip
    flag("--append", action="store_true", help="add to the set that was converted to --out")
    flag("--overwrite", action="store_true", help="replace a set that was converted to --out")
    args = parser.parse_args()
    if len(args.source) != len(args.folders):
        parser.error(f"{len(args.source)} --source but {len(args.folders)} --from; give pairs")
    if args.append and args.overwrite:
        parser.error("argument --append: not with --overwrite")
    if "torrent" in args.source and (len(args.source) > 1 or args.append):
        parser.error("argument --source: torrent is converted by itself")
    sources = list(zip(args.source, args.folders, strict=True))
    convert(sources, args.out, args.patient_ids, args.subjects, args.append, args.overwrite)


if __name__ == "__main__":
    cli.run(main)
