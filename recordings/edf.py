"""EDF, EDF+ and BDF files (https://www.edfplus.info/specs/) through edfio."""

import re
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import edfio
import numpy as np

from recordings import (
    ADU,
    GAINS,
    MILLIVOLT,
    NO_UNIT,
    Hints,
    LazyRecording,
    Unusable,
    as_unit,
    voltages,
)

# Reader by what a file begins with. edfio maps EDF, and reads BDF at once.
READERS = {b"0       ": edfio.read_edf, b"\xffBIOSEMI": edfio.read_bdf}


def open_edf(path: Path, hints: Hints) -> LazyRecording:
    """Open a file; its leads are those of `voltages`, and `hints` are for signals without a unit.
    What lies between the parts of a file with gaps (EDF+D) is missing."""
    with path.open("rb") as opened:
        start = opened.read(256)
    reader = READERS.get(start[:8])
    if not reader:
        raise Unusable("not an EDF file")
    length, stated, count = int(start[184:192]), int(start[236:244]), int(start[252:256])
    if length != 256 * (count + 1) or not float(start[244:252]) > 0:
        raise Unusable("header with a wrong length, or data records without one")
    with warnings.catch_warnings(action="ignore"):  # the number of records is checked below
        file = reader(path, header_encoding="latin-1")
    records = file.num_data_records if stated == -1 else stated  # -1: was still being written
    empty = any(signal.samples_per_data_record < 1 for signal in file.signals)
    if empty or not 1 <= records <= file.num_data_records:
        raise Unusable(f"header does not fit the {file.num_data_records} data records of the file")
    units = [_unit(signal, hints) for signal in file.signals]
    named = [(" ".join(signal.label.split()), unit, signal.sampling_frequency)
             for signal, (unit, _) in zip(file.signals, units, strict=True)]  # fmt: skip
    numbers, notes = voltages(named)
    signals = [file.signals[number] for number in numbers]
    fs, frame = signals[0].sampling_frequency, signals[0].samples_per_data_record
    keys = list(map(str, numbers))  # names may be equal

    def read(record: int, start: int, stop: int, leads: list[int]) -> np.ndarray:
        seconds = [(record * frame + sample) / fs for sample in (start, stop)]
        columns = [signals[lead].get_data_slice(*seconds) for lead in leads]
        return np.column_stack(columns) * [units[numbers[lead]][1] for lead in leads]

    begins = np.arange(records) * frame
    if file.reserved[:5] in ("EDF+D", "BDF+D"):
        clock = file._timekeeping_signal  # edfio offers nothing public
        starts = clock.digital.reshape(-1, clock._bytes_per_data_record)[:records]
        seconds = [float(re.match(rb"[+-][\d.]+", start.tobytes())[0]) for start in starts]
        begins = np.rint((np.array(seconds) - seconds[0]) * fs).astype(np.int64)
    gaps = np.diff(begins) - frame  # one of a sample is rounding
    if (gaps < -1).any():
        raise Unusable("data records that overlap")
    edges = [0, *(np.flatnonzero(gaps > 1) + 1).tolist(), records]
    parts = []
    for first, stop in pairwise(edges):
        count = (stop - first) * frame
        part = LazyRecording(fs, count, len(keys), keys, partial(read, first))
        parts.append((int(begins[first]), part))
    recording = LazyRecording.of_parts(fs, int(begins[-1]) + frame, keys, parts)
    return replace(recording, leads=[named[number][0] for number in numbers], notes=notes)


def _unit(signal: edfio.EdfSignal, hints: Hints) -> tuple[str, float]:
    """Unit of a signal, one of `MILLIVOLT` if it is a voltage, and one of the unit in mV."""
    unit = as_unit(signal.physical_dimension) or hints.unit or NO_UNIT
    if unit not in MILLIVOLT and not (unit == ADU and hints.gain):
        return unit, 0
    steps = signal.digital_max - signal.digital_min
    scale = hints._replace(unit=unit).millivolt()
    span = (signal.physical_max - signal.physical_min) * scale
    plausible = steps > 0 and span and GAINS[0] <= abs(steps / span) <= GAINS[1]
    return ("mV" if unit == ADU else unit, scale) if plausible else ("no gain", 0)
