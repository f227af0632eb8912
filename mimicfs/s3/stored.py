"""The headers and metadata that are stored with an object, as a boto-shaped Key has them.

A key from the mirror has size, etag and time. If the mirror does not have its headers and metadata,
S3 is asked for them when they are first read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from mimicfs.entry import OBJECT, Entry, in_utf8, unquoted
from mimicfs.exception import BotoClientError
from mimicfs.s3.boto2 import (
    META,
    STANDARD,
    STEP,
    Headers,
    header_time,
    in_ascii,
    listed_time,
    metadata_params,
    mirrored_time,
    params_of,
    text,
)
from mimicfs.s3.mimicking import answers
from mimicfs.s3.mimicking.shown import whole_size

# The fields of a HEAD, and the attribute that shows each.
HEADERS = {
    "CacheControl": "cache_control",
    "ContentDisposition": "content_disposition",
    "ContentEncoding": "content_encoding",
    "ContentLanguage": "content_language",
    "ContentType": "content_type",
    "Expires": "expires",
}


def _header(name: str) -> Any:
    """Return the property for the attribute *name*."""

    def get(self: StoredKey) -> str | None:
        self._complete_from_s3()
        return self._headers.get(name)

    def put(self: StoredKey, value: str | None) -> None:
        self._complete_from_s3()
        self._headers[name] = value

    said = name.replace("_", "-").title()
    return property(get, put, doc=f"The header {said}; a new one is of the next upload.")


class StoredKey:
    """The part of a Key that S3 or the mirror told. *bucket* is asked for more."""

    BufferSize = STEP  # bytes of one read, as boto's

    cache_control = _header("cache_control")
    content_disposition = _header("content_disposition")
    content_encoding = _header("content_encoding")
    content_language = _header("content_language")
    content_type = _header("content_type")
    expires = _header("expires")

    def __init__(self, bucket: Any = None, name: str | bytes | None = None) -> None:
        self.bucket: Any = bucket
        self.name = text(name) if name is not None else None
        self._size: int | None = None
        self._etag: str | None = None
        self._md5: str | None = None
        self._looked = False  # the mirror was asked for size and etag
        self.last_modified: str | None = None
        self.owner: Any = None
        self.version_id: str | None = None
        self.is_latest = False
        self.encrypted: str | None = None
        self.ongoing_restore: bool | None = None
        self.expiry_date: str | None = None
        self._headers: dict[str, str | None] = {}
        self._metadata: dict[str, str] = {}
        self._storage_class: str | None = None
        self._complete = True  # headers and metadata are those that S3 has, or will get
        self._keeps = False  # the next upload keeps headers and metadata that are not known yet

    def _named(self) -> str:
        """Return the name. Raises BotoClientError if there is none."""
        if not self.name:
            raise BotoClientError("the key has no name")
        return self.name

    # Size, etag and MD5: from S3 or an upload, otherwise from the mirror

    @property
    def size(self) -> int | None:
        """The number of bytes of the content; None: it is not known."""
        self._look()
        return self._size

    @size.setter
    def size(self, size: int | None) -> None:
        self._size = size

    @property
    def etag(self) -> str | None:
        """The ETag, quoted, as S3 gives it."""
        self._look()
        return self._etag

    @etag.setter
    def etag(self, etag: str | None) -> None:
        self._etag, self._md5 = etag, None

    @property
    def md5(self) -> str | None:
        """The MD5 of the content, in hex: that of the bytes that were stored, otherwise the ETag if
        that is one."""
        bare = unquoted(self.etag)
        plain = len(bare) == 32 and self.encrypted in (None, "AES256")
        return self._md5 or (bare if plain else None)

    @md5.setter
    def md5(self, md5: str | None) -> None:
        self._md5 = md5

    def _look(self) -> None:
        """Ask the mirror, once, if nothing else has told size or etag."""
        mimicdb = getattr(getattr(self.bucket, "connection", None), "mimicdb", None)
        if self._looked or self._size is not None or self._etag or mimicdb is None:
            return
        self._looked = True
        entry = mimicdb.entry(self.bucket.name, self.name) if self.name else None
        if entry is not None and entry.kind == OBJECT:
            self._size, self._etag = entry.size, f'"{entry.etag}"'

    # Answers of S3 or the mirror

    def take_head(self, answer: Mapping[str, Any]) -> None:
        """Take the values in the answer to a HEAD or GET."""
        said = whole_size(answer)
        self.size = int(said) if said.isdecimal() else answer["ContentLength"]
        self.etag = answer.get("ETag")
        if answer.get("LastModified"):
            self.last_modified = header_time(answer["LastModified"])
        self._take_stored(answer)
        self.version_id = answer.get("VersionId")
        self.encrypted = answer.get("ServerSideEncryption")
        self._take_restore(answer.get("Restore", ""))

    def _take_stored(self, answer: Mapping[str, Any]) -> None:
        told = {**answer, "Expires": answer.get("ExpiresString")}  # Expires is a datetime
        said = {name: told.get(member) for member, name in HEADERS.items()}
        self._headers = {name: value and in_utf8(value) for name, value in said.items()}
        metadata = answer.get("Metadata", {})
        self._metadata = {name.lower(): unquote(in_utf8(value)) for name, value in metadata.items()}
        self._storage_class = answer.get("StorageClass") or "STANDARD"
        self._complete = True

    def _take_restore(self, said: str) -> None:
        if said:
            self.ongoing_restore = 'ongoing-request="true"' in said
            self.expiry_date = said.partition('expiry-date="')[2].partition('"')[0] or None

    def take_listed(self, item: Mapping[str, Any]) -> None:
        """Take the values in an item of a listing."""
        self.size = item["Size"]
        self.etag = item.get("ETag")
        if self.etag and not self.etag.startswith('"'):
            self.etag = f'"{self.etag}"'
        self.last_modified = listed_time(item["LastModified"])
        self._storage_class = item.get("StorageClass", "STANDARD")
        self.owner = item.get("Owner")
        self.version_id = item.get("VersionId")
        self.is_latest = bool(item.get("IsLatest"))
        self._complete = False

    def take_entry(self, entry: Entry, *, keeps: bool = False) -> None:
        """Take the values that the mirror has. *keeps*: the next upload keeps headers and metadata,
        as it does for a Key from get_key; for a Key from a listing it does not."""
        self._keeps = keeps
        answer = answers.head_object(entry)
        if answer is not None:
            self.take_head(answer)
            return
        self.size = entry.size
        self.etag = f'"{entry.etag}"'
        self.last_modified = mirrored_time(entry.mtime_ns)
        self._storage_class = entry.storage_class or "STANDARD"
        self._complete = False

    def _complete_from_s3(self) -> None:
        """Ask S3 for headers and metadata, if they are not known."""
        if not self._complete:
            version = {"VersionId": self.version_id} if self.version_id else {}
            self._take_stored(self.bucket.ask("head_object", Key=self.name, **version))

    # Metadata

    @property
    def metadata(self) -> dict[str, str]:
        """The user metadata, by name in lower case. S3 is asked (a HEAD) if the mirror does not
        know it."""
        self._complete_from_s3()
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Mapping[str, str]) -> None:
        self._complete_from_s3()
        self._metadata = {}
        self.update_metadata(metadata)

    def get_metadata(self, name: str) -> str | None:
        """Return the value of *name*, in user metadata or a header such as Content-Type; None if
        there is none."""
        member = STANDARD.get(name.lower())
        if member is not None:
            value: str | None = getattr(self, HEADERS[member])
            return value
        return self.metadata.get(name.lower())

    def set_metadata(self, name: str, value: str) -> None:
        """Store *value* under *name* with the next upload. A standard header is set as such."""
        member = STANDARD.get(name.lower())
        if member is not None:
            setattr(self, HEADERS[member], value)
        else:
            self.metadata[name.lower()] = value

    def update_metadata(self, d: Mapping[str, str]) -> None:
        """Store all of *d* with the next upload, as set_metadata does."""
        for name, value in d.items():
            self.set_metadata(name, value)

    def _get_remote_metadata(self, headers: Headers | None = None) -> dict[str, str]:
        """Return the headers with which the object is stored, by their names in HTTP. (It is not
        public in boto, but programs call it.)"""
        metadata = self.metadata
        said = {name.replace("_", "-"): self._headers.get(name) for name in HEADERS.values()}
        found = {name: value for name, value in said.items() if value}
        return found | {f"{META}{name}": value for name, value in metadata.items()}

    def set_remote_metadata(
        self,
        metadata_plus: Mapping[str, str],
        metadata_minus: Any,
        preserve_acl: bool,
        headers: Headers | None = None,
    ) -> None:
        """Change the metadata of the object in S3, by a copy onto itself: *metadata_plus* is added,
        and the names in *metadata_minus* are removed. *preserve_acl* costs two requests more."""
        self._complete_from_s3()
        for name in metadata_minus:
            self._metadata.pop(name.lower(), None)
        self.update_metadata(metadata_plus)
        self._copy_onto_itself({}, preserve_acl, headers)

    def _copy_onto_itself(
        self, extra: dict[str, Any], preserve_acl: bool, headers: Headers | None = None
    ) -> None:
        acl = None
        if preserve_acl:
            acl = self.bucket.ask("get_object_acl", Key=self.name)
        answer = self.bucket.ask(
            "copy_object",
            Key=self.name,
            CopySource={"Bucket": self.bucket.name, "Key": self.name},
            MetadataDirective="REPLACE",
            **(self._stored() | params_of(headers) | extra),
        )
        self.etag = answer.get("CopyObjectResult", {}).get("ETag", self.etag)
        if acl is not None:
            policy = {"Grants": acl["Grants"], "Owner": acl["Owner"]}
            self.bucket.ask("put_object_acl", Key=self.name, AccessControlPolicy=policy)

    def _stored(self) -> dict[str, Any]:
        """Return headers and metadata as parameters of an upload."""
        members = {member: self._headers.get(name) for member, name in HEADERS.items()}
        found: dict[str, Any] = {name: in_ascii(value) for name, value in members.items() if value}
        return found | metadata_params(self._metadata)

    @property
    def storage_class(self) -> str:
        """The storage class. A new one holds for the next upload (`change_storage_class`
        copies)."""
        return self._storage_class or "STANDARD"

    @storage_class.setter
    def storage_class(self, value: str) -> None:
        self._storage_class = value
