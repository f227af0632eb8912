"""A replica: what a mount has copied of the store that it shares, and answers from.

A directory is copied when it is first asked for, and those below it soon after; the log of the
store says what changes in it from then on. So the store is not asked for what is copied: a stat
costs what it costs in a file of one's own, also while the store is silent. Each change is made in
the store first; the copy takes it from the log, as it takes what others change.

    copied     The directories of which the copy has all children, each with the scope that
               covers it in the store, and what was noted of it. What is not copied is asked of the
               store.
    coming     Those that are being copied: the log is applied to them, and nobody is answered
               from them.
    place      By bucket, the number of the last line of the log that the copy has taken in.

INVARIANT: what the copy has of a copied directory is what the store had at one time not before
line `place`; a subdirectory that is copied too and is empty by now may have rows below it.
The rows that a line changed are read from the store, not from the line, so that no line comes
twice.

The copy outlives the mount. At the next one it goes on from its place; if the log does not reach
back so far, or the epoch of the store is another, nothing counts as copied any more.

Threading: any thread reads. One at a time writes, under `_lock`, and reads the store for it; the
thread that answers the kernel (`answering`) never waits: what it cannot know raises Uncopied.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mimicfs.backends import OF_DIRECTORY, Backend
from mimicfs.backends.copyahead import CopyAhead
from mimicfs.backends.forwarding import Forwarding
from mimicfs.backends.lease import Lease
from mimicfs.backends.pending import LEARNED, IntentStep
from mimicfs.backends.sessions import epoch
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import LAST_KEY, BucketEntry, Change, Entry, Scope, pages
from mimicfs.errors import LogTrimmed, StoreError, StoreUnavailable, Uncopied

log = logging.getLogger(__name__)

_PAGE = 1000  # names, and lines of the log, that are read at a time
_EPOCH, _PLACE = "epoch 2", "place"  # 2: of copies with the notes of directories
_AWAY = "the store does not answer"


class Replica(Forwarding):
    """*shared*, with *copy* beside it. *lease* says when the copy may answer; *strict*: also not
    while the store is away."""

    quick = True

    def __init__(
        self, shared: Backend, copy: SQLite, lease: Lease, *, strict: bool = False
    ) -> None:
        super().__init__(shared)
        self.lease = lease
        self._copy = copy
        self._strict = strict
        self._answering = 0  # the thread that answers the kernel
        self._lock = threading.RLock()  # protects what follows, and the writing to the copy
        self._copied: dict[str, dict[str, Scope]] = {}
        self._coming: dict[str, set[str]] = {}
        self._places: dict[str, int] = {}
        self._kept_places: dict[str, int] = {}
        self._buckets: dict[str, BucketEntry] = {}  # of those that were seen
        self._listed: tuple[Scope, list[str]] | None = None  # the list of buckets
        self._turns: dict[str, _Turns] = {}  # by bucket
        self._ahead = CopyAhead(self._copy_ahead)
        self.asked = 0  # how often the store was asked for what is not copied
        self._resume()

    def _resume(self) -> None:
        """Go on from what an earlier mount has left. Raises StoreError."""
        now = epoch(self.shared)
        if self._copy.note("", _EPOCH) != now:
            for bucket in self._copy.buckets():
                self._copy.drop_bucket(bucket.name)
            self._copy.set_note("", _EPOCH, now)
        for bucket in self._copy.buckets():
            place = self._copy.note(bucket.name, _PLACE)
            if place is not None:
                self._places[bucket.name] = self._kept_places[bucket.name] = int(place)
                scopes = self._copy.scopes(bucket.name)
                self._copied[bucket.name] = {scope.prefix: scope for scope in scopes}

    @contextmanager
    def answering(self) -> Iterator[None]:
        self._answering = threading.get_ident()
        try:
            yield
        finally:
            self._answering = 0

    def figures(self) -> dict[str, int]:
        """Return what a mount says of its replica."""
        return {
            "directories": sum(len(each) for each in list(self._copied.values())),
            "asked": self.asked,
        }

    # Who answers

    def _has(self, bucket: str, directory: str) -> bool:
        """Return whether the copy answers for *directory*; if not, the store is to be asked.
        Raises Uncopied, StoreUnavailable."""
        copied = self._copied.get(bucket)
        if copied is None or directory not in copied or not self.lease.begun:
            self._ask(bucket, directory)
            return False
        if self.lease.held:
            return True
        if self.lease.away:
            return self._may_answer_away()
        if threading.get_ident() == self._answering:
            raise Uncopied(bucket, directory)
        return self.lease.settle() or self._may_answer_away()

    def _may_answer_away(self) -> bool:
        if self._strict:
            raise StoreUnavailable(_AWAY)
        return True

    def _ask(self, bucket: str = "", directory: str = "") -> Backend:
        """Return the store, for a thread that may wait. Raises Uncopied, StoreUnavailable."""
        if threading.get_ident() == self._answering:
            raise Uncopied(bucket, directory)
        if self.lease.away:
            raise StoreUnavailable(_AWAY)
        self.asked += 1
        return self.shared

    # Copying

    def bring(self, bucket: str, directory: str) -> None:
        """Copy *directory*, if the store has it whole; then those below it, behind our back."""
        if not self.lease.begun or not (self.lease.held or self.lease.settle()):
            return
        if not bucket:
            self._bring_buckets()
        elif directory not in self._copied.get(bucket, ()):
            with self._lock:
                self._copy_all(bucket, [directory])
        self._ahead.begin(bucket, directory)

    def _bring_buckets(self) -> None:
        with self._lock:
            scope = self.shared.scope("", "")
            found = self.shared.buckets()
            self._buckets |= {bucket.name: bucket for bucket in found}
            self._listed = (scope, [bucket.name for bucket in found]) if scope else None

    def _copy_ahead(self, bucket: str, directories: list[str]) -> tuple[list[str], int]:
        """Copy *directories*. Return those below them, and how many names there were."""
        if not self.lease.held:
            return [], 0
        with self._lock:
            copied = self._copied.get(bucket, {})
            self._copy_all(bucket, [each for each in directories if each not in copied])
        below: list[str] = []
        count = 0
        for directory in directories:
            rows = self._copy.children(bucket, directory)
            below += [row.key for row in rows if row.key.endswith("/")]
            count += len(rows)
        return below, count

    def _copy_all(self, bucket: str, directories: list[str]) -> None:
        if bucket not in self._places:
            self._forget(bucket)
            self._places[bucket] = self.shared.seq(bucket)
            self._copied[bucket] = {}
        found = self.shared.directories(bucket, directories, _PAGE)
        whole: list[tuple[str, Scope, list[Entry]]] = []
        for directory, (scope, rows) in zip(directories, found, strict=True):
            if scope is not None and len(rows) < _PAGE:
                whole.append((directory, scope, rows))
            elif scope is not None:
                self._copy_pages(bucket, directory, scope, rows)
        gone = [key for where, _, rows in whole for key in self._gone(bucket, where, "", rows)]
        notes = self.shared.notes_of(bucket, [directory for directory, _, _ in whole])
        with self._copy.together():
            self._store(bucket, [row for _, _, rows in whole for row in rows], gone)
            for (directory, scope, _), note in zip(whole, notes, strict=True):
                self._copied_now(bucket, directory, scope, note)

    def _copied_now(self, bucket: str, directory: str, scope: Scope, note: str | None) -> None:
        scope = scope._replace(prefix=directory, deep=False)
        with self._copy.together():
            self._copy.mark(bucket, scope)
            self._copy.set_note(bucket, OF_DIRECTORY + directory, note)
        self._copied[bucket][directory] = scope

    def _copy_pages(self, bucket: str, directory: str, scope: Scope, rows: list[Entry]) -> None:
        """Copy a large directory. Between two of its pages others may write."""
        coming = self._coming.setdefault(bucket, set())
        coming.add(directory)
        after = ""
        while directory in coming:
            self._store(bucket, rows, self._gone(bucket, directory, after, rows))
            if len(rows) < _PAGE:
                [note] = self.shared.notes_of(bucket, [directory])
                coming.discard(directory)
                self._copied_now(bucket, directory, scope, note)
                return
            after = rows[-1].key
            rows = self.shared.children(bucket, directory, after, _PAGE)

    def _gone(self, bucket: str, directory: str, after: str, rows: list[Entry]) -> list[str]:
        """Return what the copy has of *directory* behind *after* although the store, of which
        *rows* is the page there, has not; with all that is below."""
        keys = {row.key for row in rows}
        upto = rows[-1].key if len(rows) == _PAGE else LAST_KEY
        gone: list[str] = []
        while True:
            page = self._copy.children(bucket, directory, after, _PAGE)
            gone += [row.key for row in page if row.key not in keys and row.key <= upto]
            if len(page) < _PAGE or page[-1].key > upto:
                return self._with_all_below(bucket, gone)
            after = page[-1].key

    def _with_all_below(self, bucket: str, keys: Iterable[str]) -> list[str]:
        found: list[str] = []
        for key in keys:
            found.append(key)
            if key.endswith("/"):
                found += self._keys_below(bucket, key)
        return found

    def _keys_below(self, bucket: str, directory: str) -> list[str]:
        scan = self._copy.scan
        read = pages(lambda after: scan(bucket, directory, after, _PAGE), _PAGE, directory)
        return [row.key for page in read for row in page]

    def _store(self, bucket: str, rows: Sequence[Entry], gone: Sequence[str]) -> None:
        if rows or gone:
            self._copy.apply(bucket, rows, gone)

    # Taking in the log

    def catch_up(self, bucket: str) -> None:
        """Take in all that the log of *bucket* has by now. Raises StoreError.

        Many threads may want that at once: whoever comes while another takes it in waits for
        the next turn, which does it for all of them.
        """
        turns = self._turns.setdefault(bucket, _Turns())
        with _TURN:
            turns.asked += 1
            mine = turns.asked
        with self._lock:
            if turns.done >= mine:
                return
            upto = turns.asked
            if bucket:
                self._take_in(bucket)
            else:
                self._listed = None
            turns.done = upto

    def _take_in(self, bucket: str) -> None:
        while bucket in self._places:
            try:
                changes = self.shared.changes(bucket, self._places[bucket], _PAGE)
            except LogTrimmed as exc:
                log.info("s3://%s: %s; the copy starts anew", bucket, exc)
                self._forget(bucket)
                return
            if not changes:
                return
            self._absorb(bucket, changes)
            self._places[bucket] = changes[-1].seq
            self._keep_place(bucket, _PAGE)

    def _absorb(self, bucket: str, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.first != change.last:
                self._drop(bucket, change.first, change.last)
        keys = {change.first for change in changes if change.first == change.last}
        wanted = dict.fromkeys(pair for key in keys for pair in self._ways(bucket, key))
        if not wanted:
            return
        rows: list[Entry] = []
        gone: list[str] = []
        for (directory, name), found in zip(
            wanted, self.shared.lookups(bucket, list(wanted)), strict=True
        ):
            for key, entry in zip((directory + name, f"{directory}{name}/"), found, strict=True):
                if entry is None:
                    gone.append(key)
                else:
                    rows.append(entry)
        there = [key for key in gone if self._is_there(bucket, key)]
        self._store(bucket, rows, self._with_all_below(bucket, there))

    def _is_there(self, bucket: str, key: str) -> bool:
        if key.endswith("/"):
            return self._copy.has_below(bucket, key)
        return self._copy.get(bucket, key) is not None

    def _ways(self, bucket: str, key: str) -> Iterator[tuple[str, str]]:
        """Yield each copied directory that *key* is in or below, and the name there."""
        copied, coming = self._copied[bucket], self._coming.get(bucket, ())
        while key:
            directory, name = _split(key)
            if directory in copied or directory in coming:
                yield directory, name.removesuffix("/")
            key = directory

    def _drop(self, bucket: str, first: str, last: str) -> None:
        """Anything between two keys may have changed: those directories are not copied now."""
        copied, coming = self._copied[bucket], self._coming.get(bucket, set())
        near = [
            directory
            for directory in (*copied, *coming)
            if directory <= last and first < directory + LAST_KEY
        ]
        self._copy.unmark_each(bucket, near)
        for directory in near:
            copied.pop(directory, None)
            coming.discard(directory)

    def _forget(self, bucket: str) -> None:
        """Nothing of *bucket* is copied."""
        self._places.pop(bucket, None)
        self._kept_places.pop(bucket, None)
        self._copied.pop(bucket, None)
        self._coming.pop(bucket, None)
        self._copy.unmark(bucket, "")
        self._copy.set_note(bucket, _PLACE, None)

    def _keep_place(self, bucket: str, lag: int) -> None:
        """Note the place, if the one noted is *lag* behind: what comes twice does no harm."""
        place = self._places.get(bucket)
        if place is not None and place - self._kept_places.get(bucket, -lag) >= lag:
            self._copy.set_note(bucket, _PLACE, str(place))
            self._kept_places[bucket] = place

    # Buckets

    def buckets(self) -> list[BucketEntry]:
        listed = self._listed
        if listed is not None and self._answers():
            return [self._buckets[name] for name in listed[1]]
        return self._ask().buckets()

    def _answers(self) -> bool:
        """Whether this is for the kernel, or the store is away: names and times are enough."""
        return threading.get_ident() == self._answering or self.lease.away

    def bucket(self, name: str) -> BucketEntry | None:
        if self._answers() and (known := self._buckets.get(name)) is not None:
            return known
        found = self._ask().bucket(name)
        if found is not None:
            self._buckets[name] = found
        return found

    def add_bucket(self, name: str, created_ns: int) -> None:
        self._ask().add_bucket(name, created_ns)
        self._listed = None
        self._buckets.pop(name, None)

    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        dropped = self._ask().drop_bucket(name, since)
        with self._lock:
            self._listed = None
            self._buckets.pop(name, None)
            self._forget(name)
        return dropped

    # Entries

    def get(self, bucket: str, key: str) -> Entry | None:
        if self._has(bucket, _split(key)[0]):
            return self._copy.get(bucket, key)
        return self.shared.get(bucket, key)

    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        if self._has_or_brings(bucket, directory):
            return self._copy.lookup(bucket, directory, name)
        return self.shared.lookup(bucket, directory, name)

    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = 1000
    ) -> list[Entry]:
        if self._has_or_brings(bucket, directory):
            return self._copy.children(bucket, directory, after, limit)
        return self.shared.children(bucket, directory, after, limit)

    def _has_or_brings(self, bucket: str, directory: str) -> bool:
        if self._has(bucket, directory):
            return True
        self.bring(bucket, directory)
        return self._has(bucket, directory)

    def has_below(self, bucket: str, directory: str) -> bool:
        parent, name = _split(directory)
        if directory and self._has(bucket, parent):
            return self._copy.lookup(bucket, parent, name[:-1])[1] is not None
        return self._ask(bucket, directory).has_below(bucket, directory)

    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Entry]:
        return self._ask(bucket, _split(prefix)[0]).scan(bucket, prefix, after, limit)

    # Changes

    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        left = self._ask().apply(bucket, puts, deletes, since, step)
        self._catch_up_or_forget(bucket)
        return left

    def _catch_up_or_forget(self, bucket: str) -> None:
        """The store has taken a change. Rows of it that cannot be read now are not copied."""
        try:
            self.catch_up(bucket)
        except StoreError as exc:
            log.warning("s3://%s: the changes could not be copied: %s", bucket, exc)
            with self._lock:
                self._forget(bucket)

    # Scopes

    def mark(self, bucket: str, scope: Scope) -> None:
        self._ask().mark(bucket, scope)
        with self._lock:
            if not bucket:
                self._listed = None
            copied = self._copied.get(bucket, {})
            inside = [each for each in copied if each.startswith(scope.prefix)]
            for each in inside if scope.deep else [scope.prefix]:
                if each in copied:
                    copied[each] = scope._replace(prefix=each, deep=False)

    def unmark(self, bucket: str, prefix: str) -> None:
        self._ask().unmark(bucket, prefix)
        with self._lock:
            if not bucket:
                self._listed = None
            if bucket in self._copied:
                self._drop(bucket, prefix, prefix + LAST_KEY)

    def scope(self, bucket: str, prefix: str) -> Scope | None:
        listed = self._listed
        if not bucket and not prefix and listed is not None and self._answers():
            return listed[0]
        return self._ask(bucket, prefix).scope(bucket, prefix)

    def cover(self, bucket: str, directory: str) -> Scope | None:
        if self._has(bucket, directory):
            found = self._copied.get(bucket, {}).get(directory)
            if found is not None:
                return found
        return self._ask(bucket, directory).cover(bucket, directory)

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        if not deep and self._has(bucket, directory):
            return True
        return self._ask(bucket, directory).covered(bucket, directory, deep=deep)

    # Notes

    def notes_of(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        if not all(self._has(bucket, each) for each in directories):
            return self.shared.notes_of(bucket, directories)
        found = self._copy.notes_of(bucket, directories)
        if None not in found or self.lease.away:
            return found
        try:  # no line of the log says what was noted since
            return self._ask(bucket, directories[0]).notes_of(bucket, directories)
        except StoreUnavailable:
            self._may_answer_away()
            return found

    def set_note_of(self, bucket: str, directory: str, text: str) -> None:
        self._ask(bucket, directory).set_note_of(bucket, directory, text)
        with self._lock:
            self._copy.set_note_of(bucket, directory, text)

    # Of the store alone

    def begin_epoch(self) -> None:
        self.shared.begin_epoch()
        with self._lock:
            for bucket in list(self._copied):
                self._forget(bucket)
            self._listed = None
            self._copy.set_note("", _EPOCH, None)  # another is noted by now, or soon

    def enter(self, namespace: str) -> None:
        raise NotImplementedError("a replica is of one namespace")

    def close(self) -> None:
        self._ahead.close()
        with self._lock:
            for bucket in list(self._places):
                self._keep_place(bucket, 1)
            self._copy.close()
        self.shared.close()


_TURN = threading.Lock()  # for the step in which a turn is taken


@dataclass(slots=True)
class _Turns:
    """The turns of a bucket's log: how often somebody wanted it taken in, and up to which of these
    turns it was."""

    asked: int = 0
    done: int = 0


def _split(key: str) -> tuple[str, str]:
    """Return the directory that *key* is in, and its name there."""
    cut = key.rfind("/", 0, -1) + 1
    return key[:cut], key[cut:]
