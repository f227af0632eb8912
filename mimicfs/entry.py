"""The values that the mirror holds and that its layers hand to each other."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

# The kinds of entries (Entry.kind).
OBJECT = 0  # an object in S3. A key that ends in "/" is a directory's marker object
LISTED = 1  # no object: S3 showed this directory (a CommonPrefix), its keys are not known
KEPT = 2  # no object: a directory emptied or made through the mount, kept until removed


# Sizes and times are believed within these limits. S3 has objects up to 50 TB; stores, and the
# kernel, have 64 bits, also for the sum of a bucket.
SIZE_MAX = 1 << 50  # bytes
TIME_MAX_NS = (1 << 63) - 1  # in the year 2262
KEY_MAX = 1024  # bytes of a key in UTF-8 (S3 user guide, "Naming Amazon S3 objects")
LIST_MAX = 1000  # keys of one answer to a LIST (S3 API reference, "ListObjectsV2": MaxKeys)
LAST_KEY = "\U0010ffff" * (KEY_MAX // 4)  # behind every key, and every name
# The entries of the mirror that are read at a time by default: as many as a LIST has.
PAGE = LIST_MAX
LINES = 10_000  # of a log, read at a time by default
NS = 1_000_000_000  # nanoseconds in a second
DAY_S = 86_400
MONTH_S = 30 * DAY_S
PERIODS_S: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def clamped_ns(at: datetime) -> int:
    """Return the ns of *at*, or the nearest time that a store can hold. (Some servers give the year
    1 to say that they do not know.)"""
    whole = at.replace(microsecond=0, tzinfo=at.tzinfo or UTC)
    ns = (whole - EPOCH) // timedelta(seconds=1) * NS + at.microsecond * 1000
    return max(-TIME_MAX_NS, min(TIME_MAX_NS, ns))


def whole_seconds_ns(at: datetime) -> int:
    """Return the ns of *at* in whole seconds, as a header has it; clamped, too."""
    return clamped_ns(at.replace(microsecond=0))


def in_utf8(header: str) -> str:
    """Return as UTF-8 a *header* that a parser of HTTP has read as Latin-1; as it came if it is no
    UTF-8."""
    if not header.isascii():
        with suppress(UnicodeError):
            return header.encode("latin-1").decode()
    return header


def unquoted(etag: str | None) -> str:
    """Return an ETag as the mirror holds it: without its quotes, and without what a proxy on the
    way has put before it (W/"...") or behind it ("...";charset=utf-8); "" where S3 gave none."""
    bare = (etag or "").strip().removeprefix("W/").strip('"')
    return bare if '"' not in bare else bare.partition('"')[0]


def is_directory_bucket(bucket: str) -> bool:
    """Whether *bucket* is one of S3 Express, whose listings have no order and know no
    StartAfter."""
    return bucket.endswith("--x-s3")


def name_of(key: str) -> str:
    """Return the part of *key* behind its last "/"."""
    return key.rpartition("/")[2]


def checked_size(size: int) -> int:
    """Return *size*. Raises ValueError if no object can have it."""
    if not 0 <= size <= SIZE_MAX:
        raise ValueError(f"a size of {size} bytes")
    return size


class Entry(NamedTuple):
    """One key of a bucket, or a directory that has no object.

    A directory's key ends in "/". Times are S3's LastModified.
    """

    key: str
    size: int = 0  # bytes
    mtime_ns: int = 0
    etag: str = ""  # bare, without quotes; "" where S3 gave none
    storage_class: str = ""  # "" is STANDARD
    meta: Mapping[str, str] | None = None  # user metadata, names in lower case; None: not known
    kind: int = OBJECT
    head: str | None = (
        None  # what a HEAD says besides, as mimicking/answers.py writes it; None: not known
    )


# The object of a name, and the subdirectory of that name.
OfName = tuple[Entry | None, Entry | None]


def is_file(entry: Entry) -> bool:
    """Whether *entry* is shown as a file: an object, but for a directory's empty marker."""
    return entry.kind == OBJECT and (entry.size > 0 or not entry.key.endswith("/"))


