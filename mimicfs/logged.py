"""What the log of a bucket says: the names that were changed after one of its numbers.

The log of the list of buckets is that of the bucket "". A line with two different names says that
any name between them may have been changed, made or removed.

Threading: none of its own. Each function reads the log to its end, page by page, with the lines
that are added meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from mimicfs.backends import Backend
from mimicfs.backends.loglines import left_alone
from mimicfs.entry import Change, Entry
from mimicfs.errors import LogTrimmed


def changes_after(backend: Backend, bucket: str, since: int) -> Iterator[Change]:
    """Yield what was changed in *bucket* after number *since*. Raises LogTrimmed where the log
    does not reach back so far."""
    while changes := backend.changes(bucket, since):
        yield from changes
        since = changes[-1].seq


def newest_lines(backend: Backend, bucket: str, count: int) -> dict[str, Change]:
    """Return the newest line of each key that one of the last *count* lines names alone."""
    try:
        lines = backend.changes(bucket, max(0, backend.seq(bucket) - count))
    except LogTrimmed:
        return {}
    return {line.first: line for line in lines if line.first == line.last}


def buckets_changed(backend: Backend, since: int) -> tuple[int, set[str]]:
    """Return the number of the last change of the list of buckets, and the names changed after
    *since*. Raises LogTrimmed where any name may have changed."""
    names = set[str]()
    for change in changes_after(backend, "", since):
        if change.first != change.last:
            raise LogTrimmed("the list of buckets no longer counts as listed")
        names.add(change.first)
        since = change.seq
    return since, names


def buckets_met(backend: Backend, since: int, ours: set[str]) -> bool:
    """Whether somebody else has, or may have, changed one of the buckets *ours*, which we have
    changed once each, after number *since*."""
    met = set[str]()
    try:
        for change in changes_after(backend, "", since):
            if change.first in met or change.first != change.last:
                return True
            met |= {change.first} & ours
    except LogTrimmed:
        return True
    return False


def check_named(
    backend: Backend, bucket: str, keys: set[str], since: int, *, early: bool = False
) -> None:
    """Raise LogTrimmed unless the log names each of *keys*. A line about a range does not say which
    keys were in it: a key that was not there is missing in the mirror now. *early*: number *since*
    was read a moment before S3 was asked, perhaps after what the log names."""
    if early:
        raise LogTrimmed(f"s3://{bucket}/{min(keys)}: it was changed a moment ago")
    for change in changes_after(backend, bucket, since):
        if change.first == change.last:
            keys = keys - {change.first}
        if not keys:
            return
    raise LogTrimmed(f"s3://{bucket}/{min(keys)}: others may have changed it at the same time")


def unchanged(backend: Backend, bucket: str, entries: list[Entry], since: int) -> list[Entry]:
    """Return those of *entries* that have not changed after number *since*."""
    changed = left_alone(
        list(changes_after(backend, bucket, since)), [entry.key for entry in entries]
    )
    return [entry for entry in entries if entry.key not in changed]


def changers(backend: Backend, bucket: str, since: int, key: str) -> list[bool]:
    """Return, for each change of *key* after number *since*, whether this process has made it; []
    if the log does not say. What was only found in S3 is no change."""
    found = list[bool]()
    with suppress(LogTrimmed):
        for change in changes_after(backend, bucket, since):
            if change.first <= key <= change.last and not change.origin & 1:
                if change.first != change.last:
                    return []
                found.append(backend.is_own(change.origin))
        return found
    return []


def is_behind(backend: Backend, bucket: str, since: int, key: str, name: str) -> bool:
    """Whether *name*, or something below it, was changed after our change of *key*, the first one
    after number *since*. True also if the log does not say."""
    ours = False
    try:
        for change in changes_after(backend, bucket, since):
            ours = ours or (change.first == key and backend.is_own(change.origin))
            wide = change.first <= name <= change.last
            if ours and (wide or change.first.startswith(name)):
                return True
    except LogTrimmed:
        return True
    return False
