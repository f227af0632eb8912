"""Listings of directories before they are asked for, for a store that is ordered by key.

`find`, `du` and `rsync` read directories in the order of their keys. In a flat table the rows
behind a directory's are those of the directories that they will read next: one scan of 1,000
rows answers about a hundred of them, where each by itself costs a statement, and each of its
subdirectories another (measured: 100 us for a directory, 20 us from a scan).

Rows that were read ahead are valid for one state of the store, which the caller names by `version`.

Threading: no locks; one `Ahead` a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mimicfs.entry import LISTED, Entry

_ROWS_MIN, _ROWS_MAX = 64, 1000
_WALK = 3  # after so many directories in order, a reader is taken to walk the tree

Scan = Callable[[str, int], list[Entry]]  # (key, most): the entries behind *key*, in order


class Ahead:
    """The entries that one thread has read ahead, in one bucket at a time."""

    def __init__(self) -> None:
        self._state: tuple[str, int] = ("", 0)  # the bucket and version to which the rest belongs
        self._rows = Rows("")
        self._last = ""  # the directory that was read last
        self._own: tuple[str, Entry | None] | None = None  # of the directory that was taken last
        self._run = 0  # how many were read in order up to that one

    def take(
        self, state: tuple[str, int], directory: str, limit: int, scan: Scan
    ) -> list[Entry] | None:
        """Return the children of *directory* in *state*, a bucket and its version; None if they
        must be read by themselves."""
        if self._state != state:
            self._state = state
            self._rows = Rows("")
            self._run = min(self._run, _WALK - 1)  # what is read ahead may be in vain again
        self._run = self._run + 1 if directory > self._last else 0
        self._last = directory
        self._own = None
        found = self._rows.whole.pop(directory, None)
        if found is None and self._run >= _WALK and directory:
            found = self._read_on(directory, scan)
        if found is not None and directory != self._rows.first:
            self._own = directory, self._rows.own.pop(directory, None)
        return found if found is None or len(found) < limit else None

    def own(self, state: tuple[str, int], directory: str) -> tuple[bool, Entry | None]:
        """Return whether the entry of *directory* itself is known, because its children were taken
        last, and the entry."""
        taken, entry = self._own or (None, None)
        known = self._state == state and taken == directory
        return known, entry if known else None

    def _read_on(self, directory: str, scan: Scan) -> list[Entry] | None:
        most = min(_ROWS_MIN << self._run - _WALK, _ROWS_MAX)
        if not self._rows.within(directory):
            self._rows = Rows(directory)
        # A walk does not come back to what lies before it.
        self._rows.drop_before(directory)
        rows = scan(self._rows.last, most)
        self._rows.add(rows, ended=len(rows) < most)
        return self._rows.whole.pop(directory, None)


class Rows:
    """A run of entries, in order, from *directory* on, cut into directories.

    `whole` has the directories of which all children have been seen, and these as
    Backend.children has them. `last` is the key to go on from.
    """

    def __init__(self, directory: str) -> None:
        self.whole: dict[str, list[Entry]] = {}
        # The entries of those directories themselves, and of those that go on. A directory without
        # one here has none in the store, unless it is the first.
        self.own: dict[str, Entry] = {}
        self.first = self.last = directory
        # The directories of the last row, from the top, and what was seen of them. Those above
        # *directory* began before the first row: None.
        parts = directory.split("/")[:-1]
        above = ["/".join(parts[:count]) + "/" for count in range(1, len(parts))]
        self._inside: list[tuple[str, list[Entry] | None]] = [("", None)]
        self._inside += [(name, None) for name in above]
        if directory:
            self._inside.append((directory, []))

    def within(self, directory: str) -> bool:
        """Whether *directory* has begun, and will be whole when more rows are seen."""
        return any(name == directory and seen is not None for name, seen in self._inside)

    def drop_before(self, directory: str) -> None:
        """Forget the directories up to *directory*, which is behind them in the order of keys;
        not those that go on, which will be whole later."""
        self.whole = {name: seen for name, seen in self.whole.items() if name > directory}
        going_on = {name for name, _ in self._inside}
        kept = {name for name in self.own if name >= directory or name in going_on}
        self.own = {name: self.own[name] for name in kept}

    def add(self, rows: Iterable[Entry], *, ended: bool) -> None:
        """Take the entries behind `last`; *ended*: there are no more in the bucket."""
        place, children = self._inside[-1]
        for row in rows:
            key = self.last = row.key
            while not key.startswith(place):
                if children is not None:
                    self.whole[place] = children
                self._inside.pop()
                place, children = self._inside[-1]
            slash = key.find("/", len(place))
            while slash >= 0:  # into each subdirectory on the way to this row
                below = key[: slash + 1]
                if children is not None:
                    children.append(row if below == key else Entry(below, kind=LISTED))
                place, children = below, []
                self._inside.append((place, children))
                slash = key.find("/", slash + 1)
            if key == place:
                self.own[place] = row
            elif children is not None:
                children.append(row)
        if ended:
            self.whole.update((name, seen) for name, seen in self._inside if seen is not None)
            self._inside = [("", None)]
