"""One open file: what all of its handles share.

A file is *clean*: it stands for a version in S3 and is read from there (reader.py), or from
its staging file if it has one. Or it is *dirty*: its bytes are in a staging file, and S3 does
not have them yet. `flush` makes it clean. A *detached* file was unlinked or replaced while
it was open: it lives on in its staging file and is never uploaded. An *expired* one was
replaced in S3 behind our back, and only gives ESTALE. A *lost* one is expired with bytes that
S3 refused for that reason; they were moved to the recovery directory.

Where all changes are appends (O_APPEND), another version that somebody puts there is no conflict:
they go behind it (appending.py).

An upload of bytes that are partly those of a version in S3 replaces only that version; that
of a file which was to be new, none. One that was cut to nothing before replaces what is there.

A large object is not fetched because a byte of it is written: its file is *partial*, the
staging file has only what was written, and the rest is read from the version in S3
(layout.py). Where the server can, an upload copies there what has not changed. A large file
that is written from its start on is sent to S3 meanwhile (multipart.py).

INVARIANT: a dirty file that is not detached has a staging file with a record (journal.py).

Locks: `_change` is held by whoever changes the file or uploads it, also while that waits for
S3: a writer waits for an upload to end, so that no upload is torn. `_lock` protects the
fields and is held for a few instructions; it is taken after `_change`. Readers take only
`_lock`, so reading goes on during an upload.

An upload that was interrupted is given up, not awaited: none of its bytes are read any more,
so the file may be changed at once, but no other upload begins, and no deletion, before its
last request has ended (`_given_up`): S3 might take them in the wrong order. If S3 has taken it
all the same, that is the version that the file stands on from then on.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakSet

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import (
    Interrupted,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    S3Error,
    Unsupported,
    UploadFailed,
)
from mimicfs.files import transfer
from mimicfs.files.appending import moved_behind
from mimicfs.files.journal import Journal, Orphan
from mimicfs.files.layout import Layout
from mimicfs.files.multipart import Multipart, parts_of
from mimicfs.files.ranges import PlannedPart, are_equal
from mimicfs.files.reader import Budget, Reader
from mimicfs.files.record import Record
from mimicfs.files.staging import Staging
from mimicfs.files.transfer import RequestBatch, Slice
from mimicfs.files.turn import Turn
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import COPY_MAX, MIB, S3, Condition, Content
from mimicfs.s3.transport.backoff import backoff_s

# S3's limits (user guide, "Amazon S3 multipart upload limits").
SIZE_MAX = 5 << 40
_PART_MIN = 5 * MIB
_PARTS_MAX = 10_000
_REFUSED = 400  # InvalidPart, InvalidRequest ...: the parts are not as the server wants them
# R2: "All non-trailing parts must have the same length."
_ABOUT_SIZES = re.compile(r"\b(same|equal|uniform)\b", re.IGNORECASE)
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
        self._change = Turn()
        self._lock = threading.Lock()  # protects all below
        self.bucket = bucket
        self.key = key
        self.entry = entry
        self.content = content
        self._layout = Layout(entry.size if entry is not None else 0)
        self.mtime_ns = entry.mtime_ns if entry is not None else time.time_ns()
        self._mtime_said = False  # set by somebody, after the last change
        self.dirty = False
        self.refused = False  # S3 did not take the bytes, and they were not changed since
        self.lost: UploadFailed | None = None  # S3 never will: what flush raises from then on
        self._based = False  # some of the staged bytes are those of the version `entry`
        # Since S3 had all bytes, nothing but appends; never of a file that must be the first.
        self._only_appended = entry is None and not exclusive
        self._absent = absent
        self._detached = False
        self._expired = False
        self._closed = False
        self._unsaved = False  # detached: it has bytes that S3 never had
        self._given_up: RequestBatch | None = None  # an upload that may still be on its way
        self._staging: Staging | None = None
        self._multipart: Multipart | None = None  # begun while the file is written
        self._behind: Cancellation | None = None  # of an upload that gives way to changes
        self._handed = False  # somebody has got bytes of the version `entry`
        # It follows a version that is shorter than the kernel knows. A read that ends early tells
        # the kernel, unless that was told to forget the size meanwhile: then it reads zeros.
        self.shrunk = False
        self._vanished = False  # expired because it was deleted, before anybody got bytes
        self._promised = False  # its writer was told that the bytes are safe
        self._reader = reader or self._new_reader(entry)
        self._copied: WeakSet[Reader] = WeakSet()  # of what the present one reads a copy of
        if staging is not None:
            self._resume(staging)
        elif entry is None:
            self._staging = journal.stage()
            try:
                self._make_dirty(self._staging)
            except BaseException:
                self._staging.remove()
                raise

    def _resume(self, staging: Staging) -> None:
        """Go on where a mount that died has left *staging*."""
        record, found = staging.record, staging.stat()
        self._staging, self.dirty = staging, True
        said = metadata.read(record.meta).mtime_ns if record.closed else None
        self.mtime_ns = found.st_mtime_ns if said is None else said
        self._layout = Layout.resumed(
            found.st_size, record.base, staging.ranges(), partial=record.partial
        )
        self._based = self.entry is not None

    @property
    def size(self) -> int:
        return self._layout.size

    @property
    def etag(self) -> str:
        """The version that the file stands on; "" if S3 has none, or gave it no ETag."""
        entry = self.entry
        return entry.etag if entry is not None else ""

    @property
    def apart(self) -> bool:
        """Whether the object bucket/key is not this file's any more."""
        return self._detached or self._expired

    @property
    def expired(self) -> bool:
        return self._expired

    @property
    def _about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def _new_reader(self, entry: Entry | None) -> Reader | None:
        if entry is None:
            return None
        return Reader(self._s3, self._options, self._budget, self.bucket, entry)

    # Reading

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes; less only at the end. Raises ObjectChanged once the
        version that the file stands on is gone from S3."""
        while True:
            staging, reader, pieces = self._source(offset, size)
            try:
                found = [
                    self._piece(staging if local else None, reader, start, end, cancellation)
                    for start, end, local in pieces
                ]
            except ObjectChanged:
                if self._source(offset, size)[:2] == (staging, reader):
                    raise
                continue  # not the object, but the file was moved, uploaded or changed
            # No old bytes once the file has expired, nor of a staging file that was given up.
            if self._source(offset, size)[0] is not staging:
                continue
            if staging or self._hand_out(reader):
                return found[0] if len(found) == 1 else b"".join(found)

    def _hand_out(self, reader: Reader | None) -> bool:
        """Note that somebody gets bytes of the version in S3. False: *reader*'s is the old one,
        and nobody had got any of it."""
        with self._lock:
            self._check(reading=True)
            right = reader is self._reader or reader in self._copied
            self._handed = self._handed or right
            return right

    def hand_out(self) -> None:
        """The kernel has bytes of the version that the file stands on."""
        with self._lock:
            self._handed = True

    def _piece(
        self,
        staging: Staging | None,
        reader: Reader | None,
        start: int,
        end: int,
        cancellation: Cancellation,
    ) -> bytes | memoryview:
        if staging is not None:
            return staging.read(start, end - start)
        if reader is None:
            raise PosixError(errno.EBADF, self._about)
        return reader.read(start, end - start, cancellation)

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the same if that needs no waiting, else None."""
        staging, reader, pieces = self._source(offset, size)
        if not pieces:
            return b""
        if len(pieces) > 1:
            return None
        [(start, end, local)] = pieces
        if local and staging is not None:
            return staging.read(start, end - start)
        data = reader.read_cached(start, end - start) if reader is not None else None
        return data if data is not None and self._hand_out(reader) else None

    def _source(
        self, offset: int, size: int
    ) -> tuple[Staging | None, Reader | None, list[tuple[int, int, bool]]]:
        """Return what the bytes from *offset* on are read from: (start, end, whether they are
        in the staging file) for each piece."""
        with self._lock:
            self._check(reading=True)
            end = min(offset + size, self.size)
            pieces = list(self._layout.pieces(offset, end)) if offset < end else []
            return self._staging, self._reader, pieces

    def _check(self, *, reading: bool = False) -> None:
        if self._closed:
            raise PosixError(errno.EBADF, self._about)
        if self._vanished and reading:
            raise PosixError(errno.ENOENT, f"{self._about}: deleted in S3")
        if self._expired:
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
            clean = not (self.dirty or self._unsaved)
            self._only_appended = self._only_appended or clean
            offset = self.size
            self._write(staging, offset, data, cancellation)
            return offset

    def _write(
        self, staging: Staging, offset: int, data: memoryview, cancellation: Cancellation
    ) -> None:
        end = offset + len(data)
        self._make_dirty(staging)
        if self._multipart is not None and offset < self._multipart.sent_to:
            self._multipart.changed(offset, end)
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
            self._make_dirty(staging)
            if self._multipart is not None:
                self._multipart.changed(size, SIZE_MAX)
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

    def _check_size(self, size: int) -> None:
        if size > SIZE_MAX:
            raise PosixError(errno.EFBIG, f"{self._about}: over 5 TiB")

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
        if self._layout.front < 2 * self._options.part_size or self._based or self._detached:
            return
        if self._multipart is None:
            self._settled(cancellation)
            self._multipart = self._new_multipart(staging)
        self._multipart.ahead(self._layout.front, cancellation)

    def _new_multipart(self, staging: Staging) -> Multipart:
        self.set_meta(metadata.of_new_bytes(self.content.meta, self.mtime_ns))
        place = (self.bucket, self.key, self.content, self.entry)
        return Multipart(self._s3, self._options, staging, *place)

    def _give_up_multipart(self) -> None:
        multipart, self._multipart = self._multipart, None
        if multipart is not None:
            multipart.give_up()
            self._given_up = multipart.batch

    def _make_dirty(self, staging: Staging) -> None:
        """Note on disk, before the first byte is changed, what the bytes are to become."""
        if self._detached:
            self._unsaved = True
        elif not self.dirty:
            self._describe(staging)
            self.dirty = True

    def _describe(self, staging: Staging) -> None:
        staging.describe(self._record())

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
            if self._closed or not (self.dirty or self.apart):
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
        entry = self.entry
        if self._staging is not None:
            return self._staging
        assert entry is not None  # what S3 does not have is staged from the start
        size = entry.size if keep is None else min(keep, entry.size)
        if to_upload:
            self._learn_content(entry, cancellation, cut=keep == 0)
        partial = to_upload and size > 2 * self._options.part_size
        staging = self._journal.stage()
        try:
            if partial:
                staging.truncate(size)
            else:
                self._fetch(entry, [(0, size)], staging, cancellation)
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
        if holes and self.entry is not None:
            self._fetch(self.entry, holes, staging, cancellation)
            with self._lock:
                self._layout.fetched(holes)

    def _fetch(
        self,
        entry: Entry,
        spans: list[tuple[int, int]],
        staging: Staging,
        cancellation: Cancellation,
    ) -> None:
        place = (self.bucket, entry)
        try:
            transfer.fetch(self._s3, self._options, *place, spans, staging, cancellation)
        except KeyNotFound as exc:
            raise ObjectChanged(f"{self._about}: deleted in S3") from exc

    def _learn_content(self, entry: Entry, cancellation: Cancellation, *, cut: bool) -> None:
        """Ask what else is stored with an object that is to be changed, so that it is kept.
        *cut*: none of its bytes stay, so it does not matter which version it is."""
        known = self._s3.kept.remembered(self.bucket, entry) if cut else None
        try:
            found, content = (
                (entry, known)
                if known is not None
                else cancellation.wait(
                    self._s3.pool.submit(self._s3.kept.of, self.bucket, self.key)
                )
            )
        except KeyNotFound as exc:
            if cut:
                return
            raise ObjectChanged(f"{self._about}: deleted in S3") from exc
        if found.etag != entry.etag and not cut:
            raise ObjectChanged.since_opened(self._about)
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
                self._settled(cancellation)
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
                    self._settled(cancellation)
                    staging = self._rebased(staging, cancellation)
                return staging, *self._upload(staging, cancellation)
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
        self._give_up_multipart()
        tail = (self._layout.base, self.size)
        self._check_size(entry.size + tail[1] - tail[0])
        new, layout = moved_behind(
            entry,
            staging,
            tail,
            self._journal,
            lambda version, spans, to: self._fetch(version, spans, to, cancellation),
            partial=entry.size > 2 * self._options.part_size,
        )
        if self.entry is not None:
            content = content._replace(meta={**content.meta, **self.content.meta})
        self._stand_on(entry)
        with self._lock:
            self.content, self._based = content, True
            self._staging, self._layout = new, layout
        self.set_meta(metadata.of_new_bytes(content.meta, self.mtime_ns))
        self._describe(new)
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
            self.dirty = self._promised = False
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
                self.dirty, self._expired = False, True
        return failed

    def _recovered(self, staging: Staging) -> Path:
        """Move the bytes to where their owner will look for them; return where that is."""
        record = Record(self.bucket, self.key, partial=self._layout.partial)
        orphan = Orphan(staging.path.stem, self.size, record)
        return self._journal.recover(orphan)

    def _upload(self, staging: Staging, cancellation: Cancellation) -> tuple[Entry, Content]:
        """Return the new version, and what was said of it when the upload began."""
        absent = self._absent and self.entry is None
        condition = Condition(self.etag if self._based else "", absent)
        try:
            parts = self._parts()
            if parts is None:
                return self._upload_whole(staging, condition, cancellation)
            copied, begun = any(part.copied for part in parts), self._multipart is not None
            try:
                return self._upload_parts(staging, parts, condition, cancellation)
            except Unsupported:  # some servers copy no parts, and some take none a second time
                if not copied and not begun:
                    raise
                self._s3.copies_parts &= not copied
                self._settled(cancellation)
                parts = self._sent_parts()
                return self._upload_parts(staging, parts, condition, cancellation)
            except S3Error as exc:
                if exc.status != _REFUSED or are_equal(parts):
                    raise
                return self._upload_equally(staging, condition, cancellation, exc)
        except MimicError as exc:
            if entry := self._arrived(exc, condition):
                return entry, self.content
            raise

    def _upload_equally(
        self,
        staging: Staging,
        condition: Condition,
        cancellation: Cancellation,
        refusal: S3Error,
    ) -> tuple[Entry, Content]:
        """Upload in equal parts what was refused in others: there are servers that take no
        others (R2). If that is refused, too, it was about something else."""
        self._settled(cancellation)
        parts = self._layout.equal_plan(self._equal_size())
        try:
            found = self._upload_parts(staging, parts, condition, cancellation)
        except S3Error as exc:
            raise (refusal if exc.status == _REFUSED else exc) from None
        if _ABOUT_SIZES.search(str(refusal)):  # else a part may have been lost
            self._s3.capabilities.learned("equal-parts", "yes")
        return found

    def _equal_size(self) -> int:
        """Return the size of parts that are all to have the same."""
        return max(self._options.part_size, -(-self.size // _PARTS_MAX // MIB) * MIB)

    def _sent_parts(self) -> list[PlannedPart]:
        """Return the parts that the file is uploaded in if none is copied."""
        if self._s3.capabilities["equal-parts"] == "yes":
            return Layout(self.size).equal_plan(self._equal_size())
        return list(parts_of(self.size, self._options.part_size))

    def _parts(self) -> list[PlannedPart] | None:
        """Return the parts that the file is uploaded in; None: it is one request."""
        least = self._options.part_size
        if self.size <= 2 * least and self._multipart is None:
            return None
        if self._layout.base >= least and self._multipart is None and self._s3.copies_parts:
            if self._s3.capabilities["equal-parts"] == "yes":
                return self._layout.equal_plan(self._equal_size())
            part = max(least, -(-self.size // (_PARTS_MAX // 2)))
            smallest = min(_PART_MIN, least)
            parts = self._layout.plan(part, smallest, COPY_MAX)
            if any(part.copied for part in parts):
                return parts
        return self._sent_parts() or None

    def _upload_whole(
        self, staging: Staging, condition: Condition, cancellation: Cancellation
    ) -> tuple[Entry, Content]:
        self._give_up_multipart()  # the file was cut to nothing
        self._settled(cancellation)
        self._fill(staging, [(0, self.size)], cancellation)
        batch = RequestBatch(self._s3, self._options.requests_per_file, cancellation)
        body = Slice(batch, staging, 0, self.size)
        told = self.content
        to = (self.bucket, self.key, body, self.size, told, condition)
        try:
            return batch.one(self._s3.put, *to), told
        except BaseException:
            batch.stop(lambda: None)
            self._given_up = batch
            raise

    def _upload_parts(
        self,
        staging: Staging,
        parts: list[PlannedPart],
        condition: Condition,
        cancellation: Cancellation,
    ) -> tuple[Entry, Content]:
        sent = [(part.start, part.end) for part in parts if not part.copied]
        self._fill(staging, sent, cancellation)
        multipart, self._multipart = self._multipart or self._new_multipart(staging), None
        told = multipart.content
        if not self._mtime_said and metadata.same_but_times(told.meta, self.content.meta):
            with self._lock:  # the time of the first part is good enough to save a copy
                self.content = self.content._replace(meta=told.meta)
        try:
            return multipart.finish(parts, self.size, condition, cancellation), told
        except BaseException:
            self._given_up = multipart.batch
            raise

    def _arrived(self, exc: MimicError, condition: Condition) -> Entry | None:
        """Return what S3 has, if that is what it was sent. An answer that was lost is asked for
        again, and then the condition does not hold any more: we have changed the object."""
        changed = isinstance(exc, ObjectChanged | KeyNotFound) or exc.errno == errno.EEXIST
        sent = {name.lower(): value for name, value in self.content.meta.items()}
        if condition == Condition() or not changed or "mtime" not in sent:
            return None
        entry = self._s3.mimicdb.entry(self.bucket, self.key)  # as a HEAD has just found it
        ours = entry is not None and (entry.size, entry.meta) == (self.size, sent)
        return entry if ours else None

    def _settled(self, cancellation: Cancellation) -> None:
        """Wait until nothing of an upload that was given up is on its way."""
        batch = self._given_up
        if batch is None:
            return
        cancellation.wait(batch.settled)
        self._given_up = None
        for entry in batch.results():
            if isinstance(entry, Entry):  # S3 has taken it all the same
                self._stand_on(entry)
                self._based = True
                if self.dirty:
                    self._redescribe()

    def _stand_on(self, entry: Entry) -> None:
        reader = self._new_reader(entry)
        with self._lock:
            self.entry = entry
            self._reader, old = reader, self._reader
            self._copied = WeakSet()
        if old is not None:
            old.close()

    # What happens to the object

    def detach(self, cancellation: Cancellation) -> None:
        """The object is about to be unlinked or replaced: fetch its bytes, and live on. If
        S3 then refuses, `attach` takes it back. If they are gone already, the file expires:
        that is no reason for the name to stay."""
        self.interrupt()
        with self._change.taken(cancellation):
            if self._closed or self._expired or self._detached:
                return
            self._give_up_multipart()
            self._settled(cancellation)
            try:
                staging = self._staged(cancellation, to_upload=False)
                self._fill(staging, [(0, self.size)], cancellation)
            except ObjectChanged:
                self.expire()
                return
            with self._lock:
                self._layout.fetched_all()
                self._unsaved, self.dirty = self.dirty, False
                self._detached = True
            staging.settle()

    def attach(self) -> None:
        """The object is still there after all: what S3 does not have is to be uploaded."""
        with self._change:
            with self._lock:
                detached, self._detached = self._detached, False
            if detached and self._unsaved and self._staging is not None:
                self._make_dirty(self._staging)

    def follow(self, entry: Entry) -> bool:
        """The object is *entry* by now, written by somebody else. Stand on that, if nobody has
        got bytes of the old version and none were written; return whether it does."""
        with self._lock:
            stands = self.dirty or self._staging is not None or self._handed
            if stands or self.apart or self._closed:
                return False
            self.shrunk = self.shrunk or entry.size < self.size
            old, self._reader = self._reader, self._new_reader(entry)
            self._copied = WeakSet()
            self.entry, self._layout = entry, Layout(entry.size)
            self.content = self.content._replace(meta=entry.meta or {})
            self.mtime_ns = entry.mtime_ns
        if old is not None:
            old.close()
        return True

    def expire(self, *, deleted: bool = False) -> None:
        """The object was replaced in S3, or *deleted*: a clean file gives ESTALE from now on;
        ENOENT where it was deleted before anybody got bytes of it."""
        with self._lock:
            if self.dirty or self._detached:
                return
            self._expired = True
            self._vanished = deleted and not self._handed
            reader = self._reader
        if reader is not None:
            reader.close()

    def adopt(self, entry: Entry, content: Content) -> None:
        """The object is *entry* now, by a copy within S3 that we asked for. Bytes that were
        written meanwhile stay, and are uploaded."""
        with self._change:
            if self._detached or self._expired or self._closed:
                return
            self._stand_on(entry)
            with self._lock:
                self.content = content
            if self.dirty and self.size:
                self._redescribe()
                return
            with self._lock:
                self.dirty = False
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
            if self._closed:
                return
            self._give_up_multipart()
            with self._lock:
                self.bucket, self.key = bucket, key
                self.content = content or self.content
            if entry is None and self.entry is not None:
                entry = self.entry._replace(key=key)
            if entry is not None:
                copied, before = self._copied, self._reader
                self._stand_on(entry)
                if before is not None:
                    copied.add(before)
                with self._lock:  # what these have read is what the copy has
                    self._copied = copied
            if self.dirty:
                self._redescribe()

    def _redescribe(self) -> None:
        if self._staging is not None:
            self._describe(self._staging)

    def close(self) -> None:
        """The last handle is gone. Bytes that S3 refused stay in the staging directory."""
        with self._change:
            self._give_up_multipart()
            with self._lock:
                self._closed = True
                staging, self._staging = self._staging, None
                reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
            if staging is not None and self.dirty:
                staging.keep()
            elif staging is not None:
                staging.remove()
