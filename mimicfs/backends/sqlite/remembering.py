"""The memory of each reading thread for one state of the file: listings that it read ahead, the
latest pages of scans, the last deep scope, and few notes.

Each commit, even of this process, makes another state (PRAGMA data_version).

Threading: any thread; each remembers for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mimicfs.backends.ahead import Ahead, Scan
from mimicfs.backends.sqlite.database import Database
from mimicfs.entry import Entry

_PAGES_MAX = 16  # pages of scans
_NOTES_MAX = 256
_NOTES = f"SELECT name, text FROM note WHERE bucket=? LIMIT {_NOTES_MAX + 1}"
_NOTE = "SELECT text FROM note WHERE bucket=? AND name=?"

PageArguments = tuple[str, str, str, int]  # bucket, prefix, after, limit


class _PagesOfThread(threading.local):
    def __init__(self) -> None:
        self.ahead = Ahead()
        self.pages: tuple[int, dict[PageArguments, list[Entry]]] = (-1, {})
        self.deep: tuple[str, int, str] = ("", -1, "")
        # of a bucket, in a state; None: there are many
        self.notes: tuple[tuple[int, int], dict[str, str] | None] = ((0, -1), None)


class Remembered:
    """The memory of the threads that read *db*."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._local = _PagesOfThread()

    def children(self, bucket: str, directory: str, limit: int, scan: Scan) -> list[Entry] | None:
        """Return the children of *directory* if they were read ahead, by *scan*."""
        return self._local.ahead.take((bucket, self._db.version()), directory, limit, scan)

    def own(self, bucket: str, directory: str) -> tuple[bool, Entry | None]:
        """Return whether the entry of *directory* itself was read ahead, and that entry."""
        return self._local.ahead.own((bucket, self._db.version()), directory)

    def page(
        self, asked: PageArguments, read: Callable[[str, str, str, int], list[Entry]]
    ) -> list[Entry]:
        """Return the page *asked*, by *read*. A program that lists in a loop asks for the same
        pages again and again."""
        local = self._local
        now = self._db.version()
        version, pages = local.pages
        if version != now:
            pages = {}
        if asked not in pages and len(pages) < _PAGES_MAX:
            pages[asked] = read(*asked)
        local.pages = (now, pages)
        return list(pages[asked]) if asked in pages else read(*asked)

    def note(self, bucket: int, name: str) -> str | None:
        """Return the note *name*, or None. Within one state, few notes are read all at once: a walk
        asks for that of each directory."""
        if self._db.local.keeps and not self._db.in_memory:
            now = (bucket, self._db.version())
            state, notes = self._local.notes
            if state != now:
                rows = self._db.rows(_NOTES, bucket)
                notes = dict(rows) if len(rows) <= _NOTES_MAX else None
                self._local.notes = (now, notes)
            if notes is not None:
                return notes.get(name)
        text: str | None = self._db.value(_NOTE, bucket, name)
        return text

    def is_within_deep(self, bucket: str, directory: str) -> bool:
        """Whether the last deep scope that was found covers *directory*."""
        of, version, prefix = self._local.deep
        return (of, version) == (bucket, self._db.version()) and directory.startswith(prefix)

    def latest_deep(self, bucket: str, directory: str) -> str | None:
        """Return the prefix of the last deep scope that was found, if that covered *directory*: it
        may be gone."""
        of, _, prefix = self._local.deep
        return prefix if of == bucket and directory.startswith(prefix) else None

    def found_deep(self, bucket: str, version: int, prefix: str) -> None:
        """Remember that in state *version*, *prefix* has a deep scope."""
        self._local.deep = (bucket, version, prefix)
