"""One file of the cache on disk: the blocks that were read of one version of an object.

    0 .. size    the object's bytes, each at its own place; what was never read is a hole
    size ..      the header: what the file is
    .. end       a record for each block: 0, or _PRESENT with the block's CRC-32, or _BY_AWSCRT
                 with its CRC-32C, which takes a tenth of the time where awscrt is installed

A block is believed once it was compared with its record, which happens when it is first read here.
So nothing has to be synced: a block that a crash has torn does not match, and counts as absent.
Only the name of the file, a hash (cache.py), tells which object it is of.

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
from collections.abc import Callable
from functools import cache, cached_property, reduce
from operator import xor
from zlib import crc32

from mimicfs.files.bringing import PART, Bringer
from mimicfs.files.direct import LEAST, Direct
from mimicfs.s3.requests import checksums

BLOCK = 64 << 10
_HEADER = struct.Struct("=8sQ")  # what it is, in the byte order of this machine; the size
_MAGIC = b"mimicfs1"
_RECORD = 8  # bytes
_PRESENT = 1 << 32
_CHECKED = 1 << 33  # in memory only: compared with its bytes
_BY_AWSCRT = _PRESENT | 1 << 34
_TABLE = 512  # records that are read at once, of 32 MiB of the object
_FRESH_S = 60.0  # an earlier use than this is noted
# A file of which one part in so many was brought is read all over: a single read in another part
# brings that, too.
_ALL_OVER = 16
# The page cache does not have it, or this file system cannot tell.
_NOT_NOW = frozenset((errno.EAGAIN, errno.EOPNOTSUPP))


class BlockFile:
    """The file *fd*, owned from now on, of an object of *size* bytes."""

    def __init__(
        self, fd: int, size: int, direct: Direct | None = None, bringer: Bringer | None = None
    ) -> None:
        self._fd = fd
        self._size = size
        self._direct = direct
        self._bringer = bringer or Bringer()
        self._tables: dict[int, array[int]] = {}
        self._full: set[int] = set()  # tables without a block that is missing
        self._parts: dict[int, bool] = {}  # of which a block was read: whether all was asked for
        self._brought = 0  # parts
        # The file is closed only when nobody reads any more: another file may get the number.
        weakref.finalize(self, os.close, fd)

    @cached_property
    def _direct_fd(self) -> int:
        """For large reads and writes past the kernel's pages; -1: there is none."""
        fd = self._direct.open(self._fd) if self._direct is not None else -1
        if fd >= 0:
            weakref.finalize(self, os.close, fd)
        return fd

    def is_sound(self, since_s: float = 0.0) -> bool:
        """Whether the file is what its name says. If so, its use is noted for the eviction, unless
        one after *since_s* was noted lately."""
        found = os.fstat(self._fd)
        if found.st_size != self._record(-(-self._size // BLOCK)):
            return False
        if os.pread(self._fd, _HEADER.size, self._size) != self._header:
            return False
        if found.st_mtime < max(since_s, time.time() - _FRESH_S):
            os.utime(self._fd)
        return True

    def begin(self) -> None:
        """Make a file that has nothing yet."""
        os.ftruncate(self._fd, self._record(-(-self._size // BLOCK)))
        os.pwrite(self._fd, self._header, self._size)

    @property
    def is_whole(self) -> bool:
        """Whether every block seems to be here. A hint: one that is found damaged is missing."""
        return len(self._full) * _TABLE * BLOCK >= self._size

    def here_until(self, start: int, end: int) -> int:
        """Return how far from *start* the bytes are here without a gap; *end* at most."""
        index, last = start // BLOCK, -(-end // BLOCK)
        while index < last:
            number, place = divmod(index, _TABLE)
            stop = min(last - number * _TABLE, _TABLE)
            try:
                missing = self._table(number).index(0, place, stop) + number * _TABLE
            except ValueError:
                index = (number + 1) * _TABLE
                continue
            return max(start, min(missing * BLOCK, end))
        return end

    def read(self, start: int, end: int, wait: bool) -> bytes | memoryview | None:
        """Return the bytes from *start* to *end*, if they are here and sound; with *wait* False,
        only if that needs no wait for the disk."""
        index = start // BLOCK
        table = self._tables.get(index // _TABLE)
        within = start < end <= (index + 1) * BLOCK  # one block, as most small reads are
        if within and table is not None and table[index % _TABLE] & _CHECKED:
            return self._bytes(start, end, wait)
        known = table is not None
        if start >= end or not (wait or known) or self.here_until(start, end) < end:
            return None
        unchecked = self._unchecked(start, end)
        if not unchecked:
            return self._bytes(start, end, wait)
        begin, stop = start // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, self._size)
        data = self._bytes(begin, stop, wait)
        sound = data is not None and self._check(unchecked, begin, memoryview(data))
        if wait and within:
            self._bring_more(begin)
        return memoryview(data)[start - begin : end - begin] if data is not None and sound else None

    def read_into(self, start: int, buffer: memoryview) -> bool:
        """Fill *buffer* with the bytes from *start* on, if they are here and sound."""
        end = start + len(buffer)
        if start >= end or self.here_until(start, end) < end:
            return False
        unchecked = self._unchecked(start, end)
        if unchecked and (start % BLOCK or (end % BLOCK and end != self._size)):
            data = self.read(start, end, wait=True)  # the checksums are of whole blocks
            if data is not None:
                buffer[:] = data
            return data is not None
        done = 0
        if self._direct is not None and len(buffer) >= LEAST and self._direct_fd >= 0:
            done = self._direct.read_into(self._direct_fd, buffer, start)
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], start + done)
            if not count:
                self._forget_records()
                return False
            done += count
        return self._check(unchecked, start, buffer)

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
        kind, checksum = _best()
        records = array("Q", (
            kind | checksum(view[place : place + BLOCK]) for place in range(0, len(view), BLOCK)
        ))  # fmt: skip
        done = 0
        if self._direct is not None and len(view) >= LEAST and self._direct_fd >= 0:
            done = self._direct.write(self._direct_fd, view, begin)
        while done < len(view):
            done += os.pwrite(self._fd, view[done:], begin + done)
        os.pwrite(self._fd, records, self._record(first))
        for index, record in enumerate(records, first):
            self._table(index // _TABLE)[index % _TABLE] = record | _CHECKED
        for number in range(first // _TABLE, (stop - 1) // _TABLE + 1):
            self._note_full(number, self._table(number))
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
            known = _known()
            for index, record in enumerate(table):
                if record >= _CHECKED and record >> 32 not in known:  # no record of ours
                    table[index] = 0
            table.frombytes(bytes((_TABLE - len(table)) * _RECORD))
            table = self._tables.setdefault(number, table)
            self._note_full(number, table)
        return table

    def _note_full(self, number: int, table: array[int]) -> None:
        """Note it if no block of the table *number* is missing. Another thread may find one damaged
        just now: then `is_whole` says too much, and whoever reads that block finds out."""
        last = -(-self._size // BLOCK) - number * _TABLE
        if number not in self._full and 0 not in table[:last]:
            self._full.add(number)

    def _forget_records(self) -> None:
        """Read the records again when they are asked for: somebody has cut the file."""
        self._full.clear()
        self._tables.clear()

    def _unchecked(self, start: int, end: int) -> list[int]:
        """Return which blocks from *start* to *end* were not compared with their records yet."""
        return [
            index
            for index in range(start // BLOCK, -(-end // BLOCK))
            if not self._table(index // _TABLE)[index % _TABLE] & _CHECKED
        ]

    def _bring_more(self, begin: int) -> None:
        """Have the part of the file around the block at *begin* brought from the disk into the
        kernel's pages, if another block of it was read before, or if the file is read all over:
        there will be more."""
        part = begin // PART
        asked = self._parts.get(part)
        more = asked is not None or self._brought * _ALL_OVER * PART >= self._size
        if not asked and more:
            self._brought += 1
            self._bringer.submit(lambda: self._bring(part * PART))
        self._parts[part] = more

    def _bring(self, start: int) -> None:
        os.posix_fadvise(self._fd, start, PART, os.POSIX_FADV_WILLNEED)

    def _check(self, blocks: list[int], start: int, data: memoryview) -> bool:
        """Whether *blocks*, in *data* from *start* on, are what was written. Those that differ are
        forgotten."""
        sound = True
        whole = [index for index in blocks if (index + 1) * BLOCK <= self._size]
        if self._are_sound(whole, start, data):
            blocks = blocks[len(whole) :]
        for index in blocks:
            place = index * BLOCK - start
            table, number = self._table(index // _TABLE), index % _TABLE
            if _is_record_of(table[number] & ~_CHECKED, data[place : place + BLOCK]):
                table[number] |= _CHECKED
            else:
                sound, table[number] = False, 0
                self._full.discard(index // _TABLE)
                os.pwrite(self._fd, bytes(_RECORD), self._record(index))
        return sound

    def _are_sound(self, blocks: list[int], start: int, data: memoryview) -> bool:
        """Whether *blocks* follow one another, and are what was written. If so, that is noted.

        Together they have one checksum, which follows from theirs. To compute them one by one,
        threads would fight for the interpreter's lock before and after each.
        """
        if len(blocks) < 2 or blocks[-1] - blocks[0] >= len(blocks):
            return False
        found = [self._table(index // _TABLE)[index % _TABLE] & ~_CHECKED for index in blocks]
        kind, checksum = _best()
        if any(record >> 32 != kind >> 32 for record in found):
            return False
        place = blocks[0] * BLOCK - start
        if checksum(data[place : place + len(blocks) * BLOCK]) != _joined(checksum, found):
            return False
        for index, record in zip(blocks, found, strict=True):
            table, number = self._table(index // _TABLE), index % _TABLE
            if table[number] == record:
                table[number] |= _CHECKED
        return True

    def _bytes(self, start: int, end: int, wait: bool) -> bytes | memoryview | None:
        if wait:
            # pread(2) and not preadv: a buffer would be filled with zeros first.
            data = os.pread(self._fd, end - start, start)
            if len(data) == end - start:
                return data
            self._forget_records()
            return None
        buffer = bytearray(end - start)
        try:
            count = os.preadv(self._fd, [buffer], start, os.RWF_NOWAIT)
        except OSError as exc:
            if exc.errno in _NOT_NOW:
                return None
            raise
        return memoryview(buffer) if count == end - start else None


def _best() -> tuple[int, Callable[..., int]]:
    """Return the kind of checksum that is computed fastest here, and what computes it."""
    crc32c = checksums.crc32c()
    return (_PRESENT, crc32) if crc32c is None else (_BY_AWSCRT, crc32c)


def _known() -> tuple[int, ...]:
    """Return the kinds of records that can be compared here, without their checksums. Another mount
    may have awscrt: then what it keeps is not there for us, and stays there for it."""
    return (_PRESENT >> 32,) if checksums.crc32c() is None else (_PRESENT >> 32, _BY_AWSCRT >> 32)


def _is_record_of(record: int, block: memoryview) -> bool:
    """Whether *block* has the checksum in *record*."""
    if record < _BY_AWSCRT:
        return record == _PRESENT | crc32(block)
    crc32c = checksums.crc32c()
    return crc32c is not None and record == _BY_AWSCRT | crc32c(block)


def _joined(checksum: Callable[..., int], records: list[int]) -> int:
    """Return the *checksum* of whole blocks that follow one another, which *records* tell of."""
    first, second, third, fourth = _behind(checksum)
    found = 0
    for record in records:
        # fmt: off
        found = (
            first[found & 255] ^ second[found >> 8 & 255] ^ third[found >> 16 & 255]
            ^ fourth[found >> 24] ^ record & 0xFFFFFFFF
        )
        # fmt: on
    return found


@cache
def _behind(checksum: Callable[..., int]) -> tuple[tuple[int, ...], ...]:
    """Return what each value of each byte of the CRC of some bytes adds to that of a block behind
    them. A CRC is linear: one bit of the former turns the same bits of the latter, whatever the
    block has, and several turn what each of them does."""
    zeros = bytes(BLOCK)
    none = checksum(zeros, 0)
    bits = [checksum(zeros, 1 << bit) ^ none for bit in range(32)]
    return tuple(
        tuple(
            reduce(xor, (bits[first + bit] for bit in range(8) if value >> bit & 1), 0)
            for value in range(256)
        )
        for first in range(0, 32, 8)
    )
