"""Bring annotated WFDB databases, or the torrent of Icentia11k, into Icentia11k's layout.

    python -m pretraining.convert --source mitdb --from data/mitdb --out data/mitdb250

Of a database, one patient per record, one segment per lead, at 250 Hz. Several sources become one
set, in one command or, with `--append`, one after the other; `dataset.json` describes it. Of the
torrent, the rhythm of a beat is that of the interval it lies in; undefined rhythm, end and noise
read back as noise, as in PhysioNet's files, a segment without a beat as one without annotations.
"""

import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pretraining.icentia11k import torrent
from pretraining.icentia11k.index import FOLDER, parallel_map, read_record
from pretraining.icentia11k.reader import BEAT_CODES, DESCRIPTION, ICENTIA11K, RHYTHM_CODES
from recordings import Unusable, one_line
from recordings.annotations import ALPHABETS, SAME_SUBJECT, Alphabet, subject_of
from recordings.formats import Recording, read_recording
from recordings.resampling import resample
from recordings.wfdb_files import ICENTIA_FS, ICENTIA_GAIN, read_atr, segment_path, write_segment
from utils import cli
from utils.cli import UserError
from utils.files import (
    HINTS,
    atomic_folder,
    read_json,
    report_filled,
    sha256,
    summary,
    write_json,
    write_text,
)
from utils.model_card import DATA_SETS, JOINED
from utils.run import versions

SOURCES = (*ALPHABETS, "torrent")
GAIN = 1000  # units per mV of what is converted from databases
LARGEST = np.iinfo(np.int16).max
# Where the root mean square of a database's signals is so many times that about the medians of its
# leads, it measures their offsets, and the medians are taken for 0 mV. See docs/data.md.
OFFSETS = 2
SYMBOLS = {code: symbol for symbol, code in BEAT_CODES.items()}
ZONES = {code: mark for mark, code in RHYTHM_CODES.items()}


class Converted(NamedTuple):
    """What was written and what was read of one record."""

    left_out: list[dict[str, str]]  # names of what cannot be used, and why
    segments: int = 0
    sums: tuple[float, float, float] = (0, 0, 0)  # number of samples, sum (mV), of squares (mV²)
    centred: tuple[float, float, float] = (0, 0, 0)  # the same, without the medians of the leads
    medians: tuple[int, ...] = ()  # of the leads, in units
    uncalibrated: bool = False  # no gain was stated
    filled: int = 0  # missing or impossible samples that were interpolated
    notes: tuple[str, ...] = ()  # what the user should know
    subject: str | None = None  # that the record states
    others: Mapping[str, int] = {}  # how often rhythm marks stand that count as noise
    sha256: Mapping[str, str] = {}  # of the files that were read


def find_records(source: str, folder: Path) -> dict[int, Path]:
    """Record of each patient, without extension.

    In a database, a patient's number is the record's where all names are numbers of up to five
    digits, else its rank.
    """
    if source == "torrent":
        records = {patient: path for patient, (path,) in torrent.find_records(folder)[0].items()}
    else:
        names = sorted(path.stem for path in folder.glob("*.hea"))
        numbers = [int(name) for name in names if name.isdecimal() and len(name) <= 5]
        if len(set(numbers)) < len(names):
            numbers = range(len(names))
        records = {n: folder / name for n, name in sorted(zip(numbers, names, strict=True))}
    return records


