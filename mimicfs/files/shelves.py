"""Small objects share files of the cache on disk: shelves, which are tables of slots.

In a file of its own a small object would cost more than its request to S3 does: an inode, two
names, ten system calls, and twice its bytes on the disk.

    0 ..         a record for each slot: the object, its size, the crc32 of both, and when
    behind ..    the slots

A name (the hash of what an object is, cache.py) stands in one of the 16 slots of its *set*; if none
is free, it takes the place of the oldest one. So nothing is searched, and nothing is kept in
memory. A record is believed if the bytes have its checksum. So nothing has to be synced, and if two
mounts write one slot at once, one or neither is found.

The name of a shelf says how many slots it has. A shelf of half or twice the right number stays in
use, since the limit of the cache may change with the space that is free on the disk: so a shelf
takes a quarter of the limit at most. Beyond that another one begins, and in the end the eviction
removes the old one.

Threading: any thread. `Shelf._lock` is held while a slot is chosen and written, that of `Shelves`
while a shelf is opened.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from zlib import crc32

DIRECTORY = "small"
MOST = 16 << 10  # bytes: a larger object has a file of its own
_SLOTS = (4 << 10, MOST)  # bytes: the sizes of slots
_SHARE = 8  # a new shelf may take this fraction of the limit: one eighth
_RECORD = struct.Struct("=20sIII")  # the name; the size, 0: free; the checksum; when, in seconds
_SET = (
    16  # slots in which a name may stand: of a shelf that is half full, one in 1,000 has no place
)
_LEAST = 4 * _SET  # a shelf of fewer slots is not worth it
_GIVEN_UP_S = 0.01  # how long a shelf may be used after somebody has removed it
_FRESH_S = 60.0  # an earlier use than this is noted
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Shelf:
    """The file *fd*, owned from now on, of *count* slots of *slot* bytes."""

    def __init__(self, fd: int, slot: int, count: int) -> None:
        self._fd = fd
        self._slot = slot
        self._sets = count // _SET
        self._data = count * _RECORD.size
        self._lock = threading.Lock()
        self._used_s = self._looked_s = float("-inf")
        self._removed = False
        weakref.finalize(self, os.close, fd)

    def has(self, name: bytes, size: int) -> bool:
        """Whether *size* bytes of *name* are here, as its record says."""
        records = self._records(name)
        place = _place_of(name, records)
        if place is None:
            return False
        _, its_size, *_ = _RECORD.unpack_from(records, place)
        if its_size != size:
            return False
        self._note_use()
        return True

    def read(self, name: bytes, size: int) -> bytes | None:
        """Return the *size* bytes of *name*, if they are here and sound."""
        records = self._records(name)
        place = _place_of(name, records)
        if place is None:
            return None
        _, there, checksum, _ = _RECORD.unpack_from(records, place)
        data = os.pread(self._fd, size, self._start(name, place))
        if there == size == len(data) and _checksum(name, data) == checksum:
            self._note_use()
            return data
        os.pwrite(self._fd, bytes(_RECORD.size), self._first(name) * _RECORD.size + place)
        return None

    def write(self, name: bytes, data: memoryview) -> int:
        """Keep *data*, all of *name*. Return how many bytes more the file takes by that."""
        now = int(time.time())
        record = _RECORD.pack(name, len(data), _checksum(name, data), now)
        with self._lock:
            records = self._records(name)
            place = _place_of(name, records)
            free = place is None
            if place is None:
                place, free = _free_place(records)
            os.pwrite(self._fd, data, self._start(name, place))
            os.pwrite(self._fd, record, self._first(name) * _RECORD.size + place)
        return self._slot if free else 0

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the file, as of a moment ago."""
        now_s = time.monotonic()
        if now_s - self._looked_s > _GIVEN_UP_S:
            self._looked_s = now_s
            self._removed = os.fstat(self._fd).st_nlink == 0
        return self._removed

    def _first(self, name: bytes) -> int:
        """Return the first slot of the set of *name*."""
        return int.from_bytes(name[:8]) % self._sets * _SET

    def _start(self, name: bytes, place: int) -> int:
        """Return where the slot is whose record is at *place* in its set."""
        return self._data + (self._first(name) + place // _RECORD.size) * self._slot

    def _records(self, name: bytes) -> bytes:
        size = _SET * _RECORD.size
        return os.pread(self._fd, size, self._first(name) * _RECORD.size).ljust(size, b"\0")

    def _note_use(self) -> None:
        now_s = time.monotonic()
        if now_s - self._used_s > _FRESH_S:
            self._used_s = now_s
            os.utime(self._fd)


class Shelves:
    """The shelves in the directory *root*. *limit* says how many bytes the cache may have,
    *make_directory* makes a directory there. A shelf that the eviction removes is given up at its
    next use."""

    def __init__(
        self, root: int, limit: Callable[[], int], make_directory: Callable[[str], None]
    ) -> None:
        self._root = root
        self._limit = limit
        self._make_directory = make_directory
        self._lock = threading.Lock()  # protects the next
        self._open: dict[int, Shelf] = {}  # by the size of their slots

    def shelf(self, size: int, *, make: bool) -> Shelf | None:
        """Return the shelf of objects of *size* bytes; None: there is none, and the caller wants
        none made or the cache is too small for one."""
        slot = next(each for each in _SLOTS if size <= each)
        found = self._open.get(slot)
        if found is not None and not found.is_removed:
            return found
        with self._lock:
            found = self._open.get(slot)
            if found is None or found.is_removed:
                self._open.pop(slot, None)
                found = self._opened(slot, make)
                if found is not None:
                    self._open[slot] = found
            return found

    def _opened(self, slot: int, make: bool) -> Shelf | None:
        count = 1 << (self._limit() // _SHARE // slot).bit_length() >> 1
        if count < _LEAST:
            return None
        for each in (count, 2 * count, count // 2):  # the limit may depend on what is free
            name = f"{DIRECTORY}/{slot}-{each}"
            try:
                fd = os.open(name, _FLAGS, dir_fd=self._root)
            except FileNotFoundError:
                continue
            return _sized(fd, slot, each)
        if not make:
            return None
        name, flags = f"{DIRECTORY}/{slot}-{count}", _FLAGS | os.O_CREAT
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self._root)
        except FileNotFoundError:
            self._make_directory(DIRECTORY)
            fd = os.open(name, flags, 0o600, dir_fd=self._root)
        return _sized(fd, slot, count)


def _sized(fd: int, slot: int, count: int) -> Shelf:
    """Return the shelf *fd*, of the right size: where bytes are missing, nothing is kept."""
    shelf = Shelf(fd, slot, count)
    os.ftruncate(fd, count * (_RECORD.size + slot))
    return shelf


def _place_of(name: bytes, records: bytes) -> int | None:
    """Return where in the *records* of a set that of *name* is."""
    place = records.find(name)
    while place >= 0 and place % _RECORD.size:
        place = records.find(name, place + 1)
    return place if place >= 0 else None


def _free_place(records: bytes) -> tuple[int, bool]:
    """Return the place of a free record, or of the oldest one; and whether it is free."""
    found = [(size and when, place) for place, (_, size, _, when) in enumerate(
        _RECORD.iter_unpack(records)
    )]  # fmt: skip
    when, place = min(found)
    return place * _RECORD.size, not when


def _checksum(name: bytes, data: bytes | memoryview) -> int:
    return crc32(data, crc32(name))
