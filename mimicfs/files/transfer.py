"""A whole object between S3 and a staging file: several ranged GETs, or parts, at once.

Requests run in `s3.pool`; the thread that asked waits for them and can be interrupted. What
was given up may still be on its way then: `Batch.settled` says when it no longer is.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from mimicfs.config import MIB, FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import Interrupted, KeyNotFound, MimicError, NoSuchBucket, PosixError
from mimicfs.files.journal import Staging
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3, Condition, Content

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# S3's limits of objects and multipart uploads (user guide, "Amazon S3 multipart upload limits").
SIZE_MAX = 5 << 40
_PARTS_MAX = 10_000
# Of one ranged GET of `download`: 8 of them at once hold 32 MiB.
_PIECE = 4 * MIB


class Batch:
    """Requests in `s3.pool` that belong together, *at_once* of them at a time.

    Threading: one thread makes requests and waits; `stopped` is read by those that run them.
    """

    def __init__(self, s3: S3, at_once: int, cancellation: Cancellation) -> None:
        self._s3 = s3
        self._at_once = at_once
        self._cancellation = cancellation
        self._running: list[Future[Any]] = []
        self.stopped = False
        self.settled: Future[None] = Future()  # done when nothing runs any more after `stop`

    def one(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* returns. Raises its error, or Interrupted."""
        future = self._s3.pool.submit(work, *args, **kwargs)
        self._running = [future]
        return self._cancellation.wait(future)

    def all(self, work: Callable[[int], T], items: Iterable[int]) -> list[T]:
        """Return what *work* returns for each item, in order. Raises the first error of any,
        or Interrupted; then no more are begun."""
        found: dict[int, T] = {}
        running: dict[Future[T], int] = {}
        for item in items:
            running[self._s3.pool.submit(work, item)] = item
            self._running = list(running)
            if len(running) >= self._at_once:
                self._collect(running, found)
        while running:
            self._collect(running, found)
        return [found[item] for item in sorted(found)]

    def _collect(self, running: dict[Future[T], int], found: dict[int, T]) -> None:
        """Wait until at least one of *running* is done."""
        self._cancellation.wait(_first_of(list(running)))
        for future in [future for future in running if future.done()]:
            found[running.pop(future)] = future.result()

    def stop(self, then: Callable[[], None]) -> None:
        """Begin nothing more; run *then* when what is on its way has ended."""
        self.stopped = True
        for future in self._running:
            future.cancel()
        _last_of(self._running).add_done_callback(lambda _: self._settle(then))

    def _settle(self, then: Callable[[], None]) -> None:
        """Run *then* in the pool: it may wait, and this may be the thread of a caller."""
        try:
            self._s3.pool.submit(then).add_done_callback(lambda _: self.settled.set_result(None))
        except RuntimeError:  # the pool is closed: the process ends
            self.settled.set_result(None)


def _first_of(futures: list[Future[T]]) -> Future[None]:
    """Return a future that is done as soon as one of *futures* is."""
    return _after(futures, 1)


def _last_of(futures: list[Future[T]]) -> Future[None]:
    """Return a future that is done as soon as all *futures* are."""
    return _after(futures, len(futures))


def _after(futures: list[Future[T]], count: int) -> Future[None]:
    reached: Future[None] = Future()
    lock = threading.Lock()  # protects the count
    left = count

    def done(_: Future[T] | None) -> None:
        nonlocal left
        with lock:
            left -= 1
            now = left == 0
        if now:
            reached.set_result(None)

    if not count:
        reached.set_result(None)
    for future in futures:
        future.add_done_callback(done)
    return reached


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
    piece = min(options.block_size, _PIECE)
    batch = Batch(s3, options.requests_per_file, cancellation)

    def fetch(start: int) -> None:
        if batch.stopped:
            raise Interrupted("given up")
        buffer = bytearray(min(piece, size - start))
        s3.read_into(bucket, entry.key, entry.etag, start, memoryview(buffer))
        staging.write(start, buffer)

    try:
        batch.all(fetch, range(0, size, piece))
    except BaseException:
        batch.stop(lambda: None)
        raise