def convert(
    sources: Sequence[tuple[str, Path]], out: Path, patient_ids: Collection[int] | None,
    subjects: Path | None, append: bool, overwrite: bool, annotator: str = "atr",
) -> None:  # fmt: skip
    """Write the records of all sources (names, see `SOURCES`, and folders) to `out`, whole or not
    at all: of these patients, or everybody. `append` adds to the set in `out`, `overwrite` replaces
    it; `subjects` is a file for `read_subjects`; `annotator` is the ending of the files of beats in
    databases."""
    earlier = read_json(out / DESCRIPTION) if (out / DESCRIPTION).exists() else {}
    if append and not earlier.get("sources"):
        raise UserError(f"{out} is no converted set that --append can add to")
    if out.exists() and not (earlier and (append or overwrite)):
        raise UserError(f"{out} exists; choose another --out, or --overwrite a converted set")
    before, same = (earlier["sources"], earlier["same_subject"]) if append else ([], {})
    source_of = {patient: s["name"] for s in before for patient in s["patient_of_record"].values()}
    chosen, known = [], patients_of(before)
    for name, folder in sources:
        if out.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"--from {folder} lies in --out {out}; choose another --out")
        records = find_records(name, folder)
        known |= {path.name: patient for patient, path in records.items()}
        if patient_ids is not None:
            records = {patient: path for patient, path in records.items() if patient in patient_ids}
        if not records:
            raise UserError(f"{folder} holds no records of {name}, or none of --patient-ids")
        for patient in sorted(records.keys() & source_of.keys()):
            both = f"patient {patient} of {name} is also in {source_of[patient]}"
            raise UserError(f"{both}; convert them to sets of their own, or see --patient-ids")
        source_of |= dict.fromkeys(records, name)
        chosen.append((name, records))
    for patient in sorted(set(patient_ids or ()) - source_of.keys()):
        raise UserError(f"patient {patient} is not in {sources[-1][1]}")
    pairs = read_subjects(subjects, known) if subjects else []
    pairs += [(int(patient), other) for patient, other in same.items()]
    with atomic_folder(out) as made:
        if append:
            ignored = shutil.ignore_patterns(DESCRIPTION, FOLDER)
            shutil.copytree(out, made, copy_function=os.link, ignore=ignored, dirs_exist_ok=True)
        named = patient_ids is not None
        added = [convert_source(*part, made, named, annotator) for part in chosen]
        description = describe([*before, *added], pairs)
        write_json(made / DESCRIPTION, description)
    print(
        f"{out}: {description['patients']} patients, {description['segments']} segments, "
        f"mean {description['mean_mv']:.4f} mV, sd {description['sd_mv']:.4f} mV"
    )


def convert_source(
    source: str, records: Mapping[int, Path], out: Path, named: bool, annotator: str
) -> dict[str, Any]:
    """Convert all records of a source; returns its description in `dataset.json`. Patients who were
    `named` must be usable."""
    torrents = source == "torrent"
    one = _convert_torrent if torrents else partial(_convert_wfdb, source, annotator)
    with parallel_map(in_processes=torrents and len(records) > torrent.READ_ALONE) as run:
        parts = run(one, records.keys(), records.values(), repeat(out))
        parts = list(tqdm(parts, "converting", len(records), unit="record", disable=None))
    left_out = [out for part in parts for out in part.left_out]
    rows = list(zip(records.items(), parts, strict=True))
    patients = {path.name: patient for (patient, path), part in rows if part.segments}
    unusable = sorted(records.keys() - patients.values())
    if not patients or (named and unusable):
        raise UserError(f"patient {unusable[0]} cannot be used ({summary(left_out)})")
    report(source, [(path.name, part) for (_, path), part in rows])
    uncalibrated = [path.name for (_, path), part in rows if part.uncalibrated]
    if uncalibrated:
        print(f"{source}: {len(uncalibrated)} records{HINTS['uncalibrated']}", file=sys.stderr)
    if left_out:
        print(summary(left_out), file=sys.stderr)
    samples, mean, sd = moments([part.sums for part in parts])
    _, *about_medians = moments([part.centred for part in parts])
    if not torrents and math.hypot(mean, sd) > OFFSETS * math.hypot(*about_medians):
        offsets = f"offsets of leads ({math.hypot(mean, sd):.2f} mV) exceed the signal"
        advice = "their medians are taken for 0 mV; see also --standardise frame of the trainer"
        print(f"{source}: {offsets} ({about_medians[1]:.2f} mV); {advice}", file=sys.stderr)
        mean, sd = about_medians
        for patient, part in zip(records, parts, strict=True):
            for lead, median in enumerate(part.medians):
                folder, name = segment_path(out, patient, lead)
                header = (folder / f"{name}.hea").read_text()
                write_text(folder / f"{name}.hea", header.replace("(0)/mV", f"({median})/mV"))
    pairs = SAME_SUBJECT.get(source, {}).items()
    data_set = DATA_SETS.get("icentia11k" if torrents else source)
    return {
        "name": source,
        "mean_mv": ICENTIA11K.mean if torrents else mean,
        "sd_mv": ICENTIA11K.sd if torrents else sd,
        "patients": len(patients),
        "segments": sum(part.segments for part in parts),
        "samples": samples,
        "uncalibrated": uncalibrated,
        "patient_of_record": patients,
        "subject_of_record": {
            path.name: part.subject for (_, path), part in rows if part.segments and part.subject
        },
        "left_out": left_out,
        "interpolated": {path.name: part.filled for (_, path), part in rows if part.filled},
        "same_subject": {patients[a]: patients[b] for a, b in pairs if {a, b} <= patients.keys()},
        "source_sha256": {name: sha for part in parts for name, sha in part.sha256.items()},
        "licence": data_set.licence if data_set else None,
    }


