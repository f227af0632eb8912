"""The objects of the bench's S3 server: buckets, sorted keys, listing pages and bodies.

Most objects are *synthetic*: their size, etag and time follow from the key, and their body is
a window of one shared pattern, so that a million of them cost one string each. Objects that a
client wrote are held in memory as the buffers in which they arrived.

Threading: everything here runs on the one thread of the server.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape
from zlib import crc32

# A prime length: two offsets that a client mixed up do not show the same bytes. It is small
# enough for the processor's cache, so that serving costs the machine little.
PATTERN_SIZE = 4_194_301
PART_SIZE = 16 << 20  # synthetic objects from here on were uploaded in parts
EPOCH_S = 1_700_000_000  # synthetic objects are some days younger than this
PAGES_MAX = 2_000  # listing pages kept; a page of 1,000 keys is about 200 KiB


class Window(NamedTuple):
    """A run of pattern bytes: where it begins in the pattern's file, and its length."""

    offset: int
    size: int


Segment = memoryview | Window


def make_pattern() -> int:
    """Return a descriptor of a memory file that holds the pattern twice, end to end."""
    block = b"".join(crc32(i.to_bytes(4, "little")).to_bytes(4, "little") for i in range(1 << 20))
    pattern = block[:PATTERN_SIZE]
    descriptor = os.memfd_create("bench-pattern")
    for part in (pattern, pattern):
        os.write(descriptor, part)
    return descriptor


def synthetic_size(key: str, mark: int) -> int:
    """Return the size in bytes of a synthetic object: `name@SIZE` says it, else some KiB."""
    return int(key.rpartition("@")[2]) if "@" in key else 1_000 + mark % 9_000


def synthetic_mtime_s(mark: int) -> int:
    """Return when the synthetic object of that checksum was changed, in seconds since 1970."""
    return EPOCH_S + mark % 14_400 * 60


@dataclass(slots=True)
class Object:
    """One object. *parts* None: the body is the pattern from *start* on."""

    size: int
    etag: str  # bare
    mtime_s: float
    headers: dict[str, str] = field(default_factory=dict)  # content-type, x-amz-meta-*, ...
    parts: list[memoryview] | None = None
    start: int = 0

    def body(self, first: int, size: int) -> list[Segment]:
        """Return the segments that make up *size* bytes from byte *first* on."""
        if self.parts is None:
            return self._windows(first, size)
        segments: list[Segment] = []
        for part in self.parts:
            if first < len(part) and size > 0:
                piece = part[first : first + size]
                segments.append(piece)
                size -= len(piece)
            first = max(0, first - len(part))
        return segments

    def _windows(self, first: int, size: int) -> list[Segment]:
        segments: list[Segment] = []
        while size > 0:
            offset = (self.start + first) % PATTERN_SIZE
            run = min(size, 2 * PATTERN_SIZE - offset)
            segments.append(Window(offset, run))
            first += run
            size -= run
        return segments


def synthetic(key: str) -> Object:
    """Return the object that belongs to *key* in a synthetic key space."""
    mark = crc32(key.encode())
    size, mtime_s = synthetic_size(key, mark), synthetic_mtime_s(mark)
    return Object(size, synthetic_etag(mark, size), mtime_s, start=mark % PATTERN_SIZE)


def synthetic_etag(mark: int, size: int) -> str:
    """Return the bare etag of a synthetic object: of a multipart upload if it is large.

    A small one has the form of an MD5 but is none (hashing 100,000 bodies to list them would
    take a second). With a multipart etag, rclone would send a HEAD more for every file.
    """
    return f"{mark:08x}" * 4 + (f"-{size // PART_SIZE + 1}" if size >= PART_SIZE else "")


class Listing(NamedTuple):
    """One page: fragments of XML in key order, and where the next page begins."""

    contents: list[str]
    prefixes: list[str]
    last: str  # the last key or common prefix on the page
    truncated: bool


