"""Keys of which S3 may yet do what nobody waits for any more.

The sender of a request may be killed, give up, or send another one, while the request is on its
way, or while S3 is doing it: that may take minutes for a large object of many parts. S3 has the old
state then, if it is asked at once. So it is asked again, after 2 s, 4 s later, then 8 s later, and
so on for eight minutes.

Threading: any thread may call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

FIRST_S = 2.0
_TIMES = 128  # the last wait is so many times as long as the first
_MAX = 10_000  # keys
_AT_ONCE = 50  # the other unfinished changes must not wait for long


class Stragglers:
    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects what is below
        # By bucket and key: when to ask, and how long after that again.
        self._due: dict[tuple[str, str], tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._due)

    def expect(self, bucket: str, keys: Iterable[str]) -> None:
        """Have S3 asked about *keys* again."""
        first = time.monotonic() + FIRST_S, 2 * FIRST_S
        with self._lock:
            for key in keys:
                if len(self._due) < _MAX:
                    self._due[bucket, key] = first

    def due(self) -> list[tuple[str, str]]:
        """Return the keys about which S3 is to be asked now, with their buckets."""
        now_s = time.monotonic()
        with self._lock:
            found = [place for place, (at_s, _) in self._due.items() if at_s <= now_s][:_AT_ONCE]
            for place in found:
                _, later_s = self._due.pop(place)
                if later_s <= _TIMES * FIRST_S:
                    self._due[place] = now_s + later_s, 2 * later_s
        return found
