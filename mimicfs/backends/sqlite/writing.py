"""The statements of a change: records, totals, intents and the log, within one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain

from mimicfs.backends.pending import LEARNED, IntentStep, admitted
from mimicfs.backends.sqlite.rows import (
    PUT,
    PUT_ROWS,
    ROWS,
    keep_pending,
    pending_of,
    row_of,
    totals,
)
from mimicfs.entry import OBJECT, Change, Entry
from mimicfs.errors import LogTrimmed


def store(
    db: sqlite3.Connection, bucket: int, puts: dict[str, Entry], deletes: list[str]
) -> tuple[int, int]:
    """Store and delete entries; return how many objects, and bytes, the bucket then has more."""
    objects, size = totals(db, bucket, [*puts, *deletes])
    put(db, bucket, puts, deletes)
    new = [entry.size for entry in puts.values() if entry.kind == OBJECT]
    return len(new) - objects, sum(new) - size


def put(
    db: sqlite3.Connection, bucket: int, puts: Mapping[str, Entry], deletes: Sequence[str]
) -> None:
    """Store and delete entries."""
    if deletes:
        db.executemany(
            "DELETE FROM entry WHERE bucket=? AND key=?", [(bucket, key) for key in deletes]
        )
    rows = [row_of(bucket, entry) for entry in puts.values()]
    for at in range(0, len(rows) - ROWS + 1, ROWS):
        db.execute(PUT_ROWS, list(chain.from_iterable(rows[at : at + ROWS])))
    db.executemany(PUT, rows[len(rows) // ROWS * ROWS :])


def learn_plain(db: sqlite3.Connection, bucket: int, entries: Sequence[Entry]) -> None:
    """Note that the metadata of *entries* is {}, if the table still has them as they were."""
    rows = [(bucket, each.key, each.etag, each.size, each.mtime_ns) for each in entries]
    db.executemany(
        "UPDATE entry SET meta='{}' WHERE bucket=? AND key=? AND etag=? AND size=? AND mtime_ns=?"
        f" AND meta IS NULL AND kind={OBJECT}",
        rows,
    )


def not_admitted(
    db: sqlite3.Connection, bucket: int, keys: list[str], step: IntentStep, left: set[str]
) -> set[str]:
    before = pending_of(db, bucket, keys)
    if not before and step == LEARNED:
        return left
    steps = {key: admitted(before.get(key), step, guarded=key in left) for key in keys}
    keep_pending(db, bucket, before, {key: row for key, (_, row) in steps.items()})
    return {key for key, (stored, _) in steps.items() if not stored}


def swapped(
    db: sqlite3.Connection, bucket: int, name: str, before: str | None, after: str | None
) -> tuple[bool, str | None]:
    """Do what Backend.swap_note does, but for the log."""
    place = (bucket, name)
    row = db.execute("SELECT text FROM note WHERE bucket=? AND name=?", place).fetchone()
    now: str | None = row[0] if row else None
    if now != before:
        return False, now
    db.execute("DELETE FROM note WHERE bucket=? AND name=?", place)
    if after is not None:
        db.execute("INSERT INTO note VALUES(?,?,?)", (*place, after))
    return True, after


def drop(db: sqlite3.Connection, bucket: int) -> None:
    """Forget what is known of the bucket. Its numbers go on."""
    for table in ("entry", "scope", "log", "note", "pending"):
        db.execute(f"DELETE FROM {table} WHERE bucket=?", (bucket,))
    db.execute("UPDATE bucket SET known=0, objects=0, bytes=0, seq=seq+1 WHERE id=?", (bucket,))
    db.execute("INSERT OR REPLACE INTO born SELECT id, seq FROM bucket WHERE id=?", (bucket,))


def check_life(db: sqlite3.Connection, bucket: str, number: int, since: int) -> None:
    """Raise LogTrimmed if the bucket was dropped after number *since*."""
    sql = (
        "SELECT coalesce(born.seq, 0), bucket.seq FROM bucket"
        " LEFT JOIN born ON born.bucket=bucket.id WHERE bucket.id=?"
    )
    born, seq = db.execute(sql, (number,)).fetchone()
    if not born <= since <= seq:
        raise LogTrimmed.after(since, bucket)


def logged(
    db: sqlite3.Connection, bucket: str, number: int, since: int, limit: int
) -> list[Change]:
    sql = "SELECT coalesce(max(seq), 0) FROM bucket WHERE id=?"
    (last,) = db.execute(sql, (number,)).fetchone()
    if since == last:
        return []
    rows = db.execute(
        "SELECT seq, first, last, origin FROM log WHERE bucket=? AND seq>? ORDER BY seq LIMIT ?",
        (number, since, limit),
    ).fetchall()
    changes = [Change(seq, key, upto or key, origin) for seq, key, upto, origin in rows]
    if since > last or not changes or changes[0].seq != since + 1:
        raise LogTrimmed.after(since, bucket)
    return changes
