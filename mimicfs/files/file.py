"""One open file: what all of its handles share.

A file is *clean*: it stands for a version in S3 and is read from there (reader.py), or from
its staging file if it has one. Or it is *dirty*: its bytes are in a staging file, and S3 does
not have them yet. `flush` makes it clean. A *detached* file was unlinked or replaced while
it was open: it lives on in its staging file and is never uploaded.

Locks: `_change` is held by whoever changes the file or uploads it, also while that waits for
S3: a writer waits for an upload to end, so that no upload is torn. `_lock` protects the
fields and is held for a few instructions; it is taken after `_change`. Readers take only
`_lock`, so reading goes on during an upload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from mimicfs.config import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import MimicError, ObjectChanged, UploadFailed
from mimicfs.files import transfer
from mimicfs.files.journal import Journal, Staging
from mimicfs.files.reader import Budget, Reader
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3, Content


class File:
    """The file s3://bucket/key. *entry* is the version that it stands on; None: S3 has none,
    and the file is dirty from the start. *content* is stored with the next upload."""

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
        self.dirty = entry is None
        self._detached = False
        self._expired = False
        self._staging = journal.stage() if entry is None else None
        self._retired: list[Staging] = []  # somebody may still be reading them
        if self._staging is not None:
            self._staging.describe(bucket, key, "")
        self._reader = self._new_reader(entry)

    @property
    def etag(self) -> str:
        """The version that the file stands on; "" if S3 has none, or gave it no ETag."""
        entry = self.entry
        return entry.etag if entry is not None else ""

    def _new_reader(self, entry: Entry | None) -> Reader | None:
        if entry is None:
            return None
        return Reader(self._s3, self._options, self._budget, self.bucket, entry)

    # Reading

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes; less only at the end. Raises ObjectChanged once the
        version that the file stands on is gone from S3."""
        staging, reader, left = self._source(offset)
        if left <= 0:
            return b""
        if staging is not None:
            return staging.read(offset, min(size, left))
        return reader.read(offset, size, cancellation) if reader is not None else b""

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the same if that needs no waiting, else None."""
        staging, reader, left = self._source(offset)
        if left <= 0:
            return b""
        if staging is not None:
            return staging.read(offset, min(size, left))
        return reader.read_cached(offset, size) if reader is not None else None

    def _source(self, offset: int) -> tuple[Staging | None, Reader | None, int]:
        with self._lock:
            if self._expired:
                raise ObjectChanged(f"s3://{self.bucket}/{self.key}: changed in S3; open it again")
            return self._staging, self._reader, self.size - offset

    # Changing

    def write(self, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at *offset*; return its length. Nothing is sent to S3 yet."""
        with self._change:
            staging = self._staged(cancellation)
            self._make_dirty(staging)
            staging.write(offset, data)
            self._changed(max(self.size, offset + len(data)))
        return len(data)

    def truncate(self, size: int, cancellation: Cancellation) -> None:
        """Cut the file to *size*, or extend it with zeros."""
        with self._change:
            if size == self.size and not self.dirty:
                return
            staging = self._staged(cancellation, keep=size)
            self._make_dirty(staging)
            staging.truncate(size)
            self._changed(size)

    def _make_dirty(self, staging: Staging) -> None:
        """Note on disk, before the first byte is changed, what the bytes are to become."""
        if not (self.dirty or self._detached):
            staging.describe(self.bucket, self.key, self.etag)
            self.dirty = True

    def _changed(self, size: int) -> None:
        with self._lock:
            self.size = size
            self.mtime_ns = time.time_ns()

    def set_meta(self, updates: Mapping[str, str]) -> None:
        """Store *updates* as user metadata with the next upload."""
        with self._lock:
            self.content = self.content._replace(meta={**self.content.meta, **updates})

    def _staged(self, cancellation: Cancellation, keep: int | None = None) -> Staging:
        """Return the staging file; made, it has the first *keep* (None: all) bytes of the
        version in S3. Raises ObjectChanged if that is gone."""
        if self._staging is not None:
            return self._staging
        entry = self.entry
        if entry is None or self._expired:
            raise ObjectChanged(f"s3://{self.bucket}/{self.key}: changed in S3; open it again")
        size = entry.size if keep is None else min(keep, entry.size)
        if size:
            self._learn_content(entry)
        staging = self._journal.stage()
        try:
            transfer.download(
                self._s3, self._options, self.bucket, entry, size, staging, cancellation
            )
        except BaseException:
            staging.remove()
            raise
        with self._lock:
            self._staging = staging
        return staging

    def _learn_content(self, entry: Entry) -> None:
        """Ask what else is stored with an object that is to be changed, so that it is kept.
        (One that is overwritten from its start gets new content, as by a new PUT.)"""
        found, content = self._s3.head(self.bucket, self.key)
        if found.etag != entry.etag:
            raise ObjectChanged(f"s3://{self.bucket}/{self.key}: changed in S3; open it again")
        with self._lock:
            self.content = content._replace(meta={**content.meta, **self.content.meta})

    # To S3

    def flush(self, cancellation: Cancellation) -> None:
        """Upload the file if it is dirty. Returns when S3 has it and the mirror knows.

        Raises UploadFailed, which says where the bytes are kept; the file stays dirty, and
        the next flush tries again. Raises Interrupted; the same holds.
        """
        with self._change:
            staging = self._staging
            if not self.dirty or staging is None:
                return
            try:
                entry = transfer.upload(
                    self._s3,
                    self._options,
                    staging,
                    self.size,
                    self.bucket,
                    self.key,
                    self.content,
                    cancellation,
                )
            except MimicError as exc:
                about = f"s3://{self.bucket}/{self.key} was not uploaded, its bytes are kept in"
                raise UploadFailed(
                    f"{about} {staging.path}: {exc}", errno=exc.errno, kept_at=str(staging.path)
                ) from exc
            self._stand_on(entry)
            staging.settle()

    def _stand_on(self, entry: Entry) -> None:
        reader = self._new_reader(entry)
        with self._lock:
            self.entry, self.dirty = entry, False
            self._reader, old = reader, self._reader
        if old is not None:
            old.close()

    # What happens to the object

    def detach(self, cancellation: Cancellation) -> None:
        """The object is about to be unlinked or replaced: fetch its bytes, and live on."""
        with self._change:
            if self._expired:
                return
            self._staged(cancellation).settle()
            with self._lock:
                self._detached, self.dirty = True, False

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
        """The object is *entry* now, by a copy within S3 that we asked for."""
        with self._change:
            self._stand_on(entry)
            with self._lock:
                self.content = content
                self.size, self.mtime_ns = entry.size, entry.mtime_ns
                if self._staging is not None:
                    self._retired.append(self._staging)
                    self._staging.settle()
                    self._staging = None

    def move(self, bucket: str, key: str, entry: Entry | None) -> None:
        """The file was renamed; *entry* is the copy at its new place."""
        with self._change:
            with self._lock:
                self.bucket, self.key = bucket, key
            if entry is not None:
                self._stand_on(entry)
            if self.dirty and self._staging is not None:
                self._staging.describe(bucket, key, self.etag)

    def close(self) -> None:
        """The last handle is gone. Bytes that S3 refused stay in the staging directory."""
        with self._change:
            with self._lock:
                staging, self._staging = self._staging, None
                reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
            for retired in self._retired:
                retired.remove()
            if staging is not None and self.dirty:
                staging.keep()
            elif staging is not None:
                staging.remove()
