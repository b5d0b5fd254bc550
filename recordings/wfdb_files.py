"""WFDB headers, signals and annotations through wfdb, with one error for all that is unusable."""

import re
from fractions import Fraction
from pathlib import Path

import wfdb

from recordings import Unusable

MILLIVOLT = {"mV": 1.0, "uV": 1e-3, "V": 1e3}  # one of each unit, in mV
# What wfdb raises on bad files.
ERRORS = (OSError, ValueError, IndexError, KeyError, TypeError, ArithmeticError)

# More is no header; wfdb takes time that grows with the square of a line's length.
LEADS, LINE, HEADER = 256, 500, 2**20  # leads, characters, bytes
RATES = (20, 20_000)  # Hz; others are mistakes, or no ECG
GAINS = (1e-6, 1e12)  # units per mV
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
# What an annotation file says of itself; wfdb goes round for ever at other words.
COMMENT = re.compile(rb"(.)[\xfc-\xff](?=## )", re.DOTALL)
COMMENTS = re.compile(rb"(## time resolution: \d+\.?\d*\n)?"
                      rb"(## annotation type definitions\n## end of definitions\n)?")  # fmt: skip


def read_header(record: Path) -> wfdb.Record:
    """Header of a record with at least one lead, all of them calibrated in mV, uV or V.

    Args:
        record: without extension.

    Raises:
        Unusable: anything else.
    """
    try:
        stated = _fields(Path(f"{record}.hea"))
        header = wfdb.rdheader(str(record))
    except FileNotFoundError:
        raise Unusable("no .hea, which says how it was sampled") from None
    except ERRORS as error:
        raise Unusable(f"unreadable header ({words(error)})") from None
    if not isinstance(header, wfdb.Record) or not header.n_sig or not header.file_name:
        raise Unusable("header without leads")
    about, *leads = stated
    if header.n_sig != len(leads):
        raise Unusable(f"header says {header.n_sig} leads, lists {len(leads)}")
    for field, pattern in zip(about[2:], (RATE, re.compile(r"\d+")), strict=False):
        if not pattern.fullmatch(field):
            raise Unusable(f"header says {field[:20]!r} for its rate or length")
    check_rate(header.fs)
    for lead, (_, form, gain, *_) in enumerate([*fields, "", ""] for fields in leads):
        if not FORMAT.fullmatch(form) or header.skew[lead] or not header.samps_per_frame[lead]:
            raise Unusable(f"lead {lead} has the format {form[:20]!r}, which is not read")
        known = GAIN.fullmatch(gain) or NO_GAIN.fullmatch(gain)
        if not known or not _calibrated(header, lead):
            raise Unusable(f"header states no gain per mV, uV or V for lead {lead}")
    return header


def leads_without_gain(record: Path) -> list[int]:
    """Leads for which a header that `read_header` took states no gain, or 0, which means 200."""
    _, *leads = _fields(Path(f"{record}.hea"))
    gains = ([*fields, ""][2] for fields in leads)
    return [lead for lead, gain in enumerate(gains) if NO_GAIN.fullmatch(gain)]


def _fields(path: Path) -> list[list[str]]:
    """The words of each line that is no comment: of the record, then of each lead."""
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


def _calibrated(header: wfdb.Record, lead: int) -> bool:
    unit, baseline = header.units[lead], header.baseline[lead] or 0
    if unit not in MILLIVOLT or abs(baseline) >= BASELINE:
        return False
    return GAINS[0] <= header.adc_gain[lead] / MILLIVOLT[unit] <= GAINS[1]


def check_rate(fs: float) -> None:
    """Raises `Unusable` at a rate in Hz of no ECG."""
    if not RATES[0] <= fs <= RATES[1]:
        raise Unusable(f"{fs:g} Hz is not from {RATES[0]} to {RATES[1]}")


def check_length(record: Path, header: wfdb.Record) -> None:
    """Hold the length that a header states against its signal files, before they are read.

    Raises:
        Unusable: one is missing, shorter, or of a format that is not read.
    """
    for name in set(header.file_name):
        leads = [lead for lead, other in enumerate(header.file_name) if other == name]
        form, offset = header.fmt[leads[0]], header.byte_offset[leads[0]] or 0
        if form not in SAMPLE_BYTES:
            raise Unusable(f"unreadable signal (format {form})")
        try:
            size = (record.parent / name).stat().st_size - offset
        except FileNotFoundError:
            raise Unusable(f"no {name.removeprefix(record.name)} beside its .hea") from None
        except OSError as error:
            raise Unusable(f"unreadable signal ({words(error)})") from None
        frame = SAMPLE_BYTES[form] * sum(header.samps_per_frame[lead] for lead in leads)
        held = max(Fraction(size) / frame, 0)
        if (header.sig_len or 0) > held:
            raise Unusable(f"header says {header.sig_len} samples, file holds {int(held)}")


def read_marks(record: Path | str) -> wfdb.Annotation:
    """Annotations in `record.atr`.

    Raises:
        Unusable: there are none, or they cannot be read to their end.
    """
    path = Path(f"{record}.atr")
    try:
        content = path.read_bytes()
        if content[-2:] != b"\0\0":
            raise Unusable("annotations cut short")
        comments = (content[at.end() : at.end() + at[1][0]] for at in COMMENT.finditer(content))
        if not COMMENTS.fullmatch(b"".join(comment + b"\n" for comment in comments)):
            raise Unusable("annotations with definitions that are not understood")
        return wfdb.rdann(str(record), "atr")
    except FileNotFoundError:
        raise Unusable("no .atr") from None
    except ERRORS as error:
        raise Unusable(f"unreadable annotations ({words(error)})") from None


def words(error: Exception) -> str:
    """What is wrong, in one line, without the path that a system error names."""
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8; save it so"
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]
