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
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from tqdm import tqdm

from pretraining.icentia11k import torrent
from pretraining.icentia11k.index import FOLDER, parallel_map, read_record
from pretraining.icentia11k.reader import BEAT_CODES, DESCRIPTION, ICENTIA11K, RHYTHM_CODES
from recordings import Unusable, one_line
from recordings.annotations import ALPHABETS, Alphabet, subject_of
from recordings.formats import Recording, read_recording
from recordings.resampling import resample
from recordings.wfdb_files import ICENTIA_FS, ICENTIA_GAIN, read_atr, segment_path, write_segment
from utils import cli, files
from utils.cli import UserError
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
    # Number of samples, sum (mV), sum of squares (mV²); the same without the medians of the leads
    sums: Sequence[Sequence[float]] = ((0, 0, 0), (0, 0, 0))
    medians: Sequence[int] = ()  # of the leads, in units
    uncalibrated: bool = False  # no gain was stated
    filled: int = 0  # missing or impossible samples that were interpolated
    notes: tuple[str, ...] = ()  # what the user should know
    others: Mapping[str, int] = {}  # how often rhythm marks stand that count as noise
    subject: str | None = None  # that the record states
    sha256: Mapping[str, str] = {}  # of the files that were read


def find_records(source: str, folder: Path, first: int) -> dict[str, int]:
    """Patient of each record. A database's are the numbers that its records are called, if all
    names are numbers of up to five digits; else they are counted from `first`."""
    if source == "torrent":
        return {path.name: n for n, (path,) in torrent.find_records(folder).items()}
    names = sorted(path.stem for path in folder.glob("*.hea"))
    numbers = [int(name) for name in names if name.isdecimal() and len(name) <= 5]
    if len(set(numbers)) < len(names):
        numbers = range(first, first + len(names))
    return dict(sorted(zip(names, numbers, strict=True), key=itemgetter(1)))


