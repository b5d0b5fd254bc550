"""What a TensorFlow checkpoint's index is made of: LevelDB's sorted string table, protobuf.

Bytes to keys, values and fields. Nothing in them is trusted: each length is held against what is
there, and the CRC-32C of each block is checked.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise

import numpy as np

from pretraining.tensorflow.crc32c import crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes
LARGEST, LONGEST_KEY = 2**18, 512  # bytes; the networks here need 10,000 to 60,000, and 150
FIXED = {1: 8, 5: 4}  # protobuf's wire types of fixed size, in bytes


class Damaged(Exception):
    """What does not hold, in words that fit behind the file's name."""


def check(data: bytes, masked: int) -> None:
    """Raises `Damaged` where `data` has not the sum that was stored with it."""
    crc = crc32c(np.frombuffer(data, np.uint8))
    if (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF != masked:
        raise Damaged("wrong checksum; get the file again")


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Values by key, in order. Raises `Damaged`."""
    if not FOOTER <= len(data) <= LARGEST or not data.endswith(MAGIC):
        raise Damaged("not an index")
    footer, rows, end = BytesIO(data[-FOOTER:]), [], 0
    _, _, *index = (_varint(footer) for _ in range(4))  # the first two: a block for extensions
    for _, handle in _block(data, *index):
        stream = BytesIO(handle)
        offset, size = _varint(stream), _varint(stream)
        if offset < end:  # or a small file could name the same block for hours
            raise Damaged("blocks overlap")
        end = offset + size + TRAILER
        rows += _block(data, offset, size)
    if any(key >= following for (key, _), (following, _) in pairwise(rows)):
        raise Damaged("keys out of order")
    return dict(rows)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a key begins with a part of the one before it."""
    stream = BytesIO(data[offset : offset + size + TRAILER])
    content, checksum = _take(stream, size + 1), _take(stream, 4)
    check(content, int.from_bytes(checksum, "little"))
    if content[-1]:
        raise Damaged("compressed, which is not supported")
    restarts = int.from_bytes(content[-5:-1], "little")
    stream, key = BytesIO(content), b""
    while stream.tell() < size - 4 * restarts - 4:
        shared, more, length = (_varint(stream) for _ in range(3))
        if shared > len(key) or shared + more > LONGEST_KEY:
            raise Damaged("impossible key")
        key = key[:shared] + _take(stream, more)
        yield key, _take(stream, length)


def read_message(data: bytes) -> tuple[Counter[int], dict[int, list[bytes]]]:
    """Fields of a protobuf message by number: the numbers (0 where there is none), and strings or
    messages. Raises `Damaged`."""
    numbers, parts, stream = Counter(), defaultdict(list), BytesIO(data)
    while stream.tell() < len(data):
        field, wire = divmod(_varint(stream), 8)
        if wire == 0:
            numbers[field] = _varint(stream)
        elif wire == 2:
            parts[field].append(_take(stream, _varint(stream)))
        elif wire in FIXED:
            numbers[field] = int.from_bytes(_take(stream, FIXED[wire]), "little")
        else:
            raise Damaged("impossible field")
    return numbers, parts


def _take(stream: BytesIO, length: int) -> bytes:
    taken = stream.read(min(length, LARGEST))
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
