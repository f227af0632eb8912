"""Names that leave their directory: rmdir, unlink and rename.

Threading: any thread. Two changes in one directory never meet: the kernel locks the directory. No
lock is held while S3 is waited for.
"""

from __future__ import annotations

import errno
import time
from contextlib import ExitStack
from functools import partial

from mimicfs.config.values import Buckets
from mimicfs.errors import BucketNotEmpty, PosixError
from mimicfs.posix import RENAME_NOREPLACE, Caller
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.moves import Mover, NamePlace
from mimicfs.vfs.nodes import Node, NodeKind, slot_of
from mimicfs.vfs.replacing import Replacing
from mimicfs.vfs.rootattributes import RootAttributes
from mimicfs.vfs.tree import Tree

NameInDirectory = tuple[int, bytes]  # a directory, and a name in it


class Leaving:
    def __init__(
        self,
        s3: S3,
        tree: Tree,
        handles: Handles,
        replacing: Replacing,
        claims: RenameClaims,
        mover: Mover,
        roots: RootAttributes,
        kernel: Kernel,
        buckets: Buckets,
    ) -> None:
        self._s3 = s3
        self._tree = tree
        self._handles = handles
        self._replacing = replacing
        self._claims = claims
        self._mover = mover
        self._roots = roots
        self._kernel = kernel
        self._buckets = buckets

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        """As posix.FileSystem.rmdir."""
        check = partial(self._tree.check_there, parent)

        def work() -> None:
            directory = self._tree.changeable(parent)
            with self._handles.departures.change(caller.cancellation, directory):
                self._rmdir(directory, name)

        self._claims.again(caller.cancellation, work, check)

    def _rmdir(self, directory: Node, name: bytes) -> None:
        node = self._tree.named(directory, name)
        if not node.is_directory:
            raise PosixError(errno.ENOTDIR, repr(name))
        with self._kernel.changing((directory, name)), self._tree.removing(node):
            if directory.kind == NodeKind.ACCOUNT:
                self._remove_bucket(node)
            else:
                self._replacing.empty(node)
                with self._replacing.removing(directory, node.key) as (intent, _):
                    self._replacing.remove(node.bucket, node.key, intent)
                self._stayed(directory)
            _touch(directory)

    def _remove_bucket(self, node: Node) -> None:
        try:
            self._s3.delete_bucket(node.bucket)
        except BucketNotEmpty:
            self._replacing.clear(node.bucket)
            self._s3.delete_bucket(node.bucket)
        self._roots.forget(node.bucket)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        """As posix.FileSystem.unlink."""
        check = partial(self._tree.check_there, parent)

        def work() -> None:
            directory = self._tree.changeable(parent)
            with self._handles.departures.change(caller.cancellation, directory):
                self._unlink(caller, directory, name)

        self._claims.again(caller.cancellation, work, check)

    def _unlink(self, caller: Caller, directory: Node, name: bytes) -> None:
        self._buckets.check_writable(directory.bucket)
        node = self._tree.named(directory, name)
        if node.is_directory:
            raise PosixError(errno.EISDIR, repr(name))
        key = node.key  # the node has no key once its object was found to be another version
        changing = self._kernel.changing((directory, name))
        with changing, self._handles.leaving(node, caller.cancellation) as file:
            if file is None or file.entry is not None:
                with self._replacing.removing(directory, key):
                    self._s3.delete(directory.bucket, key)
                if not node.component:
                    directory.content = False
                    self._replacing.keep(directory)
                self._stayed(directory)
            _touch(directory)
            self._kernel.name_gone(directory, node.component)

    def rename(
        self, caller: Caller, old: NameInDirectory, new: NameInDirectory, flags: int
    ) -> None:
        """As posix.FileSystem.rename, of *old* to *new*."""
        if flags & ~RENAME_NOREPLACE:
            raise PosixError(errno.EINVAL, "S3 cannot exchange two names")
        (old_directory, old_name), (new_directory, new_name) = old, new

        def work() -> None:
            source, target = self._directories(old_directory, new_directory)
            with self._handles.departures.change(caller.cancellation, source, target):
                self._rename(caller, (source, old_name), (target, new_name), flags)

        check = partial(self._tree.check_there, new_directory)
        self._claims.again(caller.cancellation, work, check)

    def _rename(
        self, caller: Caller, old: tuple[Node, bytes], new: tuple[Node, bytes], flags: int
    ) -> None:
        (source, old_name), (target, new_name) = old, new
        node = self._tree.named(source, old_name)
        component = self._tree.component(target, new_name, of_directory=node.is_directory)
        old_component = node.component
        places = NamePlace(source, old_component), NamePlace(target, component)
        with self._kernel.changing(old, new), ExitStack() as stack:
            slot = slot_of(component, directory=node.is_directory)
            stack.enter_context(self._handles.arriving(target, slot))
            replaced = self._replacing.replaceable(node, target, new_name, flags)
            stack.enter_context(self._replacing.replacing(caller, node, replaced))
            if source is not target:
                key = source.key + slot_of(old_component, directory=node.is_directory)
                stack.enter_context(self._replacing.losing(source, key))
            if node.is_directory:
                self._mover.move_directory(caller.cancellation, *places)
            else:
                replace = not flags & RENAME_NOREPLACE
                was_there = self._replacing.is_there(target)
                back = partial(self._replacing.take_back, target, was_there)
                self._mover.move_file(caller.cancellation, *places, back, replace=replace)
                self._kernel.name_gone(source, old_component)
        if not old_component:
            self._replacing.keep(source)
        self._stayed(source)
        self._kernel.returned(target)
        _touch(source)
        _touch(target)

    def _directories(self, old: int, new: int) -> tuple[Node, Node]:
        """Return the directories of a rename. Raises PosixError EPERM, EROFS."""
        source, target = self._tree.changeable(old), self._tree.changeable(new)
        if NodeKind.ACCOUNT in (source.kind, target.kind):
            raise PosixError(
                errno.EPERM, "S3 cannot rename a bucket or move a file out of all buckets"
            )
        for bucket in (source.bucket, target.bucket):
            self._buckets.check_writable(bucket)
        return source, target

    def _stayed(self, directory: Node) -> None:
        """Note that *directory* has lost a name. If others had deleted the directory before, it is
        there again, unless it is gone for good."""
        if self._replacing.is_there(directory):
            self._kernel.returned(directory)


def _touch(directory: Node) -> None:
    directory.mtime_ns = time.time_ns()
