"""The times in the XML of answers, in whatever form.

Pure functions; any thread may call them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from mimicfs.entry import DAY_S, EPOCH, NS, TIME_MAX_NS, clamped_ns
from mimicfs.s3.transport.answers import date_of

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z").fullmatch
_IN_SECONDS = re.compile(r"\d{9,11}(\.\d+)?").fullmatch


def time_ns(text: str) -> int:
    """Return the ns of a time in the form of XML, of HTTP, or in seconds since 1970; 0: it is not
    known, as for an object without a time."""
    try:
        return clamped_ns(datetime.fromisoformat(text.upper()))
    except ValueError:
        return _odd_time_ns(text)


def _odd_time_ns(text: str) -> int:
    if _IN_SECONDS(text):
        return min(int(text.partition(".")[0]) * NS, TIME_MAX_NS)
    at = date_of(text)
    return 0 if at is None else clamped_ns(at)


def plain_time_ns(text: bytes) -> int:
    """Return the ns of a time in the form of S3. Raises ValueError for any other form."""
    return (_midnight_s(text[:10]) + _seconds(text[10:19])) * NS + _fraction_ns(text[19:])


@lru_cache(maxsize=1024)
def _midnight_s(day: bytes) -> int:
    if not _TIME(day + b"T00:00:00Z"):
        raise ValueError(day)
    at = (datetime.fromisoformat(day.decode()).replace(tzinfo=UTC) - EPOCH) // timedelta(seconds=1)
    if abs(at) > TIME_MAX_NS // NS - DAY_S:
        raise ValueError(day)  # expat reads it, and it is clamped
    return at


@lru_cache(maxsize=16384)
def _seconds(clock: bytes) -> int:
    if not _TIME(b"2000-01-01" + clock + b"Z"):
        raise ValueError(clock)
    return int(clock[1:3]) * 3600 + int(clock[4:6]) * 60 + int(clock[7:])


@lru_cache(maxsize=1024)
def _fraction_ns(rest: bytes) -> int:
    if not _TIME(b"2000-01-01T00:00:00" + rest):
        raise ValueError(rest)
    return int(rest[1:7].rstrip(b"Z").ljust(6, b"0")) * 1000
