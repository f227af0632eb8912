"""The locks of one file, as one mount knows them.

Threading: `turn` is held while the store is asked about the file; it protects all but `users`.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from mimicfs.entry import StoreSaid
from mimicfs.locks.rows import Lock, LockRow, row_of, without


class LockedFile:
    """The file *name*, first used in *lease* (lease.py)."""

    def __init__(self, name: str, lease: int) -> None:
        self.name = name
        self.lease = lease  # the lease in which what is held was known to be ours
        self.turn = threading.Lock()
        self.users = 0
        self.text: str | None = None  # the row as it was seen last
        # what the store said after the latest swap; None: not asked
        self.said: StoreSaid | None = None
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

    @property
    def row(self) -> LockRow:
        """What was seen last."""
        return row_of(self.text)

    def ours(self, row: LockRow, session: str) -> LockRow:
        """Return *row* with the locks of our *session* as they are to be."""
        others = without(row, {session})
        return LockRow((*others.held, *self.valid), (*others.waiting, *self.waiting))


def less(locks: list[Lock], one: Lock) -> list[Lock]:
    """Return *locks* without *one*, once."""
    found = list(locks)
    if one in found:
        found.remove(one)
    return found
