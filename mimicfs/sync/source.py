"""The source of a listing, and its scope."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from mimicfs.entry import LIST_MAX, OBJECT, PAGE, BucketEntry, Entry, pages
from mimicfs.errors import MalformedListing
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.listing import Page


class Source(Protocol):
    """The source of a listing: S3, or a client that was borrowed. *lists*: most LISTs at once."""

    lists: int

    @property
    def pool(self) -> Executor: ...

    def list_buckets(self) -> list[BucketEntry]: ...

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = LIST_MAX,
    ) -> Page: ...

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """Return the first directories below *prefix*, as one request shows them. Some may be
        empty."""


class ListingScope(NamedTuple):
    """The scope of a listing: with a *delimiter* the direct children of *prefix*, else all
    below."""

    bucket: str
    prefix: str
    delimiter: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def shown(self, key: str) -> str:
        """Return how a listing shows *key*: itself, or the directory that it is in."""
        if not self.delimiter:
            return key
        name, slash, _ = key[len(self.prefix) :].partition(self.delimiter)
        return self.prefix + name + slash


def fetched(
    mimicdb: Mirror,
    s3: Source,
    scope: ListingScope,
    after: str,
    token: str | None,
    since: int | None = None,
) -> tuple[Page, int]:
    """Return a page, and the sequence number from before it was asked for: *since*, if that is
    known. Raises MalformedListing where names come twice in the page, or fewer than the server has
    counted, and others that are known do not come."""
    since = mimicdb.seq(scope.bucket) if since is None else since
    page = s3.list_page(
        scope.bucket, scope.prefix, delimiter=scope.delimiter, after=after, token=token
    )
    if page.doubtful:
        _check_missing(mimicdb, scope, after, page)
    return page, since


def _check_missing(mimicdb: Mirror, scope: ListingScope, after: str, page: Page) -> None:
    listed = {entry.key for entry in page.entries}

    def read(behind: str) -> list[Entry]:
        return mimicdb.scan(scope.bucket, scope.prefix, behind, PAGE)

    for known in pages(read, after):
        for entry in known:
            shown = scope.shown(entry.key)
            if page.upto is not None and shown > page.upto:
                return
            if entry.kind == OBJECT and shown not in listed:
                text = f"listing of {scope}: it is not whole, and {entry.key!r} does not come"
                raise MalformedListing(text)
