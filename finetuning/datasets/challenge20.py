"""PhysioNet/CinC Challenge 2020: twelve leads, any number of diagnoses each.

WFDB records (`A0001.hea` and `A0001.mat`, in folders of any depth) at 257, 500 or 1000 Hz, whose
headers hold comments such as `# Dx: 426783006,164889003` (SNOMED CT codes).
"""

import hashlib
import re
from pathlib import Path

import numpy as np

from finetuning.datasets import Listing, multi_hot, stated_subjects
from recordings.formats import read_recording
from utils import cli
from utils.model_card import TWELVE_LEADS

PREFIX = "challenge20"
MEAN_MV = (0.0,) * 12
SD_MV = (
    0.2137, 0.2356, 0.2205, 0.2086, 0.1962, 0.2139, 0.3359, 0.4167, 0.4489, 0.4828, 0.5230, 0.5614,
)  # fmt: skip
FLAGS = {"source": {"type": cli.existing, "required": True, "help": "folder of the recordings"}}
_DIAGNOSES = re.compile(r"^#[ \t]*Dx[ \t]*:([\d, \t]*\d[\d, \t]*)\r?$", re.MULTILINE)


def read_listing(source: Path) -> Listing:
    """Read the diagnoses of all records, named by their paths below `source`; all are classes."""
    labels, headers, checksum = {}, {}, hashlib.sha256()
    for path in sorted(source.rglob("*.hea")):
        record, content = path.relative_to(source).with_suffix("").as_posix(), path.read_bytes()
        diagnoses, headers[record] = _DIAGNOSES.search(content.decode("utf-8", "replace")), path
        labels[record] = set(re.findall(r"\d+", diagnoses[1])) if diagnoses else set()
        checksum.update(f"{record}\n".encode() + content)
    if not labels:
        raise cli.UserError(f"{source} holds no .hea files; name the folder of the records")
    classes = tuple(sorted(set().union(*labels.values())))
    return Listing(
        np.array(list(labels)), multi_hot(list(labels.values()), classes), classes,
        lambda record: read_recording(source / f"{record}.hea"), "Dx",
        {"headers": checksum.hexdigest()}, multi_label=True, leads=TWELVE_LEADS,
        patients=stated_subjects(headers),
    )  # fmt: skip
