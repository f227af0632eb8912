"""Makes closed files safe on the local disk, for programs that wait for that in close(2).

One thread does it for all. One fdatasync(2) makes safe what was written while the one before went
on (files/segment.py), and no thread is woken for each file.

Threading: any thread may call. `_lock` is a leaf.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)

Task = Callable[[], None]


class Securer:
    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()  # protects the two below
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, task: Task) -> bool:
        """Have the thread call *task*, which must not raise; False: the thread has ended."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="secure", daemon=True)
                thread.start()  # raises where there can be no more: then nothing waits for it
                self._thread = thread
            self._tasks.put(task)
        return True

    def close(self) -> None:
        """End the thread after all tasks that it was given."""
        with self._lock:
            self._closed, thread = True, self._thread
            self._tasks.put(None)
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                log.exception("making a closed file safe failed")
