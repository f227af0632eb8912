"""The staging file of a small file that is written once, from its start on. It is no file of its
own, but lies in a segment of the journal (segment.py). Anything else that happens to it makes it a
staging file like any other: it gets a file and a record, and from then on staging.py holds.

INVARIANT: its bytes are in the segment behind a record. And it is not done there, unless it has a
file of its own (synced, if somebody was told that the bytes are safe), or S3 has the bytes, or
nobody wants them.

Threading: as staging.py says. A thread that reads while the file moves out of its segment
reads the same bytes in the segment.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mimicfs.errors import PosixError
from mimicfs.files import record as records
from mimicfs.files.changes import FileChange
from mimicfs.files.record import Record
from mimicfs.files.room import Room
from mimicfs.files.segment import EntryKind, NewEntry, Segment, Segments
from mimicfs.files.staging import Staging, dated, remove, sent_as
from mimicfs.files.sums import total_of

log = logging.getLogger(__name__)

SMALL = 64 << 10  # bytes; at most one block of Sums
_PIECES = 8  # writes of one file
Born = Callable[[str], tuple[Path, int]]


class _Extent(NamedTuple):
    start: int
    place: int  # in the segment
    size: int


class SmallStaging(Staging):
    """A staging file in *segments*. It may get the file *path*, which *born* makes."""

    def __init__(self, path: Path, segments: Segments, born: Born, room: Room) -> None:
        self.path = path
        self._name = path.stem
        self._segments = segments
        self._born = born
        self._rooms = room
        self._lock = threading.Lock()  # as in the layer below
        self._record: Record | None = None
        self._own = False  # it has a file of its own
        self._segment: Segment | None = None
        self._chosen: Segment | None = None  # the segment in which it may begin
        self._entries = 0  # its entries in the segment
        self._end = 0  # where the last of them ends
        self._pieces: tuple[_Extent, ...] = ()
        self._size = 0
        self._done = False  # nobody wants what is in the segment

    # The record

    def describe(self, record: Record) -> None:
        if self._own or self._done or record.partial:
            self.as_file()
            super().describe(record)
            return
        with self._lock:
            old = self._record
            if old is not None:
                record = sent_as(old, record)._replace(noted=old.noted, checksum=old.checksum)
            self._record = dated(record)
            if self._segment is not None:
                self._add(self._described())

    def promise(self, record: Record) -> None:
        if self._own or self._done:
            self.as_file()
            super().promise(record)
            return
        with self._lock:
            vouched = record._replace(closed=True, checksum=total_of(self._all()))
            self._record = dated(sent_as(self.record, vouched))
            self._add(self._described())

    def note_sent(self, etag: str, size: int, *, unchanged: bool) -> None:
        if self._own:
            super().note_sent(etag, size, unchanged=unchanged)
            return
        with self._lock:  # do not say that they are unchanged: bytes may follow without a record
            if self._record is not None:
                self._record = self._record._replace(sent=etag, sent_size=size)
                self._add(self._described())

    def sync(self) -> None:
        if not self._own and self._segment is not None:
            try:
                self._segment.sync(self._end)
                return
            except PosixError:
                self.as_file()  # the disk may have room for it elsewhere
        super().sync()

    @property
    def promises_at_once(self) -> bool:
        return not (self._own or self._done or self._segment is None)

    def sync_later(self) -> Callable[[], None]:
        if self._own or self._segment is None:
            return super().sync_later()
        return partial(self._segment.sync, self._end)

    def settle(self) -> None:
        if self._own:
            super().settle()
            return
        with self._lock:
            self._record = None
            self._give_up()

    # The bytes

    def stat(self) -> os.stat_result:
        self.as_file()
        return super().stat()

    def read(self, offset: int, size: int) -> bytes:
        segment, pieces = self._segment, self._pieces
        if self._own:
            return super().read(offset, size)
        end, found = min(offset + size, self._size), list[bytes]()
        for piece in pieces:
            first, last = max(offset, piece.start), min(end, piece.start + piece.size)
            if first < last and segment is not None:
                found.append(segment.read(piece.place + first - piece.start, last - first))
        return found[0] if len(found) == 1 else b"".join(found)

    def write(self, offset: int, data: memoryview | bytes | bytearray) -> int:
        if not self._goes_on(offset, len(data)):
            self.as_file()
            return super().write(offset, data)
        with self._lock:
            first = () if self._segment is not None else (self._described(),)
            place = self._add(*first, NewEntry(EntryKind.BYTES, 0, offset, bytes(data)))
            self._pieces = (*self._pieces, _Extent(offset, place, len(data)))
            self._size += len(data)
        return len(data)

    def _goes_on(self, offset: int, size: int) -> bool:
        """Whether *size* bytes at *offset* go to the segment."""
        if self._own or self._done or self._record is None or self._record.closed:
            return False
        fits = offset == self._size and offset + size <= SMALL
        return fits and len(self._pieces) < _PIECES

    def takes_at_once(self, offset: int, size: int) -> bool:
        if not self._goes_on(offset, size):
            return False
        if self._segment is None:
            self._chosen = self._segments.current_at_once()
        return self._segment is not None or self._chosen is not None

    @property
    def goes_at_once(self) -> bool:
        return not self._own and self._done

    def truncate(self, size: int) -> None:
        if not self._own and size == self._size:
            return
        self.as_file()
        super().truncate(size)

    def zero(self, start: int, end: int) -> None:
        self.as_file()
        super().zero(start, end)

    def taken(self) -> int:
        return super().taken() if self._own else self._size

    def is_hole(self, start: int, end: int) -> bool:
        return super().is_hole(start, end) if self._own else False

    # What only a file of its own has

    def note_upload(self, upload: str) -> None:
        self.as_file()
        super().note_upload(upload)

    def note_zeros(self, key: str) -> None:
        self.as_file()
        super().note_zeros(key)

    def changed(self, start: int, end: int) -> None:
        self.as_file()
        super().changed(start, end)

    def cut(self, size: int) -> None:
        self.as_file()
        super().cut(size)

    def ranges(self) -> Iterator[FileChange]:
        self.as_file()
        return super().ranges()

    @property
    def kept_at(self) -> Path:
        return self.path if self._own or self._segment is None else self._segment.path

    def as_file(self) -> Path:
        if self._own:
            return self.path
        record, data = self._record, self._all()
        path, fd = self._born(self._name)
        done, entries, size = self._done, self._entries, self._size
        try:
            self._become(path, fd, record, data)
        except BaseException:
            try:
                remove(self.path)
                self._let_go()
            except OSError as exc:  # the segment stays locked, so that no other mount takes it
                log.warning("%s: not removed: %s", self.path, exc.strerror)
            self._own, self._record = False, record
            self._done, self._entries, self._size = done, entries, size
            raise
        if not done and self._segment is not None:
            self._segment.done(self._name, entries)
        return path

    def _become(self, path: Path, fd: int, record: Record | None, data: bytes) -> None:
        super().__init__(path, fd, room=self._rooms)
        super().write(0, data)
        if record is not None:
            self._store(record)
            if record.closed:
                super().sync()
        self._own = True

    # The end

    def keep(self) -> None:
        told = self._record is not None and self._record.closed
        if not self._own and told:
            # the bytes are safe in the segment: a sync for each file would hold up an unmount
            return
        try:
            self.as_file()  # for a mount that begins while this one lives
        except PosixError as exc:
            log.warning("%s; it stays in the journal until the next mount", exc)
        else:
            super().keep()

    def remove(self) -> None:
        if self._own:
            super().remove()
            return
        with self._lock:
            self._give_up()

    # The segment

    def _all(self) -> bytes:
        return self.read(0, self._size)

    def _described(self) -> NewEntry:
        said = self._record or dated(Record())
        return NewEntry(EntryKind.RECORD, 0, data=records.text_of(self.path, said))

    def _add(self, *entries: NewEntry) -> int:
        """Add *entries*; return where the body of the last one begins."""
        first = self._entries
        numbered = [each._replace(number=first + n) for n, each in enumerate(entries)]
        segment, self._chosen = self._segment or self._chosen or self._segments.current(), None
        while (places := segment.add(self._name, *numbered)) is None:
            segment = self._segments.current()
        self._segment, self._entries = segment, first + len(entries)
        self._end = places[-1] + len(entries[-1].data)
        return places[-1]

    def _give_up(self) -> None:
        if not self._done and self._segment is not None:
            self._segment.done(self._name, self._entries)
        self._done = True
