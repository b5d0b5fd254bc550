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
from recordings.formats import Recording, read_mat, repair
from utils import cli

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
Folder = Path | zipfile.Path
FLAGS = {
    "source": {"type": cli.existing, "required": True, "help": "folder training2017, or its zip"},
    "labels": {
        "type": lambda text: text if text in ("zip", "v3") else cli.file(text),
        "required": True, "metavar": "{zip,v3,FILE}",
        "help": "zip: REFERENCE.csv of the source, for reproductions; v3: REFERENCE-v3.csv in or"
        " beside the source, for new work; or a file of labels, such as REFERENCE-v3.csv elsewhere",
    },
}  # fmt: skip


def read_listing(source: Path, labels: str | Path) -> Listing:
    """Read names and labels in the order of RECORDS, from `source` or its `training2017/`."""
    name = {"zip": "REFERENCE.csv", "v3": "REFERENCE-v3.csv"}.get(labels, labels)
    try:
        outer = source if source.is_dir() else zipfile.Path(source)
        root = outer if (outer / "RECORDS").is_file() else outer / "training2017"
        beside = (outer, source.absolute().parent, source.resolve().parent)  # two, of a link
        folders = [root, *(beside if labels == "v3" else ())]
        folder = next((folder for folder in folders if (folder / name).is_file()), root)
        files = [root / "RECORDS", name if name is labels else folder / name]
        contents = [path.read_bytes() for path in files]
    except (zipfile.BadZipFile, zlib.error, RuntimeError, FileNotFoundError) as error:
        # RuntimeError: the zip is encrypted, or compressed by an unknown method.
        problem = f"{source} without readable RECORDS and {name} ({error!r})"
        raise cli.UserError(f"{problem}; name training2017, its zip or other --labels") from None
    records = list(_read_rows(files[0], contents[0], r"[\w-]+"))
    classes = _read_rows(files[1], contents[1], rf"[\w-]+,[{''.join(CLASSES)}]")
    if unmatched := sorted(classes.keys() ^ records):
        raise cli.UserError(f"{files[1]} and RECORDS differ in {', '.join(unmatched[:9])}")
    sha_records, sha_labels = (hashlib.sha256(content).hexdigest() for content in contents)
    return Listing(
        np.array(records), multi_hot([classes[record] for record in records], CLASSES), CLASSES,
        lambda record: read_signal(root, record), getattr(labels, "name", labels),
        {"records": sha_records, "labels": sha_labels},
        padtype="constant",  # zeros, as in all earlier prepared sets
    )  # fmt: skip


def _read_rows(path: Folder, content: bytes, pattern: str) -> dict[str, str]:
    """Records of a list whose lines have to match `pattern`, and their labels, if it has any."""
    lines = re.sub('[ "]', "", content.decode("utf-8-sig", "replace")).split()
    wrong = [line[:40] for line in lines if not re.fullmatch(pattern, line)]  # names become paths
    rows = {name: label for name, _, label in (line.partition(",") for line in lines)}
    if wrong or not 0 < len(rows) == len(lines):
        problem = f"holds the wrong line {wrong[0]!r}" if wrong else "is empty or repeats a record"
        raise cli.UserError(f"{path} {problem}; download it again")
    return rows


def read_signal(root: Folder, record: str) -> Recording:
    """Read one recording; raises `Unusable` if header and signal are damaged or disagree."""
    try:
        content, mat = ((root / f"{record}.{suffix}").read_bytes() for suffix in ("hea", "mat"))
    except Exception as error:  # damaged zip members raise errors of several libraries
        raise Unusable(f".hea or .mat cannot be read ({type(error).__name__})") from None
    header, values = _HEADER.match(content.decode("ascii", "replace")), read_mat(mat)
    if not header:
        raise Unusable("header is not that of one lead at 300 Hz with a gain per mV and zero at 0")
    if values.shape != (1, int(header["samples"])) or values.dtype.kind not in "iuf":
        raise Unusable(f"'val' is {values.dtype} of shape {values.shape}, not as the header says")
    return repair(Recording(values.T.astype(np.float64) / float(header["gain"]), FS))
