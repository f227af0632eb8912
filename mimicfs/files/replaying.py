"""What a segment that a dead mount left says of its files (segment.py).

A power cut tears the end of a segment: entries that were not safe by then may be there or not.
Anything else that cannot be believed is damage, and may have said that files were done. So files
that begin before the damage are not believed, nor are those that lack an entry. But only other
records follow a record that promises the bytes, and each of them says everything: of these, the
last one counts.

Pure functions of the bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mimicfs.files.segment import MARK, EntryKind, FoundEntry, entry_at


class Left(NamedTuple):
    """A file that is not done: its record, as text, and its bytes. *sound*: all bytes are there."""

    name: str
    text: bytes
    data: bytes
    sound: bool


class Replayed(NamedTuple):
    """What is *left*. *damaged*: there may be more in the segment, for its owner to look at."""

    left: list[Left]
    damaged: bool


_PROMISE = b'"closed": true'  # in a record; quotes within its values are escaped


class _Remains:
    def __init__(self) -> None:
        self.text = b""
        self.data = bytearray()
        self.promised = False
        self.entries = 0
        self.last = 0  # where the last entry begins
        self.sound = True

    def add(self, place: int, entry: FoundEntry) -> None:
        described = entry.kind == EntryKind.RECORD
        follows = entry.number == self.entries or (described and self.promised)
        self.sound = self.sound and follows
        self.entries, self.last = entry.number + 1, place
        if described:
            self.text = entry.data
            self.promised = self.promised or (self.sound and _PROMISE in entry.data)
        else:
            self.sound = self.sound and entry.start == len(self.data)
            self.data += entry.data


def replayed(data: bytes, path: Path) -> Replayed:
    """Return what is left of the files in the segment *path*, which has *data*."""
    entries, torn = _entries(data, path)
    safe = max((entry.safe for _, entry in entries), default=0)
    damage = max((place for place in torn if place < safe), default=-1)
    files: dict[str, _Remains] = {}
    for place, entry in entries:
        if entry.kind == EntryKind.DONE:
            files.pop(entry.name, None)
        else:
            files.setdefault(entry.name, _Remains()).add(place, entry)
    left = [
        Left(name, each.text, bytes(each.data), each.sound and each.last > damage)
        for name, each in files.items()
    ]
    return Replayed(left, damage >= 0 or not all(each.sound for each in left))


def _entries(data: bytes, path: Path) -> tuple[list[tuple[int, FoundEntry]], list[int]]:
    """Return the entries, and the places where something else is."""
    found, torn, place = list[tuple[int, FoundEntry]](), list[int](), 0
    while place < len(data):
        entry = entry_at(data, place, path)
        if entry is not None:
            found.append((place, entry))
            place = entry.end
            continue
        torn.append(place)
        following = data.find(MARK, place + 1)
        place = len(data) if following < 0 else following
    return found, torn