def convert(
    source: list[str], folders: list[Path], out: Path, annotator: str,
    patient_ids: list[int] | None, subjects: Path | None, append: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Write the records of all sources to `out`, whole or not at all: the flags of `main`."""
    if len(source) != len(folders):
        raise UserError(f"{len(source)} --source but {len(folders)} --from; give pairs")
    earlier = files.read_json(out / DESCRIPTION) if (out / DESCRIPTION).exists() else {}
    if append and not earlier.get("sources"):
        raise UserError(f"{out} is no converted set that --append can add to")
    if out.exists() and not (earlier and (append or overwrite)):
        raise UserError(f"{out} exists; choose another --out, or --overwrite a converted set")
    before, same = (earlier["sources"], earlier["same_subject"]) if append else ([], {})
    known, chosen, parts = patients_of(before), patients_of(before), []
    for name, folder in zip(source, folders, strict=True):
        if folder.resolve().is_relative_to(out.resolve()):
            raise UserError(f"--from {folder} lies in --out {out}; choose another --out")
        records = find_records(name, folder, max(known.values(), default=-1) + 1)
        known |= records
        if patient_ids is not None:
            records = {record: n for record, n in records.items() if n in patient_ids}
        if not records:
            raise UserError(f"{folder} holds no records of {name}, or none of --patient-ids")
        numbers = set(chosen.values())
        for record, patient in records.items():
            if record in chosen or patient in numbers:
                both = f"record {record} of {name}, or another patient {patient}, is in the set"
                raise UserError(f"{both} already; convert it to another, or see --patient-ids")
        chosen |= records
        parts.append((name, folder, records))
    for patient in sorted(set(patient_ids or ()) - set(chosen.values())):
        raise UserError(f"patient {patient} is not in {folders[-1]}")
    pairs = read_subjects(subjects, known) if subjects else []
    pairs += [(int(patient), other) for patient, other in same.items()]
    with files.atomic_folder(out) as made:
        if append:
            ignored = shutil.ignore_patterns(DESCRIPTION, FOLDER)
            shutil.copytree(out, made, copy_function=os.link, ignore=ignored, dirs_exist_ok=True)
        how = made, patient_ids is not None, annotator.lstrip(".")
        description = describe([*before, *(convert_source(*part, *how) for part in parts)], pairs)
        files.write_json(made / DESCRIPTION, description)
    counts = f"{description['patients']} patients, {description['segments']} segments"
    mean, sd = description["mean_mv"], description["sd_mv"]
    print(f"{out}: {counts}, mean {mean:.4f} mV, sd {sd:.4f} mV")


def convert_source(
    source: str, folder: Path, records: Mapping[str, int], out: Path, named: bool, annotator: str
) -> dict[str, Any]:
    """Convert these records of a source; returns its description in `dataset.json`. Patients who
    were `named` must be usable."""
    torrents = source == "torrent"
    one = _convert_torrent if torrents else partial(_convert_wfdb, source, annotator)
    with parallel_map(in_processes=torrents and len(records) > torrent.READ_ALONE) as run:
        results = run(one, records.values(), map(folder.joinpath, records), repeat(out))
        results = list(tqdm(results, "converting", len(records), unit="record", disable=None))
    left_out = [out for part in results for out in part.left_out]
    parts = {name: part for name, part in zip(records, results, strict=True) if part.segments}
    unusable = [patient for name, patient in records.items() if name not in parts]
    if not parts or (named and unusable):
        raise UserError(f"patient {unusable[0]} cannot be used ({files.summary(left_out)})")
    uncalibrated = [name for name, part in parts.items() if part.uncalibrated]
    filled = {name: part.filled for name, part in parts.items() if part.filled}
    notes: dict[str, list[str]] = {}
    for name, part in parts.items():
        for note in part.notes:
            notes.setdefault(note, []).append(name)
    files.report_flagged({"uncalibrated": uncalibrated}, notes, filled)
    if others := sum((Counter(part.others) for part in results), Counter()).most_common():
        marks = ", ".join(f"{count} × {mark}" for mark, count in others)
        print(f"{source}: other rhythms count as noise: {marks}", file=sys.stderr)
    if left_out:
        print(files.summary(left_out), file=sys.stderr)
    # Of the signals, and of the same without the medians of leads
    samples, totals, squares = np.sum([part.sums for part in parts.values()], axis=0).T
    means, sizes = totals / samples, np.sqrt(squares / samples)
    deviations = np.sqrt(squares / samples - means**2)
    offsets = sizes[0] > OFFSETS * sizes[1]
    if offsets:
        problem = f"offsets of leads ({sizes[0]:.2f} mV) exceed the signal ({sizes[1]:.2f} mV)"
        advice = "their medians are taken for 0 mV; see also --standardise frame of the trainer"
        print(f"{source}: {problem}; {advice}", file=sys.stderr)
        for name, part in parts.items():
            for lead, median in enumerate(part.medians):
                header = Path(*segment_path(out, records[name], lead)).with_suffix(".hea")
                text = header.read_text().replace("(0)/mV", f"({median})/mV")
                files.write_text(header, text)
    return {
        "name": source,
        "mean_mv": ICENTIA11K.mean if torrents else means[int(offsets)],
        "sd_mv": ICENTIA11K.sd if torrents else deviations[int(offsets)],
        "patients": len(parts),
        "segments": sum(part.segments for part in parts.values()),
        "samples": int(samples[0]),
        "uncalibrated": uncalibrated,
        "patient_of_record": {name: records[name] for name in parts},
        "subject_of_record": {name: p.subject for name, p in parts.items() if p.subject},
        "left_out": left_out,
        "interpolated": filled,
        "source_sha256": {name: sha for part in results for name, sha in part.sha256.items()},
        "licence": getattr(DATA_SETS.get("icentia11k" if torrents else source), "licence", None),
    }


def _convert_wfdb(source: str, annotator: str, patient: int, record: Path, out: Path) -> Converted:
    """One record of an annotated database."""
    try:
        read = read_annotated(record, ALPHABETS[source], annotator)
    except Unusable as reason:
        return Converted([{"record": record.name, "reason": str(reason)}])
    recording, ends, symbols, zones, others = read
    # Continued in a line: leads have offsets, which zeros beyond the ends would make steps.
    signal = resample(recording.signal, recording.fs, ICENTIA_FS, "line")
    medians = np.median(signal, axis=0)
    far = np.abs(medians) > LARGEST / GAIN / 2  # of electrodes
    digital = np.rint((signal - np.where(far, medians, 0)) * GAIN).clip(-LARGEST, LARGEST)
    ends = np.minimum(np.rint(ends * (ICENTIA_FS / recording.fs)).astype(np.int64), len(signal) - 1)
    for lead, samples in enumerate(digital.T.astype(np.int16)):
        write_segment(*segment_path(out, patient, lead), samples, GAIN, ends, symbols, zones)
    notes = recording.notes + ("offset beyond ±16 mV removed",) * int(far.any())
    if not any(symbols):
        kept = "rhythms but no beats" if any(zones) else "no beats and no rhythms"
        notes += (f"{kept} (are beats in another file? see --annotator)",)
    paths = (Path(f"{record}.{end}") for end in dict.fromkeys(("hea", "dat", "atr", annotator)))
    checksums = {path.name: files.sha256(path) for path in paths if path.exists()}
    medians = np.rint(np.median(digital, axis=0)).astype(int)
    sums = [(x.size, x.sum() / GAIN, (x**2).sum() / GAIN**2) for x in (digital, digital - medians)]
    header = Path(f"{record}.hea").read_text("utf-8", "replace")
    known = recording.uncalibrated, recording.filled, notes, others
    subject = subject_of(source, record.name, header)
    return Converted([], len(medians), sums, medians, *known, subject, checksums)


def read_annotated(
    record: Path, alphabet: Alphabet, annotator: str = "atr"
) -> tuple[Recording, np.ndarray, list[str], list[str], Counter[str]]:
    """Recording in mV; beats (n,) at its rate, Icentia11k's symbol and rhythm zone of each; and
    rhythm marks that open no zone.

    Beats are those of the `annotator`, rhythms also those of the `.atr`, if there is one. The ends
    of a zone in which no beat lies are listed as beats without a symbol.
    """
    recording, marks = read_recording(Path(f"{record}.hea")), []
    fs = recording.fs
    if alphabet.fs not in (None, fs):
        raise Unusable(f"header says {fs} Hz, not {alphabet.fs}")
    if not Path(f"{record}.{annotator}").exists():
        raise Unusable(f"no .{annotator}")
    for name in dict.fromkeys(("atr", annotator)):
        if Path(f"{record}.{name}").exists():
            read = read_atr(record, name)
            notes = (note.strip("\0 ") for note in read.aux_note)
            # They count in frames, or at a rate of their own.
            places = np.rint(read.sample * (fs / (read.fs or fs))).astype(int).tolist()
            rows = zip(places, read.symbol, notes, strict=True)
            marks += [row for row in rows if name == annotator or row[1] == "+"]
    marks.sort(key=itemgetter(0))
    ends, symbols, zones, others = [], [], [], Counter()
    zone, begin, first = "", 0, 0
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
    paths = (torrent.first_file(record, kind) for kind in (torrent.SIGNALS, torrent.LABELS))
    checksums = {path.name: files.sha256(path) for path in paths if path and samples}
    sums = [(sum(samples), 0, 0)] * 2  # the constants are Icentia11k's
    return Converted(left_out, len(samples), sums, sha256=checksums)


def patients_of(sources: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Patient of each record of the sources."""
    return {name: n for source in sources for name, n in source["patient_of_record"].items()}


def describe(sources: Sequence[dict[str, Any]], pairs: list[tuple]) -> dict[str, Any]:
    """Content of `dataset.json`. Each of `pairs`, of two patients or a patient and a subject, is
    one person, as are patients of whom records state the same subject."""
    patients = patients_of(sources)
    for number, source in enumerate(sources):
        for name, subject in source.get("subject_of_record", {}).items():
            # Text with a blank means something within its source only.
            stated = (number, subject) if " " in subject else patients.get(subject, subject)
            pairs += [(patients[name], stated)]
    numbers = set(patients.values())
    people = DisjointSet([*numbers, *chain(*pairs)])
    for pair in pairs:
        people.merge(*pair)
    first = {patient: min(people.subset(patient) & numbers) for patient in sorted(numbers)}
    same = {str(patient): other for patient, other in first.items() if patient != other}
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


def read_subjects(path: Path, patient_of_record: Mapping[str, int]) -> list[tuple]:
    """Pairs of patient and subject from lines `patient,subject`, perhaps below that heading. A
    patient is named as its record or by its number."""
    numbers = {str(number): number for number in patient_of_record.values()} | patient_of_record
    lines = path.read_text("utf-8-sig", "replace").splitlines()
    pairs = []
    for line in filter(str.strip, lines[lines[:1] == ["patient,subject"] :]):
        patient, _, subject = map(str.strip, line.partition(","))
        if patient not in numbers or not subject or "," in subject:
            raise UserError(f"{path}: {line!r} is not a patient of the set and a subject")
        pairs.append((numbers[patient], (path, subject)))
    return pairs


def main() -> None:
    parser = cli.Parser(prog="python -m pretraining.convert", description=__doc__.split("\n")[0])
    flag, existing_set = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    flag("--source", choices=SOURCES, action="append", required=True,
         help="mitdb, svdb, wfdb for any other database with beat annotations (.atr), or torrent; "
         "given several times, each with its --from")  # fmt: skip
    flag("--from", type=cli.existing, action="append", required=True, dest="folders",
         metavar="FOLDER", help="folder of its files")  # fmt: skip
    flag("--out", type=Path, required=True, help="new folder for the converted set")
    flag("--annotator", default="atr", help="ending of a database's files of beats, such as qrs")
    flag("--patient-ids", type=cli.id_list, help="such as 0,1,2 or 0-109; all by default")
    flag("--subjects", type=cli.file, help="lines patient,subject: which records are one person's")
    existing_set("--append", action="store_true", help="add to the set converted to --out")
    existing_set("--overwrite", action="store_true", help="replace the set converted to --out")
    convert(**vars(parser.parse_args()))


if __name__ == "__main__":
    cli.run(main)
