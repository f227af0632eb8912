"""Backend: what a store must do to hold the mirror. Extend it to write your own.

`memory.py` is the shortest complete backend and the example to copy.

Promises that every backend keeps
* Atomic: `apply` happens as a whole or not at all, also when the process is killed.
* Ordered: keys are in S3's order, which is that of their UTF-8 bytes (and of Python's str).
* Numbered: every change of a bucket takes the next number of that bucket's sequence, and is in its
  log from then on, without gaps and never back. The list of buckets has both under the name "".
* One read is one snapshot: a page never mixes the states before and after an `apply`.
* Thread-safe: any method may be called by many threads at once.
* Errors of the store's library come out as `StoreError`.

A backend stores what it is told; `mimicdb.py` decides what is true, complete or stale.

memory, sqlite/, redis/   the stores        default     the names that MimicDB 1.x imports
open        a store by its URL              forwarding  a backend that passes calls on to another
replica     answers from a copy of a store  copyahead   which directories it copies next
copying     what that copy has              pending     changes of a key that are under way
ahead       listings in advance             lease       whether a mount hears of others
sessions    the members of a store          examine     the checks of a store, for `doctor`
uncovering  which scopes a change ends      checking    `mimicfs store check`
migrating   `mimicfs store migrate`         loglines    what changes are in a log
waiter      waits for news in the logs      recent      what the store said a moment ago
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from mimicfs.backends.pending import LEARNED, Begun, IntentStep, Unsettled
from mimicfs.backends.uncovering import prefixes_of
from mimicfs.backends.waiter import Waiter
from mimicfs.entry import (
    LAST_KEY,
    LINES,
    LISTED,
    PAGE,
    BucketEntry,
    Change,
    DirectoryCopy,
    DirectorySeen,
    Entry,
    OfName,
    OwnChange,
    Scope,
    StoreSaid,
    Total,
    is_file,
    pages,
)

EPOCH = "epoch"  # the note beside the list of buckets of the store's epoch (sessions.py)
# The note beside a bucket that may have lost changes with the store, until it is listed again.
DOUBTED = "doubted"
# The beginnings of the names of other notes: until when S3's messages told of a prefix of the
# bucket, by any source, and by one of them (sync/freshness.py); and, beside the list of buckets,
# what is being listed (underway.py).
TOLD, HEARD, LISTING = "told ", "heard ", "listing/"
OF_DIRECTORY = "look:"  # and the directory: the note of it, which may be an old one
NoteSwap = tuple[str, str | None, str | None]  # a name, what is noted, and what is to be


class Backend(ABC):
    """A store of buckets, entries, scopes, notes and change logs. The promises are above.

    Keys are text; sizes are bytes, times ns since 1970; a directory is "" or ends in "/". Any
    method may raise StoreError.
    """

    quick: bool = True  # reads take microseconds and never wait for a network
    private: bool = False  # no other process can use it
    intents: bool = False  # whether it has `begin` and what follows there
    groups: bool = False  # whether it has `learn_plain`
    evicts: bool = False  # it may lose what it confirmed: nothing counts as complete

    def __init__(self) -> None:
        # Two writers with the same number would overlook each other's changes; 62 bits make that
        # unlikely.
        self._origin = int.from_bytes(os.urandom(8)) >> 2 << 1
        self._finding = threading.local()

    @property
    def origin(self) -> int:
        """The number that marks our own lines in the log: an even one, or an odd one for a change
        by somebody else that was found in S3 (`finding`)."""
        return self._origin | getattr(self._finding, "found", 0)

    @contextmanager
    def finding(self) -> Iterator[None]:
        """Within, what this thread applies was found in S3."""
        before = getattr(self._finding, "found", 0)
        self._finding.found = 1
        try:
            yield
        finally:
            self._finding.found = before

    def is_own(self, origin: int) -> bool:
        """Whether a line of the log is ours."""
        return origin >> 1 == self._origin >> 1

    def enter(self, namespace: str) -> None:  # noqa: B027  there may be nothing to do
        """Keep to *namespace* of the store from now on. Called before anything else. A store that
        only this process has needs nothing of the kind."""

    # A store may be a copy of another one (replica.py)

    @property
    def exact(self) -> Backend:
        """A view of the store that is never behind it, not even for a moment."""
        return self

    @property
    def at_hand(self) -> Backend:
        """What can be read without asking a server."""
        return self

    def catch_up(self, bucket: str, upto: int | None = None) -> None:  # noqa: B027
        """Take in the log of *bucket* as it is by now, or up to line *upto*. Raises StoreError."""

    def seen_lately(self, bucket: str, directory: str) -> DirectorySeen | None:
        """Return what was seen in the last second of *directory*, which is not listed."""
        return None

    def bring(self, bucket: str, directory: str) -> None:  # noqa: B027
        """Fetch *directory*, so that it is at hand. Waits. Raises StoreError."""

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within, this thread answers a kernel: it does not wait for what is not at hand, but
        raises Uncopied."""
        yield

    def one_state(self) -> AbstractContextManager[None]:
        """Within, this thread may get answers from the state that the store had at its first
        question, which saves looks for a newer one. The thread changes nothing there."""
        return nullcontext()

    # Buckets

    @abstractmethod
    def buckets(self) -> list[BucketEntry]:
        """Return the known buckets, in the order of their names."""

    @abstractmethod
    def bucket(self, name: str) -> BucketEntry | None:
        """Return one bucket, or None if it is not known."""

    @abstractmethod
    def add_bucket(self, name: str, created_ns: int) -> None:
        """Make *name* known, made at *created_ns* (0: not known; a known time stays)."""

    @abstractmethod
    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        """Forget *name* with its entries, scopes and log; return whether it is forgotten.

        With *since*, a bucket that the log of the list names after that number is left alone: S3
        was asked before that was known. Raises LogTrimmed where the log does not say so. Dropping
        what is not known is logged too: a list of buckets in flight must not bring it back.

        A bucket added again under that name goes on with the sequence where it was, so that a
        reader of the log notices.
        """

    # Entries

    @abstractmethod
    def get(self, bucket: str, key: str) -> Entry | None:
        """Return the entry of exactly *key*, or None."""

    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        """Return up to *limit* direct children of *directory* ("" or ending in "/").

        A child is an entry whose key has no "/" after *directory*, or one whose only "/" is
        at its end (a subdirectory), in the order of the keys, each once. A subdirectory is
        there if any key begins with it; its own entry is returned if it has one (marker
        object, LISTED or KEPT), else `Entry(key, kind=LISTED)`. The entry of *directory*
        itself is no child. *after* is the full key of the last child seen; it need not
        exist. A page shorter than *limit* is the last.

        This one scans, and passes over the contents of subdirectories. Make sure that nobody writes
        meanwhile, or write a better one.
        """
        found: list[Entry] = []
        place = max(after, directory)
        size = 16  # keys that are scanned behind the first one of a subdirectory are thrown away
        while len(found) < limit:
            asked = min(size, limit - len(found))
            inside = place.endswith("/") and place > directory
            page = self.scan(bucket, directory, place + LAST_KEY if inside else place, asked)
            size *= 2
            for entry in page:
                slash = entry.key.find("/", len(directory))
                place = entry.key[: slash + 1] or entry.key
                found.append(entry if place == entry.key else Entry(place, kind=LISTED))
                if slash >= 0:
                    size = 4
                    break
            else:
                if len(page) < asked:
                    break
        return found

    @abstractmethod
    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        """Return up to *limit* entries of any kind whose key begins with *prefix* and is greater
        than *after*, in order. A page shorter than *limit* is the last."""

    def stride(self, bucket: str, prefix: str, after: str, count: int) -> tuple[str, int]:
        """Return the key of the *count*-th entry that begins with *prefix* behind *after*, or of
        the last one if there are fewer, and how many were passed; ("", 0): there is none. By these
        keys a listing is cut into ranges. A store that finds them without reading should."""
        passed = 0
        while passed < count:
            page = self.scan(bucket, prefix, after, min(PAGE, count - passed))
            if page:
                passed, after = passed + len(page), page[-1].key
            if len(page) < PAGE:
                break
        return (after, passed) if passed else ("", 0)

    def has_below(self, bucket: str, directory: str) -> bool:
        """Whether any entry's key begins with *directory*, its own marker included."""
        return bool(self.scan(bucket, directory, "", 1))

    def lookup(self, bucket: str, directory: str, name: str) -> OfName:
        """Return the entry *directory* + *name*, and that of the subdirectory of this name.

        Only an object is returned as the first. The second is as `children` would show it.
        The hottest call: a store that can do it in one step should.
        """
        key = directory + name
        entry = self.get(bucket, key) if name else None
        below = self.get(bucket, key + "/")
        if below is None and self.has_below(bucket, key + "/"):
            below = Entry(key + "/", kind=LISTED)
        return entry, below

    def lookup_certain(self, bucket: str, directory: str, name: str) -> tuple[OfName, bool]:
        """Return the result of `lookup`, and whether it is certain: something was found, or the
        children of *directory* are `covered`."""
        found = self.lookup(bucket, directory, name)
        return found, found != (None, None) or self.covered(bucket, directory)

    def lookups(self, bucket: str, wanted: Sequence[tuple[str, str]]) -> list[OfName]:
        """Return the result of `lookup` for each directory and name. A store that can answer many
        at once should."""
        return [self.lookup(bucket, directory, name) for directory, name in wanted]

    def directories(
        self, bucket: str, directories: Sequence[str], limit: int
    ) -> list[DirectoryCopy]:
        """Return the parts of each directory that are copied: the result of `cover`, read before
        the first *limit* children. A store that can answer many at once should."""
        notes = zip(directories, self.notes_of(bucket, directories), strict=True)
        read, cover = self.children, self.cover
        return [DirectoryCopy(cover(bucket, it), read(bucket, it, "", limit), n) for it, n in notes]

    def total(self, bucket: str, prefix: str = "") -> Total:
        """Return how many files (`entry.is_file`) have keys that begin with *prefix*, and
        their bytes. A store that can count by itself should."""
        files = size = 0
        for page in pages(lambda after: self.scan(bucket, prefix, after)):
            found = [entry.size for entry in page if is_file(entry)]
            files, size = files + len(found), size + sum(found)
        return Total(files, size)

    # Changes

    @abstractmethod
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        """Store *puts*, remove *deletes*, log both: all in one step. Return the keys left alone.

        With *since*, every key that the log shows as changed after that number is left alone: S3
        was asked before that change was known. Raises `LogTrimmed` if the log does not reach back
        to *since*; then nothing is applied.
        A key that is both put and deleted is put. A bucket that is not known is added.
        Deleting what is not there is logged too: S3 was told, and a LIST that was in flight
        must not bring the key back.

        *step* is the meaning of the change (pending.py). The contended keys of an intent are left
        alone: S3 must be asked. A store without `intents` need not take it.
        """

    def apply_told(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> tuple[set[str], OwnChange | None]:
        """As `apply`; return also what that did. None: the log says which keys to look at."""
        return self.apply(bucket, puts, deletes, since, step), None

    def learn_plain(self, bucket: str, entries: Sequence[Entry]) -> None:
        """Learn that nothing is stored with *entries* except what a listing says: their metadata
        becomes {} if the store still has these versions and does not know theirs. This is one step,
        without a line in the log: nothing that is seen changes."""
        raise NotImplementedError

    @abstractmethod
    def seq(self, bucket: str) -> int:
        """Return the number of the latest change of *bucket* (0: none yet)."""

    def seq_lately(self, bucket: str) -> int:
        """Return a number that `seq` has been in the last second, or is now, at less cost."""
        return self.seq(bucket)

    @abstractmethod
    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        """Return up to *limit* changes after number *since*, oldest first.

        Raises `LogTrimmed` if some of them are no longer in the log, or if *since* is in
        the future: then the reader must drop everything that it knows of the bucket.
        """

    # Intents (pending.py); one step each

    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> set[str]:
        """Note that *keys* are about to be changed at S3, within *lasts_ms* by the store's clock.
        Return those that were unsettled before. A token is SESSION:NUMBER, and of an intent to
        delete SESSION:NUMBER-."""
        raise NotImplementedError

    def begin_seeing(
        self, bucket: str, key: str, token: str, lasts_ms: int, note: str, most: int
    ) -> Begun:
        """As `begin` of *key*; return what the store has then, and the text of *note* beside
        *bucket*. `Begun.last` is False if there are more than *most* other names. A store that can
        answer in the same step should."""
        met = bool(self.begin(bucket, [key], token, lasts_ms))
        at, last, above = key[: key.rfind("/", 0, -1) + 1], False, None
        seq = self.seq(bucket)  # what comes between is behind it
        if most >= 0:  # what is pending first: of what ends in between, the name is gone then
            going = {row.key for row in self.unsettled(bucket) if row.goes}
            names = {row.key for row in self.children(bucket, at, "", most + 2)} - {key}
            last = len(names) <= most and names <= going
            above = self.get(bucket, at)
        return Begun(seq, self.get(bucket, key), above, met, last, self.note(bucket, note))

    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        """Note that none of *keys* was changed, or, if *unsure*, that nobody knows. Return the
        contended ones."""
        raise NotImplementedError

    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        """Return the keys that are pending or contended; or *key*, if it is."""
        raise NotImplementedError

    def reap(self, bucket: str, lives: Callable[[str], bool]) -> set[str]:
        """End the intents that are over their deadline, and those of whose tokens *lives* is not
        true: their keys become contended. Return these keys."""
        raise NotImplementedError

    # Scopes

    @abstractmethod
    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        """Remember that *scope* was listed to its end. A deep one replaces all those inside. Raises
        LogTrimmed, and marks nothing, if the bucket was dropped after number *since*."""

    @abstractmethod
    def unmark(self, bucket: str, prefix: str) -> None:
        """Make everything at and below *prefix* ("", or it ends in "/") count as not listed, in one
        step. The rest of the scopes above it stays (uncovering.py). A store that has copies (it is
        not `quick`) logs that anything there may have changed: they must not count it as listed."""

    @abstractmethod
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        """Return the scope of exactly *prefix*."""

    def scopes(self, bucket: str) -> list[Scope]:
        """Return all scopes of *bucket*, the one with the oldest listing first. A store that cannot
        tell them all returns only that of the whole bucket."""
        whole = self.scope(bucket, "")
        return [whole] if whole is not None else []

    def cover(self, bucket: str, directory: str) -> Scope | None:
        """Return the newest scope that covers the direct children of *directory*, or None."""
        found = self.scope(bucket, directory)
        prefix = directory
        while prefix:
            prefix = prefix[: prefix.rfind("/", 0, -1) + 1]
            above = self.scope(bucket, prefix)
            if above and above.deep and (found is None or above.listed_ns > found.listed_ns):
                found = above
        return found

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        """Whether any scope covers the direct children of *directory*; with *deep*, all below
        it. Asked for each listing."""
        if not deep:
            return self.cover(bucket, directory) is not None
        scopes = (self.scope(bucket, each) for each in reversed(prefixes_of(directory)))
        return any(scope is not None and scope.deep for scope in scopes)

    # Notes

    def note(self, bucket: str, name: str) -> str | None:
        """Return the text that was noted as *name* beside *bucket*, or None.

        A store without notes returns None: then an interrupted sync begins again.
        """
        return None

    def set_note(self, bucket: str, name: str, text: str | None) -> None:  # noqa: B027
        """Keep *text* as *name* beside *bucket*, until it is dropped; None removes it."""

    def notes(self, bucket: str) -> dict[str, str]:
        """Return all that is noted beside *bucket*, by name."""
        return {}

    def notes_of(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        """Return the note of each of *directories*. A replica may return the note that it copied
        with the directory; if there was none, it asks."""
        return [self.note(bucket, OF_DIRECTORY + each) for each in directories]

    def set_note_of(self, bucket: str, directory: str, text: str) -> None:
        """Keep *text* of *directory*."""
        self.set_note(bucket, OF_DIRECTORY + directory, text)

    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        """Note *after* (None: remove the note) if the note is *before*; with *tell*, the log of
        *bucket* has a line with *name* then. One step. Return whether it was, and what the note
        is. *bucket* need not be known. A store without `intents` need not have it."""
        raise NotImplementedError

    def swap_notes(
        self, bucket: str, swaps: Sequence[NoteSwap], *, tell: Sequence[bool]
    ) -> list[tuple[bool, str | None]]:
        """`swap_note` for each. A store that can be asked for many at once should."""
        asked = zip(swaps, tell, strict=True)
        return [self.swap_note(bucket, *each, tell=tells) for each, tells in asked]

    def swap_note_told(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None, StoreSaid]:
        """Return the result of `swap_note`, and what the store says of itself after that; in one
        round trip, if it can."""
        return *self.swap_note(bucket, name, before, after, tell=tell), self.said()

    # What the store says of itself (sessions.py)

    def now_ms(self) -> int:
        """Return the store's clock: milliseconds since 1970. Where several machines share a
        store, it is the one clock that they have in common."""
        return time.time_ns() // 1_000_000

    def identity(self) -> str:
        """Return a mark of this run of the store's server. (Another run may have lost what this one
        confirmed.) "": the store is a file, or in this process."""
        return ""

    def said(self) -> StoreSaid:
        """Return `identity`, and then the note of the epoch; at once, if the store can."""
        return StoreSaid(self.identity(), self.note("", EPOCH))

    def orphans(self, bucket: str) -> list[str]:
        """Return, in words, records of *bucket* that no index leads to, and index entries that lead
        to nothing. For `mimicfs store check`; takes long."""
        return []

    def begin_epoch(self) -> None:
        """Begin a new epoch, because the store may have lost a part of its contents: nothing is
        complete any more, entries that are found are not certain (DOUBTED), and no earlier number
        is one of the log (`changes` raises LogTrimmed for it)."""
        for bucket in self.buckets():
            self.unmark(bucket.name, "")
            self.set_note(bucket.name, DOUBTED, "1")
        self.unmark("", "")

    # Life

    def waiter(self) -> Waiter:
        """Return a Waiter for changes by other writers. This one looks now and then."""
        return Waiter()

    @abstractmethod
    def close(self) -> None:
        """Give up files and connections. The backend is not used after that."""
