"""Locks of open files that all mounts of a store share (-o locks=shared).

locks/shared.py says who has a lock. This module says what a lock means for the bytes, as in NFS: a
program that gets a lock sees what the holder before it has written, and a program that gives one up
has its bytes written to S3 first. So after a lock was granted

  1. the follower has read the log of the file's bucket up to now, and the kernel was told;
  2. the open file stands on the version that the name stands for now, whatever it had before;

and before a lock is given up, or a descriptor is closed, what was written is uploaded. An upload of
a locked file looks first whether the lock still holds.

A lock is of a name: of the key that the file had when it was first locked through a handle.

A close(2) returns before the kernel sends the release of the handle, and flock(2) ends with that.
So a flock that is asked for without waiting may meet the lock of a handle that is closed already.
In this mount, the release of that handle has been read before, and the flock waits for it. In
another mount, nobody here can know: the flock waits for _CLOSES_S, as any other wait, before it is
refused.

The owner of a lock. A lock of flock belongs to its handle, and ends with it. A lock of fcntl
belongs to the owner that the kernel names. That is a process, which has one number for all its open
files, and whose locks of a file end when it closes any descriptor of that file; or an open file
(OFD), whose locks end with its handle. The kernel does not say which of the two it is: a lock that
no close has ended ends with the handle.

Threading: any thread. `_lock` protects the tables and is taken last.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress

from mimicfs.errors import MimicError, PosixError, StoreError
from mimicfs.files.file import File
from mimicfs.locks.rows import END, Lock, is_covered
from mimicfs.locks.shared import SharedLocks
from mimicfs.posix import NEVER, Caller, Cancellation, FileLock
from mimicfs.vfs.handles import Handles
from mimicfs.vfs.kernel import Kernel

log = logging.getLogger(__name__)

_LEAVES_S = 10.0  # how long a caller waits for a release that is on its way
_CLOSES_S = 1.0  # how long it waits for one that may be on its way to another mount
_CATCH_UP_S = 5.0  # how long it waits for the follower, and for the kernel


class VFSLocks:
    """The locks of what is open in *handles*. *catch_up* returns once this mount knows, and has
    told the kernel, what others have changed in a bucket until now. It returns False if that takes
    longer than the seconds that it is given, and raises StoreError."""

    def __init__(
        self,
        shared: SharedLocks,
        handles: Handles,
        kernel: Kernel,
        catch_up: Callable[[str, float], bool],
    ) -> None:
        self._shared = shared
        self._handles = handles
        self._kernel = kernel
        self._catch_up = catch_up
        self._lock = threading.Condition()  # protects the three below
        self._names: dict[int, str] = {}  # by handle: the name that is locked through it
        # by handle: the owners, and whether by flock
        self._owners: dict[int, set[tuple[str, bool]]] = {}
        self._leaving: set[int] = set()  # handles whose release is on its way
        shared.when_lost = self._lost
        handles.guard = self._check
        handles.shares_locks = True

    # The methods of posix.FileLocks

    def get(self, handle: int, owner: int, asked: FileLock) -> FileLock | None:
        wanted = self._wanted(self._owner(handle, owner, flock=asked.flock), asked)
        try:
            found = self._shared.standing(self._name(handle), wanted)
        except StoreError as exc:
            raise _no_locks(exc) from exc
        if found is None:
            return None
        here = self._shared.is_own(found)
        kind = fcntl.F_WRLCK if found.write else fcntl.F_RDLCK
        return FileLock(kind, found.start, found.end, found.pid if here else 0, found.flock)

    def set(self, caller: Caller, handle: int, owner: int, asked: FileLock, *, wait: bool) -> None:
        name, who = self._name(handle), self._owner(handle, owner, flock=asked.flock)
        if asked.kind == fcntl.F_UNLCK:
            self._unlock(handle, name, who, asked, caller.cancellation)
            return
        with self._lock:
            self._names[handle] = name
            self._owners.setdefault(handle, set()).add((who, asked.flock))
        try:
            if asked.kind == fcntl.F_RDLCK and self._shared.holds(name, who):
                self._handles.flush(handle, caller.cancellation)  # others may read from now on
            wanted = self._wanted(who, asked)
            before = self._get(name, wanted, caller.cancellation, wait=wait)
            self._see(handle, name, wanted, before, caller.cancellation)
        except StoreError as exc:
            raise _no_locks(exc) from exc

    def closed(self, handle: int, owner: int) -> None:
        name, who = self._name(handle), self._shared.owner(owner)
        if not self._shared.holds(name):  # nearly always
            return
        try:
            if self._shared.holds(name, who) or self._is_locked(handle):
                self._handles.flush(handle, NEVER)
        finally:
            self._ended(name, who)
            if self._shared.holds(name, who):
                self._let_go(name, _all_of(who, flock=False))

    def leaving(self, handle: int) -> None:
        if handle in self._owners:
            with self._lock:
                self._leaving.add(handle)

    def ending(self, handle: int) -> None:
        file = self._handles.file(handle) if self._is_locked(handle) else None
        if file is None or not file.dirty or file.refused:
            return
        try:
            self._handles.flush(handle, NEVER)
        except MimicError as exc:
            log.debug("%s", exc)  # it is in the log

    def released(self, handle: int) -> None:
        if handle not in self._names:  # nearly always
            return
        with self._lock:
            name, owners = self._names.pop(handle), self._owners.pop(handle)
            for newer in self._handles_of(name):  # the kernel uses numbers of files again
                owners = owners - self._owners[newer]
        try:
            self._unlock_all(name, owners)
        finally:
            with self._lock:
                self._leaving.discard(handle)
                self._lock.notify_all()

    # What they are made of

    def _name(self, handle: int) -> str:
        """Return the name that is locked through *handle*: that of an object, which no other file
        has, or one that only this mount knows."""
        name = self._names.get(handle)
        if name is not None:
            return name
        file = self._handles.file(handle)
        return _name_of(file) if file is not None else f"/{self._handles.node(handle).ino}"

    def _owner(self, handle: int, owner: int, *, flock: bool) -> str:
        return self._shared.open_file(handle) if flock else self._shared.owner(owner)

    def _is_locked(self, handle: int) -> bool:
        """Whether somebody has a lock through *handle*."""
        with self._lock:
            name, owners = self._names.get(handle, ""), list(self._owners.get(handle, ()))
        return any(self._shared.holds(name, who) for who, _ in owners)

    def _ended(self, name: str, who: str) -> None:
        """Note that *who* has closed *name*, and owns no lock there any more, by whichever handle
        it came."""
        with self._lock:
            for handle in self._handles_of(name):
                self._owners[handle].discard((who, False))

    def _handles_of(self, name: str) -> list[int]:
        return [handle for handle, locked in self._names.items() if locked == name]

    def _wanted(self, who: str, asked: FileLock) -> Lock:
        write = asked.kind == fcntl.F_WRLCK
        return Lock(who, asked.flock, write, asked.start, asked.end, asked.pid)

    def _get(
        self, name: str, wanted: Lock, cancellation: Cancellation, *, wait: bool
    ) -> tuple[Lock, ...]:
        """Get the lock *wanted*; return what its owner had there before."""
        others_s = _CLOSES_S if wanted.flock else 0.0
        try:
            return self._shared.lock(name, wanted, cancellation, wait=wait, others_s=others_s)
        except PosixError as exc:
            # A close(2) may have returned although its release is not answered yet.
            if exc.errno != errno.EAGAIN or not self._have_left(name):
                raise
            return self._shared.lock(name, wanted, cancellation, wait=False, others_s=others_s)

    def _have_left(self, name: str) -> bool:
        """Wait for the releases of handles through which *name* was locked; return whether there
        were any."""
        with self._lock:
            left = {each for each in self._leaving if self._names.get(each, name) == name}
            if left:
                self._lock.wait_for(lambda: not left & self._leaving, _LEAVES_S)
            return bool(left)

    def _see(
        self,
        handle: int,
        name: str,
        wanted: Lock,
        before: tuple[Lock, ...],
        cancellation: Cancellation,
    ) -> None:
        """Show the owner of a new lock what was written before. If that fails, the owner keeps what
        it had *before*: what it writes under that must still be safe. Where it had as much before,
        nobody else can have written, and there is nothing to show: SQLite takes it for a damaged
        disk if a lock to write cannot become one to read. But it may have had the lock through
        another handle, and others may have replaced the file of this one."""
        try:
            if self._is_expired(handle) or not is_covered(wanted, before):
                self._show(handle, name, cancellation)
        except BaseException:
            self._leave(name, wanted, before)
            raise
        if before:
            self._leave(name, wanted, (wanted,))

    def _is_expired(self, handle: int) -> bool:
        file = self._handles.file(handle)
        return file is not None and file.expired

    def _show(self, handle: int, name: str, cancellation: Cancellation) -> None:
        if not self._catch_up(self._handles.node(handle).bucket, _CATCH_UP_S):
            raise PosixError(errno.ENOLCK, f"{name}: changes by others are not known yet")
        self._handles.renew(handle, cancellation)
        if not self._kernel.told(_CATCH_UP_S):
            raise PosixError(errno.ENOLCK, f"{name}: the kernel does not know others' changes yet")

    def _leave(self, name: str, wanted: Lock, kept: tuple[Lock, ...]) -> None:
        try:
            self._shared.leave(name, wanted, kept)
        except StoreError as exc:  # the store hears of it when it answers again
            log.debug("%s: %s", name, exc)

    def _unlock(
        self, handle: int, name: str, who: str, asked: FileLock, cancellation: Cancellation
    ) -> None:
        if not self._shared.holds(name, who):
            return
        try:
            self._handles.flush(handle, cancellation)
        finally:
            self._let_go(name, self._wanted(who, asked))

    def _let_go(self, name: str, gone: Lock) -> None:
        """Give up the lock. Raises PosixError ENOLCK; then the store hears of it later."""
        try:
            self._shared.leave(name, gone, ())
        except StoreError as exc:
            raise _no_locks(exc) from exc

    def _unlock_all(self, name: str, owners: Collection[tuple[str, bool]]) -> None:
        """Give up all locks; raises the first error, after trying all. A caller that waited for a
        flock then finds everything free."""
        failed: PosixError | None = None
        for who, flock in sorted(owners, key=lambda owner: owner[1]):
            try:
                self._let_go(name, _all_of(who, flock=flock))
            except PosixError as exc:
                failed = failed or exc
        if failed is not None:
            raise failed

    # What was locked, and is not certain any more

    def _check(self, file: File) -> None:
        """Check the locks of *file*, which is about to be uploaded. Raises PosixError EIO,
        StoreError."""
        self._shared.check(_name_of(file))

    def _lost(self, name: str) -> None:
        with self._lock:
            handles = self._handles_of(name)
        for handle in handles:
            with suppress(PosixError):  # it was released meanwhile
                self._handles.forsake(handle)


def _name_of(file: File) -> str:
    return f"{file.bucket}/{file.key}"


def _all_of(who: str, *, flock: bool) -> Lock:
    """Return a lock that covers every lock of a file that *who* can have."""
    return Lock(who, flock, False, 0, END, 0)


def _no_locks(exc: StoreError) -> PosixError:
    return PosixError(errno.ENOLCK, str(exc))
