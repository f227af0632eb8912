"""One mount: INIT, requests in, answers and notifications out.

A session carries bytes. `operations.py` knows what they mean; `server.py` decides which thread
answers.

Threading: one thread calls `receive`. Answers and notifications may be written by any thread
at once: each is one write(2), which the kernel takes as a whole.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import weakref
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from pathlib import Path

from mimicfs.baton import Baton
from mimicfs.errors import MountError
from mimicfs.fuse import mounting
from mimicfs.fuse.abi import (
    IN_HEADER,
    INIT_IN,
    INIT_IN_OLD_SIZE,
    INIT_OUT,
    KERNEL_MINOR_VERSION,
    KERNEL_VERSION,
    MIN_READ_BUFFER,
    OLDEST_MINOR_VERSION,
    OUT_HEADER,
    Init,
    Notify,
    Opcode,
)
from mimicfs.fuse.busy import Busy
from mimicfs.fuse.handed import Handed
from mimicfs.fuse.mounting import MountOptions
from mimicfs.signals import drain

log = logging.getLogger(__name__)

_PAGE = 4096
_SMALL = 512  # bytes of an answer
# How often we try to read before we sleep in poll: about 100 us, the time in which a process that
# walks a tree comes back with the next request. To be woken costs both sides more than that.
_SPINS = 100
_SOON = 30  # of these, how many while others wait until this one sleeps, or for S3
_IDLE = 2  # of these, how often the file system may prepare something: each time a little
# The features that we ask for, as far as the kernel offers them. EXPLICIT_INVAL_DATA and not AUTO:
# pages are dropped exactly when `data_changed` says so. With AUTO every moved mtime dropped them,
# and each first `ls` of a directory asked for its attributes
# (tests/fuse/test_fuse_kernel_cache.py). We do not ask for WRITEBACK_CACHE (size and mtime would
# belong to the kernel) and POSIX_ACL.
_WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.DO_READDIRPLUS
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    | Init.NO_OPENDIR_SUPPORT
    | Init.EXPLICIT_INVAL_DATA
    | Init.HANDLE_KILLPRIV_V2
    | Init.INIT_EXT
    | Init.DIRECT_IO_ALLOW_MMAP  # else mmap of a file opened with `direct` is ENODEV
    | Init.NO_EXPORT_SUPPORT  # inode numbers are not found again once forgotten
)
# Errors of writing an answer that mean: nobody waits for it any more.
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EPERM, errno.EBADF))
_GONE_PEER = frozenset((errno.EPIPE, errno.ECONNRESET))  # if a socket stands for the device


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options of a mount, and of the agreement with the kernel."""

    mount: MountOptions = field(default_factory=MountOptions)
    max_write: int = 1 << 20  # bytes of one WRITE or READ; the kernel's limit is 1 MiB
    max_readahead: int = 1 << 20  # bytes
    max_background: int = 64  # requests in flight for which no process waits (read-ahead)
    readdirplus_auto: bool = False  # the kernel may ask for names without attributes
    locks: bool = False  # we keep the locks of files, not the kernel


