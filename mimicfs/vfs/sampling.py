"""The names of a directory that say most about whether anything is stored with its objects.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mimicfs import metadata
from mimicfs.entry import OBJECT, Entry

_SAMPLE = 4  # HEADs for a directory whose objects have nothing stored with them


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
