"""A replica: the copy of the shared store from which a mount answers.

A directory is copied when it is first asked for, and those below it soon after; the log of the
store says what changes in it from then on. So the store is not asked for a copied directory: a stat
costs as much as with a local store, even while the shared store is silent. Each change is made in
the store first; the copy takes it from the log, as it takes what others change.

`copying.py` knows which directories are copied or coming, and up to which line the log was taken
in. The store is asked about all others. If the epoch of the store has changed since an earlier
mount copied it, nothing counts as copied any more.

Threading: any thread. The thread that answers the kernel (`answering`) never waits: what it cannot
know raises Uncopied. `_lock`, that of the copy, protects the list of buckets, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from mimicfs.backends import Backend
from mimicfs.backends.copyahead import CopyAhead
from mimicfs.backends.copying import Copying, split
from mimicfs.backends.forwarding import Forwarding
from mimicfs.backends.lease import Lease
from mimicfs.backends.pending import LEARNED, IntentStep
from mimicfs.backends.sessions import epoch
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import LAST_KEY, PAGE, BucketEntry, DirectorySeen, Entry, OwnChange, Scope
from mimicfs.errors import StoreError, StoreUnavailable, Uncopied

log = logging.getLogger(__name__)

_EPOCH = "epoch 2"  # 2: of copies with the notes of directories
_AWAY = "the store does not answer"


class Replica(Forwarding):
    """The store *shared*, with *copy* beside it. *lease* says when the copy may answer; *strict*:
    it may not while the store is away. For a mount of one *prefix*, nothing else is copied."""

    quick = True

    def __init__(
        self,
        shared: Backend,
        copy: SQLite,
        lease: Lease,
        *,
        strict: bool = False,
        prefix: str = "",
    ) -> None:
        super().__init__(shared)
        self.lease = lease
        self._copy = copy
        self._strict = strict
        self._answering = 0  # the thread that answers the kernel
        self._copies = Copying(shared, copy, prefix, lease.heard)
        self._lock = self._copies.lock
        self._buckets: dict[str, BucketEntry] = {}  # of those that were seen
        self._listed: tuple[Scope, list[str]] | None = None  # the list of buckets
        self._turns: dict[str, _Turns] = {}  # by bucket
        self._ahead = CopyAhead(self._copy_ahead)
        self.asked = 0  # how often the store was asked about something that is not copied
        self._resume()

    def _resume(self) -> None:
        """Go on from what an earlier mount has left. Raises StoreError."""
        now = epoch(self.shared)
        if self._copy.note("", _EPOCH) != now:
            for bucket in self._copy.buckets():
                self._copy.drop_bucket(bucket.name)
            self._copy.set_note("", _EPOCH, now)
        self._copies.resume()

    @contextmanager
    def answering(self) -> Iterator[None]:
        self._answering = threading.get_ident()
        try:
            yield
        finally:
            self._answering = 0

    @property
    def at_hand(self) -> Backend:
        return self._copy

    def one_state(self) -> AbstractContextManager[None]:
        return self._copy.one_state()

    def figures(self) -> dict[str, int]:
        """Return the figures that a mount shows of its replica."""
        return {
            "directories": len(self._copies),
            "asked": self.asked,
        }

    # Who answers

    def _has(self, bucket: str, directory: str, name: str = "") -> bool:
        """Return whether the copy answers for *directory*, or for *name* in it; if not, the caller
        asks the store. Raises Uncopied, StoreUnavailable."""
        if not self._copies.has_name(bucket, directory, name) or not self.lease.begun:
            self._ask(bucket, directory)
            return False
        if self.lease.held:
            return True
        if self.lease.away:
            return self._may_answer_away()
        if threading.get_ident() == self._answering:
            raise Uncopied(bucket, directory)
        return self.lease.settle() or (self.lease.away and self._may_answer_away())

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

    def seen_lately(self, bucket: str, directory: str) -> DirectorySeen | None:
        return self._copies.seen_lately(bucket, directory)

    def bring(self, bucket: str, directory: str) -> None:
        """Copy *directory*, if the store has it whole; then those below it, behind our back."""
        self._bring(bucket, directory, large=True)

    def _bring(self, bucket: str, directory: str, large: bool) -> None:
        """As `bring`; unless *large*, what has more than one page is copied behind our back, too:
        whoever only asks whether it is listed need not wait."""
        if not self.lease.begun or not (self.lease.held or self.lease.settle()):
            return
        if not bucket:
            self._bring_buckets()
        elif not self._copies.is_shown(directory):
            self._copies.bring_name(bucket, directory)
        else:
            wanted = self._ahead.with_next(bucket, directory)
            below, _ = self._copies.bring_all(bucket, wanted, large=[directory] if large else [])
            self._ahead.begin(bucket, below)

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
        return self._copies.bring_all(bucket, directories, large=directories)

    # Taking in the log

    def catch_up(self, bucket: str, upto: int | None = None) -> None:
        """Take in what the log of *bucket* has by now: all, or up to line *upto*. Raises
        StoreError.

        Many threads may want this at once: those that come while another takes the log in wait for
        the next turn, which serves all of them.
        """
        if upto is not None and bucket:
            with self._lock:
                self._copies.take_in(bucket, upto)
            return
        turns = self._turns.setdefault(bucket, _Turns())
        with _TURN:
            turns.asked += 1
            mine = turns.asked
        with self._lock:
            if turns.done >= mine:
                return
            upto = turns.asked
            if bucket:
                self._copies.take_in(bucket)
            else:
                self._listed = None
            turns.done = upto

    # Buckets

    def buckets(self) -> list[BucketEntry]:
        listed = self._listed
        if listed is not None and self._answers():
            _, names = listed
            return [self._buckets[name] for name in names]
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
            self._copies.forget(name)
        return dropped

    # Entries

    def get(self, bucket: str, key: str) -> Entry | None:
        if self._has(bucket, *split(key)):
            return self._copy.get(bucket, key)
        return self.shared.get(bucket, key)

    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        if self._has_or_brings(bucket, directory):
            return self._copy.lookup(bucket, directory, name)
        return self.shared.lookup(bucket, directory, name)

    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        if self._has_or_brings(bucket, directory):
            return self._copy.children(bucket, directory, after, limit)
        return self.shared.children(bucket, directory, after, limit)

    def _has_or_brings(self, bucket: str, directory: str, *, large: bool = True) -> bool:
        if self._has(bucket, directory):
            return True
        if self.lease.begun and not self.lease.held:  # nothing can be copied now
            return False
        if self._copies.is_unlisted(bucket, directory):
            return False
        self._bring(bucket, directory, large)
        return self._has(bucket, directory)

    def has_below(self, bucket: str, directory: str) -> bool:
        parent, name = split(directory)
        if directory and self._has(bucket, parent, name):
            _, below = self._copy.lookup(bucket, parent, name[:-1])
            return below is not None
        return self._ask(bucket, directory).has_below(bucket, directory)

    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        directory, _ = split(prefix)
        return self._ask(bucket, directory).scan(bucket, prefix, after, limit)

    # Changes

    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        shared, place = self._ask(), self._copies.place(bucket)
        left, own = shared.apply_told(bucket, puts, deletes, since, step)
        self.lease.heard()
        stored = {entry.key: entry for entry in puts if entry.key not in left}
        if not self._takes_in(bucket, place, own, list(stored.values())):
            self._catch_up_or_forget(bucket)
        return left

    def _takes_in(
        self, bucket: str, place: int | None, own: OwnChange | None, puts: Sequence[Entry]
    ) -> bool:
        """Take in *own*, a change with *puts* that began when the copy was at *place*; return
        whether that is done. A number before *place* is of another log than the copy has."""
        if place is None or own is None or own.before < place:
            return False
        with self._lock:
            return self._copies.take_in_own(bucket, own, puts)

    def _catch_up_or_forget(self, bucket: str) -> None:
        """Take in a change that the store has taken. If its rows cannot be read now, their
        directories are no longer copied."""
        try:
            self.catch_up(bucket)
        except StoreError as exc:
            log.warning("s3://%s: the changes could not be copied: %s", bucket, exc)
            with self._lock:
                self._copies.forget(bucket)

    # Scopes

    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        self._ask().mark(bucket, scope, since)
        with self._lock:
            if not bucket:
                self._listed = None
            self._copies.remark(bucket, scope)

    def unmark(self, bucket: str, prefix: str) -> None:
        self._ask().unmark(bucket, prefix)
        with self._lock:
            if not bucket:
                self._listed = None
            self._copies.drop(bucket, prefix, prefix + LAST_KEY)

    def scope(self, bucket: str, prefix: str) -> Scope | None:
        listed = self._listed
        if not bucket and not prefix and listed is not None and self._answers():
            scope, _ = listed
            return scope
        return self._ask(bucket, prefix).scope(bucket, prefix)

    def cover(self, bucket: str, directory: str) -> Scope | None:
        if self._has(bucket, directory):
            found = self._copies.of(bucket).get(directory)
            if found is not None:
                return found
        return self._ask(bucket, directory).cover(bucket, directory)

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        if not deep and self._copies.is_shown(directory):
            if self._has_or_brings(bucket, directory, large=False):
                return True
            if self._copies.is_unlisted(bucket, directory):
                return False
        elif not deep and self._has(bucket, directory):
            return True
        return self._ask(bucket, directory).covered(bucket, directory, deep=deep)

    # Notes

    def notes_of(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        if not all(self._has(bucket, each) for each in directories):
            return self.shared.notes_of(bucket, directories)
        # No line of the log says what was noted since.
        notes = self._copies.notes
        copied = zip(directories, self._copy.notes_of(bucket, directories), strict=True)
        found = [notes.said(bucket, each) if note is None else note for each, note in copied]
        known = [note or None for note in found]
        if None not in found or self.lease.away:
            return known
        try:
            self._ask(bucket, directories[0])
            return notes.ask(bucket, directories)
        except StoreUnavailable:
            self._may_answer_away()
            return known

    def set_note_of(self, bucket: str, directory: str, text: str) -> None:
        self._ask(bucket, directory).set_note_of(bucket, directory, text)
        with self._lock:
            self._copy.set_note_of(bucket, directory, text)

    # Of the store alone

    def begin_epoch(self) -> None:
        self.shared.begin_epoch()
        with self._lock:
            self._copies.forget_all()
            self._listed = None
            self._copy.set_note("", _EPOCH, None)  # another is noted by now, or soon

    def enter(self, namespace: str) -> None:
        raise NotImplementedError("a replica is of one namespace")

    def close(self) -> None:
        self._ahead.close()
        self._copies.close()
        self.shared.close()


_TURN = threading.Lock()  # for the step in which a turn is taken


@dataclass(slots=True)
class _Turns:
    """The turns of a bucket's log: how often somebody wanted it taken in, and up to which of these
    turns it was."""

    asked: int = 0
    done: int = 0
