"""Changes of scopes, made within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mimicfs.backends.sqlite.directories import read_children
from mimicfs.backends.sqlite.rows import scope_of, successor
from mimicfs.backends.uncovering import LEFT_MAX, uncovered
from mimicfs.entry import Scope

SCOPES = (
    "SELECT prefix, deep, listed_ns, duration_ns, added, changed, deleted, names FROM scope"
    " WHERE bucket=?"
)
SCOPE = f"{SCOPES} AND prefix=?"
PUT_SCOPE = "INSERT OR REPLACE INTO scope VALUES(?,?,?,?,?,?,?,?,?)"
_SHOWS = "SELECT 1 FROM entry WHERE bucket=? AND key>=? AND key<? LIMIT 1"


def covering(directory: str) -> tuple[str, list[str]]:
    """Return the statement that selects the newest scope that covers the children of *directory*,
    and its values behind the number of the bucket."""
    cuts = [n + 1 for n, letter in enumerate(directory) if letter == "/"]
    above = ["", *(directory[:cut] for cut in cuts[:-1])]
    sql = (
        f"{SCOPES} AND (prefix=? OR deep=1 AND prefix IN"
        f" ({','.join('?' * len(above))})) ORDER BY listed_ns DESC LIMIT 1"
    )
    return sql, [directory, *above]


def drop_scopes(db: sqlite3.Connection, bucket: int, prefix: str) -> None:
    """Drop the scopes at and below *prefix*."""
    end = successor(prefix)
    if end is None:
        db.execute("DELETE FROM scope WHERE bucket=?", (bucket,))
    else:
        db.execute(
            "DELETE FROM scope WHERE bucket=? AND prefix>=? AND prefix<?", (bucket, prefix, end)
        )


def unmark(db: sqlite3.Connection, bucket: int, prefix: str) -> None:
    """Do as Backend.unmark."""

    def scopes(prefixes: Sequence[str]) -> dict[str, Scope]:
        rows = [db.execute(SCOPE, (bucket, each)).fetchone() for each in prefixes]
        return {row[0]: scope_of(row) for row in rows if row is not None}

    def names(directory: str) -> list[str]:
        start = directory + "\0" if directory else ""
        found = read_children(db, bucket, directory, start, LEFT_MAX, seeks=True) or []
        return [entry.key for entry in found]

    def shows(directory: str) -> bool:
        asked = (bucket, directory, successor(directory))
        return db.execute(_SHOWS, asked).fetchone() is not None

    after = uncovered(prefix, scopes, names, shows)
    drop_scopes(db, bucket, prefix)
    for each, scope in after.items():
        if scope is None:
            db.execute("DELETE FROM scope WHERE bucket=? AND prefix=?", (bucket, each))
        else:
            db.execute(PUT_SCOPE, (bucket, *scope))
