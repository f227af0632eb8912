"""Syncing: which callers sync, which ones share a sync, and how far each one is. whole.py has the
steps.

A scope is listed page by page, in ranges, and each page is merged as it comes. Before a page is
asked for, the bucket's sequence number is read: keys that change after that are left alone by
the merge. A page that fails or makes no sense ends the sync with an error; nothing of it is
merged, and the scope is not marked complete.

Threading: any thread may sync. Two that want the same directory listed share one listing. A full
sync that is asked for while one of the same scope runs waits for it, and then lists again: it must
show changes from before the call. All that wait share it.
A caller that shares and finds that the other was interrupted begins by itself. A sync of another
scope, wider or narrower, waits for nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing
from typing import TypeVar

from mimicfs.config.values import Buckets
from mimicfs.entry import NS, Difference, DirectorySeen, Scope, is_directory_bucket
from mimicfs.errors import ConfigError, Interrupted, LogTrimmed, MimicError, NoSuchBucket, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.sync.held import Spool
from mimicfs.sync.plan import GivenRanges
from mimicfs.sync.progress import Progress, Report, report_of
from mimicfs.sync.run import Run
from mimicfs.sync.source import ListingScope, Source
from mimicfs.sync.walk import Walk
from mimicfs.sync.whole import Show, Whole, Wish
from mimicfs.underway import ListingNote, listing

log = logging.getLogger(__name__)

T = TypeVar("T")
_Where = tuple[str, str]  # bucket and prefix
_PLAIN = Wish()
_NO_RULES = Buckets()
_LIST_TRIES = 3  # of a directory whose bucket is dropped meanwhile


class Syncer:
    """Lists S3 by *s3* and merges the pages into *mimicdb*. A caller that asks for a sync that
    already runs waits for the next one, whose listing begins after the call."""

    def __init__(self, mimicdb: Mirror, s3: Source, buckets: Buckets = _NO_RULES) -> None:
        self._buckets = buckets
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

    def outcomes(self) -> list[Progress | Report]:
        """Return, for each scope that was synced, how far that is, or how the last sync ended."""
        return list(self._status.values())

    # What the mirror cannot answer

    def sure(self, ask: Callable[[], T], cancellation: Cancellation | None = None) -> T:
        """Return the answer of *ask*, after listing what the mirror does not know for it."""
        while True:
            try:
                return ask()
            except Unlisted as missing:
                self.learn(missing, cancellation)

    def learn(self, missing: Unlisted, cancellation: Cancellation | None = None) -> None:
        """Have S3 list what *missing* names: a directory, or the buckets. Raises what `sync`
        raises."""
        if missing.bucket:
            self.list_directory(missing.bucket, missing.directory, cancellation)
        else:
            self.sync_buckets()

    # The list of buckets

    def sync_buckets(self, tries: int = 3) -> Difference:
        """Make the mirror's list of buckets equal to S3's (one request for each try); return what
        changed. Raises the S3Error classes, LogTrimmed."""
        since = self._mimicdb.seq("")
        try:
            return self._mimicdb.replace_buckets(self._s3.list_buckets(), since)
        except LogTrimmed:  # too many buckets were made and removed meanwhile
            if tries == 1:
                raise
            return self.sync_buckets(tries - 1)

    def sync_all(
        self,
        progress: Show | None = None,
        cancellation: Cancellation | None = None,
        wish: Wish = _PLAIN,
    ) -> list[Report]:
        """Make everything true. A bucket that fails does not stop the others: its report
        has the error."""
        self.sync_buckets()
        return [self._reported(scope, progress, cancellation, wish) for scope in self.scopes()]

    def scopes(self) -> list[tuple[str, str]]:
        """Return the scopes of "everything": each known bucket that may be listed, or the part of
        it that is shown."""
        found = [(bucket.name, self._buckets.of(bucket.name)) for bucket in self._mimicdb.buckets()]
        return [
            (name, options.prefix)
            for name, options in found
            if options.prefix or not options.never_sync
        ]

    def _reported(
        self,
        scope: tuple[str, str],
        progress: Show | None,
        cancellation: Cancellation | None,
        wish: Wish,
    ) -> Report:
        try:
            return self.sync(*scope, progress, cancellation, wish)
        except MimicError as exc:
            if cancellation is not None:
                cancellation.check()
            return Report(*scope, time.time_ns(), 0, 0, 0, 0, 0, 0, 0, str(exc))

    # A bucket, or all below a prefix

    def sync(
        self,
        bucket: str,
        prefix: str = "",
        progress: Show | None = None,
        cancellation: Cancellation | None = None,
        wish: Wish = _PLAIN,
    ) -> Report:
        """Make the mirror equal to S3 for every key of *bucket* that begins with *prefix*, which is
        "" or ends in "/".

        *progress* is called after each page. Cancelled, what was merged stays, and the next sync of
        the scope goes on from there. Raises the S3Error classes, MalformedListing,
        TooManyDeletions, Interrupted, StoreError; ConfigError for a whole bucket that is never to
        be synced.
        """
        if not prefix and self._buckets.of(bucket).never_sync:
            text = f"s3://{bucket}: never-sync is set for it; sync a prefix, or change the setting"
            raise ConfigError(text)
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
                return self._run(where, mine, progress, cancellation, wish)
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
        """Wait until the sync *before* has ended, in whatever way: this one lists anew."""
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
        progress: Show | None,
        cancellation: Cancellation,
        wish: Wish,
    ) -> Report:
        try:
            report = self._sync(ListingScope(*where), progress, cancellation, wish)
        except BaseException as exc:
            self._end(where, mine)
            mine.set_exception(exc)
            raise
        self._end(where, mine)
        mine.set_result(report)
        return report

    def _end(self, where: _Where, mine: Future[Report]) -> None:
        """End *mine*, or give up its wait: let the next sync of the scope follow, before the
        waiting threads wake."""
        with self._lock:
            if self._running.get(where) is not mine:
                del self._waiting[where]
            elif where in self._waiting:
                self._running[where] = self._waiting.pop(where)
            else:
                del self._running[where]

    def _sync(
        self,
        scope: ListingScope,
        progress: Show | None,
        cancellation: Cancellation,
        wish: Wish,
    ) -> Report:
        where = (scope.bucket, scope.prefix)

        def show(so_far: Progress) -> None:
            self._status[where] = so_far
            if progress is not None and so_far.pages:
                progress(so_far)

        since = self._mimicdb.seq("")
        whole = Whole(self._mimicdb, self._s3, scope, wish, show, cancellation)
        try:
            report = whole.run()
        except BaseException as exc:
            self._status[where] = report_of(whole.so_far, str(exc) or type(exc).__name__)
            if isinstance(exc, NoSuchBucket):
                self._gone(scope.bucket, since)
            raise
        self._status[where] = report
        log.info(
            "synced %s: %d keys, %d added, %d changed, %d deleted in %.2f s",
            scope,
            report.keys,
            report.added,
            report.changed,
            report.deleted,
            report.duration_ns / NS,
        )
        return report

    def _gone(self, bucket: str, since: int) -> None:
        """Forget a bucket that S3 did not have when it was asked after number *since* of the list
        of buckets."""
        if self._mimicdb.drop_bucket(bucket, since):
            self._mimicdb.announce("", Difference([], [], [bucket], 0))

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
        what = (bucket, directory, self._mimicdb.seen_lately(bucket, directory))
        for left in reversed(range(_LIST_TRIES)):
            with self._said(bucket, directory) as said:
                listed, pages, since = self._directory_listed(*what, said, cancellation)
                said.check(closely=pages > 1)
                try:
                    self._mimicdb.complete(bucket, listed, since)
                    return
                except LogTrimmed:  # the bucket was dropped meanwhile, and what was merged with it
                    if not left:
                        raise
            what = (bucket, directory, None)  # what was seen may be from before the drop

    def _said(self, bucket: str, directory: str) -> AbstractContextManager[ListingNote]:
        """Within, the store has a note that *directory* is being listed."""
        backend = self._mimicdb.backend
        if not self._mimicdb.asks:
            return listing(backend, bucket, directory)
        return listing(backend, bucket, directory, self._s3.pool.submit)

    def _directory_listed(
        self,
        bucket: str,
        directory: str,
        seen: DirectorySeen | None,
        said: ListingNote,
        cancellation: Cancellation,
    ) -> tuple[Scope, int, int | None]:
        """Merge the children of *directory*, of which the store had what was *seen*; return that as
        a scope, how often was merged, and a number of the log from before that."""
        started_ns, since = time.time_ns(), self._mimicdb.seq_lately("")
        found: list[tuple[int, ...]] = []

        def tell(difference: Difference, names: int) -> None:
            found.append((names, *(len(keys) for keys in difference[:3])))

        scope = ListingScope(bucket, directory, "/")
        with closing(Spool()) as late:
            what = (self._mimicdb, self._s3, scope)
            try:
                if is_directory_bucket(bucket):
                    run: Walk | Run = Walk(*what, late, tell, cancellation, said.renew)
                else:
                    plan = GivenRanges([("", None)])
                    run = Run(*what, plan, None, late, tell, cancellation, said.renew, seen)
                run.run()
            except NoSuchBucket:
                self._gone(bucket, since)
                raise
            for gone in late.taken():
                said.renew()
                tell(self._mimicdb.release(bucket, gone), 0)
        names, *counts = (sum(column) for column in zip(*found, strict=True))
        duration_ns = time.time_ns() - started_ns
        log.debug("listed %s: %d names", scope, names)
        listed = Scope(directory, False, started_ns, duration_ns, *counts)
        return listed._replace(names=names), len(found), run.since
