"""How much may be made of a file that nobody vouches for."""

from typing import BinaryIO

from recordings import Unusable

LINE = 2**22  # bytes of a line of protocol 0; errors quote all of it
# Arrays of objects. A few thousand, one in another, overflow the machine's stack when deleted.
NESTED = 500


class Room:
    """Bytes that may still be read or built, and arrays of objects that may be made."""

    def __init__(self, limit: int):
        self.limit = self.left = limit
        self.nested = NESTED

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unusable(f"larger than {self.limit:,} bytes")

    def nest(self) -> None:
        self.nested -= 1
        if self.nested < 0:
            raise Unusable(f"more than {NESTED} arrays of objects")


class Limited:
    """A binary file of which no more can be read than there is room for."""

    def __init__(self, file: BinaryIO, room: Room):
        self.file, self.room = file, room

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.room.left + 1))
        self.room.take(len(data))
        return data

    def readline(self) -> bytes:
        data = self.file.readline(min(LINE, self.room.left) + 1)
        self.room.take(len(data))
        if len(data) > LINE:
            raise Unusable(f"a line of more than {LINE:,} bytes")
        return data
