"""Pickled arrays, read without running anything that the pickle names.

A pickle may name any function and have it called. This unpickler admits what plain NumPy arrays
need and nothing else, and even that through stand-ins, which check what they are given. Each step
takes room and is done in a time that what it reads and builds accounts for.
"""

import pickle
from collections.abc import Callable
from functools import partial
from struct import unpack
from typing import Any, BinaryIO, ClassVar

import numpy as np

from pretraining.icentia11k.room import Limited, Room
from pretraining.icentia11k.stand_ins import ADMITTED, NDARRAY, Type, fill
from recordings import Unusable

STEP = 512  # bytes taken by each step: more than it builds, and so few steps take seconds at most
PLACES = 2**32  # in the memo; larger numbers can be chosen to have equal hashes
ARGUMENTS = 4  # of a function; each call copies them
LATIN = 0xC3  # the last first byte of a letter of Latin-1 in UTF-8; others make all take 4 bytes
# Steps of classes, extensions, sets, and of data from elsewhere.
REFUSED = b"".join([
    pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST,
    pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EMPTY_SET, pickle.ADDITEMS,
    pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
])  # fmt: skip


def unpickle(file: BinaryIO, room: Room) -> Any:
    """What is pickled in the rest of `file`.

    Raises:
        Unusable: too large, or anything but plain arrays and containers.
        Exception: of any kind; damaged.
    """
    limited = Limited(file, room)
    loaded = _Unpickler(limited, room).load()
    if limited.read(1):  # also checks gzip's checksum
        raise Unusable("goes on after its end")
    return loaded


class _Steps(dict):
    """What each step of a pickle does; every step looked up takes room."""

    def __init__(self, steps: dict, room: Room):
        super().__init__(steps)
        self.room = room

    def __getitem__(self, code: int) -> Callable:
        self.room.take(STEP)
        return super().__getitem__(code)

    def __missing__(self, code: int) -> None:
        raise Unusable(f"takes a step ({bytes([code])!r}) that no array needs; nothing was run")


class _Unpickler(pickle._Unpickler):
    """The one written in Python: the one in C allocates whatever room a pickle asks for."""

    dispatch: ClassVar = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code not in REFUSED
    }

    def __init__(self, file: Limited, room: Room):
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

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not partial or type(arguments) is not tuple:
            raise Unusable("calls what cannot be called")
        if len(arguments) > ARGUMENTS:
            raise Unusable(f"calls a function of {len(arguments)} arguments")
        self.append(function(*arguments))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Type):
            target.dtype = target.dtype.newbyteorder(state[1])
        elif isinstance(target, np.ndarray) and not target.size:
            fill(self.room, target, state)
        else:  # the functions above, too, could be changed by a state
            raise Unusable("gives a state to what has none")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list) -> None:
        keys, values, target = items[::2], items[1::2], self.stack[-1]
        # To hash anything else may be without end: ((x, x), (x, x)) with ((…), (…)) for x.
        if type(target) is not dict or any(type(key) is not str for key in keys):
            raise Unusable("sets an item of no dictionary, or one that is not named by text")
        target.update(zip(keys, values, strict=True))

    def load_put(self) -> None:
        place = int(self.readline())
        if not 0 <= place < PLACES:
            raise Unusable(f"keeps more than {PLACES:,} things")
        self.memo[place] = self.stack[-1]

    def load_unicode(self) -> None:
        line = self.readline()[:-1]
        self.room.take(3 * len(line))
        self.append(str(line, "raw-unicode-escape"))

    def load_binunicode(self) -> None:
        self._load_text(*unpack("<I", self.read(4)))

    def load_binunicode8(self) -> None:
        self._load_text(*unpack("<Q", self.read(8)))

    def _load_text(self, size: int) -> None:
        data = self.read(size)
        if np.frombuffer(data, np.uint8).max(initial=0) > LATIN:
            self.room.take(3 * len(data))
        self.append(str(data, "utf-8", "surrogatepass"))

    def load_frame(self) -> None:
        (size,) = unpack("<Q", self.read(8))
        if size > self.room.left:
            raise Unusable(f"a frame of {size:,} bytes")
        # What is in it is read like all else.

    # Data are read as bytes, because the room for a bytearray is made and cleared before them.
    load_bytearray8 = pickle._Unpickler.load_binbytes8

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.PUT[0]: load_put,
        pickle.UNICODE[0]: load_unicode,
        pickle.BINUNICODE[0]: load_binunicode,
        pickle.BINUNICODE8[0]: load_binunicode8,
        pickle.FRAME[0]: load_frame,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }
