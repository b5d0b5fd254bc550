"""WFDB records: headers, signals and annotations through wfdb; segments in Icentia11k's layout."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import wfdb

from recordings import (
    GAINS,
    MILLIVOLT,
    Hints,
    LazyRecording,
    Unusable,
    check_rate,
    millivolt,
    one_line,
)

# What wfdb raises on bad files.
ERRORS = (OSError, ValueError, IndexError, KeyError, TypeError, ArithmeticError)
BLOCK = 2**17  # samples that are read at once: opening a record takes longer than reading these

# Limits of a header; wfdb takes time that grows with the square of a line's length.
LEADS, LINE, HEADER = 256, 500, 2**20  # leads, characters, bytes
BASELINE = 2**31
# Bytes of a sample by format. FLAC is left out: what a file unfolds to is not known beforehand.
SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2,
                "212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3)}  # fmt: skip
# Fields that wfdb takes only the beginning of, or a default for, where they are something else.
RATE = re.compile(r"(\d+\.?\d*|\.\d+)(/.*)?")
FORMAT = re.compile(r"\d+(x\d+)?(:\d+)?(\+\d+)?")
GAIN = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(\(-?\d+\))?(/.*)?")
NO_GAIN = re.compile(r"((0+\.?0*|\.0+)(e[+-]?\d+)?(\(-?\d+\))?(/.*)?)?")
DEFAULT_GAIN = 200  # units per mV of a lead without a gain, or with 0: WFDB's header(5), DEFGAIN
# What an annotation file says of itself; wfdb loops for ever at other words.
COMMENT = re.compile(rb"(.)[\xfc-\xff](?=## )", re.DOTALL)
COMMENTS = re.compile(rb"(## time resolution: \d+\.?\d*\n)?"
                      rb"(## annotation type definitions\n## end of definitions\n)?")  # fmt: skip

# Icentia11k's layout on PhysioNet: one lead in format 16.
ICENTIA_FS = 250  # Hz
ICENTIA_GAIN = 74.36482269503546  # units per mV


def read_header(record: Path) -> tuple[wfdb.Record, list[int]]:
    """Header of a record with at least one lead, all of them calibrated in mV, uV or V, and the
    leads for which it states no gain, or 0, which means 200 units per mV.

    Args:
        record: without extension.

    Raises:
        Unusable: any other header.
    """
    try:
        line, *leads = _header_fields(record)
        header = wfdb.rdheader(str(record))
    except FileNotFoundError:
        raise Unusable("no .hea, which says how it was sampled") from None
    except ERRORS as error:
        raise Unusable(f"unreadable header ({one_line(error)})") from None
    if not isinstance(header, wfdb.Record) or not header.n_sig or not header.file_name:
        raise Unusable("header without leads")
    if header.n_sig != len(leads):
        raise Unusable(f"header says {header.n_sig} leads, lists {len(leads)}")
    for field, pattern in zip(line[2:], (RATE, re.compile(r"\d+")), strict=False):
        if not pattern.fullmatch(field):
            raise Unusable(f"header says {field[:20]!r} for its rate or length")
    check_rate(header.fs)
    without_gain = []
    for lead, (_, fmt, gain, *_) in enumerate([*fields, "", ""] for fields in leads):
        if not FORMAT.fullmatch(fmt) or header.skew[lead] or not header.samps_per_frame[lead]:
            raise Unusable(f"lead {lead} has the format {fmt[:20]!r}, which is not read")
        if NO_GAIN.fullmatch(gain):
            without_gain.append(lead)
        per_mv = header.adc_gain[lead] / MILLIVOLT.get(header.units[lead], np.nan)
        plausible = GAINS[0] <= per_mv <= GAINS[1] and abs(header.baseline[lead] or 0) < BASELINE
        if not (plausible and (lead in without_gain or GAIN.fullmatch(gain))):
            raise Unusable(f"header states no gain per mV, uV or V for lead {lead}")
    return header, without_gain


def _header_fields(record: Path) -> list[list[str]]:
    """Fields of each line that is no comment: of the record, then of each lead."""
    path = Path(f"{record}.hea")
    if path.stat().st_size > HEADER:
        raise Unusable(f"header of more than {HEADER:,} bytes")
    lines = map(str.strip, path.read_text("ascii", "ignore").splitlines())  # as wfdb does
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > 1 + LEADS or any(len(line) > LINE for line in lines):
        raise Unusable(f"header of more than {LEADS} leads, or {LINE} characters in a line")
    fields = list(map(str.split, lines))
    for name, *_ in fields[1:]:
        if "/" in name or "\\" in name:
            raise Unusable(f"header names a signal file in another folder ({name})")
    return fields


def check_length(record: Path, header: wfdb.Record) -> None:
    """Check the length that a header states against its signal files, before they are read.

    Raises:
        Unusable: one is missing, shorter, or of a format that is not read.
    """
    for name in set(header.file_name):
        leads = [lead for lead, other in enumerate(header.file_name) if other == name]
        if header.fmt[leads[0]] not in SAMPLE_BYTES:
            raise Unusable(f"unreadable signal (format {header.fmt[leads[0]]})")
        try:
            size = (record.parent / name).stat().st_size - (header.byte_offset[leads[0]] or 0)
        except FileNotFoundError:
            raise Unusable(f"no {name.removeprefix(record.name)} beside its .hea") from None
        except OSError as error:
            raise Unusable(f"unreadable signal ({one_line(error)})") from None
        samples = sum(header.samps_per_frame[lead] for lead in leads)
        held = max(Fraction(size) / (SAMPLE_BYTES[header.fmt[leads[0]]] * samples), 0)
        if (header.sig_len or 0) > held:
            raise Unusable(f"header says {header.sig_len} samples, file holds {int(held)}")


def open_wfdb(path: Path, hints: Hints) -> LazyRecording:
    """Open a WFDB record, to be read in blocks; missing samples are NaN.

    Args:
        path: its header. hints: unit and gain of leads for which the header states no gain;
            without them WFDB's default applies and the recording is `uncalibrated`.

    Raises:
        Unusable: unreadable, no gain per mV, uV or V, or a length that is not the header's.
    """
    record = path.with_suffix("")
    header, silent = read_header(record)
    check_length(record, header)
    scale = np.ones(header.n_sig)
    if hints.unit:
        scale[silent] = DEFAULT_GAIN * millivolt(hints.unit, hints.gain)
    whole = header.sig_len is None or "8" in header.fmt  # each sample of 8 is a step from the last
    signal = _read_signal(record, 0, header.sig_len, None) if whole else None
    length = len(signal) if whole else header.sig_len

    @lru_cache(2)
    def block(number: int, leads: tuple[int, ...]) -> np.ndarray:
        stop = min((number + 1) * BLOCK, length)
        return _read_signal(record, number * BLOCK, stop, list(leads))

    def read(start: int, stop: int, leads: list[int]) -> np.ndarray:
        first, last = start // BLOCK, max(start, stop - 1) // BLOCK
        if whole:
            part = signal[start:stop, leads]
        elif stop - start > BLOCK:
            part = _read_signal(record, start, stop, leads)
        else:
            blocks = [block(number, tuple(leads)) for number in range(first, last + 1)]
            part = np.concatenate(blocks)[start - first * BLOCK : stop - first * BLOCK]
        return part * scale[leads]

    uncalibrated = bool(silent and not hints.unit)
    return LazyRecording(header.fs, length, header.n_sig, header.sig_name, read, uncalibrated)


def _read_signal(record: Path, start: int, stop: int | None, leads: list[int] | None) -> np.ndarray:
    """(samples, leads) in mV; up to the end where `stop` is None."""
    try:
        read = wfdb.rdrecord(str(record), sampfrom=start, sampto=stop, channels=leads)
        signal = read.p_signal * [MILLIVOLT[unit] for unit in read.units]
    except ERRORS as error:
        raise Unusable(f"unreadable signal ({one_line(error)})") from None
    if stop is not None and len(signal) != stop - start:
        raise Unusable(f"unreadable signal ({len(signal)} of {stop - start} samples)")
    return signal


def read_atr(record: Path | str) -> wfdb.Annotation:
    """Annotations in `record.atr`.

    Raises:
        Unusable: there are none, or they cannot be read to their end.
    """
    try:
        content = Path(f"{record}.atr").read_bytes()
        if content[-2:] != b"\0\0":
            raise Unusable("annotations cut short")
        comments = (content[at.end() : at.end() + at[1][0]] for at in COMMENT.finditer(content))
        if not COMMENTS.fullmatch(b"".join(comment + b"\n" for comment in comments)):
            raise Unusable("annotations with definitions that are not understood")
        return wfdb.rdann(str(record), "atr")
    except FileNotFoundError:
        raise Unusable("no .atr") from None
    except ERRORS as error:
        raise Unusable(f"unreadable annotations ({one_line(error)})") from None


def segment_path(root: Path, patient: int, segment: int) -> tuple[Path, str]:
    """Folder and name of a segment in Icentia11k's layout below `root`."""
    return root / f"p{patient // 1000:02d}" / f"p{patient:05d}", f"p{patient:05d}_s{segment:02d}"


