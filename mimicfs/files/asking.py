"""The requests of a reader: it asks S3 for chunks of one version of an object, and drops them.

The layer below a Reader (reader.py), which knows nothing of who reads what.

Locks: as reader.py says. `_lock` protects the chunks, and a request is waited for without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from mimicfs.config.sizes import SMALL
from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, ObjectChanged
from mimicfs.files.chunks import Chunk, Chunks
from mimicfs.files.tools import Tools
from mimicfs.s3.requests.client import S3

if TYPE_CHECKING:
    from mimicfs.s3.requests.getting import SmallGet

_NOTHING = bytearray()  # of a chunk that was dropped
_IDLE_S = 1.0  # a reader that was idle for so long may lose what it has ahead


class AskingReader:
    """Asks for the version *entry* of an object in *bucket*; with *version*, by that id."""

    def __init__(self, tools: Tools, bucket: str, entry: Entry, version: str = "") -> None:
        self._s3 = tools.s3
        self._options = tools.options
        self._budget = budget = tools.budget
        self._bucket = bucket
        self._entry = entry
        self._version = version
        self._kept = budget.cache.object(bucket, entry) if budget.cache is not None else None
        self._lock = threading.Lock()  # protects all below
        self._chunks = Chunks()
        self._used_s = time.monotonic()
        self._from_disk = False  # the latest chunk came from there, as it seems; set by its request
        self._gone = False  # the version can never be read again
        self._closed = False

    def coming(self, offset: int) -> Future[None] | None:
        """Return the future of the request that brings all of a small object, if the bytes are on
        their way like that. Never waits."""
        if not self._chunks or self._entry.size > SMALL or not self._lock.acquire(blocking=False):
            return None
        try:
            chunk = self._chunks.at(offset)
            if chunk is None or chunk.failed or self._gone or self._closed:
                return None
            return chunk.future if (chunk.start, chunk.end) == (0, self._entry.size) else None
        finally:
            self._lock.release()

    def begin_ahead(self) -> SmallGet | None:
        """Ask for the whole of a small object, if there is room, and unless somebody reads it.
        Return what the caller asks for together with others, if that is possible."""
        size = self._entry.size
        if self._kept is not None and (
            self._kept.here_until(0, size) == size or self._kept.coming() is not None
        ):
            return None
        together = not self._version and self._s3.gets_together(self._bucket, self._entry)
        with self._lock:
            if self._closed or not size or self._chunks:  # somebody reads it already
                return None
            if not together:
                self._ask(0, size, needed=False)
                return None
            chunk = self._with_memory(0, size, needed=False)
            return None if chunk is None else self._small_get(chunk)

    def close(self) -> None:
        """Give up all chunks; those on their way are dropped when they arrive."""
        with self._lock:
            self._closed = True
            for chunk in self._chunks:
                self._drop(chunk)
        if self._kept is not None:
            self._kept.close()

    def shrink(self) -> bool:
        """Give up all chunks that nobody waits for, if nobody has read for a while. Return
        whether any were given up. Never waits."""
        if time.monotonic() - self._used_s < _IDLE_S or not self._lock.acquire(blocking=False):
            return False
        try:
            idle = [chunk for chunk in self._chunks if not chunk.waiting]
            for chunk in idle:
                self._drop(chunk)
            return bool(idle)
        finally:
            self._lock.release()

    def _why_not(self) -> ObjectChanged:
        """Return why nothing can be read any more."""
        if self._gone:
            return ObjectChanged.since_opened(self._about)
        return ObjectChanged(f"{self._about}: closed")

    @property
    def _about(self) -> str:
        return f"s3://{self._bucket}/{self._entry.key}"

    # In other threads

    def _fetch(self, chunk: Chunk) -> None:
        entry, kept = self._entry, self._kept
        start, end = chunk.start, chunk.end
        with chunk.view() as buffer:
            if kept is not None:
                chunk.kept = self._from_disk = kept.here_until(start, end) == end
                start, end = kept.fill(start, buffer)
            asked = buffer[start - chunk.start : end - chunk.start]
            where = (self._bucket, entry.key, entry.etag)
            self._s3.read_into(*where, start, asked, self._version, entry.size)
            chunk.ready = True
            if kept is not None:
                kept.write(chunk.start, buffer)

    def _has_come(self, chunk: Chunk) -> None:
        chunk.ready = True
        if self._kept is not None:
            with chunk.view() as buffer:
                self._kept.fetched(buffer)

    # The rest runs under the lock.

    def _with_memory(self, start: int, end: int, needed: bool) -> Chunk | None:
        """Return a chunk with a buffer; None: there is no room for it, and it is not *needed*.
        Raises OSError or MemoryError where the system has no memory for what is needed."""
        size = end - start
        if not self._budget.take(self, size, needed):
            return None
        try:
            return Chunk(start, end, self._budget.buffer(size))
        except (OSError, MemoryError):
            self._budget.give(self, size)
            if needed:
                raise
            return None

    def _small_get(self, chunk: Chunk) -> SmallGet:
        from mimicfs.s3.requests.getting import SmallGet

        chunk.future = Future()
        self._is_asked(chunk)
        came, otherwise = partial(self._has_come, chunk), partial(self._fetch, chunk)
        where = (self._bucket, self._entry, chunk.view())
        return SmallGet(*where, chunk.future, came, otherwise)

    def _ask(self, start: int, end: int, needed: bool, around: int = -1) -> Chunk | None:
        """Ask S3 for *start* to *end*, as far as no chunk has it, around the place *around*. None:
        there is no room for it."""
        start, end = self._chunks.free(start, min(end, self._entry.size), max(start, around))
        chunk = self._with_memory(start, end, needed)
        if chunk is None:
            return None
        try:
            chunk.future = self._s3.pool.submit(self._fetch, chunk)
        except BaseException:  # the pool is closed
            self._budget.give(self, end - start)
            raise
        self._is_asked(chunk)
        return chunk

    def _is_asked(self, chunk: Chunk) -> None:
        if self._kept is not None and chunk.end - chunk.start == self._entry.size:
            self._kept.is_read(chunk.future)
        self._chunks.add(chunk)

    def _at(self, place: int) -> Chunk | None:
        """Return the chunk that has the byte at *place*, unless it failed."""
        chunk = self._chunks.at(place)
        if chunk is None or not chunk.failed:
            return chunk
        self._failed(chunk)  # nobody waited for it: a reader that needs it asks again
        return None

    def _failed(self, chunk: Chunk) -> None:
        """Drop a chunk whose request failed. A version that is gone is gone for good."""
        error = None if chunk.future.cancelled() else chunk.future.exception()
        if chunk in self._chunks:
            self._drop(chunk)
        if isinstance(error, ObjectChanged | KeyNotFound):
            self._gone = True

    def _drop(self, chunk: Chunk) -> None:
        self._chunks.remove(chunk)
        chunk.future.cancel()
        # Its buffer lives until the request that fills it has ended.
        size = chunk.end - chunk.start
        if chunk.waiting:  # the reader is closed; a waiting thread still looks at the buffer
            chunk.future.add_done_callback(lambda _: self._budget.give(self, size))
        else:
            chunk.future.add_done_callback(lambda _: self._give_back(chunk))

    def _give_back(self, chunk: Chunk) -> None:
        buffer, chunk.buffer = chunk.buffer, _NOTHING
        del chunk.future  # it holds this call, and so the chunk: each would keep the other alive
        self._budget.give(self, chunk.end - chunk.start)
        self._budget.reuse(buffer)


def fetch_ahead(s3: S3, readers: Sequence[AskingReader]) -> None:
    """Ask for all of the small objects of *readers*, as far as there is room; nobody waits for them
    yet."""
    gets: list[SmallGet] = []
    try:
        for reader in readers:
            get = reader.begin_ahead()
            if get is not None:
                gets.append(get)
        if gets:
            s3.getter.get(gets)
    except BaseException:
        for get in gets:
            get.future.cancel()  # a reader that needs it asks again
        raise
