"""A complete file system in memory, to test the FUSE protocol with.

It counts the calls and the lookup counts, and can be told to stall, to fail, or not to know.
One lock around every call that touches the tree; stalls are outside of it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

from mimicfs.baton import Baton
from mimicfs.errors import PosixError, Unlisted
from mimicfs.posix import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT_INO,
    Answered,
    Attr,
    Caller,
    DirEntry,
    NewAttr,
    Opened,
    Usage,
)

PAGE = 4096
KEEP_SIZE, PUNCH_HOLE = 1, 2  # fallocate(2)


class Node:
    def __init__(self, ino: int, mode: int, uid: int, gid: int) -> None:
        self.ino, self.mode, self.uid, self.gid = ino, mode, uid, gid
        self.mtime_ns = self.atime_ns = self.ctime_ns = time.time_ns()
        self.rdev = 0
        self.data = bytearray()
        self.pages: set[int] = set()  # those that are no holes
        self.xattrs: dict[bytes, bytes] = {}
        self.children: dict[bytes, Node] = {}
        self.cookies: dict[bytes, int] = {}
        self.order: list[tuple[int, bytes]] = []  # (cookie, name); removed names stay in it
        self.directories = 0  # among the children
        self.linked = True
        self.opens = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def attr(self) -> Attr:
        nlink = 1 if self.linked else 0
        if self.is_directory:
            nlink = 2 + self.directories
        times = (self.atime_ns, self.ctime_ns)
        size = len(self.data)
        owner = (self.uid, self.gid)
        return Attr(self.ino, self.mode, size, self.mtime_ns, *owner, nlink, *times, self.rdev)

    def changed(self) -> None:
        self.mtime_ns = self.ctime_ns = time.time_ns()

    def add(self, name: bytes, child: Node) -> None:
        if name in self.children:
            self.directories -= self.children[name].is_directory
        else:
            cookie = self.order[-1][0] + 1 if self.order else 1
            self.cookies[name] = cookie
            self.order.append((cookie, name))
        self.children[name] = child
        self.directories += child.is_directory
        self.changed()

    def remove(self, name: bytes) -> None:
        self.directories -= self.children.pop(name).is_directory
        del self.cookies[name]
        self.changed()

    def resize(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
            self.pages = {page for page in self.pages if page * PAGE < size}
        else:
            self.data.extend(bytes(size - len(self.data)))
        self.changed()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        end = offset + len(data)
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        self.pages.update(range(offset // PAGE, -(-end // PAGE)))
        self.changed()

    def punch(self, offset: int, size: int) -> None:
        end = min(offset + size, len(self.data))
        if end > offset:
            self.data[offset:end] = bytes(end - offset)
        self.pages.difference_update(range(-(-offset // PAGE), end // PAGE))
        self.changed()


class MemFS:
    """Implements posix.FileSystem. *calls* counts them by name."""

    def __init__(self, *, quick: bool = True) -> None:
        self.quick = quick
        self.baton = Baton()
        self.calls: Counter[str] = Counter()
        self.holds: Counter[int] = Counter()
        self.faults: list[str] = []  # what a correct server never does
        self.stalls: dict[str, Future[None]] = {}  # a call of that name waits for the future
        self.stalled: Counter[str] = Counter()  # how many wait right now
        self.failures: dict[str, Exception] = {}  # a call of that name raises it
        self.unlisted: set[int] = set()  # directories that must be learned first
        self.keep_cache = False
        self.direct = False
        self.callers: dict[str, Caller] = {}  # the latest of each call
        self.root = Node(ROOT_INO, stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        self.nodes: dict[int, Node] = {ROOT_INO: self.root}
        self.handles: dict[int, Node] = {}
        self._lock = threading.RLock()
        self._last_ino = ROOT_INO
        self._last_handle = 0

    # For tests

    def make(self, path: str, data: bytes | None = b"") -> Node:
        """Make a file (a directory if *data* is None) as from outside; parents must exist."""
        *above, name = path.strip("/").encode().split(b"/")
        with self._lock:
            parent = self.root
            for part in above:
                parent = parent.children[part]
            kind = stat.S_IFDIR | 0o755 if data is None else stat.S_IFREG | 0o644
            node = self._new(kind, os.getuid(), os.getgid())
            if data:
                node.write(0, data)
            parent.add(name, node)
            return node

    def find(self, path: str) -> Node:
        node = self.root
        for part in path.strip("/").encode().split(b"/"):
            node = node.children[part]
        return node

    def remove(self, path: str) -> None:
        """Remove a file as from outside."""
        directory, _, name = path.strip("/").rpartition("/")
        with self._lock:
            parent = self.find(directory) if directory else self.root
            parent.children[name.encode()].linked = False
            parent.remove(name.encode())

    def held(self) -> int:
        return sum(self.holds.values())

    # posix.FileSystem

    def idle(self) -> None:
        self.calls["idle"] += 1

    def learn(self, caller: Caller, missing: Exception) -> None:
        self._called("learn", caller)
        if not isinstance(missing, Unlisted):
            raise missing
        self.unlisted.discard(int(missing.bucket))

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Attr:
        self._called("lookup", caller)
        self._known(parent)
        with self._lock:
            return self._hold(self._child(parent, name))

    def forget(self, ino: int, count: int) -> None:
        self.calls["forget"] += 1
        with self._lock:
            self.holds[ino] -= count
            if self.holds[ino] < 0 and ino != ROOT_INO:
                self.faults.append(f"inode {ino} forgotten {-self.holds[ino]} times too often")
            if not self.holds[ino]:
                del self.holds[ino]
            self._drop_unused(ino)

    def getattr(self, caller: Caller, ino: int, handle: int | None) -> Attr:
        self._called("getattr", caller)
        return self._node(ino).attr()

    def drop_privileges(self, caller: Caller, ino: int, mode: int, handle: int | None) -> None:
        self.setattr(caller, ino, NewAttr(mode=mode), handle)

    def unheard(self, ino: int) -> None:
        pass

    def setattr(self, caller: Caller, ino: int, new: NewAttr, handle: int | None) -> Attr:
        self._called("setattr", caller)
        with self._lock:
            node = self._node(ino)
            if new.mode is not None:
                node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(new.mode)
            node.uid = node.uid if new.uid is None else new.uid
            node.gid = node.gid if new.gid is None else new.gid
            if new.size is not None:
                node.resize(new.size)
            node.atime_ns = node.atime_ns if new.atime_ns is None else new.atime_ns
            node.mtime_ns = node.mtime_ns if new.mtime_ns is None else new.mtime_ns
            node.ctime_ns = time.time_ns()
            return node.attr()

    def readdir(
        self, caller: Caller, ino: int, cookie: int, size: int, overhead: int, hold: bool
    ) -> list[DirEntry]:
        self.calls["readdir"] += 1
        self._known(ino)
        entries = []
        with self._lock:
            node = self._directory(ino)
            children, order, holds = node.children, node.order, self.holds
            for index in range(bisect_right(order, (cookie, b"\xff" * 5000)), len(order)):
                place, name = order[index]
                child = children.get(name)
                if child is None or node.cookies[name] != place:
                    continue
                size -= overhead + len(name) + 7 & ~7
                if size < 0:
                    break
                if hold:
                    holds[child.ino] += 1
                entries.append(DirEntry(name, child.attr(), place))
        self._called("listed", caller)
        return entries

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Attr:
        self._called("mknod", caller)
        return self._hold(self._make(caller, parent, name, mode, rdev))

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Attr:
        self._called("mkdir", caller)
        return self._hold(self._make(caller, parent, name, stat.S_IFDIR | stat.S_IMODE(mode)))

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Attr:
        self._called("symlink", caller)
        node = self._make(caller, parent, name, stat.S_IFLNK | 0o777)
        node.data[:] = target
        return self._hold(node)

    def readlink(self, caller: Caller, ino: int) -> bytes:
        self._called("readlink", caller)
        return bytes(self._node(ino).data)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._called("unlink", caller)
        with self._lock:
            node = self._child(parent, name)
            if node.is_directory:
                raise PosixError(errno.EISDIR)
            self._take_out(parent, name)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._called("rmdir", caller)
        with self._lock:
            node = self._child(parent, name)
            if not node.is_directory:
                raise PosixError(errno.ENOTDIR)
            if node.children:
                raise PosixError(errno.ENOTEMPTY)
            self._take_out(parent, name)

    def rename(
        self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        self._called("rename", caller)
        with self._lock:
            source, target = self._directory(parent), self._directory(new_parent)
            node, other = self._child(parent, name), target.children.get(new_name)
            if flags & RENAME_NOREPLACE and other is not None:
                raise PosixError(errno.EEXIST)
            if flags & RENAME_EXCHANGE:
                source.add(name, self._child(new_parent, new_name))
                target.add(new_name, node)
                return
            if other is not None:
                self._replace(node, other, new_parent, new_name)
            source.remove(name)
            target.add(new_name, node)

    def open(self, caller: Caller, ino: int, flags: int) -> Opened:
        self._called("open", caller)
        with self._lock:
            node = self._node(ino)
            if flags & os.O_TRUNC:
                node.resize(0)
            return self._open(node)

    def open_at_once(self, caller: Caller, ino: int, flags: int) -> Opened | None:
        return None

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened]:
        self._called("create", caller)
        node = self._make(caller, parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        return self._hold(node), self._open(node)

    def create_at_once(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened] | None:
        return None

    def read(self, caller: Caller, handle: int, offset: int, size: int) -> bytes | memoryview:
        self._called("read", caller)
        return bytes(memoryview(self.handles[handle].data)[offset : offset + size])

    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        return None

    def read_later(self, handle: int, offset: int, size: int, done: Answered) -> bool:
        return False

    def write(
        self, caller: Caller, handle: int, offset: int, data: memoryview, *, append: bool
    ) -> int:
        self._called("write", caller)
        with self._lock:
            node = self.handles[handle]
            node.write(len(node.data) if append else offset, data)
        return len(data)

    def write_at_once(self, handle: int, offset: int, data: memoryview) -> bool:
        return False

    def flush(self, caller: Caller, handle: int) -> None:
        self._called("flush", caller)

    def flush_later(self, handle: int, done: Callable[[Exception | None], None]) -> bool:
        return False

    def fsync(self, caller: Caller, handle: int) -> None:
        self._called("fsync", caller)

    def release_at_once(self, handle: int) -> bool:
        return False

    def release(self, handle: int) -> None:
        self.calls["release"] += 1
        with self._lock:
            node = self.handles.pop(handle)
            node.opens -= 1
            self._drop_unused(node.ino)

    def fallocate(self, caller: Caller, handle: int, mode: int, offset: int, size: int) -> None:
        self._called("fallocate", caller)
        with self._lock:
            node = self.handles[handle]
            if mode == PUNCH_HOLE | KEEP_SIZE:
                node.punch(offset, size)
            elif mode & ~KEEP_SIZE:
                raise PosixError(errno.EOPNOTSUPP)
            elif not mode and offset + size > len(node.data):
                node.resize(offset + size)

    def lseek(self, caller: Caller, handle: int, offset: int, whence: int) -> int:
        self._called("lseek", caller)
        with self._lock:
            node = self.handles[handle]
            size = len(node.data)
            if offset >= size:
                raise PosixError(errno.ENXIO)
            while offset < size and (offset // PAGE in node.pages) == (whence == os.SEEK_HOLE):
                offset = (offset // PAGE + 1) * PAGE
            if offset >= size and whence == os.SEEK_DATA:
                raise PosixError(errno.ENXIO)
            return min(offset, size)

    def copy_file_range(
        self, caller: Caller, source: int, offset: int, target: int, target_offset: int, size: int
    ) -> int:
        self._called("copy_file_range", caller)
        with self._lock:
            data = bytes(self.handles[source].data[offset : offset + size])
            self.handles[target].write(target_offset, data)
            return len(data)

    def statfs(self, caller: Caller, ino: int) -> Usage:
        self._called("statfs", caller)
        used = sum(len(node.data) for node in self.nodes.values())
        return Usage(used, 1 << 30, len(self.nodes), 1 << 20, name_max=1024)

    def getxattr(self, caller: Caller, ino: int, name: bytes) -> bytes:
        self._called("getxattr", caller)
        self.calls["getxattr " + name.decode()] += 1
        try:
            return self._node(ino).xattrs[name]
        except KeyError as exc:
            raise PosixError(errno.ENODATA) from exc

    def listxattr(self, caller: Caller, ino: int) -> list[bytes]:
        self._called("listxattr", caller)
        return list(self._node(ino).xattrs)

    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None:
        self._called("setxattr", caller)
        xattrs = self._node(ino).xattrs
        if flags & os.XATTR_CREATE and name in xattrs:
            raise PosixError(errno.EEXIST)
        if flags & os.XATTR_REPLACE and name not in xattrs:
            raise PosixError(errno.ENODATA)
        xattrs[name] = value

    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None:
        self._called("removexattr", caller)
        if self._node(ino).xattrs.pop(name, None) is None:
            raise PosixError(errno.ENODATA)

    # What the above is made of

    def _called(self, name: str, caller: Caller) -> None:
        self.calls[name] += 1
        self.callers[name] = caller
        if name in self.failures:
            raise self.failures[name]
        stall = self.stalls.get(name)
        if stall is not None:
            self.stalled[name] += 1
            try:
                caller.cancellation.wait(stall, 60)
            finally:
                self.stalled[name] -= 1

    def _known(self, ino: int) -> None:
        if ino in self.unlisted:
            raise Unlisted(str(ino))

    def _node(self, ino: int) -> Node:
        node = self.nodes.get(ino)
        if node is None:
            self.faults.append(f"inode {ino} used after it was forgotten")
            raise PosixError(errno.ESTALE)
        return node

    def _directory(self, ino: int) -> Node:
        node = self._node(ino)
        if not node.is_directory:
            raise PosixError(errno.ENOTDIR)
        return node

    def _child(self, parent: int, name: bytes) -> Node:
        child = self._directory(parent).children.get(name)
        if child is None:
            raise PosixError(errno.ENOENT, repr(name))
        return child

    def _hold(self, node: Node) -> Attr:
        with self._lock:
            self.holds[node.ino] += 1
        return node.attr()

    def _new(self, mode: int, uid: int, gid: int) -> Node:
        self._last_ino += 1
        node = self.nodes[self._last_ino] = Node(self._last_ino, mode, uid, gid)
        return node

    def _make(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int = 0) -> Node:
        with self._lock:
            directory = self._directory(parent)
            if name in directory.children:
                raise PosixError(errno.EEXIST, repr(name))
            node = self._new(mode, caller.uid, caller.gid)
            node.rdev = rdev
            directory.add(name, node)
            return node

    def _open(self, node: Node) -> Opened:
        with self._lock:
            self._last_handle += 1
            self.handles[self._last_handle] = node
            node.opens += 1
            return Opened(self._last_handle, self.keep_cache, self.direct)

    def _replace(self, node: Node, other: Node, parent: int, name: bytes) -> None:
        if other.is_directory and not node.is_directory:
            raise PosixError(errno.EISDIR)
        if node.is_directory and not other.is_directory:
            raise PosixError(errno.ENOTDIR)
        if other.children:
            raise PosixError(errno.ENOTEMPTY)
        self._take_out(parent, name)

    def _take_out(self, parent: int, name: bytes) -> None:
        directory = self._directory(parent)
        node = directory.children[name]
        directory.remove(name)
        node.linked = False
        self._drop_unused(node.ino)

    def _drop_unused(self, ino: int) -> None:
        node = self.nodes.get(ino)
        if node is not None and not node.linked and not node.opens and not self.holds[ino]:
            del self.nodes[ino]
