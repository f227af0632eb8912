"""The work of a mount in the last hour, minute by minute: the one owner of these samples.

Counters only grow; a *mark* has their values at the beginning of a minute. 61 marks are kept, so an
hour costs some 250 KiB, and a mount at which nobody looks is asked for two parts once a minute.

Threading: `sampled` runs a thread that marks; the page reads in others. `_lock` is a leaf.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

from mimicfs.admin.sources import Figures

MINUTES = 60
_MINUTE_S = 60


Numbers = Mapping[str, float]
_NOTHING: Numbers = MappingProxyType({})


class Totals(NamedTuple):
    """Counters since the mount began, or the difference of two of them."""

    counts: Numbers = _NOTHING  # by the names that `totals_in` gives them
    calls: Numbers = _NOTHING  # of S3, by operation
    seconds: Numbers = _NOTHING  # until their answers began

    def of(self, name: str) -> float:
        return self.counts.get(name, 0)

    @property
    def mean_s(self) -> float | None:
        """The mean latency of a call; None: there was none."""
        count = sum(self.calls.values())
        return sum(self.seconds.values()) / count if count else None

    def since(self, before: Totals) -> Totals:
        """Return the counts since *before*."""
        return Totals(*(_less(*both) for both in zip(self, before, strict=True)))

    def and_(self, more: Totals) -> Totals:
        """Return the sum of both."""
        return Totals(*(_plus(*both) for both in zip(self, more, strict=True)))


class Minute(NamedTuple):
    """A minute, which begins at *start_s*, in seconds since 1970."""

    start_s: int
    did: Totals


def totals_in(figures: Figures) -> Totals | None:
    """Return the counters of *figures*; None if a part of them does not answer now."""
    s3, kernel = figures.get("s3", {}), figures.get("kernel", {})
    if "requests" not in s3 or "requests" not in kernel:
        return None
    sent = dict(s3["requests"])
    counts = {
        "programs": sum(kernel["requests"].values()),
        "by mirror": kernel["answered_by_mirror"],
        "requests": sum(sent.values()),
        **{kind: sent.pop(kind, 0) for kind in ("GET", "HEAD", "LIST")},
        "changes": sum(sent.values()),
        "in": s3["bytes_in"],
        "out": s3["bytes_out"],
    }
    return Totals(counts, s3["calls"], s3["seconds"])


class Hour:
    """The marks of the last hour. The first one is that of the mount's beginning."""

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()  # protects the marks
        self._marks: deque[Minute] = deque([Minute(_minute(now_s), Totals())], MINUTES + 1)

    def mark(self, totals: Totals, now_s: float) -> None:
        """Mark that a new minute has begun, unless the last mark is of the same minute."""
        start_s = _minute(now_s)
        with self._lock:
            if start_s > self._marks[-1].start_s:
                self._marks.append(Minute(start_s, totals))

    def minutes(self, totals: Totals | None, now_s: float) -> list[Minute]:
        """Return the work in each minute of the last hour that has a mark, the oldest first. The
        last minute is not over yet, and *totals* are the counters of now."""
        with self._lock:
            marks = list(self._marks)
        ends = [each.did for each in marks[1:]]
        if totals is not None:
            ends.append(totals)
        oldest_s = _minute(now_s) - (MINUTES - 1) * _MINUTE_S
        return [
            Minute(mark.start_s, end.since(mark.did))
            for mark, end in zip(marks, ends, strict=False)
            if mark.start_s >= oldest_s
        ]


def spent(minutes: Sequence[Minute]) -> Totals:
    """Return the work in *minutes* together."""
    total = Totals()
    for each in minutes:
        total = total.and_(each.did)
    return total


@contextmanager
def sampled(hour: Hour, collect: Callable[[], Figures]) -> Iterator[None]:
    """Within, *hour* is marked each minute, with the figures of *collect*."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(_MINUTE_S - time.time() % _MINUTE_S):
            totals = totals_in(collect())
            if totals is not None:
                hour.mark(totals, time.time())

    thread = threading.Thread(target=run, name="hour", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _minute(now_s: float) -> int:
    return int(now_s) // _MINUTE_S * _MINUTE_S


def _less(now: Numbers, before: Numbers) -> Numbers:
    return {name: number - before.get(name, 0) for name, number in now.items()}


def _plus(some: Numbers, more: Numbers) -> Numbers:
    return {name: some.get(name, 0) + more.get(name, 0) for name in {**some, **more}}
