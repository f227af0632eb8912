"""One open file: what all of its handles share.

A file is *clean*: it stands for a version in S3 and is read from there (reader.py), or from
its staging file if it has one. Or it is *dirty*: its bytes are in a staging file, and S3 does
not have them yet. `flush` makes it clean. A *detached* file was unlinked or replaced while
it was open: it lives on in its staging file and is never uploaded. An *expired* one was
replaced in S3 behind our back, and only gives ESTALE. A *lost* one is expired with bytes that
S3 refused for that reason; they were moved to the recovery directory.

An upload of bytes that are partly those of a version in S3 replaces only that version; that
of a file which was to be new, none. One that was cut to nothing before replaces what is there.

INVARIANT: a dirty file that is not detached has a staging file with a record (journal.py).

Locks: `_change` is held by whoever changes the file or uploads it, also while that waits for
S3: a writer waits for an upload to end, so that no upload is torn. `_lock` protects the
fields and is held for a few instructions; it is taken after `_change`. Readers take only
`_lock`, so reading goes on during an upload.

An upload that was interrupted is given up, not awaited: none of its bytes are read any more,
so the file may be changed at once, but no other upload begins, and no deletion, before its
last request has ended (`_unsettled`): S3 might take them in the wrong order.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from mimicfs.config import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import (
    Interrupted,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    UploadFailed,
)
from mimicfs.files import transfer
from mimicfs.files.journal import Journal, Orphan, Staging
from mimicfs.files.reader import Budget, Reader
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3, Condition, Content


class File:
    """The file s3://bucket/key. *entry* is the version that it stands on; None: S3 has none,
    and the file is dirty from the start. *content* is stored with the next upload. *reader*: one
    of that version, if there is one. *absent*: S3 must still have none when it is uploaded."""

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
    ) -> None:
        self._s3 = s3
        self._journal = journal
        self._options = options
        self._budget = budget
        self._change = threading.RLock()
        self._lock = threading.Lock()  # protects all below
        self.bucket = bucket
        self.key = key
        self.entry = entry
        self.content = content
        self.size = entry.size if entry is not None else 0
        self.mtime_ns = entry.mtime_ns if entry is not None else time.time_ns()
        self.dirty = False
        self.refused = False  # S3 did not take the bytes, and they were not changed since
        self.lost: UploadFailed | None = None  # S3 never will: what flush raises from then on
        self._based = False  # some of the staged bytes are those of the version `entry`
        self._absent = absent
        self._detached = False
        self._expired = False
        self._closed = False
        self._unsaved = False  # detached: it has bytes that S3 never had
        self._unsettled: Future[None] | None = None
        self._staging: Staging | None = None
        self._reader = reader or self._new_reader(entry)
        if entry is None:
            self._staging = journal.stage()
            try:
                self._make_dirty(self._staging)
            except BaseException:
                self._staging.remove()
                raise

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
            staging, reader, left = self._source(offset)
            if left <= 0:
                return b""
            if staging is not None:
                return staging.read(offset, min(size, left))
            if reader is None:
                raise PosixError(errno.EBADF, self._about)
            try:
                data = reader.read(offset, min(size, left), cancellation)
            except ObjectChanged:
                if self._source(offset)[:2] == (None, reader):
                    raise
                continue  # not the object, but the file was moved, uploaded or changed
            self._source(offset)  # old bytes must not be answered once the file has expired
            return data

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the same if that needs no waiting, else None."""
        staging, reader, left = self._source(offset)
        if left <= 0:
            return b""
        if staging is not None:
            return staging.read(offset, min(size, left))
        return reader.read_cached(offset, min(size, left)) if reader is not None else None

    def _source(self, offset: int) -> tuple[Staging | None, Reader | None, int]:
        with self._lock:
            self._check()
            return self._staging, self._reader, self.size - offset

    def _check(self) -> None:
        if self._closed:
            raise PosixError(errno.EBADF, self._about)
        if self._expired:
            raise ObjectChanged(f"{self._about}: changed in S3; open it again")

    # Changing

    def write(self, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at *offset*; return its length. Nothing is sent to S3 yet."""
        self._check_size(offset + len(data))
        with self._lock:
            self._check()
        if not data:
            return 0  # write(2): no bytes change nothing, not even behind the end
        with self._change:
            staging = self._staged(cancellation)
            self._make_dirty(staging)
            staging.write(offset, data)
            self._changed(max(self.size, offset + len(data)))
        return len(data)

    def truncate(self, size: int, cancellation: Cancellation) -> None:
        """Cut the file to *size*, or extend it with zeros."""
        self._check_size(size)
        with self._change:
            with self._lock:
                self._check()
            if size == self.size and not self.dirty:
                return
            staging = self._staged(cancellation, keep=size)
            self._make_dirty(staging)
            staging.truncate(size)
            self._based = self._based and size > 0
            self._changed(size)

    def _check_size(self, size: int) -> None:
        if size > transfer.SIZE_MAX:
            raise PosixError(errno.EFBIG, f"{self._about}: over 5 TiB")

    def _make_dirty(self, staging: Staging) -> None:
        """Note on disk, before the first byte is changed, what the bytes are to become."""
        if self._detached:
            self._unsaved = True
        elif not self.dirty:
            self._describe(staging)
            self.dirty = True

    def _describe(self, staging: Staging) -> None:
        content = self.content
        staging.describe(self.bucket, self.key, self.etag, content.content_type, content.meta)

    def _changed(self, size: int) -> None:
        with self._lock:
            self.size = size
            self.mtime_ns = time.time_ns()
            self.refused = False

    def set_meta(self, updates: Mapping[str, str]) -> None:
        """Store *updates* as user metadata with the next upload."""
        with self._lock:
            self.content = self.content._replace(meta={**self.content.meta, **updates})

    def replace_meta(self, meta: Mapping[str, str]) -> None:
        """Store *meta*, and no other user metadata, with the next upload."""
        with self._lock:
            self.content = self.content._replace(meta=meta)

    def _staged(
        self, cancellation: Cancellation, keep: int | None = None, *, to_upload: bool = True
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
        if to_upload and (size or (keep is None and entry.meta is None)):
            self._learn_content(entry, cancellation)
        staging = self._journal.stage()
        try:
            self._fetch(entry, size, staging, cancellation)
        except BaseException:
            staging.remove()
            raise
        with self._lock:
            self._staging = staging
            self._based = keep != 0
        return staging

    def _fetch(self, entry: Entry, size: int, staging: Staging, cancellation: Cancellation) -> None:
        try:
            transfer.download(
                self._s3, self._options, self.bucket, entry, size, staging, cancellation
            )
        except KeyNotFound as exc:
            raise ObjectChanged(f"{self._about}: deleted in S3") from exc

    def _learn_content(self, entry: Entry, cancellation: Cancellation) -> None:
        """Ask what else is stored with an object that is to be changed, so that it is kept.

        An object that is overwritten from its start (O_TRUNC) keeps only the metadata that
        the mirror knows, which is what stat has shown of it: there is nothing to ask for.
        """
        try:
            found, content = cancellation.wait(
                self._s3.pool.submit(self._s3.head, self.bucket, self.key)
            )
        except KeyNotFound as exc:
            raise ObjectChanged(f"{self._about}: deleted in S3") from exc
        if found.etag != entry.etag:
            raise ObjectChanged(f"{self._about}: changed in S3; open it again")
        with self._lock:
            self.content = content._replace(meta={**content.meta, **self.content.meta})

    # To S3

    def flush(self, cancellation: Cancellation) -> Entry | None:
        """Upload the file if it is dirty; return the new version then. S3 has it and the
        mirror knows.

        Raises UploadFailed, which says where the bytes are kept; the file stays dirty, and
        the next flush tries again, unless the file is lost. Raises Interrupted; the file stays
        dirty.
        """
        with self._change:
            if self.lost is not None:
                raise UploadFailed(str(self.lost), errno=self.lost.errno, kept_at=self.lost.kept_at)
            staging = self._staging
            if not self.dirty or staging is None:
                return None
            try:
                self._settled(cancellation)
                entry = self._upload(staging, cancellation)
            except Interrupted:
                raise
            except MimicError as exc:
                self.refused = True
                raise self._failed(staging, exc) from exc
            self._stand_on(entry)
            with self._lock:
                self.dirty = False
                self._based = True
            staging.settle()
            return entry

    def _failed(self, staging: Staging, exc: MimicError) -> UploadFailed:
        """Return what is to be said of an upload that S3 refused."""
        lost = isinstance(exc, ObjectChanged) or exc.errno == errno.EEXIST
        kept_at = self._recovered(staging) if lost else staging.path
        about = f"{self._about} was not uploaded, its bytes are kept in {kept_at}: {exc}"
        failed = UploadFailed(about, errno=exc.errno, kept_at=str(kept_at))
        if lost:
            with self._lock:
                self.lost, self._staging = failed, None
                self.dirty, self._expired = False, True
        return failed

    def _recovered(self, staging: Staging) -> Path:
        """Move the bytes to where their owner will look for them; return where that is."""
        orphan = Orphan(staging.path.stem, self.bucket, self.key, self.size)
        return self._journal.recover(orphan)

    def _upload(self, staging: Staging, cancellation: Cancellation) -> Entry:
        batch = transfer.Batch(self._s3, self._options.requests_per_file, cancellation)
        absent = self._absent and self.entry is None
        condition = Condition(self.etag if self._based else "", absent)
        to = (self.bucket, self.key, self.content, condition)
        try:
            return transfer.upload(batch, self._s3, self._options, staging, self.size, *to)
        except BaseException as exc:
            self._unsettled = batch.settled if batch.stopped else None
            if isinstance(exc, MimicError) and (entry := self._arrived(exc, condition)):
                return entry
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
        if self._unsettled is not None:
            cancellation.wait(self._unsettled)
            self._unsettled = None

    def _stand_on(self, entry: Entry) -> None:
        reader = self._new_reader(entry)
        with self._lock:
            self.entry = entry
            self._reader, old = reader, self._reader
        if old is not None:
            old.close()

    # What happens to the object

    def detach(self, cancellation: Cancellation) -> None:
        """The object is about to be unlinked or replaced: fetch its bytes, and live on. If
        S3 then refuses, `attach` takes it back. If they are gone already, the file expires:
        that is no reason for the name to stay."""
        with self._change:
            if self._expired or self._detached:
                return
            self._settled(cancellation)
            try:
                staging = self._staged(cancellation, to_upload=False)
            except ObjectChanged:
                self.expire()
                return
            with self._lock:
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

    def expire(self) -> None:
        """The object was replaced in S3: a clean file gives ESTALE from now on."""
        with self._lock:
            if self.dirty or self._detached:
                return
            self._expired = True
            reader = self._reader
        if reader is not None:
            reader.close()

    def adopt(self, entry: Entry, content: Content) -> None:
        """The object is *entry* now, by a copy within S3 that we asked for. Bytes that were
        written meanwhile stay, and are uploaded."""
        with self._change:
            if self._detached or self._expired:
                return
            self._stand_on(entry)
            with self._lock:
                self.content = content
            if self.dirty and self.size:
                self._redescribe()
                return
            with self._lock:
                self.dirty = False
                self.size, self.mtime_ns = entry.size, entry.mtime_ns
                staging, self._staging = self._staging, None
            if staging is not None:
                staging.remove()

    def move(self, bucket: str, key: str, entry: Entry | None) -> None:
        """The file was renamed; *entry* is the copy at its new place, if S3 has one. Bytes
        that S3 does not have go to the new place with the next flush."""
        with self._change:
            with self._lock:
                self.bucket, self.key = bucket, key
            if entry is None and self.entry is not None:
                entry = self.entry._replace(key=key)
            if entry is not None:
                self._stand_on(entry)
            if self.dirty:
                self._redescribe()

    def _redescribe(self) -> None:
        if self._staging is not None:
            self._describe(self._staging)

    def close(self) -> None:
        """The last handle is gone. Bytes that S3 refused stay in the staging directory."""
        with self._change:
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
