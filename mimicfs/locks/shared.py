"""File locks in the store: all mounts that share it exclude each other.

The locks of a file are a row (rows.py), noted beside LOCKS under the file's name; each change of a
row compares it with what it was and replaces it in one step (`Backend.swap_note`). A caller that
waits is in the row, too: a caller that lets go of something then adds a line to the log of LOCKS,
which wakes them.

The lease. A lock is its mount's as long as the session lives (member.py). One that is silent for
member.LASTS_MS by the store's clock may lose its locks to whoever wants them, and only to them. So
a mount that was silent for UNSURE_S relies on no lock until the store answers. Then a new lease
begins: before the mount relies on the locks of a file, it gives the row another generation, so that
nobody takes what he saw before, or finds that they were taken. It does so at the next use of the
file, or with one of the next beats, each of which spends up to _SPENDS_S. It does the same where
the store may have lost something (another epoch). Else nobody can have taken a lock, and a beat of
the session costs nothing, however many are held.
What was taken is *lost*: its owner gets no other lock of that file until he has let go of all of
them (EIO), and `when_lost` is called.

    free     lock                                 -> held
    held     unlock, close                        -> free
    held     UNSURE_S without the store           -> unsure   (still ours unless somebody took it)
    held     another epoch of the store           -> unsure
    unsure   a new lease, the row has it          -> held
    unsure   a new lease, the row lacks it        -> lost
    lost     unlock of all, close                 -> free

INVARIANT: a row has all that this mount holds of a file (`_LockedFile.valid`), or somebody took
it. It may have more of ours where an answer of the store was lost; then the file is in `_owed`, and
what is too much is given up once the store answers.

Threading: any thread. `_LockedFile.turn` is held while the store is asked about that file; `_lock`
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
from contextlib import contextmanager

from mimicfs.backends import Backend
from mimicfs.backends.sessions import sessions
from mimicfs.errors import PosixError, StoreError, StoreUnavailable
from mimicfs.locks.listener import LockListener
from mimicfs.locks.rows import (
    END,
    Lock,
    LockRow,
    against,
    is_deadlock,
    joined,
    left,
    of,
    removed,
    row_of,
    text_of,
    uncovered,
    within,
    without,
)
from mimicfs.member import LASTS_MS, Member, boot_s
from mimicfs.posix import Cancellation

log = logging.getLogger(__name__)

LOCKS = "/locks"  # no bucket is called so
UNSURE_S = LASTS_MS / 1000 - 1.0  # clocks run at rates that differ a little
LOOK_S = 2.0  # between two looks whether those who stand in the way are alive, or wait for us
_SETTLES_S = 2.0  # how long somebody waits for the store to answer again
_SPENDS_S = 1.0  # how long a beat looks at rows; the next one must come in time


class _LockedFile:
    """The locks of one file, as this mount knows them."""

    def __init__(self, name: str, lease: int) -> None:
        self.name = name
        self.lease = lease  # in which what is held was known to be ours
        self.turn = threading.Lock()  # protects all below but `users`
        self.users = 0
        self.text: str | None = None  # the row as it was seen last
        self.held: tuple[Lock, ...] = ()  # ours, also those that are lost
        self.lost: set[str] = set()  # owners
        self.waiting: list[Lock] = []  # ours
        self.wakes: list[Future[None]] = []

    @property
    def valid(self) -> tuple[Lock, ...]:
        return tuple(each for each in self.held if each.owner not in self.lost)

    @property
    def idle(self) -> bool:
        return not (self.users or self.held or self.waiting)


class SharedLocks:
    """The locks of *member*, a mount, in *store*."""

    def __init__(self, store: Backend, member: Member, clock: Callable[[], float] = boot_s) -> None:
        self._store = store
        self._member = member
        self._clock = clock
        self.when_lost: Callable[[str], None] = lambda _: None  # with the name of a file
        self._lock = threading.Lock()  # protects the two below
        self._files: dict[str, _LockedFile] = {}
        self._owed: set[str] = set()  # rows that may have more of us than we hold
        self._beaten = threading.Condition()
        self._beat_s = member.beat_s
        self._epochs = member.epoch_changes
        self._lease = 0  # another number after each time when others may have taken locks
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
        """Let the owner of *wanted* have it; return what he had there before. If that was more,
        he still has it: `leave` gives it up. *others_s*: without *wait*, how long to wait all the
        same where only other mounts have it. Raises PosixError EAGAIN where others have it, and
        not *wait*; EDEADLK where they wait for this owner; EIO for an owner who has lost a lock of
        this file; Interrupted; StoreError."""
        with self._used(name) as at:
            before = self._attempt(at, wanted)
            if before is None and wait:
                before = self._wait(at, wanted, cancellation, math.inf)
            elif before is None and others_s and self._is_elsewhere(at, wanted):
                before = self._wait(at, wanted, cancellation, others_s)
            if before is None:
                raise PosixError(errno.EAGAIN, f"{name}: locked")
            return before

    def _is_elsewhere(self, at: _LockedFile, wanted: Lock) -> bool:
        """Whether only other mounts had what stood against *wanted* a moment ago."""
        with at.turn:
            found = against(row_of(at.text).held, wanted)
        return not of(found, self._member.id)

    def unlock(self, name: str, owner: str, *, flock: bool, start: int = 0, end: int = END) -> None:
        """*owner* lets go of what he has from *start* to *end*. Raises StoreError: then the store
        hears of it as soon as it answers again."""
        self.leave(name, Lock(owner, flock, False, start, end, 0), ())

    def leave(self, name: str, gone: Lock, kept: tuple[Lock, ...]) -> None:
        """Leave its owner only *kept* within the range of *gone*. Raises StoreError as `unlock`
        does."""
        with self._used(name) as at, at.turn:
            before, at.held = at.held, left(at.held, gone, kept)
            if set(at.held) == set(before):
                return
            if gone.owner in at.lost and not any(each.owner == gone.owner for each in at.held):
                at.lost.discard(gone.owner)
            try:
                self._settle(at)
            finally:
                self._wake(at)

    def standing(self, name: str, wanted: Lock) -> Lock | None:
        """Return a lock that stands against *wanted*, if there is one. Raises StoreError."""
        with self._used(name) as at, at.turn:
            row = self._seen(at)
            found = against(row.held, wanted)
            dead = self._dead(found)
            return next((each for each in found if each.session not in dead), None)

    def holds(self, name: str, owner: str | None = None) -> bool:
        """Whether this mount has, or has lost, a lock of the file; one of *owner*."""
        at = self._files.get(name)
        return at is not None and any(owner in (None, each.owner) for each in at.held)

    def check(self, name: str) -> None:
        """Return if all locks that this mount has of the file are certain. Raises PosixError EIO,
        StoreError."""
        if not self.holds(name):
            return
        with self._used(name) as at:
            self._be_sure()
            with at.turn:
                self._renew(at)
                self._seen(at)
                if at.lost:
                    raise self._is_lost(at)

    def close(self) -> None:
        """Let go of everything."""
        self._listener.close()
        for at in list(self._files.values()):
            with at.turn:
                at.held, at.waiting = (), []
                try:
                    self._settle(at)
                except StoreError as exc:  # they end with the session
                    log.debug("%s: %s", at.name, exc)

    def figures(self) -> dict[str, int]:
        files = list(self._files.values())
        return {
            "held": sum(len(each.held) for each in files),
            "waiting": sum(len(each.waiting) for each in files),
            "lost": sum(len(each.lost) for each in files),
        }

    # The lease

    def beaten(self) -> None:
        """The store has taken the latest beat of the session. Raises StoreError."""
        now_s, epochs = self._member.beat_s, self._member.epoch_changes
        until_s = time.monotonic() + _SPENDS_S
        lost = epochs != self._epochs
        if lost or not self._is_sure():
            self._lease += 1
        with self._beaten:
            self._beat_s = now_s
            self._beaten.notify_all()
        self._renew_all(until_s)
        if lost:
            self._look_everywhere()
        self._epochs = epochs
        self._pay(until_s)

    def _renew_all(self, until_s: float) -> None:
        for at in self._kept():
            if at.lease != self._lease:
                with at.turn:
                    self._renew(at)
                if time.monotonic() >= until_s:
                    return

    def _renew(self, at: _LockedFile) -> None:
        """Others may have taken our locks before this lease, or be about to: give what is ours
        another generation, or find that it was taken. Raises StoreError."""
        lease = self._lease
        if at.lease != lease:
            if at.held:
                self._settle(at, anew=True)
            at.lease = lease

    def _kept(self) -> list[_LockedFile]:
        with self._lock:
            return [each for each in self._files.values() if each.held]

    def _look_everywhere(self) -> None:
        """The store may have again what was given up. Locks that are held are renewed in any
        case."""
        held = {at.name for at in self._kept()}
        for name, text in self._store.notes(LOCKS).items():
            row = row_of(text)
            if name not in held and of((*row.held, *row.waiting), self._member.id):
                self._owe(name)

    def _be_sure(self) -> None:
        """Wait a moment until the lease is certain. Raises StoreUnavailable."""
        with self._beaten:
            if not self._is_sure() and (
                self._member.away or not self._beaten.wait_for(self._is_sure, _SETTLES_S)
            ):
                raise StoreUnavailable("the store has not answered: no lock is certain")

    def _is_sure(self) -> bool:
        return self._clock() - self._beat_s < UNSURE_S

    def _owe(self, name: str) -> None:
        with self._lock:
            self._owed.add(name)

    def _pay(self, until_s: float) -> None:
        """Give up in the store what is not held any more. Raises StoreError."""
        while self._owed and time.monotonic() < until_s:
            with self._lock:
                name = self._owed.pop()
            try:
                with self._used(name) as at, at.turn:
                    self._seen(at)
                    self._settle(at)
            except StoreError:
                self._owe(name)
                raise

    # One step

    def _attempt(
        self, at: _LockedFile, wanted: Lock, *, look: bool = True
    ) -> tuple[Lock, ...] | None:
        """Let the owner of *wanted* have it; return what he had there before, or None where
        something stands against that. *look*: whether those who have it are alive."""
        self._be_sure()
        with at.turn:
            self._renew(at)
            return self._tried(at, wanted, look=look)

    def _tried(self, at: _LockedFile, wanted: Lock, *, look: bool) -> tuple[Lock, ...] | None:
        row = self._ours(at, row_of(at.text))
        if against(row.held, wanted):  # as it was a moment ago
            row = self._seen(at)
        while True:
            if wanted.owner in at.lost:
                raise self._is_lost(at)
            if look:
                row = without(row, self._dead(against(row.held, wanted)))
            before, granted = within(at.held, wanted), not against(row.held, wanted)
            if self._change(at, row, wanted, granted=granted):
                return before if granted else None
            row = self._taken_note_of(at)

    def _change(self, at: _LockedFile, row: LockRow, wanted: Lock, *, granted: bool) -> bool:
        """Make the row say whether *wanted* was granted; return False if it is not what it was."""
        held, waiting = at.held, at.waiting
        if granted:
            at.held, at.waiting = joined(held, wanted), _less(waiting, wanted)
        elif wanted.flock:  # as in Linux: what is to be converted is given up first
            at.held = removed(held, wanted)
        try:
            done = self._swap(at, row)
        except StoreError:
            self._owe(at.name)
            if granted:
                at.held, at.waiting = held, waiting
            raise
        if not done:
            at.held, at.waiting = held, waiting
        return done

    def _settle(self, at: _LockedFile, *, anew: bool = False) -> None:
        """Make the row say what this mount holds. *anew*: also if it does. Raises StoreError."""
        try:
            row = self._ours(at, row_of(at.text))
            while not self._swap(at, row, anew=anew):
                row = self._taken_note_of(at)
        except StoreError:
            self._owe(at.name)
            raise

    def _swap(self, at: _LockedFile, row: LockRow, *, anew: bool = False) -> bool:
        """Make the row *row*, with what is ours; return False if it is not what it was."""
        old, new = row_of(at.text), self._ours(at, row)
        if _same(new, old) and not anew:
            return True
        freed = bool(new.waiting) and not set(old.held) <= set(new.held)
        text = text_of(new)
        done, at.text = self._store.swap_note(LOCKS, at.name, at.text, text, tell=freed)
        return done

    def _seen(self, at: _LockedFile) -> LockRow:
        at.text = self._store.note(LOCKS, at.name)
        return self._taken_note_of(at)

    def _taken_note_of(self, at: _LockedFile) -> LockRow:
        """Return the row as it is, with what is ours; what was taken from us is lost."""
        row = row_of(at.text)
        lost = uncovered(at.valid, of(row.held, self._member.id))
        if lost:
            at.lost |= lost
            log.error("%s: its lock was lost to others, or with the store", at.name)
            threading.Thread(target=self.when_lost, args=(at.name,), daemon=True).start()
        return self._ours(at, row)

    def _ours(self, at: _LockedFile, row: LockRow) -> LockRow:
        """Return *row* with what is ours as it is to be."""
        others = without(row, {self._member.id})
        return LockRow((*others.held, *at.valid), (*others.waiting, *at.waiting))

    def _is_lost(self, at: _LockedFile) -> PosixError:
        return PosixError(errno.EIO, f"{at.name}: its lock is lost; close the file")

    def _dead(self, locks: list[Lock]) -> set[str]:
        """Return which sessions of *locks* have ended. Raises StoreError."""
        asked = {each.session for each in locks} - {self._member.id}
        if not asked:
            return set()
        return asked - {each.id for each in sessions(self._store) if each.alive}

    @contextmanager
    def _used(self, name: str) -> Iterator[_LockedFile]:
        with self._lock:
            at = self._files.get(name)
            if at is None:
                at = self._files[name] = _LockedFile(name, self._lease)
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
        self, at: _LockedFile, wanted: Lock, cancellation: Cancellation, most_s: float
    ) -> tuple[Lock, ...] | None:
        """Return None if *most_s* was not enough."""
        end_s = time.monotonic() + most_s
        self._listener.begin()
        with at.turn:
            at.waiting = [*at.waiting, wanted]
        self._listener.look()
        before: tuple[Lock, ...] | None = None
        try:
            look_s = 0.0  # by when it is to look again at those who stand in the way
            while before is None and time.monotonic() < end_s:
                look = time.monotonic() >= look_s
                look_s = time.monotonic() + LOOK_S if look else look_s
                before = self._wait_once(at, wanted, cancellation, look, min(look_s, end_s))
            return before
        finally:
            if before is None:
                # By another thread: whoever was interrupted is told so at once, also where the
                # store is silent.
                threading.Thread(target=self._unmark, args=(at.name, wanted), daemon=True).start()

    def _wait_once(
        self, at: _LockedFile, wanted: Lock, cancellation: Cancellation, look: bool, until_s: float
    ) -> tuple[Lock, ...] | None:
        wake = Future[None]()
        with self._lock:
            at.wakes.append(wake)
        try:
            before = self._attempt(at, wanted, look=look)
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
        """Nobody waits for *wanted* any more."""
        with self._used(name) as at, at.turn:
            at.waiting = _less(at.waiting, wanted)
            try:
                self._settle(at)
            except StoreError as exc:  # after the next beat
                log.debug("%s", exc)

    def _check_deadlock(self, owner: str) -> None:
        """Raise PosixError EDEADLK. Of two who close a circle in the same moment, both are told."""
        rows = {name: row_of(text) for name, text in self._store.notes(LOCKS).items()}
        if is_deadlock(rows, owner):
            raise PosixError(errno.EDEADLK, "those who have the lock wait for this process")

    def _wake(self, at: _LockedFile) -> None:
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


def _same(one: LockRow, other: LockRow) -> bool:
    return set(one.held) == set(other.held) and set(one.waiting) == set(other.waiting)


def _less(locks: list[Lock], one: Lock) -> list[Lock]:
    left = list(locks)
    if one in left:
        left.remove(one)
    return left
