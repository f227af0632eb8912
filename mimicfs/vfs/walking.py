"""A guess which directory a program that walks a tree reads next. `find`, `du`, `ls -R` and `rsync`
read a directory, then the first one in it, and so on, in the order in which they were shown.

Threading: any thread; `_lock` is a leaf. Where several programs read at once, the guess is wrong,
which does no other harm.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

_RUN = 3  # guesses must come true so often before they count
_MOST = 10_000  # subdirectories of one directory that are remembered


class Walking:
    """Is told which directories are read, and says which one comes next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects all below
        self._run = 0  # guesses in a row that came true
        # For each directory on the way down, those that were shown and not read yet.
        self._levels: list[deque[int]] = []

    def begins(self, ino: int) -> None:
        """Note that directory *ino* is read from its beginning."""
        with self._lock:
            if ino == self._next():
                self._run += 1
                self._levels[-1].popleft()
            else:
                self._run = 0
                self._levels = []
            self._levels.append(deque())

    def shows(self, directories: Iterable[int]) -> None:
        """Note that the directory that is read shows *directories*."""
        with self._lock:
            if self._levels and len(self._levels[-1]) < _MOST:
                self._levels[-1].extend(directories)

    def coming(self) -> int:
        """Return the number of the directory that is read next; 0: nobody knows."""
        with self._lock:
            return self._next() if self._run >= _RUN else 0

    def _next(self) -> int:
        levels = self._levels
        while levels and not levels[-1]:
            levels.pop()
        return levels[-1][0] if levels else 0
