"""WFDB records: headers, signals and annotations through wfdb; segments in Icentia11k's layout."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import wfdb
from wfdb.io import _signal  # because wfdb.rdrecord reads the header itself, and not all of them

from recordings import GAINS, MILLIVOLT, Hints, LazyRecording, Unusable, as_unit, one_line, voltages

# Samples in 12 bytes by format. FLAC is left out: how much a file unfolds to is not known before.
SAMPLES = {"8": 12, "16": 6, "24": 4, "32": 3, "61": 6, "80": 12, "160": 6, "212": 8, "310": 9,
           "311": 9}  # fmt: skip
# Lines of header(5), for a record, a segment and a lead. wfdb's own reader refuses dates that it
# does not know, drops what is not ASCII, and takes the beginning of fields that are no numbers.
RECORD = re.compile(
    r"\S+?(/(?P<segments>\d{1,9}))?\s+(?P<count>\d{1,9})(\s+(?P<fs>\d{1,9}\.?\d*|\.\d+)(/\S*)?"
    r"(\s+(?P<frames>\d{1,18})(\s.*)?|\s+\d+[:/-].*)?)?"  # the length, or else a time or date
)
SEGMENT = re.compile(r"(?P<file>[^\s/\\]+)\s+(?P<frames>\d{1,18})")
LEAD = re.compile(
    r"(?P<file>[^\s/\\]+)\s+(?P<fmt>\d+)(x(?P<frame>[1-9]\d{0,8}))?(:(?P<skew>\d{1,9}))?"
    r"(\+(?P<offset>\d{1,18}))?(\s+(?P<gain>-?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)"
    r"(\((?P<baseline>-?\d{1,9})\))?(/(?P<unit>\S*))?"
    r"(?P<numbers>(\s+-?\d{1,18}(?!\S)){0,5})(\s+(?P<name>.*))?)?"
)
DEFAULT_GAIN = 200  # units per mV of a lead without a gain, or with 0: WFDB's header(5), DEFGAIN
# What an annotation file says of itself; wfdb loops for ever at other words.
COMMENT = re.compile(rb"(.)[\xfc-\xff](?=## )", re.DOTALL)
COMMENTS = re.compile(rb"(## time resolution: \d+\.?\d*\n)?"
                      rb"(## annotation type definitions\n## end of definitions\n)?")  # fmt: skip

# Icentia11k's layout on PhysioNet: one lead in format 16.
ICENTIA_FS = 250  # Hz
ICENTIA_GAIN = 74.36482269503546  # units per mV


class Lead(NamedTuple):
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
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"] or [""]
    match = RECORD.fullmatch(lines[0])
    if not match or int(match["segments"] or match["count"]) != len(lines) - 1:
        raise Unusable(f"header says {lines[0][:40]!r}, lists {len(lines) - 1} leads")
    parts = [(SEGMENT if match["segments"] else LEAD).fullmatch(line) for line in lines[1:]]
    if None in parts:
        line = lines[1 + parts.index(None)][:40]
        raise Unusable(f"header with a signal file in another folder, or damaged ({line!r})")
    fs, frames = float(match["fs"] or 250), int(match["frames"] or 0)
    fs = int(fs) if fs.is_integer() else fs
    if match["segments"]:
        return Header(fs, frames, [], [(part["file"], int(part["frames"])) for part in parts])
    return Header(fs, frames, [_read_lead(record.parent, part) for part in parts], [])


def list_segments(path: Path) -> list[Path]:
    """Headers of the other records that a multi-segment header lists; none of other files."""
    try:
        segments = read_header(path.with_suffix("")).segments if path.suffix == ".hea" else []
    except (OSError, Unusable):  # said where the record is opened
        segments = []
    return [path.with_name(f"{name}.hea") for name, _ in segments if name != path.stem]


def _read_lead(folder: Path, match: re.Match) -> Lead:
    fields, unit = match.groupdict("0"), as_unit(match["unit"] or "mV")
    _, zero, initial, *_ = [*map(int, fields["numbers"].split()), 0, 0, 0]
    file, gain = unicodedata.normalize("NFC", match["file"]), float(fields["gain"])
    if not (folder / file).exists():  # some systems write accents as characters of their own
        file = unicodedata.normalize("NFD", file)
    if unit in MILLIVOLT and gain and not GAINS[0] <= gain / MILLIVOLT[unit] <= GAINS[1]:
        raise Unusable(f"header states no gain per mV, uV or V ({match[0][:40]!r})")
    return Lead(
        file, match["fmt"], int(fields["frame"]) or 1, int(fields["skew"]), int(fields["offset"]),
        initial, gain, int(match["baseline"] or zero), match["name"] or "", unit,
    )  # fmt: skip


def open_wfdb(path: Path, hints: Hints) -> LazyRecording:
    """Open the WFDB record with this header; its leads are those of `voltages`, missing where a
    segment has none. `hints` give unit and gain of leads without a gain in the header; without
    hints WFDB's default makes the recording `uncalibrated`."""
    header = read_header(path.with_suffix(""))
    headers = {n: read_header(path.with_name(n)) for n, _ in header.segments if n != "~"}
    leads = [lead for part in headers.values() or [header] for lead in part.leads]
    # A first segment without samples has no files, but names all leads in order.
    signals = [lead for lead in leads if lead.file != "~"]
    numbers, notes = voltages([(lead.name, lead.unit, lead.frame * header.fs) for lead in signals])
    frame = signals[numbers[0]].frame
    if not header.segments:
        return replace(_open_signals(path.with_suffix(""), header, hints, frame), notes=notes)
    parts, begin = [], 0
    for name, frames in header.segments:
        if name != "~" and frames:
            part = _open_signals(path.with_name(name), headers[name], hints, frame)
            fits = (part.fs, part.samples) == (header.fs * frame, frames * frame)
            if not fits or len(set(part.leads) - {""}) != part.count:
                raise Unusable(f"segment {name} has another rate or length, or leads of one name")
            parts.append((begin, part))
        begin += frames * frame
    if header.frames * frame not in (0, begin):
        raise Unusable(f"header says {header.frames} samples, its segments {begin // frame}")
    held = {name for _, part in parts for name in part.leads}
    names = [name for name in dict.fromkeys(lead.name for lead in leads) if name in held]
    return replace(LazyRecording.of_parts(header.fs * frame, begin, names, parts), notes=notes)


