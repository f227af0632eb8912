"""Reading an object, one version of it, in ranged GETs.

A reader holds chunks: ranges that were asked of S3, with their bytes or still on their way.
A reader that goes through the object gets chunks that grow, and several ahead of it at
once; one that jumps gets what it asked, rounded to a small block. The kernel's reads arrive
several at once and out of order: near is as good as next.

Threading: many readers at once. `_lock` protects the chunks; requests run in `s3.pool` and
are waited for without it. The budget is shared by all readers of a mount; its lock is a leaf.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

from mimicfs.config import FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, MimicError, ObjectChanged
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3

KIB = 1 << 10
MIB = 1 << 20
_BLOCK = 64 * KIB  # a random read is rounded to this
_NEAR = 2 * MIB  # a read this close to the last one's end goes on from there
_FIRST = 512 * KIB  # the first chunk of a reader that goes through
_BEHIND = 1 * MIB  # what is kept behind the reader, for reads that arrive late


class Budget:
    """How many bytes all readers together may hold."""

    def __init__(self, limit: int = 64 * MIB) -> None:
        self._limit = limit
        self._lock = threading.Lock()  # protects the number below
        self.used = 0

    def take(self, size: int, needed: bool) -> bool:
        """Take *size* bytes if there is room, or if they are *needed* by a waiting read."""
        with self._lock:
            if not needed and self.used + size > self._limit:
                return False
            self.used += size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self.used -= size


class _Chunk:
    """The bytes from *start* to *end*, once *future* is done."""

    __slots__ = ("buffer", "end", "future", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.buffer = bytearray(end - start)
        self.future: Future[None]

    @property
    def ready(self) -> bool:
        return self.future.done() and self.future.exception() is None


class Reader:
    """Reads the version *entry* of an object in *bucket*."""

    def __init__(
        self, s3: S3, options: FileOptions, budget: Budget, bucket: str, entry: Entry
    ) -> None:
        self._s3 = s3
        self._options = options
        self._budget = budget
        self._bucket = bucket
        self._entry = entry
        self._lock = threading.Lock()  # protects all below
        self._chunks: list[_Chunk] = []
        self._last_end = 0  # where the reader that goes through is
        self._through = 0  # bytes that it has read without a jump
        self._chunk_size = _FIRST
        self._broken: MimicError | None = None  # the version is gone: for good

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes from *offset*; less only at the end of the object.

        Raises ObjectChanged once the version is gone, KeyNotFound, Interrupted.
        """
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        with self._lock:
            if self._broken is not None:
                raise self._broken
            chunks = self._cover(offset, end)
            self._go_ahead(offset, end)
        for chunk in chunks:
            self._wait(chunk, cancellation)
        return _joined(chunks, offset, end)

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes if they are here, else None."""
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        with self._lock:
            if self._broken is not None:
                return None
            chunks = self._held(offset, end)
            if not chunks or not all(chunk.ready for chunk in chunks):
                return None
            self._go_ahead(offset, end)
        return _joined(chunks, offset, end)

    def close(self) -> None:
        """Give up all chunks; what is on its way is dropped when it arrives."""
        with self._lock:
            for chunk in list(self._chunks):
                self._drop(chunk)
                chunk.future.cancel()

    # The rest runs under the lock, but for _wait and _fetch.

    def _held(self, offset: int, end: int) -> list[_Chunk]:
        """Return the chunks from *offset* to *end*, [] unless they cover all of it."""
        found: list[_Chunk] = []
        for chunk in self._chunks:  # in order, without overlaps
            if chunk.end > offset and chunk.start < end:
                if chunk.start > offset:
                    return []
                found.append(chunk)
                offset = chunk.end
        return found if offset >= end else []

    def _cover(self, offset: int, end: int) -> list[_Chunk]:
        """Return chunks that cover *offset* to *end*; what is missing is asked of S3."""
        found = self._held(offset, end)
        if found:
            return found
        near = self._is_near(offset)
        if not near:
            self._chunk_size = _FIRST
        place = offset
        while place < end:
            chunk = self._at(place)
            if chunk is None:
                chunk = self._ask(place, self._wanted_end(place, end, near), needed=True)
            if chunk is not None:
                place = chunk.end
        return self._held(offset, end)

    def _is_near(self, offset: int) -> bool:
        return abs(offset - self._last_end) <= _NEAR

    def _wanted_end(self, start: int, end: int, near: bool) -> int:
        if near and (self._through or start == 0):
            return max(end, start + self._chunk_size)
        return -(-end // _BLOCK) * _BLOCK

    def _at(self, place: int) -> _Chunk | None:
        for chunk in self._chunks:
            if chunk.start <= place < chunk.end:
                return chunk
        return None

    def _ask(self, start: int, end: int, needed: bool) -> _Chunk | None:
        """Ask S3 for *start* to *end*, as far as no chunk has it; None: no room for it."""
        following = [chunk.start for chunk in self._chunks if chunk.start > start]
        end = min([end, self._entry.size, *following])
        if not self._budget.take(end - start, needed):
            return None
        chunk = _Chunk(start, end)
        chunk.future = self._s3.pool.submit(self._fetch, chunk)
        self._chunks.append(chunk)
        self._chunks.sort(key=lambda chunk: chunk.start)
        return chunk

    def _fetch(self, chunk: _Chunk) -> None:
        entry = self._entry
        with memoryview(chunk.buffer) as buffer:
            self._s3.read_into(self._bucket, entry.key, entry.etag, chunk.start, buffer)

    def _go_ahead(self, offset: int, end: int) -> None:
        """Note where the reader is; ask for what it will want next, drop what it passed."""
        if self._is_near(offset):
            self._through += end - offset
            self._last_end = max(self._last_end, end)
        else:
            self._through, self._last_end = 0, end
            self._forget_random(offset, end)
            return
        self._forget_passed()
        if self._through < _FIRST or self._entry.size <= _FIRST:
            return
        ahead = self._options.requests_per_file
        place = self._last_end
        for _ in range(ahead):
            chunk = self._at(place)
            if chunk is None and place < self._entry.size:
                chunk = self._ask(place, place + self._chunk_size, needed=False)
                self._chunk_size = min(2 * self._chunk_size, self._options.block_size)
            if chunk is None:
                return
            place = chunk.end

    def _forget_passed(self) -> None:
        for chunk in list(self._chunks):
            passed = chunk.end <= self._last_end - _BEHIND
            if passed or chunk.start > self._last_end + 2 * self._options.block_size * (
                self._options.requests_per_file
            ):
                self._drop(chunk)

    def _forget_random(self, offset: int, end: int) -> None:
        """Keep a few small chunks of a reader that jumps; drop those that were read ahead."""
        others = [chunk for chunk in self._chunks if chunk.end <= offset or chunk.start >= end]
        for chunk in others[: max(0, len(others) - 16)]:
            self._drop(chunk)
        for chunk in others:
            if len(chunk.buffer) > MIB and chunk in self._chunks:
                self._drop(chunk)

    def _drop(self, chunk: _Chunk) -> None:
        self._chunks.remove(chunk)
        self._budget.give(len(chunk.buffer))

    def _wait(self, chunk: _Chunk, cancellation: Cancellation) -> None:
        try:
            cancellation.wait(chunk.future)
        except CancelledError as exc:  # closed by `File.expire`
            raise ObjectChanged(f"s3://{self._bucket}/{self._entry.key}: changed in S3") from exc
        except MimicError as exc:
            if not chunk.future.done():
                raise  # interrupted: the chunk may still come
            with self._lock:
                if chunk in self._chunks:
                    self._drop(chunk)
                if isinstance(exc, ObjectChanged | KeyNotFound):
                    self._broken = exc
            raise


def _joined(chunks: list[_Chunk], offset: int, end: int) -> bytes | memoryview:
    pieces = [
        memoryview(chunk.buffer)[max(0, offset - chunk.start) : end - chunk.start]
        for chunk in chunks
    ]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