class Session:
    """A session on the device *fd*, which it owns: /dev/fuse, or a socket that behaves like it.

    `Session.mount` is the usual way to get one.
    """

    def __init__(self, fd: int, mountpoint: Path, options: SessionOptions | None = None) -> None:
        self.mountpoint = mountpoint
        self.options = options or SessionOptions()
        self.minor = 0  # the minor version that is spoken; 0 before INIT
        self.flags = Init(0)  # the features that are agreed with the kernel
        self.offered = Init(0)  # all features of the kernel, whether we ask for them or not
        # Directories of which the kernel may have a listing: added when a listing is read, removed
        # when the kernel forgets the inode. Each step is one atomic set operation.
        self.listed: set[int] = set()
        # `receive` calls this when there is no request, twice before it waits.
        self.idle: Callable[[], None] = _nothing
        # The requests at which other threads are at work. As long as there are any, `receive`
        # sleeps at once: to look for requests would take the interpreter's lock from these threads
        # again and again.
        self.elsewhere: Sized = ()
        self.baton = Baton()  # of the thread that calls `receive`
        self.device = ""  # "MAJOR:MINOR" of the file system, where it is known
        self.handed = False  # somebody else has mounted, and must unmount
        self.busy = Busy()  # the directories that the kernel may keep locked until we answer
        self._fd = fd
        os.set_blocking(fd, False)
        self._waker = os.eventfd(0, os.EFD_CLOEXEC)
        self._woken = False
        self._closing = [weakref.finalize(self, os.close, each) for each in (fd, self._waker)]
        self._signals = -1  # a descriptor that is readable when a signal has come
        self._poller = select.poll()
        for each in (fd, self._waker):
            self._poller.register(each, select.POLLIN)
        size = max(self.options.max_write + _PAGE, MIN_READ_BUFFER)
        # One buffer for all requests: to allocate 1 MiB for each costs more than the copy.
        self._buffer = memoryview(bytearray(size))
        self._buffers = (self._buffer,)

    @classmethod
    def mount(cls, mountpoint: Path, options: SessionOptions | None = None) -> Session:
        """Mount at *mountpoint* and agree with the kernel. Raises MountError.

        From then on, the mount answers as soon as somebody calls `receive`.
        """
        options = options or SessionOptions()
        mountpoint = Path(os.path.realpath(mountpoint))
        session = cls(mounting.mount(mountpoint, options.mount), mountpoint, options)
        try:
            session.handshake()
        except BaseException:
            session.unmount(lazy=True)
            session.close()
            raise
        session.device = mounting.device_number(mountpoint) or ""
        session._widen_readahead()
        return session

    @classmethod
    def of_handed(cls, handed: Handed, options: SessionOptions | None = None) -> Session:
        """Agree with the kernel over a descriptor of a mount that somebody else made. Raises
        MountError."""
        handed.wait_for_init()
        session = cls(handed.fd, handed.mountpoint, options)
        session.handed, session.device = True, handed.device
        try:
            session.handshake()
        except BaseException:
            session.close()
            raise
        session._widen_readahead()
        return session

    def wake_by(self, signals: int) -> None:
        """Have `receive` give way to the handlers of signals when *signals*, a descriptor of
        `signals.woken_by_signals`, is readable."""
        self._signals = signals
        self._poller.register(signals, select.POLLIN)

    def handshake(self) -> None:
        """Answer INIT, the first request. Raises MountError."""
        request = self.receive()
        while request is not None:
            if self._answer_init(request):
                return
            request = self.receive()
        raise MountError(f"{self.mountpoint}: the kernel ended the mount before it began")

    def receive(self) -> bytes | None:
        """Return the next request; None: there will be no more (unmounted), or `wake` was
        called."""
        spins, read = _SPINS, os.readv
        fd, buffers = self._fd, self._buffers
        while True:
            # The device does not block: only so can a reader be woken (to close it wakes none).
            try:
                size = read(fd, buffers)
            except BlockingIOError:
                if spins > _SPINS - _IDLE:
                    self.idle()
                spins -= 1
                if spins < 0 or (self.elsewhere and not self._soon(spins)):
                    if self._woken:
                        return None
                    self._poll()
            except OSError as exc:
                if self._woken or not _goes_on(exc):
                    return None
            else:
                return bytes(self._buffer[:size]) if size else None

    def _soon(self, spins: int) -> bool:
        """Whether to look for the next request though others are at work."""
        return spins > _SPINS - _SOON and self.baton.comes_soon(len(self.elsewhere))

    def _poll(self) -> None:
        self.baton.sleeps()
        found = self._poller.poll()
        self.baton.wakes()
        for fd, _ in found:
            if fd == self._signals:
                drain(fd)

    def reply(self, unique: int, data: bytes | memoryview = b"") -> bool:
        """Answer request *unique*; return False if nobody waits for it any more."""
        header = OUT_HEADER.pack(16 + len(data), 0, unique)
        try:
            if len(data) <= _SMALL and isinstance(data, bytes):
                os.write(self._fd, header + data)  # to copy it costs less than a second piece
            else:
                os.writev(self._fd, (header, data))
        except OSError as exc:
            if exc.errno in _GONE or exc.errno in _GONE_PEER:
                return False
            log.error("answer to request %d refused by the kernel: %s", unique, exc)
            self.fail(unique, errno.EIO)  # if the kernel has not ended it already
            return False
        return True

    def fail(self, unique: int, error: int) -> bool:
        """Answer request *unique* with errno *error*; return False if nobody waits for it."""
        try:
            os.write(self._fd, OUT_HEADER.pack(16, -error, unique))
        except OSError as exc:
            if exc.errno not in _GONE and exc.errno not in _GONE_PEER:
                log.error("errno %d for request %d refused by the kernel: %s", error, unique, exc)
            return False
        return True

    def notify(self, code: Notify, data: bytes = b"") -> None:
        """Tell the kernel something unasked. Raises OSError; ENOENT if the kernel has no such
        thing.

        This waits for locks that the kernel holds while it waits for us: see `notify.py`.
        """
        os.write(self._fd, OUT_HEADER.pack(16 + len(data), code, 0) + data)

    def wake(self) -> None:
        """Have `receive` return None, from now on, as soon as it has no request at hand."""
        self._woken = True
        os.eventfd_write(self._waker, 1)

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount. *lazy*: also when in use; open files go on. Raises MountError."""
        if self.handed:
            raise MountError(f"{self.mountpoint}: whoever mounted it must unmount it")
        mounting.unmount(self.mountpoint, lazy=lazy)

    def close(self) -> None:
        """Let go of the device: the kernel answers all requests that wait with ENOTCONN.

        The number of the descriptor stays taken (by one that cannot be written) as long as the
        session lives: a late answer by another thread must not go to a file that got the number
        next.
        """
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, self._fd, inheritable=False)
        os.close(nothing)

    def _answer_init(self, request: bytes) -> bool:
        """Answer an INIT; return False if the kernel will send another. Raises MountError."""
        try:
            _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
            if opcode != Opcode.INIT:
                raise MountError(f"the first request of the kernel is {opcode}, not INIT")
            major, minor, readahead, flags = struct.unpack_from("<4I", request, IN_HEADER.size)
        except struct.error as exc:
            raise MountError("the first request of the kernel is cut off") from exc
        if major > KERNEL_VERSION:  # it will come back with ours
            self.reply(unique, self._init_out(0, 0, 0))
            return False
        if (major, minor) < (KERNEL_VERSION, OLDEST_MINOR_VERSION):
            self.fail(unique, errno.EPROTO)
            raise MountError(
                f"the kernel speaks FUSE {major}.{minor}; {KERNEL_VERSION}."
                f"{OLDEST_MINOR_VERSION} (Linux 5.4) or newer is needed"
            )
        if flags & Init.INIT_EXT and len(request) >= IN_HEADER.size + INIT_IN_OLD_SIZE + 4:
            _, _, _, _, flags2, *_ = INIT_IN.unpack_from(request, IN_HEADER.size)
            flags |= flags2 << 32
        self._agree(unique, minor, readahead, flags)
        return True

    def _agree(self, unique: int, minor: int, readahead: int, offered: int) -> None:
        wanted = _WANTED
        if self.options.readdirplus_auto:
            wanted |= Init.READDIRPLUS_AUTO
        if self.options.locks:
            wanted |= Init.POSIX_LOCKS | Init.FLOCK_LOCKS
        self.offered = Init(offered)
        self.flags = wanted & offered
        self.minor = min(minor, KERNEL_MINOR_VERSION)
        # The kernel takes the smaller of its own read-ahead and ours; see _widen_readahead.
        readahead = max(readahead, self.options.max_readahead)
        if not self.reply(unique, self._init_out(self.minor, readahead, int(self.flags))):
            raise MountError(f"{self.mountpoint}: the kernel ended the mount during INIT")
        log.debug("FUSE 7.%d (kernel 7.%d), %s", self.minor, minor, self.flags)

    def _init_out(self, minor: int, readahead: int, flags: int) -> bytes:
        background = self.options.max_background
        pages = -(-self.options.max_write // _PAGE)
        return INIT_OUT.pack(
            KERNEL_VERSION,
            minor,
            readahead,
            flags & 0xFFFFFFFF,
            background,
            background * 3 // 4,
            self.options.max_write,
            1,  # time_gran: nanoseconds
            pages,
            0,
            flags >> 32,
            *[0] * 7,
        )

    def _widen_readahead(self) -> None:
        """Have the kernel read ahead by more than its default of 128 KiB, if we are root."""
        try:
            path = Path(f"/sys/class/bdi/{self.device}/read_ahead_kb")
            path.write_text(str(self.options.max_readahead // 1024))
        except OSError as exc:
            log.debug("read-ahead stays at the kernel's default: %s", exc)


def _nothing() -> None:
    """There is nothing to prepare."""


def _goes_on(exc: OSError) -> bool:
    """Whether to read again after *exc*."""
    if exc.errno in (errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.ECONNRESET):
        return False
    if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
        return True  # ENOENT: the request was interrupted before we read it
    log.error("reading %s failed: %s", mounting.DEVICE, exc)
    return False
