"""EDF, EDF+ and BDF files (https://www.edfplus.info/specs/) through edfio."""

import warnings
from pathlib import Path

import edfio
import numpy as np

from recordings import GAINS, MILLIVOLT, Hints, LazyRecording, Unusable, as_unit, ecg_first

# Reader by what a file begins with.
READERS = {b"0       ": edfio.read_edf, b"\xffBIOSEMI": edfio.read_bdf}


def open_edf(path: Path, hints: Hints) -> LazyRecording:
    """Open a file; its leads are the signals in uV, mV or V, those called ECG or EKG first.

    Signals at another rate than the first of them, other signals and annotations are left out.
    The header states rate and units; `hints` are not used. Files with gaps (EDF+D) are refused.
    """
    content = path.read_bytes()
    reader = READERS.get(content[:8])
    if not reader:
        raise Unusable("not an EDF file")
    length, stated, count = int(content[184:192]), int(content[236:244]), int(content[252:256])
    if length != 256 * (count + 1) or not float(content[244:252]) > 0:
        raise Unusable("header with a wrong length, or data records without one")
    with warnings.catch_warnings(action="ignore"):  # the number of records is checked below
        file = reader(content, header_encoding="latin-1")
    if file.reserved[:5] in ("EDF+D", "BDF+D"):
        raise Unusable(f"recording with gaps ({file.reserved[:5]}), which is not read")
    frames = [signal.samples_per_data_record for signal in file.signals]
    if not -1 <= stated <= file.num_data_records or min(frames, default=1) < 1:
        raise Unusable(f"header does not fit the {file.num_data_records} data records of the file")
    signals = [signal for signal in file.signals if as_unit(signal.physical_dimension) in MILLIVOLT]
    signals = [signals[number] for number in ecg_first([signal.label for signal in signals])]
    if not signals:
        raise Unusable("no signal is in uV, mV or V")
    fs, frame = signals[0].sampling_frequency, signals[0].samples_per_data_record
    signals = [signal for signal in signals if signal.samples_per_data_record == frame]
    scales = [MILLIVOLT[as_unit(signal.physical_dimension)] for signal in signals]
    for signal, scale in zip(signals, scales, strict=True):
        steps = signal.digital_max - signal.digital_min
        span = (signal.physical_max - signal.physical_min) * scale
        if steps <= 0 or not span or not GAINS[0] <= abs(steps / span) <= GAINS[1]:
            raise Unusable(f"header states no gain for {' '.join(signal.label.split())}")

    def read(first: int, stop: int, leads: list[int]) -> np.ndarray:
        parts = [signals[lead].get_data_slice(first / fs, stop / fs) for lead in leads]
        return np.column_stack(parts) * [scales[lead] for lead in leads]

    # The number of data records is -1 in a file that was still being written.
    samples = (file.num_data_records if stated == -1 else stated) * frame
    return LazyRecording(fs, samples, len(signals), [signal.label for signal in signals], read)
