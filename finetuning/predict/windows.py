"""Which stretches of a recording are looked at, each by itself."""

import math
from itertools import pairwise
from typing import NamedTuple

LONGEST = 61.0  # s, as of Challenge 2017; longer recordings are read in windows
WINDOW = 30  # s, as most recordings there
SHORTEST = 9.0  # s, as there


class Window(NamedTuple):
    """Samples from `start` to before `stop`."""

    start: int
    stop: int


def windows(samples: int, fs: float, capacity: float) -> list[Window]:
    """The whole of a recording, or windows side by side where it is long.

    A last one shorter than `SHORTEST` is joined to the one before, or where the network does not
    see as much, begins earlier.

    Args:
        fs: Hz. capacity: seconds that the network sees at once.
    """
    if samples <= min(LONGEST, capacity) * fs:
        return [Window(0, samples)]
    length = min(WINDOW, capacity)
    edges = [round(number * length * fs) for number in range(int(samples / fs / length) + 1)]
    found = [Window(*pair) for pair in pairwise(edges)]
    rest = Window(edges[-1], samples)
    if samples - rest.start >= SHORTEST * fs:
        return [*found, rest]
    if samples - found[-1].start <= math.ceil(capacity * fs):
        return [*found[:-1], Window(found[-1].start, samples)]
    return [*found, Window(samples - round(length * fs), samples)]