def write_segment(
    folder: Path,
    name: str,
    digital: np.ndarray,
    gain: float,
    ends: np.ndarray,
    symbols: Sequence[str],
    zones: Sequence[str],
) -> None:
    """Write `name.dat`, `name.hea` and, if there is a beat, `name.atr`, in Icentia11k's layout.

    Args:
        folder: is created if need be.
        digital: (samples,) int16. gain: units per mV.
        ends: (beats,) sample of each beat, ascending. symbols: `Q`, `N`, `S`, `a` or `V` of each.
        zones: the mark that opens the rhythm zone each beat lies in, `""` for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, ICENTIA_FS, ["mV"], ["ecg"], d_signal=digital[:, None], fmt=["16"], adc_gain=[gain],
        baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    if len(ends):
        marks = zip(*_marks(ends, symbols, zones), strict=True)
        places, letters, notes = map(list, marks)
        wfdb.wrann(name, "atr", np.array(places), letters, aux_note=notes, fs=ICENTIA_FS,
                   write_dir=str(folder))  # fmt: skip


def _marks(
    ends: np.ndarray, symbols: Sequence[str], zones: Sequence[str]
) -> Iterator[tuple[int, str, str]]:
    """Place, symbol and note of each beat and, behind the first and last beat of each zone, of a
    rhythm mark."""
    for i, (end, symbol, zone) in enumerate(zip(ends, symbols, zones, strict=True)):
        yield end, symbol, ""
        opens = zone and (i == 0 or zones[i - 1] != zone)
        closes = zone and (i + 1 == len(ends) or zones[i + 1] != zone)
        if opens or closes:
            yield end, "+", (zone if opens else "") + (")" if closes else "")
