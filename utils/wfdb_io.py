"""WFDB headers, signals and annotations through wfdb, with one error for all that is unusable."""

import re
from pathlib import Path

import wfdb

MILLIVOLT = {"mV": 1.0, "uV": 1e-3, "V": 1e3}  # one of each unit, in mV
ERRORS = (OSError, ValueError, IndexError, KeyError, TypeError)  # what wfdb raises on bad files


class Unusable(Exception):
    """Why a record cannot be used."""


def read_header(record: Path) -> wfdb.Record:
    """Header of a record with at least one lead, all of them calibrated in mV, uV or V.

    Args:
        record: without extension.

    Raises:
        Unusable: anything else.
    """
    try:
        header = wfdb.rdheader(str(record))
        lines = Path(f"{record}.hea").read_text("ascii", "replace").splitlines()
    except ERRORS as error:
        raise Unusable(f"unreadable header ({words(error)})") from None
    if not isinstance(header, wfdb.Record) or not header.n_sig or not header.file_name:
        raise Unusable("header without leads")
    stated = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    for lead, (unit, gain) in enumerate(zip(header.units, header.adc_gain, strict=True)):
        # wfdb reads a gain of 0, and none at all, as 200.
        stated_gain = (stated[lead + 1] + ["", ""])[2]
        if (
            not re.match(r"[\d.]*[1-9]", stated_gain)
            or unit not in MILLIVOLT
            or not 0 < gain < float("inf")
        ):
            raise Unusable(f"header states no gain per mV, uV or V for lead {lead}")
    return header


def read_marks(record: Path | str) -> wfdb.Annotation:
    """Annotations in `record.atr`.

    Raises:
        Unusable: there are none, or they cannot be read to their end.
    """
    path = Path(f"{record}.atr")
    try:
        if path.read_bytes()[-2:] != b"\0\0":
            raise Unusable("annotations cut short")
        return wfdb.rdann(str(record), "atr")
    except FileNotFoundError:
        raise Unusable("no .atr") from None
    except ERRORS as error:
        raise Unusable(f"unreadable annotations ({words(error)})") from None


def words(error: Exception) -> str:
    """What is wrong, in one line, without the path that a system error names."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]
