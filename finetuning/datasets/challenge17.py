"""PhysioNet/CinC Challenge 2017: one-lead recordings of 9 to 61 s in four classes.

The set is read as it is distributed: the folder `training2017`, or `training2017.zip` unopened.
"""

import hashlib
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from finetuning.datasets.listing import Listing, multi_hot
from recordings import Unusable
from recordings.formats import Recording, check_signal, read_val
from utils.cli import UserError

NAME = "challenge17"
CLASSES = ("A", "N", "O", "~")  # AF, normal, other rhythm, noisy: the order of the published tables
FS = 300  # Hz
# Over all samples at 300 Hz, as in Weimann & Conrad's code; measured again: 0.007536, 0.237287.
MEAN_MV = 0.0075
SD_MV = 0.2373

V3_NAME = "REFERENCE-v3.csv"
_GAIN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)/mV")

# RuntimeError: encrypted; its subclass NotImplementedError: an unknown kind of compression.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError)

Folder = Path | zipfile.Path


def read_listing(source: Path, labels: str | Path) -> Listing:
    """Read the names and labels of all recordings, in the order of RECORDS.

    `source` is a folder or zip with RECORDS in it or in its `training2017/`. `labels` is "zip"
    (REFERENCE.csv in the source), "v3" (REFERENCE-v3.csv in the source, then beside it) or a file.
    Raises `UserError` where one of these cannot be read or labels and RECORDS disagree.
    """
    outer, root = _open(Path(source))
    records_path = root / "RECORDS"
    records = _parse_records(records_path)
    labels_path = _find_labels(Path(source), outer, root, labels)
    classes = _parse_labels(labels_path)
    _check_agreement(records_path, records, labels_path, classes)
    checksums = {
        "records": hashlib.sha256(records_path.read_bytes()).hexdigest(),
        "labels": hashlib.sha256(labels_path.read_bytes()).hexdigest(),
    }
    if isinstance(outer, zipfile.Path):
        with Path(source).open("rb") as file:
            checksums["zip"] = hashlib.file_digest(file, "sha256").hexdigest()
    return Listing(
        records=np.array(records),
        y=multi_hot([{classes[record]} for record in records], CLASSES),
        classes=CLASSES,
        read=partial(read_signal, root),
        labels=labels.name if isinstance(labels, Path) else labels,
        checksums=checksums,
        beyond="constant",  # zeros, as ever: prepared sets stay comparable
    )


def read_signal(root: Folder, record: str) -> Recording:
    """Read one recording of one lead at 300 Hz.

    Raises `Unusable` where header or signal is missing, damaged, shorter than a second, or
    the two disagree.
    """
    gain, length = _parse_header(_member(root, f"{record}.hea").decode("ascii", "replace"))
    values = read_val(_member(root, f"{record}.mat"))
    if values.ndim != 2 or values.shape[0] != 1 or values.dtype.kind not in "iuf":
        raise Unusable(f"'val' is {values.dtype} of shape {values.shape}, not one lead")
    if values.shape[1] != length:
        raise Unusable(f"header says {length} samples, signal has {values.shape[1]}")
    recording = Recording(values.T.astype(np.float64) / gain, FS)
    check_signal(recording)
    return recording


def _open(source: Path) -> tuple[Folder, Folder]:
    """The source as a folder, and the folder in it that holds RECORDS."""
    if source.is_dir():
        outer = source
        if not any(source.iterdir()):
            raise UserError(f"{source} is empty; unpack training2017.zip there")
    elif source.exists():
        try:
            outer = zipfile.Path(source)
        except _BAD_ZIP:
            raise UserError(
                f"{source} is neither a folder nor a zip that can be read; download it again"
            ) from None
    else:
        raise UserError(f"{source} does not exist; name the folder training2017 or its zip")
    for root in (outer, outer / "training2017"):
        if (root / "RECORDS").is_file():
            return outer, root
    raise UserError(f"{source} holds no RECORDS; name the folder training2017 or its zip")


