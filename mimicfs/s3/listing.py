"""One page of a LIST: parsed, and checked to be what was asked.

Objects come as S3, and most servers, write them: then one regular expression reads them, if it
matches every byte from the first `<Contents>` to the last `</Contents>`. Whatever it does not
match, and all that is around the objects, is read by expat. boto3's parser takes 67 us a key,
expat here about 10, the expression 2. A page that is not what was asked is no page:
`MalformedListing`, and nothing of it is believed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from xml.parsers import expat

from mimicfs.entry import LISTED, Entry, checked_ns, checked_size
from mimicfs.errors import MalformedListing

_NS = 1_000_000_000


class Page(NamedTuple):
    """*entries* are objects, and LISTED entries for the common prefixes, in one order.

    *upto* is the last key that the page speaks for: between *after* of the request and
    *upto*, S3 has exactly these. None: it speaks for everything to the end. Where a common
    prefix "d/" is the last, *upto* is "d/": the page speaks for the child "d/".
    """

    entries: list[Entry]
    upto: str | None
    token: str | None  # of the next page; None: this is the last


class Asked(NamedTuple):
    """What a page must be an answer to."""

    bucket: str
    prefix: str
    after: str = ""  # every key of the page is greater
    delimiter: str = ""

    def __str__(self) -> str:
        return f"listing of s3://{self.bucket}/{self.prefix}"


def parse_page(body: bytes, asked: Asked) -> Page:
    """Return the page in *body*, the answer to a ListObjectsV2 with encoding-type=url.

    Raises MalformedListing.
    """
    try:
        return _parsed(body).page(asked)
    except expat.ExpatError as exc:
        raise MalformedListing(f"{asked}: not a listing: {exc}; check --endpoint-url") from exc
    except (ValueError, KeyError) as exc:
        raise MalformedListing(f"{asked}: not a listing: {exc}") from exc


def _parsed(body: bytes) -> _Found:
    start, end = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    if 0 <= start < end and _UTF_8(body) and b"<!" not in body[:start]:
        objects = _usual(body, start, end)
        if objects is not None:
            found = _Found(place=True)
            _read(found, body[:start] + _PLACE + body[end:])
            if found.places == 1:
                found.take(objects)
                return found
    found = _Found()
    _read(found, body)
    return found


def _read(found: _Found, body: bytes) -> None:
    """Have expat read *body*."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.text
    parser.Parse(body, True)


_PLACE = b"<Contents></Contents>"  # stands where the objects were
# What a document begins with whose bytes are ASCII where they look so.
_UTF_8 = re.compile(
    rb"""\s*(<\?xml version=["']1\.0["']( encoding=["'][Uu][Tt][Ff]-8["'])?\s*\?>)?\s*<L"""
).match
# An object: key, day, time of day, fraction of its second, etag, size, storage class. Printable
# ASCII, nothing escaped but the quotes of the etag: expat reads the same from it.
_OBJECT = re.compile(
    rb"<Contents><Key>([ -%'-;=?-~]+)</Key>"
    rb"<LastModified>(\d{4}-\d\d-\d\d)T((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(\d{1,9}))?Z</LastModified>"
    rb"<ETag>(?:&quot;|\")?([!#-%'-;=?-~]*?)(?:&quot;|\")?</ETag>"
    rb"(?:<Checksum(?:Algorithm>[A-Z0-9]+</ChecksumAlgorithm>|Type>[A-Z_]+</ChecksumType>))*"
    rb"<Size>(\d{1,15})</Size>"
    rb"(?:<StorageClass>([A-Z_]+)</StorageClass>)?</Contents>"
)
_Object = tuple[bytes, bytes, bytes, bytes | None, bytes, bytes, bytes | None]


def _usual(body: bytes, start: int, end: int) -> list[_Object] | None:
    """Return the objects between *start* and *end* if there is nothing else."""
    objects: list[_Object] = []
    match = _OBJECT.match
    while start < end:
        found = match(body, start, end)
        if found is None:
            return None
        objects.append(found.groups())  # type: ignore[arg-type]
        start = found.end()
    return objects


@lru_cache(maxsize=1024)
def _midnight_s(day: bytes) -> int:
    at = int(datetime.fromisoformat(day.decode()).replace(tzinfo=UTC).timestamp())
    return checked_ns(at * _NS) // _NS


@lru_cache(maxsize=16384)
def _seconds(clock: bytes) -> int:
    return int(clock[:2]) * 3600 + int(clock[3:5]) * 60 + int(clock[6:])


