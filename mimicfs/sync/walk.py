"""Directory buckets (S3 Express): their listings are in no order and cannot begin anywhere, so
they are listed a directory at a time, many directories at once. A directory is merged when all
of its pages are there.

Threading: the thread that calls `run` merges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

from mimicfs.entry import LISTED, Difference, Entry
from mimicfs.errors import LogTrimmed, MalformedListing, Throttled
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.sync.flights import Flights, Pace
from mimicfs.sync.held import Spool
from mimicfs.sync.source import ListingScope, Source, fetched


@dataclass(slots=True)
class _Directory:
    key: str
    since: int = -1  # the sequence number before the first page was asked for
    entries: list[Entry] = field(default_factory=list)
    token: str | None = None


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
                directory.entries += page.entries
                if page.token is not None and page.token == directory.token:
                    raise MalformedListing(f"s3://{self._scope.bucket}: a page leads to itself")
                directory.token = page.token
                if page.token is None:
                    self._merge(directory)
                else:
                    self._send(directory)
        finally:
            self._flights.give_up()

    @property
    def ranges(self) -> int:
        """Return how many directories are being listed."""
        return len(self._flights)

    def _send(self, directory: _Directory) -> None:
        scope = ListingScope(self._scope.bucket, directory.key, "/")
        self._flights.send(directory, fetched, self._mimicdb, self._s3, scope, "", directory.token)

    def _merge(self, directory: _Directory) -> None:
        where = f"s3://{self._scope.bucket}/{directory.key}"
        entries = sorted(directory.entries, key=attrgetter("key"))
        for one, other in pairwise(entries):
            if one.key == other.key:
                raise MalformedListing(f"listing of {where}: {one.key!r} comes twice")
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
        below = {entry.key for entry in entries if entry.kind == LISTED}
        if not self._scope.delimiter:
            self._waiting += [_Directory(key) for key in sorted(below, reverse=True)]
            difference = difference._replace(
                added=[key for key in difference.added if key not in below]
            )
        self._tell(difference, len(entries) - len(below))
