"""Listing S3, and merging what it shows into the mirror.

A scope is listed page by page; each page is merged as it comes, while the next is on its
way. Before a page is asked for, the bucket's sequence number is read: keys that change
after that are left alone by the merge. A page that fails or makes no sense ends the sync
with an error; nothing more is deleted, and the scope is not marked complete.

Threading: any thread may sync. Two that want the same directory listed share one listing.
A full sync that is asked for while one of that scope runs waits for it, and then lists
again: it must show what was changed before it was asked for. All that wait share that one.
Whoever shares and finds that the other was interrupted begins by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, Protocol, TypeVar

from mimicfs.entry import Bucket, Difference, Scope
from mimicfs.errors import (
    Interrupted,
    LogTrimmed,
    MimicError,
    NoSuchBucket,
    StoreUnavailable,
    Unlisted,
)
from mimicfs.mimicdb import MimicDB
from mimicfs.posix import Cancellation
from mimicfs.s3.listing import Page

log = logging.getLogger(__name__)

T = TypeVar("T")
_Where = tuple[str, str]  # bucket and prefix
_MERGE_TRIES = 3  # of one page, when the log was trimmed under it


class Progress(NamedTuple):
    """How far a sync is."""

    bucket: str
    prefix: str
    started_ns: int
    keys: int = 0
    pages: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


class Report(NamedTuple):
    """What a sync found. *error* is empty, or says why it ended early."""

    bucket: str
    prefix: str
    started_ns: int
    duration_ns: int
    keys: int
    pages: int
    added: int
    changed: int
    deleted: int
    unchanged: int
    error: str = ""


class Source(Protocol):
    """What lists: S3, or a client that was borrowed."""

    @property
    def pool(self) -> Executor: ...

    def list_buckets(self) -> list[Bucket]: ...

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> Page: ...


class Syncer:
    def __init__(self, mimicdb: MimicDB, s3: Source) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._lock = threading.Lock()  # protects the four below
        # Each future belongs to the thread that will list, and is done when that has ended.
        # INVARIANT: a scope that waits is running too; `_end` lets the one follow the other.
        self._running: dict[_Where, Future[Report]] = {}
        self._waiting: dict[_Where, Future[Report]] = {}
        self._listing: dict[_Where, Future[None]] = {}
        self._status: dict[_Where, Progress | Report] = {}

    def status(self, bucket: str, prefix: str) -> Progress | Report | None:
        """Return how far the sync of just this scope is, or how the last one ended."""
        return self._status.get((bucket, prefix))

    def progress(self) -> list[Progress]:
        """Return how far each sync is that runs now."""
        return [each for each in list(self._status.values()) if isinstance(each, Progress)]

    # What the mirror cannot answer

    def sure(self, ask: Callable[[], T], cancellation: Cancellation | None = None) -> T:
        """Return what *ask* says, after listing what the mirror does not know for it."""
        while True:
            try:
                return ask()
            except Unlisted as missing:
                self.learn(missing, cancellation)

    def learn(self, missing: Unlisted, cancellation: Cancellation | None = None) -> None:
        """Have S3 list what is not known."""
        if missing.bucket:
            self.list_directory(missing.bucket, missing.directory, cancellation)
        else:
            self.sync_buckets()

    # The list of buckets

    def sync_buckets(self) -> Difference:
        """Make the mirror's list of buckets true."""
        return self._mimicdb.replace_buckets(self._s3.list_buckets())

    def sync_all(
        self,
        progress: Callable[[Progress], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> list[Report]:
        """Make everything true. A bucket that fails does not stop the others: its report
        has the error."""
        self.sync_buckets()
        return [
            self._reported(bucket, progress, cancellation) for bucket in self._mimicdb.buckets()
        ]

    def _reported(
        self,
        bucket: Bucket,
        progress: Callable[[Progress], None] | None,
        cancellation: Cancellation | None,
    ) -> Report:
        try:
            return self.sync(bucket.name, "", progress, cancellation)
        except MimicError as exc:
            if cancellation is not None:
                cancellation.check()
            return Report(bucket.name, "", time.time_ns(), 0, 0, 0, 0, 0, 0, 0, str(exc))

    # A bucket, or all below a prefix

    def sync(
        self,
        bucket: str,
        prefix: str = "",
        progress: Callable[[Progress], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Report:
        """Make the mirror true for every key of *bucket* that begins with *prefix*.

        *prefix* is "" or ends in "/". Cancelled, what was merged stays. Raises the S3Error
        classes, MalformedListing, Interrupted.
        """
        cancellation = cancellation or Cancellation()
        where = (bucket, prefix)
        while True:
            mine: Future[Report] = Future()
            with self._lock:
                before = self._running.get(where)
                if before is None:
                    theirs = self._running[where] = mine
                else:
                    theirs = self._waiting.setdefault(where, mine)
            if theirs is mine:
                self._wait_for(before, where, mine, cancellation)
                return self._run(where, mine, progress, cancellation)
            try:
                return cancellation.wait(theirs)
            except Interrupted:
                cancellation.check()

    def _wait_for(
        self,
        before: Future[Report] | None,
        where: _Where,
        mine: Future[Report],
        cancellation: Cancellation,
    ) -> None:
        """Wait until the sync *before* has ended. How does not matter: this one lists anew."""
        if before is None:
            return
        ended: Future[None] = Future()
        before.add_done_callback(lambda _: ended.set_result(None))
        try:
            cancellation.wait(ended)
        except BaseException as exc:
            self._end(where, mine)
            mine.set_exception(exc)
            raise

    def _run(
        self,
        where: _Where,
        mine: Future[Report],
        progress: Callable[[Progress], None] | None,
        cancellation: Cancellation,
    ) -> Report:
        try:
            report = self._sync(*where, progress, cancellation)
        except BaseException as exc:
            self._end(where, mine)
            mine.set_exception(exc)
            raise
        self._end(where, mine)
        mine.set_result(report)
        return report

    def _end(self, where: _Where, mine: Future[Report]) -> None:
        """*mine* has ended, or given up waiting: let the next one of the scope follow, before
        those who wait are woken."""
        with self._lock:
            if self._running.get(where) is not mine:
                del self._waiting[where]
            elif where in self._waiting:
                self._running[where] = self._waiting.pop(where)
            else:
                del self._running[where]

    def _sync(
        self,
        bucket: str,
        prefix: str,
        progress: Callable[[Progress], None] | None,
        cancellation: Cancellation,
    ) -> Report:
        so_far = Progress(bucket, prefix, time.time_ns())
        self._status[bucket, prefix] = so_far
        try:
            for difference, count in self._pages_merged(bucket, prefix, True, cancellation):
                so_far = _further(so_far, difference, count)
                self._status[bucket, prefix] = so_far
                if progress is not None:
                    progress(so_far)
            report = _report(so_far, "")
            self._mimicdb.complete(bucket, _scope(report, deep=True))
        except BaseException as exc:
            self._status[bucket, prefix] = _report(so_far, str(exc) or type(exc).__name__)
            raise
        self._status[bucket, prefix] = report
        log.info(
            "synced s3://%s/%s: %d keys, %d added, %d changed, %d deleted in %.2f s",
            *(bucket, prefix, report.keys, report.added, report.changed, report.deleted),
            report.duration_ns / 1e9,
        )
        return report

    # One directory

    def list_directory(
        self, bucket: str, directory: str, cancellation: Cancellation | None = None
    ) -> None:
        """Make the direct children of *directory* known. Raises as `sync`."""
        cancellation = cancellation or Cancellation()
        where = (bucket, directory)
        while True:
            mine: Future[None] = Future()
            with self._lock:
                theirs = self._listing.setdefault(where, mine)
            if theirs is mine:
                return self._list_once(where, mine, cancellation)
            try:
                return cancellation.wait(theirs)
            except Interrupted:
                cancellation.check()

    def _list_once(self, where: _Where, mine: Future[None], cancellation: Cancellation) -> None:
        try:
            self._list_directory(*where, cancellation)
        except BaseException as exc:
            with self._lock:
                del self._listing[where]
            mine.set_exception(exc)
            raise
        with self._lock:
            del self._listing[where]
        mine.set_result(None)

    def _list_directory(self, bucket: str, directory: str, cancellation: Cancellation) -> None:
        so_far = Progress(bucket, directory, time.time_ns())
        for difference, count in self._pages_merged(bucket, directory, False, cancellation):
            so_far = _further(so_far, difference, count)
        self._mimicdb.complete(bucket, _scope(_report(so_far, ""), deep=False))
        log.debug("listed s3://%s/%s: %d names", bucket, directory, so_far.keys)

    # Pages

    def _pages_merged(
        self, bucket: str, prefix: str, deep: bool, cancellation: Cancellation
    ) -> Iterator[tuple[Difference, int]]:
        """Yield what each page changed, and how many keys it had."""
        first = _Asked(bucket, prefix, "" if deep else "/")
        asked: _Asked | None = first
        coming = self._fetch(first)
        try:
            while asked is not None:
                cancellation.check()
                page, since = cancellation.wait(coming)
                following = asked.following(page)
                if following is not None:
                    coming = self._fetch(following)
                page, difference = self._merged(asked, page, since)
                if asked.following(page) != following:  # it was asked for again
                    following = asked.following(page)
                    if following is not None:
                        coming = self._fetch(following)
                yield difference, len(page.entries)
                asked = following
        except NoSuchBucket:
            self._mimicdb.drop_bucket(bucket)
            self._mimicdb.announce("", Difference([], [], [bucket], 0))
            raise

    def _fetch(self, asked: _Asked) -> Future[tuple[Page, int]]:
        return self._s3.pool.submit(self._page, asked)

    def _page(self, asked: _Asked) -> tuple[Page, int]:
        """Return a page, and the sequence number from before it was asked for."""
        since = self._mimicdb.seq(asked.bucket)
        page = self._s3.list_page(
            asked.bucket,
            asked.prefix,
            delimiter=asked.delimiter,
            after=asked.after,
            token=asked.token,
        )
        return page, since

    def _merged(self, asked: _Asked, page: Page, since: int) -> tuple[Page, Difference]:
        """Merge *page*, or what S3 shows in its place by now; return which, and its changes."""
        for _ in range(_MERGE_TRIES):
            try:
                return page, self._mimicdb.replace(
                    asked.bucket,
                    asked.prefix,
                    page.entries,
                    after=asked.after,
                    upto=page.upto,
                    since=since,
                    deep=not asked.delimiter,
                )
            except LogTrimmed:  # so much was written meanwhile that the page is old: ask again
                page, since = self._page(asked)
        raise StoreUnavailable(
            f"s3://{asked.bucket}/{asked.prefix}: the store's log is trimmed faster than S3"
            " is listed; sync when less is being written"
        )


class _Asked(NamedTuple):
    """A page that is asked for: what is listed, and where it goes on."""

    bucket: str
    prefix: str
    delimiter: str
    after: str = ""
    token: str | None = None

    def following(self, page: Page) -> _Asked | None:
        if page.token is None or page.upto is None:
            return None
        return self._replace(after=page.upto, token=page.token)


def _further(so_far: Progress, difference: Difference, keys: int) -> Progress:
    return so_far._replace(
        keys=so_far.keys + keys,
        pages=so_far.pages + 1,
        added=so_far.added + len(difference.added),
        changed=so_far.changed + len(difference.changed),
        deleted=so_far.deleted + len(difference.deleted),
        unchanged=so_far.unchanged + difference.unchanged,
    )


def _report(so_far: Progress, error: str) -> Report:
    duration_ns = time.time_ns() - so_far.started_ns
    return Report(*so_far[:3], duration_ns, *so_far[3:], error)


def _scope(report: Report, deep: bool) -> Scope:
    counts = (report.added, report.changed, report.deleted)
    return Scope(report.prefix, deep, report.started_ns, report.duration_ns, *counts)