class _Found:
    """What was seen of a page so far. *place*: `<Contents>` marks where the objects were."""

    def __init__(self, *, place: bool = False) -> None:
        self._place = place
        self.places = 0
        self.top: dict[str, str] = {}
        self.entries: list[Entry] = []
        self.prefixes: list[str] = []
        self._depth = 0
        self._root = ""
        self._item: dict[str, str] = {}
        self._text: list[str] = []
        self._times: dict[str, int] = {}

    def start(self, name: str, _attributes: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            self._root = name
        elif self._depth == 2:
            self._item = {}
        self._text.clear()

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, name: str) -> None:
        if self._depth == 3:
            self._item[name] = "".join(self._text)
        elif self._depth == 2:
            if name == "Contents" and self._place:
                self.places += 1
            elif name == "Contents":
                self.entries.append(self._entry(self._item))
            elif name == "CommonPrefixes":
                self.prefixes.append(self._item["Prefix"])
            else:
                self.top[name] = "".join(self._text)
        self._depth -= 1
        self._text.clear()

    def take(self, objects: list[_Object]) -> None:
        """Take what the expression matched; keys are decoded later, as all are."""
        add, new = self.entries.append, tuple.__new__
        for key, day, clock, fraction, etag, size, storage_class in objects:
            mtime_ns = (_midnight_s(day) + _seconds(clock)) * _NS
            if fraction and fraction != b"000":
                mtime_ns += int(fraction[:6].ljust(6, b"0")) * 1000
            class_ = str(storage_class or b"", "ascii") if storage_class != b"STANDARD" else ""
            row = (
                str(key, "ascii"),
                int(size),
                mtime_ns,
                str(etag, "ascii"),
                class_,
                None,
                0,
                None,
            )
            add(new(Entry, row))

    def _entry(self, item: dict[str, str]) -> Entry:
        storage_class = item.get("StorageClass", "")
        return Entry(
            item["Key"],
            checked_size(int(item["Size"])),
            self._time_ns(item["LastModified"]),
            item.get("ETag", "").strip('"'),
            "" if storage_class == "STANDARD" else storage_class,
        )

    def _time_ns(self, text: str) -> int:
        """Objects that were written together share a second: many texts come again."""
        known = self._times.get(text)
        if known is None:
            known = self._times[text] = time_ns(text)
        return known

    def page(self, asked: Asked) -> Page:
        if self._root != "ListBucketResult":
            what = f"the answer is a <{self._root}>; check --endpoint-url"
            raise MalformedListing(f"{asked}: {what}")
        if self.top.get("Name", asked.bucket) != asked.bucket:
            raise MalformedListing(f"{asked}: the answer is about bucket {self.top['Name']!r}")
        # Prefix is encoded as keys are; some servers leave it as it was asked.
        about = self.top.get("Prefix", asked.prefix)
        if asked.prefix not in (about, _unquoted(about)):
            raise MalformedListing(f"{asked}: the answer is about prefix {about!r}")
        entries, prefixes = self._decoded()
        _check_order(entries, asked)
        _check_order(prefixes, asked)
        _check_depth(entries, prefixes, asked)
        if prefixes:
            entries = sorted(entries + prefixes, key=lambda entry: entry.key)
        truncated = {"true": True, "false": False}[self.top["IsTruncated"]]
        token = self.top.get("NextContinuationToken") or None
        if truncated != (token is not None) or (truncated and not entries):
            raise MalformedListing(f"{asked}: truncated, and no way to go on")
        return Page(entries, entries[-1].key if truncated else None, token)

    def _decoded(self) -> tuple[list[Entry], list[Entry]]:
        # A server that ignored encoding-type says so by leaving it out of the answer.
        prefixes = self.prefixes
        if self.top.get("EncodingType") != "url":
            return self.entries, [Entry(prefix, kind=LISTED) for prefix in prefixes]
        entries = [
            entry._replace(key=_unquoted(entry.key))
            if "%" in entry.key or "+" in entry.key
            else entry
            for entry in self.entries
        ]
        return entries, [Entry(_unquoted(prefix), kind=LISTED) for prefix in prefixes]


def _unquoted(text: str) -> str:
    return unquote_plus(text, errors="strict")


def _check_order(entries: list[Entry], asked: Asked) -> None:
    last = asked.after
    for entry in entries:
        if entry.key <= last:
            raise MalformedListing(f"{asked}: {entry.key!r} comes after {last!r}")
        if not entry.key.startswith(asked.prefix):
            raise MalformedListing(f"{asked}: {entry.key!r} is not in it")
        last = entry.key


def _check_depth(entries: list[Entry], prefixes: list[Entry], asked: Asked) -> None:
    """A server that does not know the delimiter lists all below, which would be merged as if
    each key were a child; one that was not asked for prefixes has no keys to hide in them."""
    start, delimiter = len(asked.prefix), asked.delimiter
    if not delimiter:
        if prefixes:
            raise MalformedListing(f"{asked}: {prefixes[0].key!r} is not a key")
        return
    for entry in entries:
        if entry.key.find(delimiter, start) >= 0:
            raise MalformedListing(f"{asked}: {entry.key!r} is not a direct child")
    for entry in prefixes:
        if entry.key.find(delimiter, start) != len(entry.key) - len(delimiter):
            raise MalformedListing(f"{asked}: {entry.key!r} is not a direct child")


def time_ns(text: str) -> int:
    """Return the ns of an ISO 8601 time in UTC."""
    at = datetime.fromisoformat(text)
    whole = at.replace(microsecond=0, tzinfo=at.tzinfo or UTC)
    return checked_ns(int(whole.timestamp()) * _NS + at.microsecond * 1000)
