"""One page of a LIST: parsed, and checked to be what was asked.

Most servers write objects as S3 does. Then one regular expression reads them, if it matches every
byte from the first `<Contents>` to the last `</Contents>`. Expat reads any other page, and
everything around the objects. boto3's parser takes 67 us a key, expat here about 10, the expression
1.4. A page that is not what was asked for raises `MalformedListing`, and nothing of it is believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise, repeat
from operator import lt
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_plus
from xml.parsers import expat
from xml.sax.saxutils import unescape

from mimicfs.entry import (
    LISTED,
    OBJECT,
    Entry,
    checked_size,
    unquoted,
)
from mimicfs.errors import MalformedListing
from mimicfs.s3.requests.times import plain_time_ns, time_ns

T = TypeVar("T")
OF_VERSIONS = 0  # Asked.version of a ListObjectVersions


class Page(NamedTuple):
    """*entries* are the objects, and LISTED entries for the common prefixes, in one order.

    *upto* is the last key that the page speaks for: between *after* of the request and
    *upto*, S3 has exactly these. None: it speaks for everything to the end. Where a common
    prefix "d/" is the last, *upto* is "d/": the page speaks for the child "d/". A page may be
    empty and have a token; then it speaks for nothing, and *upto* is *after*.
    """

    entries: list[Entry]
    upto: str | None
    token: str | None  # of the next page; None: this is the last
    throttled: int = 0  # how often S3 asked for patience before it gave the page
    # Names came twice, or fewer came than were counted: there may be others.
    doubtful: bool = False


class Asked(NamedTuple):
    """The question that a page must answer."""

    bucket: str
    prefix: str
    after: str = ""  # every key of the page is greater
    delimiter: str = ""
    version: int = 2  # of ListObjects; OF_VERSIONS: a ListObjectVersions
    ordered: bool = True  # False: a directory bucket, whose pages have no order
    encoded: bool = True  # keys are to be encoded as in URLs

    def __str__(self) -> str:
        what = "versions of " if self.version == OF_VERSIONS else ""
        return f"listing of {what}s3://{self.bucket}/{self.prefix}"


class OldVersion(Exception):
    """The answer is that of ListObjects (version 1), which does not know where to begin."""


def parse_page(body: bytes, asked: Asked) -> Page:
    """Return the page in *body*, the answer to a ListObjectsV2 (or ListObjects) with
    encoding-type=url.

    Raises MalformedListing; and OldVersion if a server that only knows version 1 was asked for a
    later page than the first.
    """
    try:
        return read_or_mended(lambda text: _parsed(text).page(asked), body, asked)
    except expat.ExpatError as exc:
        raise MalformedListing(f"{asked}: not a listing: {exc}; check --endpoint-url") from exc
    except KeyError as exc:
        raise MalformedListing(f"{asked}: not a listing: an object without {exc.args[0]}") from exc
    except (ValueError, LookupError, OverflowError) as exc:  # an unknown encoding, too
        raise MalformedListing(f"{asked}: not a listing: {exc}") from exc


def read_or_mended(read: Callable[[bytes], T], body: bytes, asked: Asked) -> T:
    """Return what *read* makes of *body*; if that is no XML, what it makes of *body* without the
    repeated question. (Servers such as Ceph repeat it unencoded, with characters that XML cannot
    have.) Raises ExpatError, MalformedListing."""
    try:
        return read(body)
    except expat.ExpatError:
        for name, text in _REPEATED.findall(body):
            if name == b"Prefix" and _unescaped(text.decode()) != asked.prefix:
                raise
        mended = _REPEATED.sub(b"", body)
        if mended == body:
            raise
        return read(mended)


_REPEATED = re.compile(rb"(?<!<CommonPrefixes>)<(Prefix|Marker|KeyMarker|StartAfter)>([^<]*)</\1>")
_NUMBERED = re.compile(r"&#(?:x([0-9A-Fa-f]{1,6})|([0-9]{1,7}));")


def _unescaped(text: str) -> str:
    """Return the *text* of an XML element, even with characters that XML cannot have. Raises
    ValueError."""
    text = _NUMBERED.sub(lambda found: chr(int(found[1] or found[2], 16 if found[1] else 10)), text)
    return unescape(text, {"&quot;": '"', "&apos;": "'"})


def _parsed(body: bytes) -> Found:
    start, end = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    if 0 <= start < end and UTF_8(body) and b"<!" not in body[:start]:
        entries = _usual(body[start:end])
        if entries is not None:
            found = Found(place=True)
            read_xml(found, body[:start] + _PLACE + body[end:])
            if found.places == 1:
                found.entries = entries
                return found
    found = Found()
    read_xml(found, body)
    return found


def read_xml(found: Found, body: bytes) -> None:
    """Have expat read *body*."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.text
    parser.Parse(body, True)


