"""PhysioNet/CinC Challenge 2020: twelve leads, any number of diagnoses each.

A folder of WFDB records (`A0001.hea` and `A0001.mat`, in folders of any depth) at 257, 500 or
1000 Hz, whose headers end in comments such as `# Dx: 426783006,164889003` (SNOMED CT codes).
"""

import hashlib
import re
from functools import partial
from pathlib import Path

import numpy as np

from finetuning.datasets.listing import Listing, multi_hot
from recordings import Unusable, one_line
from recordings.formats import Recording, read_recording
from utils.cli import UserError
from utils.datasets import TWELVE_LEADS
from utils.manifest import summary

NAME = "challenge20"
MEAN_MV = (0.0,) * 12
SD_MV = (
    0.2137, 0.2356, 0.2205, 0.2086, 0.1962, 0.2139, 0.3359, 0.4167, 0.4489, 0.4828, 0.5230, 0.5614,
)  # fmt: skip
_DIAGNOSES = re.compile(r"^#\s*Dx\s*:(.*)$", re.MULTILINE)


def read_listing(source: Path) -> Listing:
    """Read the diagnoses of all records below the folder `source`; classes are all that occur.

    A record is named by its path below `source`. Raises `UserError` where there is none to use.
    """
    headers = sorted(source.rglob("*.hea"))
    if not headers:
        raise UserError(f"{source} holds no .hea files; name the folder of the records")
    labels, left_out, checksum = {}, [], hashlib.sha256()
    for path in headers:
        record = path.relative_to(source).with_suffix("").as_posix()
        try:
            content = path.read_bytes()
            labels[record] = parse_diagnoses(content.decode("utf-8", "replace"))
            checksum.update(f"{record}\n".encode() + content)
        except (OSError, Unusable) as reason:
            left_out.append({"record": record, "reason": one_line(reason)})
    if not labels:
        raise UserError(f"{source}: no record is usable ({summary(left_out)})")
    classes = sorted(set().union(*labels.values()))
    return Listing(
        records=np.array(list(labels)),
        y=multi_hot(list(labels.values()), classes),
        classes=tuple(classes),
        read=partial(read_signal, source),
        labels="Dx",
        checksums={"headers": checksum.hexdigest()},
        multi_label=True,
        leads=TWELVE_LEADS,
        left_out=left_out,
    )


def parse_diagnoses(header: str) -> set[str]:
    """SNOMED CT codes of a header; raises `Unusable` where it states none."""
    found = _DIAGNOSES.search(header)
    codes = {code.strip() for code in found[1].split(",")} - {""} if found else set()
    if not codes:
        raise Unusable("header without a diagnosis (# Dx:)")
    strange = sorted(code for code in codes if not code.isdecimal())
    if strange:
        raise Unusable(f"diagnosis {strange[0]!r} is not a code")
    return codes


def read_signal(source: Path, record: str) -> Recording:
    """Read one record; raises `Unusable` where it cannot be used."""
    return read_recording(source / f"{record}.hea")