class Bucket:
    """Keys in order, and the objects that are not synthetic."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created_s = time.time()
        self.keys: list[str] = []
        self.objects: dict[str, Object] = {}
        self.pages: dict[str, bytes] = {}  # finished pages by query; emptied by every change
        self.rendered: list[str] | None = None  # of each key, what a page says; see `render`
        self.versions = 0  # of each key (s3versions.py); 0: none are kept

    def get(self, key: str) -> Object | None:
        """Return the object at *key*, or None."""
        found = self.objects.get(key)
        if found is None and self._has(key):
            return synthetic(key)
        return found

    def put(self, key: str, value: Object) -> None:
        """Store *value* at *key*."""
        if not self._has(key):
            insort(self.keys, key)
        self.objects[key] = value
        self._changed()

    def delete(self, key: str) -> None:
        """Remove *key*; nothing happens when it is not there."""
        if self._has(key):
            del self.keys[bisect_left(self.keys, key)]
        self.objects.pop(key, None)
        self._changed()

    def fill(self, keys: list[str]) -> None:
        """Add synthetic objects."""
        self.keys = sorted(set(self.keys).union(keys))
        self._changed()

    def change(self, every: int) -> None:
        """Of one key in *every*, change the content; remove as many keys, and add as many."""
        changed, removed = self.keys[::every], set(self.keys[every // 2 :: every])
        for key in changed:
            self.objects[key] = Object(7, "c" * 32, time.time())
        added = [f"{key}~" for key in self.keys[every // 3 :: every]]
        self.keys = sorted({*self.keys, *added} - removed)
        self._changed()

    def _changed(self) -> None:
        self.pages.clear()
        self.rendered = None

    def render(self) -> None:
        """Prepare what pages say, until something changes: a page then takes 0.1 ms, not 5."""
        self.rendered = [self._contents(key, True) for key in self.keys]

    def count(self, prefix: str) -> tuple[int, int]:
        """Return how many keys begin with *prefix*, and the bytes of those that were written."""
        keys = self.keys[bisect_left(self.keys, prefix) : self._end(prefix)]
        written = [self.objects[key] for key in keys if key in self.objects]
        return len(keys), sum(found.size for found in written)

    def clear(self, prefix: str) -> None:
        """Remove every key below *prefix*."""
        first, end = bisect_left(self.keys, prefix), self._end(prefix)
        for key in self.keys[first:end]:
            self.objects.pop(key, None)
        del self.keys[first:end]
        self._changed()

    def list(self, prefix: str, delimiter: str, after: str, limit: int, encode: bool) -> Listing:
        """Return up to *limit* keys and common prefixes below *prefix* that follow *after*.

        A common prefix that is not greater than *after* is not shown, as with moto and rclone.
        """
        end = self._end(prefix)
        index = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after) if after else 0)
        if delimiter:
            return self._grouped(prefix, delimiter, after, limit, encode, index, end)
        chosen = self.keys[index : min(index + limit, end)]
        if encode and self.rendered is not None:
            contents = self.rendered[index : index + len(chosen)]
        else:
            contents = [self._contents(key, encode) for key in chosen]
        return Listing(contents, [], chosen[-1] if chosen else "", index + limit < end)

    def _grouped(
        self,
        prefix: str,
        delimiter: str,
        after: str,
        limit: int,
        encode: bool,
        index: int,
        end: int,
    ) -> Listing:
        keys, contents, prefixes, last = self.keys, list[str](), list[str](), ""
        while index < end and len(contents) + len(prefixes) < limit:
            key = keys[index]
            cut = key.find(delimiter, len(prefix))
            if cut < 0:
                contents.append(self._contents(key, encode))
                last = key
                index += 1
                continue
            group = key[: cut + len(delimiter)]
            index = bisect_left(keys, _successor(group), index, end)
            if group > after:
                prefixes.append(
                    f"<CommonPrefixes><Prefix>{_name(group, encode)}</Prefix></CommonPrefixes>"
                )
                last = group
        return Listing(contents, prefixes, last, index < end)

    def _contents(self, key: str, encode: bool) -> str:
        found = self.objects.get(key)
        if found is None:
            mark = crc32(key.encode())
            size, mtime_s = synthetic_size(key, mark), synthetic_mtime_s(mark)
            etag = synthetic_etag(mark, size)
        else:
            size, etag, mtime_s = found.size, found.etag, int(found.mtime_s)
        return (
            f"<Contents><Key>{_name(key, encode)}</Key><LastModified>{iso_date(mtime_s)}"
            f"</LastModified><ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _has(self, key: str) -> bool:
        index = bisect_left(self.keys, key)
        return index < len(self.keys) and self.keys[index] == key

    def _end(self, prefix: str) -> int:
        return bisect_left(self.keys, _successor(prefix)) if prefix else len(self.keys)


def flat_keys(prefix: str, count: int) -> list[str]:
    """Return the keys of *count* files in one directory."""
    return [f"{prefix}file-{i:07d}.dat" for i in range(count)]


def tree_keys(prefix: str, depth: int, fanout: int, files: int) -> list[str]:
    """Return the keys of a tree: *fanout* directories in each, *files* files in the deepest."""
    directories = [prefix]
    for _ in range(depth):
        directories = [f"{parent}d{i}/" for parent in directories for i in range(fanout)]
    return [f"{parent}file-{i}.dat" for parent in directories for i in range(files)]


def sized_keys(prefix: str, count: int, size: int) -> list[str]:
    """Return the keys of *count* files of exactly *size* bytes each."""
    return [f"{prefix}file-{i:05d}@{size}" for i in range(count)]


_dates: dict[int, str] = {}


def iso_date(mtime_s: int) -> str:
    """Return a time as listings show it; strftime costs 2 us, so the answers are kept."""
    if mtime_s not in _dates:
        _dates[mtime_s] = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(mtime_s))
    return _dates[mtime_s]


def http_date(mtime_s: float) -> str:
    """Return a time as HTTP headers show it."""
    return formatdate(mtime_s, usegmt=True)


def _name(key: str, encode: bool) -> str:
    return quote(key, safe="/-_.~") if encode else escape(key)


def _successor(prefix: str) -> str:
    """Return the least string that is greater than everything beginning with *prefix*."""
    last = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)
