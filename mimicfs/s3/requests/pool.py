"""The threads in which requests to S3 run, and how many of them run at once.

Threading: any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mimicfs.baton import Baton

P = ParamSpec("P")
T = TypeVar("T")


class RequestPool(ThreadPoolExecutor):
    """*size* threads. No more calls than that run at once, those of `here` included. A thread that
    waits to be one of them lets others have *baton*."""

    def __init__(self, size: int, baton: Baton | None = None) -> None:
        super().__init__(size, thread_name_prefix="s3")
        self._slots = threading.Semaphore(size)
        self._baton = baton or Baton()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(self.here, fn, *args, **kwargs)

    def here(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *fn* returns, called in this thread, which is none of the pool: for a caller
        that nothing interrupts."""
        if not self._slots.acquire(blocking=False):
            with self._baton.resting():
                self._slots.acquire()
        try:
            return fn(*args, **kwargs)
        finally:
            self._slots.release()

    def _adjust_thread_count(self) -> None:
        """Begin a thread for what was submitted, if none is idle. If no more threads can begin,
        those that there are do it: it is in their queue already. If there are none, it is done
        never, as its caller is told."""
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if self._threads:
                return
            self._work_queue.get_nowait()  # under the lock of `submit`: it is the only one there
            raise

    def begins(self) -> bool:
        """Begin one more call, if it may run now; return whether it may. It runs until `ended`."""
        return self._slots.acquire(blocking=False)

    def ended(self) -> None:
        self._slots.release()
