"""Directory buckets (S3 Express): their listings are in no order and cannot begin anywhere, so
they are listed a directory at a time, many directories at once. A directory is merged when all
of its pages are there.

Threading: the thread that calls `run` merges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from mimicfs.entry import LISTED, Difference, Entry
from mimicfs.errors import LogTrimmed, MalformedListing, Throttled
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.listing import Page
from mimicfs.s3.requests.trail import Trail
from mimicfs.sync.flights import Flights, Pace
from mimicfs.sync.held import Spool
from mimicfs.sync.source import ListingScope, Source, fetched


@dataclass(slots=True)
class _Directory:
    key: str
    since: int = -1  # the sequence number before the first page was asked for
    entries: dict[str, Entry] = field(default_factory=dict)  # by key
    token: str | None = None
    trail: Trail = field(default_factory=Trail)  # that its tokens lead


class Walk:
    """*renew* is called whenever S3 has answered; else as Run."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: Source,
        scope: ListingScope,
        late: Spool,
        tell: Callable[[Difference, int], None],
        cancellation: Cancellation,
        renew: Callable[[], None],
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._scope = scope
        self._late = late
        self._tell = tell
        self._renew = renew
        self._pace = Pace(s3.lists)
        self._flights: Flights[_Directory] = Flights(s3.pool, cancellation)
        self._waiting = [_Directory(scope.prefix)]
        self.since: int | None = None  # the lowest number before a page that was merged

    def run(self) -> None:
        """List and merge all. Raises S3Error, MalformedListing, Interrupted, StoreError."""
        try:
            while self._waiting or len(self._flights):
                while self._waiting and len(self._flights) < self._pace.limit:
                    self._send(self._waiting.pop())
                directory, answer = self._flights.take()
                self._renew()
                try:
                    page, since = answer.result()
                except Throttled:
                    if self._pace.limit == 1:
                        raise
                    self._pace.answered(True)
                    self._waiting.append(directory)
                    continue
                self._pace.answered(page.throttled > 0)
                directory.since = since if directory.since < 0 else directory.since
                self._take(directory, page)
        finally:
            self._flights.give_up()

    @property
    def ranges(self) -> int:
        """Return how many directories are being listed."""
        return len(self._flights)

    def _take(self, directory: _Directory, page: Page) -> None:
        """Take a page of *directory* in, and ask for the next one."""
        where = f"listing of s3://{self._scope.bucket}/{directory.key}"
        for entry in page.entries:
            if directory.entries.setdefault(entry.key, entry) is not entry:
                raise MalformedListing(f"{where}: {entry.key!r} comes twice")
        if page.entries:
            directory.trail.further()
        directory.token = page.token
        if page.token is None:
            self._merge(directory)
            return
        directory.trail.on(where, page.token)
        self._send(directory)

    def _send(self, directory: _Directory) -> None:
        scope = ListingScope(self._scope.bucket, directory.key, "/")
        self._flights.send(directory, fetched, self._mimicdb, self._s3, scope, "", directory.token)

    def _merge(self, directory: _Directory) -> None:
        entries = sorted(directory.entries.values(), key=attrgetter("key"))
        try:
            difference = self._mimicdb.replace(
                self._scope.bucket,
                directory.key,
                entries,
                after="",
                upto=None,
                since=directory.since,
                deep=False,
                late=self._late.add,
            )
        except LogTrimmed:  # so much was written meanwhile: list it again
            self._waiting.append(_Directory(directory.key))
            return
        self.since = directory.since if self.since is None else min(self.since, directory.since)
        below = {entry.key for entry in entries if entry.kind == LISTED}
        if not self._scope.delimiter:
            self._waiting += [_Directory(key) for key in sorted(below, reverse=True)]
            difference = difference._replace(
                added=[key for key in difference.added if key not in below]
            )
        self._tell(difference, len(entries) - len(below))
