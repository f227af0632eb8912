"""One listing of a scope, by ranges of keys at once, merged page by page.

While a page of a range is merged, the next one of that range is on its way. When fewer requests are
under way than may be, the next planned range begins; if there is none, the range with most left is
cut. For a scope that the mirror does not know, S3 is asked for the directories (one request with a
delimiter), and then places are guessed (ranges.py). That may cost a request, and so does a range
that ends within a page: there is about one cut for twenty pages.

A page that is not what was asked for stops its range; the others go on to their ends, and then the
error is raised. Any other error stops everything. Only complete pages are merged.

Threading: the thread that calls `run` does everything except the requests.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from operator import itemgetter
from typing import NamedTuple

from mimicfs.entry import LIST_MAX, Difference, DirectorySeen, Entry
from mimicfs.errors import LogTrimmed, MalformedListing, StoreUnavailable, Throttled
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.listing import Page
from mimicfs.sync.flights import Flights, Pace
from mimicfs.sync.held import Held, Spool
from mimicfs.sync.plan import Plan
from mimicfs.sync.ranges import GUESS_MIN, STRIDE_MIN, Alphabet, KeyRange, guesses, spread
from mimicfs.sync.source import ListingScope, Source, fetched

log = logging.getLogger(__name__)

_MERGE_TRIES = 3  # of one page, when the log was trimmed under it
_DIRECTORY_CUTS = 6  # ranges made of the directories of a scope, besides the first one
_DEPTH_MAX = 3  # levels of directories that are asked for, when each has only one
_PAGES_A_CUT = 20
_BELIEVED = 15  # pages that are believed to come, for each that came
_key = itemgetter(0)


class _AskedPage(NamedTuple):
    """A request that is under way: of *part*, or (None) for the directories below *prefix*."""

    part: KeyRange | None
    turn: int
    prefix: str = ""


# Called after each page, with its changes and the number of its keys.
Tell = Callable[[Difference, int], None]


class Run:
    """*plan* has the ranges of the scope. *held* holds deletions back. *late* keeps those that the
    caller makes when everything is merged. *renew* is called for each answer of S3."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: Source,
        scope: ListingScope,
        plan: Plan,
        held: Held | None,
        late: Spool,
        tell: Tell,
        cancellation: Cancellation,
        renew: Callable[[], None],
        seen: DirectorySeen | None = None,
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._scope = scope
        self._plan = plan
        self._held = held
        self._late = late
        self._tell = tell
        self._renew = renew
        self._seen = seen  # of the scope, by the store, a moment ago; None: it is asked
        self._pace = Pace(s3.lists)
        self._flights: Flights[_AskedPage] = Flights(s3.pool, cancellation)
        self._running: list[KeyRange] = []
        self._waiting: deque[KeyRange] = deque()  # refused ranges, which are asked for again
        self._stopped: list[KeyRange] = []  # ranges stopped by a page that made no sense
        # ranges that are done, except for deletions that are held back
        self._unsettled: list[KeyRange] = []
        self._error: MalformedListing | None = None
        self._alphabet = Alphabet()
        self._first: str | None = None  # the first key that was seen
        self.since: int | None = None  # the lowest number before a page that was merged
        self._pages = self._cuts = self._depth = 0
        self._guessing = True
        self._directories = not scope.delimiter  # may still be asked for
        self._asking = False  # for the directories

    def run(self) -> None:
        """List and merge all. Raises S3Error, MalformedListing, Interrupted, StoreError."""
        try:
            self._fill()
            while len(self._flights):
                asked, answer = self._flights.take()
                self._renew()
                if asked.part is None:
                    self._take_directories(answer)
                elif asked.turn == asked.part.turn:
                    self._take(asked.part, answer)
                self._fill()
        finally:
            self._flights.give_up()
        if self._error is not None:
            raise self._error

    @property
    def ranges(self) -> int:
        """Return how many ranges are being listed."""
        return len(self._running)

    def left(self) -> list[tuple[str, str | None]]:
        """Return the ranges (after, upto) that are not merged yet."""
        waiting = [part for part in self._waiting if part not in self._running]
        parts = [*self._running, *waiting, *self._stopped, *self._unsettled]
        # One that has a parent still belongs to it.
        begun = [(part.unsettled, part.upto) for part in parts if part.parent is None]
        return [*begun, *self._plan.rest()]

    def settle(self) -> None:
        """Settle all ranges: deletions are no longer held back, except late ones."""
        for part in [*self._running, *self._stopped, *self._unsettled]:
            part.kept_from = None
        self._unsettled = [part for part in self._unsettled if part.late_from is not None]

    # Requests

    def _fill(self) -> None:
        """Send as many requests as may be under way."""
        while len(self._flights) < self._pace.limit:
            part = self._waiting.popleft() if self._waiting else self._plan.next()
            part = part or self._split()
            if part is None:
                return
            if part not in self._running:
                self._running.append(part)
            self._send(part)

    def _send(self, part: KeyRange) -> None:
        asked, seen = _AskedPage(part, part.turn), self._seen_of(part)
        since = seen.since if seen is not None else None
        what = (self._mimicdb, self._s3, self._scope, part.after, part.token, since)
        self._flights.send(asked, fetched, *what)

    def _seen_of(self, part: KeyRange) -> DirectorySeen | None:
        """Return what was seen of the scope, if the next page of *part* is the first one and is
        asked for the first time."""
        return None if part.after or part.token or part.tries else self._seen

    # Answers

    def _take(self, part: KeyRange, answer: Future[tuple[Page, int]]) -> None:
        """Take a page of *part* in."""
        try:
            page, since = answer.result()
        except Throttled:
            if self._pace.limit == 1:
                raise
            self._pace.answered(True)
            self._waiting.append(part)
            return
        except MalformedListing as exc:
            self._stop(part, exc)
            return
        self._pace.answered(page.throttled > 0)
        self._pages += 1
        if part.parent is not None and not self._took_over(part):
            return
        if self._first is None and page.entries:
            self._first = page.entries[0].key
        self._alphabet.learn([entry.key for entry in page.entries], self._scope.delimiter)
        self._advance(part, page, since)

    def _stop(self, part: KeyRange, error: MalformedListing) -> None:
        self._running.remove(part)
        if part.parent is not None:
            # It was only a try: perhaps this server cannot begin a listing anywhere.
            log.debug("%s is listed without guessed ranges: %s", self._scope, error)
            self._guessing = False
            part.parent.probes -= 1
            return
        self._stopped.append(part)
        self._error = self._error or error

    def _took_over(self, part: KeyRange) -> bool:
        """Let *part*, a try that was answered, take over the end of its range; return whether there
        is such a range, and it has not come so far itself."""
        assert part.parent is not None
        part.parent.probes -= 1
        part.parent = None
        for other in self._running:
            here = other.parent is None and other.after < part.after
            if here and (other.upto is None or part.after < other.upto):
                part.upto, other.upto = other.upto, part.after
                return True
        self._running.remove(part)
        return False

    def _advance(self, part: KeyRange, page: Page, since: int) -> None:
        """Merge *page*; before, ask for the next one of *part*, if there is one."""
        after, seen = part.after, self._seen_of(part)
        before = (after, part.token)
        if not page.entries and page.token is not None:  # it covers nothing
            self._go_on(part, page.token)
            return
        part.trail.further()
        entries, upto, beyond = page.entries, page.upto, ""
        ended = upto is None
        if part.upto is not None and (upto is None or upto >= part.upto):
            end = bisect_right(entries, part.upto, key=_key)
            beyond = entries[end].key if end < len(entries) else ""
            entries, upto, ended = entries[:end], part.upto, True
        if not ended:
            assert upto is not None
            part.after, part.token = upto, page.token
            self._send(part)
        try:
            difference = self._mimicdb.replace(
                self._scope.bucket,
                self._scope.prefix,
                entries,
                after=after,
                upto=upto,
                since=since,
                beyond=beyond,
                deep=not self._scope.delimiter,
                seen=seen,
                hold=self._hold(part, after),
                late=self._late_of(part, after),
            )
        except LogTrimmed as exc:
            self._again(part, before, exc)
            return
        self.since = since if self.since is None else min(self.since, since)
        part.pages, part.keys, part.tries = part.pages + 1, part.keys + len(entries), 0
        if ended:
            self._end(part)
        if self._held is not None:
            self._held.saw(difference.unchanged + len(difference.changed))
        self._tell(difference, len(entries))

    def _go_on(self, part: KeyRange, token: str) -> None:
        """Ask for the page behind an empty one of *part*."""
        try:
            part.trail.on(self._scope, token)
        except MalformedListing as exc:
            self._stop(part, exc)
            return
        part.token = token
        self._send(part)

    def _hold(self, part: KeyRange, after: str) -> Callable[[list[Entry]], None] | None:
        """Return what holds the deletions of a page of *part* that begins behind *after*."""
        held = self._held
        if held is None or not held.holds:
            return None

        def hold(gone: list[Entry]) -> None:
            if gone and part.kept_from is None:
                part.kept_from = after
            held.spool.add(gone)

        return hold

    def _late_of(self, part: KeyRange, after: str) -> Callable[[list[Entry]], None]:
        """Return what keeps the late deletions of such a page."""

        def late(entries: list[Entry]) -> None:
            if entries and part.late_from is None:
                part.late_from = after
            self._late.add(entries)

        return late

    def _end(self, part: KeyRange) -> None:
        part.done = True
        self._running.remove(part)
        if part.kept_from is not None or part.late_from is not None:
            self._unsettled.append(part)

    def _again(self, part: KeyRange, before: tuple[str, str | None], exc: LogTrimmed) -> None:
        """Ask for a page again that is too old, as so much was written meanwhile."""
        part.tries += 1
        if part.tries >= _MERGE_TRIES:
            raise StoreUnavailable(
                f"{self._scope}: the log of the store is trimmed faster than S3 is listed; sync"
                " when there is less activity"
            ) from exc
        part.turn += 1
        part.after, part.token = before
        self._send(part)

    # Cutting ranges

    def _split(self) -> KeyRange | None:
        """Return a new range: the end of one of which much is left. None: there is none."""
        parts = [part for part in self._running if not part.probes and part.parent is None]
        known = max(parts, key=lambda part: part.known_left, default=None)
        if known is not None and known.known_left >= 2 * STRIDE_MIN:
            return self._known_end(known)
        if self._asking or not self._guessing:
            return None
        left = {id(part): self._alphabet.left(part) for part in parts if self._may_guess(part)}
        parts = [part for part in parts if left.get(id(part), 0) >= GUESS_MIN]
        if not parts:
            return None
        part = max(parts, key=lambda part: (left[id(part)], part.after))
        if self._directories and self._ask_for_directories(part):
            return None
        to_come = sum(keys for keys in left.values() if keys < float("inf")) / LIST_MAX
        # An estimate may be far off: it is believed only in proportion to what came so far.
        pages = self._pages + min(to_come, _BELIEVED * self._pages)
        allowed = int(3 + pages / _PAGES_A_CUT) - self._cuts
        free = self._pace.limit - len(self._flights)
        return self._guessed(part, min(allowed, free, int(min(left[id(part)] / GUESS_MIN, free))))

    @staticmethod
    def _may_guess(part: KeyRange) -> bool:
        """Whether to guess: a scope of two pages is not worth it."""
        return part.pages >= (2 if part.upto is None and not part.start else 1)

    def _known_end(self, part: KeyRange) -> KeyRange | None:
        """Cut *part* where the mirror has half of what is left."""
        half = part.known_left // (2 * LIST_MAX) * LIST_MAX
        at, passed = self._mimicdb.stride(self._scope.bucket, self._scope.prefix, part.after, half)
        if passed < half or (part.upto is not None and at >= part.upto):
            part.expected = None  # the mirror has changed: do not rely on it
            return None
        end = part.cut(at)
        end.expected = part.known_left - half
        part.expected = part.keys + half
        return end

    def _guessed(self, part: KeyRange, count: int) -> KeyRange | None:
        """Try to cut *part* at up to *count* places. Return the first of the new ranges; the others
        are to be asked for."""
        places = guesses(part, self._first or "", self._alphabet, count) if count > 0 else []
        delimiter, below = self._scope.delimiter, len(self._scope.prefix)
        ends = [
            KeyRange(at, parent=part)
            for at in places
            if not delimiter or delimiter not in at[below:]
        ]
        self._cuts += len(ends)
        part.probes += len(ends)
        self._waiting.extend(ends[1:])
        return ends[0] if ends else None

    # Directories

    def _ask_for_directories(self, part: KeyRange) -> bool:
        """Ask for the directories at the place of *part*, unless they were asked for; return
        whether it asks."""
        slash = part.after.find("/", len(self._scope.prefix))
        if part.upto is not None or slash < 0:
            self._directories = False
            return False
        self._send_directories(self._scope.prefix)
        return True

    def _send_directories(self, prefix: str) -> None:
        self._asking = True
        self._depth += 1
        asked = _AskedPage(None, 0, prefix)
        self._flights.send(asked, self._s3.directories, self._scope.bucket, prefix)

    def _take_directories(self, answer: Future[list[str]]) -> None:
        """Cut the range that goes to the end of the scope at the beginnings of directories."""
        self._asking = False
        last = next((part for part in self._running if part.upto is None and not part.done), None)
        try:
            found = answer.result()
        except MalformedListing as exc:
            log.debug("%s is listed without a delimiter: %s", self._scope, exc)
            self._directories = False
            return
        if last is None:
            return
        behind = [key for key in found if key > last.after]
        if not behind and found and self._depth < _DEPTH_MAX and last.after.startswith(found[-1]):
            self._send_directories(found[-1])
            return
        self._directories = False
        for at in reversed(spread(behind, _DIRECTORY_CUTS)):
            self._cuts += 1
            self._waiting.append(last.cut(at))
