"""Bytes between S3 and a staging file: what several requests at once are made of.

Requests run in `s3.pool`; the thread that asked waits for them and can be interrupted. Requests
that were given up may still be on their way then: `RequestBatch.settled` says when it no longer is.
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

from mimicfs.config.sizes import MIB
from mimicfs.config.values import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import Interrupted, PosixError, S3Unavailable, Throttled
from mimicfs.files.staging import Staging
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Of one ranged GET of `fetch`: 8 of them at once hold 32 MiB.
_PIECE = 4 * MIB
# A gap of so many unwanted bytes is fetched with the bytes around it: another request costs more.
_GAP = 256 << 10
_SMALL = 64 << 10  # bytes of a body that is kept in memory while it is sent

# After these S3 may have done what it was asked: an answer was lost, perhaps before it refused the
# next try.
UNSURE = (Interrupted, S3Unavailable, Throttled)

Span = tuple[int, int]


class RequestBatch:
    """Requests in `s3.pool` that belong together, *at_once* of them at a time.

    Threading: one thread makes requests and waits; `stopped` is read by those that run them.
    """

    def __init__(self, s3: S3, at_once: int, cancellation: Cancellation) -> None:
        self._s3 = s3
        self.at_once = at_once
        self._cancellation = cancellation
        self.running: list[Future[Any]] = []
        self.stopped = False
        self._lock = threading.Lock()  # held while bytes that came are put in their place
        self.settled: Future[None] = Future()  # done when nothing runs any more after `stop`

    def one(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *work* returns. Raises its error, or Interrupted."""
        if self._cancellation is NEVER:  # this saves two hops between threads, 0.1 ms
            return self._s3.pool.here(work, *args, **kwargs)
        future = self._s3.pool.submit(work, *args, **kwargs)
        self.running = [future]
        return self._cancellation.wait(future)

    def all(self, work: Callable[[int], T], items: Iterable[int]) -> list[T]:
        """Return what *work* returns for each item, in order. Raises the first error of any,
        or Interrupted; then no more are begun."""
        found: dict[int, T] = {}
        running: dict[Future[T], int] = {}
        for item in items:
            running[self._s3.pool.submit(work, item)] = item
            self.running = list(running)
            if len(running) >= self.at_once:
                self._collect(running, found)
        while running:
            self._collect(running, found)
        return [found[item] for item in sorted(found)]

    def _collect(self, running: dict[Future[T], int], found: dict[int, T]) -> None:
        """Wait until at least one of *running* is done."""
        self._cancellation.wait(first_of(list(running)))
        for future in [future for future in running if future.done()]:
            found[running.pop(future)] = future.result()

    def results(self) -> list[Any]:
        """Return what the requests that ran when the batch was stopped have returned since."""
        ended = [each for each in self.running if each.done() and not each.cancelled()]
        return [each.result() for each in ended if each.exception() is None]

    def is_unsure(self) -> bool:
        """Whether S3 may have done, without saying so, what one of the requests asked that ran when
        the batch was stopped."""
        failed = [each.exception() for each in self.running if not each.cancelled()]
        return any(isinstance(exc, UNSURE) for exc in failed)

    def check(self) -> None:
        """Raise Interrupted if the batch was stopped."""
        if self.stopped:
            raise Interrupted("given up")

    def unless_stopped(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do *work*, unless the batch was stopped; `stop` returns after it. Raises Interrupted."""
        with self._lock:
            self.check()
            work(*args, **kwargs)

    def stop(self, then: Callable[[], None]) -> None:
        """Begin no more requests; run *then* when those on their way have ended."""
        with self._lock:
            self.stopped = True
        for future in self.running:
            future.cancel()
        _last_of(self.running).add_done_callback(lambda _: self._settle(then))

    def _settle(self, then: Callable[[], None]) -> None:
        """Run *then* in the pool: it may wait, and this may be the thread of a caller."""
        try:
            self._s3.pool.submit(then).add_done_callback(lambda _: self.settled.set_result(None))
        except RuntimeError:  # the pool is closed: the process ends
            self.settled.set_result(None)


def note_sent(staging: Staging, etag: str, size: int, *, unchanged: bool = False) -> None:
    """Do what Staging.note_sent does. A disk that does not take the note does not hold up the
    upload."""
    try:
        staging.note_sent(etag, size, unchanged=unchanged)
    except PosixError as exc:
        log.warning("%s; after a crash the next mount will not know what S3 has of it", exc)


def first_of(futures: list[Future[T]]) -> Future[None]:
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


def fetch(
    s3: S3,
    options: FileOptions,
    bucket: str,
    entry: Entry,
    spans: Iterable[Span],
    staging: Staging,
    cancellation: Cancellation,
) -> None:
    """Write the bytes [start, end) of each of *spans*, of the version *entry*, into *staging*."""
    batch = RequestBatch(s3, options.requests_per_file, cancellation)
    runs = _runs(spans, min(options.block_size, _PIECE))

    def get(number: int) -> None:
        batch.check()
        run = runs[number]
        (first, _), (_, last) = run[0], run[-1]
        buffer = memoryview(bytearray(last - first))
        s3.read_into(bucket, entry.key, entry.etag, first, buffer)
        for start, end in run:
            batch.unless_stopped(staging.write, start, buffer[start - first : end - first])

    try:
        batch.all(get, range(len(runs)))
    except BaseException:
        batch.stop(lambda: None)
        raise


def _runs(spans: Iterable[Span], most: int) -> list[list[Span]]:
    """Return *spans*, which are in order, in pieces of up to *most* bytes. Pieces that lie near
    each other are one run, which is one request."""
    runs: list[list[Span]] = []
    for start, end in spans:
        for place in range(start, end, most):
            piece = (place, min(end, place + most))
            if runs and _is_near(runs[-1], piece, most):
                runs[-1].append(piece)
            else:
                runs.append([piece])
    return runs


def _is_near(run: list[Span], piece: Span, most: int) -> bool:
    """Whether one request of up to *most* bytes is worth it for *run* and *piece*."""
    (first, _), (_, last) = run[0], run[-1]
    start, end = piece
    return start - last <= _GAP and end - first <= most


class Slice(io.RawIOBase):
    """A part of a staging file, as a file of its own that botocore can read and rewind. A small one
    is read from the disk once: it is sent, and summed up for checksums and signatures.

    It gives bytes only until its batch is stopped. From then on the file may change, and an upload
    must never mix two states of it. Once it has given all bytes, its end is no error: S3 may have
    taken them, and the answer says whether it has.
    """

    def __init__(self, batch: RequestBatch, staging: Staging, start: int, size: int) -> None:
        self._batch = batch
        self._staging = staging
        self._start = start
        self._size = size
        self._place = 0
        self._all: bytes | None = None  # of a small one, once it was read

    def __len__(self) -> int:
        return self._size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check()  # keeps botocore from beginning another attempt
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._size - self._place)
        if not left:
            return b""
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._read(wanted)
        # after reading: bytes that were read before the batch stopped are of one state
        self._check()
        if len(data) < wanted:
            raise PosixError(errno.EIO, f"staging file {self._staging.path}: cut short")
        self._place += len(data)
        return data

    def _read(self, wanted: int) -> bytes:
        if self._size > _SMALL:
            return self._staging.read(self._start + self._place, wanted)
        if self._all is None:
            self._all = self._staging.read(self._start, self._size)
        return self._all[self._place : self._place + wanted]

    def readinto(self, buffer: Any, /) -> int:
        """Read as awscrt does, with which botocore signs where it is installed."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        if self._batch.stopped:
            raise Interrupted("the upload was abandoned")
