"""One file of the cache on disk: the blocks that were read of one version of an object.

    0 .. size    the object's bytes, each at its own place; what was never read is a hole
    size ..      the header: what the file is
    .. end       a record for each block: 0, or _PRESENT with the block's crc32

A block is believed once it was compared with its record, which is done when it is first read
here. So nothing has to be synced: what a crash has torn is a block that does not match, and is
not there. Nothing is said of which object it is but by the name of the file, a hash (cache.py).

Threading: any thread. A table of records is changed in single atomic steps; two threads that
write the same block write the same bytes. Raises OSError as the disk does.
"""

from __future__ import annotations

import errno
import os
import struct
import time
import weakref
from array import array
from zlib import crc32

BLOCK = 64 << 10
_HEADER = struct.Struct("=8sQ")  # what it is, in the byte order of this machine; the size
_MAGIC = b"mimicfs1"
_RECORD = 8  # bytes
_PRESENT = 1 << 32
_CHECKED = 1 << 33  # in memory only: compared with its bytes
_TABLE = 512  # records that are read at once, of 32 MiB of the object
_FRESH_S = 60.0  # an earlier use than this is noted
# The page cache does not have it, or this file system cannot tell.
_NOT_NOW = frozenset((errno.EAGAIN, errno.EOPNOTSUPP))


class BlockFile:
    """The file *fd*, owned from now on, of an object of *size* bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._tables: dict[int, array[int]] = {}
        # Not before nobody reads any more: another file may get the number.
        weakref.finalize(self, os.close, fd)

    def is_sound(self) -> bool:
        """Whether the file is what its name says. If so, its use is noted for the eviction."""
        found = os.fstat(self._fd)
        if found.st_size != self._record(-(-self._size // BLOCK)):
            return False
        if os.pread(self._fd, _HEADER.size, self._size) != self._header:
            return False
        if time.time() - found.st_mtime > _FRESH_S:
            os.utime(self._fd)
        return True

    def begin(self) -> None:
        """Make a file that has nothing yet."""
        os.ftruncate(self._fd, self._record(-(-self._size // BLOCK)))
        os.pwrite(self._fd, self._header, self._size)

    def here_until(self, start: int, end: int) -> int:
        """Return how far from *start* the bytes are here without a gap; *end* at most."""
        index, last = start // BLOCK, -(-end // BLOCK)
        while index < last:
            number, place = divmod(index, _TABLE)
            try:
                missing = self._table(number).index(0, place) + number * _TABLE
            except ValueError:
                index = (number + 1) * _TABLE
                continue
            return max(start, min(missing * BLOCK, end))
        return end

    def read(self, start: int, end: int, wait: bool) -> bytes | memoryview | None:
        """Return the bytes from *start* to *end*, if they are here and sound. *wait* False:
        only if that needs no waiting for the disk."""
        known = start // BLOCK // _TABLE in self._tables
        if start >= end or not (wait or known) or self.here_until(start, end) < end:
            return None
        unchecked = [
            index
            for index in range(start // BLOCK, -(-end // BLOCK))
            if not self._table(index // _TABLE)[index % _TABLE] & _CHECKED
        ]
        if not unchecked:
            return self._bytes(start, end, wait)
        begin, stop = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self._size)
        data = self._bytes(begin, stop, wait)
        if data is None:
            return None
        view = memoryview(data)
        sound = [
            self._check(index, view[index * BLOCK - begin : (index + 1) * BLOCK - begin])
            for index in unchecked
        ]
        return view[start - begin : end - begin] if all(sound) else None

    def write(self, start: int, data: memoryview) -> int:
        """Keep what *data*, the object's bytes from *start* on, has of whole blocks. Return how
        many bytes that is."""
        end = start + len(data)
        first = -(-start // BLOCK)
        stop = -(-end // BLOCK) if end == self._size else end // BLOCK
        begin, end = first * BLOCK, min(stop * BLOCK, self._size)
        if begin >= end or self.here_until(begin, end) == end:
            return 0
        view = data[begin - start : end - start]
        records = array("Q", (
            _PRESENT | crc32(view[place : place + BLOCK]) for place in range(0, len(view), BLOCK)
        ))  # fmt: skip
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], begin + done)
        os.pwrite(self._fd, records, self._record(first))
        for index, record in enumerate(records, first):
            self._table(index // _TABLE)[index % _TABLE] = record | _CHECKED
        return len(view)

    @property
    def _header(self) -> bytes:
        return _HEADER.pack(_MAGIC, self._size)

    def _record(self, index: int) -> int:
        """Return where in the file the record of a block is."""
        return self._size + _HEADER.size + index * _RECORD

    def _table(self, number: int) -> array[int]:
        table = self._tables.get(number)
        if table is None:
            found = os.pread(self._fd, _TABLE * _RECORD, self._record(number * _TABLE))
            table = array("Q", found[: len(found) // _RECORD * _RECORD])
            table.extend([0] * (_TABLE - len(table)))
            for index, record in enumerate(table):
                if record >> 32 not in (0, 1):  # no record of ours
                    table[index] = 0
            table = self._tables.setdefault(number, table)
        return table

    def _check(self, index: int, block: memoryview) -> bool:
        """Whether *block* is what was written; else it is not here any more."""
        table, place = self._table(index // _TABLE), index % _TABLE
        sound = table[place] & ~_CHECKED == _PRESENT | crc32(block)
        table[place] = table[place] | _CHECKED if sound else 0
        if not sound:
            os.pwrite(self._fd, bytes(_RECORD), self._record(index))
        return sound

    def _bytes(self, start: int, end: int, wait: bool) -> bytes | memoryview | None:
        if wait:
            # pread(2) and not preadv: a buffer would be filled with zeros first.
            data = os.pread(self._fd, end - start, start)
            if len(data) == end - start:
                return data
            self._tables.clear()  # somebody has cut the file: see what there is
            return None
        buffer = bytearray(end - start)
        try:
            count = os.preadv(self._fd, [buffer], start, os.RWF_NOWAIT)
        except OSError as exc:
            if exc.errno in _NOT_NOW:
                return None
            raise
        return memoryview(buffer) if count == end - start else None
