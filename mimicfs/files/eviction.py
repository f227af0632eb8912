"""The limits of the cache on disk, and the choice of what is removed when they are reached.

The files that were not used for the longest time go first (their mtime says when they were used,
blocks.py), until a tenth of the limit is free again, and what was to be written has room. A file
that a mount has open stays, and so does a pinned one: it has the sticky bit, which the same stat(2)
shows. Besides the limit, a part of the disk always stays free, whoever fills it: below that nothing
is written, and if files of the cache take the space, some are removed.

A look through the directory finds out how much is used: at first, and before each eviction, since
other mounts write there, too. Of a million files only a sum is kept, and the oldest ones when they
are removed; the mount does not wait for it.

Threading: `_run` is a thread of its own. The others only count (not exactly: a lost addition is
found by the next look) and wake it; `make_room` waits for it.
"""

from __future__ import annotations

import heapq
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mimicfs.files.shelves import DIRECTORY as SHELVES

log = logging.getLogger(__name__)

_SHARE = 4  # the default limit is a quarter of what is free, and what the cache has already
_RESERVE_SHARE = 20  # a twentieth of the disk is left free,
_RESERVE_MAX = 16 << 30  # but no more than this
_LOOK = 16 << 20  # bytes written between two looks at what is free, at most
_OVERHEAD = 64 << 10  # what a file may take beside its bytes
_OLDEST = 20_000  # files that are removed in one look
_REST = 256  # files after which the look through the directory rests as long as that took
_AGAIN_S = 10.0  # between two evictions that could not make enough room
_CHECK_S = 0.2  # between two looks whether somebody still waits for room

PINNED = stat.S_ISVTX


class _Old(NamedTuple):
    """A file; the latest used is the least, as heapq wants it."""

    age: float  # -mtime
    bytes: int
    name: str
    pinned: bool


