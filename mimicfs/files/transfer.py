"""A whole object between S3 and a staging file: several ranged GETs, or parts, at once.

Requests run in `s3.pool`; the thread that asked waits for them and can be interrupted. When
one fails, no more are begun, those on their way are waited for, and the error is raised.
"""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from mimicfs.config import MIB, FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import MimicError, PosixError
from mimicfs.files.journal import Staging
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3, Content

log = logging.getLogger(__name__)

T = TypeVar("T")

# S3's limits of multipart uploads (user guide, "Amazon S3 multipart upload limits").
_PARTS_MAX = 10_000
_SIZE_MAX = 5 << 40


def download(
    s3: S3,
    options: FileOptions,
    bucket: str,
    entry: Entry,
    size: int,
    staging: Staging,
    cancellation: Cancellation,
) -> None:
    """Write the first *size* bytes of the version *entry* into *staging*."""

    def fetch(start: int) -> None:
        buffer = bytearray(min(options.block_size, size - start))
        s3.read_into(bucket, entry.key, entry.etag, start, memoryview(buffer))
        staging.write(start, buffer)

    starts = range(0, size, options.block_size)
    _all(s3, fetch, starts, options.requests_per_file, cancellation)


def upload(
    s3: S3,
    options: FileOptions,
    staging: Staging,
    size: int,
    bucket: str,
    key: str,
    content: Content,
    cancellation: Cancellation,
) -> Entry:
    """Store the first *size* bytes of *staging* as s3://bucket/key; return the new version."""
    if size > _SIZE_MAX:
        raise PosixError(errno.EFBIG, f"s3://{bucket}/{key}: over 5 TiB")
    if size <= 2 * options.part_size:
        put = s3.pool.submit(s3.put, bucket, key, _Part(staging, 0, size), size, content)
        return cancellation.wait(put)
    part = part_size(size, options.part_size)
    number = s3.start_upload(bucket, key, content)

    def send(start: int) -> str:
        length = min(part, size - start)
        body = _Part(staging, start, length)
        return s3.upload_part(bucket, key, number, start // part + 1, body, length)

    try:
        starts = range(0, size, part)
        parts = _all(s3, send, starts, options.requests_per_file, cancellation)
        return s3.finish_upload(bucket, key, number, parts, size)
    except BaseException:
        _abort(s3, bucket, key, number)
        raise


def part_size(size: int, least: int) -> int:
    """Return how large the parts of an upload of *size* bytes are: *least*, or whole MiB such
    that 10,000 suffice."""
    needed = -(-size // _PARTS_MAX)
    return max(least, -(-needed // MIB) * MIB)


def _abort(s3: S3, bucket: str, key: str, number: str) -> None:
    try:
        s3.abort_upload(bucket, key, number)
    except MimicError as exc:  # the error of the upload itself is the one to raise
        log.warning("an unfinished upload stays in S3, at a cost: s3://%s/%s: %s", bucket, key, exc)


def _all(
    s3: S3,
    work: Callable[[int], T],
    items: Iterable[int],
    at_once: int,
    cancellation: Cancellation,
) -> list[T]:
    """Return what *work* gives for each item, in order, several at once."""
    running: list[Future[T]] = []
    found: list[T] = []
    try:
        for item in items:
            running.append(s3.pool.submit(work, item))
            if len(running) >= at_once:
                found.append(cancellation.wait(running[0]))
                del running[0]
        while running:
            found.append(cancellation.wait(running[0]))
            del running[0]
    except BaseException:
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()  # nothing of it may run on: its file may be gone
        raise
    return found


class _Part(io.RawIOBase):
    """A part of a staging file, as a file of its own that botocore can read and rewind."""

    def __init__(self, staging: Staging, start: int, size: int) -> None:
        self._staging = staging
        self._start = start
        self._size = size
        self._place = 0

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._staging.read(self._start + self._place, wanted) if wanted else b""
        self._place += len(data)
        return data
