"""A file system's answers about files, in POSIX terms. Knows nothing of FUSE and nothing of S3.

`vfs/` answers with these values, and `fuse/` carries them to the kernel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from mimicfs.baton import Baton
from mimicfs.errors import Interrupted

T = TypeVar("T")

ROOT_INO = 1  # the inode number of the root directory


# Flags of rename (linux/fs.h).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


# The mode of a name in a listing whose attributes are not known yet: only its number is true, and
# it is not held.
UNKNOWN_MODE = 0


class Attr(NamedTuple):
    """The attributes of a file, as stat(2) returns them."""

    ino: int
    mode: int  # type and permission bits
    size: int  # bytes
    mtime_ns: int
    uid: int
    gid: int
    nlink: int = 1
    atime_ns: int = -1  # -1: the same as mtime_ns
    ctime_ns: int = -1  # -1: the same as mtime_ns
    rdev: int = 0


class PassingAttr(Attr):
    """Attributes whose change nobody is told: the kernel asks again each time."""

    __slots__ = ()


class NewAttr(NamedTuple):
    """The attributes that a caller wants changed; None leaves an attribute as it is. Times are
    ns."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class DirEntry(NamedTuple):
    """One name of a directory. *cookie* is where a reader goes on after this name (> 0)."""

    name: bytes
    attr: Attr
    cookie: int


class Opened(NamedTuple):
    """An open file. *keep_cache*: pages that the kernel has are still right. *direct*: the size is
    not known beforehand, and a reader reads until the end. *quiet*: there is nothing to write, so
    the kernel need not tell when a descriptor is closed."""

    handle: int
    keep_cache: bool = False
    direct: bool = False
    quiet: bool = False


class Usage(NamedTuple):
    """The figures from which statvfs(3) is answered."""

    bytes_used: int
    bytes_total: int
    files_used: int
    files_total: int
    name_max: int = 1024


class Caller(NamedTuple):
    """The process that asks. *cancellation* is set when the asking process is interrupted."""

    uid: int
    gid: int
    pid: int
    cancellation: Cancellation


class Cancellation:
    """Says to a waiting thread that nobody waits for its answer any more."""

    def __init__(self) -> None:
        self.since_s = time.monotonic()  # since when somebody waits
        self._lock = threading.Lock()  # protects the two below
        self._cancelled = False
        self._wake: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Note that nobody waits any more: `check` and `wait` raise Interrupted from now on."""
        with self._lock:
            self._cancelled = True
            wake, self._wake = self._wake, []
        for call in wake:
            call()

    def tell(self, call: Callable[[], None]) -> None:
        """Call *call* when this is cancelled, or now if it is already."""
        with self._lock:
            if not self._cancelled:
                self._wake.append(call)
                return
        call()

    def check(self) -> None:
        """Raise `Interrupted` if cancelled."""
        if self._cancelled:
            raise Interrupted("interrupted")

    def wait(self, future: Future[T], timeout_s: float | None = None) -> T:
        """Return what *future* returns. Raises its error, `Interrupted`, or TimeoutError.

        After `Interrupted` the work behind *future* may still go on.
        """
        woken = threading.Event()
        with self._lock:
            if not self._cancelled:
                self._wake.append(woken.set)
        try:
            future.add_done_callback(lambda _: woken.set())
            if not self._cancelled and not woken.wait(timeout_s):
                raise TimeoutError
            if not future.done():
                raise Interrupted("interrupted")
            return future.result()
        finally:
            with self._lock:
                if woken.set in self._wake:
                    self._wake.remove(woken.set)


# Called with the bytes of a READ, or the error; with None if the caller is to call `read` for them.
Answered = Callable[[bytes | memoryview | Exception | None], None]

NEVER = Cancellation()  # for calls that nothing interrupts: nobody cancels it


def nobody(*_: object) -> None:
    """Tell nobody."""


class FileLock(NamedTuple):
    """A lock in the terms of fcntl(2) and flock(2). *kind* is fcntl.F_RDLCK, F_WRLCK, or F_UNLCK to
    give it up. *pid* is that of the holder, 0 if the holder is not on this machine."""

    kind: int
    start: int
    end: int  # the last byte
    pid: int
    flock: bool  # it is of the whole file, and belongs to the open file


class FileLocks(Protocol):
    """The locks of open files, where the kernel does not keep them by itself. *owner* is the
    kernel's number of the process or the open file that locks. Any thread may call."""

    def get(self, handle: int, owner: int, asked: FileLock) -> FileLock | None:
        """Return a lock that conflicts with *asked*; None if that could be granted."""
        ...

    def set(
        self, caller: Caller, handle: int, owner: int, asked: FileLock, *, wait: bool
    ) -> None: ...

    def closed(self, handle: int, owner: int) -> None:
        """End the locks of *owner*, a process, in a file of which it closed a descriptor
        (fcntl)."""
        ...

    def leaving(self, handle: int) -> None:
        """Note that the release of *handle* comes: nobody holds its locks. Never waits."""
        ...

    def ending(self, handle: int) -> None:
        """Store what was written under the locks of *handle*, which is about to be released, before
        others get them."""
        ...

    def released(self, handle: int) -> None:
        """Note that *handle* no longer exists."""
        ...


