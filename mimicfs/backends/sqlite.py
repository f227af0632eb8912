"""SQLite: the mirror in a file. The default of the command line: nothing to start.

One flat table, ordered by key, is the index for look-ups, listings and merges. A directory
is read by seeking past each subdirectory ("d/" ... the next key is at least "d0").

Threading: a file is read by a connection for each thread, and written by one connection
under a lock; WAL lets them go on beside each other, and beside other processes. A database
in memory (":memory:") has one connection, under the lock.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from mimicfs.backends import WIDE_CHANGE, Backend, left_alone
from mimicfs.backends.ahead import Ahead
from mimicfs.entry import LISTED, OBJECT, Bucket, Change, Entry, Scope, Total
from mimicfs.errors import (
    ConfigError,
    LogTrimmed,
    StoreCorrupt,
    StoreError,
    StoreTooNew,
    StoreUnavailable,
)
from mimicfs.private import check_file

_VERSION = 2  # of the schema; PRAGMA user_version
_APPLICATION = 0x4D696D43  # "MimC"; PRAGMA application_id tells our files from others
_LOG_MAX = 200_000  # lines of a bucket's log that are kept, at least
_PAGES_MAX = 16  # pages of `scan` that each thread remembers of one state of the file
_TRIM_EVERY = 1000  # changes between two looks at the log's length

_SCHEMA = f"""
-- A bucket that was dropped stays with known = 0, so that its numbers go on. The bucket ''
-- is the list of buckets: it has a log and a scope, and no entries.
CREATE TABLE bucket(
    id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL,
    known INT NOT NULL, created_ns INT NOT NULL,
    objects INT NOT NULL DEFAULT 0, bytes INT NOT NULL DEFAULT 0, seq INT NOT NULL DEFAULT 0,
    UNIQUE(namespace, name));
-- One row a key, in the order of UTF-8 bytes. Without a rowid: the key is the only access
-- path. meta is a JSON object, or NULL where the user metadata is not known. head is what a
-- HEAD said, or NULL.
CREATE TABLE entry(
    bucket INT NOT NULL, key TEXT NOT NULL, size INT NOT NULL, mtime_ns INT NOT NULL,
    etag TEXT NOT NULL, storage_class TEXT NOT NULL, meta TEXT, kind INT NOT NULL, head TEXT,
    PRIMARY KEY(bucket, key)) WITHOUT ROWID;
-- What was listed to its end: entry.Scope.
CREATE TABLE scope(
    bucket INT NOT NULL, prefix TEXT NOT NULL, deep INT NOT NULL, listed_ns INT NOT NULL,
    duration_ns INT NOT NULL, added INT NOT NULL, changed INT NOT NULL, deleted INT NOT NULL,
    PRIMARY KEY(bucket, prefix)) WITHOUT ROWID;
-- entry.Change. last is NULL where one key changed.
CREATE TABLE log(
    bucket INT NOT NULL, seq INT NOT NULL, first TEXT NOT NULL, last TEXT, origin INT NOT NULL,
    PRIMARY KEY(bucket, seq)) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
# Backend.set_note. Of no version: who does not know the table does not need it.
_NOTES = """
CREATE TABLE IF NOT EXISTS note(
    bucket INT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY(bucket, name)) WITHOUT ROWID
"""

# From the schema of each older version to the next.
_MIGRATIONS = {1: ("ALTER TABLE entry ADD COLUMN head TEXT",)}

_COLUMNS = "key, size, mtime_ns, etag, storage_class, meta, kind, head"
_GET = f"SELECT {_COLUMNS} FROM entry WHERE bucket=? AND key=?"
_FROM = f"SELECT {_COLUMNS} FROM entry WHERE bucket=? AND key>=? ORDER BY key"
_BETWEEN = f"SELECT {_COLUMNS} FROM entry WHERE bucket=? AND key>=? AND key<? ORDER BY key"
# entry.is_file. As bytes, because SQLite's functions of text end at NUL.
_TOTAL = (
    "SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE bucket=? AND key>=?{end}"
    " AND kind=0 AND (size>0 OR substr(CAST(key AS BLOB), -1)<>x'2f')"
)
_LOOKUP = (
    f"SELECT {_COLUMNS} FROM entry WHERE bucket=? AND key=? UNION ALL SELECT * FROM"
    f" (SELECT {_COLUMNS} FROM entry WHERE bucket=? AND key>=? AND key<? ORDER BY key LIMIT 1)"
)
_PUT = "INSERT OR REPLACE INTO entry VALUES(?,?,?,?,?,?,?,?,?)"
# A step of a statement gives up the interpreter's lock: a row at a time costs a third more, and
# far more where other threads want the lock.
_ROWS = 100
_PUT_ROWS = _PUT + ",(?,?,?,?,?,?,?,?,?)" * (_ROWS - 1)
_ANY = "SELECT 1 FROM entry WHERE bucket=? AND key BETWEEN ? AND ? LIMIT 1"
_TOTALS = (
    "SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE bucket=? AND kind=0"
    " AND key IN (SELECT value FROM json_each(?))"
)

