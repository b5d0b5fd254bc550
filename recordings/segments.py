"""Write one segment in Icentia11k's WFDB layout: one lead, 250 Hz, format 16."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import wfdb

FS = 250  # Hz
GAIN = 74.36482269503546  # units per mV in Icentia11k's headers on PhysioNet


def place_of(root: Path, patient: int, segment: int) -> tuple[Path, str]:
    """Folder and name of a segment in the layout of the data set at `root`."""
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
    """Write `name.dat`, `name.hea` and, if there is a beat, `name.atr`.

    Args:
        folder: is made if need be.
        digital: (samples,) int16. gain: units per mV.
        ends: (beats,) sample of each beat, ascending. symbols: `Q`, `N`, `S`, `a` or `V` of each.
        zones: the mark that opens the rhythm zone each beat lies in, `""` for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, FS, ["mV"], ["ecg"], d_signal=digital[:, None], fmt=["16"], adc_gain=[gain],
        baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    if len(ends):
        marks = list(_marks(ends, symbols, zones))
        places, letters, notes = map(list, zip(*marks, strict=True))
        wfdb.wrann(
            name, "atr", np.array(places), letters, aux_note=notes, fs=FS, write_dir=str(folder)
        )


def _marks(ends: np.ndarray, symbols: Sequence[str], zones: Sequence[str]):
    """Beats and, behind the first and last beat of each zone, rhythm marks: place, symbol, note."""
    for i, (end, symbol, zone) in enumerate(zip(ends, symbols, zones, strict=True)):
        yield end, symbol, ""
        opens = zone and (i == 0 or zones[i - 1] != zone)
        closes = zone and (i + 1 == len(ends) or zones[i + 1] != zone)
        if opens or closes:
            yield end, "+", (zone if opens else "") + (")" if closes else "")
