"""Open files whose object others have replaced: their handles go on with what S3 has now.

An append goes behind the newest version, and a program that gets a lock sees what was written under
it before. Every other handle stays with its version, and gets ESTALE once that is gone.

Threading: as opening.py says; `_give_over` is called with `_lock` held.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mimicfs.entry import OBJECT, Entry
from mimicfs.errors import KeyNotFound, ObjectChanged
from mimicfs.files.file import File
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.opening import OpenFiles
from mimicfs.vfs.table import Handle


class RenewedFiles(OpenFiles):
    """The open files, some of which go on with another version of their object."""

    def renew(self, handle: int, cancellation: Cancellation) -> None:
        """Renew the file of *handle*, whose holder has locked it and must see what its name stands
        for now: all handles of the file go on with that, unless something was written."""
        file = self._handle(handle).file
        if file is None:
            return
        file.follows = True
        if file.expired:
            if not self._replaced(handle, file, cancellation):
                return
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
        with self._heir(node, cancellation) as heir:
            if heir is None:  # this mount has unlinked it, or renamed another file over it
                raise ObjectChanged.since_opened(f"s3://{old.bucket}/{old.key}")
            key = heir.key
            if heir.is_nameless:  # others have displaced it, too: another one has that name
                return old
            try:
                head = self._s3.pool.submit(self._s3.head, heir.bucket, key)
                entry, content = cancellation.wait(head)
            except KeyNotFound as exc:
                raise ObjectChanged.deleted(f"s3://{heir.bucket}/{key}") from exc
            generation = self._mimicdb.generation
            with self._lock:
                if self._handle(handle).file is not old:  # another thread has come here before
                    file, _ = self._writable(handle)
                    return file
                new = self._file_for(heir, old, entry, generation, content)
                if new is None:
                    return old  # the append is tried again
                last = self._give_over([handle], old, new, heir)
        if last:
            old.close()
        return new

    @contextmanager
    def _heir(self, node: Node, cancellation: Cancellation) -> Iterator[Node | None]:
        """Yield the node that has the name of *node*, or that name from which others have displaced
        it; None: there is no such name any more. Within, no directory above is renamed: the name
        may be another key than the one that was opened."""
        self._wait_until_left(node, cancellation)
        parent = node.parent
        place = (parent, node.slot) if parent is not None else node.displaced
        if place is None or place[0].is_nameless:
            yield None
            return
        with self.departures.change(cancellation, place[0]):
            heir = self._named(*place, cancellation)
            try:
                self._wait_until_left(heir, cancellation)
                yield heir
            finally:
                self._inodes.forget(heir.ino, 1)

    def _file_for(
        self,
        heir: Node,
        old: File,
        entry: Entry,
        generation: int,
        content: Content | None = None,
    ) -> File | None:
        """Return the File of *heir* to which handles of *old* go over: the one that it has, or one
        of *entry*, which the mirror had at *generation*. None: something has changed meanwhile.
        `_lock` is held."""
        if heir.parent is None or self._is_going(heir):
            return None
        file = heir.file
        if file is None or file is old or file.apart or file not in self._users:
            asks = content is None
            return self._file_of(heir, entry, generation, content=content, asks=asks)
        return file

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

    def _replaced(self, handle: int, old: File, cancellation: Cancellation) -> bool:
        """Give all handles of *old*, which has expired, to the File of what its name stands for
        now. Return whether it stands for anything."""
        new: File | None = None
        last = False
        while new is None:
            if old.lost is not None:
                return False
            with self._heir(self._handle(handle).node, cancellation) as heir:
                if heir is None:
                    return False
                key, generation = heir.key, self._mimicdb.generation
                if heir.is_nameless:  # others have displaced it, too: another one has that name
                    continue
                entry = self._mimicdb.entry(heir.bucket, key)
                if entry is None or entry.kind != OBJECT:
                    return False
                with self._lock:
                    users = [number for number, each in self._open.items() if each.file is old]
                    if not users:  # another thread was quicker
                        return True
                    new = self._file_for(heir, old, entry, generation)
                    last = new is not None and self._give_over(users, old, new, heir)
        if last:
            old.close()
        return True

    def _give_over(self, numbers: list[int], old: File, new: File, heir: Node) -> bool:
        """Give the handles *numbers* of *old* to *new*, the File of *heir*. Return whether *old*
        has no others; then the caller closes it. `_lock` is held."""
        nodes = {heir, *heir.also}
        for number in numbers:
            handle = self._open[number]
            new.taken_over(handle.view, old)
            self._open[number] = self._brought_home(handle, heir)._replace(file=new)
            for node in {handle.node, handle.asked or handle.node}:
                node.file = new if node.file is old else node.file
                nodes.add(node)
            self._users[new] = self._users.get(new, 0) + 1
        if new.etag != old.etag:  # its other handles must not fill the kernel's pages any more
            old.expire()
        self._kernel.drops(nodes, writing=True, waits=False)
        new.follows = new.follows or old.follows
        return any(self._leave(old, self._open[number].view) for number in numbers)

    def _brought_home(self, handle: Handle, heir: Node) -> Handle:
        """Return *handle* as one of *heir*, which has its name now: whoever opens that shares its
        File."""
        node = handle.node
        if node is heir:
            return handle
        asked = handle.asked or node
        node.also = tuple(each for each in node.also if each is not asked)
        heir.also = (*(each for each in heir.also if each is not asked), asked)
        self._inodes.opened(heir)
        self._inodes.closed(node)
        return handle._replace(node=heir, asked=asked)
