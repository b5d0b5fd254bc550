"""Icentia11k's torrent: all segments of a patient in one pickled file, as zipped or unzipped.

https://academictorrents.com/details/af04abfe9a3c96b30e5dd029eb185e19a7055272 holds, of a patient,
`NNNNN_batched.pkl.gz`, a float16 array (segments, samples) in mV, and `NNNNN_batched_lbls.pkl.gz`:
of each segment a dictionary of `btype` and `rtype`, an array of positions for each class. Earlier
code unzipped them to `NNNNN_batched.npy` and `NNNNN_batched_lbls.npz` (an `.npz`, or a pickle), of
positions and classes; these are preferred, because they can be mapped. A segment is called
`NNNNN_batched#SS`. Reading never runs anything that a file names.
"""

import gzip
import io
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pretraining.icentia11k.reader import NO_ANNOTATIONS, Header, Segment
from recordings import Unusable, one_line
from recordings.annotations import BEAT_CLASSES, RHYTHM_CLASSES
from recordings.quality import assess
from recordings.wfdb_files import ICENTIA_GAIN

RECORD_NAME = re.compile(r"(\d{5})_batched(#\d+)?")
SIGNALS = (".npy", ".pkl.gz")  # the first that exists is read
LABELS = ("_lbls.npz", "_lbls.pkl.gz")
OPEN_SIGNALS = 20  # more than the patients that are mixed; a zipped one takes 105 MB
READ_ALONE = 1  # records; below, starting processes costs more than it saves
LIMIT = 2**29  # bytes of a file, decompressed; 50 segments take 105 MB, and twice that as text
CLASSES = {"btype": len(BEAT_CLASSES), "rtype": len(RHYTHM_CLASSES)}
LARGEST = np.iinfo(np.int16).max


def find_records(root: Path) -> dict[int, list[Path]]:
    """The record of each patient."""
    names = {path.name.removesuffix(end) for path in root.iterdir() for end in SIGNALS + LABELS}
    matches = [match for name in sorted(names) if (match := RECORD_NAME.fullmatch(name))]
    return {int(match[1]): [root / match[0]] for match in matches}


def files(record: Path, suffixes: tuple[str, ...] = SIGNALS + LABELS) -> list[Path]:
    """Files that a record or segment may be read from."""
    return [Path(f"{split(record)[0]}{suffix}") for suffix in suffixes]


watched = files  # patients share a folder


def first_file(record: Path, suffixes: tuple[str, ...]) -> Path | None:
    """The file of signal or labels that is read, if there is one."""
    return next((path for path in files(record, suffixes) if path.exists()), None)


def split(segment: Path) -> tuple[Path, int]:
    """Record of a segment, and the segment's number in it."""
    record, _, number = segment.name.partition("#")
    return segment.with_name(record), int(number or 0)


def read(record: Path) -> Iterator[tuple[Path, Segment | Unusable]]:
    """Path of each segment of a patient, and the segment or why it cannot be used."""
    signal, path = open_signal(record), first_file(record, LABELS)
    labels, annotations, size = load(path) if path else None, NO_ANNOTATIONS, signal.shape[1]
    try:
        lists = [labels[kind] for kind in CLASSES] if isinstance(labels, dict) else [labels]
        counts = {len(segments) for segments in lists}
    except (KeyError, TypeError):
        counts = None
    if path and counts != {len(signal)}:
        raise Unusable(f"labels are not of {len(signal)} segments, as the signal is")
    for number, samples in enumerate(signal):
        try:
            values = samples.astype(np.float32)  # NumPy is slow with float16
            if not np.isfinite(values).all():
                raise Unusable("missing (NaN) or infinite samples")
            if path:
                annotations = [a for kind in CLASSES for a in _parse(labels, kind, number, size)]
            header = Header(size, ICENTIA_GAIN, 0)
            segment = Segment(header, samples, assess(values), bool(path), *annotations)
        except Unusable as reason:
            segment = reason
        yield record.with_name(f"{record.name}#{number:02d}"), segment


def open_signal(record: Path) -> np.ndarray:
    """(segments, samples) float16 in mV; a memory map where the file is unzipped."""
    path = first_file(record, SIGNALS)
    signal = load(path) if path else None
    valid = isinstance(signal, np.ndarray) and signal.ndim == 2 and signal.dtype == np.float16
    if not valid or not signal.size:
        raise Unusable("signal is no float16 array (segments, samples) in a .npy or .pkl.gz")
    return np.asarray(signal)


