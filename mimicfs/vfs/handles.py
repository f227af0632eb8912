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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mimicfs import metadata
from mimicfs.config.values import FileOptions
from mimicfs.entry import OBJECT, Difference, Entry
from mimicfs.errors import KeyNotFound, MimicError, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.cache import BlockCache
from mimicfs.files.file import File
from mimicfs.files.journal import Journal
from mimicfs.files.reader import Budget, Reader
from mimicfs.files.turn import Turn
from mimicfs.mimicdb import Mirror
from mimicfs.posix import NEVER, Cancellation, Opened
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.kept import successor
from mimicfs.vfs.inodes import Inodes, Node, NodeKind
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.neighbours import Neighbours
from mimicfs.vfs.writeback import Pending, WriteBack

log = logging.getLogger(__name__)

_WRITES = os.O_WRONLY | os.O_RDWR
_RENEWALS_MAX = 100  # so often may others replace an object while an append begins


class Handle(NamedTuple):
    node: Node
    file: File | None  # None: what is never written
    text: bytes = b""  # what the control file reads as
    reader: Reader | None = None  # of a version
    asked: Node | None = None  # what the kernel has opened, where the name stands for *node* now


class Handles:
    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        journal: Journal,
        inodes: Inodes,
        kernel: Kernel,
        options: FileOptions,
        cache: BlockCache | None = None,
    ) -> None:
        self._mimicdb = mimicdb
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

    def open(
        self, node: Node, look: Callable[[Node], Entry], flags: int, cancellation: Cancellation
    ) -> Opened:
        """Open the object of *node*, which the mirror has as *look* says; or share what is open
        of it and S3 does not have, or not any more. Raises PosixError ENOENT; ESTALE where
        *node* is not what its name stands for: then the kernel looks the name up again, and
        opens what it finds."""
        opened = None
        while opened is None:
            self._wait_until_left(node, cancellation)
            with self._standing(node) as stands:
                opened = self._open_standing(node, stands, look, flags, cancellation)
        if flags & os.O_TRUNC and flags & _WRITES:
            try:
                self._writable(opened.handle).truncate(0, cancellation)
            except BaseException:
                self.release(opened.handle)
                raise
        return opened

    def _open_standing(
        self,
        node: Node,
        stands: Node,
        look: Callable[[Node], Entry],
        flags: int,
        cancellation: Cancellation,
    ) -> Opened | None:
        """Open *stands* for who asks for *node*; None: it has changed since it was looked up."""
        self._wait_until_left(stands, cancellation)
        own = stands.file is not None and stands.file.entry is None
        try:
            entry = None if own or stands.parent is None else look(stands)
        except PosixError:
            if stands.leaving or stands.parent is None:
                return None
            raise
        opened = self._open_known(stands, entry, flags)
        if opened is not None and stands is not node:
            self._also(node, opened.handle)
        return opened

    @contextmanager
    def _standing(self, node: Node) -> Iterator[Node]:
        """Yield what the name of *node* stands for, where this mount has just replaced it: the
        kernel looked the name up a moment before. *node* itself in all other cases."""
        if node.parent is not None or node.former is None or node.file is not None:
            yield self._opened_for(node)
            return
        parent, component = node.former
        known = self._inodes.find(parent, component)
        entry = self._mimicdb.entry(parent.bucket, parent.key + component)
        there = entry is not None and entry.kind == OBJECT
        if not there and (known is None or known.file is None):
            yield node
            return
        stands = self._inodes.child(parent, component, NodeKind.OBJECT, hold=True)
        try:
            yield stands
        finally:
            self._inodes.forget(stands.ino, 1)

    def _is_asked(self, asked: Node) -> bool:
        """Whether a handle is open that the kernel has got for *asked*."""
        return any(each.asked is asked for each in self._open.values())

    def _also(self, asked: Node, handle: int) -> None:
        """*handle* is what the kernel gets when it opens *asked*."""
        with self._lock:
            self._open[handle] = self._open[handle]._replace(asked=asked)
            asked.file = asked.file or self._open[handle].file
        self._kernel.grew(asked)

    def _opened_for(self, asked: Node) -> Node:
        """Return what is open where the kernel has opened *asked*: that, or what its name stood
        for by then."""
        if asked.parent is not None or asked.file is None:
            return asked
        with self._lock:
            handles = self._open.values()
            others = (each.node for each in handles if each.asked is asked)
            return next((node for node in others if node.file is asked.file), asked)

    def _wait_until_left(self, node: Node, cancellation: Cancellation) -> None:
        while node.leaving:
            with self.turn(node, cancellation):
                pass

    def _open_known(self, node: Node, entry: Entry | None, flags: int) -> Opened | None:
        """Open *node*, whose version in S3 is *entry*; None: it has changed since that was
        looked up."""
        keep_cache = entry is not None and self._kernel.has_pages(node, entry)
        read = entry is not None and not flags & _WRITES and not keep_cache
        reader = self._neighbours.opened(node, entry) if entry is not None and read else None
        with self._lock:
            opened = self._shared(node, entry, flags)
            if opened is not None or entry is None or node.file is not None or node.leaving:
                if reader is not None:
                    reader.close()
                return opened
            content = Content(metadata.content_type(node.component), entry.meta or {})
            node.file = self._file(node, entry, content, reader)
            return self._opened(node, node.file, entry, flags)

    def _shared(self, node: Node, entry: Entry | None, flags: int) -> Opened | None:
        """Open the File that *node* has; None if it has none, or not of *entry*."""
        if node.file is not None and node.file not in self._users:
            node.file = None  # it is being closed
        file = node.file
        if node.leaving or (file is None and node.parent is not None):
            return None
        if file is None:
            return self._nameless(node, flags)
        if file.expired:
            raise PosixError(errno.ESTALE, f"s3://{file.bucket}/{file.key}")
        if file.entry is None or node.parent is None:
            return Opened(self._add(node, file), keep_cache=True)
        if entry is not None and (file.dirty or file.etag == entry.etag):
            return self._opened(node, file, entry, flags)
        known = self._mimicdb.entry(node.bucket, file.key)
        if entry is not None and known is not None and known.etag == entry.etag:
            self._outdated(node, file, entry)
        return None  # or it was uploaded since the mirror was asked

    def _outdated(self, node: Node, file: File, entry: Entry) -> None:
        """The mirror has *entry*, another version than *file* stands on."""
        if file.follow(entry):
            self._kernel.followed(node, file)
            return
        file.expire()
        self._kernel.replaced(node)
        raise PosixError(errno.ESTALE, f"{entry.key}: the name stands for a new version")

    def _nameless(self, node: Node, flags: int) -> Opened:
        """Open what this mount unlinked just before. Nobody can find it any more: a writer who
        cannot see what it had writes to an empty file."""
        if node.former is None:
            raise PosixError(errno.ESTALE, "the name stands for another file by now")
        if not flags & _WRITES or not (flags & os.O_TRUNC or not flags & os.O_RDWR):
            raise PosixError(errno.ENOENT, f"s3://{node.bucket}: {node.component!r}")
        content = Content(metadata.content_type(node.component))
        file = node.file = self._file(node, None, content)
        file.detach(NEVER)
        return Opened(self._add(node, file), keep_cache=True)

    def _opened(self, node: Node, file: File, entry: Entry, flags: int) -> Opened:
        handle = self._add(node, file)
        keep_cache = self._kernel.has_pages(node, entry)
        if keep_cache:
            file.hand_out()
        self._kernel.reads(node, entry)
        return Opened(handle, keep_cache, quiet=not flags & _WRITES)

    def create(
        self, node: Node, content: Content, *, absent: bool, exclusive: bool = False
    ) -> Opened:
        """Open a file that S3 does not have yet. *absent*: nor must it have one when the file
        is uploaded. *exclusive*: not even appends may go behind what is there."""
        with self._lock:
            node.file = self._file(node, None, content, absent=absent, exclusive=exclusive)
            return Opened(self._add(node, node.file))

    @contextmanager
    def held(
        self, node: Node, look: Callable[[Node], Entry], cancellation: Cancellation
    ) -> Iterator[Node]:
        """Yield what *node*, or its name by now, stands for; within, it has a file, whatever
        happens to the name. The kernel has not opened it: its pages are what they are."""
        pages = node.pages_etag
        opened = self.open(node, look, os.O_WRONLY, cancellation)
        node.pages_etag = pages
        try:
            yield self.node(opened.handle)
        finally:
            self.release(opened.handle)

    # Taking turns

    @contextmanager
    def turn(self, node: Node, cancellation: Cancellation) -> Iterator[None]:
        """Within, nobody else in this mount uploads, copies or deletes the object of *node*. An
        upload that nobody waits for gives way. Raises Interrupted."""
        with self._lock:
            turn = node.turn = node.turn or Turn()
        if node.file is not None:
            node.file.interrupt()
        with turn.taken(cancellation):
            yield

    @contextmanager
    def moving(self, node: Node, cancellation: Cancellation) -> Iterator[None]:
        """Within, *node* gets another name, and no file of it is opened."""
        with self.turn(node, cancellation):
            with self._lock:
                node.leaving = True
            try:
                yield
            finally:
                node.leaving = False

    @contextmanager
    def leaving(self, node: Node, cancellation: Cancellation) -> Iterator[File | None]:
        """Within, the object of *node* goes, and no file of it is opened. Whoever has it open
        goes on with a local copy; yields that. Where it does not go, it is written on."""
        with self.moving(node, cancellation):
            with self._lock:
                file, parent, component = node.file, node.parent, node.component
            try:
                if file is not None:
                    file.detach(cancellation)
                yield file
                node.former = (parent, component) if parent is not None else None
                self._inodes.unlink(node)
            except BaseException:
                if file is not None:
                    file.attach()
                raise

    def open_control(self, node: Node, text: bytes) -> Opened:
        with self._lock:
            return Opened(self._add(node, None, text), direct=True)

    def open_version(self, node: Node, entry: Entry, version: str) -> Opened:
        """Open the version with the id *version*, which is *entry*."""
        parts = (self._s3, self._options, self._budget)
        reader = Reader(*parts, node.bucket, entry, version)
        with self._lock:
            handle = self._add(node, None)
            self._open[handle] = self._open[handle]._replace(reader=reader)
        # The version "null" can be another one in the same second, with the same name.
        return Opened(handle, keep_cache=version != "null", quiet=True)

    def release(self, handle: int) -> None:
        """Close one handle; with the last one of a File, the File."""
        self._upload_last(handle)
        with self._lock:
            node, file, _, reader, asked = self._open.pop(handle)
            if asked is not None and asked.file is file and not self._is_asked(asked):
                asked.file = None
            last = file is not None and self._leave(file)
            if last and node.file is file:
                node.file = None
        if file is not None and last:
            self._close(node, file)
        if file is not None and file.shrunk:
            self._kernel.attributes_changed(node)
        if reader is not None:
            reader.close()
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
        for node, file, *_ in handles:
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
        node, file, *_ = self._handle(handle)
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
                for node, file, *_ in self._open.values()
                if node.parent is directory and file is not None and file is node.file
                if file.entry is None
            }
        return list(found)

    # Bytes

    def file(self, handle: int) -> File | None:
        """Return the File of *handle*; None for what is never written."""
        return self._handle(handle).file

    def node(self, handle: int) -> Node:
        return self._handle(handle).node

    def read(
        self, handle: int, offset: int, size: int, cancellation: Cancellation
    ) -> bytes | memoryview:
        _, file, text, reader, _ = self._handle(handle)
        if reader is not None:
            return reader.read(offset, size, cancellation)
        if file is None:
            return text[offset : offset + size]
        return file.read(offset, size, cancellation)

    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        found = self._handle(handle)
        source = found.file or found.reader
        return None if source is None else source.read_cached(offset, size)

    def flush(self, handle: int, cancellation: Cancellation) -> None:
        """Upload what was written. Returns when S3 has it and the mirror knows."""
        node, file, *_ = self._handle(handle)
        if file is not None:
            self._upload(node, file, cancellation)

    def closed_by(self, handle: int, pid: int) -> None:
        """Process *pid* closed a descriptor: upload what was written, or see to it that it is
        uploaded.

        A shell opens `> file` and closes that once it is its standard output: nothing is
        written yet, and there is another descriptor. An empty object that is replaced a
        moment later is not worth a PUT.
        """
        node, file, *_ = self._handle(handle)
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
        """Hold *file* open; return what lets it go, once, however often it is called."""
        with self._lock:
            handle = self._add(node, file)

        def let_go() -> None:
            with self._lock:
                held = handle in self._open
            if held:
                self.release(handle)

        return let_go

    def _upload_behind(self, file: File, cancellation: Cancellation) -> None:
        with self._lock:
            node = next(node for node, each, *_ in self._open.values() if each is file)
        self._upload(node, file, cancellation, behind=True)

    def queued(self) -> list[Pending]:
        """Return the closed files that S3 does not have yet (--write-back)."""
        return self._behind.pending() if self._behind is not None else []

    def flush_node(self, node: Node, cancellation: Cancellation) -> None:
        """The same for whatever is open of *node*."""
        file = node.file
        if file is not None:
            self._upload(node, file, cancellation)

    def _upload(
        self, node: Node, file: File, cancellation: Cancellation, *, behind: bool = False
    ) -> None:
        if file.lost is not None:
            file.flush(cancellation)  # says so
        if not file.dirty:
            return
        try:
            with self.turn(node, cancellation):
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
        node, old = self.node(target), self.file(source)
        if old is None:
            raise PosixError(errno.EOPNOTSUPP, "no object")
        new = self._writable(target)
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
        self._writable(handle).zero(offset, offset + size, cancellation)

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
        node, old, *_ = self._handle(handle)
        if old is None or old.dirty or old.lost is not None:
            raise ObjectChanged.since_opened(f"s3://{node.bucket}/{node.key}")
        try:
            head = self._s3.pool.submit(self._s3.head, old.bucket, old.key)
            entry, content = cancellation.wait(head)
        except KeyNotFound as exc:
            raise ObjectChanged(f"s3://{old.bucket}/{old.key}: deleted in S3") from exc
        new = self._file(node, entry, content)
        with self._lock:
            self._open[handle] = self._open[handle]._replace(file=new)
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
            raise PosixError(errno.EINVAL, "never written")
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
