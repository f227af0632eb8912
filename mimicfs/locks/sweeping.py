"""What dead mounts have left in the rows of locks, and who is in whose way because of it.

Threading: no state; any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mimicfs.backends import Backend
from mimicfs.backends.sessions import sessions
from mimicfs.locks.rows import Lock, LockRow, row_of, text_of, without

LOCKS = "/locks"  # no bucket has such a name


def dead(store: Backend, locks: Iterable[Lock], own: str) -> set[str]:
    """Return which sessions of *locks* have ended; *own* has not. Raises StoreError."""
    asked = {each.session for each in locks} - {own}
    if not asked:
        return set()
    return asked - {each.id for each in sessions(store) if each.alive}


def rows(store: Backend) -> dict[str, LockRow]:
    """Return the rows of all files that are locked or waited for. Raises StoreError."""
    return {name: row_of(text) for name, text in store.notes(LOCKS).items()}


def living_rows(store: Backend, own: str) -> dict[str, LockRow]:
    """Return the same without the locks and waiters of dead mounts. Raises StoreError."""
    found = rows(store)
    gone = dead(store, (lock for row in found.values() for lock in (*row.held, *row.waiting)), own)
    return {name: without(row, gone) for name, row in found.items()}


def forget_waiters(store: Backend, own: str) -> None:
    """Remove the waiters of dead mounts. (A mount that is alive after all says again what it waits
    for.) What the dead held is left to callers that want it. Raises StoreError."""
    texts = store.notes(LOCKS)
    waiting = [lock for text in texts.values() for lock in row_of(text).waiting]
    gone = dead(store, waiting, own)
    for name in (name for name in texts if gone):
        _forget(store, name, texts[name], gone)


def _forget(store: Backend, name: str, text: str | None, gone: Collection[str]) -> None:
    done = False
    while text is not None and not done:
        row = row_of(text)
        left = row._replace(waiting=without(row, gone).waiting)
        if left == row:
            return
        done, text = store.swap_note(LOCKS, name, text, text_of(left), tell=False)
