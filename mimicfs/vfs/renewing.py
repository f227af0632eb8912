"""Open files whose object others have replaced: their handles go on with what S3 has now.

An append goes behind the newest version, and a program that gets a lock sees what was written under
it before. Every other handle stays with its version, and gets ESTALE once that is gone.

Threading: as opening.py says; `_give_over` is called with `_lock` held.
"""

from __future__ import annotations

from mimicfs import metadata
from mimicfs.entry import OBJECT
from mimicfs.errors import KeyNotFound, ObjectChanged
from mimicfs.files.file import File
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.opening import OpenFiles


class RenewedFiles(OpenFiles):
    """The open files, some of which go on with another version of their object."""

    def renew(self, handle: int, cancellation: Cancellation) -> None:
        """Renew the file of *handle*, whose holder has locked it and must see what its name stands
        for now: all handles of the file go on with that, unless something was written."""
        node, file, *_ = self._handle(handle)
        if file is None:
            return
        file.follows = True
        if file.expired:
            entry = self._mimicdb.entry(file.bucket, file.key)
            if file.lost is not None or entry is None or entry.kind != OBJECT:
                return
            content = Content(metadata.content_type(node.component), entry.meta or {})
            self._replace(file, self._file(node, entry, content))
            file, _ = self._writable(handle)
        self._follow(file, cancellation)
        self._handle(handle).view.renewed()

    def forsake(self, handle: int) -> None:
        """Give up the file of *handle*, whose lock is lost: written bytes no longer go to S3, and
        nobody reads on in it (ESTALE). Waits for an upload that has begun."""
        node, file, *_ = self._handle(handle)
        if file is not None:
            file.forsake()
            self._kernel.replaced(node)
            self._kernel.grew(node)

    def _renewed(self, handle: int, cancellation: Cancellation) -> File:
        """Renew *handle* for an append, after somebody has replaced its object. Return the File of
        the version that S3 has now. *handle* has that from now on, and so have the other handles of
        its inode that append. Raises ObjectChanged where S3 has none, or where bytes were written
        that cannot go behind another version."""
        node, old, *_ = self._handle(handle)
        if old is None or old.dirty or old.lost is not None:
            raise ObjectChanged.since_opened(f"s3://{node.bucket}/{node.key}")
        try:
            head = self._s3.pool.submit(self._s3.head, old.bucket, old.key)
            entry, content = cancellation.wait(head)
        except KeyNotFound as exc:
            raise ObjectChanged.deleted(f"s3://{old.bucket}/{old.key}") from exc
        with self._lock:
            if self._handle(handle).file is not old:  # another thread has come here before
                file, _ = self._writable(handle)
                return file
            new = node.file  # another handle may have opened it
            if new is None or new is old or new.apart or new not in self._users:
                new = node.file = self._file(node, entry, content)
            last = self._give_over([handle], old, new)
        if last:
            old.close()
        return new

    def _follow(self, file: File, cancellation: Cancellation) -> None:
        entry = self._mimicdb.entry(file.bucket, file.key)
        if entry is None or entry.kind != OBJECT or entry.etag == file.etag:
            return
        with file.still(cancellation):
            followed = file.etag != entry.etag and file.follow(entry)
        for node in self._opened_as(file) if followed else ():
            self._kernel.followed(node, file)

    def _opened_as(self, file: File) -> set[Node]:
        """Return the nodes that the kernel has opened of *file*."""
        with self._lock:
            users = [each for each in self._open.values() if each.file is file]
        return {each.asked or each.node for each in users} | {each.node for each in users}

    def _replace(self, old: File, new: File) -> None:
        """Give all handles of *old*, which has expired, to *new*. If another thread was quicker,
        there are none left."""
        nodes = self._opened_as(old)
        with self._lock:
            users = [number for number, each in self._open.items() if each.file is old]
            last = self._give_over(users, old, new)
        (old if last else new).close()
        for node in nodes:
            self._kernel.grew(node)

    def _give_over(self, numbers: list[int], old: File, new: File) -> bool:
        """Give the handles *numbers* of *old* to *new*. Return whether *old* has no others; then
        the caller closes it. `_lock` is held."""
        for number in numbers:
            handle = self._open[number]
            self._open[number] = handle._replace(file=new)
            new.taken_over(handle.view, old)
            for node in {handle.node, handle.asked or handle.node}:
                node.file = new if node.file is old else node.file
            self._users[new] = self._users.get(new, 0) + 1
        new.follows = new.follows or old.follows
        return any(self._leave(old, self._open[number].view) for number in numbers)
