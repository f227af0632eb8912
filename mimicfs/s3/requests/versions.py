"""One page of a ListObjectVersions: parsed, and checked to be what was asked.

S3 lists keys in order, and of each key the newest version first (S3 API, ListObjectVersions).
Markers of deletions stand between them; some servers put them behind all versions of the page.
"""

from __future__ import annotations

from itertools import dropwhile, pairwise, starmap
from typing import NamedTuple
from xml.parsers import expat

from mimicfs.entry import checked_size, unquoted
from mimicfs.errors import MalformedListing
from mimicfs.s3.requests.listing import Asked, Found, decoded, read_xml


class Version(NamedTuple):
    """What a key was from *mtime_ns* on, until the next version."""

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
    """*versions*: by key, the newest first. *next*: where the next page begins; None: there is
    none. *directories*: those in which keys are that were left out, by a delimiter."""

    versions: list[Version]
    next: Marker | None
    directories: tuple[str, ...] = ()


def parse_versions(body: bytes, asked: Asked, after: Marker) -> VersionPage:
    """Return the page in *body*, the answer to a ListObjectVersions with encoding-type=url.
    Raises MalformedListing."""
    found = _FoundVersions()
    try:
        read_xml(found, body)
        return found.versions_page(asked, after)
    except expat.ExpatError as exc:
        raise MalformedListing(f"{asked}: not a listing: {exc}; check --endpoint-url") from exc
    except (ValueError, KeyError) as exc:
        raise MalformedListing(f"{asked}: not a listing of versions: {exc}") from exc


class _FoundVersions(Found):
    """What was seen of a page so far."""

    root = "ListVersionsResult"

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[Version] = []

    def item(self, name: str, item: dict[str, str]) -> bool:
        if name not in ("Version", "DeleteMarker"):
            return super().item(name, item)
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
            versions = [each._replace(key=decoded(each.key)) for each in versions]
        key, version = self.top.get("NextKeyMarker", ""), self.top.get("NextVersionIdMarker", "")
        following = Marker(decoded(key) if encoded else key, version) if self.truncated() else None
        page = checked_versions(asked, versions, following, after)
        directories = map(decoded, self.prefixes) if encoded else self.prefixes
        return page._replace(directories=tuple(directories))


def checked_versions(
    asked: Asked, versions: list[Version], following: Marker | None, after: Marker
) -> VersionPage:
    """Return the page of *versions*, in whatever order a server has its delete markers; the next
    one begins at *following* (None: there is none). Raises MalformedListing."""
    versions = _newest_first(versions)
    if not after.version:  # there are servers that begin with the key itself (moto)
        versions = list(dropwhile(lambda each: each.key == after.key, versions))
    _check(versions, asked, after)
    if following is not None and (following == after or following.key < after.key):
        raise MalformedListing(f"{asked}: truncated, and no way to go on")
    return VersionPage(versions, following)


def _newest_first(versions: list[Version]) -> list[Version]:
    """Return *versions* by key, the newest first. In an answer that has its delete markers behind
    all else, and is in no order, their places are found by time."""
    first = next((place for place, each in enumerate(versions) if each.deleted), len(versions))
    apart = 0 < first < len(versions) and all(each.deleted for each in versions[first:])
    if apart and not all(starmap(_may_follow, pairwise(versions))):
        return sorted(versions, key=_place)
    return versions


def _may_follow(one: Version, other: Version) -> bool:
    """Whether S3 may list *other* behind *one*. What is equally old is as S3 has it: a version can
    be written in the second in which the one before was deleted."""
    if one.key != other.key:
        return one.key < other.key
    return one.mtime_ns >= other.mtime_ns and not other.latest


def _place(version: Version) -> tuple[str, bool, int, bool]:
    """Of two at one time, the marker is taken to be the newer: it deleted something."""
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
            raise MalformedListing(f"{asked}: {each.key!r} is not in it")
