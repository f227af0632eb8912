"""Requests that are under way, and how many may be.

Threading: one thread sends and takes; the answers come in the threads of the pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

from mimicfs.posix import Cancellation

T = TypeVar("T")
_START = 8  # requests at once, before anything is known


class Flights(Generic[T]):
    """Requests in *pool*. Each has an object of the caller that comes back with the answer.
    *cancellation* ends the waiting."""

    def __init__(self, pool: Executor, cancellation: Cancellation) -> None:
        self._pool = pool
        self._cancellation = cancellation
        self._under_way: dict[Future[Any], T] = {}
        self._lock = threading.Lock()  # protects the two below
        self._arrived: list[Future[Any]] = []
        self._signal: Future[None] = Future()  # done when something has arrived

    def __len__(self) -> int:
        return len(self._under_way)

    def send(self, what: T, call: Callable[..., Any], *args: Any) -> None:
        future = self._pool.submit(call, *args)
        self._under_way[future] = what
        future.add_done_callback(self._came)

    def take(self) -> tuple[T, Future[Any]]:
        """Wait for the next answer. Raises Interrupted."""
        with self._lock:
            if not self._arrived:
                self._signal = Future()
            signal = self._signal
        self._cancellation.check()
        self._cancellation.wait(signal)
        with self._lock:
            future = self._arrived.pop(0)
        return self._under_way.pop(future), future

    def give_up(self) -> None:
        """Give up the requests under way: nobody waits for them any more."""
        for future in self._under_way:
            future.cancel()
        self._under_way.clear()

    def _came(self, future: Future[Any]) -> None:
        with self._lock:
            self._arrived.append(future)
            if not self._signal.done():
                self._signal.set_result(None)


class Pace:
    """The number of requests that may be under way: up to *most*. It grows by one for each that
    succeeds, until S3 asks for patience: then it is halved, and grows slowly."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(_START, most))
        self._throttled = False
        self._answers = 0  # since the last halving

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self, throttled: bool) -> None:
        """Note that an answer has come; *throttled*: S3 had asked for patience before."""
        self._answers += 1
        if not throttled:
            step = 1 / self._limit if self._throttled else 1.0
            self._limit = min(float(self._most), self._limit + step)
        elif not self._throttled or self._answers > self._limit:
            # Requests that are under way together are refused together: that counts once.
            self._limit = max(1.0, self._limit // 2)
            self._throttled, self._answers = True, 0
