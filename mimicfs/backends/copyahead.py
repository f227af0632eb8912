"""The choice of the directories that a replica copies next, before anybody asks for them.

Threading: any thread; a thread of its own copies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mimicfs.errors import StoreError

log = logging.getLogger(__name__)

_AT_ONCE = 32  # directories that are copied at a time before they are asked for
_AHEAD_ROWS = 200_000  # names that are copied ahead behind each directory that was asked for


class CopyAhead:
    """Copies directories before they are asked for: those below the ones that were asked for, the
    newest first. *copy* copies some, and returns those below them and how many names there were."""

    def __init__(self, copy: Callable[[str, list[str]], tuple[list[str], int]]) -> None:
        self._copy = copy
        self._lock = threading.Condition()  # protects what follows
        self._left: list[tuple[str, str]] = []
        self._rows = 0  # how many names may still be copied
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, bucket: str, directory: str) -> None:
        """*directory* was asked for."""
        with self._lock:
            self._rows = _AHEAD_ROWS
            self._left.append((bucket, directory))
            if self._thread is None and bucket:
                self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
                self._thread.start()
            self._lock.notify()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while (some := self._next()) is not None:
            bucket, directories = some
            try:
                below, count = self._copy(bucket, directories)
            except StoreError as exc:  # they are copied another time
                log.debug("copying ahead: %s", exc)
                continue
            with self._lock:
                self._rows -= count
                self._left += [(bucket, each) for each in reversed(below)]

    def _next(self) -> tuple[str, list[str]] | None:
        with self._lock:
            while not self._closed and not (self._left and self._rows > 0):
                self._left.clear()
                self._lock.wait()
            if self._closed:
                return None
            bucket, directory = self._left.pop()
            taken = [directory]
            while self._left and len(taken) < _AT_ONCE:
                its, directory = self._left[-1]
                if its != bucket:
                    break
                taken.append(directory)
                self._left.pop()
            return bucket, taken
