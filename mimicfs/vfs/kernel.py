"""What a change of the mirror makes wrong in the kernel's caches, and telling it exactly that.

Changes that come through the mount itself need no telling: the kernel made them. This is
for syncs, for repairs, and for what other processes wrote into a shared store.

Threading: `changed` runs in the thread that merged the change, under no lock. The kernel is
told by the notifier's own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mimicfs import metadata
from mimicfs.entry import Difference
from mimicfs.mimicdb import MimicDB
from mimicfs.posix import KernelCache
from mimicfs.vfs import names
from mimicfs.vfs.inodes import Inodes, Kind, Node, slot_of


class News:
    """Carries differences of the mirror to *kernel*."""

    def __init__(self, mimicdb: MimicDB, inodes: Inodes, kernel: KernelCache) -> None:
        self._mimicdb = mimicdb
        self._inodes = inodes
        self._kernel = kernel
        self._locked = threading.local()  # .ino: see `locked`

    @contextmanager
    def locked(self, ino: int) -> Iterator[None]:
        """Within, this thread answers a request for which the kernel keeps directory *ino*
        locked, and it is going to wait for the kernel: no name in it may be told singly."""
        self._locked.ino = ino
        try:
            yield
        finally:
            self._locked.ino = 0

    def changed(self, bucket: str, difference: Difference | None) -> None:
        """Tell the kernel what *difference* made wrong; None: anything in the bucket may be."""
        if difference is None:
            self._anything(bucket)
            return
        listings: set[int] = set()
        read: set[int] = set()
        for key in difference.added:
            self._appeared(bucket, key, listings)
        for key in difference.deleted:
            self._vanished(bucket, key, listings)
        for key in difference.changed:
            self._differs(bucket, key, read)
        for ino in listings:
            if self._is_locked(ino):  # nobody reads it meanwhile: its pages can just be dropped
                self._kernel.data_changed(ino)
            else:
                self._kernel.listing_changed(ino)

    def _is_locked(self, ino: int) -> bool:
        return getattr(self._locked, "ino", 0) == ino

    def _appeared(self, bucket: str, key: str, listings: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        if not slot:  # a marker object for a directory that the kernel knows
            self._kernel.attr_changed(node.ino)
            return
        if node.asked or node.kind == Kind.ACCOUNT:
            self._name_changed(node, slot)
            listings.add(node.ino)
        known = self._inodes.find(node, slot)
        if known is not None:
            self._version_changed(known, key)

    def _vanished(self, bucket: str, key: str, listings: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        above_it = list(_way_up(node))
        if slot:
            self._name_changed(node, slot)
            listings.add(node.ino)
            known = self._inodes.find(node, slot)
            if known is not None:
                self._version_changed(known, key)
        # The directories above may have gone with their last key. Once the kernel is told of
        # one it may give it up, and a node that was given up has no parent any more.
        for below, above in above_it:
            if not self._gone(bucket, below):
                return
            self._name_changed(above, f"{below[:-1].rpartition('/')[2]}/")
            listings.add(above.ino)

    def _differs(self, bucket: str, key: str, read: set[int]) -> None:
        node, slot = self._deepest(bucket, key)
        if node is None:
            return
        if node.asked and node.ino not in read and not self._is_locked(node.ino):
            # A listing with the old attributes may be on its way to the kernel. Its reader
            # holds the lock of the directory, for which this (of a name that never is) waits.
            self._kernel.entry_changed(node.ino, b".")
            read.add(node.ino)
        known = self._inodes.find(node, slot) if slot else node
        if known is None:
            return
        if known.is_directory:
            self._kernel.attr_changed(known.ino)
        else:
            self._version_changed(known, key)

    def _version_changed(self, node: Node, key: str) -> None:
        """The kernel may hold attributes and pages of an object that is another one now."""
        if node.is_directory:
            self._kernel.listing_changed(node.ino)
            return
        entry = self._mimicdb.entry(node.bucket, key)
        etag = entry.etag if entry is not None else ""
        meta = entry.meta if entry is not None else None
        if node.parent is not None and (node.special or (meta and metadata.is_special(meta))):
            # A file and a link are never the same inode: the kernel must look the name up.
            self._name_changed(node.parent, node.slot)
        file = node.file
        if file is not None and not file.dirty and file.etag != etag:
            file.expire()
            self._replaced(node)
            return
        if node.pages_etag and node.pages_etag == etag:
            self._kernel.attr_changed(node.ino)
        else:
            node.pages_etag = ""
            self._kernel.data_changed(node.ino)

    def _replaced(self, node: Node) -> None:
        """The object of *node*, which is open, is another one now: see Handles."""
        parent, slot = node.parent, node.slot
        self._inodes.unlink(node)
        if parent is not None:
            self._name_changed(parent, slot)

    def _anything(self, bucket: str) -> None:
        for node in [self._inodes.root, *self._inodes.below(self._inodes.root)]:
            if bucket and node.bucket != bucket:
                continue
            if node.kind == Kind.OBJECT:
                self._version_changed(node, node.key)
            elif node.is_directory:
                self._kernel.listing_changed(node.ino)
        self._kernel.everything_changed()

    def _gone(self, bucket: str, directory: str) -> bool:
        return not self._mimicdb.backend.has_below(bucket, directory)

    def _name_changed(self, parent: Node, slot: str) -> None:
        if self._is_locked(parent.ino):
            self._kernel.names_changed()
            return
        component = slot.removesuffix("/")
        self._kernel.entry_changed(parent.ino, names.file_name(component))
        # An object's name depends on whether a directory of the same name is beside it.
        if slot.endswith("/"):
            self._beside_changed(parent, component)
        elif component:
            self._kernel.entry_changed(parent.ino, names.file_name(component, beside=True))

    def _beside_changed(self, parent: Node, component: str) -> None:
        if component and self._mimicdb.entry(parent.bucket, parent.key + component) is not None:
            self._kernel.entry_changed(parent.ino, names.file_name(component, beside=True))

    def _deepest(self, bucket: str, key: str) -> tuple[Node | None, str]:
        """Return the deepest directory on the way to *key* that somebody holds, and the slot
        below it where the way goes on; "" if *key* is that directory itself. (None, ""): the
        key is not below the root."""
        node = self._inodes.root
        if node.kind == Kind.ACCOUNT:
            if not bucket:  # a change in the list of buckets: *key* is a bucket
                return node, slot_of(key, directory=True)
            found = self._inodes.find(node, slot_of(bucket, directory=True))
            if found is None or not key.startswith(found.prefix):
                return None, ""
            node, key = found, key[len(found.prefix) :]
        elif bucket != node.bucket or not key.startswith(node.component):
            return None, ""
        else:
            key = key[len(node.component) :]
        return self._walk(node, key)

    def _walk(self, node: Node, path: str) -> tuple[Node, str]:
        while path:
            component, slash, path = path.partition("/")
            slot = component + slash
            found = self._inodes.find(node, slot)
            if found is None or not slash:
                return node, slot
            node = found
        return node, ""


def _way_up(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the key of *node* and the directory that it is in, then the same of that, up to
    the root of the bucket or of the mount."""
    while (above := node.parent) is not None and above.kind != Kind.ACCOUNT:
        yield node.key, above
        node = above
