"""Symbols and rhythm marks of annotated databases, as data.

Beat symbols and rhythm marks are PhysioNet's; the classes are Icentia11k's (Tan et al. 2019).
"""

import re
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


_RHYTHMS = {"(N": "(N", "(NSR": "(N", "(SBR": "(N", "(AFIB": "(AFIB", "(AFL": "(AFL"}
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
# Names of records that state a subject, perhaps by another record: data_84_1 of CPSC2021; 118e06 of
# the noise stress test and sel118 of QTDB, which are taken from 118 of MIT-BIH. Only these: names
# such as 2020_1 and 2020_2 may be of different people.
SUBJECT_IN_NAME = re.compile(r"(data_\d+)_\d+|(\d{3})e(?:_\d|\d\d)|sel(\d{3}|e\d{4})")
# A line of a header that does, as in INCART: `# patient 12`.
SUBJECT_IN_HEADER = re.compile(
    r"# *((?:patient|subject)[ _]*(?:id|number|no\.?)?[ :=]*\w*\d\w*) *", re.IGNORECASE
)


def subject_of(source: str, record: str, header: str) -> str | None:
    """The subject that the name of a record or a line of its header states: another record's name,
    or text that holds a blank, which means nothing in other databases."""
    if record in SAME_SUBJECT.get(source, {}):
        return SAME_SUBJECT[source][record]
    lines = (SUBJECT_IN_HEADER.fullmatch(line.strip()) for line in header.splitlines())
    if stated := next(filter(None, lines), None):
        return f"header: {stated[1]}"
    match = SUBJECT_IN_NAME.fullmatch(record)
    return match and next(filter(None, match.groups()))
