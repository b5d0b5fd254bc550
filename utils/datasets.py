"""Table of data sets: titles, licences and what weights made from them have to say. Imports
nothing heavy."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

TWELVE_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
JOINED = "+"  # between the names of data sets that were converted into one
UNKNOWN = "unknown"  # among what weights derive from: their file does not say


class Licence(NamedTuple):
    """Name and text of a licence, the notice that it asks for, and whether it is for
    non-commercial use only."""

    name: str
    url: str
    notice: str
    non_commercial: bool = False


ODC_BY = Licence(
    "ODC-By 1.0",
    "https://opendatacommons.org/licenses/by/1-0/",
    "Contains information from {title}, which is made available under the ODC Attribution License.",
)
CC_BY = Licence(
    "CC BY 4.0",
    "https://creativecommons.org/licenses/by/4.0/",
    "Made from {title}, under CC BY 4.0.",
)
CC_BY_NC_SA = Licence(
    "CC BY-NC-SA 4.0",
    "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "Made from {title}, under CC BY-NC-SA 4.0.",
    non_commercial=True,
)


class DataSet(NamedTuple):
    """What it is called, under which licence, whom to cite, what its recordings are, what its names
    of classes mean, where they do not say, the band in Hz of what recorded it, where it is narrower
    than that of other devices, and the order of its leads, where there are several."""

    title: str
    licence: Licence
    cite: str
    recordings: str
    classes: Mapping[str, str] = {}
    band: tuple[float, float] | None = None
    leads: tuple[str, ...] | None = None


# By the name in a contract; that of `utils.names`, or of a set's `dataset.json`.
DATA_SETS = {
    "challenge17": DataSet(
        "the PhysioNet/Computing in Cardiology Challenge 2017",
        ODC_BY,
        "Clifford et al. 2017, doi:10.22489/CinC.2017.065-469",
        "9 to 61 s, one lead of a hand-held device",
        {"A": "atrial fibrillation", "N": "normal rhythm", "O": "other rhythm", "~": "too noisy"},
        band=(0.5, 40),  # Clifford et al. 2017
    ),
    "challenge20": DataSet(
        "the PhysioNet/Computing in Cardiology Challenge 2020",
        CC_BY,
        "Perez Alday et al. 2020, doi:10.1088/1361-6579/abc960",
        "12 leads, of several hospitals",
        leads=TWELVE_LEADS,
    ),
    "icentia11k": DataSet(
        "the Icentia11k Continuous ECG Database",
        CC_BY_NC_SA,
        "Tan et al. 2022, doi:10.13026/kk0v-r952",
        "one lead of a patch on the chest, worn for up to two weeks",
    ),
    "mitdb": DataSet(
        "the MIT-BIH Arrhythmia Database",
        ODC_BY,
        "Moody & Mark 2001, doi:10.13026/C2F305",
        "half an hour of each of 47 people, ambulatory; two leads, each by itself",
    ),
    "svdb": DataSet(
        "the MIT-BIH Supraventricular Arrhythmia Database",
        ODC_BY,
        "Greenwald 1990, doi:10.13026/C2V30W",
        "half an hour of each of 78 people; two leads, each by itself",
    ),
    "ptbxl": DataSet(
        "PTB-XL",
        CC_BY,
        "Wagner et al. 2020, doi:10.1038/s41597-020-0495-6",
        "10 s, 12 leads, clinical",
        leads=TWELVE_LEADS,
    ),
}
PHYSIONET = "Goldberger et al. 2000, doi:10.1161/01.CIR.101.23.e215"


def title_of(name: str) -> str:
    """`mitdb (the MIT-BIH Arrhythmia Database)`, or the name alone; of a joined set all of them."""
    known = {part: DATA_SETS.get(part) for part in members(name)}
    return " + ".join(f"{part} ({s.title})" if s else part for part, s in known.items())


def members(name: str) -> list[str]:
    """Data sets that a set of this name consists of: `mitdb+svdb` of two."""
    return name.split(JOINED)


def notices(names: Iterable[str]) -> list[str]:
    """What to say of weights made from these data sets, a line for each."""
    return [_notice(name) for name in names]


def licences(names: Iterable[str]) -> str:
    """Their names, in one line."""
    known = {name: DATA_SETS[name].licence for name in names if name in DATA_SETS}
    listed = [f"{n} {known[n].name if n in known else '(not known here)'}" for n in names]
    return ", ".join(listed) + "; non-commercial use only" * bool(non_commercial(names))


def non_commercial(names: Iterable[str]) -> list[str]:
    """Those whose licence forbids commercial use."""
    return [n for n in names if n in DATA_SETS and DATA_SETS[n].licence.non_commercial]


def _notice(name: str) -> str:
    if name == UNKNOWN:
        return "What these weights began with is not recorded; further licences may apply."
    known = DATA_SETS.get(name)
    if not known:
        return f"{name}: no public data set known here; ask whoever gave the recordings."
    licence = known.licence
    notice = licence.notice.format(title=known.title)
    return f"{name}: [{licence.name}]({licence.url}). {notice} {known.cite}; {PHYSIONET}."