def _find_labels(source: Path, outer: Folder, root: Folder, labels: str | Path) -> Folder:
    if isinstance(labels, Path):
        places = [labels]
    elif labels == "zip":
        places = [root / "REFERENCE.csv"]
    else:  # a linked folder has two places beside it
        beside = (source.absolute().parent, source.resolve().parent)
        places = [folder / V3_NAME for folder in (root, outer, *beside)]
    for place in places:
        if place.is_file():
            return place
    where = "is not in" if labels == "zip" else "is neither in nor beside"
    if isinstance(labels, Path):
        raise UserError(f"{labels} is not a file; name a file of labels")
    raise UserError(f"{places[0].name} {where} {source}; put it there or choose other --labels")


def _text(path: Folder) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (UnicodeDecodeError, *_BAD_ZIP):
        raise UserError(f"{path} is not readable text; unpack or download it again") from None


def _parse_records(path: Folder) -> list[str]:
    records = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not records:
        raise UserError(f"{path} is empty; unpack or download it again")
    for record in records:
        if not re.fullmatch(r"[\w-]+", record):  # it becomes part of a path
            raise UserError(f"{path}: {record!r} is not the name of a record; correct it")
    _refuse_duplicates(path, records)
    return records


def _parse_labels(path: Folder) -> dict[str, str]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        cells = [cell.strip(' "') for cell in line.split(",")]
        if not any(cells):
            continue
        if len(cells) != 2:
            raise UserError(f"{path} line {number} is not 'record,class'; correct it")
        if cells[1] not in CLASSES:
            known = ", ".join(CLASSES)
            raise UserError(
                f"{path} line {number}: unknown class {cells[1]!r}; correct it to one of {known}"
            )
        rows.append(cells)
    _refuse_duplicates(path, [record for record, _ in rows])
    return dict(rows)


def _refuse_duplicates(path: Folder, records: list[str]) -> None:
    repeated = [record for record, times in Counter(records).items() if times > 1]
    if repeated:
        raise UserError(f"{path} lists {_some(repeated)} more than once; keep one line of each")


def _check_agreement(
    records_path: Folder, records: list[str], labels_path: Folder, classes: dict[str, str]
) -> None:
    unlabelled = [record for record in records if record not in classes]
    unlisted = classes.keys() - set(records)
    if unlabelled or unlisted:
        raise UserError(
            f"{labels_path} disagrees with {records_path.name} ({len(classes)} and {len(records)}"
            f" records): {len(unlabelled)} without a label ({_some(unlabelled)}), {len(unlisted)}"
            f" labelled but not listed ({_some(sorted(unlisted))}); use the files of one download"
        )


def _some(names: Iterable[str], at_most: int = 3) -> str:
    names = [name[:40] for name in names]
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "") or "none"


def _member(root: Folder, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except FileNotFoundError:
        raise Unusable(f"{name} is missing") from None
    except Exception as error:  # a damaged zip member raises errors of several libraries
        raise Unusable(f"{name} cannot be read: {type(error).__name__}") from None


def _parse_header(text: str) -> tuple[float, int]:
    """Gain per mV and number of samples of a WFDB header with one lead.

    Its first line is `name leads rate samples …`, its second `file format gain/mV bits zero …`.
    """
    lines = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    if len(lines) != 2 or len(lines[0]) < 4 or len(lines[1]) < 5 or lines[0][1] != "1":
        raise Unusable("header does not describe one lead")
    _, _, rate, samples = lines[0][:4]
    _, _, gain_text, _, zero = lines[1][:5]
    if rate != str(FS):
        raise Unusable(f"header says {rate[:20]} Hz, not {FS}")
    gain = _GAIN.fullmatch(gain_text)
    if not gain or not math.isfinite(float(gain[1])) or float(gain[1]) <= 0 or zero != "0":
        raise Unusable(f"header says gain {gain_text[:20]} and zero {zero[:20]}, not a gain per mV")
    if not re.fullmatch(r"\d{1,9}", samples):
        raise Unusable(f"header says {samples[:20]} samples")
    return float(gain[1]), int(samples)
