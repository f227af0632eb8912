"""Waiting for commits of other processes: inotify on the write-ahead log, then data_version.

A commit writes its pages to the file FILE-wal, and then makes them visible in shared memory,
which nobody hears. So whoever has committed changes the times of FILE-wal, which is heard
(IN_ATTRIB), and is what ends the wait. Writes to it (IN_MODIFY) say that a commit is on its way:
where no word follows, because its process was killed or is no mimicfs, the number is looked at
several times, for a few hundredths of a second. The commits of this process wake it as well: of
those that follow each other, it looks at most once in a hundredth of a second. Where there is no
inotify, it is looked at 20 times a second, which takes 3 us each.
"""

from __future__ import annotations

import ctypes
import os
import select
import sqlite3
import time
from collections.abc import Mapping, Sequence

from mimicfs.backends import Waiter
from mimicfs.backends.sqlite.database import Database

# linux/inotify.h
_IN_MODIFY = 0x02
_IN_ATTRIB = 0x04
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENTS = 1 << 16  # bytes that are read at a time
_GLANCE_S = 0.05  # without inotify
_GATHERED_S = 0.01  # of what this process commits
_LOOKS_S = (0.005, 0.01, 0.03)  # after a write, until somebody says that it is committed


class CommitWaiter(Waiter):
    """Waits for commits to *db* by anybody."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db
        self._version = -1  # of the state that was looked at last
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Of inotify; set by the thread that waits. -1: there is none.
        self._committed = self._written = -1
        self._begun = False
        self._own = db.commits  # of this process, as far as it has gathered them

    def wait(self, places: Mapping[str, int], timeout_s: float) -> Sequence[str]:
        if not self._begun:
            self._begin()
        deadline = time.monotonic() + timeout_s
        while not self._closed.is_set():
            if self._is_new():
                return list(places)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._hear(left_s if self._written >= 0 else min(left_s, _GLANCE_S))
            self._gather()
        return []

    def _gather(self) -> None:
        """Where this process has committed, wait a little for what follows."""
        own, self._own = self._own, self._db.commits
        if own != self._own:
            _ready(_GATHERED_S, self._wake)

    def _begin(self) -> None:
        self._begun = True
        if self._db.log_path is None:
            return
        try:
            self._committed = _watched(self._db.log_path, _IN_ATTRIB)
            self._written = _watched(self._db.log_path, _IN_MODIFY)
        except OSError:
            self._written = -1

    def _is_new(self) -> bool:
        version = self._version_now()
        new, self._version = version != self._version, version
        return new

    def _version_now(self) -> int:
        try:
            return self._db.version()
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc

    def _hear(self, timeout_s: float) -> None:
        """Wait for an event, and until what it tells of can be seen, or is not to come.

        SQLite itself changes the times of the log when root opens it: where something was written,
        a word is a reason to look, and no more."""
        ready = _ready(timeout_s, self._wake, self._committed, self._written)
        _drain(self._committed)
        if self._written not in ready:
            return
        _drain(self._written)
        for pause_s in _LOOKS_S:
            if self._version_now() != self._version:
                return
            if _ready(pause_s, self._wake, self._committed):
                _drain(self._committed)

    def close(self) -> None:
        super().close()
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        for fd in (self._wake, self._committed, self._written):
            if fd >= 0:
                os.close(fd)


def _ready(timeout_s: float, *fds: int) -> set[int]:
    """Wait until one of *fds* can be read, and return those that can. One that is -1 never can."""
    poller = select.poll()  # not select(2), which knows 1,024 descriptors
    for fd in fds:
        if fd >= 0:
            poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(timeout_s * 1000)}


def _watched(path: str, mask: int) -> int:
    """Return a descriptor of inotify that tells of what *mask* says of *path*. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(fd, os.fsencode(path), mask) < 0:
        error = ctypes.get_errno()
        os.close(fd)
        raise OSError(error, "inotify_add_watch", path)
    return fd


def _drain(fd: int) -> None:
    try:
        while fd >= 0 and os.read(fd, _EVENTS):
            pass
    except BlockingIOError:
        return
