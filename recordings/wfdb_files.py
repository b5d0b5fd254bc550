"""WFDB records: headers, signals and annotations through wfdb; segments in Icentia11k's layout."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import wfdb

from recordings import GAINS, MILLIVOLT, Hints, LazyRecording, Unusable, as_unit, one_line

# What wfdb raises on bad files.
ERRORS = (OSError, ValueError, IndexError, KeyError, TypeError, ArithmeticError)
LEADS, LINE = 256, 500  # at most, and characters in a line: wfdb's time grows with their square
# Bytes of a sample by format. FLAC is left out: what a file unfolds to is not known beforehand.
SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2,
                "212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3)}  # fmt: skip
# Fields that wfdb takes only the beginning of, or a default for, where they are something else.
RATE = re.compile(r"((\d+\.?\d*|\.\d+)(/\S*)?( \d+)?)?")  # with the length
FORMAT = re.compile(r"\d+(x\d+)?(:\d+)?(\+\d+)?")
GAIN = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(\(-?\d+\))?(/.*)?")
DEFAULT_GAIN = 200  # units per mV of a lead without a gain, or with 0: WFDB's header(5), DEFGAIN
# What an annotation file says of itself; wfdb loops for ever at other words.
COMMENT = re.compile(rb"(.)[\xfc-\xff](?=## )", re.DOTALL)
COMMENTS = re.compile(rb"(## time resolution: \d+\.?\d*\n)?"
                      rb"(## annotation type definitions\n## end of definitions\n)?")  # fmt: skip

# Icentia11k's layout on PhysioNet: one lead in format 16.
ICENTIA_FS = 250  # Hz
ICENTIA_GAIN = 74.36482269503546  # units per mV


def read_header(record: Path) -> tuple[wfdb.Record, list[int]]:
    """Header of a record (path without ending) and its leads without a gain, or with 0.

    Raises `Unusable` if it is missing or damaged, or if a lead is not in mV, uV or V.
    """
    try:
        text = Path(f"{record}.hea").read_text("ascii", "surrogateescape")  # wfdb drops the µ of µV
        lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
        if len(lines) > 1 + LEADS or any(len(line) > LINE for line in lines):
            raise Unusable(f"header of more than {LEADS} leads, or {LINE} characters in a line")
        first, *leads = [line.split() for line in lines] or [[]]
        if names := [name for name, *_ in leads if "/" in name or "\\" in name]:
            raise Unusable(f"header names a signal file in another folder ({names[0]!r})")
        header = wfdb.rdheader(str(record))
    except FileNotFoundError:
        raise Unusable("no .hea, which says how it was sampled") from None
    except ERRORS as error:
        raise Unusable(f"unreadable header ({one_line(error)})") from None
    single = isinstance(header, wfdb.Record) and leads and len(leads) == header.n_sig
    if not single or not RATE.fullmatch(" ".join(first[2:4])):
        said = f"{' '.join(first[1:4])[:40]!r} for its leads, rate and length"
        raise Unusable(f"header says {said}, lists {len(leads)} leads")
    without_gain = []
    for lead, (_, fmt, gain, *_) in enumerate([*fields, "", ""] for fields in leads):
        if not FORMAT.fullmatch(fmt) or header.skew[lead] or not header.samps_per_frame[lead]:
            raise Unusable(f"lead {lead} has the format {fmt[:20]!r}, which is not read")
        stated, unit = GAIN.fullmatch(gain or "0"), gain.partition("/")[2] or "mV"
        header.units[lead] = as_unit(unit.encode("ascii", "surrogateescape").decode("latin-1"))
        if stated and float(stated[1]) == 0:
            without_gain.append(lead)
        per_mv = header.adc_gain[lead] / MILLIVOLT.get(header.units[lead], np.nan)
        plausible = GAINS[0] <= per_mv <= GAINS[1] and abs(header.baseline[lead] or 0) < 2**31
        if not plausible or not stated:
            raise Unusable(f"header states no gain per mV, uV or V for lead {lead}")
    return header, without_gain


def check_length(record: Path, header: wfdb.Record) -> None:
    """Raises `Unusable` where a signal file does not hold the length that the header states."""
    for name in set(header.file_name):
        leads = [lead for lead, other in enumerate(header.file_name) if other == name]
        fmt, samples = header.fmt[leads[0]], sum(header.samps_per_frame[lead] for lead in leads)
        if fmt not in SAMPLE_BYTES:
            raise Unusable(f"unreadable signal (format {fmt})")
        if not (record.parent / name).is_file():
            raise Unusable(f"no {name.removeprefix(record.name)} beside its .hea")
        size = (record.parent / name).stat().st_size - (header.byte_offset[leads[0]] or 0)
        held = max(Fraction(size) / (SAMPLE_BYTES[fmt] * samples), 0)
        if (header.sig_len or 0) > held:
            raise Unusable(f"header says {header.sig_len} samples, file holds {int(held)}")


def open_wfdb(path: Path, hints: Hints) -> LazyRecording:
    """Open the WFDB record with this header; missing samples are NaN.

    `hints` give the unit and gain of leads for which the header states no gain; without them
    WFDB's default applies and the recording is `uncalibrated`.
    """
    record = path.with_suffix("")
    header, without_gain = read_header(record)
    check_length(record, header)
    scale = np.array([MILLIVOLT[unit] for unit in header.units])
    if hints.unit:
        scale[without_gain] = DEFAULT_GAIN * hints.millivolt()

    def read(start: int, stop: int | None, leads: list[int]) -> np.ndarray:
        try:
            signal = wfdb.rdrecord(str(record), sampfrom=start, sampto=stop).p_signal * scale
        except ERRORS as error:
            raise Unusable(f"unreadable signal ({one_line(error)})") from None
        if stop is not None and len(signal) != stop - start:
            raise Unusable(f"unreadable signal ({len(signal)} of {stop - start} samples)")
        return signal[:, leads]

    fs, samples, count, names = header.fs, header.sig_len, header.n_sig, header.sig_name
    recording = LazyRecording(fs, samples, count, names, read)
    if samples is None or "8" in header.fmt:  # a sample in format 8 is a step from the last one
        values = read(0, samples, list(range(count)))
        recording = LazyRecording.of_array(values, 1, fs, names)
    return replace(recording, uncalibrated=bool(without_gain and not hints.unit))


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
        ends: (beats,) sample of each beat, ascending. symbols: `Q`, `N`, `S`, `a` or `V` of each.
        zones: the mark that opens the rhythm zone each beat lies in, `""` for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, ICENTIA_FS, ["mV"], ["ecg"], d_signal=digital[:, None], fmt=["16"], adc_gain=[gain],
        baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    marks, around = [], ["", *zones, ""]  # marks have place, symbol and note
    for i, (end, symbol, zone) in enumerate(zip(ends, symbols, zones, strict=True)):
        marks.append((end, symbol, ""))
        note = zone * (zone != around[i]) + ")" * (zone != around[i + 2])
        if zone and note:  # a rhythm mark behind the first and last beat of a zone
            marks.append((end, "+", note))
    if marks:
        places, letters, notes = map(list, zip(*marks, strict=True))
        wfdb.wrann(name, "atr", np.array(places), letters, aux_note=notes, fs=ICENTIA_FS,
                   write_dir=str(folder))  # fmt: skip
