"""The names of a directory that say most about whether anything is stored with its objects, and
what they say.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mimicfs import metadata
from mimicfs.entry import OBJECT, Entry

_SAMPLE = 4  # HEADs for a directory whose objects have nothing stored with them
_RICH, _PLAIN = "rich", "plain"


class Verdict(NamedTuple):
    """The verdict about a directory. What S3 was not asked about in a plain one is believed to be
    like the sample if it is not newer than *newest_ns*."""

    rich: bool
    newest_ns: int = 0

    @classmethod
    def of(cls, text: str | None) -> Verdict | None:
        kind, _, newest = (text or "").partition(" ")
        if kind == _RICH:
            return cls(True)
        return cls(False, int(newest)) if kind == _PLAIN and newest.isdecimal() else None

    @property
    def text(self) -> str:
        return _RICH if self.rich else f"{_PLAIN} {self.newest_ns}"


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