def moments(sums: Sequence[tuple[float, float, float]]) -> tuple[int, float, float]:
    """Number, mean and standard deviation of all samples, from `Converted.sums`."""
    samples, total, squares = map(sum, zip(*sums, strict=True))
    samples = max(samples, 1)  # nothing is usable
    return int(samples), total / samples, math.sqrt(squares / samples - (total / samples) ** 2)


def report(source: str, parts: Sequence[tuple[str, Converted]]) -> None:
    """Say what the user should know of the records of a source, in a line for each kind."""
    noted = [(note, name) for name, part in parts for note in part.notes]
    first = dict(reversed(noted))
    for note, count in Counter(note for note, _ in noted).items():
        print(f"{source}: {count} × {note}, such as {first[note]}", file=sys.stderr)
    others = sum((Counter(part.others) for _, part in parts), Counter()).most_common()
    if others:
        marks = ", ".join(f"{count} × {mark}" for mark, count in others)
        print(f"{source}: other rhythms count as noise: {marks}", file=sys.stderr)
    report_filled({name: part.filled for name, part in parts if part.filled})


def _convert_wfdb(source: str, annotator: str, patient: int, record: Path, out: Path) -> Converted:
    """One record of an annotated database."""
    try:
        recording, ends, symbols, zones, others = read_annotated(
            record, ALPHABETS[source], annotator
        )
    except Unusable as reason:
        return Converted([{"record": record.name, "reason": str(reason)}])
    # Continued in a line: leads have offsets, which zeros beyond the ends would make steps.
    signal = resample(recording.signal, recording.fs, ICENTIA_FS, "line")
    far = np.abs(np.median(signal, axis=0)) > LARGEST / GAIN / 2  # of electrodes
    signal -= np.where(far, np.median(signal, axis=0), 0)
    digital = np.clip(np.rint(signal * GAIN), -LARGEST, LARGEST)
    ends = np.minimum(np.rint(ends * (ICENTIA_FS / recording.fs)).astype(np.int64), len(signal) - 1)
    for lead, samples in enumerate(digital.T.astype(np.int16)):
        write_segment(*segment_path(out, patient, lead), samples, GAIN, ends, symbols, zones)
    notes = recording.notes + ("offset beyond ±16 mV removed",) * int(far.any())
    if not any(symbols):
        kept = "rhythms but no beats" if any(zones) else "no beats and no rhythms"
        notes += (f"{kept} (are beats in another file? see --annotator)",)
    endings = dict.fromkeys(("hea", "dat", "atr", annotator))
    files = (Path(f"{record}.{ending}") for ending in endings)
    checksums = {path.name: sha256(path) for path in files if path.exists()}
    medians = np.rint(np.median(digital, axis=0))
    sums, centred = (
        (units.size, units.sum() / GAIN, (units**2).sum() / GAIN**2)
        for units in (digital, digital - medians)
    )
    subject = subject_of(record.name, Path(f"{record}.hea").read_text("utf-8", "replace"))
    known = recording.uncalibrated, recording.filled, notes, subject, others, checksums
    medians = tuple(medians.astype(int).tolist())
    return Converted([], signal.shape[1], sums, centred, medians, *known)


def read_annotated(
    record: Path, alphabet: Alphabet, annotator: str = "atr"
) -> tuple[Recording, np.ndarray, list[str], list[str], Counter[str]]:
    """Recording in mV; beats (n,) at its rate, Icentia11k's symbol and rhythm zone of each; and
    rhythm marks that open no zone.

    Beats are those of the `annotator`, rhythms also those of the `.atr`, if there is one. The ends
    of a zone in which no beat lies are listed as beats without a symbol.
    """
    recording = read_recording(Path(f"{record}.hea"))
    if alphabet.fs not in (None, recording.fs):
        raise Unusable(f"header says {recording.fs} Hz, not {alphabet.fs}")
    ends, symbols, zones, others = [], [], [], Counter()
    zone, begin, first = "", 0, 0
    marks = read_marks(record, annotator, recording.fs)
    for position, symbol, note in [*marks, (len(recording.signal), "+", "(")]:
        if symbol == "+" and note.startswith("("):
            if zone and first == len(ends) and begin < position:
                ends += [begin, position - 1]
                symbols += [""] * 2
                zones += [zone] * 2
            others.update({note} - alphabet.rhythms.keys() - {"("})
            zone, begin, first = alphabet.rhythms.get(note, ""), position, len(ends)
        elif symbol in alphabet.beats:
            ends.append(position)
            symbols.append(alphabet.beats[symbol])
            zones.append(zone)
    return recording, np.array(ends, np.int64), symbols, zones, others


