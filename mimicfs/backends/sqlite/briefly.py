"""The usual change, in few steps: nobody has an intent of the key, one begins, and it ends with the
object that S3 has stored.

Each step of a statement gives up the interpreter's lock, and the thread gets it back only once
another one lets it go. By writing.py, the intent and the record of one object are some twenty
steps; here they are two. A trigger does what those do. It belongs to the connection, and not to the
file, so that no other program meets it. Where it finds anything but the usual, it changes nothing,
and the caller takes the long way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from mimicfs.backends import pending
from mimicfs.backends.sqlite.database import Database
from mimicfs.backends.sqlite.rows import KIND, row_of
from mimicfs.entry import OBJECT, Entry

_ROWS = 64  # of one statement
_BEGIN = "INSERT INTO pending VALUES(?,?,?)"
_BEGUN = ",(?,?,?)"
_STORE = "INSERT INTO temp.stored VALUES(?,?,?,?,?,?,?,?,?,?,?)"
_STORED = ",(?,?,?,?,?,?,?,?,?,?,?)"
# `said` is pending.alone of the token, and `origin` that of the log. The rest is a row of `entry`.
_TRIGGER = f"""
CREATE TEMP VIEW IF NOT EXISTS stored AS SELECT
    '' AS said, 0 AS origin, bucket, key, size, mtime_ns, etag, storage_class, meta, kind, head
    FROM main.entry;
CREATE TEMP TRIGGER IF NOT EXISTS store INSTEAD OF INSERT ON stored BEGIN
    DELETE FROM pending WHERE bucket=NEW.bucket AND key=NEW.key
        AND substr(row, {pending.ALONE_FROM}, length(NEW.said))=NEW.said;
    SELECT RAISE(ABORT, 'the intent is not as it was begun') WHERE changes()<>1;
    UPDATE bucket SET seq=seq+1,
        objects=objects+1-(SELECT count(*) FROM entry
            WHERE bucket=NEW.bucket AND key=NEW.key AND kind={OBJECT}),
        bytes=bytes+NEW.size-(SELECT coalesce(sum(size), 0) FROM entry
            WHERE bucket=NEW.bucket AND key=NEW.key AND kind={OBJECT})
        WHERE id=NEW.bucket AND known=1;
    SELECT RAISE(ABORT, 'the bucket is not known') WHERE changes()<>1;
    INSERT OR REPLACE INTO entry VALUES(NEW.bucket, NEW.key, NEW.size, NEW.mtime_ns, NEW.etag,
        NEW.storage_class, NEW.meta, NEW.kind, NEW.head);
    INSERT INTO log SELECT id, seq, NEW.key, NULL, NEW.origin FROM bucket WHERE id=NEW.bucket;
END
"""


def begun(db: Database, bucket: int, rows: Sequence[tuple[str, str]]) -> bool:
    """Begin the intents *rows* (key, row) of *bucket*; False: nothing has happened."""
    if not 0 < len(rows) <= _ROWS:
        return False
    values = [each for row in rows for each in (bucket, *row)]
    return db.wrote(_BEGIN + _BEGUN * (len(rows) - 1), values)


def stored(db: Database, bucket: int, puts: Collection[Entry], token: str, origin: int) -> bool:
    """Store *puts*, which end all or a part of the intent *token*; False: nothing has happened."""
    if not 0 < len(puts) <= _ROWS or any(each[KIND] != OBJECT for each in puts):
        return False
    said = pending.alone(token)
    values = [each for put in puts for each in (said, origin, *row_of(bucket, put))]
    return db.wrote(_STORE + _STORED * (len(puts) - 1), values, _teach)


def _teach(db: sqlite3.Connection) -> None:
    """Give *db*, a new connection, the trigger."""
    db.executescript(_TRIGGER)
