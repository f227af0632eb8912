"""The rows of locked files in the store: this mount writes into them what it holds, and sees in
them what was taken from it.

To settle a row may take several swaps: each that fails shows what the row is now. So settling is a
generator of swaps. `settle` drives one alone; `settle_all` drives many at once, with one round trip
for a step of all of them.

Threading: any thread that has the turn of the file (`LockedFile.turn`); `_lock` protects `_owed`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.errors import StoreError
from mimicfs.locks.lease import LockLease
from mimicfs.locks.lockedfile import LockedFile
from mimicfs.locks.rows import LockRow, against, is_same, of, text_of, uncovered
from mimicfs.locks.sweeping import LOCKS

log = logging.getLogger(__name__)


class _Swap(NamedTuple):
    before: str | None
    after: str | None
    tell: bool


class _Swapped(NamedTuple):
    """The result of a swap. *looked*: since then this mount has looked whether there is another
    epoch."""

    done: bool
    now: str | None
    looked: bool = False


class LockRows:
    """The rows in *store* for the mount *session*. *when_lost* is called, in a thread of its own,
    with the name of a file that has lost a lock."""

    def __init__(
        self, store: Backend, session: str, lease: LockLease, when_lost: Callable[[str], None]
    ) -> None:
        self._store = store
        self._session = session
        self._lease = lease
        self._when_lost = when_lost
        self._lock = threading.Lock()
        self._owed: set[str] = set()  # rows that may have more locks of ours than we hold

    def owe(self, name: str) -> None:
        """Note that the row of *name* may have more locks of ours than we hold."""
        with self._lock:
            self._owed.add(name)

    def owed(self) -> str | None:
        """Take the name of such a row from the list and return it; None: there is none."""
        with self._lock:
            return self._owed.pop() if self._owed else None

    def settle(self, at: LockedFile, *, anew: bool = False) -> None:
        """Write into the row what this mount holds; *anew*: even if it says so already. Raises
        StoreError."""
        steps = self._settling(at, anew=anew)
        try:
            swap = next(steps, None)
            while swap is not None:
                swapped = self._store.swap_note(LOCKS, at.name, *swap[:2], tell=swap.tell)
                swap = _next(steps, _Swapped(*swapped))
        except StoreError:
            self.owe(at.name)
            raise

    def settle_all(self, files: Sequence[LockedFile]) -> None:
        """`settle` all of *files* anew. Raises StoreError."""
        running = {at.name: self._settling(at, anew=True) for at in files}
        try:
            asked = {name: next(steps, None) for name, steps in running.items()}
            while swaps := {name: swap for name, swap in asked.items() if swap is not None}:
                wanted = [(name, *swap[:2]) for name, swap in swaps.items()]
                tell = [swap.tell for swap in swaps.values()]
                answers = self._store.swap_notes(LOCKS, wanted, tell=tell)
                looked = not all(done for done, _ in answers)
                if looked:
                    self._lease.look()
                asked = {
                    name: _next(running[name], _Swapped(*answer, looked))
                    for name, answer in zip(swaps, answers, strict=True)
                }
        except StoreError:
            for at in files:
                self.owe(at.name)
            raise

    def swap(self, at: LockedFile, row: LockRow, *, asks: bool = False) -> bool:
        """Replace the row by *row* with our locks; return False if others have changed it. *asks*:
        also ask what the store says of itself after that."""
        at.said = None
        wanted = self._wanted(at, row, anew=False)
        if wanted is None:
            return True
        before, after, tell = wanted
        if asks:
            swap = self._store.swap_note_told
            done, at.text, at.said = swap(LOCKS, at.name, before, after, tell=tell)
        else:
            done, at.text = self._store.swap_note(LOCKS, at.name, before, after, tell=tell)
        return done

    def seen(self, at: LockedFile) -> LockRow:
        """Read the row, and return it as `taken_note_of` does. Raises StoreError."""
        at.text = self._store.note(LOCKS, at.name)
        return self.taken_note_of(at)

    def taken_note_of(self, at: LockedFile, *, looked: bool = False) -> LockRow:
        """Return the row as it is, with our locks; mark the locks that were taken from us as lost.
        Raises StoreError."""
        row, lost = at.row, self._taken_of(at)
        if lost and not looked:
            self._lease.look()
        if self._lease.reclaims(at.lease):
            stands = tuple(each for each in row.held if not against(at.valid, each))
            row = row._replace(held=stands)
        elif lost:
            self._lose(at, lost)
        return at.ours(row, self._session)

    def _settling(self, at: LockedFile, *, anew: bool) -> Generator[_Swap, _Swapped, None]:
        row, reclaimed = at.ours(at.row, self._session), False
        while (wanted := self._wanted(at, row, anew=anew)) is not None:
            done, at.text, looked = yield wanted
            if done:
                break
            reclaimed |= self._lease.was_ours(at.lease) and bool(self._taken_of(at))
            row = self.taken_note_of(at, looked=looked)
        # The row lacked the lock: somebody may have had it since, and let go of it.
        if reclaimed and at.valid and not self._lease.reclaims(at.lease):
            self._lose(at, {each.owner for each in at.valid})
            yield from self._settling(at, anew=False)

    def _wanted(self, at: LockedFile, row: LockRow, *, anew: bool) -> _Swap | None:
        """Return the swap that replaces the row by *row* with our locks; None: it is that
        already."""
        old, new = at.row, at.ours(row, self._session)
        if is_same(new, old) and not anew:
            return None
        freed = bool(new.waiting) and not set(old.held) <= set(new.held)
        return _Swap(at.text, text_of(new), freed)

    def _taken_of(self, at: LockedFile) -> set[str]:
        """Return the owners of those locks of ours that the row lacked when it was seen last."""
        return uncovered(at.valid, of(at.row.held, self._session))

    def _lose(self, at: LockedFile, owners: set[str]) -> None:
        at.lost |= owners
        log.error("%s: its lock was lost to others, or with the store", at.name)
        threading.Thread(target=self._when_lost, args=(at.name,), daemon=True).start()


def _next(steps: Generator[_Swap, _Swapped, None], answer: _Swapped) -> _Swap | None:
    try:
        return steps.send(answer)
    except StopIteration:
        return None
