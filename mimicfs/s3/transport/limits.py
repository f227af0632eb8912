"""The limits of the traffic with S3: bytes a second each way, requests a second of each bucket,
requests a day. A request that is too fast waits. A request above the number of the day is refused:
nothing is sent.

Each limit is a point in time at which the next byte or request may go. A thread that takes some
moves the point on by the time that they take, and waits until the point where it was. So many
threads share a limit in the order in which they came, and an unused second is not saved up. When
the limit changes, all threads that wait take another place, by the new limit; when it ends, all go.

Threading: any thread. Each lock is a leaf, held for a few instructions, and not while one waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from mimicfs.config.limits import (
    CHANGEABLE,
    Limit,
    limit_at,
    limit_text,
    parse_limit,
    parse_per_day,
    parse_request_rate,
)
from mimicfs.config.values import S3Options
from mimicfs.entry import DAY_S
from mimicfs.errors import ConfigError, TooManyRequests
from mimicfs.s3.transport.calls import Ask

log = logging.getLogger(__name__)

_PIECE = 256 << 10  # bytes that go at once, if the limit allows so many in _PIECE_S
_PIECE_S = 1 / 16  # a sixteenth of a second: many connections take turns
_LEAST = 4 << 10
_WARN_AT = 0.8
_FOLLOWED = {"CompleteMultipartUpload": 2}  # requests of a call: a HEAD follows (learning.py)

# Requests of the call in this context that need not wait any more.
_waited_for: ContextVar[int] = ContextVar("mimicfs_waited_for", default=0)


class RatePace:
    """Paces bytes or requests: *rate* of them a second; 0: any number."""

    def __init__(self, rate: float = 0.0) -> None:
        self._changed = threading.Condition()  # protects all below
        self._rate = rate
        self._next_s = 0.0
        self._changes = 0
        self._over = False

    @property
    def rate(self) -> float:
        return self._rate

    def set(self, rate: float) -> None:
        """Set the rate. Threads that wait already wait by the new rate from now on."""
        with self._changed:
            if rate != self._rate and not self._over:
                self._change(rate)

    def end(self) -> None:
        """Let everybody go, for good: no thread waits any more."""
        with self._changed:
            self._change(0.0)
            self._over = True

    def wait(self, count: int) -> float:
        """Wait until *count* may go; return how many seconds that took."""
        if not self._rate:
            return 0.0
        began_s = time.monotonic()
        with self._changed:
            while (waits_s := self._taken(count)) > 0:
                if not self._pause(waits_s, self._changes):
                    break
        return time.monotonic() - began_s

    def _change(self, rate: float) -> None:
        self._rate, self._next_s = rate, 0.0
        self._changes += 1
        self._changed.notify_all()

    def _taken(self, count: int) -> float:
        """Take the next place; return in how many seconds it is."""
        if not self._rate:
            return 0.0
        now_s = time.monotonic()
        begins_s = max(now_s, self._next_s)
        self._next_s = begins_s + count / self._rate
        return begins_s - now_s

    def _pause(self, waits_s: float, changes: int) -> bool:
        """Return whether the rate changed within *waits_s*: then the place is void."""
        return self._changed.wait_for(lambda: self._changes != changes, waits_s)


class Flow:
    """Bytes in one direction, by the time of day."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._pace = RatePace()
        self._minute = -1
        self._bytes_per_s = 0

    def set(self, limit: Limit) -> None:
        self.limit, self._minute = limit, -1
        self._follow_clock()

    def end(self) -> None:
        self._pace.end()

    def piece(self) -> int:
        """Return how many bytes may go at once."""
        if not self.limit:
            return _PIECE
        self._follow_clock()
        rate = self._bytes_per_s
        return max(_LEAST, min(_PIECE, int(rate * _PIECE_S))) if rate else _PIECE

    def wait(self, count: int) -> float:
        """Wait until *count* bytes may go; return how many seconds that took."""
        if not self.limit or not count:
            return 0.0
        self._follow_clock()
        return self._pace.wait(count)

    def _follow_clock(self) -> None:
        minute = int(time.time()) // 60
        if minute != self._minute:
            self._minute = minute
            now = time.localtime()
            self._bytes_per_s = limit_at(self.limit, now.tm_hour * 60 + now.tm_min)
            self._pace.set(self._bytes_per_s)


