"""SQLite: the mirror in a file. It is the default of the command line: there is nothing to start.

One flat table, ordered by key, is the index for look-ups, listings and merges. To read a directory,
we seek past each subdirectory ("d/" ... the next key is at least "d0").

`database.py` opens the file, and says which connections read and write it; `schema.py` has its
tables, `runs.py` finds out whether a power cut took commits; `rows.py` has the statements that
several methods use, `directories.py` reads directories, `writing.py` and `scopes.py` write changes,
`briefly.py` the usual ones, `copied.py` writes a copy of another store, `remembering.py` keeps what
a thread has just read, `waiting.py` waits for commits of other processes.

Threading: database.py describes it.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from mimicfs.backends import pending
from mimicfs.backends.loglines import WIDE_CHANGE, left_alone
from mimicfs.backends.pending import LEARNED, IntentStep, Unsettled
from mimicfs.backends.sqlite import briefly
from mimicfs.backends.sqlite.copied import CopyingBackend
from mimicfs.backends.sqlite.database import Database, OneState
from mimicfs.backends.sqlite.directories import read_children
from mimicfs.backends.sqlite.remembering import Remembered
from mimicfs.backends.sqlite.rows import (
    BETWEEN,
    FROM,
    GET,
    LOOKUP,
    LOOKUP_DEEP,
    ORPHANS,
    PENDING,
    STRIDE,
    TOTAL,
    entries_of,
    entry_of,
    found_in,
    keep_pending,
    looked_up,
    pending_of,
    scope_of,
    successor,
)
from mimicfs.backends.sqlite.scopes import PUT_SCOPE, SCOPE, SCOPES, covering, drop_scopes, unmark
from mimicfs.backends.sqlite.waiting import CommitWaiter
from mimicfs.backends.sqlite.writing import (
    check_life,
    drop,
    learn_plain,
    logged,
    not_admitted,
    store,
    swapped,
)
from mimicfs.backends.waiter import Waiter
from mimicfs.entry import LINES, PAGE, BucketEntry, Change, Entry, OfName, Scope, Total

_LOG_MAX = 200_000  # lines of the log of a bucket that are kept, at least
_TRIM_EVERY = 1000  # lines that are written between two looks at the length of the log

P = ParamSpec("P")
T = TypeVar("T")


def _ours(method: Callable[Concatenate[SQLite, P], T]) -> Callable[Concatenate[SQLite, P], T]:
    """Turn sqlite3's errors into StoreError."""

    @functools.wraps(method)
    def call(self: SQLite, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as exc:
            raise self._db.error(exc) from exc

    return cast("Callable[Concatenate[SQLite, P], T]", call)


class SQLite(CopyingBackend):
    """The mirror in a SQLite database. *args* and *kwargs* are those of sqlite3.connect; without
    them the database is in memory, and gone when it is closed. *namespace* keeps several mirrors
    apart in one file. The methods are those of Backend. Raises StoreTooNew, StoreCorrupt,
    StoreUnavailable."""

    intents = True
    groups = True

    def __init__(self, *args: Any, namespace: str = "", **kwargs: Any) -> None:
        super().__init__()
        self._db = Database(args, kwargs)
        self._remembered = Remembered(self._db)
        self._namespace = namespace
        self._ids: dict[str, int] = {}  # of buckets; `_db.lock` protects this and the next
        self._untrimmed: dict[int, int] = {}  # lines of ours until the log is trimmed again
        try:
            self.enter(namespace)
        except BaseException:
            self.close()
            raise

    @_ours
    def enter(self, namespace: str) -> None:
        with self._db.writing() as db:
            self._namespace = namespace
            self._ids.clear()
            self._id("", db)

    # Buckets

    def _id(self, bucket: str, db: sqlite3.Connection | None = None) -> int:
        """Return the number of *bucket*; 0 if it has none. With *db*, it gets one."""
        number = self._ids.get(bucket, 0)
        if number:
            return number
        if db is not None:
            db.execute(
                "INSERT OR IGNORE INTO bucket(namespace, name, known, created_ns) VALUES(?,?,0,0)",
                (self._namespace, bucket),
            )
        sql = "SELECT id FROM bucket WHERE namespace=? AND name=?"
        if db is not None:  # not remembered: the transaction may still be rolled back
            (number,) = db.execute(sql, (self._namespace, bucket)).fetchone()
        elif number := self._db.value(sql, self._namespace, bucket) or 0:
            self._ids[bucket] = number
        return number

    @_ours
    def buckets(self) -> list[BucketEntry]:
        rows = self._db.rows(
            "SELECT name, created_ns, objects, bytes, seq FROM bucket"
            " WHERE namespace=? AND known=1 ORDER BY name",
            self._namespace,
        )
        return [BucketEntry(*row) for row in rows]

    @_ours
    def bucket(self, name: str) -> BucketEntry | None:
        rows = self._db.rows(
            "SELECT name, created_ns, objects, bytes, seq FROM bucket WHERE id=? AND known=1",
            self._id(name),
        )
        return BucketEntry(*rows[0]) if rows else None

    @_ours
    def add_bucket(self, name: str, created_ns: int) -> None:
        with self._db.writing() as db:
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
    def drop_bucket(self, name: str, since: int | None = None) -> bool:
        with self._db.writing() as db:
            lists = self._id("", db)
            if since is not None and self._changed_since(db, "", lists, since, [name]):
                return False
            number = self._id(name, db)
            if db.execute("SELECT known FROM bucket WHERE id=?", (number,)).fetchone()[0]:
                drop(db, number)
            self._log(db, "", [name])
        return True

    # Entries

    @_ours
    def get(self, bucket: str, key: str) -> Entry | None:
        if self._db.local.keeps and key[-1:] == "/":
            known, entry = self._remembered.own(bucket, key)
            if known:
                return entry
        rows = self._db.rows(GET, self._id(bucket), key)
        return entry_of(rows[0]) if rows else None

    @_ours
    def lookup(self, bucket: str, directory: str, name: str) -> OfName:
        rows = self._db.rows(LOOKUP, *looked_up(self._id(bucket), directory, name))
        found, _ = found_in(rows, directory + name)
        return found

    @_ours
    def lookup_certain(self, bucket: str, directory: str, name: str) -> tuple[OfName, bool]:
        number, deep = self._id(bucket), self._remembered.latest_deep(bucket, directory)
        values = looked_up(number, directory, name)
        rows = self._db.rows(LOOKUP_DEEP, *values, number, deep)
        found, is_within = found_in(rows, directory + name)
        certain = is_within or found != (None, None) or self.covered(bucket, directory)
        return found, certain

    @_ours
    def children(
        self, bucket: str, directory: str, after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        number = self._id(bucket)
        if not after and not self._db.in_memory:
            scan = functools.partial(self._behind, number)
            ahead = self._remembered.children(bucket, directory, limit, scan)
            if ahead is not None:
                return ahead
        start = directory + "\0" if directory else ""
        if after > directory:
            start = after[:-1] + "0" if after.endswith("/") else after + "\0"
        with self._db.reading() as db:
            # One statement reads a directory without subdirectories. If it takes several, the
            # reading begins again in one transaction: one snapshot.
            found = read_children(db, number, directory, start, limit, seeks=False)
            if found is not None:
                return found
            db.execute("BEGIN")
            try:
                return read_children(db, number, directory, start, limit, seeks=True) or []
            finally:
                db.execute("COMMIT")

    @_ours
    def scan(
        self, bucket: str, prefix: str = "", after: str = "", limit: int = PAGE
    ) -> list[Entry]:
        if self._db.in_memory:
            return self._scan(bucket, prefix, after, limit)
        return self._remembered.page((bucket, prefix, after, limit), self._scan)

    def _scan(self, bucket: str, prefix: str, after: str, limit: int) -> list[Entry]:
        start = max(prefix, after + "\0" if after else "")
        end = successor(prefix)
        if end is None:
            rows = self._db.rows(FROM + " LIMIT ?", self._id(bucket), start, limit)
        else:
            rows = self._db.rows(BETWEEN + " LIMIT ?", self._id(bucket), start, end, limit)
        return entries_of(rows)

    @_ours
    def stride(self, bucket: str, prefix: str, after: str, count: int) -> tuple[str, int]:
        start, end = max(prefix, after + "\0" if after else ""), successor(prefix)
        values: tuple[object, ...] = (self._id(bucket), start, *([] if end is None else [end]))
        sql = STRIDE.format(end="" if end is None else " AND key<?")
        [(last, passed)] = self._db.rows(sql, *values, count)
        return last, passed

    @_ours
    def total(self, bucket: str, prefix: str = "") -> Total:
        end = successor(prefix)
        if end is None:
            rows = self._db.rows(TOTAL.format(end=""), self._id(bucket), prefix)
        else:
            rows = self._db.rows(TOTAL.format(end=" AND key<?"), self._id(bucket), prefix, end)
        return Total(*rows[0])

    def one_state(self) -> AbstractContextManager[None]:
        return OneState(self._db.local)

    def _behind(self, bucket: int, key: str, limit: int) -> list[Entry]:
        rows = self._db.rows(FROM + " LIMIT ?", bucket, key + "\0", limit)
        return entries_of(rows)

    # Changes

    @_ours
    def apply(
        self,
        bucket: str,
        puts: Sequence[Entry] = (),
        deletes: Sequence[str] = (),
        since: int | None = None,
        step: IntentStep = LEARNED,
    ) -> set[str]:
        if step.token and since is None and not deletes and self._stored(bucket, puts, step.token):
            return set()
        with self._db.writing() as db:
            number = self._add(db, bucket, 0) if bucket else self._id("", db)
            new = {entry.key: entry for entry in puts}
            gone = [key for key in deletes if key not in new]
            left: set[str] = set()
            if since is not None:
                left = self._changed_since(db, bucket, number, since, [*new, *gone])
            left = not_admitted(db, number, [*new, *gone], step, left)
            if left:
                new = {key: entry for key, entry in new.items() if key not in left}
                gone = [key for key in gone if key not in left]
            if new or gone:
                more = store(db, number, new, gone)
                self._log(db, bucket, [*new, *gone], more)
        return left

    @_ours
    def learn_plain(self, bucket: str, entries: Sequence[Entry]) -> None:
        with self._db.writing() as db:
            learn_plain(db, self._id(bucket, db), entries)

    def _stored(self, bucket: str, puts: Sequence[Entry], token: str) -> bool:
        """Store *puts*, the end of the intent *token*, in one step; False: nothing has happened."""
        number = self._ids.get(bucket, 0)
        with self._db.lock:
            left = self._untrimmed.get(number, 0) - len(puts)
            done = left >= 0 and briefly.stored(self._db, number, puts, token, self.origin)
            if done:
                self._untrimmed[number] = left
        return done

    @_ours
    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> set[str]:
        now_ms = self.now_ms()
        rows = [(key, pending.begun(None, token, now_ms, lasts_ms)) for key in keys]
        if (known := self._ids.get(bucket)) and briefly.begun(self._db, known, rows):
            return set()  # nothing was pending
        with self._db.writing() as db:
            number = self._id(bucket, db)
            before = pending_of(db, number, keys)
            after = {key: pending.begun(before.get(key), token, now_ms, lasts_ms) for key in keys}
            keep_pending(db, number, before, after)
        return before.keys() & set(keys)  # it has those between them, too

    @_ours
    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        with self._db.writing() as db:
            number = self._id(bucket, db)
            before = pending_of(db, number, keys)
            after = {key: pending.ended(before.get(key), token, unsure=unsure) for key in keys}
            keep_pending(db, number, before, after)
        return {key for key, row in after.items() if row is not None}

    @_ours
    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        number = self._id(bucket)
        if key is None:
            rows = self._db.rows(PENDING, number)
        else:
            rows = self._db.rows(f"{PENDING} AND key=?", number, key)
        return pending.unsettled(dict(rows), self.now_ms())

    @_ours
    def reap(self, bucket: str, lives: Callable[[str], bool]) -> set[str]:
        with self._db.writing() as db:
            number, now_ms = self._id(bucket, db), self.now_ms()
            before = dict(db.execute(PENDING, (number,)).fetchall())
            after = {key: pending.reaped(row, now_ms, lives) for key, row in before.items()}
            keep_pending(db, number, before, after)
            return {key for key, row in before.items() if after[key] != row}

    def _changed_since(
        self, db: sqlite3.Connection, bucket: str, number: int, since: int, keys: list[str]
    ) -> set[str]:
        return left_alone(logged(db, bucket, number, since, -1), keys)

    def _log(
        self,
        db: sqlite3.Connection,
        bucket: str,
        keys: list[str],
        more: tuple[int, int] = (0, 0),
    ) -> None:
        """Log that *keys* have changed; the bucket has *more*: so many objects, and bytes."""
        number = self._id(bucket, db)
        lines: list[tuple[str, str | None]] = [(key, None) for key in keys]
        if len(keys) > WIDE_CHANGE:
            lines = [(min(keys), max(keys))]
        (last,) = db.execute(
            "UPDATE bucket SET seq=seq+?, objects=objects+?, bytes=bytes+? WHERE id=?"
            " RETURNING seq",
            (len(lines), *more, number),
        ).fetchone()
        first = last - len(lines) + 1
        db.executemany(
            "INSERT INTO log VALUES(?,?,?,?,?)",
            [(number, first + n, *line, self.origin) for n, line in enumerate(lines)],
        )
        left = self._untrimmed.get(number, 0) - len(lines)
        if left < 0:
            db.execute("DELETE FROM log WHERE bucket=? AND seq<=?", (number, last - _LOG_MAX))
        self._untrimmed[number] = left if left >= 0 else _TRIM_EVERY

    @_ours
    def seq(self, bucket: str) -> int:
        return self._db.value("SELECT seq FROM bucket WHERE id=?", self._id(bucket)) or 0

    @_ours
    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        number = self._id(bucket)
        with self._db.reading() as db:
            db.execute("BEGIN")
            try:
                return logged(db, bucket, number, since, limit)
            finally:
                db.execute("COMMIT")

    # Scopes

    @_ours
    def mark(self, bucket: str, scope: Scope, since: int | None = None) -> None:
        with self._db.writing() as db:
            number = self._add(db, bucket, 0) if bucket else self._id("", db)
            if since is not None:
                check_life(db, bucket, number, since)
            if scope.deep:
                drop_scopes(db, number, scope.prefix)
            db.execute(PUT_SCOPE, (number, *scope))

    @_ours
    def unmark(self, bucket: str, prefix: str) -> None:
        with self._db.writing() as db:
            unmark(db, self._id(bucket, db), prefix)

    @_ours
    def scope(self, bucket: str, prefix: str) -> Scope | None:
        rows = self._db.rows(SCOPE, self._id(bucket), prefix)
        return scope_of(rows[0]) if rows else None

    @_ours
    def scopes(self, bucket: str) -> list[Scope]:
        rows = self._db.rows(f"{SCOPES} ORDER BY listed_ns", self._id(bucket))
        return [scope_of(row) for row in rows]

    @_ours
    def scopes_from(self, bucket: str, prefix: str, most: int) -> list[str]:
        """Return the first *most* prefixes that have a scope, in order, from *prefix* on."""
        sql = "SELECT prefix FROM scope WHERE bucket=? AND prefix>=? ORDER BY prefix LIMIT ?"
        return [each for (each,) in self._db.rows(sql, self._id(bucket), prefix, most)]

    @_ours
    def cover(self, bucket: str, directory: str) -> Scope | None:
        sql, places = covering(directory)
        rows = self._db.rows(sql, self._id(bucket), *places)
        return scope_of(rows[0]) if rows else None

    def covered(self, bucket: str, directory: str, *, deep: bool = False) -> bool:
        if self._db.in_memory:
            return super().covered(bucket, directory, deep=deep)
        return self._covered(bucket, directory, deep)

    @_ours
    def _covered(self, bucket: str, directory: str, deep: bool) -> bool:
        """Do as `covered`. Each thread remembers the last deep scope that it found."""
        if self._remembered.is_within_deep(bucket, directory):
            return True
        version = self._db.version()
        found = self.cover(bucket, directory)
        if found is None or not found.deep:
            return super().covered(bucket, directory, deep=True) if deep else found is not None
        self._remembered.found_deep(bucket, version, found.prefix)
        return True

    # Notes

    @_ours
    def note(self, bucket: str, name: str) -> str | None:
        return self._remembered.note(self._id(bucket), name)

    @_ours
    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        with self._db.writing() as db:
            number = self._id(bucket, db)
            if text is None:
                db.execute("DELETE FROM note WHERE bucket=? AND name=?", (number, name))
            else:
                db.execute("INSERT OR REPLACE INTO note VALUES(?,?,?)", (number, name, text))

    @_ours
    def notes(self, bucket: str) -> dict[str, str]:
        return dict(self._db.rows("SELECT name, text FROM note WHERE bucket=?", self._id(bucket)))

    @_ours
    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        with self._db.writing() as db:
            done, now = swapped(db, self._id(bucket, db), name, before, after)
            if done and tell:
                self._log(db, bucket, [name])
        return done, now

    @_ours
    def orphans(self, bucket: str) -> list[str]:
        counts = {} if bucket else {of: self._db.value(sql) for of, sql in ORPHANS.items()}
        return [f"{count:,} rows of {table}" for table, count in counts.items() if count]

    def identity(self) -> str:
        self._db.look()
        return super().identity()

    # Life

    def waiter(self) -> Waiter:
        return Waiter() if self._db.in_memory else CommitWaiter(self._db)

    def close(self) -> None:
        self._db.close()
