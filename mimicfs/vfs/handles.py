"""Open files: reading and writing through their handles.

The layer below, `closing.py`, says when their bytes go to S3. The one below that, `opening.py`,
says which File a handle has, and how one is opened.

Threading: any method, many threads. `_lock` protects the table and the counts, and is never held
during a request; docs/design.md says which locks are taken within it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, MimicError, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.file import File
from mimicfs.files.halves import KernelWrite
from mimicfs.files.standing import Growth
from mimicfs.posix import Answered, Attr, Cancellation, Opened
from mimicfs.vfs.closing import ClosingFiles
from mimicfs.vfs.copying import ONLY_WHOLE, WholeCopier
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.opening import NOT_READ, WRITES

log = logging.getLogger(__name__)

_RENEWALS_MAX = 100  # how often others may replace an object while an append begins
_PAGE = 4096  # bytes that the kernel takes for read where a write has them all


class Handles(ClosingFiles):
    """The calls on open files."""

    # Opening and closing

    def open(
        self,
        node: Node,
        look: Callable[[Node], Entry],
        flags: int,
        cancellation: Cancellation,
        *,
        only: bool = False,
    ) -> Opened:
        """Open the object of *node*, which the mirror has as *look* says; or share an open file of
        it that S3 does not have, or no longer has. *only*: not what its name stands for by now.
        Raises PosixError ENOENT; ESTALE where the name does not stand for *node*: then the kernel
        looks the name up again, and opens what it finds."""
        opened = self._open_latest(node, look, flags, cancellation, only=only)
        file = self._open[opened.handle].file
        if file is not None and flags & WRITES:
            file.follows = file.follows or self.shares_locks
            with self._lock:
                self._open[opened.handle] = self._open[opened.handle]._replace(writes=True)
        if flags & os.O_TRUNC and flags & WRITES:
            try:
                self.truncate(opened.handle, 0, cancellation)
            except BaseException:
                self.release(opened.handle)
                raise
        return opened

    def _open_latest(
        self,
        node: Node,
        look: Callable[[Node], Entry],
        flags: int,
        cancellation: Cancellation,
        *,
        only: bool,
    ) -> Opened:
        if node.file is not None and node.file.follows:
            self._follow(node.file, cancellation)
        return self._open_now(node, look, flags, cancellation, only=only)

    @contextmanager
    def held(
        self,
        node: Node,
        look: Callable[[Node], Entry],
        cancellation: Cancellation,
        *,
        only: bool = False,
    ) -> Iterator[Node]:
        """Yield the node that *node*, or its name by now (not if *only*), stands for; within, that
        has a file, whatever happens to the name. As the kernel has not opened it, its pages stay as
        they are; and as nobody writes, a reader goes on with the version that it has."""
        opened = self._open_latest(node, look, os.O_WRONLY | NOT_READ, cancellation, only=only)
        try:
            yield self.node(opened.handle)
        finally:
            self.release(opened.handle)

    def close(self) -> None:
        """Upload every changed file that is still open. Raises the first error, after all."""
        self._neighbours.close()
        self._securer.close()
        left = self._behind.close() if self._behind is not None else []
        journal = self._tools.journal
        with self._lock:
            handles = list(self._open.values())
        failed: MimicError | None = None
        if left:
            about = f"S3 does not have {len(left)} closed files yet; the next mount uploads them"
            failed = UploadFailed(about, errno=errno.EIO, kept_at=str(journal.directory))
        for node, file, *_ in handles:
            if file is None:
                continue
            try:
                if file not in left:
                    self._upload(node, file, Cancellation())
            except MimicError as exc:
                failed = failed or exc
            file.close()
        journal.close()
        if failed is not None:
            raise failed

    def pending(self) -> tuple[int, int]:
        """Return how many files, and how many bytes, S3 does not have yet."""
        with self._lock:
            changed = [file for file in self._users if file.dirty]
        return len(changed), sum(file.size for file in changed)

    def has_writers(self) -> bool:
        """Whether something is open for writing: the kernel may have unwritten pages of a
        mapping."""
        with self._lock:
            return any(handle.writes for handle in self._open.values())

    def save_mapped(self) -> bool:
        """Have the kernel write what was stored through mappings; return whether it has."""
        with self._lock:
            nodes = {each.asked or each.node for each in self._open.values() if each.writes}
        return self._kernel.gives_up_pages(nodes)

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
            "read_ahead_bytes": self._tools.budget.used,
            "read_ahead_max": self._tools.budget.limit,
        }

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

    def read(
        self, handle: int, offset: int, size: int, cancellation: Cancellation
    ) -> bytes | memoryview:
        opened = self._handle(handle)
        file, text, reader = opened.file, opened.text, opened.reader
        if reader is not None:
            return reader.read(offset, size, cancellation)
        if file is None:
            return text[offset : offset + size]
        return file.read(offset, size, cancellation, opened.view)

    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        found = self._handle(handle)
        if found.file is not None:
            return found.file.read_cached(offset, size, found.view)
        return None if found.reader is None else found.reader.read_cached(offset, size)

    def read_later(self, handle: int, offset: int, size: int, done: Answered) -> bool:
        """Have the thread that brings the bytes call *done*, as posix.FileSystem says."""
        file = self._handle(handle).file
        coming = file.coming(offset) if file is not None else None
        if coming is None:
            return False
        coming.add_done_callback(lambda each: done(self._come(each, handle, offset, size)))
        return True

    def _come(
        self, coming: Future[None], handle: int, offset: int, size: int
    ) -> bytes | memoryview | Exception | None:
        """Return what *coming* has brought. A thread that cancels it has the lock of the reader."""
        error = None if coming.cancelled() else coming.exception()
        if coming.cancelled() or isinstance(error, ObjectChanged | KeyNotFound):
            return None  # the file may have gone over to another version
        if isinstance(error, Exception):
            return error
        try:
            return self.read_cached(handle, offset, size)
        except Exception as exc:  # noqa: BLE001 - the caller's, whatever it is
            return exc

    def truncate(self, handle: int, size: int, cancellation: Cancellation) -> None:
        file, view = self._writable(handle)
        file.truncate(size, cancellation, view)
        self._changed_by(handle)

    def _changed_by(self, handle: int) -> None:
        """Tell the kernel of a change of bytes by *handle*, where it has opened the same file by
        another inode."""
        found = self._handle(handle)
        if found.node.also:  # hardly ever
            self._kernel.changed_by(found.asked or found.node, found.node)

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
        new, view = self._writable(target)
        if old is None or offset or target_offset or old.size > size or view.outdated:
            raise PosixError(errno.EOPNOTSUPP, ONLY_WHOLE)
        changes = self.departures.change(cancellation, node, self.node(source))
        with changes, self.turn(node, cancellation):
            self.guard(new)
            new.settle(cancellation)  # otherwise S3 may take its bytes after the copy
            entry = WholeCopier(self._s3).copy_whole(old, new, cancellation)
        self._kernel.wrote(node, entry.etag)
        self._changed_by(target)
        return entry.size

    def allocate(self, handle: int, offset: int, size: int, cancellation: Cancellation) -> None:
        """Extend the file so that it reaches to *offset* + *size*."""
        file, view = self._writable(handle)
        file.truncate(offset + size, cancellation, view, extend=True)
        self._changed_by(handle)

    def zero(self, handle: int, offset: int, size: int, cancellation: Cancellation) -> None:
        """Overwrite with zeros what the file has from *offset* to *offset* + *size*."""
        file, view = self._writable(handle)
        file.zero(offset, offset + size, cancellation, view)
        self._changed_by(handle)

    def write(self, handle: int, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        try:
            file, view = self._writable(handle)
            written = file.write(offset, data, cancellation, view)
            self._wrote_beside(handle, file, cancellation.since_s)
            return written
        except PosixError as exc:
            if exc.errno == errno.ENOSPC:  # the writer is not told which disk is meant
                log.warning("%s", exc)
            raise

    def write_at_once(self, handle: int, offset: int, data: memoryview) -> bool:
        """Write *data* if that waits for nobody; return whether it is written."""
        node, file, view, *_ = self._handle(handle)
        if file is None or node.also or file.was_dropped(time.monotonic()):
            return False
        return file.write_at_once(offset, data, view)

    def append(self, handle: int, offset: int, data: memoryview, cancellation: Cancellation) -> int:
        """Write *data* at the end of the file, which the kernel believes to be at *offset*."""
        file, view = self._writable(handle)
        sent = KernelWrite(self._asked(handle).ino, handle, offset)
        before = file
        if offset != file.size and file.shown:  # it has put *data* over bytes of others in its page
            self._kernel.drops([self._asked(handle)], writing=True, waits=False)
        for _ in range(_RENEWALS_MAX):
            try:
                at = file.append(data, cancellation, view, sent)
                break
            except ObjectChanged:
                file = self._renewed(handle, cancellation)
        else:
            raise ObjectChanged(f"s3://{file.bucket}/{file.key}: it keeps changing")
        growth = file.growth  # before `shown`: a READ that begins later ends with it
        if at != offset or file is not before:
            shown, file.shown = file.shown, False
            file.dropped_again()
            self._went_elsewhere(handle, file, growth, may_be_read=shown or len(data) >= _PAGE)
        else:
            self._wrote_beside(handle, file, cancellation.since_s)
        return len(data)

    def _wrote_beside(self, handle: int, file: File, since_s: float) -> None:
        """Tell the kernel of what it has just written by *handle*, where its pages may not show
        that: those of another inode; and those that it was told to drop meanwhile. It puts the
        bytes into its pages before it sends the WRITE, which came here at *since_s*. If the pages
        go in between, and a READ fills them with what was there before, they show zeros, or old
        bytes, for what was written."""
        self._changed_by(handle)
        if file.was_dropped(since_s):
            file.dropped_again()
            self._kernel.drops_again(self._opened_as(file))

    def _went_elsewhere(
        self, handle: int, file: File, growth: Growth | None, *, may_be_read: bool
    ) -> None:
        """Tell the kernel that what was appended to *file* by *handle* is not where it has put
        that, or not behind the bytes that it has: these ended before *growth*. *may_be_read*: it
        may have pages of these that can be read without asking us."""
        nodes, own = self._opened_as(file), self._asked(handle)
        if may_be_read:
            self._kernel.drops(nodes, writing=True)
        else:
            late = {each for each in nodes - {own} if growth and not growth.had_dropped(each.ino)}
            if late:
                self._kernel.drops(late, writing=True, waits=False)
            for node in nodes - late:
                self._kernel.grew(node)
                file.caught_up(node.ino, growth)
        file.caught_up(own.ino, growth)  # its page may be locked until the answer

    @staticmethod
    def sized(node: Node, attr: Attr) -> Attr:
        """Return *attr*, of *node*, with the size that its open file has now: the kernel takes that
        of the answer to a SETATTR even if it was told of a change since it asked."""
        file = node.file
        return attr if file is None else attr._replace(size=file.size)

    def told(self, node: Node, attr: Attr) -> Attr:
        """Return *attr*, of *node*, which the kernel is told next. If it has pages that end before
        that size, or the open file has another one by now, it is not to take that."""
        file = node.file
        if file is not None and (attr.size != file.size or file.is_behind(node.ino)):
            self._kernel.keeps_size(node)
        return attr
