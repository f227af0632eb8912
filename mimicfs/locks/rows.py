"""The locks of one file as a text in the store, and what they mean. Pure functions.

A row has a generation, which changes with each change of the row, the locks that are held, and
those that somebody waits for. The owner of a lock is SESSION:NUMBER: the session of a mount
(backends/sessions.py), and a number in that mount. For fcntl(2) it is the kernel's number of the
process or the open file that locks; for flock(2) it is "h" and the number of the handle.

flock(2) and fcntl(2) each have locks of their own, which know nothing of each other. A lock of
flock is of the whole file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

END = (1 << 63) - 1  # the last byte of any file


class Lock(NamedTuple):
    owner: str
    flock: bool
    write: bool
    start: int
    end: int  # the last byte
    pid: int  # of whoever locked, in the mount of the owner

    @property
    def session(self) -> str:
        return self.owner.partition(":")[0]


class LockRow(NamedTuple):
    held: tuple[Lock, ...] = ()
    waiting: tuple[Lock, ...] = ()


def row_of(text: str | None) -> LockRow:
    if text is None:
        return LockRow()
    _, held, waiting = json.loads(text)
    return LockRow(_locks(held), _locks(waiting))


def _locks(found: Iterable[Iterable[object]]) -> tuple[Lock, ...]:
    return tuple(Lock(*each) for each in found)  # type: ignore[arg-type]


def text_of(row: LockRow) -> str | None:
    """Return *row* with a generation that no row has had; None if nothing is in it."""
    if row == LockRow():
        return None
    return json.dumps([os.urandom(8).hex(), row.held, row.waiting], separators=(",", ":"))


def against(held: Iterable[Lock], wanted: Lock) -> list[Lock]:
    """Return the *held* locks that conflict with *wanted*."""
    return [
        each
        for each in held
        if each.owner != wanted.owner and each.flock == wanted.flock
        if each.write or wanted.write
        if each.start <= wanted.end and wanted.start <= each.end
    ]


def added(held: Iterable[Lock], new: Lock) -> tuple[Lock, ...]:
    """Return *held* with *new*, which replaces the locks of its owner there. Locks of one owner and
    kind that touch become one."""
    start, end = new.start, new.end
    left: list[Lock] = []
    for each in removed(held, new):
        alike = (each.owner, each.flock, each.write) == (new.owner, new.flock, new.write)
        if alike and each.start <= end + 1 and start <= each.end + 1:
            start, end = min(start, each.start), max(end, each.end)
        else:
            left.append(each)
    return (*left, new._replace(start=start, end=end))


def removed(held: Iterable[Lock], gone: Lock) -> tuple[Lock, ...]:
    """Return *held* without the locks, to read or to `write`, that the owner of *gone* has in its
    range."""
    left: list[Lock] = []
    for each in held:
        mine = (each.owner, each.flock) == (gone.owner, gone.flock)
        if not mine or each.end < gone.start or gone.end < each.start:
            left.append(each)
            continue
        if each.start < gone.start:
            left.append(each._replace(end=gone.start - 1))
        if gone.end < each.end:
            left.append(each._replace(start=gone.end + 1))
    return tuple(left)


def within(held: Iterable[Lock], wanted: Lock) -> tuple[Lock, ...]:
    """Return the *held* locks, to read or to `write`, that the owner of *wanted* has in its
    range."""
    return tuple(
        each._replace(start=max(each.start, wanted.start), end=min(each.end, wanted.end))
        for each in held
        if (each.owner, each.flock) == (wanted.owner, wanted.flock)
        if each.start <= wanted.end and wanted.start <= each.end
    )


def joined(held: Iterable[Lock], new: Lock) -> tuple[Lock, ...]:
    """Return *held* with *new*, and with the locks to write that its owner has there."""
    held = tuple(held)
    found = added(held, new)
    for each in within(held, new):
        if each.write and not new.write:
            found = added(found, each)
    return found


def left(held: Iterable[Lock], gone: Lock, kept: Iterable[Lock]) -> tuple[Lock, ...]:
    """Return *held* in which the owner of *gone* has in its range only those locks that are also in
    *kept*."""
    held = tuple(held)
    found = removed(held, gone)
    for each in kept:
        if is_covered(each, within(held, gone)):
            found = added(found, each)
    return found


def uncovered(held: Iterable[Lock], kept: Collection[Lock]) -> set[str]:
    """Return the owners of *held* locks that *kept* does not cover wholly."""
    return {each.owner for each in held if not is_covered(each, kept)}


def is_covered(lock: Lock, kept: Iterable[Lock]) -> bool:
    """Whether *kept*, of the same owner, cover at least what *lock* does."""
    left: tuple[Lock, ...] = (lock,)
    for each in kept:
        if each.write or not lock.write:
            left = removed(left, each)
    return not left


def without(row: LockRow, sessions: Collection[str]) -> LockRow:
    """Return *row* without the locks and waiters of *sessions*."""
    return LockRow(
        tuple(each for each in row.held if each.session not in sessions),
        tuple(each for each in row.waiting if each.session not in sessions),
    )


def of(locks: Iterable[Lock], session: str) -> tuple[Lock, ...]:
    return tuple(each for each in locks if each.session == session)


def is_deadlock(rows: Mapping[str, LockRow], owner: str) -> bool:
    """Whether *owner* waits for somebody who waits, directly or not, for *owner*. Waits by flock(2)
    do not count, as in Linux."""
    waits_for: dict[str, set[str]] = {}
    for row in rows.values():
        for wanted in row.waiting:
            if not wanted.flock:
                found = waits_for.setdefault(wanted.owner, set())
                found |= {each.owner for each in against(row.held, wanted)}
    seen: set[str] = set()
    ahead = list(waits_for.get(owner, ()))
    while ahead:
        each = ahead.pop()
        if each == owner:
            return True
        if each not in seen:
            seen.add(each)
            ahead += waits_for.get(each, ())
    return False


def is_same(one: LockRow, other: LockRow) -> bool:
    return set(one.held) == set(other.held) and set(one.waiting) == set(other.waiting)
