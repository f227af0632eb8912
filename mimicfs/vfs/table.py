"""The table of handles: which File each of them has. All Files of a mount are made here.

    INVARIANT: of the Files that have handles, at most one may upload to a key: the others are
    apart from their object (`File.apart`). Two of them would overtake each other, and S3 would
    refuse the bytes of the one that comes later.

Threading: as said in handles.py, two layers above.
"""

from __future__ import annotations

import errno
import threading
from abc import ABC, abstractmethod
from typing import NamedTuple

from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import PosixError
from mimicfs.files.budget import Budget
from mimicfs.files.cache import BlockCache
from mimicfs.files.file import File
from mimicfs.files.journal import Journal
from mimicfs.files.reader import Reader
from mimicfs.files.tools import Tools
from mimicfs.files.view import HandleView
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Content
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.nodes import Node


class Handle(NamedTuple):
    node: Node
    file: File | None  # None: it is never written
    view: HandleView  # what this handle knows of the file
    text: bytes = b""  # the text of the control file
    reader: Reader | None = None  # of a version
    # the node that the kernel has opened, where the name stands for *node* now
    asked: Node | None = None
    writes: bool = False  # a program may write through it, also into a mapping


class Below(NamedTuple):
    """What open files need of the mount."""

    mimicdb: Mirror
    s3: S3
    journal: Journal
    inodes: Inodes
    kernel: Kernel
    options: FileOptions
    cache: BlockCache | None


class HandleTable(ABC):
    """The table of handles."""

    def __init__(self, below: Below) -> None:
        self._mimicdb = below.mimicdb
        self._s3 = below.s3
        self._inodes = below.inodes
        self._kernel = below.kernel
        budget = Budget(below.options.read_memory, below.cache)
        self._tools = Tools(below.s3, below.journal, below.options, budget, self._moved)
        self._lock = threading.Lock()  # protects the three below, and Node.file
        self._open: dict[int, Handle] = {}
        self._users: dict[File, int] = {}
        self._last = 0

    @abstractmethod
    def release(self, handle: int) -> None:
        """Close one handle; with the last one of a File, the File."""

    @abstractmethod
    def _moved(self, file: File) -> None:
        """Note that what was appended to *file* is behind a version of others now, and not where
        the kernel has put it."""

    def file(self, handle: int) -> File | None:
        """Return the File of *handle*; None if it is never written."""
        return self._handle(handle).file

    def node(self, handle: int) -> Node:
        return self._handle(handle).node

    def _asked(self, handle: int) -> Node:
        """Return the node that the kernel has opened as *handle*."""
        found = self._handle(handle)
        return found.asked or found.node

    def _writable(self, handle: int) -> tuple[File, HandleView]:
        """Return the File of *handle*, and what the handle knows of it."""
        found = self._handle(handle)
        if found.file is None:
            raise PosixError(errno.EINVAL, "never written")
        return found.file, found.view

    def _handle(self, handle: int) -> Handle:
        found = self._open.get(handle)
        if found is None:
            raise PosixError(errno.EBADF, f"handle {handle}")
        return found

    def _add(self, node: Node, file: File | None, text: bytes = b"") -> int:
        self._last += 1
        self._open[self._last] = opened = Handle(node, file, HandleView(), text)
        if file is not None:
            self._users[file] = self._users.get(file, 0) + 1
            file.seen_by(opened.view)
        self._inodes.opened(node)
        return self._last

    def _leave(self, file: File, view: HandleView) -> bool:
        """Return whether it was the last handle of *file* that had *view*."""
        file.left_by(view)
        self._users[file] -= 1
        if self._users[file]:
            return False
        del self._users[file]
        return True

    def _reader(self, bucket: str, entry: Entry) -> Reader:
        return Reader(self._tools, bucket, entry)

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
        what = (node.bucket, key, entry, content, reader)
        return File(self._tools, *what, absent=absent, exclusive=exclusive)

    # Nodes that the kernel has opened for the File of another

    def _is_asked(self, asked: Node) -> bool:
        """Whether a handle is open that the kernel got for *asked*."""
        return any(each.asked is asked for each in self._open.values())

    def _also(self, asked: Node, handle: int) -> None:
        """Note that the kernel gets *handle* when it opens *asked*."""
        with self._lock:
            opened = self._open[handle]
            self._open[handle] = opened._replace(asked=asked)
            asked.file = asked.file or opened.file
            if asked not in opened.node.also:
                opened.node.also = (*opened.node.also, asked)
        self._kernel.grew(asked)

    def _no_longer_asked(self, opened: Handle) -> None:
        """Note that *opened* is closed, if the kernel had it for another node. `_lock` is held."""
        node, asked = opened.node, opened.asked
        if asked is None or self._is_asked(asked):
            return
        if asked.file is opened.file:
            asked.file = None
        node.also = tuple(each for each in node.also if each is not asked)

    def _opened_for(self, asked: Node) -> Node:
        """Return the node that is open where the kernel has opened *asked*: that one, or the one
        that its name stood for by then."""
        if asked.parent is not None or asked.file is None:
            return asked
        with self._lock:
            others = (each.node for each in self._open.values() if each.asked is asked)
            return next((node for node in others if node.file is asked.file), asked)
