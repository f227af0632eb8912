"""The rolling reconcile: each part of the known mirror is compared with S3 once in a period.

Messages get lost: somebody deletes a queue or removes a configuration, or a consumer is away for
longer than its queue keeps messages. So every scope is listed again before it is *period_s* old,
the oldest first; while the mount is idle, at four fifths of that. A listing makes a scope the
newest, so that in each period everything known is listed once, and mounts that share a store share
the work.

A scope that S3 does not list (no rights, a server that fails there) holds up no other: it is tried
again after a minute, after two, and so on up to an hour. If S3 as a whole fails, that is the fault
of no scope: the one that was tried gives way to others for two minutes.

A known gap (`suspect`) makes every scope of the bucket due that was listed before it. The store
notes it, so that it outlives the process. The clock that noted it may be ahead of ours, or may have
been set back: so one gap makes a scope due once.

Threading: one thread runs; `suspect` and the figures may be called from any.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mimicfs.entry import DAY_S, LIST_MAX, NS, Scope
from mimicfs.errors import (
    CredentialsError,
    Interrupted,
    MimicError,
    NotFromS3,
    S3Unavailable,
    StoreError,
    Throttled,
)
from mimicfs.human import number_of
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.sync.freshness import gap_ns, note_gap, note_swept
from mimicfs.sync.syncer import Syncer

log = logging.getLogger(__name__)

_EARLY = 0.8  # of the period: while nobody needs S3, a scope is listed so early
_LOOK_S = 30.0  # between two looks at what is due
_MANY = 10  # scopes that are due: mounts that share the store divide them,
_DIVIDED = 1000  # and so many of them until the next look
_AGAIN_S = 60.0  # after a failure; for a scope, twice as long after each further one
_AGAIN_MAX_S = 3600.0
_USD_A_LIST = 0.005 / 1000  # aws.amazon.com/s3/pricing, us-east-1


_OF_ALL = (S3Unavailable, Throttled, CredentialsError)  # errors that the next scope would meet, too
_Where = tuple[str, str]  # a bucket, and the prefix of a scope


class _Due(NamedTuple):
    bucket: str
    scope: Scope
    early: bool = False  # its time has not come: it is listed while S3 is idle


class _Failure(NamedTuple):
    """A scope that could not be listed."""

    error: str
    times: int
    until_s: float  # until when it is left alone,
    listed_ns: int  # or until it is listed later than this,
    gap_ns: int  # or until another gap than this one is known


class Sweep:
    """Keeps the buckets of *buckets* true to within *period_s*. *idle* tells whether others ask S3
    nothing at the moment; *asked* is told how many requests were ours."""

    def __init__(
        self,
        mimicdb: Mirror,
        syncer: Syncer,
        buckets: Callable[[], list[str]],
        period_s: float,
        idle: Callable[[], bool] = lambda: False,
        asked: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._mimicdb = mimicdb
        self._syncer = syncer
        self._buckets = buckets
        self._period_ns = int(period_s * NS)
        self._idle = idle
        self._asked = asked
        self._cancellation = Cancellation()
        self._wake = threading.Event()
        self._queue: deque[_Due] = deque()  # what was due at the last look, the oldest first
        self._looked_s = float("-inf")  # when that was
        self._swept = 0
        self._error = ""  # of the store, or of S3 as a whole
        self._failures: dict[_Where, _Failure] = {}
        self._closed_ns: dict[_Where, int] = {}  # by scope: the gap after which it was listed

    def run(self) -> None:
        """Sweep until `close`."""
        self._say_price()
        while not self._cancellation.cancelled:
            pause_s = _LOOK_S
            try:
                if self.step():
                    continue
            except Interrupted:
                continue
            except MimicError as exc:
                if not self._error:
                    log.warning("reconcile: %s", exc)
                self._error, pause_s = str(exc), _AGAIN_S
            self._wake.wait(pause_s)
            self._wake.clear()

    def step(self) -> bool:
        """List a scope that is due, if there is one; return whether to go on at once. Raises
        MimicError if nothing can be listed now."""
        due = self._next()
        if due is None:
            return False
        gap = gap_ns(self._mimicdb, due.bucket)
        try:
            self._list(due)
        except (Interrupted, StoreError):
            raise
        except MimicError as exc:
            of_all = isinstance(exc, _OF_ALL) and not isinstance(exc, NotFromS3)
            self._leave_alone(due, exc, gap, of_all=of_all)
            if of_all:
                self._queue.clear()
                raise
            if self._failures[due.bucket, due.scope.prefix].times == 1:
                log.warning("reconcile: s3://%s/%s: %s", due.bucket, due.scope.prefix, exc)
        return True

    def close(self) -> None:
        self._cancellation.cancel()
        self._wake.set()

    def suspect(self, bucket: str, why: str) -> None:
        """Have all known scopes of *bucket* listed: its changes may have been lost until now."""
        note_gap(self._mimicdb, bucket)
        self._looked_s = float("-inf")  # what was found before can wait
        log.warning("s3://%s: %s; its known directories are listed again", bucket, why)
        self._wake.set()

    def price(self) -> tuple[float, float]:
        """Return how many LISTs a day the sweep costs at least, and how many USD that is (AWS).
        Nothing but the scopes is read: how many names the last listing of each found."""
        a_day = self._lists_a_day(self._scopes())
        return a_day, a_day * _USD_A_LIST

    def figures(self) -> dict[str, Any]:
        """Return, for each bucket, since when everything known of it was listed; and the cost of
        the sweep."""
        oldest: dict[str, int] = {}
        for name, scope in (scopes := self._scopes()):
            oldest[name] = min(oldest.get(name, scope.listed_ns), scope.listed_ns)
        return {
            "swept": self._swept,
            "error": self._said(),
            "lists_a_day": round(self._lists_a_day(scopes), 3),
            "swept_until_ns": oldest,
        }

    def due(self) -> _Due | None:
        """Return the oldest scope that is due; None: none is."""
        return next(iter(self._all_due()), None)

    def _next(self) -> _Due | None:
        """Return the same. To look at all scopes takes longer than to list one, where there are
        100,000: what one look has found is listed for half a minute."""
        if time.monotonic() - self._looked_s >= _LOOK_S:
            self._queue.clear()
        while self._queue:
            if self._queue[0].early and not self._idle():
                return None
            due = self._queue.popleft()
            now = self._mimicdb.scope(due.bucket, due.scope.prefix)
            if now is not None and now.listed_ns == due.scope.listed_ns:
                return due
        self._looked_s = time.monotonic()  # a gap that is known from now on makes us look again
        self._queue.extend(self._divided(self._all_due()))
        return self._queue.popleft() if self._queue else None

    def _divided(self, due: list[_Due]) -> list[_Due]:
        """Return what of *due* this mount lists next, in its order. Mounts that share the store
        look at about the same time, after a gap: in the same order, each would list what another
        one is just listing."""
        member = self._mimicdb.member
        if len(due) < _MANY or not any(it.alive and it.id != member.id for it in member.others()):
            return due
        oldest = due[:_DIVIDED]
        random.shuffle(oldest)
        return oldest

    def _all_due(self) -> list[_Due]:
        """Return the scopes that are to be listed now, the oldest first: those whose time has come,
        or else those whose time comes soon, if S3 is idle."""
        late = time.time_ns() - self._period_ns
        gaps = {name: gap_ns(self._mimicdb, name) for name in self._buckets()}
        scopes = self._scopes()
        there = {(name, scope.prefix): scope.listed_ns for name, scope in scopes}
        failures = self._failures.items()
        self._failures = {place: it for place, it in failures if there.get(place) == it.listed_ns}
        self._closed_ns = {place: it for place, it in self._closed_ns.items() if place in there}
        early = late + int(self._period_ns * (1 - _EARLY)) if self._idle() else late
        due: list[_Due] = []
        soon: list[_Due] = []
        for name, scope in scopes:
            if self._is_left_alone(name, scope, gaps.get(name, 0)):
                continue
            if scope.listed_ns < max(late, self._open_gap_ns(name, scope, gaps)):
                due.append(_Due(name, scope))
            elif scope.listed_ns < early:
                soon.append(_Due(name, scope, early=True))
        return sorted(due, key=_age) or sorted(soon, key=_age)

    def _scopes(self) -> list[tuple[str, Scope]]:
        return [(name, each) for name in self._buckets() for each in self._mimicdb.scopes(name)]

    def _lists_a_day(self, scopes: Iterable[tuple[str, Scope]]) -> float:
        return sum(_pages(scope) for _, scope in scopes) * DAY_S / (self._period_ns / NS)

    def _say_price(self) -> None:
        try:
            log.info("reconcile: at least %.0f LISTs a day, %.4f USD", *self.price())
        except MimicError as exc:  # the store is away, and `run` tries it again
            log.info("reconcile: how many LISTs a day it takes is not known: %s", exc)

    def _open_gap_ns(self, bucket: str, scope: Scope, gaps: dict[str, int]) -> int:
        gap = gaps.get(bucket, 0)
        return 0 if self._closed_ns.get((bucket, scope.prefix)) == gap else gap

    def _is_left_alone(self, bucket: str, scope: Scope, gap: int) -> bool:
        failure = self._failures.get((bucket, scope.prefix))
        if failure is None or failure.gap_ns != gap:
            return False
        return time.monotonic() < failure.until_s

    def _leave_alone(self, due: _Due, exc: MimicError, gap: int, *, of_all: bool) -> None:
        place = due.bucket, due.scope.prefix
        before = self._failures.get(place)
        times = (before.times if before else 0) + (not of_all)
        wait_s = min(_AGAIN_MAX_S, _AGAIN_S * 2.0 ** min(times - 1, 10))
        if of_all:  # try others before it; the wait does not grow
            wait_s = 2 * _AGAIN_S
        # Made anew and replaced in one step: the figures may be read meanwhile.
        until_s = time.monotonic() + wait_s
        failure = _Failure(str(exc), times, until_s, due.scope.listed_ns, gap)
        self._failures = {**self._failures, place: failure}

    def _said(self) -> str:
        """Return the failures, in words; "": there are none."""
        if not self._failures:
            return self._error
        (bucket, prefix), failure = next(iter(self._failures.items()))
        more = len(self._failures) - 1
        also = f", and {number_of(more, 'other directory')}" if more else ""
        return f"s3://{bucket}/{prefix}{also} cannot be listed: {failure.error}"

    def _list(self, due: _Due) -> None:
        bucket, scope = due.bucket, due.scope
        gap, begun_ns = gap_ns(self._mimicdb, bucket), time.time_ns()
        if scope.deep:
            self._syncer.sync(bucket, scope.prefix, cancellation=self._cancellation)
        else:
            self._syncer.list_directory(bucket, scope.prefix, self._cancellation)
        listed = self._mimicdb.scope(bucket, scope.prefix)
        if listed is not None:
            self._asked(_pages(listed))
            note_swept(self._mimicdb, bucket, listed)
            # otherwise this continued a sync that began before the gap
            if listed.listed_ns >= begun_ns:
                self._closed_ns[bucket, scope.prefix] = gap
        self._swept, self._error = self._swept + 1, ""
        left = {**self._failures}
        if left.pop((bucket, scope.prefix), None):
            self._failures = left


def _age(due: _Due) -> int:
    return due.scope.listed_ns


def _pages(scope: Scope) -> int:
    """Return how many LISTs *scope* takes at least."""
    names = scope.names or scope.added + scope.changed  # if nobody counted
    return max(1, math.ceil(names / LIST_MAX))
