"""The freshness of a directory in the mirror, and its cause.

    listed   S3 was asked for all its names at that time
    swept    the same; the sweep asked (sweep.py)
    told     what S3's messages had said by then is in the mirror, and none of them can have been
             lost since the directory was listed

Notes in the store hold it, so that every mount says the same.

Threading: any thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from mimicfs.backends import HEARD, TOLD
from mimicfs.entry import Scope
from mimicfs.errors import StoreUnavailable
from mimicfs.mimicdb import Mirror

LISTED, SWEPT, TOLD_BY = "listed", "swept", "told"
# Notes beside a bucket
_GAP = "gap"  # the time (ns) of the latest known gap: messages before it may be incomplete
_UNPROVEN = "unproven"  # the same, if most likely nothing was lost: no sweep is hastened
_SWEPT = "swept"  # the times (ns) of the latest listings by a sweep
_SWEPT_MAX = 64  # older ones count as listed


class Fresh(NamedTuple):
    until_ns: int
    by: str


def freshness(mimicdb: Mirror, bucket: str, directory: str) -> Fresh | None:
    """Return how fresh *directory* is; None: it was never listed. Raises StoreError."""
    try:
        notes = mimicdb.notes(bucket)
        scope = mimicdb.latest_cover(bucket, directory)
    except StoreUnavailable:  # copied rows of the directory are answered, but not its notes
        notes, scope = {}, mimicdb.cover(bucket, directory)
    if scope is None:
        return None
    told_ns = max(_ns(notes.get(TOLD + above)) for above in _prefixes(directory))
    if told_ns > scope.listed_ns >= max(_ns(notes.get(it)) for it in (_GAP, _UNPROVEN)):
        return Fresh(told_ns, TOLD_BY)
    swept = str(scope.listed_ns) in notes.get(_SWEPT, "").split()
    return Fresh(scope.listed_ns, SWEPT if swept else LISTED)


def told_until_ns(mimicdb: Mirror, bucket: str, prefix: str) -> int:
    """Return until when sources of exactly *prefix* have told of everything below it; 0: never."""
    return _ns(mimicdb.note(bucket, TOLD + prefix))


def note_told(mimicdb: Mirror, bucket: str, prefix: str, until_ns: int) -> None:
    """Note that everything below *prefix* was told of until then."""
    mimicdb.set_note(bucket, TOLD + prefix, str(until_ns))


def heard_until(mimicdb: Mirror, bucket: str, prefix: str, source: str) -> tuple[int, str]:
    """Return until when *source* has told of everything below *prefix* (0: never), and its identity
    then ("": not known). If no source has a note of its own yet, the word of any source counts."""
    note = mimicdb.note(bucket, _heard(source, prefix))
    if note is None and not any(name.startswith(HEARD) for name in mimicdb.notes(bucket)):
        return told_until_ns(mimicdb, bucket, prefix), ""
    until, _, identity = (note or "").partition(" ")
    return _ns(until), identity


def note_heard(
    mimicdb: Mirror, bucket: str, prefix: str, source: str, identity: str, until_ns: int
) -> None:
    """Note that *source*, which is *identity*, has told of everything below *prefix* until then."""
    mimicdb.set_note(bucket, _heard(source, prefix), f"{until_ns} {identity}")


def _heard(source: str, prefix: str) -> str:
    return f"{HEARD}{source} {prefix}"


def gap_ns(mimicdb: Mirror, bucket: str) -> int:
    """Return when changes of *bucket* may have been lost last; 0: never."""
    return _ns(mimicdb.note(bucket, _GAP))


def note_gap(mimicdb: Mirror, bucket: str) -> None:
    """Note that changes of *bucket* may have been lost until now. No two gaps have the same
    time."""
    after_ns = max(_after_listings_ns(mimicdb, bucket), gap_ns(mimicdb, bucket) + 1)
    mimicdb.set_note(bucket, _GAP, str(after_ns))


def note_unproven(mimicdb: Mirror, bucket: str, until_ns: int = 0) -> None:
    """Note that nobody can say whether changes of *bucket* until now, or until *until_ns*, are told
    of: earlier listings do not count as told."""
    noted_ns = _ns(mimicdb.note(bucket, _UNPROVEN))
    if not 0 < until_ns < time.time_ns():
        until_ns = _after_listings_ns(mimicdb, bucket)
    if until_ns > noted_ns:
        mimicdb.set_note(bucket, _UNPROVEN, str(until_ns))


def _after_listings_ns(mimicdb: Mirror, bucket: str) -> int:
    """Return a time after each listing of *bucket* that is known: now, or later where the clock of
    another machine is ahead of ours."""
    latest_ns = max((scope.listed_ns for scope in mimicdb.scopes(bucket)), default=0)
    return max(time.time_ns(), latest_ns + 1)


def note_known_as_of_before(mimicdb: Mirror, bucket: str) -> None:
    """Note that more of *bucket* is going to be known, as of some time ago. Messages about it since
    then were about nothing known, and are lost."""
    if any(name.startswith(TOLD) for name in mimicdb.notes(bucket)):
        note_gap(mimicdb, bucket)


def note_swept(mimicdb: Mirror, bucket: str, scope: Scope) -> None:
    """Note that the listing of *scope* was one of the sweep."""
    before = (mimicdb.note(bucket, _SWEPT) or "").split()[1 - _SWEPT_MAX :]
    mimicdb.set_note(bucket, _SWEPT, " ".join([*before, str(scope.listed_ns)]))


def _prefixes(directory: str) -> Iterator[str]:
    """Yield *directory* and all above it."""
    yield directory
    while directory:
        directory = directory[: directory.rfind("/", 0, -1) + 1]
        yield directory


def _ns(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
