"""EDF, EDF+ and BDF files (https://www.edfplus.info/specs/) through edfio."""

import re
import warnings
from pathlib import Path

import edfio
import numpy as np

from recordings import GAINS, Hints, LazyRecording, Unusable, one_line

# Reader by what a file begins with. edfio maps EDF and reads BDF at once.
READERS = {b"0       ": edfio.read_edf, b"\xffBIOSEMI": edfio.read_bdf}
ENCODING = "latin-1"  # of a µ; fields ought to be ASCII
# Âµ and Î¼ are UTF-8 taken for Latin-1.
VOLT = re.compile("(u|µ|μ|Âµ|Î¼|micro|m|milli|) ?v(olts?)?", re.IGNORECASE)
PREFIXES = {"": 1e3, "m": 1.0, "milli": 1.0}  # mV of a volt with this prefix; others are micro
ECG = re.compile("ecg|ekg", re.IGNORECASE)


def open_edf(path: Path, hints: Hints) -> LazyRecording:
    """Open a file; its leads are the signals in uV, mV or V, those called ECG or EKG first.

    Signals at another rate than the first of them, other signals and annotations are left out.
    The header states rate and units; `hints` are not used.

    Raises:
        Unusable: not such a file, damaged, shorter than its header says, with gaps (EDF+D), or
            without such signals.
    """
    with path.open("rb") as file:
        start = file.read(256)
    reader = READERS.get(start[:8])
    if not reader:
        raise Unusable("not an EDF file")
    try:
        length, stated, count = int(start[184:192]), int(start[236:244]), int(start[252:256])
        if length != 256 * (count + 1):
            raise ValueError("it has another length than it says")
        if not float(start[244:252]) > 0:
            raise ValueError("data records without a length")
        with warnings.catch_warnings(action="ignore"):  # the number of records is checked below
            file = reader(path, header_encoding=ENCODING)
        signals = [signal for signal in file.signals if _millivolt(signal)]
        frames = [signal.samples_per_data_record for signal in file.signals]
        held, kind = file.num_data_records, file.reserved[:5]
    except Exception as error:  # edfio raises almost any error on damaged headers
        raise Unusable(f"unreadable header ({one_line(error)})") from None
    if kind in ("EDF+D", "BDF+D"):
        raise Unusable(f"recording with gaps ({kind}), which is not read")
    if min(frames, default=1) < 1:
        raise Unusable("unreadable header (it states a signal without samples)")
    if not -1 <= stated <= held:
        raise Unusable(f"header says {stated} data records, file holds {held}")
    if not signals:
        raise Unusable("no signal is in uV, mV or V")
    signals.sort(key=lambda signal: not ECG.search(signal.label))
    frame = signals[0].samples_per_data_record
    signals = [signal for signal in signals if signal.samples_per_data_record == frame]
    for signal in signals:
        _check_calibration(signal)
    fs = signals[0].sampling_frequency

    def read(first: int, stop: int, chosen: list[int]) -> np.ndarray:
        leads = [signals[lead] for lead in chosen]
        parts = [lead.get_data_slice(first / fs, stop / fs) * _millivolt(lead) for lead in leads]
        return np.column_stack(parts)

    samples = (held if stated == -1 else stated) * frame  # -1: it was being written
    names = [signal.label for signal in signals]
    mapped = (path, path.stat().st_size) if reader is edfio.read_edf else None
    return LazyRecording(fs, samples, len(signals), names, read, mapped=mapped)


def _millivolt(signal: edfio.EdfSignal | edfio.BdfSignal) -> float | None:
    """One of the signal's unit in mV, if it is a voltage."""
    match = VOLT.fullmatch(signal.physical_dimension.strip())
    return PREFIXES.get(match[1].lower(), 1e-3) if match else None


def _check_calibration(signal: edfio.EdfSignal | edfio.BdfSignal) -> None:
    try:
        steps = signal.digital_max - signal.digital_min
        per_mv = steps / (signal.physical_max - signal.physical_min) / _millivolt(signal)
    except (ValueError, ArithmeticError):
        steps = per_mv = 0
    if steps <= 0 or not GAINS[0] <= abs(per_mv) <= GAINS[1]:
        label = " ".join(signal.label.split())
        raise Unusable(f"header states no gain for {label or 'a signal'}")
