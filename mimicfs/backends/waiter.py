"""Waiting for news in the logs of a store."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

_GLANCE_S = 0.5  # between two looks at logs of which nothing is heard


class Waiter:
    """Waits for news in the logs of a store. One thread waits; `close` may come from any, and
    ends the waiting."""

    def __init__(self) -> None:
        self._closed, self.ours_later = threading.Event(), False  # ours: told up to 0.1 s later

    def wait(self, places: Mapping[str, int], timeout_s: float) -> Sequence[str]:
        """Wait until a log may have news, or for *timeout_s*. *places* has, by bucket, the number
        of the last known line. Return the buckets whose logs may have news; [] if none is known to
        have any. Raises StoreError."""
        self._closed.wait(min(timeout_s, _GLANCE_S))
        return list(places)

    def close(self) -> None:
        """End the waiting, from any thread."""
        self._closed.set()
