"""S3 as it was at a moment: listings are made of versions, and objects are read by version id.

The mirror of the past is separate. It has, of each key, the version that was the newest at the
moment. The version id is kept where a HEAD would have said it (Entry.head).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import dropwhile, groupby, takewhile
from operator import attrgetter
from typing import Any, Protocol

from mimicfs.config.values import S3Options
from mimicfs.entry import LIST_MAX, LISTED, Entry
from mimicfs.errors import KeyNotFound, Unsupported
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.borrowed import BorrowedS3
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.listing import Page
from mimicfs.s3.requests.trail import Trail
from mimicfs.s3.requests.versions import Marker, Version, VersionPage

_LAST = "\U0010ffff"  # no text has a letter behind it
_SEPARATOR = "\n"  # between the key and the version of a token; a version id has no line ends
# The operations that read an object, and take a VersionId.
READ_BY_VERSION = frozenset(
    {
        "GetObject",
        "HeadObject",
        "GetObjectTagging",
        "GetObjectAcl",
        "GetObjectAttributes",
        "GetObjectRetention",
        "GetObjectLegalHold",
    }
)


class ListsVersions(Protocol):
    """A lister of versions: S3, or a client that was borrowed."""

    def version_page(
        self, bucket: str, prefix: str, after: Marker, limit: int = LIST_MAX, delimiter: str = ""
    ) -> VersionPage: ...


class PastPages:
    """Listings of what there was at *moment_ns*, made of the versions that *source* lists."""

    def __init__(self, source: ListsVersions, moment_ns: int) -> None:
        self._source = source
        self.moment_ns = moment_ns

    def list_page(
        self, bucket: str, prefix: str, delimiter: str, after: str, token: str | None, limit: int
    ) -> Page:
        """Answer S3.list_page. With a delimiter, everything comes at once, for at most a request
        each directory."""
        began = Marker(after) if token is None else Marker(*token.rsplit(_SEPARATOR, 1))
        if delimiter:
            return self._children(bucket, prefix, delimiter, after)
        page = self._source.version_page(bucket, prefix, began, limit)
        # The state of *after* is known; some servers send the rest of its versions, which must not
        # count.
        versions = list(dropwhile(lambda each: each.key <= after, page.versions))
        entries = [
            each
            for _, of_key in groupby(versions, attrgetter("key"))
            if (each := self._then(of_key)) is not None
        ]
        if page.next is None:
            return Page(entries, None, None)
        return self._cut(versions, entries, after, page.next)

    def _cut(
        self, versions: list[Version], entries: list[Entry], after: str, following: Marker
    ) -> Page:
        """Return the page of *entries*. There may be more versions of its last key; if the state of
        that is known, the others need not be seen."""
        last = versions[-1].key if versions else after
        if any(self._was(each) for each in versions if each.key == last):
            return Page(entries, last, f"{last}{_SEPARATOR}")
        before = max((each.key for each in versions if each.key != last), default=after)
        return Page(entries, before, f"{following.key}{_SEPARATOR}{following.version}")

    def _was(self, version: Version) -> bool:
        return version.mtime_ns <= self.moment_ns

    def _then(self, versions: Iterable[Version]) -> Entry | None:
        """Return the entry of a key with *versions*, the newest first, as it was; None: there was
        no object."""
        newest = next(filter(self._was, versions), None)
        return None if newest is None or newest.deleted else entry_of(newest)

    def _children(self, bucket: str, prefix: str, delimiter: str, after: str) -> Page:
        """Return all direct children of *prefix* behind *after*. Once something is found in a
        directory, the listing goes on behind that."""
        entries: list[Entry] = []
        token, trail = None, Trail()
        while True:
            page = self.list_page(bucket, prefix, "", after, token, LIST_MAX)
            for entry in page.entries:
                if entries and entries[-1].kind == LISTED and entry.key.startswith(entries[-1].key):
                    continue
                end = entry.key.find(delimiter, len(prefix))
                child = Entry(entry.key[: end + len(delimiter)], kind=LISTED)
                entries.append(entry if end < 0 else child)
            if page.upto is None:
                return Page(entries, None, None)
            if page.upto > after:
                trail.further()
            after, token = page.upto, page.token
            trail.on(f"s3://{bucket}/{prefix}", token)
            known = entries[-1].key if entries and entries[-1].kind == LISTED else ""
            if known and after.startswith(known) and after < known + _LAST:
                after, token = known + _LAST, None  # a jump, and never back

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """Answer S3.directories, with the directories that had nothing then."""
        page = self._source.version_page(bucket, prefix, Marker(), delimiter="/")
        return list(page.directories)

    def version_of(self, bucket: str, key: str) -> str:
        """Return the version id that *key* had. Raises KeyNotFound: there was no such object."""
        ours = takewhile(lambda each: each.key == key, versions_below(self._source, bucket, key))
        newest = next(filter(self._was, ours), None)
        if newest is None or newest.deleted:
            raise KeyNotFound(f"s3://{bucket}/{key}: the object did not exist then", status=404)
        return newest.version


class _PastListing:
    """Lists the past instead of the present."""

    _pages: PastPages

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = LIST_MAX,
    ) -> Page:
        """As S3.list_page, of what there was."""
        return self._pages.list_page(bucket, prefix, delimiter, after, token, limit)

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """As S3.directories."""
        return self._pages.directories(bucket, prefix)


class Past(_PastListing, S3):
    """One account at one endpoint, as it was at *moment_ns*; nothing can be changed."""

    def __init__(self, options: S3Options, mimicdb: Mirror, moment_ns: int) -> None:
        super().__init__(options, mimicdb)
        self._pages = PastPages(self, moment_ns)

    def pinned(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return *params* with the version that an object is to be read as."""
        if operation not in READ_BY_VERSION or "VersionId" in params:
            return params
        bucket, key = params["Bucket"], params["Key"]
        version = version_in(self.mimicdb, bucket, key) or self._pages.version_of(bucket, key)
        return {**params, "VersionId": version}

    def gets_together(self, bucket: str, entry: Entry) -> bool:
        """Never: S3 may have to be asked first which version that was."""
        return False

    def version_shown(self, entry: Entry) -> str:
        """As S3.version_shown, of what there was."""
        return _version_of(entry) or ""


