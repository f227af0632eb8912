"""S3 through boto3: requests, retries, limits of time. boto3 is imported when it is needed:
it takes 150 ms.

Every answer is mimicked (mimic.py) before it is returned. Errors are those of errors.py.
"""

from __future__ import annotations

import errno
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from io import RawIOBase
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mimicfs import __version__
from mimicfs.config import S3Options
from mimicfs.entry import Bucket, Entry
from mimicfs.errors import (
    CredentialsError,
    InvalidRequest,
    KeyNotFound,
    NoSuchBucket,
    ObjectChanged,
    PosixError,
    S3Unavailable,
)
from mimicfs.mimicdb import MimicDB

if TYPE_CHECKING:
    from mimicfs.s3.listing import Page

MIB = 1 << 20
COPY_MAX = 5 << 30  # bytes; larger objects are copied in parts (S3's limit of CopyObject)
_COPY_PART = 512 * MIB
_DELETE_MAX = 1000  # keys of one DeleteObjects
_KINDS = {
    "CopyObject": "COPY",
    "UploadPartCopy": "COPY",
    "ListBuckets": "LIST",
    "HeadObject": "HEAD",
    "HeadBucket": "HEAD",
}


# What is sent: bytes, or a file that is read from its place and can be rewound.
Body = bytes | BinaryIO | RawIOBase


class Content(NamedTuple):
    """What is stored with an object besides its bytes."""

    content_type: str = "binary/octet-stream"
    meta: Mapping[str, str] = {}


