"""Read TensorFlow checkpoints (`PREFIX.index`, `PREFIX.data-…`) without TensorFlow.

The index is LevelDB's sorted string table of protobuf messages. Lengths that it states are checked
against the file; checksums are not.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np

from utils.cli import UserError

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48  # bytes
MAX_INDEX, MAX_KEY = 2**18, 512  # bytes; the networks here need 10,000 to 60,000, and 150
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # numbers of `types.proto`


def read_checkpoint(prefix: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read all numeric variables by name, and the SHA-256 of `cat PREFIX.index PREFIX.data-*`;
    `UserError` if a file is damaged, compressed or no checkpoint."""
    prefix = str(prefix).removesuffix(".index")
    path = Path(f"{prefix}.index")
    index, shards, variables = path.read_bytes(), {}, {}
    try:
        table = dict(_read_table(index))
        header, _ = _read_message(table.pop(b"", b""))
        for key, value in table.items():
            numbers, parts = _read_message(value)  # `BundleEntryProto` of `tensor_bundle.proto`
            kind, shard, offset, size = (numbers[field] for field in (1, 3, 4, 5))
            if kind in DTYPES:
                path = Path(f"{prefix}.data-{shard:05}-of-{header[1]:05}")
                if path not in shards:
                    shards[path] = path.read_bytes()
                dimensions = (dim for shape in parts[2] for dim in _read_message(shape)[1][2])
                shape = [_read_message(dimension)[0][1] for dimension in dimensions]
                dtype = np.dtype(DTYPES[kind])
                values = np.frombuffer(shards[path], dtype, size // dtype.itemsize, offset)
                variables[key.decode()] = values.reshape(shape)
    except (IndexError, OverflowError, ValueError) as error:
        raise UserError(f"{path} is not readable as a TensorFlow checkpoint ({error})") from None
    return variables, hashlib.sha256(index + b"".join(map(shards.get, sorted(shards)))).hexdigest()


def _read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not FOOTER <= len(data) <= MAX_INDEX or not data.endswith(MAGIC):
        raise ValueError("not an index")
    footer = BytesIO(data[-FOOTER:])
    _, _, *index = (_read_number(footer) for _ in range(4))  # the first two: extensions
    for _, handle in _read_block(data, *index):
        yield from _read_block(data, *map(_read_number, [BytesIO(handle)] * 2))


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key shares its beginning with the key before it."""
    if data[offset + size]:
        raise ValueError("compressed, which is not supported")
    content, key = data[offset : offset + size], b""
    stream, restarts = BytesIO(content), int.from_bytes(content[-4:], "little")
    while stream.tell() < size - 4 * restarts - 4:
        shared, more, length = (_read_number(stream) for _ in range(3))
        if shared + more > MAX_KEY:
            raise ValueError("impossible key")
        key = key[:shared] + _read_bytes(stream, more)
        yield key, _read_bytes(stream, length)


def _read_message(data: bytes) -> tuple[Counter[int], dict[int, list[bytes]]]:
    """Fields of a protobuf message by number: integers (0 if absent), and bytes or messages."""
    numbers, parts, stream = Counter(), defaultdict(list), BytesIO(data)
    while stream.tell() < len(data):
        field, wire = divmod(_read_number(stream), 8)
        if wire == 0:
            numbers[field] = _read_number(stream)
        elif wire == 2:
            parts[field].append(_read_bytes(stream, _read_number(stream)))
        elif wire == 5:
            _read_bytes(stream, 4)  # a checksum
        else:
            raise ValueError("impossible field")
    return numbers, parts


def _read_bytes(stream: BytesIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise ValueError("cut short")
    return content


def _read_number(stream: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _read_bytes(stream, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("impossible number")
