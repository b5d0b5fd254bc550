"""Plain arrays from files that anybody may have written.

What a header claims is held against the bytes that are there before any memory is taken.
"""

import io
import mmap
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from recordings import Unusable
from recordings.wfdb_files import words

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
HEADER = 2**17  # bytes; NumPy takes no header of more than 10,000
# What NumPy and zipfile raise on files that are not as they should be.
ERRORS = (ValueError, KeyError, TypeError, EOFError, RuntimeError, SyntaxError, ArithmeticError,
          struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile)  # fmt: skip


def parse_npy(content: bytes | mmap.mmap) -> np.ndarray:
    """The array of a `.npy` file, read or mapped, which cannot be written to.

    Raises:
        Unusable: damaged, of another length, or of objects.
    """
    try:
        file = io.BytesIO(content[:HEADER])
        shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
        if dtype.hasobject:
            raise ValueError("it holds objects")
        array = np.frombuffer(content, dtype, offset=file.tell())
        return array.reshape(shape, order="F" if fortran else "C")
    except ERRORS as error:
        raise Unusable(f"not a plain array ({words(error)})") from None


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed `.npz` file, which cannot be written to, by name.

    Args:
        names: of those to read, which may be missing; all by default.

    Raises:
        Unusable: damaged, compressed, or not of plain arrays.
        OSError: not to be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if names is not None:
                members = {name: info for name, info in members.items() if name in names}
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
                raise ValueError("it is compressed")
            contents = {name: archive.read(member) for name, member in members.items()}
    except ERRORS as error:
        raise Unusable(f"not readable arrays ({words(error)})") from None
    return {name: parse_npy(content) for name, content in contents.items()}