class KernelCache(Protocol):
    """The kernel's cache of our files, and the calls that tell it what is no longer so.

    Every call but `drop_data`, `asked_anew` and `flush` returns at once; a thread of its own tells
    the kernel, in the order of the calls. A request that the kernel makes while it holds the lock
    of the directory named here (lookup, create, unlink, rename, setxattr on it) must not wait for
    any of them.
    """

    def entry_changed(self, parent: int, name: bytes) -> None:
        """Tell that *name* in directory *parent* appeared, vanished, or stands for another file."""

    def file_deleted(self, parent: int, name: bytes, ino: int) -> None:
        """Tell that somebody else deleted the file *ino*, perhaps called *name* in directory
        *parent*: programs that watch it see that. Nobody has it open. (Tell of its name, too.)"""

    def listing_changed(self, ino: int) -> None:
        """Tell that the names in directory *ino* are no longer those that were listed."""

    def attr_changed(self, ino: int) -> None:
        """Tell that size or times of *ino* changed; the data that the kernel has of it is right."""

    def data_changed(self, ino: int, dropped: Callable[[], None] = nobody) -> None:
        """Tell that the data of *ino* changed, and its attributes with it. *dropped* is called when
        the kernel has dropped the data."""

    def drop_data(
        self, inos: Iterable[int], within_s: float, dropped: Callable[[int], None] = nobody
    ) -> None:
        """Tell the same of each of *inos*, and return when the kernel has dropped their data, or
        after *within_s*: the kernel waits for a page that a WRITE without an answer has locked, and
        meanwhile drops those of the other inodes. *dropped* is called with each inode whose data
        is dropped, even if that is later."""

    def asked_anew(self, ino: int) -> None:
        """Have the kernel keep the attributes of *ino* that it has, and ask once more, whatever its
        questions that have come so far are answered. (Before Linux 5.8 it takes the answers.)
        Returns when it knows; waits for no lock."""

    def names_changed(self) -> None:
        """Tell that every name must be looked up again. Waits for no lock of a directory."""

    def everything_changed(self) -> None:
        """Tell that every name must be looked up again, and every listing read again."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until the kernel was told all of the above; return False if *timeout_s* was not
        enough."""


