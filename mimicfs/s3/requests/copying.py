"""Copying a version of an object within S3: in one request, or in parts. Any thread may copy."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from mimicfs.entry import Entry
from mimicfs.errors import (
    InvalidRequest,
    KeyNotFound,
    ObjectChanged,
    S3Error,
    S3Unavailable,
    Unsupported,
)
from mimicfs.s3.requests.content import (
    PARTS_MAX,
    Content,
    bare_etag,
    differ,
    etag_of_part,
    is_md5,
    kept_class,
)

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

_PART = 512 << 20


class Copier:
    """Copies through *s3*; objects of more than *copy_max* bytes in parts."""

    def __init__(self, s3: S3, copy_max: int) -> None:
        self._s3 = s3
        self._copy_max = copy_max

    def copy(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None
    ) -> Entry:
        """As S3.copy."""
        _, entry = source
        if entry.size or not (entry.key.endswith("/") and key.endswith("/")):
            return self._copied(source, bucket, key, content)
        if self._s3.capabilities["copy-markers"] == "no":
            return self._made_anew(source, bucket, key, content)
        try:
            return self._copied(source, bucket, key, content)
        except (S3Unavailable, Unsupported, InvalidRequest) as exc:
            # JuiceFS answers 500, each time. That teaches something if a PUT beside it works.
            if isinstance(exc, S3Unavailable) and exc.status != 500:
                raise
            try:
                made = self._made_anew(source, bucket, key, content)
            except S3Error:
                raise exc from None
        self._s3.capabilities.learned("copy-markers", "no")
        return made

    def _made_anew(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None
    ) -> Entry:
        """Store *key* as the empty object *source* is stored: some servers (JuiceFS) copy no
        markers of directories."""
        self._check_source(source)
        if content is None:
            from_bucket, entry = source
            content = self._s3.kept.content_of(from_bucket, entry.key)
        return self._s3.put(bucket, key, b"", 0, content)

    def _copied(
        self, source: tuple[str, Entry], bucket: str, key: str, content: Content | None
    ) -> Entry:
        from_bucket, entry = source
        storage_class = kept_class(entry.storage_class)
        if entry.size > self._copy_max:
            return self._in_parts(source, bucket, key, content, storage_class)
        extra: dict[str, Any] = {"StorageClass": storage_class} if storage_class else {}
        if content is not None:
            extra |= content.copied()
        else:
            # A copy has neither the ACL nor the key of its source.
            extra |= self._s3.kept.grants(from_bucket, entry)
            extra |= self._s3.own_keys.of(from_bucket, entry)
        answer = self._asked("copy_object", source, bucket, key, extra)
        etag = bare_etag(answer["CopyObjectResult"])
        meta = entry.meta if content is None else content.meta
        expected = Entry(key, entry.size, time.time_ns(), etag, storage_class, meta)
        copy = self._known(bucket, expected) if etag else self._seen(bucket, expected)
        if not etag and (copy.size != entry.size or differ(copy.etag, entry.etag)):
            text = "the answer to a copy did not confirm it, and S3 has another object"
            raise S3Unavailable(f"s3://{bucket}/{key}: {text}")
        if content is not None:
            tagging = content.headers.get("Tagging", "")
            self._s3.kept.make_tagged(bucket, copy, tagging, "copy-tags")
        if content is not None:
            self._s3.kept.written(bucket, copy, content)
        elif (heard := self._s3.kept.heard(from_bucket, entry)) is not None:
            self._s3.kept.written(bucket, copy, *heard)
        in_place = (from_bucket, entry.key) == (bucket, key)
        if not in_place and not self._is_surely(copy, entry):
            try:
                self._check_source(source)
            except S3Error as exc:
                exc.made = copy.etag
                raise
        return copy

    def _asked(
        self, operation: str, source: tuple[str, Entry], bucket: str, key: str, params: Any
    ) -> Any:
        """Return the answer to a copy of the version *source*. If a HEAD shows that version
        although the server refuses it (Swift, for an object in parts), ask without a condition."""
        from_bucket, entry = source
        copied = {"CopySource": {"Bucket": from_bucket, "Key": entry.key}}
        etag, looks = entry.etag, self._s3.capabilities["copy-etags"]
        if not etag:
            return self._s3.call(operation, bucket, key, **copied, **params)
        tried = looks != "no" or "-" not in etag
        if tried:
            condition = {"CopySourceIfMatch": f'"{etag}"'}
            try:
                return self._s3.call(operation, bucket, key, **copied, **condition, **params)
            except ObjectChanged:
                if looks == "yes":
                    raise
        self._check_source(source)
        answer = self._s3.call(operation, bucket, key, **copied, **params)
        if tried:
            self._s3.capabilities.learned("copy-etags", "no")
        return answer

    def _is_surely(self, copy: Entry, source: Entry) -> bool:
        """Whether *copy* is surely a copy of *source*: its bytes have the same MD5, or the server
        is known to look at the condition. (Ceph and rclone copy whatever is there.)"""
        if copy.size != source.size:
            return False
        same = is_md5(source.etag) and copy.etag == source.etag
        return same or self._s3.capabilities["copy-etags"] == "yes"

    def _known(self, bucket: str, expected: Entry) -> Entry:
        """Return the copy, which the server has told the ETag of, as far as it is known: if that is
        not the ETag of the source, a HEAD has just found the size (learning.py)."""
        known = self._s3.mimicdb.entry(bucket, expected.key)
        return known if known is not None and known.etag == expected.etag else expected

    def _seen(self, bucket: str, expected: Entry) -> Entry:
        """Return the copy, as a HEAD has found it, if the server (rclone) did not tell its ETag."""
        known = self._s3.mimicdb.entry(bucket, expected.key)  # by learning.py, a moment ago
        if known is not None and known.size == expected.size and known.meta == expected.meta:
            return known
        copy, _ = self._s3.head(bucket, expected.key)
        return copy

    def _in_parts(
        self,
        source: tuple[str, Entry],
        bucket: str,
        key: str,
        content: Content | None,
        storage_class: str,
    ) -> Entry:
        from_bucket, entry = source
        if content is None:
            content = self._s3.kept.content_of(from_bucket, entry.key)
        elif "Tagging" not in content.headers:  # unlike CopyObject, parts bring no tags along
            content = content.tagged(self._s3.kept.tags(from_bucket, entry.key))
        upload = self._s3.start_upload(bucket, key, content, storage_class)
        try:
            etags = self._copy_parts(source, bucket, key, upload)
            self._check_source(source)
            return self._s3.finish_upload(bucket, key, upload, etags, entry.size)
        except BaseException as exc:
            self._abort(bucket, key, upload, exc)
            raise

    def _copy_parts(
        self, source: tuple[str, Entry], bucket: str, key: str, upload: str
    ) -> list[str]:
        _, entry = source
        size = entry.size
        part = max(min(_PART, self._copy_max), -(-size // PARTS_MAX))
        return [
            self._s3.copy_part(source, bucket, key, upload, number, start, min(start + part, size))
            for number, start in enumerate(range(0, size, part), start=1)
        ]

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
        """As S3.copy_part."""
        params = {
            "UploadId": upload,
            "PartNumber": number,
            "CopySourceRange": f"bytes={start}-{end - 1}",
        }
        answer = self._asked("upload_part_copy", source, bucket, key, params)
        result = answer.get("CopyPartResult", {})
        if not result.get("ETag"):
            raise Unsupported(f"s3://{bucket}/{key}: this server cannot copy parts")
        self._s3.sender.note_part(upload, number, result.get("ChecksumCRC32"))
        return etag_of_part(result)

    def _abort(self, bucket: str, key: str, upload: str, cause: BaseException) -> None:
        try:
            self._s3.abort_upload(bucket, key, upload)
        except KeyNotFound:
            return  # S3 finished it, and its answer was lost
        except S3Error as exc:
            cause.add_note(f"an unfinished upload stays in S3 and costs money: {exc}")

    def _check_source(self, source: tuple[str, Entry]) -> None:
        """Check that the source is still the version to be copied: some servers (rclone) do not
        look at CopySourceIfMatch."""
        from_bucket, entry = source
        now, _ = self._s3.head(from_bucket, entry.key)
        if entry.etag and now.etag != entry.etag:
            raise ObjectChanged(f"s3://{from_bucket}/{entry.key}: changed in S3 meanwhile")
