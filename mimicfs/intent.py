"""The changes that this process makes at S3, recorded in its store before and after
(backends/pending.py).

A thread of its own looks after intents that are left undone, by this process or by others: it asks
S3, which may take long, and the beats of the session (member.py) must not wait for that.

Threading: an intent belongs to the call that made it; `StoreIntents` may be used by any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mimicfs.backends import Backend
from mimicfs.backends.pending import DELETION, LEARNED, Begun, IntentStep, Unsettled
from mimicfs.errors import StoreError
from mimicfs.member import Member

if TYPE_CHECKING:
    from mimicfs.stragglers import Stragglers

log = logging.getLogger(__name__)

Resolve = Callable[[str, str], None]  # (bucket, key): asks S3 what it has, and settles the key
LASTS_MS = 300_000  # longer than all attempts of a request together
_WAITED_MS = 2_000  # S3 is asked about a key that is pending for so long
_AGAIN_S, _AGAIN_MAX_S = 2.0, 300.0  # and again after so long, each time twice as long
_LATE_MAX = 1_000  # calls that the store refused, though it may have begun them
_ALONE = "alone "  # the notes of turns
_TURN_S = 60.0  # how long to wait for a turn
_GLANCE_S = 0.01
_ASKED_MAX = 10_000  # keys for which the time of the last question is remembered

# The intent whose result the call in this context learns.
_current: ContextVar[StoreIntent | None] = ContextVar("mimicfs_intent", default=None)
# The intent that the next call in this context goes on with.
_given: ContextVar[StoreIntent | None] = ContextVar("mimicfs_given_intent", default=None)


class StoreIntent:
    """One call that changes *keys* of *bucket*."""

    def __init__(self, bucket: str, keys: Sequence[str], token: str) -> None:
        self.bucket, self.keys, self.token = bucket, list(keys), token
        self.open = set(keys)  # keys whose result is not known yet
        self.contended: set[str] = set()
        self.taken = False  # by a call to which it was given
        self.unsure = False  # S3 may have done it, although it has refused it later
        self._whole: StoreIntent | None = None  # which is held as long as a part of it

    def part(self, keys: Sequence[str]) -> StoreIntent:
        """Return the part of it that is about *keys*, which ends apart from the rest."""
        found = StoreIntent(self.bucket, keys, self.token)
        found.open &= self.open
        found._whole = self
        return found

    @contextmanager
    def given(self) -> Iterator[None]:
        """Within, a call about its keys goes on with it, and does not begin another one. The giver
        ends it, if no call has `taken` it."""
        before = _given.set(self)
        try:
            yield
        finally:
            _given.reset(before)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within, what is written to the mirror about its keys is its result."""
        before = _current.get()
        _current.set(self)
        try:
            yield
        finally:
            _current.set(before)


