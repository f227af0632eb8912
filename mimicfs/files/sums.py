"""The sums of the bytes of a staging file, by which a later reader notices that they have changed.

The CRC-32 of each block is kept until the block is written to: a file that is closed again and
again is not read again and again. Holes cost nothing, and count as zeros.

Threading: any thread writes. One thread at a time asks for the total, while no thread writes.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib

_BLOCK = 1 << 20
_TERM = struct.Struct("<QI")  # the number of a block, and its CRC-32


class Sums:
    """The checksums of the blocks of one file, as far as they are known."""

    def __init__(self) -> None:
        self._known: dict[int, int | None] = {}  # None: zeros

    def changed(self, start: int, end: int) -> None:
        """Forget the sums of the bytes from *start* to *end*, which have changed."""
        first, last = start // _BLOCK, (end - 1) // _BLOCK
        some = last - first < len(self._known)
        for block in range(first, last + 1) if some else list(self._known):
            if first <= block <= last:
                self._known.pop(block, None)

    def total(self, fd: int) -> int:
        """Return the checksum of the file *fd*, its length included; never 0."""
        size, found = os.fstat(fd).st_size, 0
        block = _next_block(fd, 0)
        while block is not None:
            if block not in self._known:
                # The sum leaves out the zeros at its end: the last block becomes longer behind our
                # back.
                piece = os.pread(fd, _BLOCK, block * _BLOCK).rstrip(b"\0")
                self._known[block] = zlib.crc32(piece) if piece else None
            if (one := self._known[block]) is not None:
                found = zlib.crc32(_TERM.pack(block, one), found)
            block = _next_block(fd, block + 1)
        return zlib.crc32(b"%d" % size, found) or 1


def total_of(data: bytes) -> int:
    """Return what `Sums.total` returns of a file of *data*, which is one block at most."""
    piece = data.rstrip(b"\0")
    found = zlib.crc32(_TERM.pack(0, zlib.crc32(piece))) if piece else 0
    return zlib.crc32(b"%d" % len(data), found) or 1


def _next_block(fd: int, block: int) -> int | None:
    """Return the first block from *block* on that is not wholly a hole; None: there is none."""
    try:
        return os.lseek(fd, block * _BLOCK, os.SEEK_DATA) // _BLOCK
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return None
