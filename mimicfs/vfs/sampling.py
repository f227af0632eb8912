"""The names of a directory that say most about whether anything is stored with its objects, and
what they say.

Pure functions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mimicfs import metadata
from mimicfs.entry import NS, OBJECT, Entry

_SAMPLE = 4  # HEADs for a directory whose objects have nothing stored with them
_MARKED = 100  # objects of one second of which it is noted which they are; 900 bytes
_RICH, _PLAIN = "rich", "plain"


class Verdict(NamedTuple):
    """The verdict about a directory. What S3 was not asked about in a plain one is believed to be
    like the sample if it was there then: if it is older than the second of *newest_ns*, or of that
    second and in *same* (`of_second`). Times of S3 are whole seconds."""

    rich: bool
    newest_ns: int = 0
    same: str = ""

    @classmethod
    def of(cls, text: str | None) -> Verdict | None:
        kind, _, rest = (text or "").partition(" ")
        if kind == _RICH:
            return cls(True)
        newest, _, same = rest.partition(" ")
        return cls(False, int(newest), same) if kind == _PLAIN and newest.isdecimal() else None

    @property
    def text(self) -> str:
        return _RICH if self.rich else f"{_PLAIN} {self.newest_ns} {self.same}"

    def news(self, entries: list[Entry]) -> list[Entry]:
        """Return those of *entries*, all of the directory, that may have come since."""
        second = self.newest_ns // NS
        later = [entry for entry in entries if entry.mtime_ns // NS > second]
        if of_second(entries, second) == self.same:
            return later
        there = self.same.split(",")
        return later + [each for each in _of(entries, second) if _mark(each) not in there]


def of_second(entries: Iterable[Entry], second: int) -> str:
    """Return what tells which objects *entries* have of that second. Each has a mark, so that those
    that went since change nothing; more than _MARKED have one in common. What is known to have
    metadata is left out."""
    marks = sorted(_mark(entry) for entry in _of(entries, second))
    text = ",".join(marks)
    return text if len(marks) <= _MARKED else f"{zlib.crc32(text.encode()):08x}"


def _of(entries: Iterable[Entry], second: int) -> list[Entry]:
    return [
        entry
        for entry in entries
        if entry.mtime_ns // NS == second and entry.kind == OBJECT and not entry.meta
    ]


def _mark(entry: Entry) -> str:
    text = f"{entry.key}\0{entry.etag}"
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


class DirectorySample(NamedTuple):
    """The sample that tells what a directory of a bucket (*where*) is: of *entries*, those with
    *keys* are asked, of those with unknown metadata the newest is of *newest_ns*.

    *before*: the verdict until now. *rich*: it is known without a question."""

    where: tuple[str, str]
    before: Verdict | None
    entries: list[Entry]
    keys: list[str]
    rich: bool
    newest_ns: int = -1

    def verdict(self, *, rich: bool) -> Verdict:
        newest_ns = max(self.newest_ns, 0)
        return Verdict(rich, newest_ns, "" if rich else of_second(self.entries, newest_ns // NS))


def any_rich(entries: Iterable[Entry]) -> bool:
    return any(metadata.is_there(entry.meta or {}) for entry in entries)


def sample(key: str, directory: str, unknown: list[Entry]) -> list[str]:
    """Return the keys that tell most about whether *unknown* have metadata, *key* first."""
    keys = dict.fromkeys([key] if key else [])
    for entry in _telling(directory, unknown):
        keys.setdefault(entry.key)
        if len(keys) >= _SAMPLE:
            break
    return list(keys)[:_SAMPLE]


def _telling(directory: str, unknown: list[Entry]) -> Iterator[Entry]:
    """Yield *unknown*, those that tell most first: the directory's own marker, the smallest (it may
    be a link), the newest (it may be from a mount), an empty one (a pipe), a subdirectory; then the
    small ones."""
    objects = [entry for entry in unknown if entry.kind == OBJECT]
    yield from (entry for entry in objects if entry.key == directory)
    small = sorted((entry for entry in objects if entry.size), key=lambda entry: entry.size)
    yield from small[:1]
    if objects:
        yield max(objects, key=lambda entry: entry.mtime_ns)
    yield from [entry for entry in objects if not entry.size][:1]
    yield from [entry for entry in unknown if entry.kind != OBJECT][:1]
    yield from small[1:_SAMPLE]
    yield from unknown[:_SAMPLE]


def found_plain(note: str | None) -> int:
    """Return how many directories were found plain by *note* of a bucket; -1: one is rich."""
    text = note or "0"
    return int(text) if text.isdecimal() else -1
