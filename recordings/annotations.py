"""Symbols and rhythm marks of annotated databases, as data.

Beat symbols and rhythm marks are PhysioNet's; the classes are Icentia11k's (Tan et al. 2019).
"""

from typing import NamedTuple

BEAT_CLASSES = ("undefined", "normal", "pac", "aberrated", "pvc")
RHYTHM_CLASSES = ("undefined", "end", "noise", "normal", "afib", "aflut")
HEART_RATE_CLASSES = ("tachycardia", "bradycardia", "normal", "noise")

# Icentia11k's own marks, in the WFDB distribution.
ICENTIA_BEATS = {"Q": "undefined", "N": "normal", "S": "pac", "a": "aberrated", "V": "pvc"}
ICENTIA_RHYTHMS = {"(N": "normal", "(AFIB": "afib", "(AFL": "aflut"}


class Alphabet(NamedTuple):
    """How another database's marks read as Icentia11k's."""

    beats: dict[str, str]  # a symbol that is not listed is no beat
    rhythms: dict[str, str]  # one that is not listed opens no zone
    fs: float | None  # Hz, where all records have the same


_RHYTHMS = {"(N": "(N", "(SBR": "(N", "(AFIB": "(AFIB", "(AFL": "(AFL"}
# PhysioNet's beat symbols; MIT-BIH (Moody & Mark 2001) does without some of them.
_SYMBOLS = {"N": "NLRBejn", "S": "AaJS", "V": "VEr", "Q": "Q/fF?"}
_BEATS = {symbol: icentia for icentia, symbols in _SYMBOLS.items() for symbol in symbols}
ALPHABETS = {
    "mitdb": Alphabet({symbol: _BEATS[symbol] for symbol in "NLRejAaJSVEQ/fF"}, _RHYTHMS, 360),
    # Greenwald 1990. It marks no rhythm: one mark in one record says nothing of the others.
    "svdb": Alphabet(_BEATS, {}, 128),
    "wfdb": Alphabet(_BEATS, _RHYTHMS, None),
}

# Rhythms as WFDB databases name them, behind the bracket.
FIBRILLATION, FLUTTER = "AFIB", "AFL"

# Records of which one is the other's subject again (Moody & Mark 2001).
SAME_SUBJECT = {"mitdb": {"202": "201"}}