P = ParamSpec("P")
T = TypeVar("T")


def _ours(method: Callable[Concatenate[SQLite, P], T]) -> Callable[Concatenate[SQLite, P], T]:
    """Turn sqlite3's errors into StoreError."""

    @functools.wraps(method)
    def call(self: SQLite, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    return cast("Callable[Concatenate[SQLite, P], T]", call)


class SQLite(Backend):
    """The mirror in a SQLite database. *args* and *kwargs* are sqlite3.connect's; without
    them the database is in memory and gone when it is closed.

    *namespace* keeps several mirrors apart in one file. Raises StoreTooNew, StoreCorrupt,
    StoreUnavailable.
    """

    def __init__(self, *args: Any, namespace: str = "", **kwargs: Any) -> None:
        super().__init__()
        self._args = args or (":memory:",)
        self._kwargs = kwargs | {"check_same_thread": False, "isolation_level": None}
        self._path = str(self._args[0])
        self._in_memory = self._path in ("", ":memory:")
        self._namespace = namespace
        self._lock = threading.RLock()  # the writer's, and of the lists below
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._ids: dict[str, int] = {}
        self._trim_at: dict[int, int] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @_ours
    def _open(self) -> None:
        path = None if self._in_memory or self._kwargs.get("uri") else Path(self._path)
        found = _created(path) if path is not None else None
        self._writer = self._connect()
        self._data_version = 0
        with self._writing() as db:
            self._check(db)
        if path is not None and found is not None:
            _check_private(path, found)

    def _check(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        ours = db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
        if not ours:
            if version or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StoreCorrupt(
                    f"{self._path}: a SQLite database, but not a mimicfs store;"
                    " name another file with --store"
                )
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
        elif version > _VERSION:
            raise StoreTooNew(
                f"{self._path}: written by a newer mimicfs (schema {version}, this one knows"
                f" {_VERSION}); upgrade mimicfs or name another file with --store"
            )
        else:
            _migrate(db, version)
        db.execute(_NOTES)
        self._id("", db)

    @_ours
    def enter(self, namespace: str) -> None:
        with self._writing() as db:
            self._namespace = namespace
            self._ids.clear()
            self._id("", db)

    def _connect(self) -> sqlite3.Connection:
        db: sqlite3.Connection = sqlite3.connect(*self._args, **self._kwargs)
        with self._lock:
            self._connections.append(db)
        db.execute("PRAGMA busy_timeout=10000")
        if not self._in_memory:
            db.execute("PRAGMA journal_mode=WAL")
            # The last commits may be lost in a power cut: the next sync gives them back.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA mmap_size=1073741824")
            db.execute("PRAGMA journal_size_limit=67108864")
        return db

    def _error(self, exc: sqlite3.Error) -> StoreError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return StoreCorrupt(
                f"{self._path}: {exc}; move the file away and sync again, S3 has everything"
            )
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"{self._path}: no space left on its disk")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable(f"{self._path}: locked by another process for over 10 s")
        return StoreUnavailable(f"{self._path}: {exc}; check the path and its permissions")

    # Connections

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one statement, or for several inside BEGIN."""
        if self._in_memory:
            with self._lock:
                yield self._writer
            return
        yield self._reader()

    def _reader(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = self._connect()
        return db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The writer, in a transaction that is committed or, after an error, rolled back."""
        with self._lock:
            db = self._writer
            if db.in_transaction:  # a step of a larger change
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: object) -> list[Any]:
        if self._in_memory:
            with self._lock:
                return self._writer.execute(sql, values).fetchall()
        return self._reader().execute(sql, values).fetchall()

    # Buckets

    def _id(self, bucket: str, db: sqlite3.Connection | None = None) -> int:
        """Return the number of *bucket*; 0 if it has none. With *db*, it is given one."""
        number = self._ids.get(bucket, 0)
        if number:
            return number
        if db is not None:
            db.execute(
                "INSERT OR IGNORE INTO bucket(namespace, name, known, created_ns) VALUES(?,?,0,0)",
                (self._namespace, bucket),
            )
        sql = "SELECT id FROM bucket WHERE namespace=? AND name=?"
        values = (self._namespace, bucket)
        rows = db.execute(sql, values).fetchall() if db else self._rows(sql, *values)
        if rows and db is None:  # what a transaction has made may still be rolled back
            self._ids[bucket] = rows[0][0]
        return rows[0][0] if rows else 0

    @_ours
    def buckets(self) -> list[Bucket]:
        rows = self._rows(
            "SELECT name, created_ns, objects, bytes, seq FROM bucket"
            " WHERE namespace=? AND known=1 ORDER BY name",
            self._namespace,
        )
        return [Bucket(*row) for row in rows]

    @_ours
    def bucket(self, name: str) -> Bucket | None:
        rows = self._rows(
            "SELECT name, created_ns, objects, bytes, seq FROM bucket WHERE id=? AND known=1",
            self._id(name),
        )
        return Bucket(*rows[0]) if rows else None

    @_ours
    def add_bucket(self, name: str, created_ns: int) -> None:
        with self._writing() as db:
            self._add(db, name, created_ns)

    def _add(self, db: sqlite3.Connection, name: str, created_ns: int) -> int:
        number = self._id(name, db)
        if not db.execute("SELECT known FROM bucket WHERE id=?", (number,)).fetchone()[0]:
            db.execute("UPDATE bucket SET known=1, created_ns=? WHERE id=?", (created_ns, number))
            self._log(db, "", [name])
        elif created_ns:
            db.execute("UPDATE bucket SET created_ns=? WHERE id=?", (created_ns, number))
        return number

    @_ours
    def drop_bucket(self, name: str) -> None:
        with self._writing() as db:
            number = self._id(name, db)
            if db.execute("SELECT known FROM bucket WHERE id=?", (number,)).fetchone()[0]:
                for table in ("entry", "scope", "log", "note"):
                    db.execute(f"DELETE FROM {table} WHERE bucket=?", (number,))
                db.execute(
                    "UPDATE bucket SET known=0, objects=0, bytes=0, seq=seq+1 WHERE id=?",
                    (number,),
                )
                self._log(db, "", [name])

    # Entries

    @_ours
    def get(self, bucket: str, key: str) -> Entry | None:
        rows = self._rows(_GET, self._id(bucket), key)
        return _entry(rows[0]) if rows else None

    @_ours
    def lookup(self, bucket: str, directory: str, name: str) -> tuple[Entry | None, Entry | None]:
        key = directory + name
        below = key + "/"
        number = self._id(bucket)
        rows = self._rows(_LOOKUP, number, key if name else None, number, below, key + "0")
        entry = subdirectory = None
        for row in rows:
            if row[0] == key:
                entry = _entry(row)
            elif row[0] == below:
                subdirectory = _entry(row)
            else:
                subdirectory = Entry(below, kind=LISTED)
        return entry, subdirectory

    @_ours
    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = 1000
    ) -> list[Entry]:
        number = self._id(bucket)
        if not after and not self._in_memory:
            scan = functools.partial(self._behind, number)
            ahead = self._ahead.take(bucket, self._version(), directory, limit, scan)
            if ahead is not None:
                return ahead
        start = directory + "\0" if directory else ""
        if after > directory:
            start = after[:-1] + "0" if after.endswith("/") else after + "\0"
        with self._reading() as db:
            # One statement reads a directory without subdirectories. Where it takes several,
            # they are begun again in one transaction: one snapshot.
            found = self._children(db, number, directory, start, limit, seeks=False)
            if found is not None:
                return found
            db.execute("BEGIN")
            try:
                return self._children(db, number, directory, start, limit, seeks=True) or []
            finally:
                db.execute("COMMIT")

    @staticmethod
    def _children(
        db: sqlite3.Connection, bucket: int, directory: str, start: str, limit: int, *, seeks: bool
    ) -> list[Entry] | None:
        """Return the children from key *start*; None if that takes more than one statement
        and *seeks* is not set."""
        end = directory[:-1] + "0"
        cut = len(directory)
        found: list[Entry] = []
        # Rows that are fetched beyond a subdirectory's first are thrown away: few at a
        # time where there are subdirectories, more and more where there are none.
        size = 16
        while True:
            values = (bucket, start, end) if directory else (bucket, start)
            rows = db.execute(_BETWEEN if directory else _FROM, values)
            while page := rows.fetchmany(asked := min(size, limit - len(found))):
                size = min(2 * size, 2048)
                for row in page:
                    slash = row[0].find("/", cut)
                    if slash >= 0:
                        break
                    found.append(_make(row) if row[5] is None else _entry(row))
                else:
                    if len(found) == limit or len(page) < asked:
                        rows.close()
                        return found
                    continue
                break
            else:
                return found
            rows.close()
            if not seeks:
                return None
            name = row[0][: slash + 1]
            found.append(_entry(row) if row[0] == name else Entry(name, kind=LISTED))
            if len(found) == limit:
                return found
            start, size = name[:-1] + "0", 4

    @_ours
    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Entry]:
        if self._in_memory:
            return self._scan(bucket, prefix, after, limit)
        # A program that lists in a loop asks for the same pages again and again.
        pages: dict[tuple[str, str, str, int], list[Entry]]
        now = self._version()
        version, pages = getattr(self._local, "pages", (now, {}))
        if version != now:
            pages = {}
        asked = (bucket, prefix, after, limit)
        if asked not in pages and len(pages) < _PAGES_MAX:
            pages[asked] = self._scan(*asked)
        self._local.pages = (now, pages)
        return list(pages[asked]) if asked in pages else self._scan(*asked)

    def _scan(self, bucket: str, prefix: str, after: str, limit: int) -> list[Entry]:
        start = max(prefix, after + "\0" if after else "")
        end = _successor(prefix)
        if end is None:
            rows = self._rows(_FROM + " LIMIT ?", self._id(bucket), start, limit)
        else:
            rows = self._rows(_BETWEEN + " LIMIT ?", self._id(bucket), start, end, limit)
        return _entries(rows)

    @_ours
    def stride(self, bucket: str, prefix: str, after: str, count: int) -> tuple[str, int]:
        start, end = max(prefix, after + "\0" if after else ""), _successor(prefix)
        values: tuple[object, ...] = (self._id(bucket), start, *([] if end is None else [end]))
        rows = self._rows(
            "SELECT coalesce(max(key), ''), count(*) FROM (SELECT key FROM entry WHERE bucket=?"
            f" AND key>=?{'' if end is None else ' AND key<?'} ORDER BY key LIMIT ?)",
            *values,
            count,
        )
        return rows[0][0], rows[0][1]

    @_ours
    def total(self, bucket: str, prefix: str = "") -> Total:
        end = _successor(prefix)
        if end is None:
            rows = self._rows(_TOTAL.format(end=""), self._id(bucket), prefix)
        else:
            rows = self._rows(_TOTAL.format(end=" AND key<?"), self._id(bucket), prefix, end)
        return Total(*rows[0])

    # What each reading thread remembers of one state of the file

    def _version(self) -> int:
        """Return a number that is another one after every commit, also of this process."""
        version: int = self._reader().execute("PRAGMA data_version").fetchone()[0]
        return version

    @property
    def _ahead(self) -> Ahead:
        ahead: Ahead | None = getattr(self._local, "ahead", None)
        if ahead is None:
            ahead = self._local.ahead = Ahead()
        return ahead

    def _behind(self, bucket: int, key: str, limit: int) -> list[Entry]:
        rows = self._rows(_FROM + " LIMIT ?", bucket, key + "\0", limit)
        return _entries(rows)

    # Changes

    @_ours
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
    ) -> set[str]:
        with self._writing() as db:
            number = self._add(db, bucket, 0) if bucket else self._id("", db)
            new = {entry.key: entry for entry in puts}
            gone = [key for key in deletes if key not in new]
            left: set[str] = set()
            if since is not None:
                left = self._changed_since(db, bucket, number, since, [*new, *gone])
                new = {key: entry for key, entry in new.items() if key not in left}
                gone = [key for key in gone if key not in left]
            if new or gone:
                self._store(db, number, new, gone)
                self._log(db, bucket, [*new, *gone])
        return left

    def _changed_since(
        self, db: sqlite3.Connection, bucket: str, number: int, since: int, keys: list[str]
    ) -> set[str]:
        return left_alone(self._changes(db, bucket, number, since, -1), keys)

    @staticmethod
    def _store(
        db: sqlite3.Connection, bucket: int, puts: dict[str, Entry], deletes: list[str]
    ) -> None:
        objects, size = _totals(db, bucket, [*puts, *deletes])
        if deletes:
            db.executemany(
                "DELETE FROM entry WHERE bucket=? AND key=?", [(bucket, key) for key in deletes]
            )
        rows = [
            (bucket, *entry)
            if entry[5] is None
            else (bucket, *entry[:5], _json(entry[5]), *entry[6:])
            for entry in puts.values()
        ]
        for at in range(0, len(rows) - _ROWS + 1, _ROWS):
            db.execute(_PUT_ROWS, list(chain.from_iterable(rows[at : at + _ROWS])))
        db.executemany(_PUT, rows[len(rows) // _ROWS * _ROWS :])
        new = [entry.size for entry in puts.values() if entry.kind == OBJECT]
        db.execute(
            "UPDATE bucket SET objects=objects+?, bytes=bytes+? WHERE id=?",
            (len(new) - objects, sum(new) - size, bucket),
        )

    def _log(self, db: sqlite3.Connection, bucket: str, keys: list[str]) -> None:
        number = self._id(bucket, db)
        lines: list[tuple[str, str | None]] = [(key, None) for key in keys]
        if len(keys) > WIDE_CHANGE:
            lines = [(min(keys), max(keys))]
        (last,) = db.execute(
            "UPDATE bucket SET seq=seq+? WHERE id=? RETURNING seq", (len(lines), number)
        ).fetchone()
        first = last - len(lines) + 1
        db.executemany(
            "INSERT INTO log VALUES(?,?,?,?,?)",
            [(number, first + n, *line, self.origin) for n, line in enumerate(lines)],
        )
        if last >= self._trim_at.get(number, 0):
            db.execute("DELETE FROM log WHERE bucket=? AND seq<=?", (number, last - _LOG_MAX))
            self._trim_at[number] = last + _TRIM_EVERY

    @_ours
    def seq(self, bucket: str) -> int:
        rows = self._rows("SELECT seq FROM bucket WHERE id=?", self._id(bucket))
        return rows[0][0] if rows else 0

    @_ours
    def changes(self, bucket: str, since: int, limit: int = 10_000) -> list[Change]:
        number = self._id(bucket)
        with self._reading() as db:
            db.execute("BEGIN")
            try:
                return self._changes(db, bucket, number, since, limit)
            finally:
                db.execute("COMMIT")

    @staticmethod
    def _changes(
        db: sqlite3.Connection, bucket: str, number: int, since: int, limit: int
    ) -> list[Change]:
        found = db.execute("SELECT seq FROM bucket WHERE id=?", (number,)).fetchone()
        last = found[0] if found else 0
        if since == last:
            return []
        rows = db.execute(
            "SELECT seq, first, last, origin FROM log WHERE bucket=? AND seq>?"
            " ORDER BY seq LIMIT ?",
            (number, since, limit),
        ).fetchall()
        if since > last or not rows or rows[0][0] != since + 1:
            raise LogTrimmed(f"changes of {bucket or 'the buckets'} after {since} are not logged")
        return [Change(seq, key, upto or key, origin) for seq, key, upto, origin in rows]

    # Scopes

    @_ours
    def mark(self, bucket: str, scope: Scope) -> None:
        with self._writing() as db:
            number = self._add(db, bucket, 0) if bucket else self._id("", db)
            if scope.deep:
                self._unmark(db, number, scope.prefix)
            db.execute("INSERT OR REPLACE INTO scope VALUES(?,?,?,?,?,?,?,?)", (number, *scope))

    @_ours
    def unmark(self, bucket: str, prefix: str) -> None:
        with self._writing() as db:
            self._unmark(db, self._id(bucket, db), prefix)

    @staticmethod
    def _unmark(db: sqlite3.Connection, bucket: int, prefix: str) -> None:
        end = _successor(prefix)
        if end is None:
            db.execute("DELETE FROM scope WHERE bucket=?", (bucket,))
        else:
            db.execute(
                "DELETE FROM scope WHERE bucket=? AND prefix>=? AND prefix<?",
                (bucket, prefix, end),
            )

    @_ours
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        rows = self._rows(
            "SELECT prefix, deep, listed_ns, duration_ns, added, changed, deleted"
            " FROM scope WHERE bucket=? AND prefix=?",
            self._id(bucket),
            prefix,
        )
        return _scope(rows[0]) if rows else None

    @_ours
    def cover(self, bucket: str, directory: str) -> Scope | None:
        cuts = [n + 1 for n, letter in enumerate(directory) if letter == "/"]
        above = ["", *(directory[:cut] for cut in cuts[:-1])]
        rows = self._rows(
            "SELECT prefix, deep, listed_ns, duration_ns, added, changed, deleted FROM scope"
            " WHERE bucket=? AND (prefix=? OR deep=1 AND prefix IN"
            f" ({','.join('?' * len(above))})) ORDER BY listed_ns DESC LIMIT 1",
            self._id(bucket),
            directory,
            *above,
        )
        return _scope(rows[0]) if rows else None

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        if self._in_memory:
            return super().covered(bucket, directory, deep=deep)
        return self._covered(bucket, directory, deep)

    @_ours
    def _covered(self, bucket: str, directory: str, deep: bool) -> bool:
        """As `covered`. Each thread remembers the last deep scope that it found."""
        version, known = self._version(), getattr(self._local, "deep", None)
        if known is not None and known[:2] == (bucket, version) and directory.startswith(known[2]):
            return True
        found = self.cover(bucket, directory)
        if found is None or not found.deep:
            return super().covered(bucket, directory, deep=True) if deep else found is not None
        self._local.deep = (bucket, version, found.prefix)
        return True

    # Notes

    @_ours
    def note(self, bucket: str, name: str) -> str | None:
        values = (self._id(bucket), name)
        rows = self._rows("SELECT text FROM note WHERE bucket=? AND name=?", *values)
        return rows[0][0] if rows else None

    @_ours
    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        with self._writing() as db:
            number = self._id(bucket, db)
            if text is None:
                db.execute("DELETE FROM note WHERE bucket=? AND name=?", (number, name))
            else:
                db.execute("INSERT OR REPLACE INTO note VALUES(?,?,?)", (number, name, text))

    # Life

    @_ours
    def poll(self) -> bool:
        if self._in_memory:
            return False
        with self._lock:  # the writer sees the commits of all others, and no own ones
            version: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
            changed = version != self._data_version
            self._data_version = version
        return changed

    def close(self) -> None:
        with self._lock:
            for db in self._connections:
                db.close()
            self._connections.clear()


def _totals(db: sqlite3.Connection, bucket: int, keys: list[str]) -> tuple[int, int]:
    """Return how many of *keys* are objects there, and their bytes."""
    # A page of a first listing: nothing is there, and one look says so.
    if len(keys) >= _ROWS and not db.execute(_ANY, (bucket, min(keys), max(keys))).fetchone():
        return 0, 0
    objects, size = db.execute(_TOTALS, (bucket, json.dumps(keys))).fetchone()
    for key in [key for key in keys if "\0" in key]:  # json_each ends a text at NUL
        for row in db.execute(_GET, (bucket, key)).fetchall():
            if row[6] == OBJECT:
                objects, size = objects + 1, size + row[1]
    return objects, size


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older *version* up to date, inside the caller's transaction."""
    for old in range(version, _VERSION):
        for statement in _MIGRATIONS[old]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {old + 1}")


def _created(path: Path) -> os.stat_result:
    """Make the file of the store, readable by its owner only, if there is none; return what it
    is. SQLite gives the files beside it (-wal, -shm) the same permissions."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
    except OSError as exc:
        text = "a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
        raise StoreUnavailable(f"{path}: {text}; name another file with --store") from exc
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _check_private(path: Path, found: os.stat_result) -> None:
    try:
        check_file(path, found)
    except ConfigError as exc:
        raise StoreUnavailable(str(exc)) from exc


def _make(row: tuple[Any, ...]) -> Entry:
    return tuple.__new__(Entry, row)


def _entry(row: tuple[Any, ...]) -> Entry:
    meta = row[5]
    if meta is not None:
        row = (*row[:5], json.loads(meta) if meta != "{}" else {}, *row[6:])
    return tuple.__new__(Entry, row)


def _entries(rows: list[tuple[Any, ...]]) -> list[Entry]:
    make = tuple.__new__  # `_make`, without a call for each
    return [make(Entry, row) if row[5] is None else _entry(row) for row in rows]


def _json(meta: object) -> str | None:
    return None if meta is None else json.dumps(meta)


def _scope(row: tuple[Any, ...]) -> Scope:
    return Scope(row[0], bool(row[1]), *row[2:])


def _successor(prefix: str) -> str | None:
    """Return the first key after all that begin with *prefix*; None if there is none."""
    if not prefix:
        return None
    if prefix.endswith("/"):
        return prefix[:-1] + "0"
    last = ord(prefix[-1]) + 1
    if 0xD800 <= last <= 0xDFFF:
        last = 0xE000  # surrogates are no characters
    return prefix[:-1] + chr(last) if last < 0x110000 else _successor(prefix[:-1])
