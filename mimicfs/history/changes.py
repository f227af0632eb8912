"""The changes of keys between moments, told by one pass over the versions of a bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, takewhile
from operator import attrgetter
from typing import NamedTuple

from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.ownkeys import is_own
from mimicfs.s3.requests.past import versions_below
from mimicfs.s3.requests.versions import Version


class Changed(NamedTuple):
    """*key* had the version *before*, and has *after*; None: there was no object.

    *kind* is "added", "deleted", "changed", or "rewritten" where both have the same bytes, as
    far as ETag and size tell."""

    kind: str
    key: str
    before: Version | None
    after: Version | None


def changed(s3: S3, bucket: str, scope: str, from_ns: int, to_ns: int) -> Iterator[Changed]:
    """Yield, in the order of keys, what differs in *scope* between two moments."""
    for key, versions in by_key(s3, bucket, scope):
        before, after = at(versions, (from_ns, to_ns))
        if before != after:
            yield Changed(_kind(before, after), key, before, after)


def by_key(s3: S3, bucket: str, scope: str) -> Iterator[tuple[str, Iterator[Version]]]:
    """Yield each key in *scope*, with its versions, the newest first. A scope that ends in "/", or
    is "", is all that is below; another one is the object of that name, and all below it. Without
    what mimicfs itself had there for a moment."""
    if scope and not scope.endswith("/"):
        own = takewhile(lambda each: each.key == scope, versions_below(s3, bucket, scope))
        yield from groupby(own, attrgetter("key"))
        scope += "/"
    for key, versions in groupby(versions_below(s3, bucket, scope), attrgetter("key")):
        if not is_own(key):
            yield key, versions


def at(versions: Iterable[Version], moments_ns: tuple[int, ...]) -> list[Version | None]:
    """Return what a key with *versions*, the newest first, was at each of *moments_ns*; None: there
    was no object."""
    found: list[Version | None] = [None] * len(moments_ns)
    open_ = set(range(len(moments_ns)))
    for version in versions:
        for place in [place for place in open_ if version.mtime_ns <= moments_ns[place]]:
            found[place] = None if version.deleted else version
            open_.remove(place)
        if not open_:
            break
    return found


def _kind(before: Version | None, after: Version | None) -> str:
    if before is None:
        return "added"
    if after is None:
        return "deleted"
    same = (before.etag, before.size) == (after.etag, after.size)
    return "rewritten" if same else "changed"
