"""Key, as boto has it: an object of a bucket and its content.

Threading: one Key, one thread at a time, as with boto.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import mimetypes
import os
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from mimicfs.exception import S3DataError, S3ResponseError
from mimicfs.s3.boto2 import Callback, Headers, ask, left_out, params_of
from mimicfs.s3.content import sized
from mimicfs.s3.stored import HEADERS, Stored

_BUFFER = 8192  # bytes of one read of a Key, as boto's BufferSize


class Key(Stored):
    DefaultContentType = "application/octet-stream"
    BufferSize = _BUFFER

    def __init__(self, bucket: Any = None, name: str | bytes | None = None) -> None:
        super().__init__(bucket, name)
        self.filename: str | None = None
        self.path: str | None = None
        self.source_version_id: str | None = None
        self.delete_marker = False
        self.md5: str | None = None  # hex
        self.base64md5: str | None = None
        self._body: Any = None  # while it is read
        self._left = 0  # bytes of it

    def __repr__(self) -> str:
        return f"<Key: {self.bucket.name if self.bucket else None},{self.name}>"

    @property
    def key(self) -> str:
        return self.name

    @key.setter
    def key(self, name: str) -> None:
        self.name = name

    @property
    def provider(self) -> str:
        return "aws"

    # Writing

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
        """Store *fp* from where it stands, at most *size* bytes. Return how many. None if not
        *replace* and the key exists. Raises S3ResponseError, S3DataError."""
        if rewind:
            fp.seek(0)
        if not replace and self.bucket.get_key(self.name, force=True) is not None:
            return None
        if query_args:
            raise NotImplementedError("query_args: use connection.client.put_object")
        length = _length(fp, size)
        if not length and size is None and fp.tell():
            raise AttributeError("the file is at its end; pass rewind=True, or seek")
        self.md5, self.base64md5, *_ = md5 or self.compute_md5(fp, length)
        extra = params_of(headers)
        if policy:
            extra["ACL"] = policy
        if encrypt_key:
            extra["ServerSideEncryption"] = "AES256"
        if reduced_redundancy:
            self._storage_class = "REDUCED_REDUNDANCY"
        self._put(fp, length, extra, cb)
        return length

    def _put(self, fp: BinaryIO, length: int, extra: dict[str, Any], cb: Callback | None) -> None:
        if self._keeps:
            self._complete_from_s3()
        self._take_params(extra)
        end, stored = fp.tell() + length, self._stored()
        if self._storage_class not in (None, "STANDARD"):
            stored["StorageClass"] = self._storage_class
        stored.setdefault("ContentType", self.DefaultContentType)
        if self.base64md5:
            stored["ContentMD5"] = self.base64md5
        if cb:
            cb(0, length)
        answer = self.bucket.ask(
            "put_object",
            Key=self.name,
            Body=sized(fp, length),
            ContentLength=length,
            **(extra | stored),
        )
        if cb:
            cb(length, length)
        fp.seek(end)
        self.size, self.etag = length, answer.get("ETag")
        self.version_id = answer.get("VersionId")
        self.encrypted = answer.get("ServerSideEncryption")
        self._complete = True
        bare = (self.etag or "").strip('"')
        if self.md5 and len(bare) == 32 and not self.encrypted and bare != self.md5:
            raise S3DataError(f"s3://{self.bucket.name}/{self.name}: ETag {bare}, sent {self.md5}")

    def _take_params(self, extra: dict[str, Any]) -> None:
        """Headers that were given hold, also for what this Key shows."""
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
        """As set_contents_from_file. The type of the content is that of the file's name."""
        self.path = filename
        if self._headers.get("content_type") in (None, self.DefaultContentType):
            self._headers["content_type"] = mimetypes.guess_type(filename)[0]
        with open(filename, "rb") as fp:
            return self.set_contents_from_file(
                *(fp, headers, replace, cb, num_cb, policy, md5, reduced_redundancy),
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
        """As set_contents_from_file. Text is stored in UTF-8."""
        data = string_data.encode() if isinstance(string_data, str) else string_data
        return self.set_contents_from_file(
            *(io.BytesIO(data), headers, replace, cb, num_cb, policy, md5, reduced_redundancy),
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
        """Store what *fp* gives to its end; it need not be seekable. It goes in parts."""
        if size is not None:
            data = io.BytesIO(fp.read(size))
            self.set_contents_from_file(data, headers, replace, cb, num_cb, policy)
            return
        if not replace and self.bucket.get_key(self.name, force=True) is not None:
            return
        extra = params_of(headers) | ({"ACL": policy} if policy else {})
        self._take_params(extra)
        stored = {"ContentType": self.DefaultContentType, **self._stored()}
        ask(
            self.bucket.connection.client,
            "upload_fileobj",
            Fileobj=fp,
            Bucket=self.bucket.name,
            Key=self.name,
            ExtraArgs=extra | stored,
        )
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
        self.set_contents_from_file(fp, headers, True, cb, num_cb, query_args=query_args, size=size)

    def send_part(
        self,
        fp: BinaryIO,
        upload_id: str,
        number: int,
        extra: dict[str, Any],
        cb: Callback | None,
        size: int | None,
    ) -> None:
        """Upload part *number* of a multipart upload."""
        length = _length(fp, size)
        end = fp.tell() + length
        if cb:
            cb(0, length)
        answer = self.bucket.ask(
            "upload_part",
            Key=self.name,
            UploadId=upload_id,
            PartNumber=number,
            Body=sized(fp, length),
            ContentLength=length,
            **extra,
        )
        if cb:
            cb(length, length)
        fp.seek(end)
        self.size, self.etag = length, answer.get("ETag")

    def compute_md5(self, fp: BinaryIO, size: int | None = None) -> tuple[str, str, int]:
        """Return the MD5 of *fp* from where it stands, hex and base64, and how many bytes. The
        file stands where it did afterwards."""
        start = fp.tell()
        digest, left = hashlib.md5(usedforsecurity=False), _length(fp, size)
        total = left
        while left and (data := fp.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        fp.seek(start)
        return digest.hexdigest(), base64.b64encode(digest.digest()).decode(), total

    def get_md5_from_hexdigest(self, md5_hexdigest: str) -> tuple[str, str]:
        return md5_hexdigest, base64.b64encode(binascii.unhexlify(md5_hexdigest)).decode()

    # Reading

    def open_read(
        self,
        headers: Headers | None = None,
        query_args: str = "",
        override_num_retries: int | None = None,
        response_headers: Headers | None = None,
        version_id: str | None = None,
    ) -> None:
        """Ask S3 for the content, if it was not asked for yet. Raises S3ResponseError."""
        if self._body is not None:
            return
        params = params_of(headers)
        for name, value in (response_headers or {}).items():
            short = name.lower().removeprefix("response-").title().replace("-", "")
            params[f"Response{short}"] = value
        version_id = version_id or self.version_id
        if version_id:
            params["VersionId"] = version_id
        answer = self.bucket.ask("get_object", Key=self.name, **params)
        self._body, self._left = answer["Body"], answer["ContentLength"]
        self.take_head(answer)

    def _next(self, size: int | None = None) -> bytes:
        """Return the next bytes of the content. Raises S3DataError if it ends early."""
        try:
            data: bytes = self._body.read(size)
        except (BotoCoreError, HTTPError) as exc:
            raise S3DataError(f"s3://{self.bucket.name}/{self.name}: {exc}") from exc
        self._left -= len(data)
        if self._left > 0 and (not data or size is None):
            raise S3DataError(
                f"s3://{self.bucket.name}/{self.name}: {self._left} bytes are missing"
            )
        return data

    def open(
        self,
        mode: str = "r",
        headers: Headers | None = None,
        query_args: str | None = None,
        override_num_retries: int | None = None,
    ) -> None:
        if mode not in ("r", "w"):
            raise ValueError(f"mode {mode!r}: not r or w")
        if mode == "w":
            self.open_write(headers)
        self.open_read(headers, query_args or "")

    def open_write(self, headers: Headers | None = None, override_num_retries: Any = None) -> None:
        raise NotImplementedError("open_write: use set_contents_from_file")

    def read(self, size: int = 0) -> bytes:
        """Return the next *size* bytes; 0: all that are left. b"" at the end, and closed."""
        self.open_read()
        data = self._next(size or None)
        if not data or not size:
            self.close()
        return data

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.open_read()
        data = self._next(self.BufferSize)
        if not data:
            self.close()
            raise StopIteration
        return data

    next = __next__

    def close(self, fast: bool = False) -> None:
        """End reading; the next read begins anew."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def get_file(
        self,
        fp: BinaryIO,
        headers: Headers | None = None,
        cb: Callback | None = None,
        num_cb: int = 10,
        torrent: bool = False,
        version_id: str | None = None,
        override_num_retries: int | None = None,
        response_headers: Headers | None = None,
    ) -> None:
        """Write the content to *fp*. Raises S3ResponseError, S3DataError."""
        if torrent:
            raise NotImplementedError("torrent: S3 has no torrents any more")
        self.close()
        self.open_read(headers, response_headers=response_headers, version_id=version_id)
        done, told, total, steps = 0, 0, self._left, max(1, num_cb)
        try:
            if cb:
                cb(0, total)
            while data := self._next(1 << 18):
                fp.write(data)
                done += len(data)
                if cb and done < total and done * steps // total > told:
                    told = done * steps // total
                    cb(done, total)
            if cb:
                cb(done, total)
        finally:
            self.close()

    def get_contents_to_file(
        self,
        fp: BinaryIO,
        headers: Headers | None = None,
        cb: Callback | None = None,
        num_cb: int = 10,
        torrent: bool = False,
        version_id: str | None = None,
        res_download_handler: Any = None,
        response_headers: Headers | None = None,
    ) -> None:
        self.get_file(
            *(fp, headers, cb, num_cb, torrent, version_id), response_headers=response_headers
        )

    def get_contents_to_filename(
        self,
        filename: str,
        headers: Headers | None = None,
        cb: Callback | None = None,
        num_cb: int = 10,
        torrent: bool = False,
        version_id: str | None = None,
        res_download_handler: Any = None,
        response_headers: Headers | None = None,
    ) -> None:
        """As get_file; the file gets the object's time, and is removed if that fails."""
        try:
            with open(filename, "wb") as fp:
                self.get_file(
                    *(fp, headers, cb, num_cb, torrent, version_id),
                    response_headers=response_headers,
                )
        except BaseException:
            Path(filename).unlink(missing_ok=True)
            raise
        if self.last_modified:
            at = parsedate_to_datetime(self.last_modified).timestamp()
            os.utime(filename, (at, at))

    def get_contents_as_string(
        self,
        headers: Headers | None = None,
        cb: Callback | None = None,
        num_cb: int = 10,
        torrent: bool = False,
        version_id: str | None = None,
        response_headers: Headers | None = None,
        encoding: str | None = None,
    ) -> Any:
        """Return the content: bytes, or text with *encoding*."""
        found = io.BytesIO()
        self.get_file(
            *(found, headers, cb, num_cb, torrent, version_id), response_headers=response_headers
        )
        return found.getvalue().decode(encoding) if encoding else found.getvalue()

    # The object

    def exists(self, headers: Headers | None = None) -> bool:
        return bool(self.bucket.lookup(self.name, headers=headers))

    def delete(self, headers: Headers | None = None) -> Key:
        deleted: Key = self.bucket.delete_key(
            self.name, version_id=self.version_id, headers=headers
        )
        return deleted

    def copy(
        self,
        dst_bucket: str,
        dst_key: str,
        metadata: dict[str, str] | None = None,
        reduced_redundancy: bool = False,
        preserve_acl: bool = False,
        encrypt_key: bool = False,
        validate_dst_bucket: bool = True,
    ) -> Key:
        """Copy to another key, with this one's metadata or *metadata* instead. Return it."""
        bucket = self.bucket.connection.get_bucket(dst_bucket, validate=validate_dst_bucket)
        storage_class = "REDUCED_REDUNDANCY" if reduced_redundancy else self.storage_class
        copied: Key = bucket.copy_key(
            *(dst_key, self.bucket.name, self.name, metadata),
            storage_class=storage_class,
            preserve_acl=preserve_acl,
            encrypt_key=encrypt_key,
        )
        return copied

    def change_storage_class(
        self,
        new_storage_class: str,
        dst_bucket: str | None = None,
        validate_dst_bucket: bool = True,
    ) -> Any:
        """Copy the object, onto itself or to *dst_bucket*, as *new_storage_class*."""
        self._complete_from_s3()
        self._storage_class = new_storage_class
        if dst_bucket and dst_bucket != self.bucket.name:
            return self.copy(dst_bucket, self.name, validate_dst_bucket=validate_dst_bucket)
        self._copy_onto_itself({"StorageClass": new_storage_class}, preserve_acl=False)
        return self

    def restore(self, days: int, headers: Headers | None = None) -> None:
        """Ask for an archived object to be readable for *days*."""
        self.bucket.ask(
            "restore_object", Key=self.name, RestoreRequest={"Days": days}, **params_of(headers)
        )

    def set_acl(self, acl_str: str, headers: Headers | None = None) -> None:
        self.bucket.set_acl(acl_str, self.name, headers=headers)

    set_canned_acl = set_acl

    def make_public(self, headers: Headers | None = None) -> None:
        self.set_acl("public-read", headers)

    def generate_url(
        self,
        expires_in: int,
        method: str = "GET",
        headers: Headers | None = None,
        query_auth: bool = True,
        force_http: bool = False,
        response_headers: Headers | None = None,
        expires_in_absolute: bool = False,
        version_id: str | None = None,
        policy: str | None = None,
        reduced_redundancy: bool = False,
        encrypt_key: bool = False,
    ) -> str:
        """Return an address at which anybody may do *method* for *expires_in* seconds."""
        asked = dict(headers or {})
        if policy:
            asked["x-amz-acl"] = policy
        if reduced_redundancy:
            asked["x-amz-storage-class"] = "REDUCED_REDUNDANCY"
        if encrypt_key:
            asked["x-amz-server-side-encryption"] = "AES256"
        url: str = self.bucket.signed_url(
            *(method, self.name, expires_in, asked, query_auth, force_http),
            *(response_headers, expires_in_absolute, version_id),
        )
        return url

    def get_redirect(self) -> str | None:
        """Return where a website sends visitors of this key."""
        try:
            answer = self.bucket.ask("head_object", force=True, Key=self.name)
        except S3ResponseError as exc:
            if exc.status == 404:
                return None
            raise
        location: str | None = answer.get("WebsiteRedirectLocation")
        return location

    def set_redirect(self, redirect_location: str, headers: Headers | None = None) -> bool:
        """Make this key, without content, one that a website redirects."""
        params = params_of(headers) | {"WebsiteRedirectLocation": redirect_location}
        self.bucket.ask("put_object", Key=self.name, Body=b"", **params)
        return True

    add_email_grant = left_out("add_email_grant", "put_object_acl")
    add_user_grant = left_out("add_user_grant", "put_object_acl")
    get_acl = left_out("get_acl", "get_object_acl")
    get_xml_acl = left_out("get_xml_acl", "get_object_acl")
    set_xml_acl = left_out("set_xml_acl", "put_object_acl")
    get_torrent_file = left_out("get_torrent_file", "get_object")


def _length(fp: BinaryIO, size: int | None) -> int:
    """Return how many bytes of *fp* there are from where it stands, at most *size*."""
    start = fp.tell()
    end = fp.seek(0, os.SEEK_END)
    fp.seek(start)
    return end - start if size is None else min(size, end - start)