# White space may be meant in these texts; around all others it may come from the server.
_EXACT = frozenset(
    {"Key", "Prefix", "Marker", "StartAfter", "KeyMarker", "VersionIdMarker", "VersionId"}
    | {"NextContinuationToken", "NextMarker", "NextKeyMarker", "NextVersionIdMarker"}
)
_TRUE, _FALSE = {"true", "1"}, {"false", "0"}
_PLACE = b"<Contents></Contents>"  # takes the place of the objects
# The beginning of a document whose bytes are ASCII where they look so.
UTF_8 = re.compile(
    rb"""\s*(<\?xml version=["']1\.0["']( encoding=["'][Uu][Tt][Ff]-8["'])?\s*\?>)?\s*<L"""
).match
# An object: key, time, etag, size, storage class. The caller looks at the texts a column at a time,
# which is four times as fast as here.
_OBJECT = re.compile(
    rb"<Contents><Key>([^<]+)</Key><LastModified>([^<]+)</LastModified><ETag>([^<]*)</ETag>"
    rb"(?:<Checksum(?:Algorithm>[A-Z0-9]+</ChecksumAlgorithm>|Type>[A-Z_]+</ChecksumType>))*"
    rb"<Size>(\d{1,15})</Size>"
    rb"(?:<StorageClass>([A-Z_]+)</StorageClass>)?</Contents>"
)
_GROUPS = 5
# Printable ASCII without escapes, which expat reads the same.
_PRINTABLE = bytes(letter for letter in range(0x20, 0x7F) if letter not in b"<>&") + b"\n"


def _usual(body: bytes) -> list[Entry] | None:
    """Return the objects in *body*, if it has nothing else, and they have nothing unusual. Their
    keys are decoded later, like all keys."""
    parts = _OBJECT.split(body)
    if any(parts[:: _GROUPS + 1]):  # the texts between the objects
        return None
    keys, times, etags, sizes, classes = (parts[n :: _GROUPS + 1] for n in range(1, _GROUPS + 1))
    names, tags = plain_texts(keys), plain_tags(etags)
    if names is None or tags is None:
        return None
    try:
        mtimes_ns = list(map(plain_time_ns, times))
    except ValueError:
        return None
    named = classes_named(classes)
    rows = zip(
        names,
        map(int, sizes),
        mtimes_ns,
        tags,
        [named[each] for each in classes],
        repeat(None),
        repeat(OBJECT),
        repeat(None),
        strict=False,  # the constants are endless
    )
    return list(map(tuple.__new__, repeat(Entry), rows))


def plain_texts(column: list[bytes], old: bytes = b"", new: bytes = b"") -> list[str] | None:
    """Return the texts of *column*, *old* replaced by *new*; None if they are not all plain."""
    joined = b"\n".join(column)
    if old:
        joined = joined.replace(old, new)
    if joined.translate(None, _PRINTABLE):
        return None
    texts = joined.decode("ascii").split("\n")
    return texts if len(texts) == len(column) else None


def plain_tags(column: list[bytes]) -> list[str] | None:
    """Return the ETags of *column*, as `unquoted` does; None if they are not all plain."""
    texts = plain_texts(column, b"&quot;", b'"')
    if texts is None:
        return None
    joined = "\n".join(texts)
    # A quote before each, one behind each, and none within: nearly always, and in a tenth of the
    # time.
    bare = joined[1:-1].split('"\n"')
    if joined[:1] == joined[-1:] == '"' and len(bare) == len(texts) and '"' not in "".join(bare):
        return bare
    return list(map(unquoted, texts))


def classes_named(column: list[bytes]) -> dict[bytes, str]:
    """Return our names of the storage classes in *column*."""
    return {each: str(each or b"", "ascii") if each != b"STANDARD" else "" for each in {*column}}


def directories_of(page: Page) -> list[str]:
    """Return the directories that *page*, of a listing with a delimiter, shows."""
    return [entry.key for entry in page.entries if entry.kind == LISTED]


