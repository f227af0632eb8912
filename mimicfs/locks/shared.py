"""File locks in the store: all mounts that share it exclude each other.

The locks of a file are a row (rows.py), noted beside LOCKS under the file's name; each change of a
row compares it with what it was and replaces it in one step (`Backend.swap_note`). A waiting caller
is in the row, too: then a caller that lets go of something adds a line to the log of LOCKS, which
wakes those that wait.

The lease. A lock is its mount's as long as the session lives (member.py). A session that is silent
for member.LASTS_MS by the store's clock may lose its locks to callers that want them. So a mount
that was silent for UNSURE_S relies on no lock until the store answers. Then a new lease begins.
Before the mount relies on the locks of a file again, it gives the row another generation, so that
no mount takes a lock by what it saw before; or it finds that the locks were taken. It does so at
the next use of the file, or with one of the next beats, each of which spends up to _SPENDS_S.
Without such a silence nobody can have taken a lock, and a beat of the session costs nothing,
however many locks are held. Where the store may have lost something, there is another epoch, and a
new lease, too (lease.py). A caller that was given a lock looks whether the epoch is still the one
in which it asked. If not, it has no lock, and asks again.
A lock that was taken is *lost*: its owner gets no other lock of that file (EIO) until it has let go
of all of them, and `when_lost` is called.

    free     lock                                 -> held
    held     unlock, close                        -> free
    held     UNSURE_S without the store           -> unsure   (still ours unless somebody took it)
    held     another epoch, in which we lived on  -> held     (reclaimed, whatever the row has)
    held     another epoch, we were silent before -> unsure   (until the others have reclaimed)
    unsure   a new lease, the row has it          -> held
    unsure   a new lease, the row lacks it        -> lost
    lost     unlock of all, close                 -> free

INVARIANT: a row has all locks that this mount holds of a file (`LockedFile.valid`), unless somebody
took them, or the store lost them. Where an answer of the store was lost, it may have more of ours;
then the file is owed (settling.py), and the surplus is given up once the store answers.

Threading: any thread. `LockedFile.turn` is held while the store is asked about that file; `_lock`
protects the table and is held for a few instructions.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress

from mimicfs.backends import Backend
from mimicfs.errors import PosixError, StoreError, StoreUnavailable
from mimicfs.locks.lease import LockLease
from mimicfs.locks.listener import LockListener
from mimicfs.locks.lockedfile import LockedFile, less
from mimicfs.locks.rows import (
    END,
    Lock,
    LockRow,
    against,
    is_covered,
    is_deadlock,
    joined,
    left,
    of,
    removed,
    within,
    without,
)
from mimicfs.locks.settling import LockRows
from mimicfs.locks.sweeping import LOCKS, dead, forget_waiters, living_rows, rows
from mimicfs.member import Member, boot_s
from mimicfs.posix import Cancellation

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between two looks whether the owners in the way are alive, or wait for us
_TOGETHER = 100  # rows that are renewed in one round trip
_SPENDS_S = 1.0  # how long a beat looks at rows: the next beat must come in time


class SharedLocks:
    """The locks of *member*, a mount, in *store*."""

    def __init__(self, store: Backend, member: Member, clock: Callable[[], float] = boot_s) -> None:
        self._store = store
        self._member = member
        self.when_lost: Callable[[str], None] = lambda _: None  # with the name of a file
        self._lock = threading.Lock()  # protects the table below
        self._files: dict[str, LockedFile] = {}
        self._lease = LockLease(store, member, clock)
        self._rows = LockRows(store, member.id, self._lease, self._lost)
        self._looked_in = ""  # the epoch in which all rows were looked at
        self._swept: frozenset[str] = frozenset()  # dead sessions, for whom nobody waits
        self._listener = LockListener(store, LOCKS, LOOK_S, self._is_waited, self._heard)

    # What a mount asks

    def owner(self, number: int) -> str:
        return f"{self._member.id}:{number:x}"

    def open_file(self, handle: int) -> str:
        """Return the owner of what is locked by flock(2) through *handle*."""
        return f"{self._member.id}:h{handle:x}"

    def is_own(self, lock: Lock) -> bool:
        return lock.session == self._member.id

    def lock(
        self,
        name: str,
        wanted: Lock,
        cancellation: Cancellation,
        *,
        wait: bool,
        others_s: float = 0.0,
    ) -> tuple[Lock, ...]:
        """Grant *wanted* to its owner; return what the owner had there before. If that was more,
        the owner still has it: `leave` gives it up. *others_s* is how long to wait even without
        *wait* where only other mounts are in the way. Raises PosixError EAGAIN where others have
        the lock, without *wait*; EDEADLK where they wait for this owner; EIO for an owner that has
        lost a lock of this file; Interrupted; StoreError."""
        with self._used(name) as at:
            before = self._attempt(at, wanted, cancellation)
            if before is None and wait:
                before = self._wait(at, wanted, cancellation, math.inf)
            elif before is None and others_s and self._is_elsewhere(at, wanted):
                before = self._wait(at, wanted, cancellation, others_s)
            if before is None:
                raise PosixError(errno.EAGAIN, f"{name}: locked")
            return before

    def _is_elsewhere(self, at: LockedFile, wanted: Lock) -> bool:
        """Whether only other mounts had locks against *wanted* a moment ago."""
        with at.turn:
            found = against(at.row.held, wanted)
        return not of(found, self._member.id)

    def unlock(self, name: str, owner: str, *, flock: bool, start: int = 0, end: int = END) -> None:
        """Release what *owner* has from *start* to *end*. Raises StoreError; then the store hears
        of the release as soon as it answers again."""
        self.leave(name, Lock(owner, flock, False, start, end, 0), ())

    def leave(self, name: str, gone: Lock, kept: tuple[Lock, ...]) -> None:
        """Leave its owner only *kept* within the range of *gone*. Raises StoreError, as `unlock`
        does."""
        with self._used(name) as at, at.turn:
            before, at.held = at.held, left(at.held, gone, kept)
            if set(at.held) == set(before):
                return
            if gone.owner in at.lost and not any(each.owner == gone.owner for each in at.held):
                at.lost.discard(gone.owner)
            try:
                self._rows.settle(at)
            finally:
                self._wake(at)

    def standing(self, name: str, wanted: Lock) -> Lock | None:
        """Return a lock that conflicts with *wanted*, if there is one. Raises StoreError."""
        with self._used(name) as at, at.turn:
            row = self._rows.seen(at)
            found = against(row.held, wanted)
            gone = dead(self._store, found, self._member.id)
            return next((each for each in found if each.session not in gone), None)

    def holds(self, name: str, owner: str | None = None) -> bool:
        """Whether this mount has, or has lost, a lock of the file (of *owner*, if that is
        given)."""
        at = self._files.get(name)
        return at is not None and any(owner in (None, each.owner) for each in at.held)

    def check(self, name: str) -> None:
        """Return if all locks that this mount has of the file are certain. Raises PosixError EIO,
        StoreError."""
        if not self.holds(name):
            return
        with self._used(name) as at:
            self._lease.be_sure()
            with at.turn:
                self._renew(at)
                self._rows.seen(at)
                self._renew(at)  # there may be another epoch
                if at.lost:
                    raise self._is_lost(at)

    def close(self) -> None:
        """Let go of everything."""
        self._listener.close()
        for at in list(self._files.values()):
            with at.turn:
                at.held, at.waiting = (), []
                try:
                    self._rows.settle(at)
                except StoreError as exc:  # the locks end with the session
                    log.debug("%s: %s", at.name, exc)

    def _lost(self, name: str) -> None:
        self.when_lost(name)

    def figures(self) -> dict[str, int]:
        files = list(self._files.values())
        return {
            "held": sum(len(each.held) for each in files),
            "waiting": sum(len(each.waiting) for each in files),
            "lost": sum(len(each.lost) for each in files),
        }

    # The lease

    def beaten(self) -> None:
        """Note that the store has taken the latest beat of the session. Raises StoreError."""
        until_s = time.monotonic() + _SPENDS_S
        self._lease.beaten()
        self._renew_all(until_s)
        if self._lease.epoch != self._looked_in:
            self._look_everywhere()
            self._looked_in = self._lease.epoch
        if not self._member.dead <= self._swept:
            forget_waiters(self._store, self._member.id)
        self._swept = self._member.dead
        self._pay(until_s)

    def _renew_all(self, until_s: float) -> None:
        due = [at for at in self._kept() if self._is_due(at)]
        while due:
            group, due = due[:_TOGETHER], due[_TOGETHER:]
            self._renew_together(group)
            if time.monotonic() >= until_s:
                return

    def _is_due(self, at: LockedFile) -> bool:
        return at.lease != self._lease.number and not self._lease.is_early(at.lease)

    def _renew_together(self, files: list[LockedFile]) -> None:
        """Renew *files*: those that nobody uses now at once, the others one after the other."""
        with ExitStack() as stack:
            free = [at for at in files if at.turn.acquire(blocking=False)]
            for at in free:
                stack.callback(at.turn.release)
            lease, due = self._lease.number, [at for at in free if at.held and self._is_due(at)]
            self._rows.settle_all(due)
            for at in due:
                at.lease = lease
        for at in files:
            if self._is_due(at):
                with at.turn:
                    self._renew(at)

    def _renew(self, at: LockedFile) -> None:
        """Give the row another generation, or find that our locks were taken: before this lease
        others may have taken them, or been about to. Raises StoreError."""
        lease = self._lease.number
        if at.lease != lease:
            if at.held and self._lease.is_early(at.lease):
                raise StoreUnavailable("the store has lost something: others say what they hold")
            if at.held:
                self._rows.settle(at, anew=True)
            at.lease = lease

    def _kept(self) -> list[LockedFile]:
        with self._lock:
            return [each for each in self._files.values() if each.held]

    def _look_everywhere(self) -> None:
        """Look at all rows: the store may again have locks that were given up. Locks that are held
        are renewed in any case."""
        held = {at.name for at in self._kept()}
        for name, row in rows(self._store).items():
            if name not in held and of((*row.held, *row.waiting), self._member.id):
                self._rows.owe(name)
        forget_waiters(self._store, self._member.id)

    def _pay(self, until_s: float) -> None:
        """Give up in the store the locks that are no longer held. Raises StoreError."""
        while time.monotonic() < until_s and (name := self._rows.owed()) is not None:
            try:
                with self._used(name) as at, at.turn:
                    self._rows.seen(at)
                    self._rows.settle(at)
            except StoreError:
                self._rows.owe(name)
                raise

    # One step

    def _attempt(
        self, at: LockedFile, wanted: Lock, cancellation: Cancellation, *, look: bool = True
    ) -> tuple[Lock, ...] | None:
        """Grant *wanted* to its owner; return what the owner had there before, or None where
        another lock is in the way. *look*: see whether the owners of that are alive."""
        while True:
            self._lease.be_sure()
            self._be_settled(at, wanted, cancellation)
            with at.turn:
                self._renew(at)
                known, waiting = self._lease.epoch, list(at.waiting)
                before = self._tried(at, wanted, look=look)
                if before is None or self._is_still(known, at, wanted, before):
                    return before
                at.waiting = waiting

    def _be_settled(self, at: LockedFile, wanted: Lock, cancellation: Cancellation) -> None:
        """Wait until all mounts have said what they hold, unless the owner of *wanted* held as much
        before. Raises Interrupted, StoreError."""
        if not self._lease.epoch:
            self._lease.look()
        while not is_covered(wanted, within(at.held, wanted)) and (wait_s := self._lease.wait_s):
            with suppress(TimeoutError):
                cancellation.wait(Future[None](), wait_s)
            self._lease.be_sure()

    def _is_still(self, known: str, at: LockedFile, wanted: Lock, before: tuple[Lock, ...]) -> bool:
        """Whether the store is still in the epoch *known*. If it is not, or does not say, the owner
        of *wanted* is left with what it had *before*. Raises StoreError."""
        try:
            self._lease.look(at.said)
        except StoreError:
            at.held = left(at.held, wanted, before)
            self._rows.owe(at.name)
            raise
        if self._lease.epoch == known:
            return True
        at.held = left(at.held, wanted, before)
        self._rows.settle(at)
        return False

    def _tried(self, at: LockedFile, wanted: Lock, *, look: bool) -> tuple[Lock, ...] | None:
        row = at.ours(at.row, self._member.id)
        if against(row.held, wanted):  # as it was a moment ago
            row = self._rows.seen(at)
        while True:
            if wanted.owner in at.lost:
                raise self._is_lost(at)
            if look:
                stands = against(row.held, wanted)
                row = without(row, dead(self._store, stands, self._member.id))
            before, granted = within(at.held, wanted), not against(row.held, wanted)
            if self._change(at, row, wanted, granted=granted):
                return before if granted else None
            row = self._rows.taken_note_of(at)

    def _change(self, at: LockedFile, row: LockRow, wanted: Lock, *, granted: bool) -> bool:
        """Write into the row whether *wanted* was granted; return False if others have changed the
        row."""
        held, waiting = at.held, at.waiting
        if granted:
            at.held, at.waiting = joined(held, wanted), less(waiting, wanted)
        elif wanted.flock:  # as in Linux: a lock that is to be converted is given up first
            at.held = removed(held, wanted)
        try:
            done = self._rows.swap(at, row, asks=granted)
        except StoreError:
            self._rows.owe(at.name)
            if granted:
                at.held, at.waiting = held, waiting
            raise
        if not done:
            at.held, at.waiting = held, waiting
        return done

    def _is_lost(self, at: LockedFile) -> PosixError:
        return PosixError(errno.EIO, f"{at.name}: its lock is lost; close the file")

    @contextmanager
    def _used(self, name: str) -> Iterator[LockedFile]:
        with self._lock:
            at = self._files.get(name)
            if at is None:
                at = self._files[name] = LockedFile(name, self._lease.number)
            at.users += 1
        try:
            yield at
        finally:
            with self._lock:
                at.users -= 1
                if at.idle:
                    self._files.pop(name, None)

    # Waiting

    def _wait(
        self, at: LockedFile, wanted: Lock, cancellation: Cancellation, most_s: float
    ) -> tuple[Lock, ...] | None:
        """Wait for the lock, at most *most_s*; return None if that was not enough."""
        end_s = time.monotonic() + most_s
        self._listener.begin()
        with at.turn:
            at.waiting = [*at.waiting, wanted]
        self._listener.look()
        before: tuple[Lock, ...] | None = None
        try:
            look_s = 0.0  # when to look again at the owners in the way
            while before is None and time.monotonic() < end_s:
                look = time.monotonic() >= look_s
                look_s = time.monotonic() + LOOK_S if look else look_s
                before = self._wait_once(at, wanted, cancellation, look, min(look_s, end_s))
            return before
        finally:
            if before is None:
                # Another thread does this: an interrupted caller is told at once, even where the
                # store is silent.
                threading.Thread(target=self._unmark, args=(at.name, wanted), daemon=True).start()

    def _wait_once(
        self, at: LockedFile, wanted: Lock, cancellation: Cancellation, look: bool, until_s: float
    ) -> tuple[Lock, ...] | None:
        wake = Future[None]()
        with self._lock:
            at.wakes.append(wake)
        try:
            before = self._attempt(at, wanted, cancellation, look=look)
            if before is not None:
                return before
            if look and not wanted.flock:
                self._check_deadlock(wanted.owner)
            cancellation.wait(wake, max(0.0, until_s - time.monotonic()))
        except TimeoutError:
            pass
        finally:
            with self._lock:
                if wake in at.wakes:
                    at.wakes.remove(wake)
        return None

    def _unmark(self, name: str, wanted: Lock) -> None:
        """Take *wanted* from those that the row says are waited for."""
        with self._used(name) as at, at.turn:
            at.waiting = less(at.waiting, wanted)
            try:
                self._rows.settle(at)
            except StoreError as exc:  # it is done after the next beat
                log.debug("%s", exc)

    def _check_deadlock(self, owner: str) -> None:
        """Raise PosixError EDEADLK if this wait closes a circle. If two callers close it at the
        same moment, both are told."""
        if is_deadlock(living_rows(self._store, self._member.id), owner):
            raise PosixError(errno.EDEADLK, "those who have the lock wait for this process")

    def _wake(self, at: LockedFile) -> None:
        with self._lock:
            wakes, at.wakes = at.wakes, []
        for wake in wakes:
            if not wake.done():
                wake.set_result(None)

    def _is_waited(self) -> bool:
        return any(each.waiting for each in list(self._files.values()))

    def _heard(self, name: str | None) -> None:
        for each in set(self._files) if name is None else (name,):
            at = self._files.get(each)
            if at is not None:
                self._wake(at)
