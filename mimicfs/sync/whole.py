"""One sync of everything below a prefix: where it begins or goes on, its guard, its report.

Threading: the thread that calls `run` does everything but the requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from mimicfs import entry
from mimicfs.entry import Difference, is_directory_bucket
from mimicfs.errors import LogTrimmed, NoSuchBucket, StoreError, StoreUnavailable, TooManyDeletions
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.sync.cursor import Cursor, Notes
from mimicfs.sync.held import KEYS_MIN, Doomed, Guard, Held, Spool
from mimicfs.sync.plan import GivenRanges, Known, Plan
from mimicfs.sync.progress import Progress, Report, report_of
from mimicfs.sync.run import Run
from mimicfs.sync.source import ListingScope, Source
from mimicfs.sync.walk import Walk
from mimicfs.underway import ListingNote

log = logging.getLogger(__name__)

Show = Callable[[Progress], None]


class Wish(NamedTuple):
    """The manner of a sync. *guard* is asked before most of a scope is deleted. *fresh*: list again
    what an interrupted sync has listed."""

    guard: Guard | None = None
    fresh: bool = False


class Whole:
    """*show* is called with how far it is, after each page."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: Source,
        scope: ListingScope,
        wish: Wish,
        show: Show,
        cancellation: Cancellation,
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._scope = scope
        self._wish = wish
        self._show = show
        self._cancellation = cancellation
        self._notes = Notes(mimicdb.backend, scope.bucket, scope.prefix)
        self.so_far = Progress(scope.bucket, scope.prefix, time.time_ns())
        self._listed_ns = self.so_far.started_ns
        self._listed_before = 0  # keys, by the interrupted sync
        self._held: Held | None = None
        self._late = Spool()

    def run(self) -> Report:
        """Raises S3Error, MalformedListing, TooManyDeletions, Interrupted, StoreError."""
        self._since = self._mimicdb.seq(self._scope.bucket)
        self._listing = ListingNote(self._mimicdb.backend, self._scope.bucket, self._scope.prefix)
        try:
            return self._run()
        except StoreUnavailable:
            with suppress(StoreError):
                if self._listing.is_lost():  # merged pages may be lost as well: begin again
                    self._notes.clear()
            raise
        finally:
            # otherwise it counts as being listed until another one has gone on
            if not self._notes.noted:
                self._listing.end()

    def _run(self) -> Report:
        cursor = self._resumed()
        known = self._known_objects()
        if self._wish.guard is not None and known > KEYS_MIN:
            self._held = Held(known)
        plan: Plan = (
            GivenRanges(cursor.ranges) if cursor else Known(self._mimicdb, self._scope, known)
        )
        expected = max(0, known - self._listed_before) or None
        self.so_far = replace(self.so_far, resumed=cursor is not None, expected=expected)
        self._show(self.so_far)
        try:
            self._list(plan)
            self._finish()
        finally:
            self._late.close()
            if self._held is not None:
                self._held.spool.close()
        return report_of(self.so_far)

    def _resumed(self) -> Cursor | None:
        """Return where an interrupted sync has ended, if this one goes on there."""
        cursor = self._notes.read()
        covered = self._mimicdb.cover(self._scope.bucket, self._scope.prefix)
        if cursor is None or self._wish.fresh:
            return None
        if not cursor.usable(covered.listed_ns if covered is not None else 0):
            return None
        self._listed_ns, self._since = cursor.started_ns, cursor.since
        self._listed_before = cursor.keys
        log.info("the sync of %s continues after %d keys", self._scope, cursor.keys)
        return cursor

    def _known_objects(self) -> int:
        """Return about how many objects the mirror knows in the scope."""
        if not self._scope.prefix:
            bucket = self._mimicdb.known_bucket(self._scope.bucket)
            return bucket.objects if bucket is not None else 0
        if self._wish.guard is None and not self._mimicdb.quick:
            return 0  # to count them would be to read them all
        _, count = self._mimicdb.stride(self._scope.bucket, self._scope.prefix, "", 1 << 62)
        return count

    def _list(self, plan: Plan) -> None:
        what = (self._mimicdb, self._s3, self._scope)
        if is_directory_bucket(self._scope.bucket):
            walk: Walk = Walk(
                *what,
                self._late,
                lambda *page: self._tell(walk, *page),
                self._cancellation,
                self._listing.renew,
            )
            walk.run()
            return
        run: Run = Run(
            *what,
            plan,
            self._held,
            self._late,
            lambda *page: self._told(run, *page),
            self._cancellation,
            self._listing.renew,
        )
        try:
            run.run()
        except (NoSuchBucket, StoreError):
            raise
        except BaseException:
            self._stop(run)
            raise

    def _told(self, run: Run, difference: Difference, keys: int) -> None:
        """Note that a page was merged."""
        self._tell(run, difference, keys)
        if self._held is not None and self._held.spool.count and not self._held.holds:
            self._release(self._held.spool)
            run.settle()
        if self._notes.due:
            self._note(run)

    def _tell(self, run: Run | Walk, difference: Difference, keys: int) -> None:
        held = self._late.count + (self._held.spool.count if self._held is not None else 0)
        self.so_far = self.so_far.further(difference, keys, held, run.ranges)
        self._show(self.so_far)

    def _stop(self, run: Run) -> None:
        """Stop early: findings stay, and the next sync can go on from here. Late deletions are not
        made now: their directories may be in the rest."""
        held = self._held
        if held is not None and held.spool.count * 2 <= held.known:
            self._release(held.spool)
            run.settle()
        self._note(run, ended=True)

    def _note(self, run: Run, *, ended: bool = False) -> None:
        if self._listing.is_lost():  # the sync is about to fail, and nobody may go on from here
            return
        keys = self._listed_before + self.so_far.keys
        self._notes.write(Cursor(self._listed_ns, self._since, run.left(), keys, ended))

    # The end

    def _finish(self) -> None:
        spools = [self._late]
        if self._held is not None:
            spools.append(self._held.spool)
            gone = sum(spool.count for spool in spools)
            if gone * 2 > self._held.known:
                self._ask(gone, self._held.known)
        for spool in spools:
            self._release(spool)
        self._listing.check()
        try:
            self._mimicdb.complete(self._scope.bucket, self._as_listed(), self._since)
        except LogTrimmed as exc:
            self._notes.clear()
            text = "its bucket was dropped while it was listed; sync it again"
            raise StoreUnavailable(f"{self._scope}: {text}") from exc
        self._notes.clear()

    def _ask(self, gone: int, known: int) -> None:
        doomed = Doomed(self._scope.bucket, self._scope.prefix, gone, known)
        if self._wish.guard is not None and self._wish.guard(doomed):
            return
        self._notes.clear()
        raise TooManyDeletions(
            f"{self._scope}: S3 does not show {gone:,} of the {known:,} known objects;"
            " nothing was deleted from the mirror. If they are really gone, run:"
            f" mimicfs sync --yes {self._scope}"
        )

    def _release(self, spool: Spool) -> None:
        """Delete the entries in *spool*."""
        for gone in spool.taken():
            self._listing.renew()
            difference = self._mimicdb.release(self._scope.bucket, gone)
            deleted = self.so_far.deleted + len(difference.deleted)
            self.so_far = replace(self.so_far, deleted=deleted, held=0)

    def _as_listed(self) -> entry.Scope:
        so_far = self.so_far
        duration_ns = time.time_ns() - self._listed_ns
        names = self._listed_before + so_far.keys
        counts = (so_far.added, so_far.changed, so_far.deleted, names)
        return entry.Scope(self._scope.prefix, True, self._listed_ns, duration_ns, *counts)
