"""What lists, and what is listed."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from mimicfs.entry import BucketEntry
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.listing import Page


class Source(Protocol):
    """What lists: S3, or a client that was borrowed. *lists*: most LISTs at once."""

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
        limit: int = 1000,
    ) -> Page: ...

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """Return the first directories below *prefix*: what one request tells of them. There may
        be nothing in some."""


class ListingScope(NamedTuple):
    """What is listed: with a *delimiter* the direct children of *prefix*, else all below."""

    bucket: str
    prefix: str
    delimiter: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def fetched(
    mimicdb: Mirror, s3: Source, scope: ListingScope, after: str, token: str | None
) -> tuple[Page, int]:
    """Return a page, and the sequence number from before it was asked for."""
    since = mimicdb.seq(scope.bucket)
    page = s3.list_page(
        scope.bucket, scope.prefix, delimiter=scope.delimiter, after=after, token=token
    )
    return page, since
