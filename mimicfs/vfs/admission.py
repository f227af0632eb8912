"""Admission at an open: who may open a file, and which version of it; and what S3 is asked before.

Threading: any thread; waits for S3.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from mimicfs.config.values import VFSOptions
from mimicfs.entry import Entry
from mimicfs.errors import MimicError, PosixError
from mimicfs.posix import Attr, Caller
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.inodes import Node
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.tree import Tree

# How long an open waits at most for the kernel to be told of earlier changes.
TELL_KERNEL_S = 5.0


class Admission:
    """*attr* returns what stat(2) shows of a node, to a caller who may wait."""

    def __init__(
        self,
        s3: S3,
        kernel: Kernel,
        tree: Tree,
        options: VFSOptions,
        attr: Callable[[Caller, Node], Attr],
    ) -> None:
        self._s3 = s3
        self._kernel = kernel
        self._tree = tree
        self._options = options
        self._attr = attr

    def seen(self, caller: Caller, node: Node) -> Entry:
        """Return what the mirror has of *node*, which *caller* may open."""
        entry = self._tree.entry(node)
        if entry.meta is None and caller.uid not in (0, os.getuid()):
            return self._admitted(node, entry, caller)
        return entry

    def seen_at_once(self, caller: Caller, node: Node) -> Entry | None:
        """Return the same if that asks nobody; None: `seen` finds out, or says why not."""
        try:
            entry = self._tree.entry(node)
        except MimicError:
            return None
        asks = entry.meta is None and caller.uid not in (0, os.getuid())
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
        return self._tree.entry(node)

    def ask(self, node: Node, caller: Caller) -> None:
        """Ask S3 what *node* is now, and tell the mirror and the kernel. Raises PosixError ENOENT;
        ESTALE where it is no longer a regular file: then the kernel looks its name up again."""
        head = self._s3.pool.submit(self._s3.head, node.bucket, node.key)
        caller.cancellation.wait(head)
        if not stat.S_ISREG(self._attr(caller, node).mode):
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.key}")
