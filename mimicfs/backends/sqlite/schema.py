"""The tables of the file, and how those of older versions are brought up to date.

Threading: no state; the thread that has the transaction.
"""

from __future__ import annotations

import sqlite3

from mimicfs.errors import StoreCorrupt, StoreTooNew

_VERSION = 3  # of the schema; PRAGMA user_version
_APPLICATION = 0x4D696D43  # "MimC"; PRAGMA application_id tells our files from others
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
    names INT NOT NULL DEFAULT 0,
    PRIMARY KEY(bucket, prefix)) WITHOUT ROWID;
-- entry.Change. last is NULL where one key changed.
CREATE TABLE log(
    bucket INT NOT NULL, seq INT NOT NULL, first TEXT NOT NULL, last TEXT, origin INT NOT NULL,
    PRIMARY KEY(bucket, seq)) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
# Backend.set_note. Of no version: a program that does not know the table does not need it.
_NOTES = """
CREATE TABLE IF NOT EXISTS note(
    bucket INT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY(bucket, name)) WITHOUT ROWID
"""

# Rows of backends/pending.py, likewise.
_PENDING = """
CREATE TABLE IF NOT EXISTS pending(
    bucket INT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
    PRIMARY KEY(bucket, key)) WITHOUT ROWID
"""

# The number of a bucket when it was dropped last, likewise.
_BORN = "CREATE TABLE IF NOT EXISTS born(bucket INTEGER PRIMARY KEY, seq INT NOT NULL)"

# From the schema of each older version to the next.
_MIGRATIONS = {
    1: ("ALTER TABLE entry ADD COLUMN head TEXT",),
    2: ("ALTER TABLE scope ADD COLUMN names INT NOT NULL DEFAULT 0",),
}


def check(db: sqlite3.Connection, path: str) -> None:
    """Make the tables of the file *path*, or bring them up to date, inside the caller's
    transaction. Raises StoreTooNew, StoreCorrupt."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    ours = db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
    if not ours:
        if version or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreCorrupt(
                f"{path}: a SQLite database, but not a mimicfs store;"
                " name another file with --store"
            )
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
    elif version > _VERSION:
        raise StoreTooNew(
            f"{path}: written by a newer mimicfs (schema {version}, this one knows"
            f" {_VERSION}); upgrade mimicfs or name another file with --store"
        )
    else:
        _migrate(db, version)
    db.execute(_NOTES)
    db.execute(_PENDING)
    db.execute(_BORN)


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older *version* up to date, inside the caller's transaction."""
    for old in range(version, _VERSION):
        for statement in _MIGRATIONS[old]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {old + 1}")
