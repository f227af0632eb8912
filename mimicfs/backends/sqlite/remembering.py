"""The memory of each reading thread for one state of the file: listings that it read ahead, the
latest pages of scans, and the last deep scope.

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

PageArguments = tuple[str, str, str, int]  # bucket, prefix, after, limit


class _PagesOfThread(threading.local):
    def __init__(self) -> None:
        self.ahead = Ahead()
        self.pages: tuple[int, dict[PageArguments, list[Entry]]] = (-1, {})
        self.deep: tuple[str, int, str] = ("", -1, "")


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

    def is_within_deep(self, bucket: str, directory: str) -> bool:
        """Whether the last deep scope that was found covers *directory*."""
        of, version, prefix = self._local.deep
        return (of, version) == (bucket, self._db.version()) and directory.startswith(prefix)

    def found_deep(self, bucket: str, version: int, prefix: str) -> None:
        """Remember that in state *version*, *prefix* has a deep scope."""
        self._local.deep = (bucket, version, prefix)
