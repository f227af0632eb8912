"""The replacement of names: the file that has the name must be empty, or leaves, or is replaced.

Threading: any thread. Two changes in one directory never meet: the kernel locks the directory.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mimicfs.entry import DAY_S, LISTED, NS, OBJECT, Entry, pages
from mimicfs.errors import PosixError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import RENAME_NOREPLACE, Caller
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.ownkeys import is_zeros
from mimicfs.sync import Syncer
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.inodes import Node
from mimicfs.vfs.tree import Tree

_UPLOAD_MAX_S = DAY_S  # longer than any file takes to upload
_PAGE = 100  # names of a directory that are read at a time


class Replacing:
    """Removing, and making way for another."""

    def __init__(
        self, mimicdb: Mirror, s3: S3, syncer: Syncer, handles: Handles, tree: Tree
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._syncer = syncer
        self._handles = handles
        self._tree = tree

    def empty(self, node: Node) -> None:
        """Raise ENOTEMPTY if the directory *node* has a child, or its marker content. Rests of
        uploads in it are no children, and are deleted."""
        about = f"s3://{node.bucket}/{node.key}"
        if node.content or self._handles.unsaved(node):
            raise PosixError(errno.ENOTEMPTY, about)
        leftovers: list[str] = []
        for page in pages(lambda after: self._page(node, after), _PAGE):
            if not all(_is_leftover(entry) for entry in page):
                raise PosixError(errno.ENOTEMPTY, about)
            leftovers += [entry.key for entry in page]
        marker = self._mimicdb.entry(node.bucket, node.key)  # as that listing has shown it
        if marker is not None and marker.kind == OBJECT and marker.size:
            raise PosixError(errno.ENOTEMPTY, f"{about}: its marker is not empty")
        for key in leftovers:
            self._s3.delete(node.bucket, key)

    def _page(self, node: Node, after: str) -> list[Entry]:
        children = self._mimicdb.children
        return self._syncer.sure(lambda: children(node.bucket, node.key, after, _PAGE))

    def remove(self, bucket: str, key: str) -> None:
        """Delete the object *key*; a directory without one is forgotten."""
        entry = self._mimicdb.entry(bucket, key)
        if entry is None or entry.kind == OBJECT:
            self._s3.delete(bucket, key)
        else:
            self._mimicdb.forget(bucket, key)

    def has_object(self, directory: Node) -> bool:
        """Whether the mirror has an object of *directory* itself."""
        own = self._mimicdb.entry(directory.bucket, directory.key) if directory.key else None
        return own is not None and own.kind == OBJECT

    def keep(self, directory: Node, *, had_object: bool) -> None:
        """A directory that lost its last name stays until it is removed. If it *had_object* before,
        which this change does not take, that keeps it; if it has none now, others have removed it
        meanwhile."""
        bucket, key = directory.bucket, directory.key
        if not key or had_object or self._mimicdb.scan(bucket, key, key, 1):
            return
        own = self._mimicdb.entry(bucket, key)
        if own is None or own.kind == LISTED:  # which S3 showed because of the names it had
            self._mimicdb.keep(bucket, key, own.meta if own is not None else None)

    @contextmanager
    def replacing(self, caller: Caller, node: Node, replaced: Node | None) -> Iterator[None]:
        """Within, *node* takes the name of *replaced*. Two take their turns in one order."""
        with ExitStack() as stack:
            taken = [node] if replaced is None else sorted((node, replaced), key=_ino)
            for each in taken:
                stack.enter_context(self._handles.turn(each, caller.cancellation))
            if not node.is_directory:
                stack.enter_context(self._handles.moving(node, caller.cancellation))
            if replaced is not None and not replaced.is_directory:
                stack.enter_context(self._handles.leaving(replaced, caller.cancellation))
            if replaced is not None and replaced.is_directory:
                stack.enter_context(self._tree.removing(replaced))
            yield

    def replaceable(
        self, caller: Caller, node: Node, target: Node, name: bytes, flags: int
    ) -> Node | None:
        """Return what stands at the new name, ready to be replaced. Raises what POSIX says."""
        try:
            replaced = self._tree.named(target, name)
        except PosixError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return None
        if flags & RENAME_NOREPLACE:
            raise PosixError(errno.EEXIST, repr(name))
        if replaced.is_directory != node.is_directory:
            raise PosixError(errno.EISDIR if replaced.is_directory else errno.ENOTDIR, repr(name))
        if replaced.is_directory:
            self.empty(replaced)
        return replaced


def _ino(node: Node) -> int:
    return node.ino


def _is_leftover(entry: Entry) -> bool:
    """Whether *entry* is an object of zeros that no upload can need any more."""
    return is_zeros(entry.key) and time.time_ns() - entry.mtime_ns > _UPLOAD_MAX_S * NS