class S3:
    """One account at one endpoint. Every answer is mimicked into *mimicdb* before it is returned.

    Thread-safe. Every request has a time limit; what S3 throttles or loses is retried with
    backoff and jitter up to `options.attempts`. Raises the S3Error classes of errors.py.

    *pool* is where callers that must stay interruptible run requests; it has
    `options.connections` threads. *requests* counts the requests sent, by kind ("LIST",
    "HEAD", "GET", "PUT", "POST", "COPY", "DELETE"), retries included.
    """

    def __init__(self, options: S3Options, mimicdb: MimicDB) -> None:
        self.mimicdb = mimicdb
        self.pool = ThreadPoolExecutor(options.connections, thread_name_prefix="s3")
        self.requests: Counter[str] = Counter()
        self.copy_max = COPY_MAX
        self._options = options
        self._lock = threading.Lock()  # protects the counter, and the making of the clients

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        if "_client" in self.__dict__:
            self._client.close()
        if "_lister" in self.__dict__:
            self._lister.close()

    def count(self, kind: str) -> None:
        with self._lock:
            self.requests[kind] += 1

    # The clients

    @cached_property
    def _session(self) -> Any:
        import boto3

        from mimicfs.s3.errors import ours

        with ours("S3"):
            return boto3.session.Session(
                profile_name=self._options.profile, region_name=self._options.region
            )

    @cached_property
    def _client(self) -> Any:
        from mimicfs.s3.mimic import mimic

        client = mimic(self._plain_client(), self.mimicdb)
        client.meta.events.register("request-created.s3", _do_not_ask_first)
        client.meta.events.register("before-send.s3", self._count_sent)
        return client

    def _plain_client(self, region: str | None = None) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        from mimicfs.s3.errors import ours

        options = self._options
        config = Config(
            signature_version="s3v4" if options.sign else UNSIGNED,
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": options.attempts},
            max_pool_connections=options.connections,
            s3={"addressing_style": "path"} if options.endpoint_url else {},
            user_agent_extra=f"mimicfs/{__version__}",
            # S3 verifies what it is sent by TLS and Content-Length; checksums that the
            # caller did not ask for break servers that do not know them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = region or self._session.region_name or "us-east-1"
        with self._lock, ours("S3"):
            return self._session.client(
                "s3", endpoint_url=options.endpoint_url, region_name=region, config=config
            )

    def _count_sent(self, request: Any, event_name: str = "", **_: Any) -> None:
        operation = event_name.rpartition(".")[2]
        self.count(_KINDS.get(operation, request.method))

    @cached_property
    def _lister(self) -> Any:
        from mimicfs.s3.lister import Lister

        bundle = self._session._session.get_config_variable("ca_bundle")
        return Lister(self._plain_client, self._client, self._options, bundle, self.count)

    def check_credentials(self) -> None:
        """Raise CredentialsError if requests are to be signed and there is nothing to sign
        with. Makes no request (but to where credentials come from)."""
        from mimicfs.s3.errors import NO_CREDENTIALS, ours

        if self._options.sign:
            with ours("S3"):
                if self._session.get_credentials() is None:
                    raise CredentialsError(NO_CREDENTIALS)

    def account(self) -> str:
        """Return what tells this account at this endpoint from others (for a file name):
        16 hex digits of a hash of endpoint, region and access key id. Makes no request."""
        from mimicfs.s3.errors import ours

        with ours("S3"):
            credentials = self._session.get_credentials() if self._options.sign else None
            key_id = credentials.access_key if credentials is not None else ""
            endpoint = self._options.endpoint_url or "aws"
            region = self._session.region_name or ""
        return hashlib.sha256(f"{endpoint}\n{region}\n{key_id}".encode()).hexdigest()[:16]

    # Buckets

    def list_buckets(self) -> list[Bucket]:
        """Return the buckets of the account, in the order of their names."""
        from mimicfs.s3.errors import ours

        with ours("list of buckets"):
            found = self._client.list_buckets().get("Buckets", [])
        buckets = [Bucket(item["Name"], _time_ns(item.get("CreationDate"))) for item in found]
        return sorted(buckets)

    def head_bucket(self, bucket: str) -> None:
        """Raise NoSuchBucket or AccessDenied if *bucket* cannot be used."""
        try:
            self._call("head_bucket", bucket)
        except KeyNotFound as exc:  # a HEAD's answer has a status, and no code
            text = f"s3://{bucket}: no such bucket; `mimicfs ls` lists yours"
            raise NoSuchBucket(text, status=404, code="NoSuchBucket") from exc

    def create_bucket(self, bucket: str) -> None:
        region = self._client.meta.region_name
        extra: dict[str, Any] = {}
        if region != "us-east-1":
            extra["CreateBucketConfiguration"] = {"LocationConstraint": region}
        self._call("create_bucket", bucket, **extra)

    def delete_bucket(self, bucket: str) -> None:
        self._call("delete_bucket", bucket)

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> Page:
        """Return one page of a listing, checked (listing.py). *token* is that of the page
        before, *after* its `upto`: the page must go on behind it. Without a token the
        listing begins behind *after*. The mirror is not changed: sync.py merges pages.
        """
        page: Page = self._lister.page(bucket, prefix, delimiter, after, token, limit)
        return page

    # Objects

    def head(self, bucket: str, key: str) -> tuple[Entry, Content]:
        """Return what S3 has of *key* now. Raises KeyNotFound."""
        answer = self._call("head_object", bucket, key)
        entry = self._mirrored(bucket, key)
        return entry, Content(answer.get("ContentType", Content().content_type), entry.meta or {})

    def read_into(self, bucket: str, key: str, etag: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the object's bytes from *start* on.

        The object must be the version *etag* ("": any). Raises ObjectChanged, KeyNotFound;
        the mirror was repaired before. An answer that is shorter, longer or of another
        version is an error, not data; a broken one is asked for again.
        """
        if not buffer.nbytes:
            return
        for attempt in range(self._options.attempts):
            if self._read_once(bucket, key, etag, start, buffer):
                return
            time.sleep(_backoff_s(attempt))
        raise S3Unavailable(f"s3://{bucket}/{key}: the answer ended early, every time")

    def _read_once(self, bucket: str, key: str, etag: str, start: int, buffer: memoryview) -> bool:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        end = start + buffer.nbytes - 1
        extra = {"IfMatch": f'"{etag}"'} if etag else {}
        answer = self._call("get_object", bucket, key, Range=f"bytes={start}-{end}", **extra)
        body = answer["Body"]
        try:
            found = answer.get("ETag", "").strip('"')
            if etag and found and found != etag:
                raise ObjectChanged(f"s3://{bucket}/{key}: changed in S3; open it again")
            if answer["ContentLength"] != buffer.nbytes:
                raise S3Unavailable(
                    f"s3://{bucket}/{key}: asked for {buffer.nbytes} bytes,"
                    f" the answer has {answer['ContentLength']}"
                )
            filled = 0
            while filled < buffer.nbytes:
                # In pieces: the TLS and HTTP layers make a copy as large as what is asked.
                count = body.readinto(buffer[filled : filled + MIB])
                if not count:
                    return False
                filled += count
            return True
        except (BotoCoreError, HTTPError, OSError):
            return False  # the connection broke within the body
        finally:
            body.close()

    def put(
        self,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        content: Content = Content(),  # noqa: B008  an immutable default
        *,
        etag: str = "",
        absent: bool = False,
    ) -> Entry:
        """Store *size* bytes of *body* as *key*. *etag*: only over that version (If-Match);
        *absent*: only if there is none (If-None-Match). Raises ObjectChanged, PosixError EEXIST.
        """
        extra: dict[str, Any] = {"IfMatch": f'"{etag}"'} if etag else {}
        if absent:
            extra["IfNoneMatch"] = "*"
        try:
            self._call(
                "put_object",
                bucket,
                key,
                Body=body,
                ContentLength=size,
                ContentType=content.content_type,
                Metadata=dict(content.meta),
                **extra,
            )
        except ObjectChanged as exc:
            if absent:
                raise PosixError(errno.EEXIST, f"s3://{bucket}/{key}") from exc
            raise
        return self._mirrored(bucket, key)

    def copy(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None = None
    ) -> Entry:
        """Copy the version *source* (bucket, entry) within S3. *content* replaces what is
        stored with it; None keeps that. Raises ObjectChanged, KeyNotFound."""
        from_bucket, entry = source
        if entry.size > self.copy_max:
            return self._copy_in_parts(source, bucket, key, content)
        extra: dict[str, Any] = {}
        if content is not None:
            extra = {
                "MetadataDirective": "REPLACE",
                "ContentType": content.content_type,
                "Metadata": dict(content.meta),
            }
        self._call("copy_object", bucket, key, **_copied(from_bucket, entry), **extra)
        return self._mirrored(bucket, key)

    def _copy_in_parts(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None
    ) -> Entry:
        from_bucket, entry = source
        if content is None:
            _, content = self.head(from_bucket, entry.key)
        upload = self.start_upload(bucket, key, content)
        part = max(min(_COPY_PART, self.copy_max), -(-entry.size // 10_000))
        etags: list[str] = []
        try:
            for start in range(0, entry.size, part):
                end = min(start + part, entry.size) - 1
                answer = self._call(
                    "upload_part_copy",
                    bucket,
                    key,
                    UploadId=upload,
                    PartNumber=len(etags) + 1,
                    CopySourceRange=f"bytes={start}-{end}",
                    **_copied(from_bucket, entry),
                )
                part_etag = answer.get("CopyPartResult", {}).get("ETag")
                if not part_etag:
                    raise InvalidRequest(f"s3://{bucket}/{key}: this server copies no parts")
                etags.append(part_etag)
            return self.finish_upload(bucket, key, upload, etags, entry.size)
        except BaseException:
            self.abort_upload(bucket, key, upload)
            raise

    def delete(self, bucket: str, key: str) -> None:
        """Delete *key*; that it is not there is no error, as in S3."""
        self._call("delete_object", bucket, key)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Delete *keys*, up to 1,000 a request; return what S3 refused: (key, reason)."""
        plain = [key for key in keys if _xml_can_say(key)]
        refused: list[tuple[str, str]] = []
        for start in range(0, len(plain), _DELETE_MAX):
            objects = [{"Key": key} for key in plain[start : start + _DELETE_MAX]]
            answer = self._call(
                "delete_objects", bucket, Delete={"Objects": objects, "Quiet": True}
            )
            refused += [
                (error["Key"], error.get("Message") or error.get("Code", "refused"))
                for error in answer.get("Errors", ())
            ]
        for key in keys:
            if not _xml_can_say(key):
                self.delete(bucket, key)
        return refused

    # Multipart uploads

    def start_upload(self, bucket: str, key: str, content: Content) -> str:
        """Begin a multipart upload; return its id."""
        answer = self._call(
            "create_multipart_upload",
            bucket,
            key,
            ContentType=content.content_type,
            Metadata=dict(content.meta),
        )
        return str(answer["UploadId"])

    def upload_part(
        self, bucket: str, key: str, upload: str, number: int, body: Body, size: int
    ) -> str:
        """Upload part *number* (from 1); return its etag, as S3 wants it back."""
        answer = self._call(
            "upload_part",
            bucket,
            key,
            UploadId=upload,
            PartNumber=number,
            Body=body,
            ContentLength=size,
        )
        return str(answer["ETag"])

    def finish_upload(
        self,
        bucket: str,
        key: str,
        upload: str,
        parts: Sequence[str],
        size: int,
        *,
        etag: str = "",
    ) -> Entry:
        """Make the parts, by their etags in order, the object of *size* bytes."""
        listed = [{"PartNumber": n, "ETag": part} for n, part in enumerate(parts, start=1)]
        extra = {"IfMatch": f'"{etag}"'} if etag else {}
        self._call(
            "complete_multipart_upload",
            bucket,
            key,
            UploadId=upload,
            MultipartUpload={"Parts": listed},
            **extra,
        )
        # Not every server's answer has the ETag that the object then has (rclone), and S3's
        # LastModified is the time when the upload began: ask.
        entry, _ = self.head(bucket, key)
        if entry.size != size:
            raise S3Unavailable(f"s3://{bucket}/{key}: {size} bytes uploaded, S3 has {entry.size}")
        return entry

    def abort_upload(self, bucket: str, key: str, upload: str) -> None:
        self._call("abort_multipart_upload", bucket, key, UploadId=upload)

    # What the above is made of

    def _call(self, operation: str, bucket: str, key: str | None = None, **params: Any) -> Any:
        from mimicfs.s3.errors import ours

        about = f"s3://{bucket}" if key is None else f"s3://{bucket}/{key}"
        if key is not None:
            params["Key"] = key
        with ours(about):
            return getattr(self._client, operation)(Bucket=bucket, **params)

    def _mirrored(self, bucket: str, key: str) -> Entry:
        """Return what the mirror has learned of *key* a moment ago."""
        entry = self.mimicdb.entry(bucket, key)
        if entry is None:  # deleted by another writer since
            raise KeyNotFound(f"s3://{bucket}/{key}: deleted meanwhile")
        return entry


def _do_not_ask_first(request: Any, **_: Any) -> None:
    """Send bodies at once. With `Expect: 100-continue`, botocore waits up to a second for a
    leave to go on that some servers never give, and a round trip for one that S3 gives."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _copied(bucket: str, entry: Entry) -> dict[str, Any]:
    extra = {"CopySourceIfMatch": f'"{entry.etag}"'} if entry.etag else {}
    return {"CopySource": {"Bucket": bucket, "Key": entry.key}, **extra}


def _xml_can_say(key: str) -> bool:
    """Whether XML 1.0 can carry *key*: no control characters, and no CR (read as LF)."""
    return not any(
        (letter < " " and letter not in "\t\n") or letter in "\ufffe\uffff" for letter in key
    )


def _time_ns(at: datetime | None) -> int:
    return int(at.timestamp()) * 1_000_000_000 if at is not None else 0


def _backoff_s(attempt: int) -> float:
    return float(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))
