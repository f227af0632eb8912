"""The keys of a bucket in Redis, and the form of their values. Pure functions.

All keys of a bucket have one hash tag, so that they are on one node of a cluster:

    TAG = PREFIX{BUCKET}
    TAG:meta       HASH    known, created_ns, objects, bytes, seq; once the bucket was dropped,
                           life, and born: what seq was then
    TAG:d:DIR      HASH    the names directly below DIR -> packed record: all of them or, of a
                           directory of more than FULL names, the first. A name that ends in
                           "/" is a subdirectory; "" where it has no entry of its own
    TAG:c:DIR+NAME HASH    a further chunk of DIR: the names from NAME on
    TAG:i:DIR      ZSET    the first names of the further chunks, score 0
    TAG:scopes     HASH    prefix -> JSON of entry.Scope
    TAG:notes      HASH    name -> text (Backend.set_note)
    TAG:k          HASH    key -> row of backends/pending.py: what is pending or contended
    TAG:log        STREAM  entry.Change, with the ids SEQ-0, without gaps

INVARIANT: a chunk holds the names of its directory from its first name on up to the first name of
the next chunk. The first name itself may have been deleted since. A further chunk that becomes
empty is gone, and so is its line in TAG:i:DIR; TAG:d:DIR may be empty beside others.

To drop a bucket is one step, too, however many rows it has: `life` becomes another word, and the
keys of kinds d, c and i are TAG:LIFE:d:DIR ... from then on. Those of before are found by nobody
any more, and are deleted later. A life never comes back. A listing from before `born` is void.

PREFIX is "mimicfs:" or "mimicfs:NAMESPACE:". The list of buckets is kept like a bucket named "/",
a name that no bucket has; its directory "" has the names.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mimicfs.backends.pending import LEARNED, IntentStep
from mimicfs.entry import LISTED, OBJECT, BucketEntry, Change, Entry, Scope, checked_size
from mimicfs.errors import StoreCorrupt

# 1: directories were one hash each, with a ZSET of all their names (TAG:z:DIR) from 2,000 on.
# 2: scopes had no `names`.
# 3: a bucket had no `life`.
VERSION = 4
LOG_MAX = 200_000
# Names of a chunk. Redis packs a hash of up to 128 names (hash-max-listpack-entries): 63 bytes a
# name instead of 121. It does not pack a hash again that once had more.
FULL = 127
LAST = b"\xff"  # behind every name: no UTF-8 has that byte
# A record: kind, size, mtime_ns; the etag, then class, meta[, head], cut by NUL. With _MD5 in the
# kind, the etag is 16 bytes, else it ends at a NUL. Empty fields at the end are left out.
_FIXED = struct.Struct("<bqq")
_MD5 = 16
_ROWS = re.compile(rb":(?:([0-9a-f]{16}):)?[dci]:")


RedisCommand = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """The changes of one `apply`, each as (directory, name[, record]); no key is in both."""

    origin: int
    since: int | None
    puts: Sequence[tuple[str, str, bytes]]
    deletes: Sequence[tuple[str, str]]
    first: str  # the first of all keys
    last: str
    step: IntentStep = LEARNED


class AppliedBatch(NamedTuple):
    """What a ChangeBatch has done: whether the bucket is *known*, the keys that were *left* alone,
    the number of the log *before* it, and *made* and *gone* of an OwnChange."""

    known: bool
    left: set[str]
    before: int
    made: list[str]
    gone: list[str]


class MarkedScope(NamedTuple):
    """What `mark` has done: whether the scope is *marked*, whether the bucket is *known*, and the
    number of its log."""

    marked: bool
    known: bool
    seq: int


class BegunKey(NamedTuple):
    """What a Backend is told by `begin_seeing`."""

    key: str
    token: str
    lasts_ms: int
    note: str
    most: int


class SeenKey(NamedTuple):
    """The answer: whether the bucket is known, and the parts of a Begun."""

    known: bool
    seq: int
    record: bytes | None
    above: bytes | None
    met: bool
    last: bool
    note: bytes | None


def prefix(namespace: str) -> str:
    return f"mimicfs:{namespace}:" if namespace else "mimicfs:"


def place_of(tag: str, life: bytes | None) -> str:
    """Return the beginning of the keys that have rows."""
    return f"{tag}:{life.decode()}" if life else tag


def life_of(tag: str, key: bytes) -> bytes | None:
    """Return the life whose rows are in *key*; b"": that before the bucket was dropped; None: *key*
    has no rows."""
    found = _ROWS.match(key[len(tag.encode()) :])
    return found and (found[1] or b"")


def chunk_key(place: str, directory: str, start: bytes) -> bytes:
    """Return the key of the chunk of *directory* that begins with *start* (b"": the first)."""
    return f"{place}:{'c' if start else 'd'}:{directory}".encode() + start


def index_key(place: str, directory: str) -> str:
    return f"{place}:i:{directory}"


def split(key: str) -> tuple[str, str]:
    """Return the directory in which *key* is, and its name there."""
    cut = key.rfind("/", 0, -1) + 1
    return key[:cut], key[cut:]


def packed(entry: Entry) -> bytes:
    md5 = _is_md5(entry.etag)
    meta = "" if entry.meta is None else json.dumps(dict(entry.meta))
    rest = f"{entry.storage_class}\0{meta}" + ("" if entry.head is None else f"\0{entry.head}")
    etag = bytes.fromhex(entry.etag) if md5 else f"{entry.etag}\0".encode()
    fixed = _FIXED.pack(entry.kind | (_MD5 if md5 else 0), entry.size, entry.mtime_ns)
    return fixed + etag + (rest.encode() if rest != "\0" else b"")


def _is_md5(etag: str) -> bool:
    return len(etag) == 32 and not etag.strip("0123456789abcdef")


def entry_of(key: str, record: bytes) -> Entry:
    try:
        kind, size, mtime_ns = _FIXED.unpack_from(record)
        checked_size(size)
        at = _FIXED.size + 16 if kind & _MD5 else record.index(b"\0", _FIXED.size) + 1
        etag = (
            record[_FIXED.size : at].hex() if kind & _MD5 else record[_FIXED.size : at - 1].decode()
        )
        storage_class, meta, *head = (record[at:].decode() or "\0").split("\0", 2)
        known = json.loads(meta) if meta else None
    except (struct.error, ValueError) as exc:
        raise StoreCorrupt(f"the record of {key!r} in Redis is not of mimicfs") from exc
    said = head[0] if head else None
    return Entry(key, size, mtime_ns, etag, storage_class, known, kind & ~_MD5, said)


def child(key: str, record: bytes) -> Entry:
    return entry_of(key, record) if record else Entry(key, kind=LISTED)


def scope_of(text: bytes) -> Scope:
    try:
        return Scope(*json.loads(text))
    except (ValueError, TypeError) as exc:
        raise StoreCorrupt(f"the scope {text!r} in Redis is not of mimicfs") from exc


def totals(record: bytes | None) -> tuple[int, int]:
    """Return how many objects *record* stands for (0 or 1), and their bytes."""
    if not record:
        return 0, 0
    kind, size, _ = _FIXED.unpack_from(record)
    return (1, size) if kind & ~_MD5 == OBJECT else (0, 0)


def bucket_of(name: str, meta: dict[bytes, bytes]) -> BucketEntry:
    numbers = [int(meta.get(field, 0)) for field in (b"created_ns", b"objects", b"bytes", b"seq")]
    return BucketEntry(name, *numbers)


def change_of(number: bytes, fields: dict[bytes, bytes]) -> Change:
    seq = int(number.partition(b"-")[0])
    return Change(seq, fields[b"f"].decode(), fields[b"l"].decode(), int(fields[b"o"]))


assert OBJECT == 0  # the script counts entries of kind 0


def found_of(
    directory: str, name: str, records: Sequence[bytes | None]
) -> tuple[Entry | None, Entry | None]:
    """Return the answer of `lookup`, from *records*: that of the name, and that of NAME/."""
    key = directory + name
    record, below = records
    entry = entry_of(key, record) if name and record else None
    return entry, None if below is None else child(f"{key}/", below)


def cover_of(way: Sequence[str], scopes: Mapping[str, Scope]) -> Scope | None:
    """Return the newest of *scopes* that covers the last directory of *way*."""
    found = [scopes[prefix] for prefix in way if prefix in scopes]
    covering = [scope for scope in found if scope.deep or scope.prefix == way[-1]]
    return max(covering, key=lambda scope: scope.listed_ns, default=None)