class Limits:
    """The limits of one account, changed while it runs by `set`."""

    def __init__(self, options: S3Options) -> None:
        self.download = Flow(options.download_limit)
        self.upload = Flow(options.upload_limit)
        self._buckets = options.buckets
        self._lock = threading.Lock()  # protects all below
        self._rates: dict[str, RatePace] = {}
        self._rate: float | None = None  # of every bucket, once it was set
        self._per_day = options.requests_per_day
        self._day = _today()
        self._asked = 0  # today, or since it began
        self._warned = False

    def ask(self, bucket: str) -> None:
        """Wait until one request more to *bucket* may go."""
        with self._lock:
            pace = self._rates.get(bucket)
            if pace is None:
                rate = self._buckets.of(bucket).request_rate if self._rate is None else self._rate
                pace = self._rates[bucket] = RatePace(rate)
        pace.wait(1)

    def none_of(self, bucket: str) -> bool:
        """Whether neither bytes nor requests to *bucket* have to wait."""
        with self._lock:
            pace = self._rates.get(bucket)
        rate = self._buckets.of(bucket).request_rate if pace is None else pace.rate
        if pace is None and self._rate is not None:
            rate = self._rate
        return not (rate or self.upload.limit or self.download.limit)

    def in_time(self, ask: Ask) -> Ask:
        """Return *ask* with calls that wait for their requests before anything else is done for
        them. So a call that announces a change keeps no other thread waiting meanwhile."""

        def call(operation: str, params: dict[str, Any]) -> Any:
            count = _FOLLOWED.get(operation, 1)
            for _ in range(count):
                self.ask(str(params.get("Bucket", "")))
            token = _waited_for.set(count)
            try:
                return ask(operation, params)
            finally:
                _waited_for.reset(token)

        return call

    def in_turn(self, ask: Ask) -> Ask:
        """Return *ask* with calls that go at once as far as `in_time` has waited for them."""

        def call(operation: str, params: dict[str, Any]) -> Any:
            left = _waited_for.get()
            if left:
                _waited_for.set(left - 1)
            else:
                self.ask(str(params.get("Bucket", "")))
            return ask(operation, params)

        return call

    def close(self) -> None:
        """Let everybody go: requests that are still to come go at once."""
        with self._lock:
            self._rate, paces = 0.0, list(self._rates.values())
        for pace in paces:
            pace.end()
        self.download.end()
        self.upload.end()

    def count(self) -> None:
        """Count a request that is about to be sent. Raises TooManyRequests if it must not be."""
        with self._lock:
            day = _today()
            if day != self._day:
                self._day, self._asked, self._warned = day, 0, False
            most = self._per_day
            if most and self._asked >= most:
                raise TooManyRequests(
                    f"{most:,} requests were sent today, the most by max-requests-per-day;"
                    f" wait {_left_s() / 3600:.1f} h, or raise the limit by `mimicfs set`"
                )
            self._asked += 1
            warn = bool(most) and self._asked >= most * _WARN_AT and not self._warned
            self._warned |= warn
        if warn:
            log.warning("%d of the %d requests of today are sent", self._asked, most)

    def set(self, name: str, text: str) -> None:
        """Change the limit *name* to *text*. Raises ConfigError."""
        self.set_all({name: text})

    def set_all(self, texts: Mapping[str, str]) -> None:
        """Change the limits that are named, or none of them if one is wrong. Raises ConfigError."""
        changes = [(name, *_change_of(self, name, text)) for name, text in texts.items()]
        for name, change, value in changes:
            change(value)
            log.info("%s is %s now", name, texts[name].strip() or "off")

    def figures(self) -> dict[str, Any]:
        """Return the limits as they are, and how many requests were sent today."""
        with self._lock:
            rate = self._buckets.default.request_rate if self._rate is None else self._rate
            asked = self._asked if self._day == _today() else 0
            return {
                "download_limit": limit_text(self.download.limit),
                "upload_limit": limit_text(self.upload.limit),
                "request_rate": rate,
                "max_requests_per_day": self._per_day,
                "requests_today": asked,
            }

    def _set_rate(self, rate: float) -> None:
        with self._lock:
            self._rate = rate
            for pace in self._rates.values():
                pace.set(rate)

    def _set_per_day(self, most: int) -> None:
        with self._lock:
            self._per_day, self._warned = most, False


def _change_of(limits: Limits, name: str, text: str) -> tuple[Callable[[Any], None], Any]:
    """Return the function that sets the limit *name*, and the value that *text* means. Raises
    ConfigError."""
    if name == "download-limit":
        return limits.download.set, parse_limit(text)
    if name == "upload-limit":
        return limits.upload.set, parse_limit(text)
    if name == "request-rate":
        return limits._set_rate, parse_request_rate(text)
    if name == "max-requests-per-day":
        return limits._set_per_day, parse_per_day(text)
    known = ", ".join(CHANGEABLE)
    raise ConfigError(f"{name}: cannot be changed while the mount runs; {known} can")


def _today() -> int:
    return int(time.time()) // DAY_S


def _left_s() -> float:
    return DAY_S - time.time() % DAY_S
