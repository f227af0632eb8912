"""Making everything except regular files: directories and buckets, links, pipes, sockets,
devices."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from mimicfs import metadata
from mimicfs.config.values import VFSOptions
from mimicfs.entry import KEY_MAX, Entry, Scope
from mimicfs.errors import PosixError
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Attr, Caller, PassingAttr
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.attributes import Attributes
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import Node, NodeKind, slot_of
from mimicfs.vfs.ownership import Ownership
from mimicfs.vfs.rootattributes import RootAttributes
from mimicfs.vfs.stored import Meta, StoredAttributes
from mimicfs.vfs.tree import Tree


class Making:
    """*attr* returns what stat(2) shows of a node, to a caller who may wait."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        inodes: Inodes,
        tree: Tree,
        stored: StoredAttributes,
        roots: RootAttributes,
        ownership: Ownership,
        claims: RenameClaims,
        options: VFSOptions,
        attr: Callable[[Caller, Node], Attr],
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._inodes = inodes
        self._tree = tree
        self._stored = stored
        self._roots = roots
        self._ownership = ownership
        self._claims = claims
        self._options = options
        self._attributes = Attributes(options)
        self._attr = attr

    def directory(self, caller: Caller, parent: Node, name: bytes, mode: int) -> Attr:
        """Make the directory *name* in *parent*, or a bucket at the root over all buckets."""
        check = partial(self._tree.check_there, parent.ino)
        make = partial(self._directory, caller, parent, name, mode)
        return self._claims.again(caller.cancellation, make, check)

    def _directory(self, caller: Caller, parent: Node, name: bytes, mode: int) -> Attr:
        component = self._tree.new_name(parent, name, of_directory=True)
        slot = slot_of(component, directory=True)
        if parent.kind == NodeKind.ACCOUNT:
            self._s3.create_bucket(component)  # and is listed: it may have been there
            self._roots.forget(component)
        else:
            self._make_directory(caller, parent, parent.key + slot, mode)
        parent.mtime_ns = time.time_ns()
        with self._inodes.holding(parent, slot, NodeKind.DIRECTORY) as node:
            return self._attr(caller, node)

    def _make_directory(self, caller: Caller, parent: Node, key: str, mode: int) -> None:
        covered = self._mimicdb.cover(parent.bucket, parent.key) is not None
        if len(key.encode()) > KEY_MAX:
            raise PosixError(errno.ENAMETOOLONG, f"a key in S3 has at most {KEY_MAX} bytes")
        self._options.buckets.check_writable(parent.bucket)
        if self._ownership.inherited_group(caller, parent) is not None:
            mode |= stat.S_ISGID
        uid, gid = self._ownership.of_new(caller, parent)
        meta = metadata.written(metadata.directory_mode(mode), uid, gid, time.time_ns())
        if covered:  # no key begins with this one: so it is known that nothing is below it
            # This comes before the key is known: until then, what S3 tells of the key is passed
            # over.
            self._mimicdb.complete(parent.bucket, Scope(key, True, time.time_ns()))
        try:
            markers = self._stored.markers
            with self._claims.begun(parent.bucket, key) if markers.are_kept else nullcontext():
                markers.make(parent.bucket, key, meta)
        except BaseException:
            if covered:
                self._mimicdb.uncover(parent.bucket, key)
            raise

    def special(self, caller: Caller, parent: Node, name: bytes, mode: int, rdev: int) -> Attr:
        """Make a pipe, a socket or a device. Raises PosixError EINVAL for another type."""
        if stat.S_IFMT(mode) not in metadata.SPECIAL:
            raise PosixError(errno.EINVAL, f"mknod of type {stat.S_IFMT(mode):#o}")
        said = partial(metadata.written, mode, mtime_ns=time.time_ns(), rdev=rdev or None)
        kind = stat.S_IFMT(mode)
        return self._made(caller, parent, name, kind, self._stored.make_special, said)

    def link(self, caller: Caller, parent: Node, name: bytes, target: bytes) -> Attr:
        """Make a symbolic link to *target*."""
        said = partial(metadata.written, stat.S_IFLNK | 0o777, mtime_ns=time.time_ns())
        make = partial(self._stored.make_link, target=target)
        return self._made(caller, parent, name, stat.S_IFLNK, make, said)

    def _made(self, caller: Caller, parent: Node, *what: Any) -> Attr:
        check = partial(self._tree.check_there, parent.ino)
        make = partial(self._make, caller, parent, *what)
        return self._claims.again(caller.cancellation, make, check)

    def _make(
        self,
        caller: Caller,
        parent: Node,
        name: bytes,
        kind: int,
        make: Callable[..., Entry],
        said: Callable[[int, int], Meta],
    ) -> Attr:
        check_in_bucket(parent)
        component = self._tree.new_name(parent, name)
        uid, gid = self._ownership.of_new(caller, parent)
        meta = said(uid, gid)
        with self._claims.begun(parent.bucket, parent.key + component):
            made = make(parent.bucket, parent.key + component, meta=meta)
        parent.mtime_ns = time.time_ns()
        with self._inodes.holding(parent, component, NodeKind.OBJECT) as node:
            attr = self._attr_of(caller, node, made._replace(meta=meta))
        if stat.S_IFMT(attr.mode) == kind:
            return attr
        # Another mount has put something else there since. The kernel takes no other type from the
        # call that made a file (EIO), so it must ask again.
        return PassingAttr(*attr._replace(mode=kind | stat.S_IMODE(attr.mode)))

    def _attr_of(self, caller: Caller, node: Node, made: Entry) -> Attr:
        """Return what stat(2) shows of *node*, whose object S3 has just *made*. Others may have
        removed it since, or the mirror may not know yet what is there: it was made all the same."""
        try:
            return self._attr(caller, node)
        except PosixError as exc:
            if exc.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            return PassingAttr(*self._attributes.of_object(node.ino, made))


def check_in_bucket(directory: Node) -> None:
    """Raise PosixError EPERM if *directory* is the root over all buckets: no file can be there."""
    if directory.kind == NodeKind.ACCOUNT:
        raise PosixError(errno.EPERM, "files cannot be outside buckets; mkdir makes a bucket")
