"""Read TensorFlow's checkpoints (`PREFIX.index`, `PREFIX.data-…`) without TensorFlow."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretraining.tensorflow.string_table import Damaged, check, read_message, read_table
from utils.cli import UserError

STRING, BFLOAT16 = 7, 14  # TensorFlow's numbers of types, `types.proto`
DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", BFLOAT16: "<u2",
    17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip
MOST_DIMENSIONS = 8


class Checkpoint(NamedTuple):
    """Its files, the index first, and its variables by name."""

    files: list[Path]
    variables: dict[str, np.ndarray]


class _Entry(NamedTuple):
    """`BundleEntryProto` of `tensor_bundle.proto`; offset and size in bytes of the shard."""

    dtype: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    checksum: int


def read_checkpoint(prefix: Path) -> Checkpoint:
    """All variables as they are stored, but bfloat16 as float32; strings are left out.

    The sums of the index and of every tensor are checked.

    Args:
        prefix: path without `.index` and `.data-…`, or that of the index.

    Raises:
        UserError: a file is missing, cut short, damaged, compressed or no checkpoint.
    """
    prefix = str(prefix).removesuffix(".index")
    files, variables = [Path(f"{prefix}.index")], {}
    with _reading(files[0]) as index:
        shards, entries = _entries(index)
    for shard in sorted({entry.shard for entry in entries.values()}):
        files.append(Path(f"{prefix}.data-{shard:05}-of-{shards:05}"))
        chosen = {name: entry for name, entry in entries.items() if entry.shard == shard}
        with _reading(files[-1]) as data:
            if sum(entry.size for entry in chosen.values()) > len(data):
                raise Damaged("cut short")
            variables |= {name: _tensor(entry, data) for name, entry in chosen.items()}
    return Checkpoint(files, variables)


@contextmanager
def _reading(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; a checkpoint is PREFIX.index and PREFIX.data-…")
    try:
        yield path.read_bytes()
    except Damaged as error:
        raise UserError(f"{path} is not readable as a TensorFlow checkpoint: {error}") from None


def _entries(index: bytes) -> tuple[int, dict[str, _Entry]]:
    """Number of shards, and where each variable lies, strings left out."""
    table = {key: read_message(value) for key, value in read_table(index).items()}
    header, _ = table.pop(b"", (None, None))
    if header is None or header[2]:
        raise Damaged("no header, or numbers of a big-endian machine")
    entries = {}
    for key, (numbers, parts) in table.items():
        name = key.decode(errors="backslashreplace")
        dims = (dim for shape in parts[2] for dim in read_message(shape)[1][2])
        shape = [read_message(dim)[0][1] for dim in dims]
        entry = _Entry(numbers[1], shape, *(numbers[field] for field in (3, 4, 5, 6)))
        if not name.isprintable():
            raise Damaged("a name that is no text")
        if entry.dtype not in (*DTYPES, STRING):
            raise Damaged(f"{name} is of a type (number {entry.dtype}) that is not supported")
        if entry.dtype != STRING:
            entries[name] = entry
    return header[1], entries


def _tensor(entry: _Entry, data: bytes) -> np.ndarray:
    dtype, piece = np.dtype(DTYPES[entry.dtype]), data[entry.offset : entry.offset + entry.size]
    sized = 0 not in entry.shape and len(entry.shape) <= MOST_DIMENSIONS
    if not sized or math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise Damaged("a shape that does not fit its tensor")
    if len(piece) < entry.size:
        raise Damaged("cut short")
    check(piece, entry.checksum)
    array = np.frombuffer(piece, dtype).reshape(entry.shape)
    if entry.dtype == BFLOAT16:  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array
