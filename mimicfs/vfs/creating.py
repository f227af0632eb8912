"""Making regular files: open files that S3 does not have before their first upload."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from mimicfs import metadata
from mimicfs.config.values import VFSOptions
from mimicfs.errors import PosixError
from mimicfs.posix import Caller, Opened
from mimicfs.s3.requests.client import Content
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.making import check_in_bucket
from mimicfs.vfs.nodes import Node, NodeKind
from mimicfs.vfs.ownership import Ownership
from mimicfs.vfs.stored import StoredAttributes
from mimicfs.vfs.tree import Tree
from mimicfs.vfs.vacated import Vacated


class Creating:
    def __init__(
        self,
        inodes: Inodes,
        tree: Tree,
        handles: Handles,
        stored: StoredAttributes,
        vacated: Vacated,
        ownership: Ownership,
        options: VFSOptions,
    ) -> None:
        self._inodes = inodes
        self._tree = tree
        self._handles = handles
        self._stored = stored
        self._vacated = vacated
        self._ownership = ownership
        self._options = options

    def file(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Node, Opened]:
        """Make the file *name* in the directory *parent*; return its node, held once more."""
        directory = self._directory(parent)
        with self._handles.departures.change(caller.cancellation, directory):
            return self._made(caller, directory, name, mode, flags)

    def _made(
        self, caller: Caller, directory: Node, name: bytes, mode: int, flags: int
    ) -> tuple[Node, Opened]:
        component = _new(self._tree.new_name, directory, name, flags)
        place = (directory.bucket, directory.key + component)
        if component:
            content = self._content(caller, directory, component, mode)
        else:  # the bytes of a marker; its attributes are those of its directory
            content = self._stored.of_marker(*place)
        with (
            self._vacated.inherited(place, content, caller.cancellation) as inherited,
            self._inodes.holding(directory, component, NodeKind.OBJECT) as node,
        ):
            opened = self._handles.create(node, inherited, **_conditions(flags))
        directory.mtime_ns = time.time_ns()
        return node, opened

    def file_at_once(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Node, Opened] | None:
        """Do the same, if that needs no wait. None: nothing has happened."""
        if self._options.suid:  # the group may be that of the directory, which must be looked up
            return None
        directory = self._directory(parent)
        component = _new(self._tree.new_name_at_once, directory, name, flags)
        if not component or self._vacated.has_left((directory.bucket, directory.key + component)):
            return None
        content = self._content(caller, directory, component, mode)
        node = self._inodes.child(directory, component, NodeKind.OBJECT, hold=True)
        opened = None
        try:
            opened = self._handles.create_at_once(node, content, **_conditions(flags))
        finally:
            if opened is None:
                self._inodes.forget(node.ino, 1)
        if opened is None:
            return None
        directory.mtime_ns = time.time_ns()
        return node, opened

    def _directory(self, parent: int) -> Node:
        directory = self._tree.changeable(parent)
        check_in_bucket(directory)
        self._options.buckets.check_writable(directory.bucket)
        return directory

    def _content(self, caller: Caller, directory: Node, component: str, mode: int) -> Content:
        owner = self._ownership.of_new(caller, directory)
        meta = metadata.written(metadata.file_mode(mode), *owner)
        return Content(metadata.content_type(component), meta)


def _new(find: Callable[[Node, bytes], str], directory: Node, name: bytes, flags: int) -> str:
    """Return what *find* finds. Another mount may have made the name since the kernel looked it
    up. Only a caller with O_EXCL hears of that; for others (ESTALE) the kernel looks again, and
    opens, or follows, what is there."""
    try:
        return find(directory, name)
    except PosixError as exc:
        if exc.errno != errno.EEXIST or flags & os.O_EXCL:
            raise
        raise PosixError(errno.ESTALE, f"{name!r}: somebody has just made it") from exc


def _conditions(flags: int) -> dict[str, bool]:
    """Return what must not be there when a file that was made with *flags* is uploaded. A caller
    with O_TRUNC may replace what is there, as with any file; one without would destroy it."""
    exclusive = bool(flags & os.O_EXCL)
    return {"absent": exclusive or not flags & os.O_TRUNC, "exclusive": exclusive}
