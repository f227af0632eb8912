"""S3: the requests to it, with retries and limits of time. clients.py has the clients that send
them.

Every answer is mimicked (learning.py) before it is returned. Errors are those of errors.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mimicfs.config.sizes import MIB
from mimicfs.config.values import S3Options
from mimicfs.entry import LIST_MAX, BucketEntry, Entry, whole_seconds_ns
from mimicfs.errors import (
    InvalidRequest,
    KeyNotFound,
    NoSuchBucket,
    ObjectChanged,
    S3Error,
    S3Unavailable,
)
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.clients import Clients
from mimicfs.s3.requests.conditions import Condition, Conditions, refusals
from mimicfs.s3.requests.content import Body, Content, bare_etag
from mimicfs.s3.requests.encryption import OwnKeys
from mimicfs.s3.requests.kept import Kept
from mimicfs.s3.requests.sending import Sender
from mimicfs.s3.transport.backoff import backoff_s

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mimicfs.s3.requests.getting import Getter
    from mimicfs.s3.requests.listing import Page
    from mimicfs.s3.requests.putting import Putter
    from mimicfs.s3.requests.versions import Marker, VersionPage

__all__ = ["COPY_MAX", "S3", "Body", "Condition", "Content"]

_NOT_S3 = "the answer is not from S3; check --endpoint-url"
COPY_MAX = 5 << 30  # bytes; larger objects are copied in parts (S3's limit of CopyObject)
_SHOW_KEYS = frozenset({"head_object", "get_object"})
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


class S3(Clients):
    """One account at one endpoint. Every answer is mimicked into *mimicdb* before it is returned.

    Thread-safe. Every request has a time limit; what S3 throttles or loses is retried with
    backoff and jitter up to `options.attempts`. Raises the S3Error classes of errors.py.

    *pool* is where callers that must stay interruptible run requests; it has
    `options.connections` threads. *requests* counts the requests sent, by kind ("LIST",
    "HEAD", "GET", "PUT", "POST", "COPY", "DELETE"), retries included.
    """

    def __init__(self, options: S3Options, mimicdb: Mirror) -> None:
        super().__init__(options, mimicdb)
        self.lists = max(1, options.connections // 2)  # most LISTs at once: reads go on beside
        self.copy_max = COPY_MAX
        self.conditions = Conditions(self)
        self.kept = Kept(self, options.buckets)
        self.own_keys = OwnKeys(self, options.buckets)
        self.sender = Sender(self)

    @cached_property
    def putter(self) -> Putter:
        """Sends small objects together."""
        from mimicfs.s3.requests.putting import Putter

        return self._one("putter", Putter)

    @cached_property
    def getter(self) -> Getter:
        """Gets small objects together."""
        from mimicfs.s3.requests.getting import Getter

        told = (self.own_keys.seen, self._given, self.baton)
        return self._one("getter", lambda ways: Getter(ways, *told))

    @property
    def copies_parts(self) -> bool:
        """Whether the server knows UploadPartCopy, as far as it was seen."""
        return self.capabilities["copy-parts"] == "yes"

    @copies_parts.setter
    def copies_parts(self, can: bool) -> None:
        self.capabilities.learned("copy-parts", "yes" if can else "no")

    # Buckets

    def list_buckets(self) -> list[BucketEntry]:
        """Return the buckets of the account, in the order of their names."""
        from mimicfs.s3.transport.errors import ours

        with ours("list of buckets"):
            found = self._client.list_buckets().get("Buckets", [])
        made = {item["Name"]: item.get("CreationDate") for item in found}
        return sorted(
            BucketEntry(name, whole_seconds_ns(at) if at else 0) for name, at in made.items()
        )

    def head_bucket(self, bucket: str) -> None:
        """Raise NoSuchBucket or AccessDenied if *bucket* cannot be used."""
        try:
            self.call("head_bucket", bucket)
        except KeyNotFound as exc:  # a HEAD's answer has a status, and no code
            text = f"s3://{bucket}: no such bucket"
            raise NoSuchBucket(text, status=404, code="NoSuchBucket") from exc

    def create_bucket(self, bucket: str) -> None:
        region = self._client.meta.region_name
        extra: dict[str, Any] = {}
        if region != "us-east-1":
            extra["CreateBucketConfiguration"] = {"LocationConstraint": region}
        self.call("create_bucket", bucket, **extra)

    def delete_bucket(self, bucket: str) -> None:
        self.call("delete_bucket", bucket)

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
        """Return one page of a listing, checked (listing.py). *token* is that of the page
        before, *after* its `upto`: the page must go on behind it. Without a token the
        listing begins behind *after*. The mirror is not changed: `sync/` merges pages.
        """
        asked = (bucket, prefix, delimiter, after, token, limit)
        page: Page = self._asked_where_buckets_are(lambda: self._lister.page(*asked))
        return page

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """Return the first directories below *prefix*."""
        from mimicfs.s3.requests.listing import directories_of

        return directories_of(self.list_page(bucket, prefix, delimiter="/"))

    def version_page(
        self, bucket: str, prefix: str, after: Marker, limit: int = LIST_MAX, delimiter: str = ""
    ) -> VersionPage:
        """Return one page of a listing of versions, checked (versions.py): behind *after*. With a
        *delimiter*, none of keys that have it behind *prefix*."""
        asked = (bucket, prefix, after, limit, delimiter)
        page: VersionPage = self._asked_where_buckets_are(lambda: self._lister.versions(*asked))
        return page

    def _asked_where_buckets_are(self, ask: Callable[[], Any]) -> Any:
        """Return the answer to *ask*, which is repeated if the server wants buckets in the host."""
        try:
            return ask()
        except S3Error as exc:
            if not self._moves_to_host(exc.code):
                raise
        return ask()

    # Objects

    def head(self, bucket: str, key: str) -> tuple[Entry, Content]:
        """Return what S3 has of *key* now. Raises KeyNotFound."""
        entry, content, _ = self.head_counting(bucket, key)
        return entry, content

    def head_counting(self, bucket: str, key: str) -> tuple[Entry, Content, int]:
        """Return the same, and how many tags the object has."""
        from mimicfs.s3.mimicking.shown import entry_of

        answer = self.call("head_object", bucket, key)
        entry = entry_of(key, answer)
        if entry is None:
            raise S3Unavailable(f"s3://{bucket}/{key}: {_NOT_S3}")
        content = Content.of(answer, entry.meta or {})
        return self.mirrored(bucket, entry), content, answer.get("TagCount", 0)

    def look(self, bucket: str, key: str) -> Entry:
        """Return what S3 has of *key* now. The mirror is not changed: a caller that looks at many
        objects tells it of all at once. Raises KeyNotFound."""
        from mimicfs.s3.mimicking.shown import entry_of
        from mimicfs.s3.transport.errors import ours

        about = f"s3://{bucket}/{key}"
        self._client  # noqa: B018  which makes the next
        with ours(about):
            answer = self._unlearned("HeadObject", {"Bucket": bucket, "Key": key})
        self.own_keys.seen(bucket, answer)
        entry = entry_of(key, answer)
        if entry is None:
            raise S3Unavailable(f"{about}: {_NOT_S3}")
        return entry

    def link(self, bucket: str, key: str, version: str, good_s: int) -> str:
        """Return a link with which anybody can read *key* for *good_s*. Makes no request."""
        from mimicfs.s3.transport.errors import ours

        params = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})
        with ours(f"s3://{bucket}/{key}"):
            url = self._client.generate_presigned_url("get_object", params, ExpiresIn=good_s)
        return str(url)

    @staticmethod
    def restore_state(answer: Mapping[str, Any]) -> str:
        """Return whether the object in *answer* to a HEAD can be read: "not archived", "archived",
        "being restored", or "restored until" a date."""
        said = answer.get("Restore", "")
        if 'ongoing-request="true"' in said:
            return "being restored"
        if said:
            until = said.partition("expiry-date=")[2].strip('"')
            return f"restored until {until}"
        archived = answer.get("StorageClass") in _ARCHIVES or answer.get("ArchiveStatus")
        return "archived" if archived else "not archived"

    def read_into(
        self,
        bucket: str,
        key: str,
        etag: str,
        start: int,
        buffer: memoryview,
        version: str = "",
        size: int = -1,
    ) -> None:
        """Fill *buffer* with the object's bytes from *start* on. *size*: of the version *etag*, if
        the caller knows it.

        The object must be the version *etag* ("": any); it is read by the version id *version*,
        where there is one. Raises ObjectChanged, KeyNotFound; the mirror was repaired before. An
        answer that is shorter, longer or of another version is an error, not data. An answer that
        breaks off is continued from there, as long as each attempt brings something and the time of
        one request is not over. If the bytes do not have the checksum that S3 sent with them, they
        are asked for again.
        """
        ends_s = time.monotonic() + self._options.request_timeout_s
        filled = breaks = vain = 0
        wrong = "the answer ended early"
        while filled < buffer.nbytes:
            if breaks:
                time.sleep(backoff_s(max(0, vain - 1)))
            rest = buffer[filled:]
            whole = bool(etag) and start + filled == 0 and size == rest.nbytes
            came, etag, missed = self._read_some(
                bucket, key, etag, start + filled, rest, version, whole=whole
            )
            if missed:
                came, wrong = 0, f"the bytes do not have the checksum ({missed}) sent with them"
            filled, breaks = filled + came, breaks + 1
            vain = 0 if came else vain + 1
            over = time.monotonic() > ends_s and filled < buffer.nbytes
            if over or vain == self._options.attempts:
                raise S3Unavailable(f"s3://{bucket}/{key}: {wrong}, in every attempt")

    def look_ahead(self, work: Callable[..., None], *args: object) -> Future[None]:
        """Have *work* called, which is about to read small objects together (Getter.call)."""
        if self.mimicdb.asks or self._options.connections < 2:
            return self.pool.submit(work, *args)
        return self.getter.call(work, *args)

    def _read_some(
        self,
        bucket: str,
        key: str,
        etag: str,
        start: int,
        buffer: memoryview,
        version: str,
        *,
        whole: bool,
    ) -> tuple[int, str, str]:
        """Return how many bytes came before the answer ended, or broke off, the version that
        they are of, and the name of a checksum that they do not have."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        answer = self._get(bucket, key, etag, start, buffer.nbytes, version, whole=whole)
        body = answer["Body"]
        filled = 0
        try:
            self._check_version(bucket, key, etag, answer)
            _check_range(f"s3://{bucket}/{key}", answer, start, buffer.nbytes)
            while filled < buffer.nbytes:
                # It is read in pieces: the TLS and HTTP layers make a copy as large as the read.
                count = body.readinto(buffer[filled : filled + MIB])
                if not count:
                    break
                filled += count
                self._traffic.moved(count, 0)
            longer = "ContentLength" not in answer and body.readinto(memoryview(bytearray(1)))
        except (BotoCoreError, HTTPError, OSError):
            longer = False  # the connection broke within the body
        finally:
            body.close()
        if longer and filled == buffer.nbytes:
            text = f"the answer has more than the {buffer.nbytes} bytes that were asked for"
            raise S3Unavailable(f"s3://{bucket}/{key}: {text}")
        missed = ""
        if filled == buffer.nbytes and not answer.get("ContentRange"):
            missed = checksums.missed(answer["ResponseMetadata"]["HTTPHeaders"], buffer)
        return filled, etag or bare_etag(answer), missed

    def _get(
        self, bucket: str, key: str, etag: str, start: int, size: int, version: str, *, whole: bool
    ) -> Any:
        extra = {"IfMatch": f'"{etag}"'} if etag else {}
        extra |= {"VersionId": version} if version else {}
        if not whole and start == 0:
            known = self.mimicdb.entry(bucket, key)
            whole = known is not None and (known.etag, known.size) == (etag, size)
        if whole:
            extra["ChecksumMode"] = "ENABLED"  # S3 sends none with a range
        else:
            extra["Range"] = f"bytes={start}-{start + size - 1}"
        try:
            return self.call("get_object", bucket, key, **extra)
        except InvalidRequest as exc:
            if exc.status != 416:
                raise
            # The object is shorter than was asked for, and this server does not look at If-Match.
            now = self.mimicdb.entry(bucket, key)  # as a HEAD has just found it (learning.py)
            if now is not None and now.etag == etag:
                raise
            raise ObjectChanged.since_opened(f"s3://{bucket}/{key}") from exc

    @staticmethod
    def _check_version(bucket: str, key: str, etag: str, answer: Mapping[str, Any]) -> None:
        found = bare_etag(answer)
        if etag and not found:
            text = "the answer does not name the version; check --endpoint-url"
            raise S3Unavailable(f"s3://{bucket}/{key}: {text}")
        if etag and found != etag:
            raise ObjectChanged.since_opened(f"s3://{bucket}/{key}")

    def put(
        self,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        content: Content = Content(),  # noqa: B008  an immutable default
        condition: Condition = Condition(),  # noqa: B008
    ) -> Entry:
        """Store *size* bytes of *body* as *key*, under *condition*. Raises ObjectChanged,
        PosixError EEXIST."""
        return self.sender.store(bucket, key, body, size, content, condition)

    def put_soon(
        self,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        content: Content,
        condition: Condition,
    ) -> Future[Entry] | None:
        """Do what `put` does, together with others (putting.py), and return a future. None: the
        object is not fit for that, and nothing has happened. Raises PosixError EROFS."""
        return self.sender.store_soon(bucket, key, body, size, content, condition)

    def copy(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None = None
    ) -> Entry:
        """Copy the version *source* (bucket, entry) within S3, with its storage class.
        *content* replaces what is stored with it; None keeps that. Raises ObjectChanged,
        KeyNotFound; with `made`, if there is a copy, which may be of the newer version."""
        from mimicfs.s3.requests.copying import Copier

        return Copier(self, self.copy_max).copy(source, bucket, key, content)

    def delete(self, bucket: str, key: str) -> None:
        """Delete *key*; a missing key is no error, as in S3."""
        self.call("delete_object", bucket, key)

    def delete_many(
        self, bucket: str, keys: Sequence[str], etags: Mapping[str, str] | None = None
    ) -> list[tuple[str, str]]:
        """Delete *keys*, up to 1,000 a request; return what S3 refused: (key, reason). Of a key in
        *etags*, only that version is deleted, as far as the server looks."""
        from mimicfs.s3.requests.deleting import Deleter

        return Deleter(self, bucket, etags or {}).delete(keys)

    # Multipart uploads

    def start_upload(self, bucket: str, key: str, content: Content, storage_class: str = "") -> str:
        """Begin a multipart upload; return its id."""
        params = {"StorageClass": storage_class} if storage_class else {}
        params |= content.params()
        return self.sender.start(bucket, key, params)

    def upload_part(
        self, bucket: str, key: str, upload: str, number: int, body: Body, size: int
    ) -> str:
        """Upload part *number* (from 1); return its etag, as S3 wants it back."""
        return self.sender.part(bucket, key, upload, number, body, size)

    def copy_part(
        self,
        source: tuple[str, Entry],
        bucket: str,
        key: str,
        upload: str,
        number: int,
        start: int,
        end: int,
    ) -> str:
        """Make the bytes [start, end) of the version *source* (bucket, entry) part *number*;
        return its etag. Raises Unsupported where the server cannot."""
        from mimicfs.s3.requests.copying import Copier

        copier = Copier(self, self.copy_max)
        return copier.copy_part(source, bucket, key, upload, number, start, end)

    def finish_upload(
        self,
        bucket: str,
        key: str,
        upload: str,
        parts: Sequence[str],
        size: int,
        condition: Condition = Condition(),  # noqa: B008
    ) -> Entry:
        """Make the parts, by their etags in order, the object of *size* bytes, under
        *condition*. Raises ObjectChanged, PosixError EEXIST."""
        listed = self.sender.finished(upload, parts)
        params: dict[str, Any] = {"UploadId": upload, "MultipartUpload": {"Parts": listed}}
        with self.conditions.turn(bucket, key, condition):
            params |= self.conditions.params(bucket, key, condition)
            # moto and Ceph look at the conditions of a PUT, and not at these
            if condition != Condition():
                self.conditions.check(bucket, key, condition)
            with refusals(f"s3://{bucket}/{key}", condition):
                self.call("complete_multipart_upload", bucket, key, **params)
        entry = self.mimicdb.entry(bucket, key)  # as a HEAD has just found it (learning.py)
        if entry is None:  # S3 could not be asked then, or somebody has deleted the object
            entry, _ = self.head(bucket, key)
        if entry.size != size:
            raise S3Unavailable(
                f"s3://{bucket}/{key}: {size} bytes were uploaded, but S3 has {entry.size}"
            )
        self.finished(bucket, upload, entry)
        return entry

    def finished(self, bucket: str, upload: str, entry: Entry) -> None:
        """Add to the version *entry*, which S3 has made of *upload*, what the server has left
        out."""
        self.kept.make_tagged(bucket, entry, self.sender.tagging(upload), "upload-tags")

    def abort_upload(self, bucket: str, key: str, upload: str) -> None:
        self.sender.forget(upload)
        self.call("abort_multipart_upload", bucket, key, UploadId=upload)

    # What the above, and copying.py, are made of

    def call(self, operation: str, bucket: str, key: str | None = None, **params: Any) -> Any:
        """Return what boto3's method *operation* answers, mimicked; its errors are ours."""
        from mimicfs.s3.transport.errors import ours

        about = f"s3://{bucket}" if key is None else f"s3://{bucket}/{key}"
        if key is not None:
            params["Key"] = key
        with ours(about):
            # This does what the method does, without 20 us of botocore's.
            name = self._client.meta.method_to_api_mapping[operation]
            answer = self._client._make_api_call(name, {"Bucket": bucket, **params})
        if operation in _SHOW_KEYS:
            self.own_keys.seen(bucket, answer)
        return answer

    def mirrored(self, bucket: str, seen: Entry) -> Entry:
        """Return the mirror's entry of the object that S3 has just shown as *seen*; or *seen* if
        the mirror by now knows another version, written by somebody else."""
        entry = self.mimicdb.entry(bucket, seen.key)
        if entry is None or entry.etag != seen.etag or entry.size != seen.size:
            return seen
        return entry


def _check_range(about: str, answer: Mapping[str, Any], start: int, size: int) -> None:
    """Raise S3Unavailable if the answer is not about the *size* bytes from *start* on."""
    said, length = answer.get("ContentRange", ""), answer.get("ContentLength", size)
    other = not said.startswith(f"bytes {start}-{start + size - 1}/") if said else start > 0
    if other or length != size:  # if no length is given, the bytes are counted
        has = answer.get("ContentLength")
        text = f"asked for {size} bytes from {start} on, but the answer has {has}"
        raise S3Unavailable(f"{about}: {text}")