class Eviction:
    """Keeps the files below the directory *root* within *limit* bytes (None: a share of what is
    free). *in_use* tells whether a file is open."""

    def __init__(self, root: int, limit: int | None, in_use: Callable[[str], bool]) -> None:
        self._root = root
        self._in_use = in_use
        self._given = limit
        self._free, self._reserve = self._look()
        self.used = 0
        self.limit = limit if limit is not None else self._free // _SHARE
        self._unseen = 0  # bytes written since the last look at what is free
        self._asked_s = float("-inf")
        self._size = 0  # bytes of the write that found no room
        self.stays_since_s = float("inf")  # by mtime: what was used from then on stays
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._rounds = threading.Condition()  # protects what follows, as far as it is exact
        self._counted = False  # whether the first look has ended
        self._begun = self._done = self._freed = 0  # evictions; the bytes of the latest one
        self._making = 0  # bytes that the latest one was to make room for
        self._thread = threading.Thread(target=self._run, name="cache-eviction", daemon=True)
        self._thread.start()

    def has_room(self, size: int) -> bool:
        """Whether *size* bytes may be written. If there is little room, some is made; but nothing
        is removed for bytes that can never have room."""
        if not self.can_hold(size):
            return False
        size += _OVERHEAD
        if self._unseen > _LOOK or self._free < 2 * self._reserve + size:
            self._unseen = 0
            self._free, self._reserve = self._look()
        if self.used + size > self.limit - self.limit // 20 or self._short(size):
            self._size = max(self._size, size)
            self._ask()
        return self.used + size <= self.limit and not self._short(size)

    def can_hold(self, size: int) -> bool:
        """Whether *size* bytes would have room if nothing else were here."""
        return size + _OVERHEAD <= self.limit

    def has_spare(self, sizes: Collection[int]) -> bool:
        """Whether objects of *sizes* have room without anything being removed for them. False
        until it is known what is here."""
        size = sum(sizes) + len(sizes) * _OVERHEAD
        spare = self.limit - self.limit // 20 - self.used
        return self._counted and size <= spare and not self._short(size)

    def make_room(self, size: int, check: Callable[[], None]) -> bool:
        """As `has_room`, once room was made. *check* is called while that takes; what it raises
        ends the wait."""
        if self.has_room(size):
            return True
        self.await_count(check)
        with self._rounds:
            while not self.has_room(size) and size + _OVERHEAD <= self.limit:
                if not self._evicted(size + _OVERHEAD, check):
                    break
        return self.has_room(size)

    def await_count(self, check: Callable[[], None]) -> None:
        """Wait until the first look has ended: before that, there may seem to be room where there
        is none. *check*: as of `make_room`."""
        with self._rounds:
            self._await(lambda: self._counted, check)

    def _evicted(self, size: int, check: Callable[[], None]) -> int:
        """Have room made for *size* bytes; return how many were removed for it."""
        coming = self._begun + 1  # the eviction that has begun may not know of this
        self._size = max(self._size, size)
        self._wanted.set()
        self._await(lambda: self._done >= coming, check)
        return self._freed

    def _await(self, happened: Callable[[], bool], check: Callable[[], None]) -> None:
        while not happened() and not self._ended.is_set():
            self._rounds.wait(_CHECK_S)
            check()

    def added(self, size: int) -> None:
        self.used += size
        self._unseen += size
        self._free -= size

    def full(self) -> None:
        """Note that the disk has refused to take more."""
        self._free = 0
        self._ask()

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(5)

    def _short(self, size: int) -> bool:
        return self._free - size < self._reserve

    def _ask(self) -> None:
        if time.monotonic() - self._asked_s > _AGAIN_S:
            self._asked_s = time.monotonic()
            self._wanted.set()

    def _look(self) -> tuple[int, int]:
        """Return what is free, and what of it is to be left, in bytes."""
        found = os.fstatvfs(self._root)
        reserve = min(found.f_blocks * found.f_frsize // _RESERVE_SHARE, _RESERVE_MAX)
        return found.f_bavail * found.f_frsize, reserve

    # The thread

    def _run(self) -> None:
        self._safely(self._count)
        with self._rounds:
            self._counted = True
            self._rounds.notify_all()
        while self._wanted.wait() and not self._ended.is_set():
            self._wanted.clear()
            with self._rounds:
                self._begun += 1
                self._making, self._size, self._freed = self._size, 0, 0
            self._safely(self._evict)
            with self._rounds:
                self._done = self._begun
                self._rounds.notify_all()

    @staticmethod
    def _safely(work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as exc:  # a directory vanished, or cannot be read
            log.debug("cache: the check of its size failed: %s", exc)

    def _count(self) -> None:
        """Find out what is used, and so what the limit is."""
        before = self.used
        found = sum(old.bytes for old in self._files())
        self.used += found - before  # what was written meanwhile counts, maybe twice
        self._free, self._reserve = self._look()
        if self._given is None:
            self.limit = (self._free + self.used) // _SHARE

    def _evict(self) -> None:
        """Remove the oldest files, as many as are too many."""
        self._free, self._reserve = self._look()
        needed = max(self._over(self.used), self._lacking())
        if needed <= 0:
            return
        total, oldest = self._oldest(needed)
        needed = max(self._over(total), self._lacking())
        freed = removed = 0
        for old in sorted(oldest, reverse=True):
            if freed >= needed or self._ended.is_set():
                break
            if self._remove(old.name):
                freed += old.bytes
                removed += 1
        self.used, self._freed = total - freed, freed
        self._free += freed
        log.info("cache: %d files removed, %d MiB", removed, freed >> 20)
        if freed:  # and if that was not enough, there may be more to remove
            self._asked_s = float("-inf")
        if 0 < freed < needed:
            self._size = max(self._size, self._making)
            self._wanted.set()

    def _over(self, used: int) -> int:
        """Return how many of *used* bytes are too many: more than nine tenths of the limit, or more
        than leave room for the write that found none."""
        return used - min(self.limit // 10 * 9, self.limit - self._making)

    def _lacking(self) -> int:
        """Return how many bytes the disk lacks until the reserve and a tenth more is free."""
        return self._reserve + self._reserve // 10 - self._free

    def _oldest(self, needed: int) -> tuple[int, list[_Old]]:
        """Return what all files use, and the oldest files, enough to free *needed* bytes but at
        most _OLDEST."""
        total = held = 0
        heap: list[_Old] = []
        for old in self._files():
            total += old.bytes
            if old.pinned or -old.age >= self.stays_since_s or self._in_use(old.name):
                continue
            heapq.heappush(heap, old)
            held += old.bytes
            while heap and (held - heap[0].bytes >= needed or len(heap) > _OLDEST):
                held -= heapq.heappop(heap).bytes
        return total, heap

    def _files(self) -> Iterator[_Old]:
        """Yield every file of the cache. Half of the time is left to others."""
        begun = time.monotonic()
        for count, (name, said) in enumerate(self._stats()):
            if stat.S_ISREG(said.st_mode):
                pinned = bool(said.st_mode & PINNED)
                yield _Old(-said.st_mtime, said.st_blocks * 512, name, pinned)
            if count % _REST == 0:
                if self._ended.wait(time.monotonic() - begun):
                    return
                begun = time.monotonic()

    def _stats(self) -> Iterator[tuple[str, os.stat_result]]:
        for shard in sorted(filter(_has_files, _listed(self._root))):
            with _directory(shard, self._root) as fd, os.scandir(fd) as found:
                for each in found:
                    try:
                        yield f"{shard}/{each.name}", each.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # removed meanwhile

    def _remove(self, name: str) -> bool:
        if self._in_use(name):
            return False
        try:
            os.unlink(name, dir_fd=self._root)
        except OSError as exc:
            log.debug("cache: %s: %s", name, exc)
            return False
        return True


def _has_files(directory: str) -> bool:
    return len(directory) == 2 or directory == SHELVES


def _listed(root: int) -> list[str]:
    try:
        return os.listdir(root)
    except FileNotFoundError:
        return []  # the directory was removed


@contextmanager
def _directory(name: str, root: int) -> Iterator[int]:
    """Within, the directory *name* is open."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        yield fd
    finally:
        os.close(fd)