class Found:
    """The findings about a page so far. *place*: an empty element marks where the listed items
    were."""

    root = "ListBucketResult"

    def __init__(self, *, place: bool = False) -> None:
        self.place = place
        self.places = 0
        self.top: dict[str, str] = {}
        self.entries: list[Entry] = []
        self.prefixes: list[str] = []
        self._depth = 0
        self._root = ""
        self._inside = ""  # the open element of the second level
        self._item: dict[str, str] = {}
        self._text: list[str] = []
        self._times: dict[str, int] = {}

    def start(self, name: str, _attributes: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            self._root = _local(name)
        elif self._depth == 2:
            self._item, self._inside = {}, _local(name)
        self._text.clear()

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, name: str) -> None:
        name, text = _local(name), "".join(self._text)
        text = text if name in _EXACT else text.strip()
        if self._depth == 3:
            self._of_item(name, text)
        elif self._depth == 2 and not self.item(name, self._item):
            self.top[name] = text
        self._depth -= 1
        self._text.clear()

    def _of_item(self, name: str, text: str) -> None:
        if self._inside == "CommonPrefixes" and name == "Prefix":
            self.prefixes.append(text)  # one element may have several
        elif name in ("Key", "VersionId") and name in self._item:
            raise ValueError(f"two of {name} in one {self._inside}")
        else:
            self._item[name] = text

    def item(self, name: str, item: dict[str, str]) -> bool:
        """Take in the element *name* with the texts *item*; return whether it is a listed item."""
        if name == "Contents" and self.place:
            self.places += 1
        elif name == "Contents" and item:  # an empty one lists nothing
            self.entries.append(self._entry(item))
        return name in ("Contents", "CommonPrefixes")

    def _entry(self, item: dict[str, str]) -> Entry:
        storage_class = item.get("StorageClass", "")
        return Entry(
            item["Key"],
            checked_size(int(item["Size"])),
            self.time_ns(item.get("LastModified", "")),
            unquoted(item.get("ETag")),
            "" if storage_class == "STANDARD" else storage_class,
        )

    def time_ns(self, text: str) -> int:
        """Objects that were written together share a second: many texts come again."""
        known = self._times.get(text)
        if known is None:
            known = self._times[text] = time_ns(text)
        return known

    def check_about(self, asked: Asked) -> None:
        """Raise MalformedListing if this does not answer what was *asked*."""
        if self._root != self.root:
            said = f" ({self.top['Code']})" if self.top.get("Code") else ""
            what = f"the answer is a <{self._root}>{said}; check --endpoint-url"
            raise MalformedListing(f"{asked}: {what}")
        if not _is_named(self.top.get("Name"), asked.bucket):
            raise MalformedListing(f"{asked}: the answer is about bucket {self.top['Name']!r}")
        # The Prefix is encoded as keys are, but some servers (Ceph) repeat it as it was sent. So it
        # is first compared as it is: the question itself may look encoded.
        if "Error" in self.top:  # the server failed when it had begun to answer
            raise MalformedListing(f"{asked}: the answer ends with an error")
        about = self.top.get("Prefix", asked.prefix)
        if about.strip() != asked.prefix.strip() and decoded(about) != asked.prefix:
            raise MalformedListing(f"{asked}: the answer is about prefix {about!r}")

    def truncated(self) -> bool:
        said = self.top.get("IsTruncated", "").lower()
        if not said and self.top.get("NextContinuationToken"):
            return True  # there is more; without a token, nobody knows
        if said not in _TRUE | _FALSE:
            raise ValueError("it does not say whether it is the last page")
        return said in _TRUE

    def fewer(self) -> bool:
        """Whether fewer items came than the server has counted."""
        said = self.top.get("KeyCount", "").strip()
        return said.isdecimal() and len(self.entries) + len(self.prefixes) < int(said)

    def page(self, asked: Asked) -> Page:
        self.check_about(asked)
        old = self._is_old(asked)
        token = self.top.get("NextContinuationToken") or None
        entries, prefixes = self._decoded()
        if old and entries:
            token = max(entry.key for entry in entries + prefixes)  # the next page begins behind it
        page = checked_page(asked, entries, prefixes, truncated=self.truncated(), token=token)
        return page._replace(doubtful=True) if self.fewer() else page

    def _is_old(self, asked: Asked) -> bool:
        """Whether the answer is that of version 1, which has a Marker and counts no keys."""
        if asked.version == 1:
            return True
        old = "Marker" in self.top and "KeyCount" not in self.top
        if old and asked.after:
            raise OldVersion
        return old

    def _decoded(self) -> tuple[list[Entry], list[Entry]]:
        # A server that ignored encoding-type leaves it out of the answer.
        prefixes = self.prefixes
        if self.top.get("EncodingType") != "url":
            return self.entries, [Entry(prefix, kind=LISTED) for prefix in prefixes]
        entries = [
            entry._replace(key=decoded(entry.key))
            if "%" in entry.key or "+" in entry.key
            else entry
            for entry in self.entries
        ]
        return entries, [Entry(decoded(prefix), kind=LISTED) for prefix in prefixes]


def _is_named(said: str | None, bucket: str) -> bool:
    """Whether *said* may be the name of *bucket* in an answer. That of an access point is the
    bucket's own, or an alias; some servers have the account before it (linkedin/ambry, pull request
    3002; tenants of Ceph)."""
    access_point = bucket.startswith("arn:") or bucket.endswith(_ALIASES)
    return not said or access_point or re.split("[/:]", said)[-1] == bucket