def upload(
    batch: Batch,
    s3: S3,
    options: FileOptions,
    staging: Staging,
    size: int,
    bucket: str,
    key: str,
    content: Content,
    condition: Condition = Condition(),  # noqa: B008  an immutable default
) -> Entry:
    """Store the first *size* bytes of *staging* as s3://bucket/key, under *condition*; return
    the new version.

    When it raises, nothing more is read from *staging*. A request whose bytes were all read
    before may still reach S3: begin no other upload of the key before `batch.settled`.
    """
    if size > SIZE_MAX:
        raise PosixError(errno.EFBIG, f"s3://{bucket}/{key}: over 5 TiB")
    if size > 2 * options.part_size:
        return _Multipart(batch, s3, bucket, key, condition).upload(options, staging, size, content)
    try:
        body = _Part(batch, staging, 0, size)
        return batch.one(s3.put, bucket, key, body, size, content, condition)
    except BaseException:
        batch.stop(lambda: None)
        raise


class _Multipart:
    """A multipart upload. Finished, or aborted; what cannot be aborted is logged."""

    def __init__(self, batch: Batch, s3: S3, bucket: str, key: str, condition: Condition) -> None:
        self._condition = condition
        self._batch = batch
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self._id = ""  # "": not begun
        self._finished = False

    def upload(self, options: FileOptions, staging: Staging, size: int, content: Content) -> Entry:
        part = part_size(size, options.part_size)

        def send(start: int) -> str:
            length = min(part, size - start)
            body = _Part(self._batch, staging, start, length)
            number = start // part + 1
            return self._s3.upload_part(self._bucket, self._key, self._id, number, body, length)

        try:
            self._batch.one(self._start, content)
            parts = self._batch.all(send, range(0, size, part))
            return self._batch.one(self._finish, parts, size)
        except BaseException:
            self._batch.stop(self._abort)
            raise

    def _start(self, content: Content) -> None:
        self._id = self._s3.start_upload(self._bucket, self._key, content)

    def _finish(self, parts: list[str], size: int) -> Entry:
        entry = self._s3.finish_upload(
            self._bucket, self._key, self._id, parts, size, self._condition
        )
        self._finished = True
        return entry

    def _abort(self) -> None:
        if not self._id or self._finished:
            return
        try:
            self._s3.abort_upload(self._bucket, self._key, self._id)
        except (KeyNotFound, NoSuchBucket):
            return  # it is gone: S3 finished it and the answer was lost, or so is the bucket
        except MimicError as exc:
            log.warning(
                "an unfinished upload stays in S3, at a cost: s3://%s/%s: %s",
                self._bucket,
                self._key,
                exc,
            )


def part_size(size: int, least: int) -> int:
    """Return how large the parts of an upload of *size* bytes are: *least*, or whole MiB such
    that 10,000 suffice."""
    needed = -(-size // _PARTS_MAX)
    return max(least, -(-needed // MIB) * MIB)


class _Part(io.RawIOBase):
    """A part of a staging file, as a file of its own that botocore can read and rewind.

    It gives bytes only until its batch is stopped. The file may be changed from then on, and
    an upload must never mix two states of it.
    """

    def __init__(self, batch: Batch, staging: Staging, start: int, size: int) -> None:
        self._batch = batch
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
        self._check()  # so that botocore does not begin another attempt
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._staging.read(self._start + self._place, wanted) if wanted else b""
        self._check()  # after reading: what was read before the batch stopped is of one state
        if len(data) < wanted:
            raise PosixError(errno.EIO, f"staging file {self._staging.path}: cut short")
        self._place += len(data)
        return data

    def _check(self) -> None:
        if self._batch.stopped:
            raise Interrupted("the upload was given up")
