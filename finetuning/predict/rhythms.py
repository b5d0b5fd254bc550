"""Pure rules: rhythm annotations of a record to what is true of its windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recordings import Unusable
from recordings.annotations import FIBRILLATION

UNKNOWN = "unknown"  # before the first mark
CLASS = "A"  # of the Challenge 2017: fibrillation
AF, NOT_AF, MIXED = "AF", "not AF", "mixed"


class Rhythms(NamedTuple):
    """starts (n,) ascending samples; names (n,), each holds up to the next start."""

    starts: np.ndarray
    names: list[str]


def read_rhythms(samples: Sequence[int], symbols: Sequence[str], notes: Sequence[str]) -> Rhythms:
    """The rhythm marks among annotations: `+` with a note such as `(AFIB`, here AFIB.

    Other notes (such as MISSB of MIT-BIH) are none. Of several at one sample the last holds.

    Raises:
        Unusable: no such marks, or marks that end a rhythm, as Icentia11k's, or out of order.
    """
    found = {}
    for sample, symbol, note in zip(samples, symbols, notes, strict=True):
        note = note.strip("\0 ")
        if symbol == "+" and ")" in note:
            raise Unusable("rhythm annotations that end, which only Icentia11k's do")
        if symbol == "+" and note.startswith("("):
            found[int(sample)] = note[1:]
    starts = np.array(list(found), np.int64)
    if not found or (np.diff(starts) < 0).any():
        raise Unusable("rhythm annotations out of order" if found else "no rhythm annotations")
    return Rhythms(starts, list(found.values()))


def within(rhythms: Rhythms, start: int, stop: int) -> list[str]:
    """Rhythms that samples [start, stop) have a part of, each once, in the order of appearance."""
    first = int(np.searchsorted(rhythms.starts, start, "right")) - 1
    end = int(np.searchsorted(rhythms.starts, stop, "left"))
    before = [UNKNOWN] if first < 0 else []
    return list(dict.fromkeys(before + rhythms.names[max(first, 0) : end]))


def truth(rhythms: Sequence[str]) -> str:
    """AF where fibrillation is the only rhythm, not AF where it is none of them."""
    if UNKNOWN in rhythms:
        return UNKNOWN
    if FIBRILLATION not in rhythms:
        return NOT_AF
    return AF if len(rhythms) == 1 else MIXED
