"""Admission: who may open a file or change its attributes, and which version of it; and what S3 is
asked before.

The kernel checks the rights of other users (-o allow_other), by the mode and owner that it was
shown of the inode that it names. Where those are not what is stored, or the name stands for another
inode by now, it looks the name up again (ESTALE), and checks that.

Threading: any thread; waits for S3.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mimicfs.config.values import VFSOptions
from mimicfs.entry import Entry
from mimicfs.errors import Departing, MimicError, PosixError, Unlisted
from mimicfs.posix import Attr, Caller, Opened
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.opening import NOT_READ, WRITES
from mimicfs.vfs.tree import Tree

# How long an open waits at most for the kernel to be told of earlier changes.
TELL_KERNEL_S = 5.0


class Admission:
    """*attr* returns what stat(2) shows of a node, to a caller who may wait."""

    def __init__(
        self,
        s3: S3,
        syncer: Syncer,
        kernel: Kernel,
        tree: Tree,
        handles: Handles,
        options: VFSOptions,
        attr: Callable[[Caller, Node], Attr],
    ) -> None:
        self._s3 = s3
        self._syncer = syncer
        self._kernel = kernel
        self._tree = tree
        self._handles = handles
        self._options = options
        self._attr = attr

    def opened(self, caller: Caller, node: Node, flags: int) -> Opened:
        """Open the object of *node*. Raises PosixError EROFS, and what Handles.open raises."""
        if flags & WRITES:
            self._options.buckets.check_writable(node.bucket)
        own = node.file is not None and (node.file.dirty or node.file.apart)
        if self._options.ask_at_open and node.parent is not None and not own:
            self._ask(node, caller)
        seen, only = partial(self._seen, caller), not _is_trusted(caller)
        opened = self._handles.open(node, seen, flags, caller.cancellation, only=only)
        if not opened.keep_cache:
            # The kernel must not believe that it knows the size of a new version.
            self._kernel.told(TELL_KERNEL_S)
        return opened

    def truncate(self, caller: Caller, node: Node, size: int) -> None:
        """Cut or extend the object of *node*, which may be open. S3 has it then."""
        handles, cancellation = self._handles, caller.cancellation
        opened = self.opened(caller, node, os.O_WRONLY | NOT_READ)
        try:
            handles.truncate(opened.handle, size, cancellation)
            handles.flush(opened.handle, cancellation)
        finally:
            handles.release(opened.handle)

    @contextmanager
    def held(self, caller: Caller, node: Node) -> Iterator[Node]:
        """As Handles.held, for *caller*."""
        seen, only = partial(self._seen, caller), not _is_trusted(caller)
        with self._handles.held(node, seen, caller.cancellation, only=only) as stands:
            yield stands

    def _seen(self, caller: Caller, node: Node) -> Entry:
        """Return what the mirror has of *node*, which *caller* may open."""
        entry = self.entry(caller, node)
        if entry.meta is None and not _is_trusted(caller):
            return self._admitted(node, entry, caller)
        return entry

    def entry(self, caller: Caller, node: Node) -> Entry:
        """As Tree.entry, for a caller who may wait."""
        while True:
            try:
                return self._tree.entry(node)
            except Departing:
                self._handles.departures.wait(caller.cancellation, node)
            except Unlisted as missing:
                self._syncer.learn(missing, caller.cancellation)

    def seen_at_once(self, caller: Caller, node: Node) -> Entry | None:
        """Return the same if that asks nobody; None: `opened` finds out, or says why not."""
        try:
            entry = self._tree.entry(node)
        except MimicError:
            return None
        asks = entry.meta is None and not _is_trusted(caller)
        return None if asks else entry

    def _admitted(self, node: Node, entry: Entry, caller: Caller) -> Entry:
        """Return *entry* once its stored mode and owner are known: the kernel has let *caller* in
        by the mode and owner of the mount. Raises PosixError ESTALE where the stored ones differ:
        then the kernel looks the name up again, and decides by those."""
        if not self._options.buckets.of(node.bucket).keeps_metadata:
            return entry
        shown = self._attr(caller, node)
        caller.cancellation.wait(self._s3.pool.submit(self._s3.head, node.bucket, node.key))
        now = self._attr(caller, node)
        if (now.mode, now.uid, now.gid) != (shown.mode, shown.uid, shown.gid):
            self._kernel.attributes_changed(node)
            self._kernel.told(TELL_KERNEL_S)
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.key}: other attributes")
        return self.entry(caller, node)

    def _ask(self, node: Node, caller: Caller) -> None:
        """Ask S3 what *node* is now, and tell the mirror and the kernel. Raises PosixError ENOENT;
        ESTALE where it is no longer a regular file: then the kernel looks its name up again."""
        head = self._s3.pool.submit(self._s3.head, node.bucket, node.key)
        caller.cancellation.wait(head)
        if not stat.S_ISREG(self._attr(caller, node).mode):
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.key}")


def _is_trusted(caller: Caller) -> bool:
    """Whether *caller* is root or the user who mounted, who may read the bucket anyway."""
    return caller.uid in (0, os.getuid())
