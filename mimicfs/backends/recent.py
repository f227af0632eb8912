"""What the store said of directories a moment ago.

No line of the log says that something was noted of a directory: a copied directory without a note
must be asked about again, a second after its copy. Whoever walks a tree would ask for each (11,111
directories over Redis took 15 s so): with the one that it asks for, the store is asked about those
that it comes to next, twice as many each time.

Threading: any thread, no locks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from mimicfs.backends import Backend
from mimicfs.backends.sqlite import SQLite

_RECENT_S = 1.0
_RECENT_MAX = 100
_NOTES_MAX = 20_000  # of directories: a walk comes to fewer in a second
_AT_ONCE = 512  # directories about which the store is asked at once
T = TypeVar("T")


class Recent(Generic[T]):
    """What was seen of directories in the last second, of *most* at most."""

    def __init__(self, most: int = _RECENT_MAX) -> None:
        self._most = most
        self._seen: dict[tuple[str, str], tuple[float, T]] = {}

    def note(self, bucket: str, directory: str, what: T, at_s: float | None = None) -> None:
        """Remember *what* was seen, now or at *at_s* (time.monotonic)."""
        if len(self._seen) >= self._most:
            self._seen.clear()
        self._seen[bucket, directory] = time.monotonic() if at_s is None else at_s, what

    def recent(self, bucket: str, directory: str) -> T | None:
        at_s, what = self._seen.get((bucket, directory), (float("-inf"), None))
        return what if time.monotonic() - at_s < _RECENT_S else None

    def clear(self) -> None:
        self._seen.clear()


class RecentNotes:
    """What *shared* said was noted of directories, of which *rows* is the copy."""

    def __init__(self, shared: Backend, rows: SQLite) -> None:
        self._shared = shared
        self._rows = rows
        self._said: Recent[str] = Recent(_NOTES_MAX)  # "": nothing was noted
        self._together = 1  # about how many it was asked last,
        self._asked_s = float("-inf")  # and when that was

    def note(self, bucket: str, directory: str, text: str | None) -> None:
        """Note that the store has just said *text* of *directory*."""
        self._said.note(bucket, directory, text or "")

    def said(self, bucket: str, directory: str) -> str | None:
        """Return what the store said a moment ago; "": that nothing was noted; None: it was not
        asked."""
        return self._said.recent(bucket, directory)

    def ask(self, bucket: str, directories: Sequence[str]) -> list[str | None]:
        """Return what the store has noted of *directories*, in one round trip with those that a
        walk comes to next."""
        now_s = time.monotonic()
        walks = now_s - self._asked_s < _RECENT_S
        self._together = most = min(2 * self._together, _AT_ONCE) if walks else 1
        self._asked_s = now_s
        behind = self._rows.scopes_from(bucket, max(directories), most) if most > 1 else []
        wanted = list(dict.fromkeys([*directories, *behind]))
        found = dict(zip(wanted, self._shared.notes_of(bucket, wanted), strict=True))
        for directory, text in found.items():
            self._said.note(bucket, directory, text or "", now_s)
        return [found[each] for each in directories]