def _parse(labels: Any, kind: str, number: int, samples: int) -> tuple[np.ndarray, ...]:
    """Ends (n,) int64, ascending, and codes (n,) int8 of one segment's `btype` or `rtype`."""
    classes = CLASSES[kind]
    try:
        if isinstance(labels, dict):
            ends, codes = labels[kind][number]
        else:
            by_class = labels[number][kind]
            # Nested lists could unfold into more than memory holds.
            if len(by_class) != classes or not all(isinstance(e, np.ndarray) for e in by_class):
                raise ValueError
            ends = np.concatenate(by_class)
            codes = np.repeat(np.arange(classes), list(map(len, by_class)))
        for values, stop in ((ends, samples), (codes, classes)):
            # Whole numbers, even if an empty array of floats made floats of them.
            valid = (values >= 0) & (values < stop) & (values == np.rint(values))
            if values.ndim != 1 or len(values) != len(ends) or not valid.all():
                raise ValueError
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise Unusable(f"{kind} is not of positions below {samples} in {classes} classes") from None
    order = np.argsort(ends, kind="stable")
    return np.asarray(ends, np.int64)[order], np.asarray(codes, np.int8)[order]


def to_units(signal: np.ndarray) -> np.ndarray:
    """mV in float16 as int16 at Icentia11k's own gain, clipped to what int16 holds.

    What was int16 before comes back below 1,195 units (16 mV), and to one unit below 2,048.
    """
    units = np.rint(signal.astype(np.float32) * np.float32(ICENTIA_GAIN))
    return units.clip(-LARGEST, LARGEST).astype(np.int16)


def load(path: Path) -> Any:
    """Arrays in containers: of a `.npy`, which is mapped, of an `.npz` (a dictionary), or of a
    pickle, gzipped or not."""
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _load_npz(file)
            file = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
            return unpickle(file.read(LIMIT + 1))
    except Exception as error:  # a damaged file fails in many ways
        kind = path.name.partition("_batched")[2]
        raise Unusable(f"unreadable {kind} ({one_line(error)})") from None


def _load_npz(file: BinaryIO) -> dict[str, Any]:
    archive, arrays = zipfile.ZipFile(file), {}
    if sum(member.file_size for member in archive.infolist()) > LIMIT:
        raise Unusable(f"larger than {LIMIT:,} bytes")
    for name in archive.namelist():
        member = io.BytesIO(archive.read(name))
        np.lib.format.read_magic(member)  # of version 1: headers of arrays like these are short
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.hasobject:
            array = unpickle(member.read())
        else:
            array = np.frombuffer(member.read(), dtype).reshape(shape, order="CF"[fortran])
        arrays[name.removesuffix(".npy")] = array
    return arrays


def unpickle(content: bytes) -> Any:
    """Content of a pickle of plain arrays in containers; naming anything else is Unusable."""
    if len(content) > LIMIT:
        raise Unusable(f"larger than {LIMIT:,} bytes")
    for step, argument, _ in pickletools.genops(content):
        # The unpickler would make room for as many objects.
        if step.name in ("PUT", "LONG_BINPUT") and argument > len(content):
            raise Unusable("more objects than bytes")
    # Strings of Python 2 are read as Latin-1, as its arrays need.
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


class _Dtype:
    """In place of `numpy.dtype`, whose state could claim anything: numbers, or objects."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf][1248]|O[48]?", code):
            raise Unusable(f"array of type {code[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose state is checked before NumPy, which trusts it, takes it."""

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        objects = kind.dtype.hasobject
        if self.size or not all(type(length) is int and length >= 0 for length in shape):
            raise Unusable("array of an impossible shape")
        if math.prod(shape) * (1 if objects else kind.dtype.itemsize) != len(data):
            raise Unusable("array and data differ in size")
        # Deeply nested ones would overflow the stack when they are freed.
        if objects and any(isinstance(v, np.ndarray) and v.dtype.hasobject for v in data):
            raise Unusable("arrays of objects in an array of objects")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), data))


class _Unpickler(pickle.Unpickler):
    """Admits what NumPy pickles arrays and numbers with, as stand-ins that trust no pickle: bound
    methods, whose attributes it cannot set, and `_Dtype` and `_Array`."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2, 1
        admitted = {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": "numpy.ndarray",  # only passed on; it cannot be called
            "numpy.core.multiarray._reconstruct": self.new_array,
            "numpy.core.multiarray.scalar": self.scalar,
            "numpy.core.numeric._frombuffer": self.from_buffer,
            "_codecs.encode": self.encode,
            "__builtin__.bytes": self.encode,  # of nothing
        }
        if full not in admitted:
            raise Unusable(f"names {full[:80]!r}, no part of an array; nothing was run")
        return admitted[full]

    def new_array(self, *_: Any) -> np.ndarray:
        return _Array(0, "b")

    def scalar(self, kind: _Dtype, data: bytes | str) -> np.generic:
        return np.frombuffer(self.encode(data), kind.dtype)[0]

    def from_buffer(self, data: bytes, kind: _Dtype, shape: tuple, order: str) -> np.ndarray:
        return np.frombuffer(data, kind.dtype).reshape(shape, order=order)

    def encode(self, text: bytes | str = b"", *_: Any) -> bytes:
        return text.encode("latin1") if isinstance(text, str) else text
