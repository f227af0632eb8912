"""Bodies on their way to S3, each with a checksum that S3 checks (checksums.py). A bucket with
Object Lock takes none without, and S3 refuses bytes that were spoilt on the way.

A PUT has a CRC-32. If a server refuses it (400, 501), the PUT is repeated with an MD5; if the
server takes that, it gets an MD5 from then on. A part has a CRC-32 if the answer to
CreateMultipartUpload confirms that the server will look. Otherwise it has none, or an MD5 if the
server is known or found to want one. S3 wants the CRC-32 of each part again at the end; they are
kept until then.

Threading: any thread; `_lock` protects what is kept of uploads.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mimicfs.config.sizes import SMALL
from mimicfs.entry import Entry
from mimicfs.errors import InvalidRequest, KeyNotFound, S3Error, S3Unavailable, Unsupported
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.conditions import Condition, refusals
from mimicfs.s3.requests.content import Body, Content, bare_etag, etag_of_part, sized

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mimicfs.s3.requests.client import S3

# Refusals that are surely about something other than a header.
_ABOUT_ELSE = frozenset(
    {"InvalidBucketName", "InvalidStorageClass", "InvalidTag", "InvalidRange", "InvalidURI"}
    | {"EntityTooLarge", "EntityTooSmall", "KeyTooLongError", "MethodNotAllowed"}
)


# R2: "All non-trailing parts must have the same length."
_ABOUT_SIZES = re.compile(r"\b(same|equal|uniform)\b", re.IGNORECASE)


def wants_equal_parts(refusal: S3Error) -> bool:
    """Whether *refusal* of an upload says that its parts must be of one size."""
    return refusal.status == 400 and _ABOUT_SIZES.search(str(refusal)) is not None


class Sender:
    """Sends through *s3*."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._lock = threading.Lock()  # protects the two below
        # by upload and number, if the server checks them
        self._sums: dict[str, dict[int, str]] = {}
        self._tags: dict[str, str] = {}  # by upload: the tags for its object

    def store(
        self,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        content: Content,
        condition: Condition,
    ) -> Entry:
        """As S3.put."""
        from mimicfs.s3.mimicking.learning import put_entry

        s3, content = self._s3, self._s3.kept.completed(bucket, key, content)
        with s3.conditions.turn(bucket, key, condition, size):
            params = {**content.params(), **s3.conditions.params(bucket, key, condition)}
            with refusals(f"s3://{bucket}/{key}", condition):
                answer = self.put(bucket, key, body, size, params)
            if bare_etag(answer):  # as the mirror has it by now
                entry = put_entry({**params, "Key": key}, size, answer)
            else:
                entry = s3.mirrored(bucket, self._confirmed(bucket, key, body, size, content))
        s3.kept.written(bucket, entry, content)
        return entry

    def _confirmed(self, bucket: str, key: str, body: Body, size: int, content: Content) -> Entry:
        """Return the object, with *content*, whose PUT was answered without an ETag, by a HEAD.
        Raises S3Unavailable if that does not show what was sent."""
        try:
            now, _ = self._s3.head(bucket, key)
        except KeyNotFound:
            now = None
        sent = sized(body, size)
        if now is None or now.size != size or (now.etag and not checksums.may_be(now.etag, sent)):
            text = "the answer to a PUT did not confirm it, and S3 has another object"
            raise S3Unavailable(f"s3://{bucket}/{key}: {text}")
        meta = {name.lower(): value for name, value in content.meta.items()}
        return Entry(key, size, time.time_ns(), now.etag, "", meta)

    def store_soon(
        self,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        content: Content,
        condition: Condition,
    ) -> Future[Entry] | None:
        """As S3.put_soon."""
        from mimicfs.s3.requests.putting import SmallPut

        s3 = self._s3
        said = s3.conditions.params_at_once(bucket, condition)
        if size > SMALL or said is None or not s3.limits.none_of(bucket):
            return None
        data = body if isinstance(body, bytes) else body.read() or b""
        stored = s3.kept.completed(bucket, key, content)
        params = {"Bucket": bucket, "Key": key, "Body": data, "ContentLength": len(data)}
        params |= {**stored.params(), **said}
        params |= checksums.sent(s3.capabilities["checksum"], data)

        def has_stored(entry: Entry, contended: bool) -> Entry:
            s3.kept.written(bucket, entry, stored)
            return s3.mirrored(bucket, entry) if contended else entry

        def otherwise() -> Entry:
            if not isinstance(body, bytes):
                body.seek(0)  # raises if the upload was given up meanwhile
            return self.store(bucket, key, body, size, content, condition)

        return s3.putter.put(SmallPut(params, has_stored, otherwise))

    def put(self, bucket: str, key: str, body: Body, size: int, params: dict[str, Any]) -> Any:
        """Return the answer to a PutObject of *size* bytes of *body*."""
        kind = self._s3.capabilities["checksum"]
        return self._sent("put_object", bucket, key, sized(body, size), size, params, kind)

    def start(self, bucket: str, key: str, params: dict[str, Any]) -> str:
        """Begin a multipart upload; return its id."""
        asked = {"ChecksumAlgorithm": "CRC32"}
        if self._s3.capabilities["checksum"] != "crc32":
            asked = {}
        try:
            answer = self._s3.call("create_multipart_upload", bucket, key, **params, **asked)
        except (InvalidRequest, Unsupported) as exc:
            if not asked or exc.code in _ABOUT_ELSE:
                raise
            answer = self._s3.call("create_multipart_upload", bucket, key, **params)
            self._s3.capabilities.learned("checksum", "md5")
        upload = str(answer["UploadId"])
        with self._lock:
            if answer.get("ChecksumAlgorithm") == "CRC32":
                self._sums[upload] = {}
            if params.get("Tagging"):
                self._tags[upload] = params["Tagging"]
        return upload

    def part(self, bucket: str, key: str, upload: str, number: int, body: Body, size: int) -> str:
        """Upload a part; return its ETag."""
        params = {"UploadId": upload, "PartNumber": number}
        checked = upload in self._sums
        kind = self._s3.capabilities["checksum"]
        kind = "crc32" if checked else "none" if kind == "crc32" else kind
        part = sized(body, size)
        answer = self._sent("upload_part", bucket, key, part, size, params, kind)
        if checked:
            self.note_part(upload, number, answer.get("ChecksumCRC32") or checksums.crc32_of(part))
        return etag_of_part(answer)

    def note_part(self, upload: str, number: int, crc32: str | None) -> None:
        """Note the CRC-32 of part *number*; None: the server does not say."""
        with self._lock:
            sums = self._sums.get(upload)
            if sums is not None and crc32:
                sums[number] = crc32

    def finished(self, upload: str, parts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the list of *parts*, ETags in order, for CompleteMultipartUpload."""
        with self._lock:
            sums = self._sums.pop(upload, {})
        listed: list[dict[str, Any]] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(parts, start=1)
        ]
        for part in listed:
            if part["PartNumber"] in sums:
                part["ChecksumCRC32"] = sums[part["PartNumber"]]
        return listed

    def tagging(self, upload: str) -> str:
        """Return the tags for the object of the upload, which has ended."""
        with self._lock:
            return self._tags.pop(upload, "")

    def forget(self, upload: str) -> None:
        """Forget the upload, which is aborted."""
        with self._lock:
            self._sums.pop(upload, None)
            self._tags.pop(upload, None)

    def _sent(
        self,
        operation: str,
        bucket: str,
        key: str,
        body: Body,
        size: int,
        params: dict[str, Any],
        kind: str,
    ) -> Any:
        start = 0 if isinstance(body, bytes) else body.tell()

        def send(kind: str) -> Any:
            if not isinstance(body, bytes):
                body.seek(start)
            said = {"Body": body, "ContentLength": size, **checksums.sent(kind, body)}
            return self._s3.call(operation, bucket, key, **said, **params)

        try:
            return send(kind)
        except (InvalidRequest, Unsupported) as exc:
            if kind == "md5" or exc.code in _ABOUT_ELSE:
                raise
            refusal = exc
        try:
            answer = send("md5")
        except (InvalidRequest, Unsupported):
            raise refusal from None  # the checksum was not the reason
        self._s3.capabilities.learned("checksum", "md5")
        return answer
