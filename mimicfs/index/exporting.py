"""From the mirror to an index file, as of one moment, even while the mirror changes.

A store is read page by page, and each page is one snapshot; but an entry that moves from a later
page to an earlier one would be in neither. So a bucket is copied into a SQLite file beside
the target first. The change log then says which keys changed meanwhile: these are copied
again, until nothing has changed. Memory is bounded; on disk it takes about 150 bytes a key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.entry import LISTED, BucketEntry, Change, Entry, Scope, pages
from mimicfs.errors import LogTrimmed, MimicError, NotSynced, StoreUnavailable
from mimicfs.index.records import Header, IndexPart, Sink
from mimicfs.mimicdb import Mirror

_ROUNDS = 50  # rounds of copying again what changed meanwhile


class Export(NamedTuple):
    """The scope of an export, and the time since when it is known."""

    bucket: BucketEntry
    prefix: str
    scope: Scope


def wanted(mimicdb: Mirror, bucket: str, prefix: str) -> Export:
    """Return the scope of an export of everything below *prefix*. Raises NotSynced if the mirror
    does not know all of it: a key that is not in an index is certainly not in S3."""
    known = mimicdb.known_bucket(bucket)
    scope = whole_scope(mimicdb.backend, bucket, prefix)
    if known is None or scope is None:
        url = f"s3://{bucket}/{prefix}".removesuffix("/")
        raise NotSynced(
            f"{url}: the mirror does not know all of it; run `mimicfs sync '{url}'` first"
        )
    return Export(known, prefix, scope)


def whole_scope(backend: Backend, bucket: str, prefix: str) -> Scope | None:
    """Return the newest scope that covers every key below *prefix*."""
    found: Scope | None = None
    while True:
        scope = backend.scope(bucket, prefix)
        if scope is not None and scope.deep and (not found or scope.listed_ns > found.listed_ns):
            found = scope
        if not prefix:
            return found
        prefix = prefix[: prefix.rfind("/", 0, -1) + 1]


def header(
    mimicdb: Mirror, created_ns: int, endpoint: str, parts: int, *, everything: bool
) -> Header:
    """Return the header of an index of *parts*; with *everything*, it has the list of buckets."""
    listed = mimicdb.scope("", "") if everything else None
    if listed is None:
        return Header(created_ns, endpoint, parts)
    buckets = tuple((each.name, each.created_ns) for each in mimicdb.buckets())
    return Header(created_ns, endpoint, parts, listed.listed_ns, buckets)


def export(
    mimicdb: Mirror,
    what: Export,
    sink: Sink,
    directory: str | None,
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """Write a part into *sink*, by way of a file in *directory* (None: where temporary files
    are); return how many entries it has. *progress* is told how many more were written.
    Raises StoreError, NotSynced."""
    bucket, scope = what.bucket, what.scope
    with _spool(directory) as spool:
        _copy(mimicdb.backend, spool, bucket.name, what.prefix)
        wanted(mimicdb, bucket.name, what.prefix)  # somebody may have dropped it meanwhile
        copied = spool.bucket(bucket.name) or BucketEntry(bucket.name, 0)
        sink.part(
            IndexPart(
                bucket.name,
                what.prefix,
                scope.listed_ns,
                bucket.created_ns,
                scope.duration_ns,
                copied.objects,
                copied.bytes,
            )
        )
        count = 0
        for page in _pages(spool, bucket.name, ""):
            sink.write(page)
            count += len(page)
            progress(len(page))
    return count


@contextmanager
def _spool(directory: str | None) -> Iterator[Backend]:
    try:
        place = tempfile.TemporaryDirectory(prefix=".mimicfs-", dir=directory)
    except OSError as exc:
        text = f"no room for a temporary copy: {exc.strerror}; set TMPDIR to another directory"
        raise MimicError(text) from exc
    with place, closing(open_store(f"sqlite://{Path(place.name) / 'spool.db'}")) as spool:
        yield spool


def _copy(backend: Backend, spool: Backend, bucket: str, prefix: str) -> None:
    """Make *spool* equal to the mirror, below *prefix*, at some moment before this returns."""
    since = backend.seq(bucket)
    for page in _pages(backend, bucket, prefix):
        _put(spool, bucket, page)
    for _ in range(_ROUNDS):
        try:
            changes = backend.changes(bucket, since)
        except LogTrimmed:
            since = backend.seq(bucket)
            _copy_range(backend, spool, bucket, prefix, "", None)
            continue
        if not changes:
            return
        _copy_changes(backend, spool, bucket, prefix, changes)
        since = changes[-1].seq
    raise StoreUnavailable(
        f"s3://{bucket}/{prefix}: it changes faster than mimicfs can read it; export when there"
        " is less activity"
    )


def _copy_changes(
    backend: Backend, spool: Backend, bucket: str, prefix: str, changes: list[Change]
) -> None:
    for first, last in sorted({(change.first, change.last) for change in changes}):
        if first < last:
            _copy_range(backend, spool, bucket, prefix, first, last)
        elif first.startswith(prefix):
            found = backend.get(bucket, first)
            if found is None or found.kind == LISTED:
                spool.apply(bucket, (), [first])
            else:
                spool.apply(bucket, [found])


def _copy_range(
    backend: Backend, spool: Backend, bucket: str, prefix: str, first: str, last: str | None
) -> None:
    """Copy the keys from *first* to *last*, both included (None: to the end) again."""
    for page in _pages(spool, bucket, prefix, first, last):
        spool.apply(bucket, (), [entry.key for entry in page])
    for page in _pages(backend, bucket, prefix, first, last):
        _put(spool, bucket, page)


def _put(spool: Backend, bucket: str, page: Sequence[Entry]) -> None:
    # LISTED is implied by keys, where all are known.
    spool.apply(bucket, [entry for entry in page if entry.kind != LISTED])


def _pages(
    backend: Backend, bucket: str, prefix: str, first: str = "", last: str | None = None
) -> Iterator[list[Entry]]:
    if first.startswith(prefix) and (own := backend.get(bucket, first)) is not None:
        yield [own]
    for page in pages(lambda after: backend.scan(bucket, prefix, after), first):
        yield [entry for entry in page if last is None or entry.key <= last]
        if last is not None and page[-1].key > last:
            return
