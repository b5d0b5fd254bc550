"""Files of pickled arrays, read without running anything they name.

A pickle may name any function and have it called. This unpickler admits what plain NumPy arrays
need and nothing else, and even that through stand-ins of its own, which check what they are given.
What it reads and what it builds is bounded: a few kilobytes cannot unfold into all of memory.
"""

import gzip
import math
import pickle
import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.lib import format as npy

from utils.wfdb_io import Unusable, words

TOO_LARGE = "larger than {:,} bytes"
STEP = 64  # bytes that one step of a pickle may build, such as an empty dictionary
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load(path: Path, limit: int) -> Any:
    """Arrays of numbers or objects, in containers: of a pickle, zipped by gzip or not, or of a
    `.npz`, which gives a dictionary; told apart by how the file begins.

    Strings of Python 2 are read as Latin-1, as its arrays need.

    Args:
        limit: bytes that the file may have, unzipped, and that may be built from them.

    Raises:
        Unusable: damaged, larger, or anything but plain arrays and containers.
        FileNotFoundError: no such file.
    """
    with path.open("rb") as file:
        try:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _load_npz(file, limit)
            return _unpickle(gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file, limit)
        except Unusable:
            raise
        except Exception as error:  # a damaged file fails in any way there is
            raise Unusable(f"unreadable ({words(error)})") from None


def _load_npz(file: BinaryIO, limit: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        # No member is read beyond the size stated here.
        if sum(member.file_size for member in archive.infolist()) > limit:
            raise Unusable(TOO_LARGE.format(limit))
        return {
            name.removesuffix(".npy"): _load_npy(archive.open(name), limit)
            for name in archive.namelist()
        }


def _load_npy(file: BinaryIO, limit: int) -> Any:
    shape, fortran, dtype = NPY_HEADERS[npy.read_magic(file)](file)
    if dtype.hasobject:
        return _unpickle(file, limit)
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def _unpickle(file: BinaryIO, limit: int) -> Any:
    limited = _Limited(file, limit)
    loaded = _Unpickler(limited, _Room(limit)).load()
    if limited.read(1):  # also checks gzip's checksum
        raise Unusable("goes on after its end")
    return loaded


class _Room:
    """Bytes that may still be read or built."""

    def __init__(self, limit: int):
        self.limit = self.left = limit

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unusable(TOO_LARGE.format(self.limit))


class _Limited:
    """A binary file of which no more than `limit` bytes can be read."""

    def __init__(self, file: BinaryIO, limit: int):
        self.file, self.room = file, _Room(limit)

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.room.left + 1))
        self.room.take(len(data))
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.room.left + 1)
        self.room.take(len(data))
        return data


class _Type:
    """In place of `numpy.dtype`: one kind of number, or objects."""

    def __init__(self, room: _Room, code: str, *_: Any):
        if not re.fullmatch(r"[biuf][1248]|O[48]?", code):
            raise Unusable(f"array of type {code[:20]!r}")
        self.dtype = np.dtype(code)


NDARRAY = "numpy.ndarray"  # only named as an argument; as a string it cannot be called


def _reconstruct(room: _Room, kind: str, *_: Any) -> np.ndarray:
    """The empty array that is filled later."""
    if kind != NDARRAY:
        raise Unusable("no plain array")
    return np.zeros(0, "b")


def _fill(room: _Room, array: np.ndarray, state: tuple) -> np.ndarray:
    """Give an empty array its shape and data; takes no memory before there is all of the data."""
    _, shape, kind, fortran, data = state
    if not all(type(length) is int and length >= 0 for length in shape):
        raise Unusable("array of an impossible shape")
    size = math.prod(shape)
    room.take(size * kind.dtype.itemsize)
    if kind.dtype.hasobject:
        fits = isinstance(data, list) and len(data) == size
    else:
        fits = isinstance(data, bytes | str) and len(data) == size * kind.dtype.itemsize
    if not fits:
        raise Unusable("array and data differ in size")
    array.__setstate__((1, shape, kind.dtype, bool(fortran), data))
    return array


def _frombuffer(room: _Room, data: bytes, kind: _Type, shape: tuple, order: str) -> np.ndarray:
    """Protocol 5's way to write an array."""
    return _fill(room, np.zeros(0, "b"), (1, shape, kind, order == "F", data))


def _scalar(room: _Room, kind: _Type, data: bytes | str) -> np.generic:
    return _fill(room, np.zeros(0, "b"), (1, (), kind, False, data))[()]


def _encode(room: _Room, text: str, *_: Any) -> bytes:
    """How Python 3 writes bytes in protocol 2, always as Latin-1."""
    room.take(len(text))
    return text.encode("latin1")


def _no_bytes(room: _Room) -> bytes:
    """The same for no bytes at all; `bytes` itself would make any number of them."""
    return b""


ADMITTED = {
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}


class _Steps(dict):
    """What each step of a pickle does; every step looked up takes room."""

    def __init__(self, steps: dict, room: _Room):
        super().__init__(steps)
        self.room = room

    def __getitem__(self, code: int) -> Any:
        self.room.take(STEP)
        return super().__getitem__(code)


class _Unpickler(pickle._Unpickler):
    """The one written in Python: the one in C allocates whatever room a pickle asks for."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: _Limited, room: _Room):
        super().__init__(file, encoding="latin1")
        self.room = room
        self.dispatch = _Steps(self.dispatch, room)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2, 1
        if full == NDARRAY:
            return NDARRAY
        if full not in ADMITTED:
            raise Unusable(f"names {full[:80]!r}, no part of an array; nothing was run")
        return partial(ADMITTED[full], self.room)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Type):
            target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, np.ndarray) and not target.size:
            _fill(self.room, target, state)
        else:  # the functions above, too, could be changed by a state
            raise Unusable("gives a state to what has none")

    dispatch[pickle.BUILD[0]] = load_build
    # As bytes, because the room for a bytearray is made and cleared before there is data.
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8
