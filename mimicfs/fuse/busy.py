"""The inodes that the kernel may keep locked, because a request on them waits for the answer of a
worker.

Threading: any thread.
"""

from __future__ import annotations

import threading
from collections import Counter


class Busy:
    """Counts the requests that workers have, by their inodes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # protects the counts
        self._counts: Counter[int] = Counter()

    def begin(self, inodes: tuple[int, ...]) -> None:
        with self._changed:
            self._counts.update(inodes)

    def end(self, inodes: tuple[int, ...]) -> None:
        with self._changed:
            for ino in inodes:
                self._counts[ino] -= 1
                if not self._counts[ino]:
                    del self._counts[ino]
            self._changed.notify_all()

    def wait_until_free(self, ino: int, timeout_s: float) -> bool:
        """Return True once no worker has a request on *ino*; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: ino not in self._counts, timeout_s)
