"""Brings parts of the cache's files from the disk into the kernel's pages before somebody reads
them.

A thread does so for all files of a cache. So whoever reads a block waits for that block alone: to
ask for a part takes some 0.4 ms.

Threading: any thread. `_lock` protects what waits; the thread is started when something does, and
ends when nothing has for a while.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

PART = 2 << 20  # bytes that are brought at once
_WAITING = 256  # parts that may wait; of more, the oldest are not brought
_LINGERS_S = 1.0  # how long the thread waits for more

Bring = Callable[[], None]  # asks for one part; raises OSError as the disk does


class Bringer:
    """The thread, and the parts that wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._waiting: deque[Bring] = deque(maxlen=_WAITING)
        self._at_work = False
        self._closed = False

    def submit(self, bring: Bring) -> None:
        """Have the thread call *bring*. Never waits for the disk."""
        with self._lock:
            if self._closed:
                return
            self._waiting.append(bring)
            self._came.notify()
            if self._at_work:
                return
            self._at_work = True
        thread = threading.Thread(target=self._run, name="cache-bringer", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # no more threads can start: the next part tries again
            log.debug("not brought: %s", exc)
            with self._lock:
                self._at_work = False
                self._waiting.clear()

    def close(self) -> None:
        """Bring nothing more. The thread ends after the part that it is at."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._came.notify()

    def _run(self) -> None:
        while (bring := self._next()) is not None:
            try:
                bring()
            except OSError as exc:
                log.debug("not brought: %s", exc)  # whoever reads it meets the same, and says so
            except BaseException:
                with self._lock:
                    self._at_work = False
                raise
            del bring  # it holds a file open

    def _next(self) -> Bring | None:
        with self._lock:
            if not self._waiting and not self._closed:
                self._came.wait(_LINGERS_S)
            if self._waiting:
                return self._waiting.popleft()
            self._at_work = False
            return None
