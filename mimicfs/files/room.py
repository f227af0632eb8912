"""The room on the local disk for files that S3 does not have yet."""

from __future__ import annotations

import errno
import os
import threading

_FREE = 64 << 20  # bytes that stay free on the disk
_LOOK_EVERY = 16 << 20  # most bytes that are written between two looks at how much is free


class Room:
    """The bytes of the disk that staging files take, and may take (0: any number).

    Threading: any thread.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.used = 0
        self._unseen = 0  # bytes that segments may write before the next look at how much is free
        self._lock = threading.Lock()  # protects the two above; a leaf

    def taken(self, before: int, now: int) -> None:
        """Note that a file that took *before* bytes takes *now*."""
        with self._lock:
            self.used += now - before

    def check_free(self, fd: int, size: int) -> None:
        """Raise OSError ENOSPC if *size* more bytes must not be written to the disk of *fd*. All
        segments, which ask so, count as one writer."""
        with self._lock:
            if self.limit and self.limit - self.used < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._unseen -= size
            if self._unseen > 0:
                return
        left = self.left(fd, size)
        with self._lock:
            self._unseen = left

    def left(self, fd: int, size: int) -> int:
        """Return how many bytes, including *size*, may be written before the writer asks again.
        Raises OSError ENOSPC before the disk is full: others use it, too."""
        found = os.fstatvfs(fd)
        free, all_of_it = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        free -= min(_FREE, all_of_it // 20)
        if self.limit:
            free = min(free, self.limit - self.used)
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return min(_LOOK_EVERY, free // 2)
