"""Waiting for commits of other processes: inotify on the write-ahead log, then data_version.

A commit writes its pages to the file FILE-wal, and then makes them visible in shared memory,
which nobody hears. So whoever was woken looks several times, for a few hundredths of a second.
Where there is no inotify, the number is looked at 20 times a second, which takes 3 us each.
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
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENTS = 1 << 16  # bytes that are read at a time
_GLANCE_S = 0.05  # without inotify
_LOOKS_S = (0.0, 0.0002, 0.001, 0.003, 0.01, 0.03)  # after each event


class CommitWaiter(Waiter):
    """Waits for commits to *db* by anybody."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db
        self._version = -1  # of the state that was looked at last
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch = -1  # of inotify; set by the thread that waits
        self._begun = False

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
            self._hear(left_s if self._watch >= 0 else min(left_s, _GLANCE_S))
        return []

    def _begin(self) -> None:
        self._begun = True
        try:
            self._watch = _watched(self._db.log_path)
        except OSError:
            self._watch = -1

    def _is_new(self) -> bool:
        try:
            version = self._db.version()
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc
        new, self._version = version != self._version, version
        return new

    def _hear(self, timeout_s: float) -> None:
        """Wait for an event, and until what it tells of can be seen, or is not to come."""
        poller = select.poll()  # not select(2), which knows 1,024 descriptors
        for fd in (self._wake, self._watch):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(timeout_s * 1000)]
        if self._watch not in ready:
            return
        _drain(self._watch)
        for pause_s in _LOOKS_S:
            time.sleep(pause_s)
            if self._db.version() != self._version:
                return

    def close(self) -> None:
        super().close()
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        for fd in (self._wake, self._watch):
            if fd >= 0:
                os.close(fd)


def _watched(path: str) -> int:
    """Return a descriptor of inotify that tells of each write to *path*. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(_FLAGS)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        error = ctypes.get_errno()
        os.close(fd)
        raise OSError(error, "inotify_add_watch", path)
    return fd


def _drain(fd: int) -> None:
    try:
        while os.read(fd, _EVENTS):
            pass
    except BlockingIOError:
        return
