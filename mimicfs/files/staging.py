"""One staging file: bytes that S3 does not have yet, on local disk, with the record of what they
are to become (record.py) and the changes of a partial one (changes.py).

INVARIANT: a record vouches only for bytes that are there. A thread that changes bytes withdraws the
record's word first, so that good bytes never look damaged.

As long as S3 gets the bytes before anybody is told that they are safe, nothing is fsynced: a
staging file guards against the end of the process, not of the machine. After a power cut a synced
record would name bytes that are not there, and a sync costs 1.8 ms a file against 0.05 (measured,
ext4). `sync` syncs for a writer who is answered before S3 has the bytes.

Threading: any thread may read, write and note uploads; the rest is for one at a time (`File` has
its turn).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mimicfs.errors import PosixError
from mimicfs.files import changes, disk, record
from mimicfs.files.changes import Changes, FileChange
from mimicfs.files.record import Record
from mimicfs.files.room import Room
from mimicfs.files.sums import Sums

log = logging.getLogger(__name__)

_SIZE_MAX = 1 << 63
_SUFFIXES = (".json", ".new", ".ranges", ".data")  # in the order in which they are removed
_ZEROS = memoryview(bytes(1 << 20))


class Staging:
    """The bytes are at *path*. Reads and writes are those of pread(2) and pwrite(2).

    The descriptor is closed when nobody holds this object any more: a request that still runs after
    the file was given up must not meet another file under its number.
    """

    def __init__(
        self, path: Path, fd: int, record: Record | None = None, room: Room | None = None
    ) -> None:
        self.path = path
        self._fd = fd
        self._room = room or Room()
        self._taken = [0]  # bytes of the room
        self._lock = threading.Lock()  # protects the record, and its file
        self._record = record
        self._format = self.record.format  # it stays: the changes beside the record have it, too
        # The files of it that may be on the disk: to remove a name that is not there costs a system
        # call.
        self._there = {".data"} if record is None else set(_SUFFIXES)
        self._changes = Changes(path, self._format)
        self._sums = Sums()
        self._unseen = 0  # bytes that are written before the next look at how much is free
        self._let_go = weakref.finalize(self, _let_go, fd, self._room, self._taken)

    # The record

    @property
    def record(self) -> Record:
        return self._record or Record()

    def describe(self, record: Record) -> None:
        """Write *record*. It keeps the uploads of the record before, and its word for the bytes.
        Raises PosixError."""
        with self._lock:
            old = self._record
            if old is not None:
                record = sent_as(old, record)._replace(noted=old.noted, checksum=old.checksum)
            elif record.partial:
                self._changes.forget()
            self._store(record)

    def promise(self, record: Record) -> None:
        """Write *record*, and vouch for the bytes as they are now. Raises PosixError."""
        with disk.errors_of(self.path):
            vouched = record._replace(
                closed=True, noted=self._changes.size(), checksum=self._sums.total(self._fd)
            )
        with self._lock:
            self._store(sent_as(self.record, vouched))

    def sync(self) -> None:
        """Return when the bytes and the record would outlive a power cut. Raises PosixError."""
        with disk.errors_of(self.path):
            os.fsync(self._fd)
            for suffix in (".json", ".ranges"):
                if suffix in self._there:
                    with disk.may_vanish():
                        disk.fsync(self.path.with_suffix(suffix))
            disk.fsync(self.path.parent)

    @property
    def promises_at_once(self) -> bool:
        """Whether `promise` does not wait for the disk; then `sync_later` returns the part that
        does."""
        return False

    def sync_later(self) -> Callable[[], None]:
        """Return a function that does what `sync` would do now. Any thread may call it, whatever
        happens to the file meanwhile. It raises PosixError."""
        return self.sync

    def _withdraw(self) -> None:
        """Vouch no longer for the bytes, which are about to change, and do not say that S3 may have
        them. That holds after a power cut, too: the disk may take the bytes before a name."""
        if self._record is None or not (self._record.checksum or self._record.unchanged):
            return
        with self._lock:
            said = self._record
            if said is not None and (said.checksum or said.unchanged):
                self._store(said._replace(checksum=0, unchanged=False))
                if said.closed:
                    with disk.errors_of(self.path):
                        disk.fsync(self.path.parent)

    def stay_apart(self) -> None:
        """Write into the record, if it says otherwise, that the next mount is not to put the bytes
        behind what it finds in S3. A disk that does not take that holds up nobody."""
        try:
            if self.record.appended:
                self.describe(self.record._replace(appended=False))
        except PosixError as exc:
            log.warning("%s; the next mount may put it behind a newer version", exc)

    def note_upload(self, upload: str) -> None:
        """Write into the record that a multipart upload was begun, if there still is one."""
        with self._lock:
            if self._record is not None:
                self._store(self._record._replace(uploads=(*self._record.uploads, upload)))

    def note_sent(self, etag: str, size: int, *, unchanged: bool) -> None:
        """Write into the record that S3 may have a version of *size* bytes with *etag* soon, if
        there still is a record; *unchanged*: the bytes are still the same."""
        with self._lock:
            if self._record is not None:
                said = self._record._replace(sent=etag, sent_size=size, unchanged=unchanged)
                self._store(said)

    def note_zeros(self, key: str) -> None:
        """Write into the record that an object of zeros was made, if there still is one."""
        with self._lock:
            if self._record is not None:
                self._store(self._record._replace(zeros=key))

    def _store(self, said: Record) -> None:
        said = dated(said._replace(format=self._format))
        self._there |= {".json", ".new"}
        record.write(self.path, said)
        self._there.discard(".new")
        self._record = said

    def settle(self) -> None:
        """Remove the record: S3 has the bytes, or nobody wants them."""
        with self._lock:
            remove(self.path, {".json"} & self._there)
            self._there.discard(".json")
            self._record = None
            self._changes.forget()

    # What was changed of a partial file

    def changed(self, start: int, end: int) -> None:
        """Note which bytes of a partial file were written."""
        self._there.add(".ranges")
        self._changes.note((start, end))

    def cut(self, size: int) -> None:
        """Note that a partial file ends at *size*, and that bytes of the version behind it are
        gone."""
        self._there.add(".ranges")
        self._changes.note((size, None))

    def ranges(self) -> Iterator[FileChange]:
        """Yield what was noted, in order: (start, end), or (size, None) for a cut."""
        yield from changes.read(self.path.with_suffix(".ranges"), self._format)

    # The bytes

    def stat(self) -> os.stat_result:
        return os.fstat(self._fd)

    def read(self, offset: int, size: int) -> bytes:
        """Return *size* bytes from *offset*, less only at the end."""
        with disk.errors_of(self.path):
            data = os.pread(self._fd, size, offset)
            while data and len(data) < size:  # pread(2) gives at most 2 GiB at once
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data

    def takes_at_once(self, offset: int, size: int) -> bool:
        """Whether *size* bytes at *offset* are written without waiting for the disk."""
        return False

    @property
    def goes_at_once(self) -> bool:
        """Whether it is removed without waiting for the disk."""
        return False

    def write(self, offset: int, data: memoryview | bytes | bytearray) -> int:
        self._withdraw()
        with disk.errors_of(self.path):
            self._check_free(len(data))
            self._sums.changed(offset, offset + len(data))
            view, done = memoryview(data), 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
            return done

    def truncate(self, size: int) -> None:
        self._withdraw()
        with disk.errors_of(self.path):
            self._sums.changed(min(size, self.stat().st_size), _SIZE_MAX)
            os.ftruncate(self._fd, size)
            if self._taken[0]:
                self._take()

    def zero(self, start: int, end: int) -> None:
        """Make zeros of the bytes from *start* to *end*: a hole, where the disk can."""
        self._withdraw()
        with disk.errors_of(self.path):
            self._sums.changed(start, end)
            if not disk.punch(self._fd, start, end):
                for place in range(start, end, len(_ZEROS)):
                    self.write(place, _ZEROS[: end - place])
            elif end > self.stat().st_size:
                os.ftruncate(self._fd, end)

    @property
    def kept_at(self) -> Path:
        """The path of the file that has its bytes now."""
        return self.path

    def as_file(self) -> Path:
        """Return the file that has the bytes, with its record beside it. Raises PosixError."""
        return self.path

    def taken(self) -> int:
        """Return how many bytes of the disk it takes."""
        return self.stat().st_blocks * 512

    def is_hole(self, start: int, end: int) -> bool:
        """Whether the bytes from *start* to *end* take no place on the disk: they are zeros."""
        with disk.errors_of(self.path):
            return disk.is_hole(self._fd, start, end)

    def _check_free(self, size: int) -> None:
        """Raise OSError ENOSPC before the disk is full: others live on it, too."""
        self._unseen -= size
        if self._unseen > 0:
            return
        self._take()
        self._unseen = 0
        self._unseen = self._room.left(self._fd, size)

    def _take(self) -> None:
        now = os.fstat(self._fd).st_blocks * 512
        self._room.taken(self._taken[0], now)
        self._taken[0] = now

    # The end

    def keep(self) -> None:
        """Give the file up, but leave its bytes: the next mount finds them."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Remove the bytes, and free their place on the disk even if somebody still holds the
        file."""
        remove(self.path, self._there)
        os.ftruncate(self._fd, 0)
        self._take()


def dated(record: Record) -> Record:
    """Return *record*, which says when its file got its name: now, if it did not say so yet."""
    return record if record.created_ns else record._replace(created_ns=time.time_ns())


def sent_as(old: Record, record: Record) -> Record:
    """Return *record* with what *old* says of what was sent to S3; and of when the file got its
    name, if it has that still."""
    is_named_so = (old.bucket, old.key) == (record.bucket, record.key)
    return record._replace(
        uploads=old.uploads,
        sent=old.sent,
        sent_size=old.sent_size,
        zeros=old.zeros,
        created_ns=old.created_ns if is_named_so else 0,
    )


def remove(data: Path, there: Collection[str] = _SUFFIXES) -> None:
    """Remove those files of a staging file that are *there*, first the one that says that the bytes
    matter."""
    stem = os.fspath(data).removesuffix(".data")
    for suffix in _SUFFIXES:
        if suffix in there:
            with disk.may_vanish():
                os.unlink(stem + suffix)


def _let_go(fd: int, room: Room, taken: list[int]) -> None:
    os.close(fd)
    room.taken(taken[0], 0)
