"""The part of a boto-shaped Key that stores content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import mimetypes
import os
from typing import Any, BinaryIO

from mimicfs.entry import unquoted
from mimicfs.exception import S3DataError
from mimicfs.s3.boto2 import Callback, Headers, ask, params_of
from mimicfs.s3.progress import CallbackProgress, CountedBody, LimitedStream
from mimicfs.s3.requests.content import sized
from mimicfs.s3.stored import HEADERS, StoredKey


class Writing(StoredKey):
    """Stores the content of a Key in S3, with the metadata and headers that the Key has."""

    DefaultContentType = "application/octet-stream"

    def __init__(self, bucket: Any = None, name: str | bytes | None = None) -> None:
        super().__init__(bucket, name)
        self.path: str | None = None
        self.base64md5: str | None = None

    def set_contents_from_file(
        self,
        fp: BinaryIO,
        headers: Headers | None = None,
        replace: bool = True,
        cb: Callback | None = None,
        num_cb: int = 10,
        policy: str | None = None,
        md5: Any = None,
        reduced_redundancy: bool = False,
        query_args: str | None = None,
        encrypt_key: bool = False,
        size: int | None = None,
        rewind: bool = False,
    ) -> int | None:
        """Store *fp* from its position on, at most *size* bytes, and return how many; None if not
        *replace* and the key exists. *policy* is a canned ACL, and *md5* the result of compute_md5
        for these bytes. *cb* is called about *num_cb* times, with the number of bytes that are done
        and with their total. Raises S3DataError if S3's ETag is not that of the bytes."""
        if rewind:
            fp.seek(0)
        begun = fp.tell()
        fp = in_bytes(fp, size)
        if query_args:
            raise NotImplementedError("query_args: use connection.client.put_object")
        length = length_of(fp, size)
        if not length and size is None and begun:
            raise AttributeError("the file is at its end; pass rewind=True, or call seek")
        found = md5 or self.compute_md5(fp, length)
        self.name = self.name or found[0]
        if not replace and self.bucket.get_key(self.name, force=True) is not None:
            return None
        self.md5, self.base64md5 = found
        extra = params_of(headers)
        if policy:
            extra["ACL"] = policy
        if encrypt_key:
            extra["ServerSideEncryption"] = "AES256"
        if reduced_redundancy:
            self._storage_class = "REDUCED_REDUNDANCY"
        if self._keeps:
            self._complete_from_s3()
        self._take_params(extra)
        answer = self._send("put_object", fp, length, cb, num_cb, extra | self._to_store())
        self.version_id = answer.get("VersionId")
        self._complete = True
        return length

    def _to_store(self) -> dict[str, Any]:
        """Return headers, metadata and storage class as parameters of an upload."""
        stored = self._stored()
        if self._storage_class not in (None, "STANDARD"):
            stored["StorageClass"] = self._storage_class
        if "ContentType" not in stored:
            stored["ContentType"] = self._headers["content_type"] = self.DefaultContentType
        return stored

    def _send(
        self,
        operation: str,
        fp: BinaryIO,
        length: int,
        cb: Callback | None,
        num_cb: int,
        params: dict[str, Any],
    ) -> Any:
        """Send *length* bytes of *fp*, whose MD5 is known. Return the answer. Raises S3DataError
        if S3 has got other bytes."""
        end = fp.tell() + length
        progress = CallbackProgress(cb, num_cb, length, self.BufferSize)
        body = CountedBody(sized(fp, length), progress) if cb else sized(fp, length)
        params = {"Key": self.name, "Body": body, "ContentLength": length, **params}
        answer = self.bucket.ask(operation, ContentMD5=self.base64md5, **params)
        progress.end()
        fp.seek(end)
        sent = self.md5
        self.size, self.etag, self.md5 = length, answer.get("ETag"), sent
        self.encrypted = answer.get("ServerSideEncryption")
        bare = unquoted(self.etag)
        encrypted = self.encrypted or answer.get("SSECustomerAlgorithm")
        if len(bare) == 32 and not encrypted and bare != sent:
            raise S3DataError(f"s3://{self.bucket.name}/{self.name}: ETag {bare}, sent {sent}")
        return answer

    def _take_params(self, extra: dict[str, Any]) -> None:
        """Take the headers, metadata and storage class in *extra* over into this Key, which then
        shows them."""
        for member, name in HEADERS.items():
            if member in extra:
                self._headers[name] = extra.pop(member)
        self._metadata.update(extra.pop("Metadata", {}))
        if "StorageClass" in extra:
            self._storage_class = extra.pop("StorageClass")

    def set_contents_from_filename(
        self,
        filename: str,
        headers: Headers | None = None,
        replace: bool = True,
        cb: Callback | None = None,
        num_cb: int = 10,
        policy: str | None = None,
        md5: Any = None,
        reduced_redundancy: bool = False,
        encrypt_key: bool = False,
    ) -> int | None:
        """Store a file, as set_contents_from_file does. Unless the Key has a type of content
        of its own, the name of the file gives it."""
        self.path = filename
        if self._headers.get("content_type") in (None, self.DefaultContentType):
            self._headers["content_type"] = mimetypes.guess_type(filename)[0]
        with open(filename, "rb") as fp:
            return self.set_contents_from_file(
                fp,
                headers,
                replace,
                cb,
                num_cb,
                policy,
                md5,
                reduced_redundancy,
                encrypt_key=encrypt_key,
            )

    def set_contents_from_string(
        self,
        string_data: str | bytes,
        headers: Headers | None = None,
        replace: bool = True,
        cb: Callback | None = None,
        num_cb: int = 10,
        policy: str | None = None,
        md5: Any = None,
        reduced_redundancy: bool = False,
        encrypt_key: bool = False,
    ) -> int | None:
        """Store *string_data*, as set_contents_from_file does. Text is stored in UTF-8."""
        data = string_data.encode() if isinstance(string_data, str) else string_data
        return self.set_contents_from_file(
            io.BytesIO(data),
            headers,
            replace,
            cb,
            num_cb,
            policy,
            md5,
            reduced_redundancy,
            encrypt_key=encrypt_key,
        )

    def set_contents_from_stream(
        self,
        fp: BinaryIO,
        headers: Headers | None = None,
        replace: bool = True,
        cb: Callback | None = None,
        num_cb: int = 10,
        policy: str | None = None,
        reduced_redundancy: bool = False,
        query_args: str | None = None,
        size: int | None = None,
    ) -> None:
        """Store the bytes of *fp*, to its end or *size* of them, in parts; *fp* need not be
        seekable. *cb* gets 0 for the total if *size* is None."""
        if query_args:
            raise NotImplementedError("query_args: use connection.client.upload_fileobj")
        name = self._named()
        if not replace and self.bucket.get_key(name, force=True) is not None:
            return
        extra = params_of(headers) | ({"ACL": policy} if policy else {})
        if reduced_redundancy:
            self._storage_class = "REDUCED_REDUNDANCY"
        self._take_params(extra)
        progress = CallbackProgress(cb, num_cb, size or 0)
        progress.begin()
        ask(
            self.bucket.connection.client,
            "upload_fileobj",
            Fileobj=LimitedStream(in_bytes(fp, size), size),
            Bucket=self.bucket.name,
            Key=name,
            ExtraArgs=extra | self._to_store(),
            Callback=progress.add,
        )
        progress.end()
        self._complete = True

    def send_file(
        self,
        fp: BinaryIO,
        headers: Headers | None = None,
        cb: Callback | None = None,
        num_cb: int = 10,
        query_args: str | None = None,
        chunked_transfer: bool = False,
        size: int | None = None,
    ) -> None:
        """Store *fp*, as set_contents_from_file does."""
        self.set_contents_from_file(fp, headers, True, cb, num_cb, query_args=query_args, size=size)

    def send_part(
        self,
        fp: BinaryIO,
        upload_id: str,
        number: int,
        headers: Headers | None,
        cb: Callback | None,
        num_cb: int,
        md5: Any,
        size: int | None,
    ) -> None:
        """Upload part *number* of a multipart upload."""
        fp = in_bytes(fp, size)
        length = length_of(fp, size)
        self.md5, self.base64md5 = md5 or self.compute_md5(fp, length)
        params = {"UploadId": upload_id, "PartNumber": number, **params_of(headers)}
        self._send("upload_part", fp, length, cb, num_cb, params)

    def compute_md5(self, fp: BinaryIO, size: int | None = None) -> tuple[str, str]:
        """Return the MD5 of *fp* from its position on, in hex and base64; the attribute `size` is
        then the number of these bytes. The position of the file stays as it was."""
        if _is_text(fp):
            start = fp.tell()
            found = self.compute_md5(in_bytes(fp, size), size)
            fp.seek(start)
            return found
        start = fp.tell()
        digest, left = hashlib.md5(usedforsecurity=False), length_of(fp, size)
        self.size = left
        while left and (data := fp.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        fp.seek(start)
        return digest.hexdigest(), base64.b64encode(digest.digest()).decode()

    def get_md5_from_hexdigest(self, md5_hexdigest: str) -> tuple[str, str]:
        """Return an MD5 of 32 hex digits as it is, and in base64."""
        return md5_hexdigest, base64.b64encode(binascii.unhexlify(md5_hexdigest)).decode()


def in_bytes(fp: Any, size: int | None = None) -> Any:
    """Return *fp*; if it is a file of text, return the rest of it as a file of bytes in UTF-8:
    whole characters, at most *size* bytes. The position of the text is then behind them."""
    if not _is_text(fp):
        return fp
    if size is None:
        return io.BytesIO(fp.read().encode())
    start = fp.tell()
    cut = fp.read(size).encode()[:size].decode(errors="ignore")
    fp.seek(start)
    return io.BytesIO(fp.read(len(cut)).encode())


def _is_text(fp: Any) -> bool:
    return isinstance(fp, io.TextIOBase)


def length_of(fp: BinaryIO, size: int | None) -> int:
    """Return how many bytes *fp* has from its position on, at most *size*."""
    start = fp.tell()
    end = fp.seek(0, os.SEEK_END)
    fp.seek(start)
    return end - start if size is None else min(size, end - start)
