"""An allowance: a rate that may be spent in the long run, and a stock that may be spent at once.

Threading: any thread; the lock is held for a few instructions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Allowance:
    """Allows *rate* a second, and saves up to *stock*, which is there at the beginning. A *rate* of
    0 allows everything. If a cost turns out only afterwards, there may be debts."""

    def __init__(
        self, rate: float, stock: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._stock = stock
        self._clock = clock
        self._lock = threading.Lock()  # protects the two below
        self._left = stock  # at the time *_at*; less than nothing: debts
        self._at = clock()

    def spend(self, cost: float) -> None:
        with self._lock:
            self._settle()
            self._left -= cost

    def wait_s(self) -> float:
        """Return how long it is until there is something to spend; 0: there is."""
        if not self._rate:
            return 0.0
        with self._lock:
            self._settle()
            return max(0.0, (1.0 - self._left) / self._rate)

    def _settle(self) -> None:
        now = self._clock()
        self._left = min(self._stock, self._left + (now - self._at) * self._rate)
        self._at = now
