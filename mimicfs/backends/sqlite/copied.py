"""The changes of a copy of another store: it counts nothing and has no log and no intents of its
own, so each row is written and no more.

Threading: as database.py.
"""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mimicfs.backends import OF_DIRECTORY, Backend
from mimicfs.backends.sqlite.database import Database
from mimicfs.backends.sqlite.scopes import PUT_SCOPE
from mimicfs.backends.sqlite.writing import put
from mimicfs.entry import LAST_KEY, Entry, Scope

_BELOW = "SELECT 1 FROM entry WHERE bucket=? AND key>? AND key<? LIMIT 1"


class CopyingBackend(Backend):
    """The part of a store in SQLite that writes what another store has."""

    _db: Database

    @abstractmethod
    def _id(self, bucket: str) -> int:
        """Return the number of *bucket*; 0 if it has none."""

    @abstractmethod
    def _add(self, db: sqlite3.Connection, name: str, created_ns: int) -> int:
        """Return the number of the bucket *name*, which is known from now on."""

    @contextmanager
    def together(self) -> Iterator[sqlite3.Connection]:
        """Within, all changes of this thread are one transaction."""
        try:
            with self._db.writing() as db:
                yield db
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc

    def with_rows(self, bucket: str, directories: Sequence[str]) -> set[str]:
        """Return those of *directories* below which there are rows."""
        number = self._id(bucket)
        asked = [(number, each, each[:-1] + "0" if each else LAST_KEY) for each in directories]
        try:
            with self._db.reading() as db:
                return {it[1] for it in asked if db.execute(_BELOW, it).fetchone() is not None}
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc

    def keep(self, bucket: str, rows: Sequence[Entry], gone: Sequence[str]) -> None:
        """Store *rows*, and delete the keys *gone*."""
        with self.together() as db:
            put(db, self._add(db, bucket, 0), {row.key: row for row in rows}, gone)

    def keep_directories(self, bucket: str, found: Sequence[tuple[Scope, str | None]]) -> None:
        """Note, of each directory, its scope and what was noted of it."""
        with self.together() as db:
            number = self._add(db, bucket, 0)
            db.executemany(PUT_SCOPE, [(number, *scope) for scope, _ in found])
            names = [(number, OF_DIRECTORY + scope.prefix, note) for scope, note in found]
            db.executemany("DELETE FROM note WHERE bucket=? AND name=?", [it[:2] for it in names])
            noted = [each for each in names if each[2] is not None]
            db.executemany("INSERT INTO note VALUES(?,?,?)", noted)

    def unmark_each(self, bucket: str, prefixes: Sequence[str]) -> None:
        """Forget the scopes of exactly *prefixes*."""
        with self.together() as db:
            rows = [(self._add(db, bucket, 0), prefix) for prefix in prefixes]
            db.executemany("DELETE FROM scope WHERE bucket=? AND prefix=?", rows)
