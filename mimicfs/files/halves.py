"""Appends that the kernel sends in two halves, and the turn of a file, which keeps them together.

The kernel sends what a program writes at once, but for a page of which it has not read the rest:
what goes into that page comes in a WRITE of its own, which ends with the page, and the rest of the
same write(2) in the next one. If the file went to S3 in between, others could put their bytes into
the middle of a line; and so could whoever appends by another inode of the file.

Threading: any thread.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mimicfs.files.turn import Turn
from mimicfs.posix import Cancellation

_REST_S = 1.0  # how long the second half may take, on a busy machine; mostly well below 1 ms


class KernelWrite(NamedTuple):
    """A WRITE that appends: the inode and the handle by which it came, and where the kernel has put
    its bytes."""

    ino: int
    handle: int
    offset: int

    def may_be_half(self, size: int) -> bool:
        """Whether the write(2) may have more than these *size* bytes: they begin within a page, and
        end with one. (So does one of 4,096 that are whole.)"""
        return self.offset % mmap.PAGESIZE != 0 and (self.offset + size) % mmap.PAGESIZE == 0


UNSENT = KernelWrite(0, 0, 0)  # by no kernel


class _Half(NamedTuple):
    sent: KernelWrite
    until_s: float
    whole: Future[None]


class FileTurn(Turn):
    """The turn of a file."""

    def __init__(self) -> None:
        super().__init__()
        self._half: _Half | None = None  # what may still be half here; protected by `_lock`

    @contextmanager
    def taken_between(self, cancellation: Cancellation, ino: int = 0) -> Iterator[None]:
        """As `taken`, once no write(2) is half here, but for one by the inode *ino*: that is the
        same, or over. The caller has no turn yet."""
        while True:
            with self.taken(cancellation):
                half = self._pending(ino)
                if half is None:
                    yield
                    return
            with suppress(TimeoutError):
                cancellation.wait(half.whole, max(0.0, half.until_s - time.monotonic()))

    def take_alone(self) -> bool:
        if not super().take_alone():
            return False
        if self._pending() is None:
            return True
        self.give()
        return False

    def _pending(self, ino: int = 0) -> _Half | None:
        half = self._half
        there = half is not None and half.sent.ino != ino and time.monotonic() < half.until_s
        return half if there else None

    def wrote(self, sent: KernelWrite, size: int) -> None:
        """Note, within the turn, that *sent* has brought *size* bytes."""
        half = None
        if sent.may_be_half(size):
            half = _Half(sent, time.monotonic() + _REST_S, Future())
        self._put(half)

    def ended(self, handle: int) -> None:
        """Note that no write(2) by *handle* is under way."""
        half = self._half
        if half is not None and half.sent.handle == handle:
            self._put(None)

    def _put(self, half: _Half | None) -> None:
        with self._lock:
            old, self._half = self._half, half
        if old is not None:
            old.whole.set_result(None)
