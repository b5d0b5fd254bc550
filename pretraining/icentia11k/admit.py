"""Files of pickled arrays, read without running anything they name.

What is read and what is built is bounded, and so is the time: a few kilobytes cannot unfold into
all of memory, nor into a calculation without end.
"""

import gzip
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from pretraining.icentia11k.room import Room
from pretraining.icentia11k.unpickle import unpickle
from recordings import Unusable, one_line

DIRECTORY = 2**16  # bytes of a `.npz` that list its members, fifty or more for each
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others cannot be unzipped bit by bit
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load(path: Path, limit: int) -> Any:
    """Arrays of numbers or objects, in containers: of a pickle, zipped by gzip or not, or of a
    `.npz`, which gives a dictionary; told apart by how the file begins.

    Strings of Python 2 are read as Latin-1, as its arrays need. Dictionaries have text for keys.

    Args:
        limit: bytes that may be read, unzipped, and built from them, in all.

    Raises:
        Unusable: damaged, larger, or anything but plain arrays and containers.
        FileNotFoundError: no such file.
    """
    room = Room(limit)
    with path.open("rb") as file, _all_unusable():
        start = file.read(2)
        file.seek(0)
        if start == b"PK":
            return _load_npz(file, room)
        return unpickle(gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file, room)


def map_npy(path: Path) -> np.memmap:
    """Array of a `.npy`, mapped.

    Raises:
        Unusable: damaged, or of objects.
    """
    with _all_unusable():
        return npy.open_memmap(path, mode="r")


@contextmanager
def _all_unusable() -> Iterator[None]:
    try:
        yield
    except Unusable:
        raise
    except Exception as error:  # a damaged file fails in any way there is
        raise Unusable(f"unreadable ({one_line(error)})") from None


def _load_npz(file: BinaryIO, room: Room) -> dict[str, np.ndarray]:
    # Looked at first: what zipfile makes of the members is many times as large.
    end = zipfile._EndRecData(file)
    if end and end[zipfile._ECD_SIZE] > DIRECTORY:
        raise Unusable(f"members listed in more than {DIRECTORY:,} bytes")
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in arrays:
                raise Unusable("two members of one name")
            arrays[name] = _load_member(archive, member, room)
    return arrays


def _load_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, room: Room) -> Any:
    if member.compress_type not in METHODS:
        raise Unusable("a member compressed in another way")
    room.take(member.file_size)
    with archive.open(member) as file:
        content = file.read(member.file_size)  # to its stated end, wherever that of the data is
    file = io.BytesIO(content)
    shape, fortran, dtype = NPY_HEADERS[npy.read_magic(file)](file)
    if dtype.hasobject:
        return unpickle(file, room)
    array = np.frombuffer(content, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if fortran else "C")
