"""One page of a ListObjectVersions: parsed, and checked to be what was asked.

S3 lists keys in order, and of each key the newest version first (S3 API, ListObjectVersions).
Markers of deletions stand between them; some servers put them behind all versions of the page.

As in listing.py, a regular expression reads the versions and markers if it matches every byte from
the first to the last of them; otherwise expat reads them.
"""

from __future__ import annotations

import re
from itertools import dropwhile, pairwise, repeat, starmap
from typing import NamedTuple
from xml.parsers import expat

from mimicfs.entry import checked_size, unquoted
from mimicfs.errors import MalformedListing
from mimicfs.s3.requests.listing import (
    UTF_8,
    Asked,
    Found,
    classes_named,
    decoded,
    plain_texts,
    read_or_mended,
    read_xml,
)
from mimicfs.s3.requests.times import plain_time_ns


class Version(NamedTuple):
    """The state of a key from *mtime_ns* on, until the next version."""

    key: str
    version: str  # VersionId; "null": from before the bucket had versions, or while it had none
    latest: bool
    deleted: bool  # a delete marker: from then on there was no object
    mtime_ns: int = 0
    size: int = 0  # bytes
    etag: str = ""  # bare, without quotes
    storage_class: str = ""  # "" is STANDARD


class Marker(NamedTuple):
    """A place in a listing: behind *version* of *key*, or behind all versions of it ("")."""

    key: str = ""
    version: str = ""


class VersionPage(NamedTuple):
    """*versions* are sorted by key, the newest first. *next* is where the next page begins; None:
    there is none. *directories* are those whose keys a delimiter left out."""

    versions: list[Version]
    next: Marker | None
    directories: tuple[str, ...] = ()


def parse_versions(body: bytes, asked: Asked, after: Marker) -> VersionPage:
    """Return the page in *body*, the answer to a ListObjectVersions with encoding-type=url.
    Raises MalformedListing."""
    try:
        return read_or_mended(lambda text: _parsed(text).versions_page(asked, after), body, asked)
    except expat.ExpatError as exc:
        raise MalformedListing(f"{asked}: not a listing: {exc}; check --endpoint-url") from exc
    except KeyError as exc:
        raise MalformedListing(f"{asked}: not a listing: a version without {exc.args[0]}") from exc
    except (ValueError, LookupError, OverflowError) as exc:
        raise MalformedListing(f"{asked}: not a listing of versions: {exc}") from exc


def _parsed(body: bytes) -> _FoundVersions:
    first = _FIRST(body)
    end = max(body.rfind(last) + len(last) for last in (b"</Version>", b"</DeleteMarker>"))
    if first and first.start() < end and UTF_8(body) and b"<!" not in body[: first.start()]:
        versions = _usual(body[first.start() : end])
        if versions is not None:
            found = _FoundVersions(place=True)
            read_xml(found, body[: first.start()] + _PLACE + body[end:])
            if found.places == 1:
                found.versions = versions
                return found
    found = _FoundVersions()
    read_xml(found, body)
    return found


_FIRST = re.compile(rb"<(?:Version|DeleteMarker)>").search
_PLACE = b"<Version></Version>"  # stands where the versions were
_OWNER = rb"(?:<Owner><ID>[\w.@ -]*</ID>(?:<DisplayName>[\w.@ -]*</DisplayName>)?</Owner>)?"
_ROW = re.compile(
    rb"<(Version|DeleteMarker)><Key>([^<]+)</Key><VersionId>([^<]+)</VersionId>"
    rb"<IsLatest>(true|false)</IsLatest><LastModified>([^<]+)</LastModified>"
    rb"(?:<ETag>([^<]*)</ETag>"
    rb"(?:<Checksum(?:Algorithm>[A-Z0-9]+</ChecksumAlgorithm>|Type>[A-Z_]+</ChecksumType>))*"
    rb"<Size>(\d{1,15})</Size>)?"
    + _OWNER
    + rb"(?:<StorageClass>([A-Z_]+)</StorageClass>)?"
    + _OWNER
    + rb"</\1>"
)
_GROUPS = 8


def _usual(body: bytes) -> list[Version] | None:
    """Return the versions in *body* if there is nothing else in it, and nothing unusual in them.
    Keys are decoded later, as all are."""
    parts = _ROW.split(body)
    if any(parts[:: _GROUPS + 1]):  # what was between them
        return None
    columns = [parts[n :: _GROUPS + 1] for n in range(1, _GROUPS + 1)]
    kinds, keys, ids, latest, times, etags, sizes, classes = columns
    deleted = [kind == b"DeleteMarker" for kind in kinds]
    if deleted != [size is None for size in sizes]:
        return None
    names, versions = plain_texts(keys), plain_texts(ids)
    tags = plain_texts([etag or b"" for etag in etags], b"&quot;", b'"')
    if names is None or versions is None or tags is None:
        return None
    try:
        mtimes_ns = list(map(plain_time_ns, times))
    except ValueError:
        return None
    named = classes_named(classes)
    rows = zip(
        names,
        versions,
        [each == b"true" for each in latest],
        deleted,
        mtimes_ns,
        [int(size or 0) for size in sizes],
        map(unquoted, tags),
        [named[each] for each in classes],
        strict=True,
    )
    return list(map(tuple.__new__, repeat(Version), rows))


