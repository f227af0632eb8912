"""The guard against a sync that would delete most of what the mirror knows, because a wrong
endpoint, or wrong rights, show a bucket as it is not.

Such a sync must not have deleted anything when it is found out. So deletions are held back
(beyond some megabytes in a file without a name) until so many keys have been seen in S3 that
at most half of the scope can be missing: from then on there is nothing to ask, and deletions
are made as they are found. Where little is missing, that is after half of the scope. If it
never comes to that, the caller is asked when all is listed.

Some deletions wait for another reason: see *late* in merging.py.

Not thread-safe: the thread that merges uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from tempfile import SpooledTemporaryFile
from typing import NamedTuple

from mimicfs.entry import Entry

KEYS_MIN = 1000  # a scope of no more is not guarded
_MEMORY = 8 << 20  # bytes


class Doomed(NamedTuple):
    """The objects that a sync would delete: *gone* of *known* ones below *prefix*."""

    bucket: str
    prefix: str
    gone: int
    known: int


# Called at the end, when nothing has been deleted: returns whether to go on.
Guard = Callable[[Doomed], bool]


def refuse(_: Doomed) -> bool:
    """A guard that lets nothing pass."""
    return False


class Spool:
    """Entries that are to be deleted later."""

    def __init__(self) -> None:
        self.count = 0
        self._file = SpooledTemporaryFile(_MEMORY, "w+", encoding="ascii")  # noqa: SIM115  see close

    def close(self) -> None:
        """Forget the entries that are left."""
        self._file.close()

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep *entries* until `taken`."""
        self.count += len(entries)
        if entries:
            self._file.write(json.dumps(entries) + "\n")

    def taken(self) -> Iterator[list[Entry]]:
        """Yield all entries, and empty the spool."""
        self._file.seek(0)
        for line in self._file:
            yield [Entry(*row) for row in json.loads(line)]
        self._file.seek(0)
        self._file.truncate()
        self.count = 0


class Held:
    """Deletions in a scope in which the mirror knows *known* objects."""

    def __init__(self, known: int) -> None:
        self.known = known
        self.spool = Spool()
        self._seen = 0

    @property
    def holds(self) -> bool:
        """Whether deletions must be held back."""
        return self._seen * 2 < self.known

    def saw(self, count: int) -> None:
        """Note that S3 has *count* more of the objects."""
        self._seen += count