class FileSystem(Protocol):
    """The calls that a file system must answer to be mounted. It chooses the inode numbers;
    ROOT_INO is the top.

    An error is an exception with an `errno` (MimicError or OSError). Called by many threads
    at once. While `quick` is true, the calls marked (quick) never wait: a call that cannot be
    answered without waiting raises `Unlisted`, and is repeated after `learn` of that error.

    A name that lookup, mknod, mkdir, create, symlink, link or a holding readdir returned is
    *held* once more by the kernel, until as many are forgotten.
    """

    quick: bool

    def learn(self, caller: Caller, missing: Exception) -> None: ...  # waits

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Attr: ...  # (quick)
    def forget(self, ino: int, count: int) -> None: ...  # (quick)
    def getattr(self, caller: Caller, ino: int, handle: int | None) -> Attr: ...  # (quick)
    def setattr(self, caller: Caller, ino: int, new: NewAttr, handle: int | None) -> Attr: ...

    def drop_privileges(self, caller: Caller, ino: int, mode: int, handle: int | None) -> None:
        """Give *ino* the *mode* that it has after a change of its bytes. When this returns, the
        kernel knows."""
        ...

    def unheard(self, ino: int) -> None:
        """Tell the kernel that *ino*, or a name in it, has changed: the answer to the change could
        not be given any more."""
        ...

    def opendir(self, caller: Caller, ino: int) -> bool:
        """Return whether the names that `readdir` has shown of the directory are still right.
        (quick)"""
        ...

    def readdir(
        self, caller: Caller, ino: int, cookie: int, size: int, overhead: int, hold: bool
    ) -> list[DirEntry]:  # (quick)
        """Return the names after *cookie* (0: from the start), [] at the end.

        As many as fit *size* bytes when each takes *overhead* bytes and its name, rounded up
        to 8. With *hold*, each returned name is held, except those of UNKNOWN_MODE: a caller that
        wants to know more looks them up. "." and ".." are not among them.
        """
        ...

    def idle(self) -> list[DirEntry] | None:
        """Prepare what may be asked next: everything that was asked is answered. A list that is
        returned is the one, the same object, that `readdir` will return if nothing changes until it
        is asked; the caller may prepare, too. Called twice before a wait. (quick)"""
        ...

    def mknod(self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int) -> Attr: ...
    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int) -> Attr: ...
    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Attr: ...
    def readlink(self, caller: Caller, ino: int) -> bytes: ...
    def unlink(self, caller: Caller, parent: int, name: bytes) -> None: ...
    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None: ...
    def rename(
        self, caller: Caller, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None: ...

    # *flags* are those of open(2).
    def open(self, caller: Caller, ino: int, flags: int) -> Opened: ...
    def open_at_once(self, caller: Caller, ino: int, flags: int) -> Opened | None:
        """Open the file if that needs no wait. None: nothing has happened, and the caller calls
        `open`. (quick)"""
        ...

    def create(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened]: ...
    def create_at_once(
        self, caller: Caller, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Attr, Opened] | None:
        """Make the file if that needs no wait. None: nothing has happened, and the caller calls
        `create`. (quick)"""
        ...

    def read(self, caller: Caller, handle: int, offset: int, size: int) -> bytes | memoryview: ...
    def read_cached(self, handle: int, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes if that needs no wait, otherwise None. (quick)"""
        ...

    @property
    def baton(self) -> Baton:
        """What the thread that brings what is about to be read shares with the one that calls."""
        ...

    def read_later(self, handle: int, offset: int, size: int, done: Answered) -> bool:
        """Have the thread that brings the bytes call *done* with them, if they are on their way.
        False: nothing has happened, and the caller calls `read`. (quick)"""
        ...

    def write(
        self, caller: Caller, handle: int, offset: int, data: memoryview, *, append: bool
    ) -> int:
        """Write *data* at *offset*; with *append* (O_APPEND), at the end of the file as it is
        now, which the kernel may not know."""
        ...

    def write_at_once(self, handle: int, offset: int, data: memoryview) -> bool:
        """Write *data* at *offset* if that needs no wait. False: nothing has happened, and the
        caller calls `write`. (quick)"""
        ...

    def flush(self, caller: Caller, handle: int) -> None: ...
    def flush_later(self, handle: int, done: Callable[[Exception | None], None]) -> bool:
        """Begin a `flush` that waits only for the local disk; another thread calls *done* with what
        it raises. False: nothing has happened, and the caller calls `flush`. (quick)"""
        ...

    def fsync(self, caller: Caller, handle: int) -> None: ...
    def release(self, handle: int) -> None: ...
    def release_at_once(self, handle: int) -> bool:
        """Close *handle* if that needs no wait. False: nothing has happened, and the caller calls
        `release`. (quick)"""
        ...

    def fallocate(self, caller: Caller, handle: int, mode: int, offset: int, size: int) -> None: ...
    def lseek(self, caller: Caller, handle: int, offset: int, whence: int) -> int: ...
    def copy_file_range(
        self, caller: Caller, source: int, offset: int, target: int, target_offset: int, size: int
    ) -> int: ...

    def statfs(self, caller: Caller, ino: int) -> Usage: ...  # (quick)
    def getxattr(self, caller: Caller, ino: int, name: bytes) -> bytes: ...  # (quick)
    def listxattr(self, caller: Caller, ino: int) -> list[bytes]: ...  # (quick)
    def setxattr(self, caller: Caller, ino: int, name: bytes, value: bytes, flags: int) -> None: ...
    def removexattr(self, caller: Caller, ino: int, name: bytes) -> None: ...
