"""Worker threads, started when there is work and no thread is free.

Not concurrent.futures: its threads are joined at exit, so a request that hangs would keep the
process; and a Future for each request costs more than the request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

log = logging.getLogger(__name__)

Task = Callable[[], None]


class Pool:
    """Up to *size* daemon threads. Thread-safe."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self.size = size
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()  # protects the two below
        self._threads: list[threading.Thread] = []
        self._free = 0  # threads that wait, less the tasks that are queued for them

    def submit(self, task: Task) -> None:
        """Have a thread call *task*, which must not raise. Raises RuntimeError: there is no thread,
        and none can begin."""
        with self._lock:
            self._free -= 1
            if self._free < 0 and len(self._threads) < self.size:
                self._start()
        self._tasks.put(task)

    def close(self, timeout_s: float) -> bool:
        """End the threads after the tasks that were submitted so far; return False if some of them
        are not done after *timeout_s*."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # no more threads can start: those that there are do it
            if not self._threads:
                self._free += 1
                raise
            log.debug("%s has no more threads: %s", self._name, exc)
            return
        self._threads.append(thread)
        self._free += 1

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                log.exception("a task of %s failed", self._name)
            with self._lock:
                self._free += 1
