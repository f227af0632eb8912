"""One open file: what all of its handles share.

A file is *clean*: it stands for a version in S3 (origin.py) and is read from there, or from its
staging file if it has one. Or it is *dirty*: its bytes are in a staging file, and S3 does not have
them yet. `flush` makes it clean (upload.py). What else it may be, and what leads to what, is the
table in states.py.

Where all changes are appends (O_APPEND), another version that somebody puts there is no conflict:
they go behind it (appending.py). Where nobody has got a byte of its version and none was written,
a file follows what others put there.

An upload of bytes that are partly those of a version in S3 replaces only that version; that
of a file which was to be new, none. One that was cut to nothing before replaces what is there.

A large object is not fetched because a byte of it is written: its file is *partial*, the
staging file has only what was written, and the rest is read from the version in S3 (layout.py).

INVARIANT: a dirty file has a staging file with a record (journal.py).

Locks: a thread that changes the file or uploads it has its turn, `_change`, also while that
waits for S3: a writer waits for an upload to end, so that no upload is torn. `_lock` protects the
fields and is held for a few instructions; it is taken after `_change`. Readers take only
`_lock`, so reading goes on during an upload.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import (
    Interrupted,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    UploadFailed,
)
from mimicfs.files.appending import moved_behind
from mimicfs.files.journal import Journal, Orphan
from mimicfs.files.layout import Layout
from mimicfs.files.multipart import size_max
from mimicfs.files.origin import Origin
from mimicfs.files.reader import Budget, Reader
from mimicfs.files.record import Record
from mimicfs.files.staging import Staging
from mimicfs.files.states import Event, State, after
from mimicfs.files.turn import Turn
from mimicfs.files.upload import Job, Uploader
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.transport.backoff import backoff_s

_REBASES_MAX = 100  # appends by so many others may come between, one after the other


class File:
    """The file s3://bucket/key. *entry* is the version that it stands on; None: S3 has none,
    and the file is dirty from the start. *content* is stored with the next upload. *reader*: one
    of that version, if there is one. *absent*: S3 must still have none when it is uploaded.
    *exclusive*: not even appends may go behind what is there. *staging*: what a mount
    that died has left of it (recovery.py)."""

    def __init__(
        self,
        s3: S3,
        journal: Journal,
        options: FileOptions,
        budget: Budget,
        bucket: str,
        key: str,
        entry: Entry | None,
        content: Content,
        reader: Reader | None = None,
        *,
        absent: bool = False,
        exclusive: bool = False,
        staging: Staging | None = None,
    ) -> None:
        self._s3 = s3
        self._journal = journal
        self._options = options
        self._budget = budget
        self._upload = Uploader(s3, options, self._taken_all_the_same)
        self._change = Turn()
        self._lock = threading.Lock()  # protects all below
        self.state = State.CLEAN
        self.bucket = bucket
        self.key = key
        self.content = content
        self._origin = self._origin_of(entry, reader) if entry is not None else None
        self._layout = Layout(entry.size if entry is not None else 0)
        self._staging: Staging | None = None
        self.mtime_ns = entry.mtime_ns if entry is not None else time.time_ns()
        self._mtime_said = False  # set by somebody, after the last change
        self.refused = False  # S3 did not take the bytes, and they were not changed since
        self.lost: UploadFailed | None = None  # what flush raises of a file that is lost
        self._based = False  # some of the staged bytes are those of the version `entry`
        # Since S3 had all bytes, nothing but appends; never of a file that must be the first.
        self._only_appended = entry is None and not exclusive
        self._absent = absent
        self._behind: Cancellation | None = None  # of an upload that gives way to changes
        # It follows a version that is shorter than the kernel knows. A read that ends early tells
        # the kernel, unless that was told to forget the size meanwhile: then it reads zeros.
        self.shrunk = False
        self._promised = False  # its writer was told that the bytes are safe
        if staging is not None:
            self._resume(staging)
        elif entry is None:
            self._staging = journal.stage()
            try:
                self._note_change(self._staging)
            except BaseException:
                self._staging.remove()
                raise

    def _resume(self, staging: Staging) -> None:
        """Go on where a mount that died has left *staging*."""
        record, found = staging.record, staging.stat()
        self._staging = staging
        self._happens(Event.CHANGED)
        said = metadata.read(record.meta).mtime_ns if record.closed else None
        self.mtime_ns = found.st_mtime_ns if said is None else said
        self._layout = Layout.resumed(
            found.st_size, record.base, staging.ranges(), partial=record.partial
        )
        self._based = self.entry is not None

    def _happens(self, event: Event) -> None:
        self.state = after(self.state, event)

    @property
    def dirty(self) -> bool:
        """Whether it has bytes that S3 is to have and does not have yet."""
        return self.state is State.DIRTY

    @property
    def apart(self) -> bool:
        """Whether the object bucket/key is not this file's any more."""
        return self.state.apart

    @property
    def expired(self) -> bool:
        return self.state.expired

    @property
    def size(self) -> int:
        return self._layout.size

    @property
    def entry(self) -> Entry | None:
        """The version that the file stands on; None: S3 has none."""
        origin = self._origin
        return origin.entry if origin is not None else None

    @property
    def etag(self) -> str:
        """The same version; "" if S3 has none, or gave it no ETag."""
        entry = self.entry
        return entry.etag if entry is not None else ""

    @property
    def _about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    # Reading

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes; less only at the end. Raises ObjectChanged once the
        version that the file stands on is gone from S3."""
        while True:
            staging, origin, pieces = self._source(offset, size)
            try:
                found = [
                    self._piece(staging if local else None, origin, start, end, cancellation)
                    for start, end, local in pieces
                ]
            except ObjectChanged:
                if self._source(offset, size)[:2] == (staging, origin):
                    raise
                continue  # not the object, but the file was moved, uploaded or changed
            # No old bytes once the file has expired, nor of a staging file that was given up.
            if self._source(offset, size)[0] is not staging:
                continue
            if staging or self._hand_out(origin):
                return found[0] if len(found) == 1 else b"".join(found)

    def _hand_out(self, origin: Origin | None) -> bool:
        """Note that somebody gets bytes of *origin*. False: it is the old one, and nobody had got
        any of it."""
        with self._lock:
            self._check(reading=True)
            now = self._origin
            if now is None or origin is None:
                return origin is now
            right = now.has_bytes_of(origin)
            now.handed = now.handed or right
            return right

    def hand_out(self) -> None:
        """The kernel has bytes of the version that the file stands on."""
        with self._lock:
            if self._origin is not None:
                self._origin.handed = True

    def _piece(
        self,
        staging: Staging | None,
        origin: Origin | None,
        start: int,
        end: int,
        cancellation: Cancellation,
    ) -> bytes | memoryview:
        if staging is not None:
            return staging.read(start, end - start)
        if origin is None:
            raise PosixError(errno.EBADF, self._about)
        return origin.reader.read(start, end - start, cancellation)

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the same if that needs no waiting, else None."""
        staging, origin, pieces = self._source(offset, size)
        if not pieces:
            return b""
        if len(pieces) > 1:
            return None
        [(start, end, local)] = pieces
        if local and staging is not None:
            return staging.read(start, end - start)
        data = origin.reader.read_cached(start, end - start) if origin is not None else None
        return data if data is not None and self._hand_out(origin) else None

    def _source(
        self, offset: int, size: int
    ) -> tuple[Staging | None, Origin | None, list[tuple[int, int, bool]]]:
        """Return what the bytes from *offset* on are read from: (start, end, whether they are
        in the staging file) for each piece."""
        with self._lock:
            self._check(reading=True)
            end = min(offset + size, self.size)
            pieces = list(self._layout.pieces(offset, end)) if offset < end else []
            return self._staging, self._origin, pieces

    def _check(self, *, reading: bool = False) -> None:
        if self.state is State.CLOSED:
            raise PosixError(errno.EBADF, self._about)
        if self.state is State.VANISHED and reading:
            raise PosixError(errno.ENOENT, f"{self._about}: deleted in S3")
        if self.state.expired:
            raise ObjectChanged.since_opened(self._about)

    # Changing

    def write(self, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at *offset*; return its length. Nothing is sent to S3 yet."""
        self._check_size(offset + len(data))
        with self._lock:
            self._check()
        if not data:
            return 0  # write(2): no bytes change nothing, not even behind the end
        self.interrupt()
        with self._change.taken(cancellation):
            staging = self._staged_anew(cancellation)
            self._only_appended = False
            self._write(staging, offset, data, cancellation)
        return len(data)

    def append(self, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at the end of the file; return where that was. If somebody else replaces
        the object before it is uploaded, and all changes are appends, they go behind what is
        there then. Raises ObjectChanged where that has happened already."""
        self.interrupt()
        with self._change.taken(cancellation):
            self._check_size(self.size + len(data))
            with self._lock:
                self._check()
            if not data:
                return self.size
            staging = self._staged_anew(cancellation)
            clean = self.state in (State.CLEAN, State.DETACHED)
            self._only_appended = self._only_appended or clean
            offset = self.size
            self._write(staging, offset, data, cancellation)
            return offset

    def _write(
        self, staging: Staging, offset: int, data: memoryview, cancellation: Cancellation
    ) -> None:
        end = offset + len(data)
        self._note_change(staging)
        self._upload.changed(offset, end)
        staging.write(offset, data)
        self._note(staging, min(offset, self.size), end)
        if offset <= self._layout.front < end:
            self._layout.front = end
            self._send_ahead(staging, cancellation)

    def _staged_anew(self, cancellation: Cancellation, keep: int | None = None) -> Staging:
        """As `_staged`, also where the file turns out to stand on an old version and moves."""
        while True:
            entry = self.entry
            try:
                return self._staged(cancellation, keep)
            except ObjectChanged:
                if self.entry is entry:
                    raise

    def zero(self, start: int, end: int, cancellation: Cancellation) -> None:
        """Make zeros of the bytes from *start* to *end*, which the file has. They take no place
        on the disk, and nothing is fetched."""
        self.interrupt()
        with self._change.taken(cancellation):
            with self._lock:
                self._check()
            end = min(end, self.size)
            if start >= end:
                return
            staging = self._staged_anew(cancellation)
            self._only_appended = False
            self._note_change(staging)
            self._upload.changed(start, end)
            staging.zero(start, end)
            self._note(staging, start, end)

    def truncate(self, size: int, cancellation: Cancellation) -> None:
        """Cut the file to *size*, or extend it with zeros."""
        self._check_size(size)
        self.interrupt()
        with self._change.taken(cancellation):
            with self._lock:
                self._check()
            if size == self.size and not self.dirty:
                return
            staging = self._staged_anew(cancellation, keep=size)
            self._only_appended = False
            self._note_change(staging)
            self._upload.changed(size, self._size_max)
            staging.truncate(size)
            if size > self.size:
                self._note(staging, self.size, size)
            else:
                self._cut(staging, size)

    def interrupt(self) -> None:
        """Interrupt an upload that nobody waits for: the file is about to change."""
        behind = self._behind
        if behind is not None:
            behind.cancel()

    @property
    def _size_max(self) -> int:
        return size_max(self._options.part_size)

    def _check_size(self, size: int) -> None:
        if size > self._size_max:
            raise PosixError(errno.EFBIG, f"{self._about}: S3 takes {self._size_max} bytes")

    def _note(self, staging: Staging, start: int, end: int) -> None:
        """The staging file has new bytes from *start* to *end*."""
        if self._layout.partial:
            staging.changed(start, end)
        with self._lock:
            self._layout.wrote(start, end)
            self.mtime_ns, self._mtime_said = time.time_ns(), False
            self.refused = False

    def _cut(self, staging: Staging, size: int) -> None:
        """The staging file ends at *size* now."""
        if self._layout.partial:
            staging.cut(size)
        with self._lock:
            self._layout.cut(size)
            self._based = self._based and size > 0
            self.mtime_ns, self._mtime_said = time.time_ns(), False
            self.refused = False

    def _send_ahead(self, staging: Staging, cancellation: Cancellation) -> None:
        """Send what is written already of a large file that has nothing of a version in S3."""
        if self._layout.front < 2 * self._options.part_size or self._based:
            return
        if self.state is State.DIRTY:
            if not self._upload.begun:
                self._upload.settle(cancellation)
                self._upload.begin(self._job(staging, cancellation))
            self._upload.ahead(self._layout.front, cancellation)

    def _note_change(self, staging: Staging) -> None:
        """Note on disk, before the first byte is changed, what the bytes are to become."""
        if self.state is State.CLEAN:
            staging.describe(self._record())
        with self._lock:
            self._check()
            self._happens(Event.CHANGED)

    def _record(self) -> Record:
        content, layout = self.content, self._layout
        return Record(
            self.bucket,
            self.key,
            self.etag,
            layout.base,
            layout.partial,
            self._s3.endpoint,
            content.content_type,
            content.meta,
            content.headers,
            closed=self._promised,
        )

    def set_meta(self, updates: Mapping[str, str]) -> None:
        """Store *updates* as user metadata with the next upload."""
        with self._lock:
            self.content = self.content._replace(meta={**self.content.meta, **updates})

    def change_meta(
        self, change: Callable[[Mapping[str, str]], dict[str, str]], mtime_ns: int | None = None
    ) -> bool:
        """Store what *change* makes of the user metadata with the next upload, and *mtime_ns*
        as the time of the last change. False: there will be none, S3 has the file."""
        self.interrupt()
        with self._change:
            if not (self.dirty or self.apart):
                return False
            meta = change(self.content.meta)
            with self._lock:
                self.content = self.content._replace(meta=meta)
                if mtime_ns is not None:
                    self.mtime_ns, self._mtime_said = mtime_ns, True
            if self.dirty:
                self._redescribe()
            return True

    def secure(self) -> None:
        """Return when what S3 does not have yet would outlive a power cut. Raises PosixError."""
        self.interrupt()
        with self._change:
            if self.dirty and self._staging is not None:
                self._promised = True
                self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
                self._staging.promise(self._record())
                self._staging.sync()

    def _staged(
        self,
        cancellation: Cancellation,
        keep: int | None = None,
        *,
        to_upload: bool = True,
    ) -> Staging:
        """Return the staging file; made, it has the first *keep* (None: all) bytes of the
        version in S3. Raises ObjectChanged if that is gone."""
        with self._lock:
            self._check()
        origin = self._origin
        if self._staging is not None:
            return self._staging
        assert origin is not None  # what S3 does not have is staged from the start
        size = origin.entry.size if keep is None else min(keep, origin.entry.size)
        if to_upload:
            self._learn_content(origin, cancellation, cut=keep == 0)
        partial = to_upload and size > 2 * self._options.part_size
        staging = self._journal.stage()
        try:
            if partial:
                staging.truncate(size)
            else:
                origin.fetch([(0, size)], staging, cancellation)
        except BaseException:
            staging.remove()
            raise
        with self._lock:
            self._staging = staging
            self._based = keep != 0
            self._layout = Layout(size, size, partial=partial)
        return staging

    def _fill(
        self, staging: Staging, spans: list[tuple[int, int]], cancellation: Cancellation
    ) -> None:
        """Fetch what the staging file of a partial file lacks of *spans*."""
        holes = self._layout.missing(spans)
        if holes and self._origin is not None:
            self._origin.fetch(holes, staging, cancellation)
            with self._lock:
                self._layout.fetched(holes)

    def _learn_content(
        self, origin: Origin, cancellation: Cancellation, *, cut: bool = False
    ) -> None:
        content = origin.content(self.key, cancellation, cut=cut)
        if content is not None:
            with self._lock:
                self.content = content._replace(meta={**content.meta, **self.content.meta})

    # To S3

    def flush(self, cancellation: Cancellation, *, behind: bool = False) -> Entry | None:
        """Upload the file if it is dirty; return the new version then. S3 has it and the
        mirror knows. *behind*: whoever changes the file meanwhile interrupts this.

        Raises UploadFailed, which says where the bytes are kept; the file stays dirty, and
        the next flush tries again, unless the file is lost. Raises Interrupted; the file stays
        dirty.
        """
        with self._change.taken(cancellation):
            if self.lost is not None:
                raise UploadFailed(str(self.lost), errno=self.lost.errno, kept_at=self.lost.kept_at)
            staging = self._staging
            if not self.dirty or staging is None:
                return None
            self._behind = cancellation if behind else None
            self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
            try:
                self._upload.settle(cancellation)
                staging, entry, told = self._uploaded_behind(staging, cancellation)
                self._uploaded(staging, entry, told)
            except Interrupted:
                raise
            except MimicError as exc:
                self.refused = True
                raise self._failed(self._staging or staging, exc) from exc
            finally:
                self._behind = None
            return self.entry

    def _deleted(self) -> PosixError:
        return PosixError(errno.ESTALE, f"{self._about}: deleted in S3")

    def _uploaded_behind(
        self, staging: Staging, cancellation: Cancellation
    ) -> tuple[Staging, Entry, Content]:
        """Upload the file; appends, behind whatever others put there meanwhile. Return what was
        uploaded, the new version, and what was said of it."""
        conflict: MimicError | None = None
        for attempt in range(_REBASES_MAX):
            try:
                if conflict is not None:
                    self._upload.settle(cancellation)
                    staging = self._rebased(staging, cancellation)
                job = self._job(staging, cancellation)
                return staging, *self._upload.upload(job, cancellation)
            except MimicError as exc:
                lost = isinstance(exc, ObjectChanged) or exc.errno == errno.EEXIST
                if not (lost and self._only_appended):
                    raise
                conflict = exc
            cancellation.check()
            if attempt:
                time.sleep(backoff_s(attempt) / 4)
        raise ObjectChanged(f"{self._about}: changed in S3 faster than it can be appended to")

    def _rebased(self, staging: Staging, cancellation: Cancellation) -> Staging:
        """Return a staging file in which what was appended stands behind the version that S3 has
        now. Raises ObjectChanged if another one came meanwhile, PosixError ESTALE if there is
        none."""
        about = (self.bucket, self.key)
        try:
            entry, content = cancellation.wait(self._s3.pool.submit(self._s3.head, *about))
        except KeyNotFound as exc:
            raise self._deleted() from exc
        self._upload.give_up()
        tail = (self._layout.base, self.size)
        self._check_size(entry.size + tail[1] - tail[0])
        origin = self._origin_of(entry)
        new, layout = moved_behind(
            entry,
            staging,
            tail,
            self._journal,
            lambda spans, to: origin.fetch(spans, to, cancellation),
            partial=entry.size > 2 * self._options.part_size,
        )
        if self.entry is not None:
            content = content._replace(meta={**content.meta, **self.content.meta})
        self._stand_on(entry)
        with self._lock:
            self.content, self._based = content, True
            self._staging, self._layout = new, layout
        self.set_meta(metadata.of_new_bytes(content.meta, self.mtime_ns))
        new.describe(self._record())
        if layout.partial:
            new.changed(entry.size, layout.size)
        staging.remove()
        return new

    def _uploaded(self, staging: Staging, entry: Entry, told: Content) -> None:
        """S3 has the bytes as *entry*, stored with what *told* says."""
        self._stand_on(entry)
        with self._lock:
            self._based = self._only_appended = True
            self._layout.uploaded()
            if not self._mtime_said and metadata.same_but_times(told.meta, self.content.meta):
                # The time of the first part is good enough to save a copy.
                self.content = self.content._replace(meta=told.meta)
        while not self._is_settled(told):
            # The owner, say, was changed after the upload had begun, which is when it is told.
            told = self.content
            entry = self._s3.copy((self.bucket, entry), self.bucket, self.key, told)
            self._stand_on(entry)
        staging.settle()

    def _is_settled(self, told: Content) -> bool:
        """Make the file clean if S3 has all that is said of it."""
        with self._lock:
            if self.content != told:
                return False
            self._happens(Event.STORED)
            self._promised = False
            return True

    def _failed(self, staging: Staging, exc: MimicError) -> UploadFailed:
        """Return what is to be said of an upload that S3 refused."""
        lost = isinstance(exc, ObjectChanged) or exc.errno in (errno.EEXIST, errno.ESTALE)
        kept_at = self._recovered(staging) if lost else staging.path
        part = " (only what was written; the .json beside it says where)"
        said = f"{kept_at}{part if lost and self._layout.partial else ''}"
        about = f"{self._about} was not uploaded, its bytes are kept in {said}: {exc}"
        failed = UploadFailed(about, errno=exc.errno, kept_at=str(kept_at))
        if lost:
            with self._lock:
                self.lost, self._staging = failed, None
                self._happens(Event.REFUSED)
        return failed

    def _recovered(self, staging: Staging) -> Path:
        """Move the bytes to where their owner will look for them; return where that is."""
        record = Record(self.bucket, self.key, partial=self._layout.partial)
        orphan = Orphan(staging.path.stem, self.size, record)
        return self._journal.recover(orphan)

    def _job(self, staging: Staging, cancellation: Cancellation) -> Job:
        """Return what is to be uploaded. Nothing that was given up is on its way any more."""
        self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
        absent = self._absent and self.entry is None
        return Job(
            self.bucket,
            self.key,
            staging,
            self._layout,
            self.content,
            self.entry,
            Condition(self.etag if self._based else "", absent),
            lambda spans: self._fill(staging, spans, cancellation),
        )

    def _taken_all_the_same(self, entry: Entry) -> None:
        """S3 has taken, as *entry*, what was given up."""
        self._stand_on(entry)
        self._based = True
        if self.dirty:
            self._redescribe()

    def _origin_of(self, entry: Entry, reader: Reader | None = None) -> Origin:
        return Origin(self._s3, self._options, self._budget, self.bucket, entry, reader)

    def _stand_on(self, entry: Entry, *, copied: bool = False) -> None:
        """The file stands on *entry* from now on; *copied*: it has the bytes of the one before."""
        origin = self._origin_of(entry)
        with self._lock:
            self._origin, old = origin, self._origin
            if old is not None:
                origin.follows(old, copied=copied)
        if old is not None:
            old.close()

    # What happens to the object

    def detach(self, cancellation: Cancellation) -> None:
        """The object is about to be unlinked or replaced: fetch its bytes, and live on. If
        S3 then refuses, `attach` takes it back. If they are gone already, the file expires:
        that is no reason for the name to stay."""
        self.interrupt()
        with self._change.taken(cancellation):
            if self.state not in (State.CLEAN, State.DIRTY):
                return
            self._upload.give_up()
            self._upload.settle(cancellation)
            try:
                staging = self._staged(cancellation, to_upload=False)
                self._fill(staging, [(0, self.size)], cancellation)
            except ObjectChanged:
                self.expire()
                return
            with self._lock:
                if self.state.expired:
                    return
                self._layout.fetched_all()
                self._happens(Event.LEAVES)
            staging.settle()

    def attach(self) -> None:
        """The object is still there after all: what S3 does not have is to be uploaded."""
        with self._change:
            if self.state is State.UNSAVED:
                self._redescribe()
            with self._lock:
                self._happens(Event.STAYS)

    def follow(self, entry: Entry) -> bool:
        """The object is *entry* by now, written by somebody else. Stand on that, if nobody has
        got bytes of the old version and none were written; return whether it does."""
        origin = self._origin_of(entry)
        with self._lock:
            old = self._origin
            if self.state is not State.CLEAN or self._staging is not None:
                return False
            if old is None or old.handed:
                return False
            self.shrunk = self.shrunk or entry.size < self.size
            self._origin, self._layout = origin, Layout(entry.size)
            self.content = self.content._replace(meta=entry.meta or {})
            self.mtime_ns = entry.mtime_ns
        old.close()
        return True

    def expire(self, *, deleted: bool = False) -> None:
        """The object was replaced in S3, or *deleted*: a clean file gives ESTALE from now on;
        ENOENT where it was deleted before anybody got bytes of it."""
        with self._lock:
            origin = self._origin
            unseen = origin is not None and not origin.handed
            self._happens(Event.DELETED if deleted and unseen else Event.REPLACED)
            if not self.state.expired:
                return
        if origin is not None:
            origin.close()

    def adopt(self, entry: Entry, content: Content) -> None:
        """The object is *entry* now, by a copy within S3 that we asked for. Bytes that were
        written meanwhile stay, and are uploaded."""
        with self._change:
            if self.state not in (State.CLEAN, State.DIRTY):
                return
            self._stand_on(entry)
            with self._lock:
                self.content = content
            if self.dirty and self.size:
                self._redescribe()
                return
            with self._lock:
                self._happens(Event.STORED)
                self._layout, self.mtime_ns = Layout(entry.size), entry.mtime_ns
                staging, self._staging = self._staging, None
            if staging is not None:
                staging.remove()

    def move(
        self, bucket: str, key: str, entry: Entry | None, content: Content | None = None
    ) -> None:
        """The file was renamed; *entry* is the copy at its new place, if S3 has one, stored with
        *content* (None: as before). Bytes that S3 does not have go to the new place with the next
        flush."""
        with self._change:
            if self.state is State.CLOSED:
                return
            self._upload.give_up()
            with self._lock:
                self.bucket, self.key = bucket, key
                self.content = content or self.content
            if entry is None and self.entry is not None:
                entry = self.entry._replace(key=key)
            if entry is not None:
                self._stand_on(entry, copied=True)
            if self.dirty:
                self._redescribe()

    def _redescribe(self) -> None:
        if self._staging is not None:
            self._staging.describe(self._record())

    def close(self) -> None:
        """The last handle is gone. Bytes that S3 refused stay in the staging directory."""
        with self._change:
            self._upload.give_up()
            with self._lock:
                unsaved = self.dirty
                self._happens(Event.CLOSED)
                staging, self._staging = self._staging, None
                origin = self._origin
            if origin is not None:
                origin.close()
            if staging is not None and unsaved:
                staging.keep()
            elif staging is not None:
                staging.remove()