class StoreIntents:
    """The intents of this process, as *member* of *backend*."""

    def __init__(self, backend: Backend, member: Member) -> None:
        self.resolve: Resolve | None = None  # the newest client's (learning.py)
        self._backend, self._member = backend, member
        self._numbers = count(1)
        # By token: those that a call of this process has in hand.
        self._held = WeakValueDictionary[str, StoreIntent]()
        self._due = threading.Event()  # there may be something to look after
        self._over = False
        self._everywhere = True  # also in buckets that neither we nor the dead have changed
        # held by the one thread that looks after them; taken before `_lock`
        self._looking = threading.Lock()
        self._lock = threading.Lock()  # protects all below
        self._thread: threading.Thread | None = None
        self._buckets: dict[str, float] = {}  # ours, and when each was changed last
        self._late: list[StoreIntent] = []  # the store did not take their results
        # By key: when to ask S3 about it again, and how much later the next time.
        self._asked: dict[tuple[str, str], tuple[float, float]] = {}
        # (bucket, key) of our changes whose result only S3 knows.
        self._unsure: set[tuple[str, str]] = set()
        self._contended = self._resolved = 0
        self._awaited: Stragglers | None = None

    def inherit(self, before: StoreIntents) -> None:
        """Go on where *before* was when its process was forked: what that has begun, it ends."""
        self.resolve = before.resolve
        self._unsure = set(before._unsure)

    @property
    def _stragglers(self) -> Stragglers:
        from mimicfs.stragglers import Stragglers  # a command that only looks needs none

        with self._lock:
            if self._awaited is None:
                self._awaited = Stragglers()
            return self._awaited

    @property
    def are_kept(self) -> bool:
        """Whether the store has them."""
        return self._backend.intents

    def figures(self) -> dict[str, int]:
        """Return the figures of a mount about its intents: contended keys of its calls, keys that
        it settled by asking S3, and calls whose result the store does not have yet."""
        return {
            "contended": self._contended,
            "resolved": self._resolved,
            "untold": len(self._late),
        }

    def settled(self, bucket: str, key: str) -> None:
        """Note that an answer of S3 has settled a key."""
        with self._lock:
            self._resolved += 1
            self._unsure.discard((bucket, key))

    def found(self, intent: StoreIntent, keys: Collection[str]) -> None:
        """Note that *keys* of *intent* are contended."""
        intent.contended.update(keys)
        with self._lock:
            self._contended += len(keys)
            self._unsure.update((intent.bucket, key) for key in keys)

    def is_unsure(self, bucket: str, key: str) -> bool:
        """Whether S3 may have something else at *key* than the mirror, since a call of ours."""
        place = (bucket, key)
        if place not in self._unsure:
            return False
        if self._backend.unsettled(bucket, key):
            return True
        with self._lock:
            self._unsure.discard(place)  # others have settled it
        return False

    def any_unsure(self, bucket: str, prefix: str) -> bool:
        """Whether the same holds for any key that begins with *prefix*."""
        if not self._unsure:
            return False
        with self._lock:
            keys = [key for its, key in self._unsure if its == bucket and key.startswith(prefix)]
        return any(self.is_unsure(bucket, key) for key in keys)

    def unsettled(self, bucket: str, key: str) -> list[Unsettled]:
        """Return the intents of all writers that are pending or contended for *key*."""
        return self._backend.unsettled(bucket, key)

    def all_unsettled(self, bucket: str) -> list[Unsettled]:
        """Return the same of all keys of *bucket*."""
        return self._backend.unsettled(bucket)

    def is_settled(self, bucket: str, name: str) -> bool:
        """Whether the key *name*, and all keys below it, have no pending or contended intent."""
        if not self._backend.intents:
            return True
        rows = self._backend.unsettled(bucket, None if name.endswith("/") else name)
        return not any(row.key.startswith(name) for row in rows)

    def begin(self, bucket: str, keys: Sequence[str], *, deletes: bool = False) -> StoreIntent:
        """Tell the store that *keys* are about to be changed, or deleted; return the intent. Raises
        StoreError; then none of them may be."""
        given = _given.get()
        if given is not None and (given.bucket, given.keys) == (bucket, list(keys)):
            _given.set(None)
            given.taken = True
            return given
        intent = self._intent(bucket, keys, deletes=deletes)
        if self._backend.intents:
            with self._beginning(intent):
                self._backend.begin(bucket, intent.keys, intent.token, LASTS_MS)
        else:
            intent.open.clear()
        return intent

    def begin_seeing(
        self, bucket: str, key: str, note: str, most: int, *, deletes: bool
    ) -> tuple[StoreIntent, Begun]:
        """As `begin` of *key*, which is for a call within `StoreIntent.given`; return also what the
        store has then, as Backend.begin_seeing. Only if intents `are_kept`."""
        intent = self._intent(bucket, [key], deletes=deletes)
        with self._beginning(intent):
            begun = self._backend.begin_seeing(bucket, key, intent.token, LASTS_MS, note, most)
        return intent, begun

    def _intent(self, bucket: str, keys: Sequence[str], *, deletes: bool) -> StoreIntent:
        end = DELETION if deletes else ""
        intent = StoreIntent(bucket, keys, f"{self._member.id}:{next(self._numbers)}{end}")
        self._held[intent.token] = intent
        return intent

    @contextmanager
    def _beginning(self, intent: StoreIntent) -> Iterator[None]:
        self._watch(intent.bucket)
        try:
            yield
        except StoreError:
            # the store may have it: at the latest its deadline ends it
            if len(self._late) < _LATE_MAX:
                self.keep(intent)
            raise

    def give_up(self, intent: StoreIntent) -> None:
        """End *intent* unless a call has taken it: S3 was not asked. Raises StoreError."""
        if intent.taken:
            return
        try:
            self.end(intent, unsure=False)
        except StoreError:
            self.keep(intent)
            raise

    @contextmanager
    def unknown(self, bucket: str, key: str) -> Iterator[None]:
        """Within, *key* may be forgotten, which is the result of no call: it is unsettled from then
        on, until S3 has said what it has. Raises StoreError."""
        intent = self.begin(bucket, [key])
        try:
            with StoreIntent("", (), "").learning():
                yield
        finally:
            self.end(intent, unsure=True)
        self.look_soon()

    @contextmanager
    def alone(self, bucket: str, key: str, lasts_ms: int) -> Iterator[None]:
        """Within, no other mount or program of the store that asks for this changes *key*; for
        *lasts_ms* at most, as a process may die. Raises StoreError."""
        if not self._backend.intents:
            yield
            return
        import hashlib  # which loads OpenSSL

        name = _ALONE + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        mine = self._turn(bucket, name, lasts_ms)
        if not mine:
            about = "others' change of it takes longer than expected; this one does not wait for it"
            log.warning("s3://%s/%s: %s", bucket, key, about)
        try:
            yield
        finally:
            if mine:
                try:
                    self._backend.swap_note(bucket, name, mine, None, tell=False)
                except StoreError as exc:
                    log.debug("s3://%s/%s: the turn ends by itself: %s", bucket, key, exc)

    def _turn(self, bucket: str, name: str, lasts_ms: int) -> str:
        """Wait for the turn *name*; return what is noted of it, "" if it did not come in time."""
        began_s = seen_s = time.monotonic()
        before: str | None = None
        seen: str | None = None
        while True:
            now_ms = self._backend.now_ms()
            mine = f"{now_ms + lasts_ms} {lasts_ms} {self._member.id}:{next(self._numbers)}"
            done, there = self._backend.swap_note(bucket, name, before, mine, tell=False)
            if done or there == mine:  # a client of Redis asks again if an answer is lost
                return mine
            if there != seen:
                seen, seen_s = there, time.monotonic()
            is_over = _is_over(there, now_ms, time.monotonic() - seen_s)
            before = there if is_over else None
            if is_over:
                continue
            if time.monotonic() > began_s + _TURN_S:
                return ""
            time.sleep(_GLANCE_S)

    def _watch(self, bucket: str) -> None:
        """Look after *bucket* from now on; if we die, others do so."""
        if bucket not in self._buckets and not self._backend.private:
            self._member.changes_in({*self._buckets, bucket})
        with self._lock:
            self._buckets[bucket] = time.monotonic()

    def made_since(self, bucket: str, since: int) -> tuple[bool, int]:
        """Return whether this process has made all changes of *bucket* after number *since* (and
        not only found them in S3), and the number of the last one. Raises LogTrimmed."""
        store, ours = self._backend.exact, self._backend.origin
        while changes := store.changes(bucket, since):
            if any(change.origin != ours for change in changes):
                return False, since
            since = changes[-1].seq
        return True, since

    def end(self, intent: StoreIntent, *, unsure: bool) -> None:
        """End the keys whose result was not told: nothing was changed, or nobody knows."""
        keys, intent.open = sorted(intent.open), set()
        if keys:
            unsure = unsure or intent.unsure
            found = self._backend.end(intent.bucket, keys, intent.token, unsure=unsure)
            self.found(intent, found)

    def expect(self, intent: StoreIntent) -> None:
        """Have S3 asked about the keys of *intent* again: it may do what it has not answered."""
        if self._backend.intents and intent.keys:
            self._stragglers.expect(intent.bucket, intent.keys)
            self.look_soon()

    def spare(self, bucket: str, keys: Collection[str]) -> None:
        """Note that S3 has at *keys* what the mirror has: it refused to change them, or was asked
        since. The keys of the intent of this context end."""
        intent = _current.get()
        if intent is None or intent.bucket != bucket:
            return
        ended = sorted(intent.open.intersection(keys))
        if ended:
            intent.open.difference_update(ended)
            self.found(intent, self._backend.end(bucket, ended, intent.token, unsure=False))

    def keep(self, intent: StoreIntent) -> None:
        """Keep *intent*, whose result the store did not take, and tell it once it is back."""
        if not self._backend.intents or not intent.keys:
            return
        intent.open = set(intent.keys)
        with self._lock:
            self._late.append(intent)
            self._unsure.update((intent.bucket, key) for key in intent.keys)

    def step_of(self, bucket: str, keys: Sequence[str]) -> tuple[StoreIntent | None, IntentStep]:
        """Return the step that a change of *keys* is, and its intent."""
        intent = _current.get()
        if intent is None or intent.bucket != bucket or not intent.open.issuperset(keys):
            return None, LEARNED
        return intent, IntentStep(intent.token)

    # What was left undone

    def look_everywhere(self) -> None:
        """Look in all buckets: the store is not what it was, and may show intents that were undone
        long ago."""
        self._everywhere = True

    def look_soon(self) -> None:
        """Have a thread of ours look after what was left undone."""
        with self._lock:
            if self._thread is None and not self._over and self._backend.intents:
                self._thread = threading.Thread(target=self._run, name="intents", daemon=True)
                self._thread.start()
        self._due.set()

    def close(self) -> None:
        with self._lock:
            self._over = True
            thread = self._thread
        self._due.set()
        if thread is not None:
            thread.join(5)

    def _run(self) -> None:
        again_s: float | None = None
        while not self._over:
            self._due.wait(again_s)
            if self._over:
                return
            self._due.clear()
            self._look()
            # A store that nobody shares has no session, whose beats would come here again.
            undone = self._backend.private and (self._stragglers or self._is_undone())
            again_s = _AGAIN_S if undone else None

    def _look(self) -> None:
        try:
            self.look_after()
        except StoreError as exc:  # the member reports it, and the next beat comes here again
            log.debug("unfinished changes must wait: %s", exc)
        except Exception:  # the next beat comes here again
            log.exception("completing unfinished changes failed")

    def _is_undone(self) -> bool:
        """Whether something is left undone, or nobody knows, because the store does not answer."""
        try:
            return any(self._backend.unsettled(bucket) for bucket in self._ours())
        except StoreError:
            return True

    def look_after(self) -> None:
        """Finish what was left undone, by us or by others. Raises StoreError."""
        with self._looking:
            self._look_after_all()

    def _look_after_all(self) -> None:
        self._end_late()
        for bucket, key in self._stragglers.due():
            self.end(self.begin(bucket, [key]), unsure=True)  # S3 is asked about it below
        members = self._member.others()
        others = {each.id for each in members if each.alive} - {self._member.id}
        buckets = {name for each in members if not each.alive for name in each.buckets}
        if self._everywhere:
            buckets |= {bucket.name for bucket in self._backend.buckets()}
        for bucket in sorted(buckets | self._ours()):
            self._look_after(bucket, others)
        self._everywhere = False

    def _end_late(self) -> None:
        with self._lock:
            late, self._late = self._late, []
        for n, intent in enumerate(late):
            try:
                self.end(intent, unsure=True)
            except StoreError:
                intent.open = set(intent.keys)
                with self._lock:
                    self._late += late[n:]
                raise

    def _ours(self) -> set[str]:
        """Return the buckets in which we may have left something undone."""
        with self._lock:
            return set(self._buckets)

    def _let_go(self, bucket: str) -> None:
        """Note that nothing is left undone in *bucket*. Unless it was changed lately, stop looking
        after it."""
        long_ago = time.monotonic() - 2 * LASTS_MS / 1000
        with self._lock:
            if self._buckets.get(bucket, long_ago) < long_ago:
                del self._buckets[bucket]

    def _look_after(self, bucket: str, others: Collection[str]) -> None:
        """Finish what was left undone in *bucket*. *others* are the sessions that live, without
        ours: of what is ours, nothing is under way but what a call has in hand. (A store that has
        lost its latest changes may have an intent again that has ended.)"""

        def lives(token: str) -> bool:
            return token in self._held or token.partition(":")[0] in others

        rows = self._unsettled_of(bucket)
        if not rows:
            self._let_go(bucket)
            return
        with self._lock:
            self._buckets.setdefault(bucket, time.monotonic())
        reaped = self._backend.reap(bucket, lives)
        if reaped:
            self._stragglers.expect(bucket, reaped)
        for each in self._backend.unsettled(bucket):
            if self.resolve is not None and self._is_due(bucket, each) and not self._over:
                self.resolve(bucket, each.key)
        if self._asked:
            self._unsettled_of(bucket)

    def _unsettled_of(self, bucket: str) -> list[Unsettled]:
        """Return what is unsettled in *bucket*. All other keys are settled: if one becomes
        unsettled again, S3 is asked about it at once."""
        rows = self._backend.unsettled(bucket)
        if self._asked:
            left = {row.key for row in rows}
            over = [key for its, key in self._asked if its == bucket and key not in left]
            for key in over:
                del self._asked[bucket, key]
        return rows

    def _is_due(self, bucket: str, row: Unsettled) -> bool:
        now, place = time.monotonic(), (bucket, row.key)
        due, later = self._asked.get(place, (now, _AGAIN_S))
        # An age below 0: the clock of the store was set back, and says nothing.
        if now < due or (row.pending and 0 <= row.age_ms < _WAITED_MS):
            return False
        if len(self._asked) > _ASKED_MAX:
            self._asked.clear()
        self._asked[place] = now + later, min(2 * later, _AGAIN_MAX_S)
        return True


def _is_over(turn: str | None, now_ms: int, seen_s: float) -> bool:
    """Whether *turn*, which somebody has noted, is over at *now_ms* by the store's clock, or was
    seen for *seen_s*, longer than it lasts: the clock may have been set back."""
    ends, _, rest = (turn or "").partition(" ")
    lasts = rest.partition(" ")[0]
    if not (ends.isdecimal() and lasts.isdecimal()):
        return True
    return int(ends) < now_ms or int(lasts) < seen_s * 1000
