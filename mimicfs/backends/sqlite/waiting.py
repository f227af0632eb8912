"""Waiting for commits of other processes: inotify on the write-ahead log, then data_version.

A commit writes its pages to the file FILE-wal, and then makes them visible in shared memory, which
nobody hears. So a process that has committed changes the times of FILE-wal. The waiter hears that
(IN_ATTRIB), and it ends the wait. Writes to the file (IN_MODIFY) say that a commit is on its way.
If no word follows, because the process was killed or is no mimicfs, the waiter looks at the number
several times, for a few hundredths of a second.

The commits of this process wake the waiter as well: if they follow each other, it looks at most
once in a hundredth of a second, and only whether somebody else has committed, where nothing depends
on ours (Waiter.ours_later). Without inotify, it looks 20 times a second, which takes 3 us each.
(A user has 128 instances of inotify, unless the system says otherwise; a waiter takes one.)
"""

from __future__ import annotations

import logging
import os
import select
import sqlite3
import struct
import time
from collections.abc import Callable, Mapping, Sequence

from mimicfs.backends.sqlite.database import Database
from mimicfs.backends.waiter import Waiter

log = logging.getLogger(__name__)

# linux/inotify.h
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name behind it
_IN_Q_OVERFLOW = 0x4000
_IN_MODIFY = 0x02
_IN_ATTRIB = 0x04
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENTS = 1 << 16  # bytes that are read at a time
_GLANCE_S = 0.05  # without inotify
_GATHERED_S = 0.01  # how long commits of this process are gathered
_GATHERINGS = 10  # how often, as long as nobody else commits
_LOOKS_S = (0.005, 0.01, 0.03)  # pauses after a write, until somebody says that it is committed


class CommitWaiter(Waiter):
    """Waits for commits to *db* by anybody."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._db = db
        self._version = -1  # of the state that was looked at last
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inotify = -1  # set by the thread that waits; -1: there is none
        self._begun = False
        self._own = db.commits  # the commits of this process that were gathered so far
        self._others = -1  # the last number of `others`

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
            self._hear(left_s if self._inotify >= 0 else min(left_s, _GLANCE_S))
            self._gather()
        return []

    def _gather(self) -> None:
        """If this process has committed, wait a little for the commits that follow."""
        own, self._own = self._own, self._db.commits
        if own == self._own:
            return
        for _ in range(_GATHERINGS if self.ours_later else 1):
            _ready(_GATHERED_S, self._wake)
            others, self._others = self._others, self._asked(self._db.others)
            if self._others < 0 or others != self._others or self._closed.is_set():
                return

    def _begin(self) -> None:
        self._begun = True
        self._others = self._asked(self._db.others)
        if self._db.log_path is None:
            return
        try:
            self._inotify = _watched(self._db.log_path)
        except OSError as exc:
            text = "%s: %s: commits of other processes are looked for 20 times a second"
            log.warning(text, exc.filename, exc.strerror)

    def _is_new(self) -> bool:
        version = self._version_now()
        new, self._version = version != self._version, version
        return new

    def _version_now(self) -> int:
        return self._asked(self._db.version)

    def _asked(self, ask: Callable[[], int]) -> int:
        try:
            return ask()
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc

    def _hear(self, timeout_s: float) -> None:
        """Wait for an event, and until the commit that it tells of can be seen, or will not come.

        SQLite itself changes the times of the log when root opens it: if something was written, a
        word is a reason to look, and no more."""
        if not self._word(timeout_s, _IN_ATTRIB | _IN_MODIFY) & _IN_MODIFY:
            return
        for pause_s in _LOOKS_S:
            if self._version_now() != self._version:
                return
            self._word(pause_s, _IN_ATTRIB)

    def _word(self, timeout_s: float, wanted: int) -> int:
        """Wait for an event that is *wanted*, or for the end of the waiting; return the kinds of
        events that were heard."""
        deadline, heard = time.monotonic() + timeout_s, 0
        while not heard & wanted and (left_s := deadline - time.monotonic()) > 0:
            if self._wake in _ready(left_s, self._wake, self._inotify):
                break
            heard |= _drained(self._inotify)
        return heard

    def close(self) -> None:
        super().close()
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        for fd in (self._wake, self._inotify):
            if fd >= 0:
                os.close(fd)


def _ready(timeout_s: float, *fds: int) -> set[int]:
    """Wait until one of *fds* can be read, and return all that can. A descriptor of -1 never
    can."""
    poller = select.poll()  # not select(2), which knows 1,024 descriptors
    for fd in fds:
        if fd >= 0:
            poller.register(fd, select.POLLIN)
    return {fd for fd, _ in poller.poll(timeout_s * 1000)}


def _watched(path: str) -> int:
    """Return a descriptor of inotify that tells of commits to the log *path*. Raises OSError."""
    import ctypes  # a command that waits for nobody needs none of it

    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(_FLAGS)
    if fd < 0:
        raise _error(ctypes.get_errno(), "inotify_init1 (fs.inotify.max_user_instances)")
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_ATTRIB | _IN_MODIFY) < 0:
        error = _error(ctypes.get_errno(), path)
        os.close(fd)
        raise error
    return fd


def _error(number: int, about: str) -> OSError:
    return OSError(number, os.strerror(number), about)


def _drained(fd: int) -> int:
    """Read the events of *fd*; return their kinds, or all kinds if some events were dropped."""
    heard = 0
    try:
        while fd >= 0 and (events := os.read(fd, _EVENTS)):
            for _, mask, _, _ in _EVENT.iter_unpack(events):  # events of a file have no names
                heard |= _IN_ATTRIB | _IN_MODIFY if mask & _IN_Q_OVERFLOW else mask
    except BlockingIOError:
        pass
    return heard