# The endings of aliases of access points: S3's, those of Object Lambda, those on Outposts.
_ALIASES = ("-s3alias", "--ol-s3", "--op-s3")


def checked_page(
    asked: Asked, entries: list[Entry], prefixes: list[Entry], *, truncated: bool, token: str | None
) -> Page:
    """Return the page of *entries* and *prefixes*. Raises MalformedListing if that is not what
    was *asked*."""
    came = len(entries) + len(prefixes)
    if not (truncated and asked.ordered):
        # There is no next page: in whatever order the server lists them, these are all.
        entries, prefixes = _in_order(entries), _in_order(prefixes)
    entries, prefixes = _ordered(entries, asked), _ordered(prefixes, asked)
    doubled = len(entries) + len(prefixes) < came
    entries, prefixes = _directories_apart(entries, prefixes, asked)
    _check_depth(entries, prefixes, asked)
    if prefixes:
        entries = sorted(entries + prefixes, key=_key)
    if not truncated:  # whatever token it has besides
        return Page(entries, None, None, doubtful=doubled)
    if token is None:
        raise MalformedListing(f"{asked}: truncated, but without a token to continue")
    upto = entries[-1].key if entries else asked.after
    return Page(entries, upto, token, doubtful=doubled)


def _local(name: str) -> str:
    """Return the name of an element without the prefix of its namespace."""
    return name.rpartition(":")[2] if ":" in name else name


def decoded(text: str) -> str:
    return unquote_plus(text, errors="strict")


def _key(entry: Entry) -> str:
    return entry.key


def _in_order(entries: list[Entry]) -> list[Entry]:
    """Return *entries* in the order of their keys, with the newest entry of each key: a server that
    is written to while it lists may show a key twice."""
    if all(one.key < other.key for one, other in pairwise(entries)):
        return entries
    newest = {entry.key: entry for entry in sorted(entries, key=lambda each: each.mtime_ns)}
    return sorted(newest.values(), key=_key)


def _ordered(entries: list[Entry], asked: Asked) -> list[Entry]:
    """Return *entries* with the newest of names that come twice in a row, and without the last name
    of the page before, with which some servers begin. Raises MalformedListing."""
    try:
        _check_order(entries, asked)
    except MalformedListing:
        once: list[Entry] = []
        for entry in entries:
            if not once and entry.key == asked.after != "":
                continue
            if not once or entry.key != once[-1].key:
                once.append(entry)
            elif entry.mtime_ns > once[-1].mtime_ns:
                once[-1] = entry
        _check_order(once, asked)
        return once
    return entries


def _check_order(entries: list[Entry], asked: Asked) -> None:
    keys = [entry.key for entry in entries]
    # What lies between two keys that begin with the prefix begins with it, too.
    ends = (*keys[:1], *keys[-1:])
    if all(key > asked.after and key.startswith(asked.prefix) for key in ends) and all(
        map(lt, keys, keys[1:])
    ):
        return
    last = asked.after
    for entry in entries:
        if entry.key <= last:
            raise MalformedListing(f"{asked}: {entry.key!r} comes after {last!r}")
        if not entry.key.startswith(asked.prefix):
            raise MalformedListing(f"{asked}: {entry.key!r} does not belong there")
        last = entry.key


def _directories_apart(
    entries: list[Entry], prefixes: list[Entry], asked: Asked
) -> tuple[list[Entry], list[Entry]]:
    """Return the entries to show, and the directories: some servers show a marker `d/` as an object
    of the directory above, beside its prefix or in its place."""
    start, delimiter = len(asked.prefix), asked.delimiter
    if not delimiter or not any(entry.key.endswith(delimiter, start) for entry in entries):
        return entries, prefixes
    places = [entry.key.find(delimiter, start) for entry in entries]
    last = [len(entry.key) - len(delimiter) for entry in entries]
    apart = [0 <= place == end for place, end in zip(places, last, strict=True)]
    named = {entry.key for entry in prefixes} | {
        entry.key for entry, is_one in zip(entries, apart, strict=True) if is_one
    }
    shown = [entry for entry, is_one in zip(entries, apart, strict=True) if not is_one]
    return shown, [Entry(key, kind=LISTED) for key in sorted(named)]


def _check_depth(entries: list[Entry], prefixes: list[Entry], asked: Asked) -> None:
    """Check that no key lies too deep. A server that does not know the delimiter lists everything
    below, which would be merged as if each key were a child; and a server that was not asked for
    prefixes has no reason to hide keys in them."""
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
