"""EDF, EDF+ and BDF files: which of their signals are leads, and parts of these.

European Data Format, https://www.edfplus.info/specs/. A file is a header and, one after the other,
data records of some seconds, in each of which the signals follow each other. To read a part,
`edfio` is given the header with the records that hold it, as if they were the file.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import edfio
import numpy as np

from recordings import Unusable
from recordings.lazy import LazyRecording
from recordings.wfdb_files import ERRORS, GAINS, LEADS, words

# What a file begins with, who reads it, and the bytes of a sample.
KINDS: dict[bytes, tuple[Callable, int]] = {
    b"0       ": (edfio.read_edf, 2),
    b"\xffBIOSEMI": (edfio.read_bdf, 3),
}
FIELDS = 256  # bytes, of the file and again of each signal
KIND, LENGTH, GAPS = slice(0, 8), slice(184, 192), slice(192, 197)
RECORDS, DURATION, SIGNALS = slice(236, 244), slice(244, 252), slice(252, 256)
FRAME = 216  # bytes of a signal before its samples in a data record, each field by all signals
ENCODING = "latin-1"  # of a µ; fields ought to be ASCII
# Âµ and Î¼ are UTF-8 taken for Latin-1.
VOLT = re.compile("(u|µ|μ|Âµ|Î¼|micro|m|milli|) ?v(olts?)?", re.IGNORECASE)
MILLIVOLT = {"": 1e3, "m": 1.0, "milli": 1.0}  # by what is before the "v"; else it is micro
ECG = re.compile("ecg|ekg", re.IGNORECASE)


class _File(NamedTuple):
    """Header of a file at `path`; `records` of `size` bytes follow it."""

    path: Path
    header: bytes
    records: int
    size: int

    def parse(self, first: int, stop: int) -> Any:
        """The data records from `first` up to `stop` as a file."""
        try:
            with self.path.open("rb") as file:
                file.seek(len(self.header) + first * self.size)
                content = file.read((stop - first) * self.size)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise Unusable(f"file cannot be read ({words(error)})") from None
        if len(content) < (stop - first) * self.size:
            raise Unusable("file is shorter than it was")
        return _parse(self.header, stop - first, content)


def open_edf(path: Path) -> LazyRecording:
    """Open a file; its leads are the signals in uV, mV or V, those called ECG or EKG first.

    Signals at another rate than the first of them, other signals and annotations are left out.

    Raises:
        Unusable: not such a file, damaged, shorter than its header says, with gaps (EDF+D), or
            without such signals.
    """
    file, signals = _open(path)
    leads = [(place, signal) for place, signal in enumerate(signals) if _millivolt(signal)]
    if not leads:
        raise Unusable("no signal is in uV, mV or V")
    leads.sort(key=lambda lead: not ECG.search(lead[1].label))
    fs, frame = leads[0][1].sampling_frequency, leads[0][1].samples_per_data_record
    leads = [lead for lead in leads if lead[1].samples_per_data_record == frame]
    for _, signal in leads:
        _check_calibration(signal)
    scales = [(place, _millivolt(signal)) for place, signal in leads]
    names = [signal.label for _, signal in leads]

    def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
        first = start // frame
        held = file.parse(first, -(-stop // frame)).signals
        kept = slice(start - first * frame, stop - first * frame)
        wanted = [scales[lead] for lead in chosen]
        return np.column_stack([held[place].data[kept] * scale for place, scale in wanted])

    return LazyRecording(fs, file.records * frame, len(leads), names, read)


def _open(path: Path) -> tuple[_File, tuple[edfio.EdfSignal, ...]]:
    """The file, and its signals but for annotations."""
    try:
        with path.open("rb") as file:
            header = file.read(FIELDS)
            if header[KIND] not in KINDS or len(header) < FIELDS:
                raise Unusable("not an EDF file")
            if header[GAPS] in (b"EDF+D", b"BDF+D"):
                raise Unusable(f"recording with gaps ({header[GAPS].decode()}), which is not read")
            count = int(header[SIGNALS])
            if not 0 < count <= LEADS or not float(header[DURATION]) > 0:
                raise Unusable(f"header of {count} signals, or of data records without a length")
            header += file.read(FIELDS * count)
        if not len(header) == FIELDS * (count + 1) == int(header[LENGTH]):
            raise ValueError("it has another length than it says")
        fields = range(FIELDS + FRAME * count, FIELDS + (FRAME + 8) * count, 8)
        frames = [int(header[place : place + 8]) for place in fields]
        if min(frames) < 1:
            raise ValueError("it states a signal without samples")
        signals = _parse(header, 0, b"").signals
        size = sum(frames) * KINDS[header[KIND]][1]
        held = (path.stat().st_size - len(header)) / size
        stated = int(header[RECORDS])
    except ERRORS as error:
        raise Unusable(f"unreadable header ({words(error)})") from None
    if stated > held or stated < -1:
        raise Unusable(f"header says {stated} data records, file holds {int(held)}")
    records = int(held) if stated == -1 else stated  # -1: it was being written
    return _File(path, header, records, size), signals


def _parse(header: bytes, records: int, content: bytes) -> Any:
    fields = header[: RECORDS.start] + b"%-8d" % records + header[RECORDS.stop :]
    read, _ = KINDS[header[KIND]]
    return read(fields + content, header_encoding=ENCODING)


def _millivolt(signal: edfio.EdfSignal) -> float | None:
    """One of the signal's unit in mV, if it is a voltage."""
    match = VOLT.fullmatch(signal.physical_dimension.strip())
    return MILLIVOLT.get(match[1].lower(), 1e-3) if match else None


def _check_calibration(signal: edfio.EdfSignal) -> None:
    try:
        steps = signal.digital_max - signal.digital_min
        per_mv = steps / (signal.physical_max - signal.physical_min) / _millivolt(signal)
    except ERRORS:
        steps = per_mv = 0
    if steps <= 0 or not GAINS[0] <= abs(per_mv) <= GAINS[1]:
        label = " ".join(signal.label.split())
        raise Unusable(f"header states no gain for {label or 'a signal'}")
