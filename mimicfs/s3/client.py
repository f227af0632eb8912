"""S3 through boto3: requests, retries, and S3's errors as ours. The only file that imports boto3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

from mimicfs.config import S3Options
from mimicfs.entry import Bucket, Entry
from mimicfs.mimicdb import MimicDB


class Page(NamedTuple):
    """One page of a LIST, checked: it is what was asked, in order.

    *upto* is the last key that the page speaks for: between *after* of the request and
    *upto*, S3 has exactly these. None: it speaks for everything to the end.
    """

    entries: list[Entry]  # objects, and LISTED entries for the common prefixes, in one order
    upto: str | None
    token: str | None  # of the next page; None: this is the last


class Content(NamedTuple):
    """What is stored with an object besides its bytes."""

    content_type: str = "binary/octet-stream"
    meta: Mapping[str, str] = {}


class S3:
    """One account at one endpoint. Every answer is mimicked into *mimicdb* before it is returned.

    Thread-safe. Every request has a time limit; what S3 throttles or loses is retried with
    backoff and jitter up to `options.attempts`. Raises the S3Error classes of errors.py.

    *pool* is where callers that must stay interruptible run requests; it has
    `options.connections` threads. *requests* counts the requests sent, by kind
    ("LIST", "HEAD", "GET", "PUT", "POST", "COPY", "DELETE"), retries included.
    """

    pool: ThreadPoolExecutor
    requests: Mapping[str, int]

    def __init__(self, options: S3Options, mimicdb: MimicDB) -> None: ...

    def account(self) -> str:
        """Return what tells this account at this endpoint from others (for a file name):
        16 hex digits of a hash of endpoint, region and access key id. Makes no request."""

    # Buckets
    def list_buckets(self) -> list[Bucket]: ...
    def head_bucket(self, bucket: str) -> None: ...
    def create_bucket(self, bucket: str) -> None: ...
    def delete_bucket(self, bucket: str) -> None: ...

    # Listing (does not write the mirror: `sync.py` merges pages)
    def list_page(
        self, bucket: str, prefix: str = "", *, delimiter: str = "", after: str = "",
        token: str | None = None, limit: int = 1000,
    ) -> Page: ...

    # Objects. *etag*, where given, is sent as If-Match (bare here, quoted on the wire).
    def head(self, bucket: str, key: str) -> tuple[Entry, Content]: ...
    def read_into(self, bucket: str, key: str, etag: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* from byte *start* on. A shorter, longer or other answer is an error."""
    def put(
        self, bucket: str, key: str, body: BinaryIO | bytes, size: int, content: Content = Content(),
        *, etag: str = "", absent: bool = False,
    ) -> Entry:
        """*absent* sends If-None-Match: *."""
    def copy(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None = None
    ) -> Entry:
        """Copy on the server (multipart above 5 GiB), conditional on the source's etag.
        *content* replaces what is stored with the object; None keeps it."""
    def delete(self, bucket: str, key: str) -> None: ...
    def delete_many(self, bucket: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Return what S3 refused: (key, reason). Up to 1,000 keys a request."""

    # Multipart uploads
    def start_upload(self, bucket: str, key: str, content: Content) -> str: ...
    def upload_part(
        self, bucket: str, key: str, upload: str, number: int, body: BinaryIO | bytes, size: int
    ) -> str: ...
    def finish_upload(
        self, bucket: str, key: str, upload: str, parts: Sequence[str], size: int, *, etag: str = ""
    ) -> Entry: ...
    def abort_upload(self, bucket: str, key: str, upload: str) -> None: ...
    def close(self) -> None: ...