def _open_signals(record: Path, header: Header, hints: Hints, frame: int) -> LazyRecording:
    """The leads in mV, uV or V, with `frame` samples in a frame, of a record without segments."""
    leads = [lead for lead in header.leads if lead.unit in MILLIVOLT and lead.frame == frame]
    numbers = [number for number, lead in enumerate(header.leads) if lead in leads]
    frames = _count_frames(record, header, leads)
    files, formats, sizes, _, offsets, initial, *_ = map(list, zip(*header.leads, strict=True))

    def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
        first, last = start // frame, -(-stop // frame)
        late = max(leads[number].skew for number in chosen)
        try:
            digital = _signal._rd_segment(
                files, str(record.parent), None, formats, len(files), frames, offsets, sizes,
                [0] * len(files), initial, first, min(last + late, frames),
                [numbers[number] for number in chosen], True,
            )  # fmt: skip
        except Exception as error:  # wfdb raises almost any error on damaged files
            raise Unusable(f"unreadable signal ({one_line(error)})") from None
        signal = np.full(((last - first) * frame, len(chosen)), np.nan)
        for column, (number, samples) in enumerate(zip(chosen, digital, strict=True)):
            lead = leads[number]
            samples = samples[lead.skew * frame :][: len(signal)]
            unit = MILLIVOLT[lead.unit] if lead.gain or not hints.unit else hints.millivolt()
            gain = lead.gain or (1 if hints.unit else DEFAULT_GAIN)
            values = (samples.astype(np.float64) - lead.baseline) / gain * unit
            missing = samples == _signal.INVALID_SAMPLE_VALUE[lead.fmt]
            signal[: len(samples), column] = np.where(missing, np.nan, values)
        return signal[start - first * frame :][: stop - start]

    names, fs = [lead.name for lead in leads], header.fs * frame
    uncalibrated = not hints.unit and not all(lead.gain for lead in leads)
    recording = LazyRecording(fs, frames * frame, len(leads), names, read, uncalibrated)
    if any(lead.fmt == "8" for lead in leads):  # whose samples are steps from the last ones
        values = recording.read(0, recording.samples)
        return replace(recording, read_mv=lambda start, stop, chosen: values[start:stop, chosen])
    return recording


def _count_frames(record: Path, header: Header, leads: Sequence[Lead]) -> int:
    """Frames of these leads; raises `Unusable` if their files hold fewer than the header states."""
    held, files = [], [lead.file for lead in header.leads]
    for name in {lead.file for lead in leads}:
        together = header.leads[files.index(name) :][: files.count(name)]  # else wfdb mixes them up
        fmt, file = together[0].fmt, record.parent / name
        if fmt not in SAMPLES or any(lead[:2] != (name, fmt) for lead in together):
            raise Unusable(f"unreadable signals (format {fmt}, or several in a file)")
        if not file.is_file():
            raise Unusable(f"no {name.removeprefix(record.name)} beside its .hea")
        samples = (file.stat().st_size - together[0].offset) * SAMPLES[fmt] // 12
        held.append(max(samples // sum(lead.frame for lead in together), 0))
    if held and header.frames > min(held):
        raise Unusable(f"header says {header.frames} samples, file holds {min(held)}")
    return header.frames or min(held, default=0)


def read_atr(record: Path | str, annotator: str = "atr") -> wfdb.Annotation:
    """Annotations in the file of the record with this ending; raises `Unusable` if they cannot be
    read to their end."""
    try:
        content = Path(f"{record}.{annotator}").read_bytes()
        comments = (content[at.end() : at.end() + at[1][0]] for at in COMMENT.finditer(content))
        known = COMMENTS.fullmatch(b"".join(comment + b"\n" for comment in comments))
        if content[-2:] != b"\0\0" or not known:
            raise Unusable("cut short, or with definitions that are not understood")
        annotations = wfdb.rdann(str(record), annotator)
        # They count frames, the rate of which wfdb does not read from some headers.
        if not annotations.fs and Path(f"{record}.hea").exists():
            annotations.fs = read_header(Path(record)).fs
        return annotations
    except Exception as error:  # wfdb raises almost any error on damaged files
        raise Unusable(f"unreadable annotations ({one_line(error)})") from None


def segment_path(root: Path, patient: int, segment: int) -> tuple[Path, str]:
    """Folder and name of a segment in Icentia11k's layout below `root`."""
    return root / f"p{patient // 1000:02d}" / f"p{patient:05d}", f"p{patient:05d}_s{segment:02d}"


def write_segment(
    folder: Path, name: str, digital: np.ndarray, gain: float, ends: np.ndarray,
    symbols: Sequence[str], zones: Sequence[str],
) -> None:  # fmt: skip
    """Write `name.dat`, `name.hea` and, if there is a beat, `name.atr`, in Icentia11k's layout.

    `digital` is (samples,) int16 with `gain` units per mV. Beats have their samples in `ends`,
    ascending; `symbols` `Q`, `N`, `S`, `a` or `V`, `""` where only a rhythm zone begins or ends;
    and in `zones` the mark that opens the rhythm zone they lie in, `""` for none.
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