OWN = ".mimicfs-"  # the names begin so that mimicfs itself makes (s3/requests/ownkeys.py)
TRIAL_MAX_S = 3600  # longer than it takes to try what a server does
_PROBE = rf"{re.escape(OWN)}[0-9a-f]{{32}}"


def is_probe(entry: Entry) -> bool:
    """Whether *entry* is an object with which mimicfs tries what a server does, and deletes it
    again: it is nobody's. One that is older than an hour was left by a process that died."""
    if OWN not in entry.key or not re.fullmatch(_PROBE, name_of(entry.key)):
        return False
    return time.time_ns() - entry.mtime_ns < TRIAL_MAX_S * NS


def without_probes(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return *entries* but for the probes (`is_probe`), of which there is hardly ever one."""
    if OWN not in "\n".join([entry.key for entry in entries]):
        return entries
    return [entry for entry in entries if not is_probe(entry)]


def pages(
    read: Callable[[str], Sequence[Entry]], after: str = "", size: int = PAGE
) -> Iterator[Sequence[Entry]]:
    """Yield the page that *read* returns for the keys behind *after*, then the one behind its last
    key, and so on. A page of fewer than *size* entries is the last one; no page is empty."""
    while page := read(after):
        yield page
        if len(page) < size:
            return
        after = page[-1].key


class Total(NamedTuple):
    """The total of a directory: how many files are below it (`is_file`), and their bytes."""

    files: int = 0
    bytes: int = 0


class BucketEntry(NamedTuple):
    """A bucket as the mirror knows it. The totals count objects, not directories."""

    name: str
    created_ns: int
    objects: int = 0
    bytes: int = 0
    seq: int = 0  # the number of its latest change


class Scope(NamedTuple):
    """A part of a bucket that was listed to its end.

    *prefix* is "" (the whole bucket) or ends in "/". A deep scope covers every key below it,
    another one its direct children. A key inside a scope that the mirror does not have was not in
    S3 at *listed_ns*, when the listing began.
    """

    prefix: str
    deep: bool
    listed_ns: int
    duration_ns: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    names: int = 0  # how many were listed; 0: nobody counted them


class DirectorySeen(NamedTuple):
    """What the store had of a directory that nobody had listed, at number *since* of the log or
    later: its own entry, and all its children."""

    since: int
    own: Entry | None
    rows: list[Entry]


class DirectoryCopy(NamedTuple):
    """The parts of a directory that are copied: its scope, its first page, and its note."""

    scope: Scope | None
    rows: list[Entry]
    note: str | None


class OwnChange(NamedTuple):
    """What a store did when it took a change: the number of the log *before* it, how many *lines*
    the log has of it, and the names that came and went: *made*, the directories that are there now
    only because of what is in them, and *gone*, those that were deleted, and the directories that
    went with the last name in them."""

    before: int
    lines: int
    made: Sequence[str]
    gone: Sequence[str]


class StoreSaid(NamedTuple):
    """A store's word on itself: `Backend.identity`, and the note of its epoch."""

    identity: str
    epoch: str | None


class Change(NamedTuple):
    """One line of a bucket's change log: keys from *first* to *last* may have changed.

    A change of one key has first == last. A *wide* change (first < last) covers every key
    between, both ends included. In the log of the bucket list, keys are bucket names.
    """

    seq: int
    first: str
    last: str
    origin: int  # the writer (Backend.origin); an odd number: it found the change in S3


class Difference(NamedTuple):
    """The differences that a merge made, by key, in S3's order."""

    added: list[str]
    changed: list[str]
    deleted: list[str]
    unchanged: int  # how many
    asked: bool = False  # S3 was asked what is stored with each of them
