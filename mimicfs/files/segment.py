"""A segment of the journal: one file, NAME.segment, with the bytes and records of many small files,
one behind the other. Only its end ever changes. So one fdatasync(2) makes everything safe that was
written before, for all threads that wait.

An entry is a head of 48 bytes, little endian, and a body. The head has a mark; the kind; the number
of entries that the file had before; the NAME of the file; where the body begins in the file; how
long the body is; how many bytes of the segment were safe by then; and a CRC-32 of all that, of the
body, and of the NAME of the segment. The kinds are:

    RECORD  what the file is to become, as record.py writes it beside a file of its own
    BYTES   the next bytes of the file
    DONE    S3 has the file, or it has a staging file of its own, or nobody wants it

A segment is locked while its mount lives, as staging files are. It is removed when all of its files
are done. If the mount dies, the next one makes a staging file of each file that is not done
(replaying.py).

Threading: any thread. `Segments._lock` is taken before `Segment._changed`. No other lock is taken
under them, and neither is held while the disk syncs.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from mimicfs.errors import PosixError
from mimicfs.files import disk
from mimicfs.files.room import Room

log = logging.getLogger(__name__)

MARK = b"mseg"
_HEAD = struct.Struct("<4sBxxxI16sIIQ")
_SUM = struct.Struct("<I")
HEAD = _HEAD.size + _SUM.size
_FULL = 8 << 20  # bytes: in a longer segment no other file begins
_IDLE = 1 << 20  # the same, for a segment whose files are all done


class EntryKind(IntEnum):
    RECORD = 1
    BYTES = 2
    DONE = 3


class NewEntry(NamedTuple):
    """An entry to be added, of *kind*. Its file had *number* entries before."""

    kind: EntryKind
    number: int
    start: int = 0  # BYTES only: where they begin in the file
    data: bytes | memoryview = b""


class FoundEntry(NamedTuple):
    """An entry that was found, with the fields of `NewEntry`."""

    kind: int
    number: int
    name: str
    start: int
    data: bytes
    safe: int
    end: int  # where the next entry begins


class Segment:
    """The segment *path*, which is open and locked as *fd*. Its bytes are taken from *room*."""

    def __init__(self, path: Path, fd: int, room: Room) -> None:
        self.path = path
        self._fd = fd
        self._room = room
        self._seed = zlib.crc32(path.stem.encode())
        self._changed = threading.Condition()  # protects all below
        self.end = 0  # bytes
        self._safe = 0  # how many of them would outlive a power cut
        self._syncing = False
        self._broken = False  # a sync failed: a later one may succeed although bytes were lost
        self._undone: set[str] = set()
        self._owed: dict[str, NewEntry] = {}  # files that are done, but have no DONE yet
        self._retired = False
        self._gone = False  # it was retired, and all of its files were done
        self._taken = [0]
        weakref.finalize(self, _let_go, fd, room, self._taken)

    def add(self, name: str, *entries: NewEntry) -> tuple[int, ...] | None:
        """Add *entries* of the file *name*, none of which is DONE; return where the body of each
        begins. None: the segment has gone, as all of its files were done, and *name* begins in
        another one. Raises PosixError; then none was added."""
        with disk.errors_of(self.path), self._changed:
            if self._gone:
                return None
            self._room.check_free(self._fd, sum(HEAD + len(each.data) for each in entries))
            self._settle()
            places = self._append([(name, each) for each in entries])
            self._undone.add(name)
        return tuple(places)

    def _append(self, entries: Iterable[tuple[str, NewEntry]]) -> list[int]:
        """Write *entries*, each with the name of its file; return where the body of each begins.
        Raises OSError; then none was written."""
        pieces, places, place = list[bytes | memoryview](), list[int](), self.end
        for name, each in entries:
            said = (MARK, each.kind, each.number, bytes.fromhex(name), each.start)
            head = _HEAD.pack(*said, len(each.data), self._safe)
            checksum = zlib.crc32(each.data, zlib.crc32(head, self._seed))
            pieces += (head, _SUM.pack(checksum), each.data)
            places.append(place + HEAD)
            place += HEAD + len(each.data)
        self._write(pieces)
        self._room.taken(self._taken[0], place)
        self.end = self._taken[0] = place
        return places

    def _write(self, pieces: list[bytes | memoryview]) -> None:
        data = memoryview(b"".join(pieces))
        place = self.end
        while data:  # the next entries overwrite a part that did not fit
            count = os.pwrite(self._fd, data, place)
            data, place = data[count:], place + count

    def done(self, name: str, number: int) -> None:
        """Note that the file *name* is done. If the disk does not take the entry, the next write
        adds it."""
        with self._changed:
            if name not in self._undone:
                return
            self._undone.discard(name)
            self._owed[name] = NewEntry(EntryKind.DONE, number)
            try:
                with disk.errors_of(self.path):
                    self._settle()
            except PosixError as exc:
                log.warning("%s; that one of its files is done is written later", exc)
            self._remove_if_done()

    def _settle(self) -> None:
        """Write DONE for the files that owe it. That makes room, so it does not ask for any. Raises
        OSError."""
        if self._owed:
            self._append(self._owed.items())
            self._owed.clear()

    def sync(self, end: int) -> None:
        """Return when the first *end* bytes would outlive a power cut. This thread syncs, or
        another does so for all that wait. Raises PosixError."""
        while True:
            with self._changed:
                while self._syncing and self._safe < end:
                    self._changed.wait()
                if self._safe >= end:
                    return
                with disk.errors_of(self.path):
                    self._check_sound()
                self._syncing, reached = True, self.end
            self._sync_to(reached)

    def _sync_to(self, reached: int) -> None:
        done = False
        try:
            with disk.errors_of(self.path):
                os.fdatasync(self._fd)
            done = True
        finally:
            with self._changed:
                self._syncing = False
                self._safe = reached if done else self._safe
                self._broken = self._broken or not done
                self._retired = self._retired or not done
                self._changed.notify_all()

    def _check_sound(self) -> None:
        if self._broken:
            raise OSError(errno.EIO, "its disk has failed")

    def read(self, place: int, size: int) -> bytes:
        with disk.errors_of(self.path):
            return os.pread(self._fd, size, place)

    def retire(self, *, at_once: bool = False) -> bool:
        """Retire the segment if it is full, or somebody has removed it, or *at_once*; return
        whether it is retired. No other file begins in it, and it goes once all of its files are
        done."""
        with self._changed:
            most = _FULL if self._undone else _IDLE
            full = self.end >= min(most, self._room.limit // 16 or most)
            self._retired = self._retired or full or at_once or not os.fstat(self._fd).st_nlink
            with suppress(OSError):  # done() has logged that; it is tried again
                self._settle()
            self._remove_if_done()
            return self._retired

    def _remove_if_done(self) -> None:
        if self._retired and not self._undone:
            self._gone = True
            try:
                with disk.errors_of(self.path), disk.may_vanish():
                    self.path.unlink()
            except PosixError as exc:
                log.warning("%s; the next mount removes it", exc)


class Segments:
    """The segments that one mount adds to. *born* makes one, and returns its path and
    descriptor."""

    def __init__(self, born: Callable[[], tuple[Path, int]], room: Room) -> None:
        self._born = born
        self._room = room
        self._lock = threading.Lock()  # protects the next
        self._current: Segment | None = None

    def current(self) -> Segment:
        """Return the segment in which the next file is to begin. Raises PosixError."""
        with self._lock:
            if self._current is None or self._current.retire():
                self._current = Segment(*self._born(), self._room)
            return self._current

    def current_at_once(self) -> Segment | None:
        """Return the same if that waits for nobody and no disk; otherwise None."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return None if self._current is None or self._current.retire() else self._current
        finally:
            self._lock.release()

    def close(self) -> None:
        """Begin no more files. Those that are not done are left to the next mount."""
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            current.retire(at_once=True)


def entry_at(data: bytes, place: int, path: Path) -> FoundEntry | None:
    """Return the entry that begins at *place* of *data*, which is all of the segment *path*; None:
    no believable entry is there."""
    if place + HEAD > len(data):
        return None
    mark, kind, number, name, start, size, safe = _HEAD.unpack_from(data, place)
    end = place + HEAD + size
    if mark != MARK or end > len(data):
        return None
    (checksum,) = _SUM.unpack_from(data, place + _HEAD.size)
    head = zlib.crc32(data[place : place + _HEAD.size], zlib.crc32(path.stem.encode()))
    said = data[place + HEAD : end]
    if zlib.crc32(said, head) != checksum:
        return None
    return FoundEntry(kind, number, name.hex(), start, said, safe, end)


def _let_go(fd: int, room: Room, taken: list[int]) -> None:
    os.close(fd)
    room.taken(taken[0], 0)
