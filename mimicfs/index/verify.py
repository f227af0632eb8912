"""Drift: what S3 has and the mirror has not, the reverse, and what differs.

S3 is listed page by page, and each page is compared with the same range of the mirror. A change in
the mirror after a page was asked for is no drift: it is counted by itself. Nor is what lies in a
directory that the mirror never listed and says nothing about. With *repair*, each page is merged as
a sync would do it. Threading: one thread for each verify.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from mimicfs.entry import LISTED, OBJECT, Difference, Entry, Scope, is_directory_bucket, pages
from mimicfs.errors import KeyNotFound, LogTrimmed, NotSynced, Unsupported
from mimicfs.merging import SAME_TIME_NS
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.listing import Page
from mimicfs.s3.requests.trail import Trail
from mimicfs.sync.source import ListingScope, Source, fetched
from mimicfs.underway import ListingNote, listing

_CHANGES_MAX = 10_000  # that are looked at, of those since a page was asked for


class Drift(NamedTuple):
    """One key on which S3 and the mirror do not agree."""

    kind: str  # "missing" (in the mirror), "extra" (in the mirror), "changed"
    key: str
    mirror: Entry | None
    s3: Entry | None

    @property
    def fields(self) -> list[str]:
        """Return the fields that differ: of "size", "etag", "time", "storage_class"."""
        return differing(self.mirror, self.s3) if self.mirror and self.s3 else []


@dataclass
class Verified:
    """The result of a verification."""

    bucket: str
    prefix: str
    synced_ns: int | None  # since when the mirror knows all of it; None: not all is known
    keys: int = 0  # objects in S3
    known: int = 0  # objects in the mirror
    missing: int = 0  # S3 has them, and the mirror says that it does not
    extra: int = 0  # the mirror has them, S3 not
    changed: int = 0
    unlisted: int = 0  # S3 has them, in directories that the mirror never listed
    meanwhile: int = 0  # not compared: they changed in the mirror while S3 was asked

    @property
    def drift(self) -> int:
        return self.missing + self.extra + self.changed


def verify(
    mimicdb: Mirror,
    s3: Source,
    bucket: str,
    prefix: str = "",
    *,
    repair: bool = False,
    found: Callable[[Drift], None] = lambda drift: None,
    progress: Callable[[int], None] = lambda keys: None,
) -> Verified:
    """Compare all below *prefix* ("" or ending in "/"); tell *found* of each drift, in order,
    and *progress* how many keys came. Raises NotSynced where the mirror knows nothing,
    KeyNotFound where neither side does, the S3Error classes."""
    return _Verify(mimicdb, s3, bucket, prefix, found).run(repair, progress)


def differing(mirror: Entry, s3: Entry) -> list[str]:
    """Return the fields in which two sights of a key differ. A field that one of them does not
    tell cannot differ."""
    fields = ["size"] if mirror.size != s3.size else []
    if mirror.etag and s3.etag and mirror.etag != s3.etag:
        fields.append("etag")
    if abs(mirror.mtime_ns - s3.mtime_ns) > SAME_TIME_NS:
        fields.append("time")
    if mirror.storage_class != s3.storage_class:
        fields.append("storage_class")
    return fields


class _Verify:
    def __init__(
        self,
        mimicdb: Mirror,
        s3: Source,
        bucket: str,
        prefix: str,
        found: Callable[[Drift], None],
    ) -> None:
        self._mimicdb = mimicdb
        self._backend = mimicdb.backend
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._found = found
        self._listed = ("\0", False)  # the directory asked for last, and whether it was listed
        cover = self._backend.cover(bucket, prefix)
        if cover is None and not self._backend.scan(bucket, prefix, "", 1):
            url = f"s3://{bucket}/{prefix}".removesuffix("/")
            raise NotSynced(
                f"{url}: the mirror knows nothing of it; run `mimicfs sync '{url}'` first"
            )
        if is_directory_bucket(bucket):
            text = (
                "a directory bucket lists in no order, and is not verified; mimicfs sync lists it"
            )
            raise Unsupported(f"s3://{bucket}/{prefix}: {text}")
        whole = cover is not None and self._backend.covered(bucket, prefix, deep=True)
        self._report = Verified(bucket, prefix, cover.listed_ns if cover and whole else None)

    def run(self, repair: bool, progress: Callable[[int], None]) -> Verified:
        if not repair:
            return self._run(None, progress)
        with listing(self._backend, self._bucket, self._prefix) as said:
            return self._run(said, progress)

    def _run(self, said: ListingNote | None, progress: Callable[[int], None]) -> Verified:
        report = self._report
        started_ns = time.time_ns()
        counts, first = [0, 0, 0], None
        for page, since, after in self._pages():
            first = since if first is None else first
            self._compare(page, since, after)
            if said is not None:
                said.renew()
                difference = self._repair(page, since, after)
                counts = [n + len(keys) for n, keys in zip(counts, difference[:3], strict=True)]
            progress(len(page.entries))
        if self._prefix and not report.keys and not report.known:
            raise KeyNotFound(f"s3://{self._bucket}/{self._prefix}: no such directory")
        if said is not None:
            said.check()
            duration_ns = time.time_ns() - started_ns
            scope = Scope(self._prefix, True, started_ns, duration_ns, *counts)
            self._mimicdb.complete(self._bucket, scope._replace(names=report.keys), first)
        return report

    def _pages(self) -> Iterator[tuple[Page, int, str]]:
        """Yield the pages of the listing, the number of the last change before each was asked
        for, and the key behind which it begins. The next one is on its way meanwhile."""
        coming = self._fetch("", None)
        after, trail = "", Trail()
        while True:
            page, since = coming.result()
            if page.token is None or page.upto is None:
                yield page, since, after
                return
            if page.entries:
                trail.further()
            trail.on(f"listing of s3://{self._bucket}/{self._prefix}", page.token)
            coming = self._fetch(page.upto, page.token)
            if page.entries:  # an empty one speaks for nothing
                yield page, since, after
                after = page.upto

    def _fetch(self, after: str, token: str | None) -> Future[tuple[Page, int]]:
        return self._s3.pool.submit(self._page, after, token)

    def _page(self, after: str, token: str | None) -> tuple[Page, int]:
        scope = ListingScope(self._bucket, self._prefix)
        return fetched(self._mimicdb, self._s3, scope, after, token)

    def _repair(self, page: Page, since: int, after: str) -> Difference:
        return self._mimicdb.replace(
            self._bucket,
            self._prefix,
            page.entries,
            after=after,
            upto=page.upto,
            since=since,
            deep=True,
        )

    def _compare(self, page: Page, since: int, after: str) -> None:
        self._report.keys += len(page.entries)
        drifts = [drift for drift in self._drifts(page, after) if drift is not None]
        if not drifts:
            return
        changed = self._changed_since(since)
        for drift in drifts:
            if changed(drift.key):
                self._report.meanwhile += 1
            elif drift.kind == "missing" and not self._is_listed(drift.key):
                self._report.unlisted += 1
            else:
                setattr(self._report, drift.kind, getattr(self._report, drift.kind) + 1)
                self._found(drift)

    def _drifts(self, page: Page, after: str) -> Iterator[Drift | None]:
        mirror = self._mirror(after, page.upto)
        old = next(mirror, None)
        for new in page.entries:
            while old is not None and old.key < new.key:
                yield self._extra(old, new.key)
                old = next(mirror, None)
            if old is None or old.key != new.key:
                yield Drift("missing", new.key, None, new)
                continue
            if old.kind == OBJECT and differing(old, new):
                yield Drift("changed", new.key, old, new)
            old = next(mirror, None)
        while old is not None:
            yield self._extra(old, "")
            old = next(mirror, None)

    @staticmethod
    def _extra(old: Entry, following: str) -> Drift | None:
        """Return the drift that the mirror's *old* is, whose key S3 does not have; *following*
        is the next one that it has. A directory that was emptied here is none."""
        if old.kind == OBJECT or (old.kind == LISTED and not following.startswith(old.key)):
            return Drift("extra", old.key, old, None)
        return None

    def _mirror(self, after: str, upto: str | None) -> Iterator[Entry]:
        scan = self._backend.scan
        for page in pages(lambda at: scan(self._bucket, self._prefix, at), after):
            for entry in page:
                if upto is not None and entry.key > upto:
                    return
                self._report.known += entry.kind == OBJECT
                yield entry

    def _is_listed(self, key: str) -> bool:
        """Whether the mirror claims to know all keys that are where *key* is."""
        directory = key[: key.rfind("/") + 1]
        before, listed = self._listed
        if before != directory:
            listed = self._backend.covered(self._bucket, directory)
            self._listed = directory, listed
        return listed

    def _changed_since(self, since: int) -> Callable[[str], bool]:
        try:
            changes = self._backend.changes(self._bucket, since, _CHANGES_MAX)
        except LogTrimmed:
            changes = None
        if changes is None or len(changes) == _CHANGES_MAX:
            return lambda key: True  # all of it may have
        return lambda key: any(change.first <= key <= change.last for change in changes)