def read_marks(record: Path, annotator: str, fs: float) -> list[tuple[int, str, str]]:
    """Position at `fs` Hz, symbol and note of the annotator's marks and of rhythm marks in the
    `.atr`. A file of marks counts in frames, or at a rate of its own."""
    marks = []
    for name in dict.fromkeys(("atr", annotator)):
        there = Path(f"{record}.{name}").exists()
        if name == annotator and not there:
            raise Unusable(f"no .{name}")
        if there:
            read = read_atr(record, name)
            notes = (note.strip("\0 ") for note in read.aux_note)
            places = np.rint(read.sample * (fs / (read.fs or fs))).astype(int).tolist()
            rows = zip(places, read.symbol, notes, strict=True)
            marks += [row for row in rows if name == annotator or row[1] == "+"]
    return sorted(marks, key=itemgetter(0))


def _convert_torrent(patient: int, record: Path, out: Path) -> Converted:
    """All segments of one patient of the torrent."""
    left_out, samples = [], []
    for path, segment in read_record(record):
        if isinstance(segment, Exception):
            left_out.append({"record": path.name, "reason": one_line(segment)})
            continue
        # The interval each beat lies in; after the last one there is none.
        intervals = np.searchsorted(segment.rhythm_ends, segment.beat_ends, "left")
        codes = np.append(segment.rhythm_codes, -1)[intervals].tolist()
        symbols = [SYMBOLS[code] for code in segment.beat_codes.tolist()]
        zones = [ZONES.get(code, "") for code in codes]
        place = segment_path(out, patient, torrent.split(path)[1])
        units = torrent.to_units(segment.signal)
        write_segment(*place, units, ICENTIA_GAIN, segment.beat_ends, symbols, zones)
        samples.append(len(units))
    files = (torrent.first_file(record, kind) for kind in (torrent.SIGNALS, torrent.LABELS))
    checksums = {path.name: sha256(path) for path in files if path and samples}
    return Converted(left_out, len(samples), (sum(samples), 0, 0), sha256=checksums)


def patients_of(sources: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Patient of each record of the sources."""
    return {name: n for source in sources for name, n in source["patient_of_record"].items()}


def describe(sources: Sequence[dict[str, Any]], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Content of `dataset.json`; `pairs` of patients are one person, besides those that the sources
    state."""
    records, first = patients_of(sources), {}
    for number, source in enumerate(sources):
        pairs += [(int(patient), other) for patient, other in source["same_subject"].items()]
        for name, subject in source.get("subject_of_record", {}).items():
            patient = source["patient_of_record"][name]
            key = subject, number if " " in subject else None
            pairs += [(patient, first.setdefault(key, patient))]
            pairs += [(patient, records.get(subject, patient))]
    patients = {n for source in sources for n in source["patient_of_record"].values()}
    same = unite(pairs, patients)
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


def unite(pairs: Iterable[tuple[int, int]], patients: set[int]) -> dict[str, int]:
    """Mapping of duplicate patients to the first of a person, from pairs who are one person; only
    those among the `patients`."""
    groups: dict[int, set[int]] = {}
    for pair in pairs:
        group = set().union(*(groups.get(patient, {patient}) for patient in pair))
        groups |= dict.fromkeys(group, group)
    first = {p: min(groups[p] & patients) for p in sorted(groups.keys() & patients)}
    return {str(p): other for p, other in first.items() if p != other}


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
    flag, existing_set = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    about = "mitdb, svdb, wfdb for any other database with beat annotations (.atr), or torrent"
    flag("--source", choices=SOURCES, action="append", required=True,
         help=f"{about}; given several times, each with its --from")  # fmt: skip
    flag("--from", type=cli.existing, action="append", required=True, dest="folders",
         metavar="FOLDER", help="folder of its files")  # fmt: skip
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag(
        "--annotator",
        default="atr",
        help="ending of the files of beats in databases, such as qrs; rhythms stay those of .atr",
    )
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    about = "file of lines patient,subject: records of one person, where the source does not say"
    flag("--subjects", type=cli.file, help=about)
    existing_set("--append", action="store_true", help="add to the set converted to --out")
    existing_set("--overwrite", action="store_true", help="replace the set converted to --out")
    args = parser.parse_args()
    if len(args.source) != len(args.folders):
        parser.error(f"{len(args.source)} --source but {len(args.folders)} --from; give pairs")
    sources = list(zip(args.source, args.folders, strict=True))
    convert(
        sources,
        args.out,
        args.patient_ids,
        args.subjects,
        args.append,
        args.overwrite,
        args.annotator.lstrip("."),
    )


if __name__ == "__main__":
    cli.run(main)
