"""A recording of which parts can be read, whatever its format."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recordings import Unusable

UNITS = ("mV", "uV", "V", "adu")
LARGEST = 1e9  # mV; what comes after it computes with such values, but not with any


@dataclass(frozen=True)
class LazyRecording:
    """What its file says of a recording before its samples are read.

    Attributes:
        fs: Hz. samples: of each lead. count: of leads. leads: names, where there are any.
        read_mv: from a sample, up to another, of these leads: (n, leads) float64 in mV, that can be
            written to.
        uncalibrated: whether the gain of a lead is not stated but WFDB's default.
    """

    fs: float
    samples: int
    count: int
    leads: list[str] | None
    read_mv: Callable[[int, int, list[int]], np.ndarray]
    uncalibrated: bool = False

    @classmethod
    def of_array(
        cls, values: np.ndarray, scale: float, fs: float, leads: list[str] | None,
        mapped: mmap.mmap | None = None,
    ) -> "LazyRecording":  # fmt: skip
        """Of (samples, leads) numbers, in memory or `mapped`; `scale` is one of them in mV."""

        def read(start: int, stop: int, chosen: list[int]) -> np.ndarray:
            # Beyond the end of a file that is mapped, reading would end the process.
            if mapped is not None and mapped.size() < len(mapped):
                raise Unusable("file is shorter than it was")
            return values[start:stop, chosen].astype(np.float64) * scale

        return cls(fs, *values.shape, leads, read)

    def read(self, start: int, stop: int, lead: int | None = None) -> np.ndarray:
        """Samples from `start` up to `stop`, as a slice takes them, of one lead or of all.

        Returns:
            (n, leads) float64 in mV. Samples that are missing, or beyond `LARGEST`, are NaN.

        Raises:
            Unusable: the file cannot be read there, or is no longer what it was.
        """
        start, stop, _ = slice(start, stop).indices(self.samples)
        chosen = list(range(self.count)) if lead is None else [lead]
        signal = self.read_mv(start, max(start, stop), chosen)
        signal[np.abs(signal) > LARGEST] = np.nan
        return signal


def as_unit(text: str) -> str:
    """A unit as `UNITS` has it, whatever its capitals and its µ; another as it is."""
    plain = text.strip().casefold().replace("\u03bc", "u")  # casefold makes one of both µ
    return next((unit for unit in UNITS if unit.casefold() == plain), text)
