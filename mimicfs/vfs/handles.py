"""Open files: which handle reads and writes which File, and when bytes go to S3.

All handles of one inode share one File, so that writers see each other. When the object was
replaced behind our back, handles that were open keep their version (or get ESTALE); a new
open gets a new File.

Threading: any method, many threads. `_lock` protects the table and the counts; it is taken
before no other lock and never held during a request.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import Difference, Entry
from mimicfs.errors import KeyNotFound, MimicError, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.cache import BlockCache
from mimicfs.files.file import File
from mimicfs.files.journal import Journal
from mimicfs.files.reader import Budget, Reader
from mimicfs.mimicdb import MimicDB
from mimicfs.posix import Cancellation, Opened
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.kept import successor
from mimicfs.vfs.inodes import Inodes, Node
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.neighbours import Neighbours
from mimicfs.vfs.writeback import Pending, WriteBack

log = logging.getLogger(__name__)

_WRITES = os.O_WRONLY | os.O_RDWR
_RENEWALS_MAX = 100  # so often may others replace an object while an append begins
_ZEROS = memoryview(bytes(1 << 20))


class Handle(NamedTuple):
    node: Node
    file: File | None  # None: the control file
    text: bytes = b""  # what the control file reads as


class Handles:
    def __init__(
        self,
        mimicdb: MimicDB,
        s3: S3,
        journal: Journal,
        inodes: Inodes,
        kernel: Kernel,
        options: FileOptions,
        cache: BlockCache | None = None,
    ) -> None:
        self._s3 = s3
        self._journal = journal
        self._inodes = inodes
        self._kernel = kernel
        self._options = options
        self._budget = Budget(options.read_memory, cache)
        self._neighbours = Neighbours(mimicdb, self._reader, s3.pool.submit)
        self._behind: WriteBack | None = None
        if options.write_back:
            self._behind = WriteBack(self._upload_behind, options.requests_per_file)
        self._lock = threading.Lock()  # protects the three below, and Node.file
        self._open: dict[int, Handle] = {}
        self._users: dict[File, int] = {}
        self._last = 0

    # Opening and closing

    def open(self, node: Node, entry: Entry, flags: int, cancellation: Cancellation) -> Opened:
        """Open the object *entry*. *flags* are those of open(2). Raises PosixError ESTALE where
        *node* is open as another version: then the kernel looks the name up again, and opens
        what it finds."""
        keep_cache = self._kernel.has_pages(node, entry)
        read = not flags & _WRITES and not keep_cache
        reader = self._neighbours.opened(node, entry) if read else None
        with self._lock:
            file = node.file
            if file is not None and not (file.dirty or file.etag == entry.etag):
                if reader is not None:
                    reader.close()
                file.expire()
                self._kernel.replaced(node)
                raise PosixError(errno.ESTALE, f"{entry.key}: the name stands for a new version")
            if file is None:
                content = Content(metadata.content_type(node.component), entry.meta or {})
                file = node.file = self._file(node, entry, content, reader)
            elif reader is not None:
                reader.close()
            handle = self._add(node, file)
            keep_cache = self._kernel.has_pages(node, entry)
            self._kernel.reads(node, entry)
        if flags & os.O_TRUNC and flags & _WRITES:
            try:
                file.truncate(0, cancellation)
            except BaseException:
                self.release(handle)
                raise
        return Opened(handle, keep_cache, quiet=not flags & _WRITES)

    def create(
        self, node: Node, content: Content, *, absent: bool, exclusive: bool = False
    ) -> Opened:
        """Open a file that S3 does not have yet. *absent*: nor must it have one when the file
        is uploaded."""
        with self._lock:
            node.file = self._file(node, None, content, absent=absent, exclusive=exclusive)
            return Opened(self._add(node, node.file))

    def open_again(self, node: Node, flags: int, cancellation: Cancellation) -> Opened:
        """Open once more a file that S3 does not have yet, or not any more. Raises PosixError
        ESTALE where that is because of what others did."""
        with self._lock:
            file = node.file
            if file is None:  # it was closed, and its upload failed, a moment ago
                raise PosixError(errno.ENOENT, f"s3://{node.bucket}/{node.key}")
            if file.expired:
                raise PosixError(errno.ESTALE, f"s3://{file.bucket}/{file.key}")
            handle = self._add(node, file)
        if flags & os.O_TRUNC and flags & _WRITES:
            file.truncate(0, cancellation)
        return Opened(handle, keep_cache=True)

    def open_control(self, node: Node, text: bytes) -> Opened:
        with self._lock:
            return Opened(self._add(node, None, text), direct=True)

    def release(self, handle: int) -> None:
        """Close one handle; with the last one of a File, the File."""
        self._upload_last(handle)
        with self._lock:
            node, file, _ = self._open.pop(handle)
            last = file is not None and self._leave(file)
            if last and node.file is file:
                node.file = None
        if file is not None and last:
            self._close(node, file)
        self._inodes.closed(node)

    def close(self) -> None:
        """Upload every changed file that is still open. Raises the first error, after all."""
        self._neighbours.close()
        left = self._behind.close() if self._behind is not None else []
        with self._lock:
            handles = list(self._open.values())
        failed: MimicError | None = None
        if left:
            about = f"S3 does not have {len(left)} closed files yet: the next mount uploads them"
            failed = UploadFailed(about, errno=errno.EIO, kept_at=str(self._journal.directory))
        for node, file, _ in handles:
            if file is None:
                continue
            try:
                if file not in left:
                    self._upload(node, file, Cancellation())
            except MimicError as exc:
                failed = failed or exc
            file.close()
        if failed is not None:
            raise failed

    def pending(self) -> tuple[int, int]:
        """Return how many files, and how many bytes, S3 does not have yet."""
        with self._lock:
            changed = [file for file in self._users if file.dirty]
        return len(changed), sum(file.size for file in changed)

    def figures(self) -> dict[str, int]:
        """Return how much is open, and of how many files S3 does not have what was written."""
        with self._lock:
            handles = len(self._open)
            files = list(self._users)
        unsaved = [file for file in files if file.dirty]
        return {
            "handles": handles,
            "open": len(files),
            "unsaved": len(unsaved),
            "unsaved_bytes": sum(file.size for file in unsaved),
            "read_ahead_bytes": self._budget.used,
            "read_ahead_max": self._budget.limit,
        }

    def _reader(self, bucket: str, entry: Entry) -> Reader:
        return Reader(self._s3, self._options, self._budget, bucket, entry)

    def _file(
        self,
        node: Node,
        entry: Entry | None,
        content: Content,
        reader: Reader | None = None,
        *,
        absent: bool = False,
        exclusive: bool = False,
    ) -> File:
        key = entry.key if entry is not None else node.key
        parts = (self._s3, self._journal, self._options, self._budget, node.bucket, key)
        return File(*parts, entry, content, reader, absent=absent, exclusive=exclusive)

    def _add(self, node: Node, file: File | None, text: bytes = b"") -> int:
        self._last += 1
        self._open[self._last] = Handle(node, file, text)
        if file is not None:
            self._users[file] = self._users.get(file, 0) + 1
        self._inodes.opened(node)
        return self._last

    def _leave(self, file: File) -> bool:
        self._users[file] -= 1
        if self._users[file]:
            return False
        del self._users[file]
        return True

    def _upload_last(self, handle: int) -> None:
        """Upload what was changed since its last descriptor was closed: through a mapping, which
        outlives it. Nobody is there to be told that it failed, but for the log."""
        node, file, _ = self._handle(handle)
        if file is None or not file.dirty or file.refused:
            return
        with self._lock:
            last = self._users[file] == 1
        if last:
            try:
                self._finish(node, file)
            except MimicError as exc:
                log.debug("%s", exc)  # it is in the log

    def _close(self, node: Node, file: File) -> None:
        refused = file.dirty
        file.close()
        if refused:
            self._kernel.refused(node)  # it is kept as a recovery file

    def unsaved(self, directory: Node) -> list[str]:
        """Return the names of the files in *directory* that S3 does not have yet."""
        with self._lock:
            found = {
                node.component: None
                for node, file, _ in self._open.values()
                if node.parent is directory and file is not None and file is node.file
                if file.entry is None
            }
        return list(found)

    # Bytes

    def file(self, handle: int) -> File | None:
        """Return the File of *handle*; None for the control file."""
        return self._handle(handle).file

    def node(self, handle: int) -> Node:
        return self._handle(handle).node

    def read(
        self, handle: int, offset: int, size: int, cancellation: Cancellation
    ) -> bytes | memoryview:
        _, file, text = self._handle(handle)
        if file is None:
            return text[offset : offset + size]
        return file.read(offset, size, cancellation)

    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        file = self._handle(handle).file
        return None if file is None else file.read_cached(offset, size)

    def flush(self, handle: int, cancellation: Cancellation) -> None:
        """Upload what was written. Returns when S3 has it and the mirror knows."""
        node, file, _ = self._handle(handle)
        if file is not None:
            self._upload(node, file, cancellation)

    def closed_by(self, handle: int, pid: int) -> None:
        """Process *pid* closed a descriptor: upload what was written, or see to it that it is
        uploaded.

        A shell opens `> file` and closes that once it is its standard output: nothing is
        written yet, and there is another descriptor. An empty object that is replaced a
        moment later is not worth a PUT.
        """
        node, file, _ = self._handle(handle)
        if file is None or (file.size == 0 and file.dirty and _has_open(pid, node.ino)):
            return
        self._finish(node, file)

    def _finish(self, node: Node, file: File) -> None:
        # Not interruptible: a process that is killed has its files closed as on any disk.
        if self._behind is None or file.lost is not None:
            self._upload(node, file, Cancellation())
        elif file.dirty:
            file.secure()
            self._behind.add(file, lambda: self._hold(node, file))

    def _hold(self, node: Node, file: File) -> Callable[[], None]:
        with self._lock:
            handle = self._add(node, file)
        return lambda: self.release(handle)

    def _upload_behind(self, file: File, cancellation: Cancellation) -> None:
        with self._lock:
            node = next(node for node, each, _ in self._open.values() if each is file)
        self._upload(node, file, cancellation, behind=True)

    def queued(self) -> list[Pending]:
        """Return the closed files that S3 does not have yet (--write-back)."""
        return self._behind.pending() if self._behind is not None else []

    def flush_node(self, node: Node, cancellation: Cancellation) -> None:
        """The same for whatever is open of *node*."""
        if node.file is not None:
            self._upload(node, node.file, cancellation)

    def _upload(
        self, node: Node, file: File, cancellation: Cancellation, *, behind: bool = False
    ) -> None:
        if file.lost is not None:
            file.flush(cancellation)  # says so
        if not file.dirty:
            return
        try:
            file.flush(cancellation, behind=behind)
        except UploadFailed as exc:  # the caller is told an errno only; here is where and why
            if not behind or file.lost is not None:
                log.error("%s", exc)
            if file.lost is not None:
                self._kernel.replaced(node)
            raise
        if not file.dirty:
            self._kernel.wrote(node, file.etag)
            if node.parent is None and not file.apart:
                # The name stands for another node by now, of which the kernel knows more.
                self._kernel.changed(file.bucket, Difference([], [file.key], [], 0))

    def truncate(self, handle: int, size: int, cancellation: Cancellation) -> None:
        self._writable(handle).truncate(size, cancellation)

    def copy_whole(
        self,
        source: int,
        offset: int,
        target: int,
        target_offset: int,
        size: int,
        cancellation: Cancellation,
    ) -> int:
        """Copy a whole object onto an empty file within S3, where that is what is asked;
        return how many bytes. Raises PosixError EOPNOTSUPP for anything else: then the kernel
        reads and writes."""
        node = self.node(target)
        old, new = self._writable(source), self._writable(target)
        whole = offset == target_offset == new.size == 0 and old.size <= size
        whole = whole and not (old.apart or new.apart)
        if not whole or not old.size or old.dirty or old.entry is None or old is new:
            raise PosixError(errno.EOPNOTSUPP, "only whole objects are copied by S3")
        if new.entry is None:
            self._s3_has_none(new, cancellation)
        entry, content = cancellation.wait(self._s3.pool.submit(self._copied, old, old.entry, new))
        new.adopt(entry, content)
        self._kernel.wrote(node, entry.etag)
        return entry.size

    def _copied(self, old: File, source: Entry, new: File) -> tuple[Entry, Content]:
        """Copy the version *source* onto *new*, which keeps what is stored with it."""
        own = self._s3.kept.remembered(old.bucket, source)
        own = own or self._s3.kept.of(old.bucket, source.key)[1]
        own = own._replace(meta=metadata.without_ours(own.meta))
        replaced = new.content if new.entry is not None else None
        content = successor(own, _name(old.key), _name(new.key), replaced)
        posix = {**new.content.meta, **metadata.written(mtime_ns=new.mtime_ns)}
        content = content._replace(meta={**content.meta, **posix})
        return self._s3.copy((old.bucket, source), new.bucket, new.key, content), content

    def _s3_has_none(self, file: File, cancellation: Cancellation) -> None:
        """Raise PosixError EOPNOTSUPP if S3 has what the mirror does not: a copy replaces it, and
        an upload knows whether it may."""
        condition = Condition(absent=True)
        check = self._s3.pool.submit(self._s3.conditions.check, file.bucket, file.key, condition)
        try:
            cancellation.wait(check)
        except PosixError as exc:
            raise PosixError(errno.EOPNOTSUPP, f"s3://{file.bucket}/{file.key} exists") from exc

    def allocate(self, handle: int, offset: int, size: int, cancellation: Cancellation) -> None:
        """Extend the file so that it reaches to *offset* + *size*."""
        file = self._writable(handle)
        if file.size < offset + size:
            file.truncate(offset + size, cancellation)

    def zero(self, handle: int, offset: int, size: int, cancellation: Cancellation) -> None:
        """Overwrite with zeros what the file has from *offset* to *offset* + *size*."""
        file = self._writable(handle)
        end = min(offset + size, file.size)
        while offset < end:
            cancellation.check()
            offset += file.write(offset, _ZEROS[: end - offset], cancellation)

    def write(self, handle: int, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        try:
            return self._writable(handle).write(offset, data, cancellation)
        except PosixError as exc:
            if exc.errno == errno.ENOSPC:  # the writer is not told which disk is meant
                log.warning("%s", exc)
            raise

    def append(self, handle: int, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at the end of the file. *offset*: where the kernel believes that to be."""
        node, file = self._handle(handle).node, self._writable(handle)
        for _ in range(_RENEWALS_MAX):
            try:
                at = file.append(data, cancellation)
                break
            except ObjectChanged:
                file = self._renewed(handle, cancellation)
        else:
            raise ObjectChanged(f"s3://{file.bucket}/{file.key}: changed again and again")
        if at != offset:
            self._kernel.grew(node)
        return len(data)

    def _renewed(self, handle: int, cancellation: Cancellation) -> File:
        """Somebody has replaced the object of *handle*, which is to be appended to. Return a File
        of what S3 has now, which *handle* has from now on. Raises ObjectChanged where S3 has
        none, or where bytes were written that cannot go behind another version."""
        node, old, _ = self._handle(handle)
        if old is None or old.dirty or old.lost is not None:
            raise ObjectChanged.since_opened(f"s3://{node.bucket}/{node.key}")
        try:
            head = self._s3.pool.submit(self._s3.head, old.bucket, old.key)
            entry, content = cancellation.wait(head)
        except KeyNotFound as exc:
            raise ObjectChanged(f"s3://{old.bucket}/{old.key}: deleted in S3") from exc
        new = self._file(node, entry, content)
        with self._lock:
            self._open[handle] = Handle(node, new)
            self._users[new] = 1
            last = self._leave(old)
            if last and node.file is old:
                node.file = new
        if last:
            old.close()
        return new

    def _writable(self, handle: int) -> File:
        file = self._handle(handle).file
        if file is None:
            raise PosixError(errno.EINVAL, "the control file")
        return file

    def _handle(self, handle: int) -> Handle:
        found = self._open.get(handle)
        if found is None:
            raise PosixError(errno.EBADF, f"handle {handle}")
        return found


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _has_open(pid: int, ino: int) -> bool:
    """Whether process *pid* has a descriptor of inode *ino*; False where it cannot be seen.

    Asks /proc only: a stat of the file itself would come back to us.
    """
    line = f"ino:\t{ino}\n".encode()
    try:
        return any(line in path.read_bytes() for path in Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:
        return False
