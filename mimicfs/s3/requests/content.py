"""The content that is stored: bytes, or a number of bytes of a file, and the headers and metadata
with them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, urlencode

from mimicfs.entry import unquoted

# A file that is read from its place on, and can be rewound to it.
Body = bytes | BinaryIO | io.RawIOBase

# The fields that a copy of an object would lose unless the request repeats them, by boto3's names.
_HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "WebsiteRedirectLocation",
    "Expires",
)
STANDARD = "STANDARD"  # the class of new objects, unless a request names another
# Objects in one of these classes cannot be read at once. (The last three are those of other
# servers.)
_ARCHIVES = frozenset(
    {"GLACIER", "DEEP_ARCHIVE"} | {"ARCHIVE", "COLD_ARCHIVE", "DEEP_COLD_ARCHIVE"}
)
_ENCRYPTION = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
PARTS_MAX = 10_000  # of an upload (S3 user guide, "Amazon S3 multipart upload limits")
DELETE_MAX = 1000  # keys of one DeleteObjects


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
        """Return this as the parameters of a copy that replace those of its source."""
        params = {"MetadataDirective": "REPLACE", **self.params()}
        if "Tagging" in self.headers:
            params["TaggingDirective"] = "REPLACE"
        return params

    def tagged(self, tags: Mapping[str, str]) -> Content:
        """Return this with *tags*, for an upload. (A copy keeps the tags of its source.)"""
        if not tags:
            return self
        return self._replace(headers={**self.headers, "Tagging": tagging_of(tags)})

    @classmethod
    def of(cls, answer: Mapping[str, Any], meta: Mapping[str, str]) -> Content:
        """Return the content that the answer to a HEAD shows, with *meta*."""
        headers = {name: answer[name] for name in _HEADERS if name in answer}
        if "ExpiresString" in answer or "Expires" in answer:  # kept as it was written (verbatim.py)
            headers["Expires"] = str(answer.get("ExpiresString") or headers["Expires"])
        storage_class = kept_class(answer.get("StorageClass", ""))
        if storage_class:
            headers["StorageClass"] = storage_class
        headers |= encryption_of(answer)
        return cls(answer.get("ContentType", cls().content_type), meta, headers)


def kept_class(storage_class: str) -> str:
    """Return the class for a copy of an object in *storage_class*; "": S3's default, also for an
    archived object, because its copy could not be read."""
    return "" if storage_class == STANDARD or storage_class in _ARCHIVES else storage_class


def over(said: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers *said*, overridden by *own*. An encryption comes with its key: that of
    *own* is not combined with the key of *said*."""
    if "ServerSideEncryption" in own:
        said = {name: value for name, value in said.items() if name not in _ENCRYPTION}
    return {**said, **own}


def as_shown(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return *headers*, which an object was written with, as a HEAD of it shows them: see
    Content.of. (STANDARD, where it was said, stays said.)"""
    shown = dict(headers)
    if shown.get("Tagging") == "":  # written so that a copy takes no tags along
        del shown["Tagging"]
    if shown.get("StorageClass") != STANDARD and not kept_class(shown.get("StorageClass", "")):
        shown.pop("StorageClass", None)
    others = {name: value for name, value in shown.items() if name not in _ENCRYPTION}
    return others | encryption_of(shown)


def tagging_of(tags: Mapping[str, str]) -> str:
    """Return *tags* as a header has them. (Ceph takes a "+" as it is, and not for a space.)"""
    return urlencode(tags, quote_via=quote, safe="")


def encryption_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the KMS key of the object in *answer* to a HEAD, as parameters of a write: otherwise a
    copy would get the encryption of the bucket, or another key."""
    if not str(answer.get("ServerSideEncryption", "")).startswith("aws:kms"):
        return {}
    return {name: answer[name] for name in _ENCRYPTION if name in answer}


def sized(body: Body, size: int) -> Body:
    """Return *body* as exactly *size* bytes. A file may go on behind them. If it has fewer, S3
    notices, as it is told the size."""
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
        """Read as awscrt does, with which botocore signs where it is installed."""
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


def bare_etag(answer: Mapping[str, Any]) -> str:
    """Return the ETag of *answer* without its quotes; "" if it has none."""
    return unquoted(answer.get("ETag"))


def etag_of_part(answer: Mapping[str, Any]) -> str:
    """Return the ETag of *answer*, which has one, as S3 wants it back at the end of an upload: in
    quotes if it came in quotes, and without the additions of a proxy."""
    etag = str(answer["ETag"])
    return f'"{unquoted(etag)}"' if '"' in etag else etag.strip()


def is_md5(etag: str) -> bool:
    """Whether a copy has the same ETag, as far as one can see. (Encryption by KMS hides it.)"""
    return len(etag) == 32 and "-" not in etag


def differ(etag: str, other: str) -> bool:
    """Whether objects with these ETags have different bytes, as far as one can see."""
    return is_md5(etag) and is_md5(other) and etag != other
