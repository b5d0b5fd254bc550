"""EDF, EDF+ and BDF files (https://www.edfplus.info/specs/) through edfio."""

import re
import warnings
from pathlib import Path

import edfio
import numpy as np

from recordings import GAINS, Hints, LazyRecording, Unusable

# Reader by what a file begins with. edfio maps EDF and reads BDF at once.
READERS = {b"0       ": edfio.read_edf, b"\xffBIOSEMI": edfio.read_bdf}
# Âµ and Î¼ are UTF-8 taken for Latin-1, in which headers are read here.
VOLT = re.compile("(u|µ|μ|Âµ|Î¼|micro|m|milli|) ?v(olts?)?", re.IGNORECASE)
PREFIXES = {"": 1e3, "m": 1.0, "milli": 1.0}  # mV of a volt with this prefix; others are micro
ECG = re.compile("ecg|ekg", re.IGNORECASE)


def open_edf(path: Path, hints: Hints) -> LazyRecording:
    """Open a file; its leads are the signals in uV, mV or V, those called ECG or EKG first.

    Signals at another rate than the first of them, other signals and annotations are left out.
    The header states rate and units; `hints` are not used.

    Raises:
        Unusable: no such file, with gaps (EDF+D), shorter than its header says, or without such
            signals. ValueError and others: damaged.
    """
    with path.open("rb") as file:
        start = file.read(256)
    reader = READERS.get(start[:8])
    if not reader:
        raise Unusable("not an EDF file")
    length, stated, count = int(start[184:192]), int(start[236:244]), int(start[252:256])
    if length != 256 * (count + 1) or not float(start[244:252]) > 0:
        raise Unusable("header with a wrong length, or data records without one")
    with warnings.catch_warnings(action="ignore"):  # the number of records is checked below
        file = reader(path, header_encoding="latin-1")
    if file.reserved[:5] in ("EDF+D", "BDF+D"):
        raise Unusable(f"recording with gaps ({file.reserved[:5]}), which is not read")
    if not -1 <= stated <= file.num_data_records:
        raise Unusable(f"header says {stated} data records, file holds {file.num_data_records}")
    if any(signal.samples_per_data_record < 1 for signal in file.signals):
        raise Unusable("header states a signal without samples")
    signals = [signal for signal in file.signals if _millivolt(signal)]
    signals.sort(key=lambda signal: not ECG.search(signal.label))
    if not signals:
        raise Unusable("no signal is in uV, mV or V")
    fs, frame = signals[0].sampling_frequency, signals[0].samples_per_data_record
    signals = [signal for signal in signals if signal.samples_per_data_record == frame]
    for signal in signals:
        steps = signal.digital_max - signal.digital_min
        span = (signal.physical_max - signal.physical_min) * _millivolt(signal)
        if steps <= 0 or not span or not GAINS[0] <= abs(steps / span) <= GAINS[1]:
            raise Unusable(f"header states no gain for {' '.join(signal.label.split())}")

    def read(first: int, stop: int, chosen: list[int]) -> np.ndarray:
        leads = [signals[lead] for lead in chosen]
        parts = [lead.get_data_slice(first / fs, stop / fs) * _millivolt(lead) for lead in leads]
        return np.column_stack(parts)

    # The number of data records is -1 in a file that was still being written.
    samples = (file.num_data_records if stated == -1 else stated) * frame
    mapped = (path, path.stat().st_size) if reader is edfio.read_edf else None
    names = [signal.label for signal in signals]
    return LazyRecording(fs, samples, len(signals), names, read, mapped=mapped)


def _millivolt(signal: edfio.EdfSignal | edfio.BdfSignal) -> float | None:
    """One of the signal's unit in mV, if it is a voltage."""
    match = VOLT.fullmatch(signal.physical_dimension.strip())
    return PREFIXES.get(match[1].lower(), 1e-3) if match else None
