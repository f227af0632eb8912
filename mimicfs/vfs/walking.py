"""Which directory a program that walks a tree reads next: `find`, `du`, `ls -R` and `rsync` read a
directory, then the first one in it, and so on, each in the order in which it was shown.

Threading: any thread; `_lock` is a leaf. Where several read at once the guess is wrong, and nothing
else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

_RUN = 3  # guesses that came true before they count
_MOST = 10_000  # directories of one that are remembered


class Walking:
    """Told of what is read, says what comes next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects all below
        self._run = 0  # of guesses that came true
        # What was shown and not read yet, of each directory on the way down.
        self._levels: list[deque[int]] = []

    def begins(self, ino: int) -> None:
        """Directory *ino* is read from its beginning."""
        with self._lock:
            if ino == self._next():
                self._run += 1
                self._levels[-1].popleft()
            else:
                self._run = 0
                self._levels = []
            self._levels.append(deque())

    def shows(self, directories: Iterable[int]) -> None:
        """What is read shows *directories*."""
        with self._lock:
            if self._levels and len(self._levels[-1]) < _MOST:
                self._levels[-1].extend(directories)

    def coming(self) -> int:
        """Return the number of the directory that will be read next; 0: nobody knows."""
        with self._lock:
            return self._next() if self._run >= _RUN else 0

    def _next(self) -> int:
        levels = self._levels
        while levels and not levels[-1]:
            levels.pop()
        return levels[-1][0] if levels else 0
