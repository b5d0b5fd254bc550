"""PhysioNet/CinC Challenge 2017: one-lead recordings of 9 to 61 s in four classes.

Read as it is distributed: the folder `training2017`, or `training2017.zip` without unpacking it.
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
from utils.files import sha256

PREFIX = "physionet"
CLASSES = ("A", "N", "O", "~")  # AF, normal, other rhythm, noisy: the order of the published tables
FS = 300  # Hz
# Over all samples at 300 Hz, as in Weimann & Conrad's code; measured again: 0.007536, 0.237287.
MEAN_MV = 0.0075
SD_MV = 0.2373

# `name leads rate samples …`, then `file format gain/mV bits zero …`.
_HEADER = re.compile(
    rf"\s*\S+ 1 {FS} (?P<samples>\d{{1,9}})\s.*\n\S+ \S+ (?P<gain>[1-9]\d{{,8}}(\.\d+)?)/mV \d+ 0\s"
)
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, RuntimeError)  # RuntimeError: encrypted
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
    """Read names and labels in the order of RECORDS, from `source` or its `training2017/`."""
    try:
        outer = source if source.is_dir() else zipfile.Path(source)
    except _BAD_ZIP:
        raise cli.UserError(f"{source} is neither a folder nor a zip; download it again") from None
    root = outer if (outer / "RECORDS").is_file() else outer / "training2017"
    if not (root / "RECORDS").is_file():
        raise cli.UserError(f"{source} holds no RECORDS; name the folder training2017 or its zip")
    beside = (source.absolute().parent, source.resolve().parent)  # two, of a linked folder
    v3 = [folder / "REFERENCE-v3.csv" for folder in (root, outer, *beside)]
    places = {"zip": [root / "REFERENCE.csv"], "v3": v3}.get(labels, [labels])
    labels_path = next((place for place in places if place.is_file()), None)
    if labels_path is None:
        raise cli.UserError(f"{source} comes without {places[0].name}; choose other --labels")
    files = {"records": root / "RECORDS", "labels": labels_path}
    records = list(_read_rows(files["records"], r"[\w-]+"))
    classes = _read_rows(labels_path, rf"[\w-]+,[{''.join(CLASSES)}]")
    if unmatched := sorted(classes.keys() ^ records):
        raise cli.UserError(f"{labels_path} and RECORDS differ in {', '.join(unmatched[:9])}")
    checksums = {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items()}
    if outer != source:
        checksums["zip"] = sha256(source)
    return Listing(
        np.array(records), multi_hot([classes[record] for record in records], CLASSES), CLASSES,
        lambda record: read_signal(root, record), getattr(labels, "name", labels), checksums,
        beyond="constant",  # zeros, as in all earlier prepared sets
    )  # fmt: skip


def read_signal(root: Folder, record: str) -> Recording:
    """Read one recording; raises `Unusable` if header and signal are damaged or disagree."""
    try:
        content, mat = ((root / f"{record}.{suffix}").read_bytes() for suffix in ("hea", "mat"))
    except Exception as error:  # damaged zip members raise errors of several libraries
        raise Unusable(f".hea or .mat cannot be read ({type(error).__name__})") from None
    header, values = _HEADER.match(content.decode("ascii", "replace")), read_val(mat)
    if not header:
        raise Unusable("header is not that of one lead at 300 Hz with a gain per mV and zero at 0")
    if values.shape != (1, int(header["samples"])) or values.dtype.kind not in "iuf":
        raise Unusable(f"'val' is {values.dtype} of shape {values.shape}, not as the header says")
    recording = Recording(values.T.astype(np.float64) / float(header["gain"]), FS)
    check_signal(recording)
    return recording


def _read_rows(path: Folder, pattern: str) -> dict[str, str]:
    """Records of a list whose lines have to match `pattern`, and their labels, if it has any."""
    try:
        lines = re.sub('[ "]', "", path.read_bytes().decode("utf-8-sig")).split()
    except (UnicodeDecodeError, *_BAD_ZIP):
        raise cli.UserError(f"{path} is not readable text; unpack or download it again") from None
    for line in lines:
        if not re.fullmatch(pattern, line):  # the name becomes part of a path
            raise cli.UserError(f"{path} holds the wrong line {line[:40]!r}; correct it")
    rows = {name: label for name, _, label in (line.partition(",") for line in lines)}
    if not 0 < len(rows) == len(lines):
        raise cli.UserError(f"{path} is empty or lists a record twice; download it again")
    return rows
