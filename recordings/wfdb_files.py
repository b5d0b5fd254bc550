"""WFDB records: headers, signals and annotations through wfdb; segments in Icentia11k's layout."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import wfdb
from wfdb.io import _signal  # because wfdb.rdrecord reads the header itself, and not all of them

from recordings import GAINS, MILLIVOLT, Hints, LazyRecording, Unusable, as_unit, one_line, voltages

# What wfdb raises on bad files.
ERRORS = (OSError, ValueError, IndexError, KeyError, TypeError, ArithmeticError)
LEADS = 256  # at most
# Bytes of a sample by format. FLAC is left out: what a file unfolds to is not known beforehand.
SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2,
                "212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3)}  # fmt: skip
# Lines of header(5), for a record, a segment and a lead. wfdb's own reader refuses dates that it
# does not know, drops what is not ASCII, and takes the beginning of fields that are no numbers.
RECORD = re.compile(
    r"\S+?(/(?P<segments>\d{1,9}))?\s+(?P<count>\d{1,9})(\s+(?P<fs>\d{1,9}\.?\d*|\.\d+)(/\S*)?"
    r"(\s+(?P<frames>\d{1,18})(\s.*)?|\s+\d+[:/-].*)?)?"  # the length, or else a time or date
)
SEGMENT = re.compile(r"(?P<file>[^\s/\\]+)\s+(?P<frames>\d{1,18})")
LEAD = re.compile(
    r"(?P<file>[^\s/\\]+)\s+(?P<fmt>\d+)(x(?P<frame>[1-9]\d{0,8}))?(:(?P<skew>\d{1,9}))?"
    r"(\+(?P<offset>\d{1,18}))?(\s+(?P<gain>\S+))?"
    r"(?P<numbers>(\s+-?\d{1,18}(?!\S)){0,5})(\s+(?P<name>.*))?"
)
GAIN = re.compile(r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?:\((-?\d{1,9})\))?(?:/.*)?")
DEFAULT_GAIN = 200  # units per mV of a lead without a gain, or with 0: WFDB's header(5), DEFGAIN
# What an annotation file says of itself; wfdb loops for ever at other words.
COMMENT = re.compile(rb"(.)[\xfc-\xff](?=## )", re.DOTALL)
COMMENTS = re.compile(rb"(## time resolution: \d+\.?\d*\n)?"
                      rb"(## annotation type definitions\n## end of definitions\n)?")  # fmt: skip

# Icentia11k's layout on PhysioNet: one lead in format 16.
ICENTIA_FS = 250  # Hz
ICENTIA_GAIN = 74.36482269503546  # units per mV


class Lead(NamedTuple):
    """What a header says of a lead."""

    file: str
    fmt: str
    frame: int  # samples in a frame
    skew: int  # frames by which the lead is late in the file
    offset: int  # bytes before the first sample
    initial: int  # digital value before the first sample, in format 8
    gain: float  # digital units per `unit`; 0: not stated
    baseline: int  # digital value of 0
    name: str
    unit: str


class Header(NamedTuple):
    fs: float  # frames per second
    frames: int  # 0: unknown
    leads: list[Lead]
    segments: list[tuple[str, int]]  # names and frames, of a multi-segment record


def read_header(record: Path) -> Header:
    """Header of a record (path without ending); raises `Unusable` if it is missing or damaged."""
    try:
        content = Path(f"{record}.hea").read_bytes()
        text = content.decode("utf-8-sig")
    except OSError:
        raise Unusable("no .hea, which says how it was sampled") from None
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
    first, *others = lines or [""]
    match = RECORD.fullmatch(first)
    listed = match and int(match["segments"] or match["count"])
    if listed != len(others) or int(match["count"]) > LEADS:
        said = f"{' '.join(first.split()[1:4])[:40]!r} for its leads, rate and length"
        raise Unusable(f"header says {said}, lists {len(others)} leads")
    matches = [(SEGMENT if match["segments"] else LEAD).fullmatch(line) for line in others]
    if None in matches:
        line = others[matches.index(None)]
        raise Unusable(f"header with a signal file in another folder, or damaged ({line[:40]!r})")
    fs, frames = float(match["fs"] or 250), int(match["frames"] or 0)
    fs = int(fs) if fs.is_integer() else fs
    if match["segments"]:
        return Header(fs, frames, [], [(part["file"], int(part["frames"])) for part in matches])
    return Header(fs, frames, [_read_lead(record.parent, lead) for lead in matches], [])


def _read_lead(folder: Path, match: re.Match) -> Lead:
    fields = match.groupdict("0")
    gain, unit = GAIN.fullmatch(fields["gain"]), fields["gain"].partition("/")[2] or "mV"
    _, zero, initial, *_ = [*map(int, match["numbers"].split()), 0, 0, 0]
    # On some systems the accents in file names are characters of their own.
    names = [unicodedata.normalize(form, match["file"]) for form in ("NFC", "NFD")]
    lead = Lead(
        next((name for name in names if (folder / name).exists()), names[0]), match["fmt"],
        int(match["frame"] or 1), int(fields["skew"]), int(fields["offset"]), initial,
        float(gain[1] if gain else "nan"), int(gain[2] or zero) if gain else 0,
        match["name"] or "", as_unit(unit),
    )  # fmt: skip
    per_mv = lead.gain / MILLIVOLT.get(lead.unit, np.nan)
    if lead.unit in MILLIVOLT and lead.gain != 0 and not GAINS[0] <= per_mv <= GAINS[1]:
        raise Unusable(f"header states no gain per mV, uV or V ({match[0][:40]!r})")
    return lead


def count_frames(record: Path, header: Header, leads: Sequence[Lead]) -> int:
    """Frames of these leads; raises `Unusable` if their files hold fewer than the header states."""
    held = []
    for name in {lead.file for lead in leads}:
        together = [lead for lead in header.leads if lead.file == name]
        formats = sorted({lead.fmt for lead in together})
        skewed = formats == ["8"] and any(
            lead.skew for lead in together
        )  # needs all from the start
        if len(formats) > 1 or formats[0] not in SAMPLE_BYTES or skewed:
            raise Unusable(f"unreadable signal (format {', '.join(formats)})")
        if not (record.parent / name).is_file():
            raise Unusable(f"no {name.removeprefix(record.name)} beside its .hea")
        size = (record.parent / name).stat().st_size - together[0].offset
        frame = SAMPLE_BYTES[formats[0]] * sum(lead.frame for lead in together)
        held.append(max(int(size / frame), 0))
    if header.frames > min(held):
        raise Unusable(f"header says {header.frames} samples, file holds {min(held)}")
    return header.frames or min(held)


def open_wfdb(path: Path, hints: Hints) -> LazyRecording:
    """Open the WFDB record with this header; missing samples are NaN.

    Its leads are those of `voltages`. `hints` give the unit and gain of leads for which the
    header states no gain; without them WFDB's default applies and the recording is `uncalibrated`.
    Where a segment of a multi-segment record lacks a lead, its samples are missing.
    """
    record = path.with_suffix("")
    header = read_header(record)
    names = [name for name, _ in header.segments if name != "~"]
    headers = {name: read_header(path.with_name(name)) for name in names}
    leads = [lead for part in headers.values() or [header] for lead in part.leads]
    # A first segment without samples has no files, but names all leads in order.
    signals = {(lead.name, lead.unit, lead.frame * header.fs): lead.frame
               for lead in leads if lead.file != "~"}  # fmt: skip
    numbers, notes = voltages(list(signals))
    frame = list(signals.values())[numbers[0]]
    if not header.segments:
        return replace(open_signals(record, header, hints, frame), notes=notes)
    parts, begin = [], 0
    for name, frames in header.segments:
        if name != "~" and frames:
            part = open_signals(path.with_name(name), headers[name], hints, frame)
            stated = header.fs * frame, frames * frame
            if (part.fs, part.samples) != stated or len(set(part.leads) - {""}) != part.count:
                raise Unusable(f"segment {name} has another rate or length, or leads of one name")
            parts.append((begin, part))
        begin += frames * frame
    if header.frames * frame not in (0, begin):
        raise Unusable(f"header says {header.frames} samples, its segments {begin // frame}")
    held = {name for _, part in parts for name in part.leads}
    names = [name for name in dict.fromkeys(lead.name for lead in leads) if name in held]
    recording = LazyRecording.of_parts(header.fs * frame, begin, names, parts)
    uncalibrated = any(part.uncalibrated for _, part in parts)
    return replace(recording, uncalibrated=uncalibrated, notes=notes)


def open_signals(record: Path, header: Header, hints: Hints, frame: int) -> LazyRecording:
    """The leads in mV, uV or V, with `frame` samples in a frame, of a record without segments."""
    numbers = [number for number, lead in enumerate(header.leads)
               if lead.unit in MILLIVOLT and lead.frame == frame]  # fmt: skip
    leads = [header.leads[number] for number in numbers]
    frames = count_frames(record, header, leads) if leads else header.frames
    files, formats, sizes, _, offsets, initial, *_ = map(list, zip(*header.leads, strict=True))

    def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
        first, last = start // frame, -(-stop // frame)
        signal = np.full(((last - first) * frame, len(chosen)), np.nan)
        for skew in {leads[lead].skew for lead in chosen if first + leads[lead].skew < frames}:
            columns = [c for c, lead in enumerate(chosen) if leads[lead].skew == skew]
            try:
                digital = _signal._rd_segment(
                    files, str(record.parent), None, formats, len(files), frames, offsets, sizes,
                    [0] * len(files), initial, first + skew, min(last + skew, frames),
                    [numbers[chosen[column]] for column in columns], True,
                )  # fmt: skip
            except ERRORS as error:
                raise Unusable(f"unreadable signal ({one_line(error)})") from None
            for column, samples in zip(columns, digital, strict=True):
                lead = leads[chosen[column]]
                gain, unit = lead.gain or DEFAULT_GAIN, MILLIVOLT[lead.unit]
                if hints.unit and not lead.gain:
                    gain, unit = 1, hints.millivolt()
                values = (samples.astype(np.float64) - lead.baseline) / gain * unit
                missing = samples == _signal.INVALID_SAMPLE_VALUE[lead.fmt]
                signal[: len(samples), column] = np.where(missing, np.nan, values)
        return signal[start - first * frame :][: stop - start]

    fs, names = header.fs * frame, [lead.name for lead in leads]
    recording = LazyRecording(fs, frames * frame, len(leads), names, read)
    if any(lead.fmt == "8" for lead in leads):  # whose samples are steps from the last ones
        values = read(0, frames * frame, list(range(len(leads))))
        recording = LazyRecording.of_array(values, 1, fs, names)
    uncalibrated = not hints.unit and not all(lead.gain for lead in leads)
    return replace(recording, uncalibrated=uncalibrated)


def read_atr(record: Path | str, annotator: str = "atr") -> wfdb.Annotation:
    """Annotations in the file of the record with this ending; raises `Unusable` if they cannot be
    read to their end."""
    try:
        content = Path(f"{record}.{annotator}").read_bytes()
        if content[-2:] != b"\0\0":
            raise Unusable("annotations cut short")
        comments = (content[at.end() : at.end() + at[1][0]] for at in COMMENT.finditer(content))
        if not COMMENTS.fullmatch(b"".join(comment + b"\n" for comment in comments)):
            raise Unusable("annotations with definitions that are not understood")
        return wfdb.rdann(str(record), annotator)
    except ERRORS as error:
        raise Unusable(f"unreadable annotations ({one_line(error)})") from None


def segment_path(root: Path, patient: int, segment: int) -> tuple[Path, str]:
    """Folder and name of a segment in Icentia11k's layout below `root`."""
    return root / f"p{patient // 1000:02d}" / f"p{patient:05d}", f"p{patient:05d}_s{segment:02d}"