class _FoundVersions(Found):
    """The findings about a page so far."""

    root = "ListVersionsResult"

    def __init__(self, *, place: bool = False) -> None:
        super().__init__(place=place)
        self.versions: list[Version] = []

    def time_ns(self, text: str) -> int:
        """Return the time of a version. An unknown time is an error: the state at a moment depends
        on it."""
        found = super().time_ns(text)
        if not found and not text.startswith("1970-01-01T00:00:00"):
            raise ValueError(f"a version of the time {text!r}")
        return found

    def item(self, name: str, item: dict[str, str]) -> bool:
        if name not in ("Version", "DeleteMarker"):
            return super().item(name, item)
        if self.place:
            self.places += 1
            return True
        deleted = name == "DeleteMarker"
        storage_class = item.get("StorageClass", "")
        self.versions.append(
            Version(
                item["Key"],
                item["VersionId"],
                item["IsLatest"].strip().lower() == "true",
                deleted,
                self.time_ns(item.get("LastModified", "")),
                0 if deleted else checked_size(int(item["Size"])),
                "" if deleted else unquoted(item.get("ETag")),
                "" if storage_class == "STANDARD" else storage_class,
            )
        )
        return True

    def versions_page(self, asked: Asked, after: Marker) -> VersionPage:
        self.check_about(asked)
        encoded = self.top.get("EncodingType") == "url"
        versions = self.versions
        if encoded:
            names = {key: decoded(key) for key in {each.key for each in versions}}
            versions = [each._replace(key=names[each.key]) for each in versions]
        key, version = self.top.get("NextKeyMarker", ""), self.top.get("NextVersionIdMarker", "")
        following = Marker(decoded(key) if encoded else key, version) if self.truncated() else None
        page = checked_versions(asked, versions, following, after)
        directories = map(decoded, self.prefixes) if encoded else self.prefixes
        return page._replace(directories=tuple(directories))


def checked_versions(
    asked: Asked, versions: list[Version], following: Marker | None, after: Marker
) -> VersionPage:
    """Return the page of *versions*, in whatever order a server lists its delete markers. The next
    page begins at *following* (None: there is none). Raises MalformedListing."""
    versions = _newest_first(versions)
    if not after.version:  # some servers (moto) begin with the key itself
        versions = list(dropwhile(lambda each: each.key == after.key, versions))
    _check(versions, asked, after)
    if following is not None and (following == after or following.key < after.key):
        raise MalformedListing(f"{asked}: truncated, but without a token to continue")
    return _led_on(VersionPage(versions, following))


def _led_on(page: VersionPage) -> VersionPage:
    """Return *page*, corrected so that the next page begins behind its last version. If a page ends
    among the versions of a key, Swift gives the marker `null`, behind which the rest of them does
    not come. (A marker that is not on the page may be the first version of the next one.)"""
    if page.next is None or not page.versions or page.versions[-1].key != page.next.key:
        return page
    if page.next.version not in ("", "null"):
        return page
    of_key = [each.version for each in page.versions if each.key == page.next.key]
    if page.next.version in of_key:
        return page
    return page._replace(next=Marker(page.next.key, of_key[-1]))


def _newest_first(versions: list[Version]) -> list[Version]:
    """Return *versions* by key, the newest first. If the answer has its delete markers behind
    everything else, their places are found by time."""
    first = next((place for place, each in enumerate(versions) if each.deleted), len(versions))
    apart = 0 < first < len(versions) and all(each.deleted for each in versions[first:])
    if apart and not all(starmap(_may_follow, pairwise(versions))):
        return sorted(versions, key=_place)
    return versions


def _may_follow(one: Version, other: Version) -> bool:
    """Whether S3 may list *other* behind *one*. Equally old versions stay in the order of S3: a
    version can be written in the second in which the one before was deleted."""
    if one.key != other.key:
        return one.key < other.key
    return one.mtime_ns >= other.mtime_ns and not other.latest


def _place(version: Version) -> tuple[str, bool, int, bool]:
    """Return the place of a version. Of two at one time, the marker counts as the newer: it deleted
    something."""
    return (version.key, not version.latest, -version.mtime_ns, not version.deleted)


def _check(versions: list[Version], asked: Asked, after: Marker) -> None:
    for one, other in pairwise(versions):
        if other.key < one.key:
            raise MalformedListing(f"{asked}: {other.key!r} comes after {one.key!r}")
    for each in versions[:1]:
        if each.key < after.key:
            raise MalformedListing(f"{asked}: {each.key!r} comes after {after.key!r}")
    for each in versions:
        if not each.key.startswith(asked.prefix):
            raise MalformedListing(f"{asked}: {each.key!r} does not belong there")
