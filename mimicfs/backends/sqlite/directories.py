"""Reads a directory of the flat table, with a seek past each of its subdirectories."""

from __future__ import annotations

import sqlite3

from mimicfs.backends.sqlite.rows import BETWEEN, FROM, KEY, META, entry_of, make
from mimicfs.entry import LISTED, Entry


def read_children(
    db: sqlite3.Connection, bucket: int, directory: str, start: str, limit: int, *, seeks: bool
) -> list[Entry] | None:
    """Return the children from key *start*; None if that takes more than one statement
    and *seeks* is not set."""
    end = directory[:-1] + "0"
    cut = len(directory)
    found: list[Entry] = []
    # Rows beyond the first one of a subdirectory are fetched in vain. So we fetch few at a time
    # where there are subdirectories, and more and more where there are none.
    size = 16
    while True:
        values = (bucket, start, end) if directory else (bucket, start)
        rows = db.execute(BETWEEN if directory else FROM, values)
        while page := rows.fetchmany(asked := min(size, limit - len(found))):
            size = min(2 * size, 2048)
            for row in page:
                slash = row[KEY].find("/", cut)
                if slash >= 0:
                    break
                found.append(make(row) if row[META] is None else entry_of(row))
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
        name = row[KEY][: slash + 1]
        found.append(entry_of(row) if row[KEY] == name else Entry(name, kind=LISTED))
        if len(found) == limit:
            return found
        start, size = name[:-1] + "0", 4
