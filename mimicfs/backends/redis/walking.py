"""Reads many names of Redis in order: those of one directory, and all names below a directory.

Threading: none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mimicfs.backends.redis.layout import LAST, entry_of
from mimicfs.entry import PAGE, Entry

_PAGE_MIN = 100  # names that are read even if fewer are asked for: a chunk has as many

# For one bucket: (directory, low, high, limit) -> the first *limit* names from *low* up to *high*,
# with their records.
ReadPage = Callable[[str, bytes, bytes, int], list[tuple[str, bytes]]]


def walk(read: ReadPage, directory: str, prefix: str, after: str, wanted: int) -> Iterator[Entry]:
    """Yield the entries below *directory* that begin with *prefix* and come after *after*.

    The walk goes depth first: names in order, and the own entry of each subdirectory before its
    contents. *wanted* is the number of entries that the caller is likely to take.
    """
    size = min(max(wanted, _PAGE_MIN), PAGE)
    start = max(prefix, after)[len(directory) :] if max(prefix, after) > directory else ""
    head, slash, _ = start.partition("/")
    low = (head + slash).encode()
    high = prefix[len(directory) :].partition("/")[0].encode() + LAST
    for name, record in names(read, directory, low, high, size):
        key = directory + name
        if not key.startswith(prefix[: len(key)]):
            if key > prefix:
                return
            continue
        if record and key > after and key.startswith(prefix):
            yield entry_of(key, record)
        if name.endswith("/"):
            yield from walk(read, key, prefix, after, wanted)


def names(
    read: ReadPage, directory: str, low: bytes = b"", high: bytes = LAST, size: int = PAGE
) -> Iterator[tuple[str, bytes]]:
    """Yield the names from *low* up to *high*, with their records, read *size* at a time."""
    while True:
        page = read(directory, low, high, size)
        yield from page
        if len(page) < size:
            return
        last, _ = page[-1]
        low = last.encode() + b"\0"
