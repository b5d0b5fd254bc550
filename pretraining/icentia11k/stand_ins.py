"""What a pickle of plain NumPy arrays may name, as stand-ins that check what they are given."""

import math
import re
from typing import Any

import numpy as np

from pretraining.icentia11k.room import Room
from recordings import Unusable

AXES = 8  # of an array


class Type:
    """In place of `numpy.dtype`: one kind of number, or objects."""

    def __init__(self, room: Room, code: str, *_: Any):
        if not re.fullmatch(r"[biuf][1248]|O[48]?", code):
            raise Unusable(f"array of type {code[:20]!r}")
        self.dtype = np.dtype(code)


NDARRAY = "numpy.ndarray"  # only named as an argument; as a string it cannot be called


def _reconstruct(room: Room, kind: str, *_: Any) -> np.ndarray:
    """The empty array that is filled later."""
    if kind != NDARRAY:
        raise Unusable("no plain array")
    return np.zeros(0, "b")


def fill(room: Room, array: np.ndarray, state: tuple) -> np.ndarray:
    """Give an empty array its shape and data; takes no memory before there is all of the data."""
    _, shape, kind, fortran, data = state
    # Before they are multiplied, which takes long where they are many or huge.
    if len(shape) > AXES or not all(
        type(length) is int and 0 <= length <= room.limit for length in shape
    ):
        raise Unusable("array of an impossible shape")
    size = math.prod(shape)
    room.take(size * kind.dtype.itemsize)
    if kind.dtype.hasobject:
        room.nest()
        fits = isinstance(data, list) and len(data) == size
    else:
        fits = isinstance(data, bytes | str) and len(data) == size * kind.dtype.itemsize
    if not fits:
        raise Unusable("array and data differ in size")
    if not isinstance(fortran, bool | int):
        raise Unusable("array in no order")
    array.__setstate__((1, shape, kind.dtype, bool(fortran), data))
    return array


def _frombuffer(room: Room, data: bytes, kind: Type, shape: tuple, order: str) -> np.ndarray:
    """Protocol 5's way to write an array."""
    return fill(room, np.zeros(0, "b"), (1, shape, kind, order == "F", data))


def _scalar(room: Room, kind: Type, data: bytes | str) -> np.generic:
    return fill(room, np.zeros(0, "b"), (1, (), kind, False, data))[()]


def _encode(room: Room, text: str, *_: Any) -> bytes:
    """How Python 3 writes bytes in protocol 2, always as Latin-1."""
    room.take(len(text))
    return text.encode("latin1")


def _no_bytes(room: Room) -> bytes:
    """The same for no bytes at all; `bytes` itself would make any number of them."""
    return b""


ADMITTED = {
    "numpy.dtype": Type,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}
