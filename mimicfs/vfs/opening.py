"""Opening, and the turns that are taken at a name.

All handles of one inode share one File, so that writers see each other. When somebody replaces the
object behind our back, open handles keep their version (or get ESTALE), and a new open gets a new
File.

Threading: as said in handles.py, which is the layer above.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial

from mimicfs import metadata
from mimicfs.entry import OBJECT, Entry
from mimicfs.errors import PosixError
from mimicfs.files.asking import fetch_ahead
from mimicfs.files.file import File
from mimicfs.files.reader import Reader
from mimicfs.files.standing import LatelySeen
from mimicfs.files.states import State
from mimicfs.files.turn import Turn
from mimicfs.posix import NEVER, Cancellation, Opened
from mimicfs.s3.requests.client import Content
from mimicfs.vfs.departures import Departures
from mimicfs.vfs.neighbours import Neighbours
from mimicfs.vfs.nodes import Node, NodeKind
from mimicfs.vfs.table import Below, HandleTable

WRITES = os.O_WRONLY | os.O_RDWR
NOT_READ = os.O_PATH  # with the flags of an open(2) that is ours, and not the kernel's
_LOOKS = 4  # so often an object is looked up again before the mirror is asked under `_lock`
_TRIES = 1_000  # and so often in all: no File stands at another key than its node for so long


class OpenFiles(HandleTable):
    """The open files, and the File of each handle."""

    def __init__(self, below: Below) -> None:
        super().__init__(below)
        s3 = below.s3
        ahead = (partial(fetch_ahead, s3), s3.pool.submit, s3.look_ahead)
        self._neighbours = Neighbours(below.mimicdb, below.inodes, self._reader, *ahead)
        self.departures = Departures()
        self.shares_locks = False  # a file that is open for writing follows what others write
        self._arriving: dict[tuple[Node, str], Future[None]] = {}  # protected by `_lock`

    # Opening

    def _open_now(
        self,
        node: Node,
        look: Callable[[Node], Entry],
        flags: int,
        cancellation: Cancellation,
        *,
        only: bool,
    ) -> Opened:
        """Open the object of *node* as it is: `Handles.open` cuts it where *flags* say so."""
        tried = 0
        while True:
            self._wait_until_left(node, cancellation)
            with self._standing(node, cancellation) as stands:
                if only and stands is not node:
                    raise PosixError(errno.ESTALE, f"{node.component!r} is another file by now")
                asks = tried >= _LOOKS
                opened = self._open_standing(node, stands, look, flags, cancellation, asks=asks)
                if opened is not None:
                    return opened
                if tried >= _TRIES:
                    raise PosixError(errno.ESTALE, f"{node.component!r} is not what it was")
                with self.turn(stands, cancellation):  # who changes the object has done so by then
                    tried += 1

    def open_at_once(self, node: Node, entry: Entry, generation: int) -> Opened | None:
        """Open *node*, whose version in S3 is *entry*, for reading. The mirror was at *generation*
        before that was read from it. None: that would have to wait for somebody, or takes more than
        this; then nothing has happened.

        Before the kernel gets pages of a version that is new to it, it must have been told of all
        earlier changes: a worker waits for that.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            there = node.parent is not None and node.key == entry.key  # otherwise it was renamed
            if not there or self._is_going(node) or not self._is_plain(node.file, entry):
                return None
            known = self._kernel.has_pages(node, entry)
            if not known and not self._kernel.told(0):
                return None
            file = node.file
            if file is None:
                noted, reader = (
                    (True, None) if known else self._neighbours.opened_at_once(node, entry)
                )
                if not noted:
                    return None
                file = self._file_of(node, entry, generation, reader)
                if file is None:
                    return None
            file.seen = LatelySeen(entry, generation, time.monotonic())
            return self._opened(node, file, entry, os.O_RDONLY)
        finally:
            self._lock.release()

    def looked_up(self, directory: Node, key: str) -> None:
        """Note that somebody looks up *key*, and waits until it is known what is stored with it."""
        self._neighbours.looked_up(directory, key)

    def _is_plain(self, file: File | None, entry: Entry) -> bool:
        """Whether *file*, if there is one, is open and is exactly the version *entry*."""
        if file is None:
            return bool(entry.etag)
        clean = file.state is State.CLEAN and file in self._users
        return clean and bool(entry.etag) and file.etag == entry.etag

    def _open_standing(
        self,
        node: Node,
        stands: Node,
        look: Callable[[Node], Entry],
        flags: int,
        cancellation: Cancellation,
        *,
        asks: bool,
    ) -> Opened | None:
        """Open *stands* for a caller that asks for *node*; None: it changed since it was looked
        up."""
        self._wait_until_left(stands, cancellation)
        if stands is not node and stands.parent is None and stands.file is None:
            return None  # the name stands for yet another node
        generation = self._mimicdb.generation
        own = stands.file is not None and stands.file.entry is None
        try:
            entry = None if own or stands.parent is None else look(stands)
        except PosixError as exc:
            if stands.leaving or stands.parent is None:
                return None
            if stands is node or exc.errno != errno.ENOENT:
                raise
            return self._open_unnamed(node, flags)  # what had replaced it has gone as well
        if entry is None:
            opened = self._open_unnamed(stands, flags)
        else:
            if stands is not node:  # the kernel will have no pages of *stands* by this
                flags |= NOT_READ
            opened = self._open_known(stands, entry, flags, generation, asks=asks)
        if opened is None or stands is node:
            return opened
        self._also(node, opened.handle)
        return opened._replace(keep_cache=False)  # the pages of *node* are of another file

    @contextmanager
    def _standing(self, node: Node, cancellation: Cancellation) -> Iterator[Node]:
        """Yield the node that the name of *node* stands for now, if this mount has just replaced
        it: the kernel looked the name up a moment before. Otherwise yield *node*."""
        if node.parent is not None or node.former is None or node.file is not None:
            yield self._opened_for(node)
            return
        parent, component = node.former
        if parent.is_nameless:  # a node with the same key elsewhere is not meant
            yield node
            return
        known = self._inodes.find(parent, component)
        entry = self._mimicdb.entry(parent.bucket, parent.key + component)
        there = entry is not None and entry.kind == OBJECT
        if not there and (known is None or known.file is None):
            yield node
            return
        stands = self._named(parent, component, cancellation)
        try:
            yield stands
        finally:
            self._inodes.forget(stands.ino, 1)

    def _named(self, parent: Node, component: str, cancellation: Cancellation) -> Node:
        """Return the node of a name, held, once no rename is about to give it to another one."""
        while True:
            with self._lock:
                if (arriving := self._arriving.get((parent, component))) is None:
                    return self._inodes.child(parent, component, NodeKind.OBJECT, hold=True)
            cancellation.wait(arriving)

    @contextmanager
    def arriving(self, parent: Node, slot: str) -> Iterator[None]:
        """Within, another node gets *slot*, which the mirror has a little before: who opened it
        then would get a File beside that of the renamed one. Whoever waits here has no turn."""
        with self._lock:
            done = self._arriving[parent, slot] = Future[None]()
        try:
            yield
        finally:
            self._arriving.pop((parent, slot), None)
            done.set_result(None)

    def _is_going(self, node: Node) -> bool:
        """Whether *node* is about to lose its name, or a rename about to give that to another node.
        `_lock` is held."""
        return node.leaving or self._arriving_at(node) is not None

    def _arriving_at(self, node: Node) -> Future[None] | None:
        parent = node.parent
        return self._arriving.get((parent, node.slot)) if self._arriving and parent else None

    def _wait_until_left(self, node: Node, cancellation: Cancellation) -> None:
        while True:
            with self._lock:
                arriving = self._arriving_at(node)
            if arriving is not None:
                cancellation.wait(arriving)
            elif node.leaving:
                with self.turn(node, cancellation):
                    pass
            else:
                return

    def _open_unnamed(self, node: Node, flags: int) -> Opened | None:
        """Open *node*, of which S3 has nothing yet, or nothing any more; None: it has changed since
        that was seen."""
        with self._lock:
            file = self._standing_file(node)
            if self._is_going(node) or (file is None and node.parent is not None):
                return None
            if file is None:
                return self._nameless(node, flags)
            if file.entry is not None and node.parent is not None:
                return None  # it was uploaded since
            return Opened(self._add(node, file), keep_cache=True)

    def _open_known(
        self, node: Node, entry: Entry, flags: int, generation: int, *, asks: bool
    ) -> Opened | None:
        """Open *node*, whose version in S3 is *entry*, which the mirror had at *generation* or
        later; None: it has changed since. *asks*: where that is not certain, the mirror is
        asked."""
        keep_cache = self._kernel.has_pages(node, entry)
        read = not flags & WRITES and not keep_cache
        reader = self._neighbours.opened(node, entry) if read else None
        with self._lock:
            if node.parent is None or self._is_going(node):
                opened = None
            elif (shared := self._standing_file(node)) is not None:
                opened = self._shared(node, shared, entry, flags)
            else:
                file = self._file_of(node, entry, generation, reader, asks=asks)
                reader = None
                opened = self._opened(node, file, entry, flags) if file is not None else None
        if reader is not None:
            reader.close()
        return opened

    def _standing_file(self, node: Node) -> File | None:
        """Return the File of *node* that a new handle may share. Raises PosixError ESTALE."""
        if node.file is not None and node.file not in self._users:
            node.file = None  # it is being closed
        if node.file is not None and node.file.expired and not node.leaving:
            raise PosixError(errno.ESTALE, f"s3://{node.file.bucket}/{node.file.key}")
        return node.file

    def _file_of(
        self,
        node: Node,
        entry: Entry,
        generation: int,
        reader: Reader | None = None,
        *,
        content: Content | None = None,
        asks: bool = False,
    ) -> File | None:
        """Give *node* a File of *entry*; None: it is not certain that the mirror, which had that at
        *generation* or later, has it still. `_lock` is held.

        Somebody may have opened, uploaded and closed the object in between: the File would stand on
        a version that is gone, and S3 would refuse what is written to it. The mirror is looked at
        when the node has the File: a change that the mirror hears of later is told to that.
        """
        content = content or Content(metadata.content_type(node.component), entry.meta or {})
        before, file = node.file, self._file(node, entry, content, reader)
        node.file = file
        now = self._mimicdb
        if now.generation == generation or (asks and now.entry(node.bucket, node.key) == entry):
            return file
        node.file = before
        file.close()
        return None

    def _shared(self, node: Node, file: File, entry: Entry, flags: int) -> Opened | None:
        """Open *file*, which *node* has; None: it is not of *entry*."""
        if file.entry is None:
            return Opened(self._add(node, file), keep_cache=True)
        if file.dirty or file.etag == entry.etag:
            return self._opened(node, file, entry, flags)
        known = self._mimicdb.entry(node.bucket, file.key)
        if known is not None and known.etag == entry.etag:
            with (node.turn or Turn()).at_once() as still:
                if still:  # otherwise it may be we who are changing the object just now
                    self._outdated(node, file, entry)
        return None  # or it was uploaded since the mirror was asked

    def _outdated(self, node: Node, file: File, entry: Entry) -> None:
        """Note that the mirror has *entry*, another version than *file* stands on."""
        if file.follow(entry):
            self._kernel.followed(node, file)
            return
        if file.follows:
            raise PosixError(errno.ESTALE, f"{entry.key}: somebody is writing to it")
        if file.expire():
            self._kernel.replaced(node)
            raise PosixError(errno.ESTALE, f"{entry.key}: the name now refers to a new version")

    def _nameless(self, node: Node, flags: int) -> Opened:
        """Open a file that this mount has just unlinked. As nobody can find it any more, a writer
        that cannot see its bytes writes to an empty file."""
        if node.former is None:
            raise PosixError(errno.ESTALE, "the name now refers to another file")
        if not flags & WRITES or not (flags & os.O_TRUNC or not flags & os.O_RDWR):
            raise PosixError(errno.ENOENT, f"s3://{node.bucket}: {node.component!r}")
        file = node.file = self._file(node, None, Content(metadata.content_type(node.component)))
        file.detach(NEVER)
        file.gone()
        return Opened(self._add(node, file), keep_cache=True)

    def _opened(self, node: Node, file: File, entry: Entry, flags: int) -> Opened:
        handle = self._add(node, file)
        keep_cache = self._kernel.has_pages(node, entry)
        if self._users[file] == 1:
            file.pages_before = keep_cache
        # Pages that are of this file, whatever version it has become. If they were dropped now,
        # what a WRITE has put there a moment ago could be zeros in them once it is done: the kernel
        # may read them anew before the WRITE comes here.
        keep_cache = keep_cache or self._kernel.has_pages_of(node, file)
        if not flags & NOT_READ:
            if not keep_cache and self._users[file] > 1:
                file.dropping()
            if not keep_cache and node.opens == 1:
                file.caught_up(node.ino, file.growth)
            file.in_kernel = file.moves
            self._open[handle].view.got = keep_cache and file.hand_out_pages()
            self._kernel.reads(node, entry)
        return Opened(handle, keep_cache, quiet=not flags & WRITES)

    def create(
        self, node: Node, content: Content, *, absent: bool, exclusive: bool = False
    ) -> Opened:
        """Open a file that S3 does not have yet. *absent*: S3 must have none when the file is
        uploaded, either. *exclusive*: not even appends may go behind what is there."""
        file = self._file(node, None, content, absent=absent, exclusive=exclusive)
        file.follows = self.shares_locks
        with self._lock:
            node.file = file
            handle = self._add(node, file)
            self._open[handle] = self._open[handle]._replace(writes=True)
            return Opened(handle)

    def create_at_once(
        self, node: Node, content: Content, *, absent: bool, exclusive: bool
    ) -> Opened | None:
        """Do the same, if that waits for nobody and no disk. None: nothing has happened."""
        if self.shares_locks or not self._lock.acquire(blocking=False):
            return None
        try:
            if node.leaving or node.file is not None:
                return None
            node.file = self._file(node, None, content, absent=absent, exclusive=exclusive)
            handle = self._add(node, node.file)
            self._open[handle] = self._open[handle]._replace(writes=True)
            return Opened(handle)
        finally:
            self._lock.release()

    def open_control(self, node: Node, text: bytes) -> Opened:
        with self._lock:
            return Opened(self._add(node, None, text), direct=True)

    def open_version(self, node: Node, entry: Entry, version: str) -> Opened:
        """Open the version with the id *version*, which is *entry*."""
        reader = Reader(self._tools, node.bucket, entry, version)
        with self._lock:
            handle = self._add(node, None)
            self._open[handle] = self._open[handle]._replace(reader=reader)
        # The version "null" can be replaced within the same second, under the same name.
        return Opened(handle, keep_cache=version != "null", quiet=True)

    # Taking turns

    @contextmanager
    def turn(self, node: Node, cancellation: Cancellation) -> Iterator[None]:
        """Within, nobody else in this mount uploads, copies or deletes the object of *node*, or
        renames a directory above. An upload that nobody waits for gives way. Raises Interrupted."""
        with self.departures.change(cancellation, node), self._turn(node, cancellation):
            yield

    @contextmanager
    def _turn(self, node: Node, cancellation: Cancellation) -> Iterator[None]:
        """As `turn`, though a directory above may be renamed."""
        with self._lock:
            turn = node.turn = node.turn or Turn()
        if node.file is not None:
            node.file.interrupt()
        with turn.taken(cancellation):
            yield

    @contextmanager
    def moving(self, node: Node, cancellation: Cancellation) -> Iterator[None]:
        """Within, *node* gets another name, and nobody opens a file of it."""
        with self.turn(node, cancellation):
            with self._lock:
                node.leaving = True
            try:
                yield
            finally:
                node.leaving = False

    @contextmanager
    def leaving(self, node: Node, cancellation: Cancellation) -> Iterator[File | None]:
        """Within, the object of *node* goes, and nobody opens a file of it. Processes that have it
        open go on with a local copy, which is yielded. If the object stays after all, they go on
        writing to it, and it is uploaded if it was closed meanwhile."""
        with self.moving(node, cancellation), ExitStack() as stack:
            with self._lock:
                file, parent, component = node.file, node.parent, node.component
                if file is not None and file in self._users:
                    # Otherwise its bytes would go with its last handle, though the object may stay.
                    stack.callback(self.release, self._add(node, file))
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
            if file is not None:
                file.gone()