class BorrowedPast(_PastListing, BorrowedS3):
    """The objects that *client* reaches, as they were at *moment_ns*."""

    def __init__(self, client: Any, moment_ns: int) -> None:
        super().__init__(client)
        self._pages = PastPages(self, moment_ns)

    def version_of(self, bucket: str, key: str) -> str:
        """As PastPages.version_of."""
        return self._pages.version_of(bucket, key)


def version_in(past: Mirror, bucket: str, key: str) -> str | None:
    """Return the version id of *key* in a mirror of the past, if that has the key."""
    entry = past.entry(bucket, key)
    return None if entry is None else _version_of(entry)


def _version_of(entry: Entry) -> str | None:
    if entry.head is None:
        return None
    return str(json.loads(entry.head)[0].get("VersionId", "null"))


def entry_of(version: Version) -> Entry:
    """Return the mirror's entry of an object that is read as *version*."""
    head = json.dumps([{"VersionId": version.version}, {}, {}], separators=(",", ":"))
    return Entry(
        version.key,
        version.size,
        version.mtime_ns,
        version.etag,
        version.storage_class,
        head=head,
    )


def versions_below(s3: ListsVersions, bucket: str, prefix: str) -> Iterator[Version]:
    """Yield each version of each key that begins with *prefix*: by key, the newest first."""
    return _versions(partial(s3.version_page, bucket, prefix))


def versions_in(s3: S3, bucket: str, directory: str) -> Iterator[Version]:
    """Yield the same of the keys in *directory*, without those further below."""
    return _versions(partial(s3.version_page, bucket, directory, delimiter="/"))


def _versions(page_behind: Callable[[Marker], VersionPage]) -> Iterator[Version]:
    after, trail = Marker(), Trail()
    while True:
        page = page_behind(after)
        yield from page.versions
        if page.next is None:
            return
        if page.next.key > after.key:
            trail.further()
        trail.on(f"the versions of {page.next.key!r}", page.next)
        after = page.next


def versioning(s3: S3, bucket: str) -> str:
    """Return whether *bucket* keeps versions: "Enabled", "Suspended", or "" (never did)."""
    try:
        status: str = s3.call("get_bucket_versioning", bucket).get("Status", "")
    except Unsupported:  # a server that has no versions (JuiceFS, R2)
        return ""
    return status
