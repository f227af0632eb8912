"""The content that is stored: bytes, or just so many bytes of a file, and what goes with them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, urlencode

from mimicfs.entry import unquoted

# A file is read from its place on, and can be rewound to there.
Body = bytes | BinaryIO | io.RawIOBase

# What a copy of an object would lose if it were not said again, by boto3's names.
_HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "WebsiteRedirectLocation",
    "Expires",
)
# What is written is STANDARD unless it is said. Archives are not in this: their copy could not
# be read.
KEPT_CLASSES = frozenset(
    {
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER_IR",
        "REDUCED_REDUNDANCY",
    }
)
_ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")


class Content(NamedTuple):
    """The headers and metadata that are stored with an object besides its bytes."""

    content_type: str = "binary/octet-stream"
    meta: Mapping[str, str] = {}
    headers: Mapping[str, Any] = {}  # CacheControl, ContentEncoding ..., by boto3's names

    def params(self) -> dict[str, Any]:
        """Return this as parameters of PutObject, CopyObject and CreateMultipartUpload."""
        headers = {name: value for name, value in self.headers.items() if value != ""}
        return {**headers, "ContentType": self.content_type, "Metadata": dict(self.meta)}

    def copied(self) -> dict[str, Any]:
        """Return this as what a copy says instead of its source."""
        params = {"MetadataDirective": "REPLACE", **self.params()}
        if "Tagging" in self.headers:
            params["TaggingDirective"] = "REPLACE"
        return params

    def tagged(self, tags: Mapping[str, str]) -> Content:
        """Return this with *tags*, for an upload: a copy keeps those of its source."""
        if not tags:
            return self
        return self._replace(headers={**self.headers, "Tagging": tagging_of(tags)})

    @classmethod
    def of(cls, answer: Mapping[str, Any], meta: Mapping[str, str]) -> Content:
        """Return what the answer to a HEAD says, with *meta*."""
        headers = {name: answer[name] for name in _HEADERS if name in answer}
        if "Expires" in headers:  # kept as it was written, in a form that JSON has
            headers["Expires"] = answer.get("ExpiresString") or str(headers["Expires"])
        if answer.get("StorageClass") in KEPT_CLASSES:
            headers["StorageClass"] = answer["StorageClass"]
        headers |= encryption_of(answer)
        return cls(answer.get("ContentType", cls().content_type), meta, headers)


def tagging_of(tags: Mapping[str, str]) -> str:
    """Return *tags* as a header has them. (Ceph takes a "+" as it is, and not for a space.)"""
    return urlencode(tags, quote_via=quote, safe="")


def encryption_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return by which key of KMS the object is encrypted that *answer*, to a HEAD, is about, as
    parameters of a write: else a copy would get the bucket's own encryption, or another key."""
    if not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
        return {}
    return {name: answer[name] for name in _ENCRYPTION if name in answer}


def sized(body: Body, size: int) -> Body:
    """Return *body* as exactly *size* bytes. A file may go on behind them; what it lacks is
    missed by S3, which is told the size."""
    if isinstance(body, bytes):
        return body if len(body) == size else body[:size]
    start = body.tell()
    end = body.seek(0, os.SEEK_END)
    body.seek(start)
    return body if end - start == size else _Window(body, start, size)


class _Window(io.RawIOBase):
    """*size* bytes of *file* from *start* on, as a file of their own."""

    def __init__(self, file: BinaryIO | io.RawIOBase, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._start + max(0, base + offset)) - self._start

    def read(self, size: int = -1, /) -> bytes | None:
        left = max(0, self._size - self.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))

    def readinto(self, buffer: Any, /) -> int:
        """As awscrt reads, which botocore signs with where it is installed."""
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


def bare_etag(answer: Mapping[str, Any]) -> str:
    """Return the ETag of *answer* without its quotes; "" if it has none."""
    return unquoted(answer.get("ETag"))
