"""PhysioNet/CinC Challenge 2017: one-lead recordings of 9 to 61 s in four classes.

The set is read as it is distributed: the folder `training2017`, or
`training2017.zip` without unpacking it.
"""

import hashlib
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from finetuning.datasets import Listing, multi_hot
from recordings import Unusable
from recordings.formats import Recording, check_signal, read_val
from utils import cli
from utils.cli import UserError
from utils.files import sha256

PREFIX = "physionet"
CLASSES = ("A", "N", "O", "~")  # AF, normal, other rhythm, noisy: the order of the published tables
FS = 300  # Hz
# Over all samples at 300 Hz, as in Weimann & Conrad's code; measured again: 0.007536, 0.237287.
MEAN_MV = 0.0075
SD_MV = 0.2373

# A header with one lead: `name leads rate samples …`, then `file format gain/mV bits zero …`.
_HEADER = re.compile(
    rf"\s*\S+ 1 {FS} (?P<samples>\d{{1,9}})\s.*\n\S+ \S+ (?P<gain>\d{{1,9}}(\.\d+)?)/mV \d+ 0\s"
)
# RuntimeError: encrypted; its subclass NotImplementedError: an unknown kind of compression.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError)

Folder = Path | zipfile.Path

FLAGS = {
    "source": {"type": cli.existing, "required": True, "help": "folder training2017, or its zip"},
    "labels": {
        "type": lambda text: text if text in ("zip", "v3") else cli.file(text),
        "required": True, "metavar": "{zip,v3,FILE}",
        "help": "zip: REFERENCE.csv of the source, for reproductions; v3: REFERENCE-v3.csv in or"
        " beside the source, for new work; or a file of 'record,class' lines",
    },
}  # fmt: skip


def read_listing(source: Path, labels: str | Path) -> Listing:
    """Read the names and labels of all recordings, in the order of RECORDS.

    Args:
        source: a folder or zip with RECORDS in it or in its `training2017/`.
        labels: "zip" (REFERENCE.csv in the source), "v3" (REFERENCE-v3.csv in the source, then
            beside it) or a file.

    Raises:
        UserError: one of these cannot be read, or labels and RECORDS disagree.
    """
    try:
        outer = source if source.is_dir() else zipfile.Path(source)
    except _BAD_ZIP:
        raise UserError(f"{source} is neither a folder nor a zip; download it again") from None
    root = outer if (outer / "RECORDS").is_file() else outer / "training2017"
    if not (root / "RECORDS").is_file():
        raise UserError(f"{source} holds no RECORDS; name the folder training2017 or its zip")
    beside = (source.absolute().parent, source.resolve().parent)  # two, of a linked folder
    v3 = [folder / "REFERENCE-v3.csv" for folder in (root, outer, *beside)]
    places = {"zip": [root / "REFERENCE.csv"], "v3": v3}.get(labels, [labels])
    labels_path = next((place for place in places if place.is_file()), None)
    if labels_path is None:
        raise UserError(f"{source} comes without {places[0].name}; choose other --labels")
    files = {"records": root / "RECORDS", "labels": labels_path}
    records, classes = _read_rows(files["records"], 1), _read_rows(files["labels"], 2)
    for record, label in classes.items():
        if label not in CLASSES:
            raise UserError(
                f"{labels_path}: class {label[:40]!r} of {record} is unknown; correct it"
            )
    unlabelled, unlisted = sorted(records.keys() - classes), sorted(classes.keys() - records)
    if unlabelled or unlisted:
        counts = f"{len(unlabelled)} records without a label, {len(unlisted)} labels without one"
        example = (unlabelled + unlisted)[0][:40]
        raise UserError(f"{labels_path} disagrees with RECORDS: {counts}, such as {example}")
    checksums = {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items()}
    return Listing(
        records=np.array(list(records)),
        y=multi_hot([{classes[record]} for record in records], CLASSES),
        classes=CLASSES,
        read=lambda record: read_signal(root, record),
        labels=labels.name if isinstance(labels, Path) else labels,
        checksums=checksums if outer == source else checksums | {"zip": sha256(source)},
        beyond="constant",  # zeros, as in all earlier prepared sets
    )


def read_signal(root: Folder, record: str) -> Recording:
    """Read one recording of one lead at 300 Hz.

    Raises:
        Unusable: header or signal is missing, damaged, shorter than a second, or the two disagree.
    """
    contents = []
    for name in (f"{record}.hea", f"{record}.mat"):
        try:
            contents.append((root / name).read_bytes())
        except FileNotFoundError:
            raise Unusable(f"{name} is missing") from None
        except Exception as error:  # damaged zip members raise errors of several libraries
            raise Unusable(f"{name} cannot be read: {type(error).__name__}") from None
    header, values = _HEADER.match(contents[0].decode("ascii", "replace")), read_val(contents[1])
    if not header or not float(header["gain"]):
        raise Unusable("header is not that of one lead at 300 Hz with a gain per mV and zero at 0")
    if values.shape != (1, int(header["samples"])) or values.dtype.kind not in "iuf":
        held = f"'val' is {values.dtype} of shape {values.shape}"
        raise Unusable(f"{held}, but header says {header['samples']} samples")
    recording = Recording(values.T.astype(np.float64) / float(header["gain"]), FS)
    check_signal(recording)
    return recording


def _read_rows(path: Folder, cells: int) -> dict[str, str]:
    """Map the first cell of every line, a record, to its last; raises `UserError`."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, *_BAD_ZIP):
        raise UserError(f"{path} is not readable text; unpack or download it again") from None
    rows = {}
    for number, line in enumerate(lines, 1):
        row = [cell.strip(' "') for cell in line.split(",")]
        if not any(row):
            continue
        if len(row) != cells or not re.fullmatch(r"[\w-]+", row[0]):  # it becomes part of a path
            wanted = "a record" if cells == 1 else "record,class"
            raise UserError(f"{path} line {number} is {line[:40]!r}, not {wanted}; correct it")
        if row[0] in rows:
            raise UserError(f"{path} lists {row[0][:40]} more than once; keep one line of it")
        rows[row[0]] = row[-1]
    if not rows:
        raise UserError(f"{path} is empty; unpack or download it again")
    return rows