def write_segment(
    folder: Path, name: str, digital: np.ndarray, gain: float, ends: np.ndarray,
    symbols: Sequence[str], zones: Sequence[str],
) -> None:  # fmt: skip
    """Write `name.dat`, `name.hea` and, if there is a beat, `name.atr`, in Icentia11k's layout.

    Args:
        digital: (samples,) int16. gain: units per mV.
        ends: (beats,) sample of each beat, ascending. symbols: `Q`, `N`, `S`, `a` or `V` of each,
            `""` at a place where only a rhythm zone begins or ends.
        zones: the mark that opens the rhythm zone each beat lies in, `""` for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, ICENTIA_FS, ["mV"], ["ecg"], d_signal=digital[:, None], fmt=["16"], adc_gain=[gain],
        baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    marks, around = [], ["", *zones, ""]  # marks have place, symbol and note
    for i, (end, symbol, zone) in enumerate(zip(ends, symbols, zones, strict=True)):
        marks += [(end, symbol, "")] * bool(symbol)
        note = zone * (zone != around[i]) + ")" * (zone != around[i + 2])
        if zone and note:  # a rhythm mark behind the first and last beat of a zone
            marks.append((end, "+", note))
    if marks:
        places, letters, notes = map(list, zip(*marks, strict=True))
        wfdb.wrann(name, "atr", np.array(places), letters, aux_note=notes, fs=ICENTIA_FS,
                   write_dir=str(folder))  # fmt: skip
