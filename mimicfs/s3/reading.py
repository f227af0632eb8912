"""The part of a boto-shaped Key that reads content."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError

from mimicfs.exception import S3DataError
from mimicfs.s3.boto2 import Callback, Headers, params_of, response_params
from mimicfs.s3.progress import CallbackProgress
from mimicfs.s3.stored import StoredKey
from mimicfs.s3.transport.answers import date_of


class Reading(StoredKey):
    """The content of a Key, from S3."""

    def __init__(self, bucket: Any = None, name: str | bytes | None = None) -> None:
        super().__init__(bucket, name)
        self._body: Any = None  # the content, while it is read
        self._left = 0  # the number of its bytes that are left

    @property
    def closed(self) -> bool:
        """Whether nothing is being read."""
        return self._body is None

    def open_read(
        self,
        headers: Headers | None = None,
        query_args: str = "",
        override_num_retries: int | None = None,
        response_headers: Headers | None = None,
        version_id: str | None = None,
    ) -> None:
        """Ask S3 for the content, unless it was asked for already; with *version_id*, or if the Key
        has a version, for that version. S3 answers with *response_headers*
        ("response-content-type" ...)."""
        if self._body is not None:
            return
        params = params_of(headers) | response_params(response_headers)
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
        """Begin to read (mode "r"). Raises ValueError for a mode that is not r or w, and
        NotImplementedError for w."""
        if mode not in ("r", "w"):
            raise ValueError(f"mode {mode!r}: not r or w")
        if mode == "w":
            self.open_write(headers)
        self.open_read(headers, query_args or "")

    def open_write(self, headers: Headers | None = None, override_num_retries: Any = None) -> None:
        """Left out: set_contents_from_file stores content."""
        raise NotImplementedError("open_write: use set_contents_from_file")

    def read(self, size: int = 0) -> bytes:
        """Return the next *size* bytes; 0: all that are left. At the end it returns b"" once; the
        next read begins anew. Raises S3DataError if the content ends early."""
        self.open_read()
        data = self._next(size or None)
        if not data:
            self.close()
        return data

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next bytes of the content, at most `BufferSize` (8,192)."""
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
        """Write the content to *fp*. *cb* is called about *num_cb* times, with the number of bytes
        that are done and with their total. Raises S3DataError if the content ends early."""
        if torrent:
            raise NotImplementedError("torrent: S3 no longer has torrents")
        self.close()
        self.open_read(headers, response_headers=response_headers, version_id=version_id)
        progress = CallbackProgress(cb, num_cb, self._left, self.BufferSize)
        progress.begin()
        try:
            while data := self._next(progress.piece):
                fp.write(data)
                progress.add(len(data))
            progress.end()
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
        """Write the content to *fp*, as get_file does."""
        self.get_file(
            fp, headers, cb, num_cb, torrent, version_id, response_headers=response_headers
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
        """Write the content to a file, as get_file does. The file gets the time of the object; if
        reading fails, the file is removed."""
        try:
            with open(filename, "wb") as fp:
                self.get_file(
                    fp,
                    headers,
                    cb,
                    num_cb,
                    torrent,
                    version_id,
                    response_headers=response_headers,
                )
        except BaseException:
            Path(filename).unlink(missing_ok=True)
            raise
        at = date_of(self.last_modified or "")
        if at is not None:
            os.utime(filename, (at.timestamp(), at.timestamp()))

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
        """Return the content as bytes; with *encoding*, as text. Otherwise do as get_file."""
        found = io.BytesIO()
        self.get_file(
            found, headers, cb, num_cb, torrent, version_id, response_headers=response_headers
        )
        return found.getvalue().decode(encoding) if encoding else found.getvalue()
