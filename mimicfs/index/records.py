"""The records of an index file, in any format: one header, then one part for each bucket (or prefix
of one) that was known completely, with its entries in S3's order.

Pure values, and the two ends of a file: a `Sink` takes the records that an `IndexSource` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from mimicfs.entry import KEPT, KEY_MAX, NS, Entry, unquoted

VERSION = 1  # of the format; a higher one cannot be read
BATCH = 1000  # entries that are written, read and merged at a time
SIZE_MAX = 1 << 62  # bytes: stores can hold such sizes, and S3's limit is far lower


class Header(NamedTuple):
    """The first record. *buckets* is the list of buckets as of *buckets_ns*; None: not known."""

    created_ns: int
    endpoint: str = ""  # "": not told; never with a password
    parts: int | None = None  # how many follow; None: not told
    buckets_ns: int | None = None
    buckets: tuple[tuple[str, int], ...] = ()  # names, and when they were made


class IndexPart(NamedTuple):
    """A bucket, or all keys that begin with a prefix, as S3 had them at *synced_ns*. In a file the
    prefix is that of a directory."""

    bucket: str
    prefix: str
    synced_ns: int
    created_ns: int = 0  # when the bucket was made; 0: not told
    duration_ns: int = 0  # of the listing that began at synced_ns
    objects: int | None = None
    bytes: int | None = None
    ordered: bool = True  # False: the entries come in any order

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


class Sink(Protocol):
    """The place to which an index is written: `part`, its entries, `part` ..., at last `finish`."""

    def part(self, part: IndexPart) -> None: ...

    def write(self, entries: Sequence[Entry]) -> None: ...

    def finish(self) -> None: ...


class IndexSource(Protocol):
    """The place from which an index is read."""

    @property
    def header(self) -> Header: ...

    def parts(self) -> Iterator[tuple[IndexPart, Iterator[list[Entry]]]]:
        """Yield each part with its entries, in batches. The last batch of a part comes only when
        the part is known to be whole. Raises MalformedIndex, which says where."""
        ...


class Wrong(Exception):
    """A fault in a record. The reader of the file adds the place of the record."""


# Records as JSON objects. Both formats have the header and the parts so; Parquet has the
# entries in columns.


def header_record(header: Header) -> dict[str, Any]:
    found: dict[str, Any] = {"mimicfs_index": VERSION, "created": time_text(header.created_ns)}
    if header.endpoint:
        found["endpoint"] = header.endpoint
    if header.parts is not None:
        found["parts"] = header.parts
    if header.buckets_ns is not None:
        found["buckets_listed"] = time_text(header.buckets_ns)
        found["buckets"] = [
            {"name": name, "created": time_text(created_ns)} for name, created_ns in header.buckets
        ]
    return found


def header_of(record: Any) -> Header:
    """Return *record* as a header. Raises Wrong."""
    if not isinstance(record, dict) or "mimicfs_index" not in record:
        raise Wrong("not an index of mimicfs: its header is missing")
    version = _number(record, "mimicfs_index")
    if version > VERSION:
        raise Wrong(
            f"the index has version {version}, and this mimicfs reads {VERSION}; upgrade mimicfs"
        )
    buckets = record.get("buckets", [])
    if not isinstance(buckets, list) or not all(isinstance(each, dict) for each in buckets):
        raise Wrong("buckets: not a list of objects")
    return Header(
        _time(record, "created", 0),
        _text(record, "endpoint", ""),
        _number(record, "parts") if "parts" in record else None,
        _time(record, "buckets_listed") if "buckets_listed" in record else None,
        tuple(
            (checked_bucket("buckets", _text(each, "name")), _time(each, "created", 0))
            for each in buckets
        ),
    )


def part_record(part: IndexPart) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bucket": part.bucket,
        "prefix": part.prefix,
        "synced": time_text(part.synced_ns),
    }
    if part.created_ns:
        found["bucket_created"] = time_text(part.created_ns)
    if part.duration_ns:
        found["sync_seconds"] = part.duration_ns / NS
    if part.objects is not None:
        found |= {"objects": part.objects, "bytes": part.bytes}
    if not part.ordered:
        found["ordered"] = False
    return found


def part_of(record: dict[str, Any]) -> IndexPart:
    """Return *record* as a part. Raises Wrong."""
    bucket = checked_bucket("bucket", _text(record, "bucket"))
    prefix = _text(record, "prefix", "")
    if prefix and not prefix.endswith("/"):
        raise Wrong(f"prefix: {prefix!r} does not end in '/'")
    seconds = record.get("sync_seconds", 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise Wrong(f"sync_seconds: {seconds!r} is not a time")
    return IndexPart(
        bucket,
        prefix,
        _time(record, "synced"),
        _time(record, "bucket_created", 0),
        int(seconds * NS),
        _number(record, "objects") if "objects" in record else None,
        _number(record, "bytes") if "bytes" in record else None,
        record.get("ordered", True) is not False,
    )


def entry_record(entry: Entry) -> dict[str, Any]:
    key, size, mtime_ns, etag, storage_class, meta, kind, head = entry
    if kind == KEPT:
        return {"key": key, "directory": True}
    found: dict[str, Any] = {"key": key, "size": size, "last_modified": time_text(mtime_ns)}
    if etag:
        found["etag"] = etag
    if storage_class:
        found["storage_class"] = storage_class
    if meta is not None:
        found["metadata"] = dict(meta)
    if head is not None:
        found["head"] = head
    return found


def entry_of(record: dict[str, Any], mtime_ns: int | None = None) -> Entry:
    """Return *record* as an entry; its time is *mtime_ns*, if that is given. Raises Wrong."""
    key = checked_key(record.get("key"))
    if record.get("directory") is True:
        if not key.endswith("/"):
            raise Wrong(f"key: {key!r} is a directory and does not end in '/'")
        return Entry(key, kind=KEPT)
    storage_class = _text(record, "storage_class", "")
    return Entry(
        key,
        _number(record, "size"),
        _time(record, "last_modified") if mtime_ns is None else mtime_ns,
        unquoted(_text(record, "etag", "")),
        "" if storage_class == "STANDARD" else storage_class,
        _metadata(record.get("metadata")),
        head=_text(record, "head") if record.get("head") is not None else None,
    )


def _text(record: dict[str, Any], name: str, default: str | None = None) -> str:
    value = record.get(name, default)
    if not isinstance(value, str):
        raise Wrong(f"{name}: {'missing' if value is None else f'{value!r} is not a text'}")
    if not value.isascii():
        _check_text(name, value)
    return value


def checked_bucket(name: str, bucket: str) -> str:
    """Return *bucket* if it can be shown as a directory. Raises Wrong."""
    if not 0 < len(bucket) < 256 or "/" in bucket or bucket in (".", ".."):
        raise Wrong(f"{name}: {bucket[:50]!r} is not the name of a bucket")
    if not bucket.isprintable():
        raise Wrong(f"{name}: {bucket!r} is not the name of a bucket")
    return bucket


def checked_key(key: Any) -> str:
    """Return *key* if S3 can have such a key. Raises Wrong."""
    if not isinstance(key, str):
        raise Wrong(f"key: {'missing' if key is None else f'{key!r} is not a text'}")
    if not key:
        raise Wrong("key: it is empty")
    if not key.isascii():
        _check_text("key", key)
    if len(key) > KEY_MAX or len(key.encode()) > KEY_MAX:
        raise Wrong(f"key: {key[:50]!r}... has more than {KEY_MAX} bytes")
    return key


def _check_text(name: str, value: str) -> None:
    """Raise Wrong if *value* cannot be written in UTF-8, as all text in S3 is."""
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise Wrong(
            f"{name}: {value!r} has half a surrogate pair, which UTF-8 cannot express"
        ) from exc


def _number(record: dict[str, Any], name: str) -> int:
    value = record.get(name)
    if type(value) is not int or not 0 <= value < SIZE_MAX:
        raise Wrong(f"{name}: {'missing' if value is None else f'{value!r} is not a size'}")
    return value


def _time(record: dict[str, Any], name: str, default: int | None = None) -> int:
    text = record.get(name)
    if text is None and default is not None:
        return default
    if not isinstance(text, str):
        raise Wrong(f"{name}: {'missing' if text is None else f'{text!r} is not a time'}")
    try:
        return read_time(text)
    except (ValueError, OverflowError) as exc:
        raise Wrong(f"{name}: {text!r} is not a time; write 2024-12-31T18:00:00.000Z") from exc


def _metadata(found: Any) -> dict[str, str] | None:
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Wrong("metadata: not an object of texts")
    return {name.lower(): value for name, value in found.items()}


# Times: ISO 8601 in UTC, with all digits of the nanoseconds if the time is no whole second.


def time_text(ns: int) -> str:
    seconds, rest = divmod(ns, NS)
    return f"{_second_text(seconds)}.{rest:09}Z" if rest else f"{_second_text(seconds)}Z"


def read_time(text: str) -> int:
    """Return the ns of *text*; a time without a zone is in UTC. Raises ValueError."""
    whole, rest = text[:19], text[19:]
    if rest == "Z":
        return _second(whole) * NS
    if rest.endswith("Z") and rest.startswith(".") and rest[1:-1].isdecimal() and rest.isascii():
        return _second(whole) * NS + int(rest[1:10].removesuffix("Z").ljust(9, "0"))
    at = datetime.fromisoformat(text)
    seconds = at.replace(microsecond=0, tzinfo=at.tzinfo or UTC).timestamp()
    return int(seconds) * NS + at.microsecond * 1000


# Objects that were written together share a second.
@lru_cache(maxsize=1024)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
