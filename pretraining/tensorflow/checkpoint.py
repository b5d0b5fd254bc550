"""Read TensorFlow checkpoints (`PREFIX.index`, `PREFIX.data-…`) without TensorFlow.

The index is LevelDB's sorted string table of protobuf messages. Lengths that it states are checked
against the file; checksums are not.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes
MAX_INDEX, MAX_KEY = 2**18, 512  # bytes; the networks here need 10,000 to 60,000, and 150
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # numbers of `types.proto`
STRING = 7


class Damaged(Exception):
    """What is wrong with a file, in words that follow its name."""


class Entry(NamedTuple):
    """`BundleEntryProto` of `tensor_bundle.proto`; offset and size in bytes of the shard."""

    dtype: int
    shape: list[int]
    shard: int
    offset: int
    size: int


def read_checkpoint(prefix: Path) -> tuple[dict[str, np.ndarray], list[Path]]:
    """Read all variables by name, without strings, and list the files that they come from.

    Args:
        prefix: path without `.index` and `.data-…`, or that of the index.

    Raises:
        UserError: a file is missing, cut short, damaged, compressed or no checkpoint.
    """
    prefix = str(prefix).removesuffix(".index")
    files, variables = [Path(f"{prefix}.index")], {}
    try:
        shards, entries = _entries(_content(files[0]))
        for shard in sorted({entry.shard for entry in entries.values()}):
            files.append(Path(f"{prefix}.data-{shard:05}-of-{shards:05}"))
            data = _content(files[-1])
            chosen = (name for name, entry in entries.items() if entry.shard == shard)
            variables |= {name: _tensor(entries[name], data) for name in chosen}
    except Damaged as error:
        raise UserError(
            f"{files[-1]} is not readable as a TensorFlow checkpoint: {error}"
        ) from None
    return variables, files


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} does not exist; a checkpoint is PREFIX.index and PREFIX.data-…")
    return path.read_bytes()


def _entries(index: bytes) -> tuple[int, dict[str, Entry]]:
    """Number of shards, and the entry of each variable that is no string."""
    table = {key: _message(value) for key, value in _table(index).items()}
    header, _ = table.pop(b"", (None, None))
    if header is None or header[2]:
        raise Damaged("no header, or numbers of a big-endian machine")
    entries = {}
    for key, (numbers, parts) in table.items():
        name = key.decode(errors="backslashreplace")
        dims = (dim for shape in parts[2] for dim in _message(shape)[1][2])
        shape = [_message(dim)[0][1] for dim in dims]
        if not name.isprintable() or numbers[1] not in (*DTYPES, STRING):
            raise Damaged(f"variable {name!r} is of type number {numbers[1]}")
        if numbers[1] != STRING:
            entries[name] = Entry(numbers[1], shape, *(numbers[field] for field in (3, 4, 5)))
    return header[1], entries


def _tensor(entry: Entry, data: bytes) -> np.ndarray:
    dtype, piece = np.dtype(DTYPES[entry.dtype]), data[entry.offset : entry.offset + entry.size]
    sized = 0 not in entry.shape and len(entry.shape) <= 8
    if not sized or math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise Damaged("a shape that does not fit its tensor")
    if len(piece) < entry.size:
        raise Damaged("cut short")
    return np.frombuffer(piece, dtype).reshape(entry.shape)


def _table(data: bytes) -> dict[bytes, bytes]:
    """A sorted string table as a dictionary."""
    if not FOOTER <= len(data) <= MAX_INDEX or not data.endswith(MAGIC):
        raise Damaged("not an index")
    footer, rows, end = BytesIO(data[-FOOTER:]), [], 0
    _, _, *index = (_varint(footer) for _ in range(4))  # the first two: a block for extensions
    for _, handle in _block(data, *index):
        offset, size = (_varint(stream) for stream in [BytesIO(handle)] * 2)
        if offset < end:  # a small file that names one block often would take hours
            raise Damaged("blocks overlap")
        end = offset + size + TRAILER
        rows += _block(data, offset, size)
    return dict(rows)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares its beginning with the key before it."""
    content, key = _take(BytesIO(data[offset : offset + size + TRAILER]), size + 1), b""
    if content[-1]:
        raise Damaged("compressed, which is not supported")
    stream, restarts = BytesIO(content), int.from_bytes(content[-5:-1], "little")
    while stream.tell() < size - 4 * restarts - 4:
        shared, more, length = (_varint(stream) for _ in range(3))
        if shared > len(key) or shared + more > MAX_KEY:
            raise Damaged("impossible key")
        key = key[:shared] + _take(stream, more)
        yield key, _take(stream, length)


def _message(data: bytes) -> tuple[Counter[int], dict[int, list[bytes]]]:
    """Fields of a protobuf message by number: integers (0 if absent), and bytes or messages."""
    numbers, parts, stream = Counter(), defaultdict(list), BytesIO(data)
    while stream.tell() < len(data):
        field, wire = divmod(_varint(stream), 8)
        if wire == 0:
            numbers[field] = _varint(stream)
        elif wire == 2:
            parts[field].append(_take(stream, _varint(stream)))
        elif wire == 5:
            numbers[field] = int.from_bytes(_take(stream, 4), "little")
        else:
            raise Damaged("impossible field")
    return numbers, parts


def _take(stream: BytesIO, length: int) -> bytes:
    taken = stream.read(min(length, MAX_INDEX))
    if len(taken) < length:
        raise Damaged("cut short")
    return taken


def _varint(stream: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _take(stream, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise Damaged("impossible number")
