"""The lease of a mount on its locks: since when they are certain, and what becomes of them after
the store may have lost something.

A lease is a number. A new one begins whenever others may have taken locks: after a silence of
UNSURE_S, and when a new epoch of the store begins (backends/sessions.py). After a new epoch all
mounts have RECLAIM_S to say again what they hold; meanwhile no owner gets a lock that it did not
hold.

A mount whose session lived when the epoch began knows that nobody else can have what it held,
whatever the store says now: it *reclaims* that. A mount that was silent for longer does not know;
after RECLAIM_S it holds what the store still has of it. A silent session is dead after the same
time, so by then no mount relies on what it knew in the epoch before.

Threading: any thread; `_lock` is held while the store says in which epoch it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mimicfs.backends import Backend
from mimicfs.backends.sessions import began_ms, epoch
from mimicfs.entry import StoreSaid
from mimicfs.errors import StoreUnavailable
from mimicfs.member import LASTS_MS, Member

RECLAIM_S = LASTS_MS / 1000
UNSURE_S = RECLAIM_S - 1.0  # clocks run at rates that differ a little
_SETTLES_S = 2.0  # how long somebody waits for the store to answer again


class LockLease:
    """The lease of *member* on *store*. *clock* goes on while the mount is stopped."""

    def __init__(self, store: Backend, member: Member, clock: Callable[[], float]) -> None:
        self.number = 0
        self.epoch = ""  # of the store; "": not known yet
        self._store = store
        self._member = member
        self._clock = clock
        self._beaten = threading.Condition()
        self._beat_s = member.beat_s
        self._lock = threading.Lock()  # protects `epoch` and all below
        self._first = 0  # the first lease of this epoch
        # earlier leases all of whose locks were still ours when this epoch began
        self._ours: set[int] = set()
        self._reclaims_until_s = self._grants_from_s = 0.0  # by `clock`

    def beaten(self) -> None:
        """Note that the store has taken the latest beat of the session. Raises StoreError."""
        now_s, before = self._member.beat_s, self.epoch
        if self._member.epoch != before:
            self.look()
        if not self._is_sure() and self.epoch == before:
            with self._lock:
                self.number += 1
        with self._beaten:
            self._beat_s = now_s
            self._beaten.notify_all()

    def be_sure(self) -> None:
        """Wait a moment until the lease is certain. Raises StoreUnavailable."""
        with self._beaten:
            if not self._is_sure() and (
                self._member.away or not self._beaten.wait_for(self._is_sure, _SETTLES_S)
            ):
                raise StoreUnavailable("the store has not answered: no lock is certain")

    def _is_sure(self) -> bool:
        return self._clock() - self._beat_s < UNSURE_S

    # The epoch

    def look(self, said: StoreSaid | None = None) -> None:
        """See whether the store is in another epoch. *said* is what it has just said of itself, if
        it has. Raises StoreError."""
        if epoch(self._store, said) == self.epoch:
            return
        with self._lock:
            known = epoch(self._store)  # another thread may have seen a later one meanwhile
            if known != self.epoch:
                self._begin(known)

    def _begin(self, known: str) -> None:
        asked_s, now_ms, told_s = self._clock(), self._store.now_ms(), self._clock()
        passed_s = max(0.0, (now_ms - began_ms(known)) / 1000)
        left_s = max(0.0, RECLAIM_S - passed_s)
        if self.epoch:
            lived = told_s - passed_s - self._beat_s < UNSURE_S
            unsettled = self._ours if told_s < self._grants_from_s else set()
            self._ours = {*unsettled, self.number} if lived else set()
            self.number += 1
            self._first = self.number
        self._reclaims_until_s = asked_s + left_s
        self._grants_from_s = told_s + left_s
        self.epoch = known

    @property
    def wait_s(self) -> float:
        """For how long from now no owner gets a lock that it did not hold when the epoch began."""
        return max(0.0, self._grants_from_s - self._clock())

    def was_ours(self, number: int) -> bool:
        """Whether what was held in the lease *number* was still ours when the epoch began."""
        return number in self._ours

    def reclaims(self, number: int) -> bool:
        """Whether what was held in the lease *number* is still ours, whatever the store says
        now."""
        return number in self._ours and self._clock() < self._reclaims_until_s

    def is_early(self, number: int) -> bool:
        """Whether others may still reclaim what was held in the lease *number*."""
        earlier = number < self._first and not self.reclaims(number)
        return bool(earlier and self.wait_s)
