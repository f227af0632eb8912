"""Large reads and writes of the cache on disk past the kernel's pages (O_DIRECT).

The kernel has the bytes already as pages of the mounted file. To have them again as pages of the
cache's file takes as much memory once more, and a cold read spends most of its CPU on that copy.
Where the file system or a buffer is not fit for it, nothing is done here and the caller goes the
usual way. So does a writer that finds others writing for long: a slow disk is waited for only where
memory is short.

Threading: any thread.
"""

from __future__ import annotations

import errno
import os
import threading

LEAST = 256 << 10  # bytes; for less, a disk spends more on finding the place
_ALIGNED = 4096
_WRITERS = 3  # at once
# How long another one waits for its turn. The copy into the kernel's pages is a fifth of the CPU of
# eight readers, and they wait for nobody here: the piece can be read already.
_PATIENCE_S = 0.05


class Direct:
    """The state that all files of a cache share: turns to write."""

    def __init__(self) -> None:
        self._turns = threading.BoundedSemaphore(_WRITERS)

    def open(self, fd: int) -> int:
        """Return another descriptor of the file *fd*, for O_DIRECT; -1: there is none."""
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return -1

    def write(self, fd: int, view: memoryview, place: int) -> int:
        """Write *view* at *place* as far as that can be done now; return how much was."""
        size = len(view) // _ALIGNED * _ALIGNED
        if size < LEAST or place % _ALIGNED or not self._turns.acquire(timeout=_PATIENCE_S):
            return 0
        try:
            return os.pwrite(fd, view[:size], place)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # the address of *view* in memory does not suit the disk
                return 0
            raise
        finally:
            self._turns.release()

    def read_into(self, fd: int, buffer: memoryview, place: int) -> int:
        """Fill *buffer* with the bytes at *place* as far as O_DIRECT can; return how many they
        are."""
        size = len(buffer) // _ALIGNED * _ALIGNED
        if size < LEAST or place % _ALIGNED:
            return 0
        try:
            return os.preadv(fd, [buffer[:size]], place)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                return 0
            raise
