"""Buckets as a file system: names, attributes and directories come from the mirror, and a change
goes to S3 first and to the mirror second. Implements posix.FileSystem; knows nothing of FUSE.

Others do most of it: `tree.py` shows names, `handles.py` has the bytes of open files, `making.py`
makes directories and links, `leaving.py` removes and renames, `control.py` answers for the control
file and the attributes `user.mimicfs.*`, and `kernel.py` tells the kernel what changed.

Threading: any method, many threads. Two changes in one directory never meet: the kernel
locks the directory. State is in the mirror, the inode table and the handle table, each with
its own lock; no method holds a lock while it waits for S3.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from mimicfs.config.values import FileOptions, VFSOptions
from mimicfs.errors import (
    Departing,
    PosixError,
    Unasked,
    Uncopied,
    Uncounted,
    Unlearned,
    Unlisted,
    Unversioned,
)
from mimicfs.files.cache import BlockCache
from mimicfs.files.journal import Journal
from mimicfs.locks.shared import SharedLocks
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Answered, Attr, Caller, DirEntry, KernelCache, NewAttr, Opened, Usage
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.past import entry_of
from mimicfs.sync import Syncer
from mimicfs.vfs import names
from mimicfs.vfs.admission import TELL_KERNEL_S, Admission
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.control import Control
from mimicfs.vfs.creating import Creating
from mimicfs.vfs.firstlook import FirstLook
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.intents import RENAMES, Intents
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.leaving import Leaving
from mimicfs.vfs.locking import VFSLocks
from mimicfs.vfs.making import Making
from mimicfs.vfs.moves import Mover
from mimicfs.vfs.nodes import Node, NodeKind, VersionNode, check_present, parent_of
from mimicfs.vfs.objectattributes import ObjectAttributes
from mimicfs.vfs.opening import WRITES
from mimicfs.vfs.ownership import Ownership
from mimicfs.vfs.renames import Renames
from mimicfs.vfs.replacing import Replacing
from mimicfs.vfs.rootattributes import RootAttributes
from mimicfs.vfs.smallfiles import SmallFiles
from mimicfs.vfs.stored import StoredAttributes
from mimicfs.vfs.table import Below
from mimicfs.vfs.tree import Tree
from mimicfs.vfs.vacated import Vacated
from mimicfs.vfs.versions import VersionsTree
from mimicfs.vfs.writeback import Pending
from mimicfs.vfs.xattrs import ExtendedAttributes

# Modes of fallocate(2), from linux/falloc.h. A hole is punched only with "keep the size".
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02 | FALLOC_KEEP_SIZE
FALLOC_ZERO_RANGE = 0x10

# The size that df shows of the file system: S3 has no limit, and df needs one.
_CAPACITY = 1 << 50


class VFS:
    """The file system over *mimicdb* and *s3*. *kernel* is told what changed behind its back."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        syncer: Syncer,
        journal: Journal,
        kernel: KernelCache,
        options: VFSOptions,
        file_options: FileOptions,
        cache: BlockCache | None = None,
        small_files: SmallFiles | None = None,
    ) -> None:
        self.quick = mimicdb.quick
        self.inodes = Inodes(
            options.target.bucket, options.target.prefix, options.buckets.prefixes()
        )
        self._mimicdb = mimicdb
        mimicdb.later.begin(s3.pool.submit)
        self._s3, self.baton = s3, s3.baton
        self._small_files = small_files
        self._syncer = syncer
        self._options = options
        reserved = names.WITH_VERSIONS if options.versions else names.RESERVED
        self._kernel = Kernel(mimicdb, self.inodes, kernel, reserved)
        self._control = Control(mimicdb, s3, syncer, self._kernel, options.sync_rate)
        self._handles = Handles(
            Below(mimicdb, s3, journal, self.inodes, self._kernel, file_options, cache)
        )
        self._roots = roots = RootAttributes(mimicdb, options.buckets)
        self._stored = StoredAttributes(mimicdb, s3, self._kernel, roots, options)
        self._look = FirstLook(mimicdb, s3, options.buckets)
        self._objects = ObjectAttributes(mimicdb, s3, self._stored)
        self._tree = Tree(mimicdb, syncer, self.inodes, self._handles, self._look, roots, options)
        self._admission = Admission(
            s3, syncer, self._kernel, self._tree, self._handles, options, self._attr
        )
        self._versions = VersionsTree(mimicdb, s3, self.inodes, self._kernel, options)
        self._xattrs = ExtendedAttributes(
            mimicdb,
            self._control,
            self._objects,
            self._stored,
            self._look,
            self._handles,
            self._admission,
        )
        self._change_names_by(roots, Intents(journal.directory / RENAMES, s3.account()))
        mimicdb.subscribe(self._look.changed)  # first: once it is told, the kernel asks at once
        mimicdb.subscribe(roots.changed)
        mimicdb.subscribe(self._kernel.changed)

    def _change_names_by(self, roots: RootAttributes, intents: Intents) -> None:
        """Build the parts that make, create, rename and remove."""
        mimicdb, s3, syncer, options = self._mimicdb, self._s3, self._syncer, self._options
        tree, handles = self._tree, self._handles
        ownership, claims = Ownership(options, self._attr), RenameClaims(mimicdb)
        made_by = (mimicdb, s3, self.inodes, tree, self._stored, roots, ownership, claims)
        self._making = Making(*made_by, options, self._attr)
        vacated = Vacated(s3)
        self._creating = Creating(
            self.inodes, tree, handles, self._stored, vacated, ownership, options
        )
        renames, kernel = Renames(mimicdb, s3, syncer, intents), self._kernel
        mover = Mover(mimicdb, s3, syncer, self.inodes, handles, renames, claims, kernel, vacated)
        replacing = Replacing(mimicdb, s3, syncer, handles, tree, claims)
        parts = (s3, tree, handles, replacing, claims, mover, roots, kernel)
        self._leaving = Leaving(*parts, options.buckets)

    def locks(self, shared: SharedLocks, catch_up: Callable[[str, float], bool]) -> VFSLocks:
        """Return the locks of open files; *shared* keeps them."""
        return VFSLocks(shared, self._handles, self._kernel, catch_up)

    def close(self) -> None:
        """Upload what is open and changed. Raises the first error, after trying all."""
        self._handles.close()

    def pending(self) -> tuple[int, int]:
        """Return how many files, and how many bytes, S3 does not have yet."""
        return self._handles.pending()

    def has_writers(self) -> bool:
        """Return whether something is open for writing."""
        return self._handles.has_writers()

    def save_mapped(self) -> bool:
        """Have the kernel write what was stored through mappings; return whether it has."""
        return self._handles.save_mapped()

    def queued(self) -> list[Pending]:
        """Return the closed files that S3 does not have yet (--write-back)."""
        return self._handles.queued()

    def place(self, ino: int) -> str:
        """Return the URL of the file or directory *ino*; "?" if nobody holds it any more."""
        try:
            node = self.inodes.get(ino)
            return f"s3://{node.bucket}/{node.key}" if node.bucket else "s3://"
        except PosixError:
            return "?"

    def figures(self) -> dict[str, int]:
        """Return how many files are open, and how many are not saved."""
        return self._handles.figures()

    # Names and attributes

    def learn(self, caller: Caller, missing: Exception) -> None:
        if isinstance(missing, Unasked):
            self._control.allow(caller)
            self._objects.ask(missing)
        elif isinstance(missing, Uncounted):
            self._control.count(missing)
        elif isinstance(missing, Uncopied):
            self._mimicdb.bring(missing.bucket, missing.directory)
        elif isinstance(missing, Unlearned):
            self._look.learn(missing, caller.cancellation)
        elif isinstance(missing, Unversioned):
            self._versions.learn(missing)
        elif isinstance(missing, Departing):
            self._handles.departures.wait(caller.cancellation)
        elif isinstance(missing, Unlisted):
            self._syncer.learn(missing, caller.cancellation)
        else:
            raise missing

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Attr:
        directory = self._tree.directory(parent)
        if directory.is_past or (name == names.VERSIONS and self._options.versions):
            return self._versions.lookup(directory, name)
        return self._tree.lookup(directory, name)

    def forget(self, ino: int, count: int) -> None:
        self.inodes.forget(ino, count)

    def getattr(self, caller: Caller, ino: int, handle: int | None) -> Attr:
        file = self._handles.file(handle) if handle is not None else None
        node = self.inodes.get(ino)
        if node.is_past:
            return self._versions.attr(node)
        special, attr = node.special, self._tree.attr(node, file)
        if node.special != special:  # the kernel has a file of another type: it must look again
            node.special = special
            raise PosixError(errno.ESTALE, f"inode {ino}")
        return attr

    def opendir(self, caller: Caller, ino: int) -> bool:
        directory = self._tree.directory(ino)
        return not directory.is_past and self._tree.opendir(directory)

    def readdir(
        self, caller: Caller, ino: int, cookie: int, size: int, overhead: int, hold: bool
    ) -> list[DirEntry]:
        directory = self._tree.directory(ino)
        room = (size, overhead)
        if directory.is_past:
            return self._versions.readdir(directory, cookie, room, hold)
        found = self._tree.readdir(directory, cookie, *room, hold)
        if self._small_files is not None and not cookie and directory.kind != NodeKind.ACCOUNT:
            self._small_files.listed(directory)
        return found

    def idle(self) -> list[DirEntry] | None:
        return self._tree.idle()

    # Directories

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Attr:
        return self._made(self._making.directory, caller, parent, name, mode)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._leaving.rmdir(caller, parent, name)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._leaving.unlink(caller, parent, name)

    def rename(
        self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        self._leaving.rename(caller, (parent, name), (new_parent, new_name), flags)

    # Attributes

    def setattr(self, caller: Caller, ino: int, new: NewAttr, handle: int | None) -> Attr:
        node = self._changeable(ino)
        if node.kind == NodeKind.CONTROL:
            if new.mtime_ns is not None:
                self._control.sync(caller, parent_of(node))
            return self._attr(caller, node)
        same = set[Node]()  # what the kernel has as other inodes
        pages = False
        if node.kind != NodeKind.OBJECT:
            self._set(caller, node, new, handle)
            attr = self._attr(caller, node, handle)
        else:
            with self._admission.held(caller, node) as stands:
                self._set(caller, stands, new, handle)
                attr = self._attr(caller, node, handle)
                same, pages = {stands, *stands.also} - {node}, new.size is not None
        # A directory and the content of its marker are one object, but two inodes in the kernel.
        twin = self.inodes.find(node, "") if node.slot else node.parent
        if twin is not None:
            same.add(twin)
        for each in same:
            self._kernel.grew(each) if pages else self._kernel.attributes_changed(each)
        if same:
            self._kernel.told(TELL_KERNEL_S)
        return self._handles.sized(node, attr)

    def _changeable(self, ino: int) -> Node:
        """Return the node *ino*, which is to be changed. Raises PosixError EROFS."""
        node = self.inodes.get(ino)
        check_present(node)
        return node

    def _set(self, caller: Caller, node: Node, new: NewAttr, handle: int | None) -> None:
        if new.size is not None:
            self._truncate(caller, node, new.size, handle)
        if new._replace(size=None) != NewAttr():
            with self._handles.turn(node, caller.cancellation):
                now = self._attr(caller, node)
                self._stored.set_attributes(node, now, new)

    def drop_privileges(self, caller: Caller, ino: int, mode: int, handle: int | None) -> None:
        """Give *ino*, which was changed, *mode*, without set-user-id and set-group-id. The kernel
        is told before the change is answered: otherwise it would let the file run with them."""
        self.setattr(caller, ino, NewAttr(mode=mode), handle)
        self._kernel.attributes_changed(self.inodes.get(ino))
        self._kernel.told(TELL_KERNEL_S)

    def unheard(self, ino: int) -> None:
        """Heal a change of *ino* whose caller was killed before it was answered: the kernel does
        not know what became of it."""
        try:
            node = self.inodes.get(ino)
        except PosixError:
            return  # the kernel has forgotten it
        if node.is_directory:
            self._kernel.unheard(ino)
        else:
            self._kernel.attributes_changed(node)

    def _truncate(self, caller: Caller, node: Node, size: int, handle: int | None) -> None:
        if node.is_directory:
            raise PosixError(errno.EISDIR, f"s3://{node.bucket}/{node.key}")
        if handle is not None:
            self._handles.truncate(handle, size, caller.cancellation)
        else:
            self._admission.truncate(caller, node, size)

    # Special files and extended attributes

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Attr:
        if stat.S_ISREG(mode):
            attr, opened = self.create(caller, parent, name, mode, os.O_WRONLY)
            try:
                self.flush(caller, opened.handle)
            finally:
                self.release(opened.handle)
            return attr
        return self._made(self._making.special, caller, parent, name, mode, rdev)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Attr:
        return self._made(self._making.link, caller, parent, name, target)

    def readlink(self, caller: Caller, ino: int) -> bytes:
        node = self.inodes.get(ino)
        if node.kind != NodeKind.OBJECT:
            raise PosixError(errno.EINVAL, "not a symbolic link")
        try:
            self._attr(caller, node)
        except PosixError as exc:
            if exc.errno != errno.ESTALE:  # in the mirror it is no link; S3 is asked next
                raise
        return self._stored.target(node, self._admission.entry(caller, node))

    def getxattr(self, caller: Caller, ino: int, name: bytes) -> bytes:
        return self._xattrs.get(caller, self.inodes.get(ino), name)

    def listxattr(self, caller: Caller, ino: int) -> list[bytes]:
        return self._xattrs.names(self.inodes.get(ino))

    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._xattrs.set(caller, self._changeable(ino), name, value, flags)

    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        self._xattrs.remove(caller, self._changeable(ino), name)

    def statfs(self, caller: Caller, ino: int) -> Usage:
        root = self.inodes.root
        known = self._mimicdb.known_buckets()
        shown = [bucket for bucket in known if root.bucket in ("", bucket.name)]
        used = sum(bucket.bytes for bucket in shown)
        files = sum(bucket.objects for bucket in shown)
        node = self.inodes.get(ino)
        directory = node if node.is_directory else node.parent or root
        name_max = names.NAME_MAX if node.is_past else self._tree.name_max(directory)
        return Usage(used, max(_CAPACITY, 2 * used), files, max(_CAPACITY, 2 * files), name_max)

    # Open files

    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        node = self.inodes.get(ino)
        if node.kind == NodeKind.CONTROL:
            return self._handles.open_control(node, self._control.text(parent_of(node)))
        if node.is_directory:
            raise PosixError(errno.EISDIR, f"s3://{node.bucket}/{node.key}")
        if isinstance(node, VersionNode):
            if flags & (os.O_WRONLY | os.O_RDWR):
                check_present(node)
            return self._handles.open_version(node, entry_of(node.version), node.version.version)
        return self._admission.opened(caller, node, flags)

    def open_at_once(self, caller: Caller, ino: int, flags: int) -> Opened | None:
        node = self.inodes.get(ino)
        if node.kind is not NodeKind.OBJECT or flags & (WRITES | os.O_TRUNC):
            return None
        if self._options.ask_at_open or node.parent is None:
            return None
        generation = self._mimicdb.generation
        entry = self._admission.seen_at_once(caller, node)
        return None if entry is None else self._handles.open_at_once(node, entry, generation)

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened]:
        node, opened = self._creating.file(caller, parent, name, mode, flags)
        return self._attr(caller, node, opened.handle), opened

    def create_at_once(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened] | None:
        made = self._creating.file_at_once(caller, parent, name, mode, flags)
        if made is None:
            return None
        node, opened = made
        return self.getattr(caller, node.ino, opened.handle), opened

    def read(self, caller: Caller, handle: int, offset: int, size: int) -> bytes | memoryview:
        return self._handles.read(handle, offset, size, caller.cancellation)

    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        return self._handles.read_cached(handle, offset, size)

    def read_later(self, handle: int, offset: int, size: int, done: Answered) -> bool:
        return self._handles.read_later(handle, offset, size, done)

    def write(
        self, caller: Caller, handle: int, offset: int, data: memoryview, *, append: bool
    ) -> int:
        node = self._handles.node(handle)
        if node.kind == NodeKind.CONTROL:
            self._control.sync(caller, parent_of(node))
            return len(data)
        if append:
            return self._handles.append(handle, offset, data, caller.cancellation)
        return self._handles.write(handle, offset, data, caller.cancellation)

    def write_at_once(self, handle: int, offset: int, data: memoryview) -> bool:
        return self._handles.write_at_once(handle, offset, data)

    def flush(self, caller: Caller, handle: int) -> None:
        self._handles.closed_by(handle, caller.pid)

    def flush_later(self, handle: int, done: Callable[[Exception | None], None]) -> bool:
        return self._handles.closed_later(handle, done)

    def fsync(self, caller: Caller, handle: int) -> None:
        self._handles.flush(handle, caller.cancellation)

    def release(self, handle: int) -> None:
        self._handles.release(handle)

    def release_at_once(self, handle: int) -> bool:
        return self._handles.release_at_once(handle)

    def fallocate(self, caller: Caller, handle: int, mode: int, offset: int, size: int) -> None:
        """Extend, or overwrite with zeros. Nothing is reserved: S3 has no end."""
        what = mode & ~FALLOC_KEEP_SIZE
        if mode != FALLOC_PUNCH_HOLE and what not in (0, FALLOC_ZERO_RANGE):
            raise PosixError(errno.EOPNOTSUPP, f"fallocate mode {mode:#x}")
        if what:
            self._handles.zero(handle, offset, size, caller.cancellation)
        if not mode & FALLOC_KEEP_SIZE:
            self._handles.allocate(handle, offset, size, caller.cancellation)

    def lseek(self, caller: Caller, handle: int, offset: int, whence: int) -> int:
        """Find data or a hole: S3 has no holes, except the one at the end of every file."""
        file = self._handles.file(handle)
        size = self.getattr(caller, self._handles.node(handle).ino, None).size
        size = size if file is None else file.size
        if offset >= size or offset < 0:
            raise PosixError(errno.ENXIO, f"offset {offset}")
        return offset if whence == os.SEEK_DATA else size

    def copy_file_range(
        self, caller: Caller, source: int, offset: int, target: int, target_offset: int, size: int
    ) -> int:
        what = (source, offset, target, target_offset, size)
        return self._handles.copy_whole(*what, caller.cancellation)

    # What the above is made of

    def _attr(self, caller: Caller, node: Node, handle: int | None = None) -> Attr:
        """Return the attributes of *node*, for a caller who may wait."""
        while True:
            try:
                return self.getattr(caller, node.ino, handle)
            except Unlisted as missing:
                self.learn(caller, missing)

    def _made(
        self, make: Callable[..., Attr], caller: Caller, parent: int, name: bytes, *what: object
    ) -> Attr:
        """Return what *make* returns, which puts something called *name* into *parent*."""
        directory = self._tree.changeable(parent)
        changes = self._handles.departures.change(caller.cancellation, directory)
        with changes, self._kernel.changing((directory, name)):
            attr = make(caller, directory, name, *what)
            self._kernel.returned(directory)
            return attr
