"""The statements that several methods use, and the meaning of their rows. Most functions are pure;
those that take a connection are not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from mimicfs.entry import LISTED, OBJECT, Entry, OfName, Scope

COLUMNS = "key, size, mtime_ns, etag, storage_class, meta, kind, head"  # in the order of an Entry
KEY, SIZE, META, KIND = (Entry._fields.index(name) for name in ("key", "size", "meta", "kind"))
GET = f"SELECT {COLUMNS} FROM entry WHERE bucket=? AND key=?"
FROM = f"SELECT {COLUMNS} FROM entry WHERE bucket=? AND key>=? ORDER BY key"
BETWEEN = f"SELECT {COLUMNS} FROM entry WHERE bucket=? AND key>=? AND key<? ORDER BY key"
# entry.is_file. As bytes, because SQLite's functions of text end at NUL.
TOTAL = (
    "SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE bucket=? AND key>=?{end}"
    " AND kind=0 AND (size>0 OR substr(CAST(key AS BLOB), -1)<>x'2f')"
)
STRIDE = (
    "SELECT coalesce(max(key), ''), count(*) FROM"
    " (SELECT key FROM entry WHERE bucket=? AND key>=?{end} ORDER BY key LIMIT ?)"
)
LOOKUP = (
    f"SELECT {COLUMNS} FROM entry WHERE bucket=? AND key=? UNION ALL SELECT * FROM"
    f" (SELECT {COLUMNS} FROM entry WHERE bucket=? AND key>=? AND key<? ORDER BY key LIMIT 1)"
)
PUT = "INSERT OR REPLACE INTO entry VALUES(?,?,?,?,?,?,?,?,?)"
_DEEP = -1  # the kind of a row that says that a prefix has a deep scope
LOOKUP_DEEP = (
    f"{LOOKUP} UNION ALL SELECT prefix, 0, 0, '', '', NULL, {_DEEP}, NULL FROM scope"
    " WHERE bucket=? AND prefix=? AND deep=1"
)
# Each step of a statement gives up the interpreter's lock: one row at a time costs a third more,
# and far more if other threads want the lock.
ROWS = 100
PUT_ROWS = PUT + ",(?,?,?,?,?,?,?,?,?)" * (ROWS - 1)
ANY = "SELECT 1 FROM entry WHERE bucket=? AND key BETWEEN ? AND ? LIMIT 1"
PENDING = "SELECT key, row FROM pending WHERE bucket=?"
TOTAL_OF = "SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE bucket=? AND key=? AND kind=0"
TOTALS = (
    "SELECT count(*), coalesce(sum(size), 0) FROM entry WHERE bucket=? AND kind=0"
    " AND key IN (SELECT value FROM json_each(?))"
)
# How many rows of a table are of no bucket. A note beside a bucket does not make it known.
_NUMBERS = "SELECT id FROM bucket"
ORPHANS = {
    table: f"SELECT count(*) FROM {table} WHERE bucket NOT IN ({numbers})"
    for table, numbers in (
        ("entry", f"{_NUMBERS} WHERE known OR name=''"),
        ("scope", f"{_NUMBERS} WHERE known OR name=''"),
        ("note", _NUMBERS),
    )
}


def totals(db: sqlite3.Connection, bucket: int, keys: list[str]) -> tuple[int, int]:
    """Return how many of *keys* are objects in *bucket*, and their bytes."""
    if len(keys) == 1:
        objects, size = db.execute(TOTAL_OF, (bucket, keys[0])).fetchone()
        return objects, size
    # In a page of a first listing, nothing is there yet, and one look says so.
    if len(keys) >= ROWS and not db.execute(ANY, (bucket, min(keys), max(keys))).fetchone():
        return 0, 0
    whole = [key for key in keys if "\0" not in key]  # where json_each ends a text at NUL
    objects, size = db.execute(TOTALS, (bucket, json.dumps(whole))).fetchone()
    for key in [key for key in keys if "\0" in key]:
        for row in db.execute(GET, (bucket, key)).fetchall():
            if row[KIND] == OBJECT:
                objects, size = objects + 1, size + row[SIZE]
    return objects, size


_parsed = json.JSONDecoder().raw_decode  # for text of `row_of`, without white space around it


def make(row: tuple[Any, ...]) -> Entry:
    return tuple.__new__(Entry, row)


def entry_of(row: tuple[Any, ...]) -> Entry:
    meta = row[META]
    if meta is not None:
        row = (*row[:META], _parsed(meta)[0] if meta != "{}" else {}, *row[META + 1 :])
    return tuple.__new__(Entry, row)


def entries_of(rows: list[tuple[Any, ...]]) -> list[Entry]:
    make = tuple.__new__  # `_make`, without a call for each
    return [make(Entry, row) if row[META] is None else entry_of(row) for row in rows]


def row_of(bucket: int, entry: Entry) -> tuple[Any, ...]:
    """Return the row of *entry* that a statement writes."""
    if entry.meta is None:
        return (bucket, *entry)
    return (bucket, *entry[:META], json.dumps(entry.meta), *entry[META + 1 :])


def looked_up(bucket: int, directory: str, name: str) -> tuple[int, str | None, int, str, str]:
    """Return the values for LOOKUP, which are the first ones for LOOKUP_DEEP."""
    key = directory + name
    return bucket, key if name else None, bucket, f"{key}/", f"{key}0"


def found_in(rows: list[tuple[Any, ...]], key: str) -> tuple[OfName, bool]:
    """Return the meaning of *rows* that LOOKUP or LOOKUP_DEEP gave for *key*: the object and the
    subdirectory of that name, and whether the scope is there."""
    entry = subdirectory = None
    is_deep = False
    for row in rows:
        if row[KEY] == key and row[KIND] != _DEEP:
            entry = entry_of(row)
        elif row[KIND] == _DEEP:
            is_deep = True
        else:
            below = f"{key}/"
            subdirectory = entry_of(row) if row[KEY] == below else Entry(below, kind=LISTED)
    return (entry, subdirectory), is_deep


def scope_of(row: tuple[Any, ...]) -> Scope:
    prefix, deep, *rest = row
    return Scope(prefix, bool(deep), *rest)


def successor(prefix: str) -> str | None:
    """Return the first key after all that begin with *prefix*; None if there is none."""
    if not prefix:
        return None
    if prefix.endswith("/"):
        return prefix[:-1] + "0"
    last = ord(prefix[-1]) + 1
    if 0xD800 <= last <= 0xDFFF:
        last = 0xE000  # surrogates are no characters
    return prefix[:-1] + chr(last) if last < 0x110000 else successor(prefix[:-1])


def pending_of(db: sqlite3.Connection, bucket: int, keys: Sequence[str]) -> dict[str, str]:
    """Return the rows of pending.py from the first to the last of *keys*: mostly few."""
    if not keys:
        return {}
    span = (bucket, min(keys), max(keys))
    return dict(db.execute(f"{PENDING} AND key>=? AND key<=?", span).fetchall())


def keep_pending(
    db: sqlite3.Connection, bucket: int, before: Mapping[str, str], after: Mapping[str, str | None]
) -> None:
    """Replace the rows *before* by those of *after*; the rows of other keys stay."""
    gone = [(bucket, key) for key, row in after.items() if row is None and key in before]
    new = [(bucket, key, row) for key, row in after.items() if row and row != before.get(key)]
    if gone:
        db.executemany("DELETE FROM pending WHERE bucket=? AND key=?", gone)
    if new:
        db.executemany("INSERT OR REPLACE INTO pending VALUES(?,?,?)", new)
