"""Turns each request of the kernel into a call of posix.FileSystem, and its result into bytes.

The server answers ENOSYS to a request that is not in `Operations.table`. The kernel then does
without it, for good: OPENDIR and RELEASEDIR (it caches listings by itself; they are in the table
only if *opendir* asks for word of each use), ACCESS (it checks mode bits), FSYNCDIR (changes of
names are durable when they are answered), POLL, BMAP, IOCTL, STATX (it asks GETATTR), TMPFILE,
SYNCFS. Without *locks*, GETLK and SETLK are not in it either: locks are local.

Threading: no state but `Session.listed`; any thread. Errors are exceptions with an errno.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from mimicfs.errors import PassingAbsence, PosixError
from mimicfs.fuse import packing
from mimicfs.fuse.abi import (
    BATCH_FORGET_IN,
    COMPAT_SETXATTR_IN_SIZE,
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    CREATE_IN,
    ENTRY_OUT,
    FALLOCATE_IN,
    FLUSH_IN,
    FORGET_IN,
    FORGET_ONE,
    FSYNC_IN,
    GETATTR_FH,
    GETATTR_IN,
    GETXATTR_IN,
    IN_HEADER,
    LSEEK_IN,
    LSEEK_OUT,
    MKDIR_IN,
    MKNOD_IN,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    RENAME_IN,
    SETATTR_IN,
    SETXATTR_IN,
    WRITE_CACHE,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
    Fattr,
    Fopen,
    Opcode,
)
from mimicfs.fuse.counts import Counts
from mimicfs.fuse.learning import LearnedCalls
from mimicfs.fuse.locking import LockRequests
from mimicfs.fuse.packing import Packer
from mimicfs.fuse.privileges import Privileges
from mimicfs.fuse.unpacking import name_of, new_attr, two_names, user_name
from mimicfs.posix import (
    UNKNOWN_MODE,
    Attr,
    Caller,
    FileLocks,
    FileSystem,
    Opened,
    PassingAttr,
)

log = logging.getLogger(__name__)

Data = bytes | memoryview
Handler = Callable[[Caller, int, bytes], Data]

_BODY = IN_HEADER.size
_COPY_MAX = 0xFFFFF000  # the most that the 32 bits of COPY_FILE_RANGE's answer can say


class Lane(Enum):
    """The threads that answer a call: one that waits for S3 holds up none that does not."""

    QUICK = auto()  # the reading thread, if fs.quick
    OPEN = auto()  # may wait a little; the kernel holds no lock that matters
    NAMES = auto()  # a change of names: the kernel holds the lock of its directory
    DATA = auto()  # may wait for S3: the kernel holds locks of pages
    SYNC = auto()  # may wait for S3, and for a notification of the kernel, so for all the others
    LOCK = auto()  # asks which process has a lock, or gives one up
    WAIT = auto()  # asks for a lock; may wait for as long as others have it


class Operation(NamedTuple):
    handler: Handler
    lane: Lane


class Operations:
    """The requests of one mount of *fs*. *listed* collects the directories that were read.
    *opendir*: fs.opendir is asked before a listing is used. *locks* keeps the locks of files; None:
    the kernel does."""

    def __init__(
        self,
        fs: FileSystem,
        packer: Packer,
        listed: set[int],
        *,
        setxattr_ext: bool = False,
        opendir: bool = False,
        counts: Counts | None = None,
        locks: FileLocks | None = None,
    ) -> None:
        self._fs = fs
        self._locks = locks
        self._counts = counts or Counts()
        self.sure = LearnedCalls(fs, self._counts).sure
        self._privileges = Privileges(fs, self.sure)
        self._packer = packer
        self._passing = Packer(0, 0, 0)
        self._listed = listed
        self._setxattr_size = SETXATTR_IN.size if setxattr_ext else COMPAT_SETXATTR_IN_SIZE
        self.table = {
            int(opcode): Operation(handler, lane)
            for lane, handlers in self._lanes(opendir=opendir).items()
            for opcode, handler in handlers.items()
        }
        # The calls that need no waiting most of the time. They return None where they would wait:
        # then nothing has happened.
        self.at_once: dict[int, Callable[[Caller, int, bytes], Data | None]] = {
            Opcode.READ: self._read_cached,
            Opcode.CREATE: self._create_at_once,
            Opcode.WRITE: self._write_at_once,
        }
        if locks is None:  # with locks, workers take these two
            self.at_once[Opcode.OPEN] = self._open_at_once
            self.at_once[Opcode.RELEASE] = self._release_at_once

    def _lanes(self, *, opendir: bool) -> dict[Lane, dict[Opcode, Handler]]:
        """Return the handlers by lane: requests in one lane may wait for each other."""
        lanes: dict[Lane, dict[Opcode, Handler]] = {
            Lane.QUICK: {
                Opcode.LOOKUP: self.lookup,
                Opcode.GETATTR: self.getattr,
                Opcode.READDIR: self.readdir,
                Opcode.READDIRPLUS: self.readdirplus,
                Opcode.STATFS: self.statfs,
                Opcode.GETXATTR: self.getxattr,
                Opcode.LISTXATTR: self.listxattr,
            },
            Lane.OPEN: {Opcode.OPEN: self.open, Opcode.READLINK: self.readlink},
            Lane.NAMES: {
                Opcode.MKNOD: self.mknod,
                Opcode.MKDIR: self.mkdir,
                Opcode.SYMLINK: self.symlink,
                Opcode.LINK: self.link,
                Opcode.CREATE: self.create,
                Opcode.UNLINK: self.unlink,
                Opcode.RMDIR: self.rmdir,
                Opcode.RENAME: self.rename,
                Opcode.RENAME2: self.rename2,
            },
            Lane.SYNC: {
                Opcode.SETATTR: self.setattr,
                Opcode.SETXATTR: self.setxattr,
                Opcode.REMOVEXATTR: self.removexattr,
            },
            Lane.DATA: {
                Opcode.READ: self.read,
                Opcode.WRITE: self.write,
                Opcode.FLUSH: self.flush,
                Opcode.FSYNC: self.fsync,
                Opcode.RELEASE: self.release,
                Opcode.FALLOCATE: self.fallocate,
                Opcode.LSEEK: self.lseek,
                Opcode.COPY_FILE_RANGE: self.copy_file_range,
                Opcode.COPY_FILE_RANGE_64: self.copy_file_range_64,
            },
        }
        if opendir:
            lanes[Lane.QUICK] |= {
                Opcode.OPENDIR: self.opendir,
                Opcode.RELEASEDIR: lambda _caller, _nodeid, _request: b"",
            }
        if self._locks is not None:
            requests = LockRequests(self._locks)
            lanes[Lane.LOCK], lanes[Lane.WAIT] = {**requests.asks}, {**requests.waits}
        return lanes

    def undo(self, opcode: int, answer: Data) -> None:
        """Take back what *answer* gave the kernel, because it could not be delivered."""
        for ino in packing.held(opcode, answer):
            self._fs.forget(ino, 1)
        if opcode == Opcode.OPEN:
            self._fs.release(OPEN_OUT.unpack_from(answer)[0])
        elif opcode == Opcode.CREATE:
            self._fs.release(OPEN_OUT.unpack_from(answer, ENTRY_OUT.size)[0])

    # Not answered

    def forget(self, nodeid: int, request: bytes) -> None:
        self._forget(nodeid, FORGET_IN.unpack_from(request, _BODY)[0])

    def batch_forget(self, request: bytes) -> None:
        count, _ = BATCH_FORGET_IN.unpack_from(request, _BODY)
        start = _BODY + BATCH_FORGET_IN.size
        for ino, lookups in FORGET_ONE.iter_unpack(
            request[start : start + count * FORGET_ONE.size]
        ):
            self._forget(ino, lookups)

    def _forget(self, ino: int, lookups: int) -> None:
        self._listed.discard(ino)
        self._fs.forget(ino, lookups)

    # Names and attributes

    def lookup(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        name = name_of(request, _BODY)
        try:
            attr = self._fs.lookup(caller, nodeid, name)
        except Exception as exc:
            # Only an absence that lookup itself tells is remembered, not a failure of `learn`.
            absent = getattr(exc, "errno", 0) == errno.ENOENT
            if absent and self._packer.caches_absence and not isinstance(exc, PassingAbsence):
                return self._packer.negative
            raise
        return self._packer_of(attr).entry(attr)

    def _packer_of(self, attr: Attr) -> Packer:
        return self._passing if type(attr) is PassingAttr else self._packer

    def getattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        flags, _, handle = GETATTR_IN.unpack_from(request, _BODY)
        attr = self._fs.getattr(caller, nodeid, handle if flags & GETATTR_FH else None)
        return self._packer_of(attr).attributes(attr)

    def setattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        fields = SETATTR_IN.unpack_from(request, _BODY)
        valid, _, file_handle, *_ = fields
        handle = file_handle if valid & Fattr.FH else None
        new = new_attr(fields, time.time_ns())
        new = self._privileges.without(caller, nodeid, handle, valid, new)
        return self._packer.attributes(self._fs.setattr(caller, nodeid, new, handle))

    def readdir(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return self._listing(caller, nodeid, request, plus=False)

    def readdirplus(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return self._listing(caller, nodeid, request, plus=True)

    def _listing(self, caller: Caller, nodeid: int, request: bytes, plus: bool) -> Data:
        _, offset, size, *_ = READ_IN.unpack_from(request, _BODY)
        self._listed.add(nodeid)
        if not offset:
            self._counts.listings += 1
        packer = self._packer
        dots = packer.dots(nodeid, offset, plus) if offset < 2 else b""
        entries = self._fs.readdir(
            caller,
            nodeid,
            max(0, offset - 2),
            size - len(dots),
            packing.overhead(plus),
            plus,
        )
        if entries:
            packer = self._packer_of(entries[0].attr)
        pack = packer.full_listing if plus else packer.plain_listing
        data = dots + pack(entries)
        while len(data) > size:
            log.error("readdir of inode %d returned more than the %d bytes asked", nodeid, size)
            last = entries.pop()
            if plus and last.attr.mode != UNKNOWN_MODE:
                self._fs.forget(last.attr.ino, 1)
            data = dots + pack(entries)
        return data

    def idle(self) -> None:
        """Have *fs* prepare what may be asked next, and pack what it is going to answer."""
        coming = self._fs.idle()
        if coming is not None:
            self._packer.prepare(coming)

    def opendir(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        keep = self._fs.opendir(caller, nodeid)
        return OPEN_OUT.pack(0, Fopen.CACHE_DIR | Fopen.KEEP_CACHE * keep, 0)

    def statfs(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return packing.statfs(self._fs.statfs(caller, nodeid))

    def readlink(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return self._fs.readlink(caller, nodeid)

    # Changes of names

    def mknod(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        mode, rdev, *_ = MKNOD_IN.unpack_from(request, _BODY)
        name = name_of(request, _BODY + MKNOD_IN.size)
        attr = self._fs.mknod(caller, nodeid, name, mode, rdev)
        return self._packer_of(attr).entry(attr)

    def mkdir(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        mode, _ = MKDIR_IN.unpack_from(request, _BODY)
        name = name_of(request, _BODY + MKDIR_IN.size)
        return self._packer.entry(self._fs.mkdir(caller, nodeid, name, mode))

    def symlink(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        name, target = two_names(request, _BODY)
        attr = self._fs.symlink(caller, nodeid, name, target)
        return self._packer_of(attr).entry(attr)

    def link(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        # The answer of link(2) in a file system without hard links. (ENOSYS becomes EPERM only in
        # newer kernels.)
        raise PosixError(errno.EPERM, "no hard links")

    def create(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        flags, mode, *_ = CREATE_IN.unpack_from(request, _BODY)
        name = name_of(request, _BODY + CREATE_IN.size)
        attr, opened = self._fs.create(caller, nodeid, name, mode, flags)
        return self._packer.entry(attr) + self._open_out(opened)

    def _create_at_once(self, caller: Caller, nodeid: int, request: bytes) -> Data | None:
        flags, mode, *_ = CREATE_IN.unpack_from(request, _BODY)
        name = name_of(request, _BODY + CREATE_IN.size)
        made = self._fs.create_at_once(caller, nodeid, name, mode, flags)
        if made is None:
            return None
        attr, opened = made
        return self._packer.entry(attr) + self._open_out(opened)

    def unlink(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        self._fs.unlink(caller, nodeid, name_of(request, _BODY))
        return b""

    def rmdir(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        self._fs.rmdir(caller, nodeid, name_of(request, _BODY))
        return b""

    def rename(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        (new_parent,) = RENAME_IN.unpack_from(request, _BODY)
        name, new_name = two_names(request, _BODY + RENAME_IN.size)
        self._fs.rename(caller, nodeid, name, new_parent, new_name, 0)
        return b""

    def rename2(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        new_parent, flags, _ = RENAME2_IN.unpack_from(request, _BODY)
        name, new_name = two_names(request, _BODY + RENAME2_IN.size)
        self._fs.rename(caller, nodeid, name, new_parent, new_name, flags)
        return b""

    # Open files

    def open(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        flags, open_flags = OPEN_IN.unpack_from(request, _BODY)
        try:
            if open_flags & OPEN_KILL_SUIDGID and flags & os.O_TRUNC:
                self._privileges.drop(caller, nodeid, None)
            return self._open_out(self._fs.open(caller, nodeid, flags))
        except Exception as exc:
            # The kernel has the name, and does not say O_CREAT. After ESTALE it looks the name up
            # again: it makes the file, or says ENOENT by itself.
            if getattr(exc, "errno", 0) == errno.ENOENT:
                raise PosixError(errno.ESTALE, str(exc)) from exc
            raise

    def _open_out(self, opened: Opened) -> bytes:
        # Without a FLUSH we do not learn that a process has closed a file that it had locked.
        return packing.open_out(opened._replace(quiet=opened.quiet and self._locks is None))

    def _open_at_once(self, caller: Caller, nodeid: int, request: bytes) -> Data | None:
        opened = self._fs.open_at_once(caller, nodeid, OPEN_IN.unpack_from(request, _BODY)[0])
        return None if opened is None else packing.open_out(opened)

    def read(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle, offset, size, *_ = READ_IN.unpack_from(request, _BODY)
        return self._fs.read(caller, handle, offset, size)[:size]

    def _read_cached(self, caller: Caller, nodeid: int, request: bytes) -> Data | None:
        handle, offset, size, *_ = READ_IN.unpack_from(request, _BODY)
        data = self._fs.read_cached(handle, offset, size)
        return None if data is None else data[:size]

    def write(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle, offset, size, write_flags, _, flags, _ = WRITE_IN.unpack_from(request, _BODY)
        data = memoryview(request)[_BODY + WRITE_IN.size :]
        if len(data) != size:
            raise PosixError(errno.EINVAL, f"WRITE of {size} bytes brought {len(data)}")
        if write_flags & WRITE_KILL_SUIDGID:
            self._privileges.drop(caller, nodeid, handle)
        # A page that was written through a mapping comes without the flags of a descriptor.
        append = bool(flags & os.O_APPEND) and not write_flags & WRITE_CACHE
        return WRITE_OUT.pack(self._fs.write(caller, handle, offset, data, append=append), 0)

    def _write_at_once(self, caller: Caller, nodeid: int, request: bytes) -> Data | None:
        handle, offset, size, write_flags, _, flags, _ = WRITE_IN.unpack_from(request, _BODY)
        data = memoryview(request)[_BODY + WRITE_IN.size :]
        if len(data) != size or flags & os.O_APPEND or write_flags & WRITE_CACHE:
            return None
        if write_flags & WRITE_KILL_SUIDGID and self._privileges.may_drop(caller, nodeid, handle):
            return None
        written = self._fs.write_at_once(handle, offset, data)
        return WRITE_OUT.pack(size, 0) if written else None

    def flush(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle, _, _, owner = FLUSH_IN.unpack_from(request, _BODY)
        try:
            self._fs.flush(caller, handle)
        finally:
            if self._locks is not None:
                self._locks.closed(handle, owner)
        return b""

    def fsync(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        self._fs.fsync(caller, FSYNC_IN.unpack_from(request, _BODY)[0])
        return b""

    def release(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle = RELEASE_IN.unpack_from(request, _BODY)[0]
        try:
            if self._locks is not None:
                self._locks.ending(handle)
            self._fs.release(handle)
        finally:
            if self._locks is not None:
                self._locks.released(handle)
        return b""

    def _release_at_once(self, caller: Caller, nodeid: int, request: bytes) -> Data | None:
        handle = RELEASE_IN.unpack_from(request, _BODY)[0]
        return b"" if self._fs.release_at_once(handle) else None

    def release_comes(self, request: bytes) -> None:
        """Note that a RELEASE was read: requests that come after it may be answered before it."""
        if self._locks is not None:
            self._locks.leaving(RELEASE_IN.unpack_from(request, _BODY)[0])

    def fallocate(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle, offset, size, mode, _ = FALLOCATE_IN.unpack_from(request, _BODY)
        if caller.uid:  # the kernel sets no flag here, and spares files that root changes
            self._privileges.drop(caller, nodeid, handle)
        self._fs.fallocate(caller, handle, mode, offset, size)
        return b""

    def lseek(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        handle, offset, whence, _ = LSEEK_IN.unpack_from(request, _BODY)
        return LSEEK_OUT.pack(self._fs.lseek(caller, handle, offset, whence))

    def copy_file_range(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return WRITE_OUT.pack(self._copy(caller, request, _COPY_MAX), 0)

    def copy_file_range_64(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        return COPY_FILE_RANGE_OUT.pack(self._copy(caller, request, 1 << 63))

    def _copy(self, caller: Caller, request: bytes, most: int) -> int:
        source, offset, _, target, target_offset, size, flags = COPY_FILE_RANGE_IN.unpack_from(
            request, _BODY
        )
        if flags:
            raise PosixError(errno.EINVAL, f"copy_file_range flags {flags:#x}")
        size = min(size, most)
        return self._fs.copy_file_range(caller, source, offset, target, target_offset, size)

    # Extended attributes

    def getxattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        size, _ = GETXATTR_IN.unpack_from(request, _BODY)
        name = user_name(request, _BODY + GETXATTR_IN.size)
        return packing.sized(self._fs.getxattr(caller, nodeid, name), size)

    def listxattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        size, _ = GETXATTR_IN.unpack_from(request, _BODY)
        names = self._fs.listxattr(caller, nodeid)
        return packing.sized(b"".join(name + b"\0" for name in names), size)

    def setxattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        size, flags = SETXATTR_IN.unpack_from(request.ljust(_BODY + SETXATTR_IN.size), _BODY)[:2]
        start = _BODY + self._setxattr_size
        end = request.index(b"\0", start) + 1
        if len(request) - end != size:
            raise PosixError(errno.EINVAL, f"SETXATTR of {size} bytes brought {len(request) - end}")
        name = user_name(request[:end], start)
        self._fs.setxattr(caller, nodeid, name, request[end:], flags)
        return b""

    def removexattr(self, caller: Caller, nodeid: int, request: bytes) -> Data:
        self._fs.removexattr(caller, nodeid, user_name(request, _BODY))
        return b""
