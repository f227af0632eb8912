"""The mirror of S3's metadata, and the rules by which it changes. known.py has its answers;
library.py makes MimicDB of it.

1. Complete or not. Absence is certain only inside a scope that was listed to its end; a question
   that the mirror cannot answer raises `Unlisted`.
2. A listing is merged, page by page (`replace`). Keys that changed after the page was asked for are
   left alone; a key that the page does not show is deleted only in the range for which the page
   speaks.
3. Every change of a bucket has a number (backends/__init__.py).
4. Directories are implied by keys. LISTED stands for one that S3 showed and whose keys are
   not known, KEPT for one that was emptied through the mount and stays.
5. What mimicfs tries a server with (entry.is_probe) is not in the mirror.
6. A listing has no user metadata: what was learned of it is kept while etag and size are the same.

Threading: any method, many threads. There is no lock here but the one on the list of
listeners; the backend makes each change atomic. Listeners run in the thread that made the
change, under no lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from mimicfs.backends import DOUBTED, Backend
from mimicfs.backends.pending import IntentStep
from mimicfs.entry import (
    KEPT,
    NS,
    OBJECT,
    BucketEntry,
    Difference,
    DirectorySeen,
    Entry,
    Scope,
    is_probe,
    pages,
    without_probes,
)
from mimicfs.intent import StoreIntents
from mimicfs.known import Knowledge
from mimicfs.later import Later
from mimicfs.logged import (
    buckets_changed,
    buckets_met,
    changers,
    check_named,
    is_behind,
    newest_lines,
    unchanged,
)
from mimicfs.member import Member, boot_s
from mimicfs.merging import PageRange, merged, same_version, still_said

if TYPE_CHECKING:
    from mimicfs.locks.shared import SharedLocks

_NEWEST = 256  # lines of the log that may say who has deleted a key just now

# Called with the bucket ("": the list of buckets) and what changed; None: anything may have.
Listener = Callable[[str, Difference | None], None]


class Mirror(Knowledge):
    """The mirror of S3's metadata in *backend*. Keys are text, sizes bytes, times ns since 1970.

    A method raises StoreError where the store cannot be asked. *since* is a number of the bucket's
    sequence (`seq`), read before S3 was asked; later changes stand.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        # The number differs after every change that this object has made, or has come to know of:
        # then nobody may trust what was read from the mirror before. It is no count of changes.
        self.generation = 0
        self._generations = count(1)
        self._here = threading.local()  # .changes: see `changes_here`
        self._lock = threading.Lock()  # protects the list below
        self._listeners: list[Listener] = []
        self.member = Member(backend, self._renewed, self._kept)
        self.intents = StoreIntents(backend, self.member)
        self.later = Later(backend)
        # When the store may have lost what was listed before, by boot_s: other clocks are set.
        self._renewed_s = float("-inf")

    def close(self) -> None:
        """Record what waits, leave the store, and close it."""
        self.later.close()
        self.intents.close()
        self.member.leave()
        self.backend.close()

    def forked(self) -> None:
        """Become another member of the store: this process was forked from the one that has made
        the mirror. Nobody lets go what other threads held then."""
        before = self.intents
        self._lock, self.later = threading.Lock(), Later(self.backend)
        self.member = Member(self.backend, self._renewed, self._kept)
        self.intents = StoreIntents(self.backend, self.member)
        self.intents.inherit(before)

    # The store as others leave it

    def join(self, mountpoint: str = "") -> None:
        """Be one of the sessions of the store, at *mountpoint* or a program. Raises StoreError."""
        self.member.said = {**self.member.said, "origin": self.backend.origin}
        self.member.join(mountpoint)
        self._look_for_doubts()

    def _renewed(self) -> None:
        """Make everything uncertain: the store may have lost what it had confirmed. Before it is
        listed again, nothing is certain, neither a missing key nor one that is there."""
        self._renewed_s = boot_s()
        self.backend.begin_epoch()
        self.intents.look_everywhere()
        self._look_for_doubts()
        for name in ["", *(bucket.name for bucket in self.backend.buckets())]:
            self.announce(name, None)

    def _look_for_doubts(self) -> None:
        names = [bucket.name for bucket in self.backend.buckets()]
        self._doubted = {name for name in names if self.backend.note(name, DOUBTED)}

    def _kept(self) -> None:
        """Note that the store has taken the beat of our session."""
        self.intents.look_soon()

    def locks(self) -> SharedLocks:
        """Return the locks of files that all mounts of the store respect."""
        from mimicfs.locks.shared import SharedLocks

        locks = SharedLocks(self.backend.exact, self.member)
        self.member.beaten.append(locks.beaten)
        return locks

    def newest(self, bucket: str, entry: Entry, generation: int) -> Entry:
        """Return what the mirror has by now of the object *entry*, which it had at *generation* or
        later. It is asked again only if it has changed since.

        INVARIANT: the kernel gets no size from before a WRITE that was answered before it asked. It
        would cut the file, and its page, to that, and the page would show a zero for what was
        written once the next size is larger. A thread that shows an object of which no file is
        dirty looks by this whether an upload has ended since *entry* was read.
        """
        if self.generation == generation:
            return entry
        now = self.entry(bucket, entry.key)
        return now if now is not None and now.kind == OBJECT else entry

    # What S3 confirmed

    def record(self, bucket: str, entry: Entry, since: int | None = None) -> None:
        """Record that S3 has *entry*. With *since*: S3 was asked before later changes, which
        stand."""
        self._apply(bucket, [entry], (), since)

    def record_all(self, bucket: str, entries: Sequence[Entry], since: int | None = None) -> None:
        """Record that S3 has *entries*, as `record` does."""
        self._apply(bucket, entries, (), since)

    def forget(self, bucket: str, key: str, since: int | None = None) -> None:
        """Record that S3 does not have *key*."""
        self._apply(bucket, (), [key], since)

    def forget_all(self, bucket: str, keys: Sequence[str]) -> None:
        """Record that S3 does not have *keys*."""
        self._apply(bucket, (), keys)

    def keep(
        self,
        bucket: str,
        directory: str,
        meta: Mapping[str, str] | None = None,
        since: int | None = None,
    ) -> bool:
        """Remember *directory*, which has no object, with its *meta* (None: it was emptied), until
        it is forgotten. With *since*: unless it was changed after that number. Return whether it is
        remembered."""
        return not self._apply(bucket, [Entry(directory, kind=KEPT, meta=meta)], (), since)

    def went_behind(self, bucket: str, since: int, key: str, name: str) -> bool:
        """Whether *name*, or something below it, was changed after our change of *key*, the first
        one after number *since*. True also if the log does not say."""
        return is_behind(self.backend.exact, bucket, since, key, name)

    def changers(self, bucket: str, since: int, key: str) -> list[bool]:
        """Return, for each change of *key* after number *since*, whether this process has made it;
        [] if the log does not say."""
        return changers(self.backend.exact, bucket, since, key)

    def forget_kept(self, bucket: str, prefix: str, emptied: Callable[[str], bool]) -> None:
        """Forget the directories below *prefix* that were *emptied*, and that the store itself, not
        a copy of it, keeps because they lost their last name. (Directories that somebody made or
        changed have metadata.)"""
        scan = self.backend.exact.scan
        for page in pages(lambda after: scan(bucket, prefix, after)):
            kept = [each.key for each in page if each.kind == KEPT and each.meta is None]
            if gone := [key for key in kept if emptied(key)]:
                self.forget_all(bucket, gone)

    def repair(self, bucket: str, key: str, entry: Entry | None, since: int | None = None) -> None:
        """Believe S3, which showed something other than the mirror had, and tell the listeners."""
        old = self.backend.get(bucket, key)
        with self.backend.finding():
            left = self._apply(bucket, [entry] if entry else (), () if entry else [key], since)
        if left:
            return
        if entry is None:
            self.announce(bucket, Difference([], [], [key] if old else [], 0))
            return
        asked = entry.meta is not None  # a listing does not show it
        if old is None:
            self.announce(bucket, Difference([key], [], [], 0, asked))
        else:
            self.announce(bucket, Difference([], [key], [], 0, asked))

    def learned(self, bucket: str, seen: Sequence[Entry], since: int) -> None:
        """Believe *seen*, which S3 showed when it was asked about each key after number *since*,
        and tell the listeners what is news. A directory that is not shown as an object has none."""
        puts, added, changed = list[Entry](), list[str](), list[str]()
        for entry in seen:
            known, put = self.entry(bucket, entry.key), entry
            if entry.kind == OBJECT and known is not None and same_version(known, entry):
                put = entry._replace(mtime_ns=known.mtime_ns, head=still_said(known, entry))
                # to learn that there is no metadata changes nothing that is seen
                news = bool(put.meta) and put.meta != known.meta
            else:
                news = OBJECT in (entry.kind, None if known is None else known.kind)
            kept = known is not None and known.kind == KEPT and entry.kind != OBJECT
            # the directory was removed before S3 was asked
            if entry.kind != OBJECT and known is None:
                kept = not self.backend.has_below(bucket, entry.key)
            if put == known or kept:
                continue
            puts.append(put)
            if news:
                (added if known is None else changed).append(put.key)
        if puts:
            left = self._apply(bucket, puts, (), since)
            added, changed = ([key for key in keys if key not in left] for keys in (added, changed))
            self._tell(bucket, Difference(added, changed, [], 0, asked=True))

    def confirm(self, bucket: str, keys: Sequence[str], since: int) -> None:
        """Log that S3, when it was asked after number *since*, had at *keys* what the mirror has:
        an older answer then leaves them alone. Keys that the log names since that number do not
        need it."""
        known = {key: self.backend.exact.get(bucket, key) for key in keys}
        puts = [entry for entry in known.values() if entry is not None]
        with self.backend.finding():
            self._apply(bucket, puts, [key for key in keys if known[key] is None], since)

    def confirm_gone(self, bucket: str, keys: Sequence[str]) -> None:
        """Log that S3 has deleted *keys*, of which the mirror has none: an answer that was asked
        for before leaves them alone. Not needed if somebody has just deleted them through it."""
        newest = newest_lines(self.backend.exact, bucket, _NEWEST)
        found = [key for key in keys if key not in newest or newest[key].origin & 1]
        if found:
            with self.backend.finding():
                self._apply(bucket, (), found)

    def settle(self, bucket: str, key: str, generation: str, entry: Entry | None) -> bool:
        """Believe *entry* (None: there is nothing), which S3 showed while *key* was unsettled at
        *generation*, and tell the listeners, unless the generation is another one now. Return
        whether it is believed."""
        if entry is not None and is_probe(entry):
            entry = None
        old = self.backend.exact.get(bucket, key)
        step = IntentStep(expected=generation)
        puts, deletes = ([entry], []) if entry is not None else ([], [key])
        if self.backend.apply(bucket, puts, deletes, None, step):
            return False
        self.intents.settled(bucket, key)
        self.generation = next(self._generations)
        if old is None and entry is not None:
            self.announce(bucket, Difference([key], [], [], 0))
        elif old is not None and entry is None:
            self.announce(bucket, Difference([], [], [key], 0))
        elif old is not None and entry is not None and not same_version(old, entry):
            self.announce(bucket, Difference([], [key], [], 0))
        return True

    def _apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
    ) -> set[str]:
        shown = without_probes(puts)
        if len(shown) < len(puts):  # as if they were gone already
            deletes = [*deletes, *(entry.key for entry in puts if is_probe(entry))]
            puts = shown
        if not self.backend.intents:
            left = self.backend.apply(bucket, puts, deletes, since)
        else:
            keys = [*(entry.key for entry in puts), *deletes]
            intent, step = self.intents.step_of(bucket, keys)
            left = self.backend.apply(bucket, puts, deletes, since, step)
            if intent is not None:
                intent.open.difference_update(keys)
                self.intents.found(intent, left)
        self.generation = next(self._generations)
        self._here.changes = self.changes_here + 1
        return left

    @property
    def changes_here(self) -> int:
        """How often the thread that asks has changed what is known of keys."""
        changes: int = getattr(self._here, "changes", 0)
        return changes

    def add_bucket(self, name: str, created_ns: int) -> None:
        """Record that S3 has the bucket *name*, made at *created_ns* (0: not known)."""
        self.backend.add_bucket(name, created_ns)

    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        """Record that S3 does not have *name*. With *since*, a number of the log of the list of
        buckets: S3 was asked before the later lines, which stand. Return whether it is dropped."""
        dropped = self.backend.drop_bucket(name, since)
        self.generation = next(self._generations)
        return dropped

    def replace_buckets(self, buckets: Sequence[BucketEntry], since: int) -> Difference:
        """Make the list of buckets equal to *buckets*, and complete. A bucket that was made or
        removed after number *since* of its log, which was read before S3 was asked, stays as it is.
        Raises LogTrimmed where the log does not reach back so far."""
        listed_ns = time.time_ns()
        seen, later = buckets_changed(self.backend, since)
        old = {bucket.name for bucket in self.backend.buckets()} - later
        new = {bucket.name: bucket for bucket in buckets if bucket.name not in later}
        for name in old - new.keys():
            self.backend.drop_bucket(name)
        for bucket in new.values():
            self.backend.add_bucket(bucket.name, bucket.created_ns)
        added, deleted = sorted(new.keys() - old), sorted(old - new.keys())
        difference = Difference(added, [], deleted, len(old & new.keys()))
        self.backend.mark("", Scope("", False, listed_ns, 0, len(added), 0, len(deleted)))
        if buckets_met(self.backend, seen, {*added, *deleted}):
            self.backend.unmark("", "")  # nobody knows which of the two came first: ask again
        self.announce("", difference)
        return difference

    def replace(
        self,
        bucket: str,
        prefix: str,
        listed: Sequence[Entry],
        *,
        after: str,
        upto: str | None,
        since: int,
        deep: bool,
        beyond: str = "",
        seen: DirectorySeen | None = None,
        hold: Callable[[list[Entry]], None] | None = None,
        late: Callable[[list[Entry]], None] | None = None,
    ) -> Difference:
        """Make the mirror equal to *listed* for the keys in (*after*, *upto*] below *prefix*.

        *upto* None: to the end. *since*: the sequence number that was read before the page was
        asked for. A *deep* page has every key. Any other has the direct children of *prefix*, and a
        child that is not listed takes everything below it along. *beyond* is the next key of S3
        behind *upto*, and *seen* is what the mirror had at *since* or later, if known. Returns, and
        announces, exactly what changed. Raises LogTrimmed where the log does not say which keys
        were changed meanwhile; then a part of the page may have been merged, and the caller lists
        it again.

        *hold* gets the entries that S3 does not have, and they stay (`release`); *late* those
        without which a directory might seem to be gone, of which S3 has keys in a later part.
        """
        difference = Difference([], [], [], 0)
        left: set[str] = set()
        listed = without_probes(listed)
        where = PageRange(prefix, after, upto, deep, beyond)
        try:
            for batch in merged(self.backend.exact, bucket, where, listed, seen):
                # Before the batch is applied: after that the log has our own changes, too.
                if late is not None and batch.late:
                    late(unchanged(self.backend, bucket, batch.without_late(), since))
                if hold is not None and batch.gone:
                    hold(unchanged(self.backend, bucket, batch.without_gone(), since))
                kept: set[str] = set()
                if batch.puts or batch.deletes:
                    with self.backend.finding():
                        kept = self._apply(bucket, batch.puts, batch.deletes, since)
                difference = batch.added_to(difference, kept)
                left |= kept
        finally:
            self._tell(bucket, difference)
        if left:
            check_named(self.backend, bucket, left, since, early=seen is not None)
        return difference

    def release(self, bucket: str, gone: Sequence[Entry]) -> Difference:
        """Delete *gone*, which `replace` held back. A key that is another object by now is left
        alone."""
        now, exact = self.backend.seq(bucket), self.backend.exact
        keys = [entry.key for entry in gone if exact.get(bucket, entry.key) == entry]
        with self.backend.finding():
            left = self._apply(bucket, (), keys, now)
        difference = Difference([], [], [key for key in keys if key not in left], 0)
        self._tell(bucket, difference)
        return difference

    def _tell(self, bucket: str, difference: Difference) -> None:
        if difference.added or difference.changed or difference.deleted:
            self.announce(bucket, difference)

    # Scopes

    def complete(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        """Record that *scope* was listed to its end. If the listing began before the store lost
        something, that may include what was merged first: then the scope is not complete. Raises
        LogTrimmed if the bucket was dropped after number *since*, which was read before."""
        since_s = boot_s() - self._renewed_s
        if time.time_ns() - scope.listed_ns > since_s * NS:
            return
        self.backend.mark(bucket, scope, since)
        if bucket in self._doubted and scope.deep and not scope.prefix:
            self._doubted -= {bucket}
            self.backend.set_note(bucket, DOUBTED, None)

    def uncover(self, bucket: str, prefix: str) -> None:
        """Make uncertain what is at and below *prefix*; if nothing is known there, also that there
        is nothing."""
        self.backend.unmark(bucket, prefix)
        self.generation = next(self._generations)

    # Listeners

    def subscribe(self, listener: Listener) -> None:
        """Call *listener* after every merge and repair, and every change that following.py tells
        of."""
        with self._lock:
            self._listeners.append(listener)

    def announce(self, bucket: str, difference: Difference | None) -> None:
        """Tell the listeners what changed in *bucket*; None: anything may have."""
        self.generation = next(self._generations)
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(bucket, difference)
