"""Reading an object, one version of it, in ranged GETs.

A reader holds chunks: ranges that were asked of S3, with their bytes or still on their way.
It tells *streams* apart, the places from which somebody goes on through the object: of a
stream, ever larger chunks are asked for ahead, several at once, and dropped when passed. A
read that belongs to no stream gets what it asked, rounded to small blocks, and may be the
beginning of one. The kernel's reads arrive several at once and out of order, so near the end
of a stream is as good as at it.

All readers of a mount share one Budget of bytes read ahead. What a caller waits for is asked
in any case.

Locks: `Reader._lock` protects the streams and chunks; requests run in `s3.pool` and are
waited for without it. `Budget._lock` is a leaf, taken below it. A reader takes another one's
lock only without waiting (Budget.take).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

from mimicfs.config import MIB, FileOptions
from mimicfs.entry import Entry
from mimicfs.errors import KeyNotFound, ObjectChanged, S3Error
from mimicfs.posix import Cancellation
from mimicfs.s3.client import S3

KIB = 1 << 10
# A random read is rounded to blocks of this: 4 KiB reads fetch 16 times what they asked.
_BLOCK = 64 * KIB
_SMALL = 1 * MIB  # an object up to this is one GET; what is asked first from a start
_PROVEN = 128 * KIB  # read in a row, by more than one read: it will go on
_AHEAD = 8  # times what a stream has read is what it may have ahead
_NEAR = 2 * MIB  # a stream's next read may be this far from its end, at most
_BEHIND = 1 * MIB  # kept behind a stream's end, for reads that arrive late
_STREAMS = 16  # remembered, with the small chunks of random reads
_STALE = 256  # reads elsewhere after which a stream has nothing ahead any more
_IDLE_S = 1.0  # a reader that was not used for so long may lose what it has ahead


class Budget:
    """How many bytes all readers together may hold ahead of what is asked of them."""

    def __init__(self, limit: int = 64 * MIB) -> None:
        self.limit = limit
        self._lock = threading.Lock()  # protects the two below
        self._held: dict[Reader, int] = {}
        self.used = 0  # bytes

    def share(self) -> int:
        """Return how many bytes one of the readers that hold some may hold, in fairness."""
        return self.limit // max(1, len(self._held))

    def take(self, reader: Reader, size: int, needed: bool) -> bool:
        """Take *size* bytes if there is room, or if a read waits for them (*needed*). Room is
        made by readers that are idle."""
        if self._taken(reader, size, needed):
            return True
        for other in self._others(reader):
            if other.shrink() and self._taken(reader, size, needed):
                return True
        return False

    def _taken(self, reader: Reader, size: int, needed: bool) -> bool:
        with self._lock:
            if not needed and self.used + size > self.limit:
                return False
            self.used += size
            self._held[reader] = self._held.get(reader, 0) + size
            return True

    def _others(self, reader: Reader) -> list[Reader]:
        with self._lock:
            return [other for other in self._held if other is not reader]

    def give(self, reader: Reader, size: int) -> None:
        with self._lock:
            self.used -= size
            self._held[reader] -= size
            if not self._held[reader]:
                del self._held[reader]


class _Chunk:
    """The bytes from *start* to *end*, once it is *ready*."""

    __slots__ = ("buffer", "end", "future", "ready", "start", "waiting")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        # An anonymous mapping would save the zeroing, but costs a page fault for each 4 KiB:
        # 1 GiB read took 1.9 s of CPU so, and takes 1.3 with memory that malloc uses again.
        self.buffer = bytearray(end - start)
        self.future: Future[None]
        self.ready = False  # set by the request; quicker to ask than the future, for each read
        self.waiting = 0  # threads that wait for it: it is not dropped then

    @property
    def failed(self) -> bool:
        return not self.ready and self.future.done()


class _Stream:
    """A place from which somebody reads on. *run* is how much was read in a row up to *end*,
    *used* the number of the reader's latest read that belongs here. Where *end* reaches
    *ask_at*, it is time to look whether there is something to ask for."""

    __slots__ = ("ask_at", "end", "reads", "run", "used")

    def __init__(self, offset: int, end: int) -> None:
        self.end = end
        self.run = end - offset
        self.used = 0
        self.ask_at = 0
        self.reads = 1 if offset else 2  # who begins at the start is taken to go on

    def near(self, offset: int) -> bool:
        """Whether a read at *offset* goes on from here. What has read little gets little."""
        return abs(offset - self.end) <= min(_NEAR, max(_BLOCK, 2 * self.run))

    def go_on(self, end: int) -> None:
        self.reads += 1
        if end > self.end:
            self.run += end - self.end
            self.end = end

    @property
    def proven(self) -> bool:
        return self.reads > 1 and self.run >= _PROVEN


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
        self._chunks: list[_Chunk] = []  # in order, without overlaps
        self._streams: list[_Stream] = []  # the one used last comes first
        self._used_s = time.monotonic()
        self._reads = 0
        self._gone = ""  # not "": why the version can never be read again
        self._closed = False

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes from *offset*; less only at the end of the object.

        Raises ObjectChanged once the version is gone or the reader was closed, Interrupted,
        and what S3 refuses.
        """
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        while True:
            chunks = self._chosen(offset, end)
            try:
                for chunk in chunks:
                    self._wait(chunk, cancellation)
                return _joined(chunks, offset, end)
            except CancelledError:
                continue  # closed meanwhile, which is found out above
            finally:
                with self._lock:
                    for chunk in chunks:
                        chunk.waiting -= 1

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes if they are here, else None."""
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        with self._lock:
            if self._gone or self._closed:
                return None
            chunks = self._held(offset, end)
            if not chunks or not all(chunk.ready for chunk in chunks):
                return None
            self._go_ahead(self._stream(offset, end))
        return _joined(chunks, offset, end)

    def fetch_ahead(self) -> None:
        """Ask for the whole object, a small one, if there is room; nobody waits for it yet."""
        with self._lock:
            if not self._closed and self._entry.size:
                self._ask(0, self._entry.size, needed=False)

    def close(self) -> None:
        """Give up all chunks; what is on its way is dropped when it arrives."""
        with self._lock:
            self._closed = True
            for chunk in list(self._chunks):
                self._drop(chunk)

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

    def _chosen(self, offset: int, end: int) -> list[_Chunk]:
        """Return the chunks from *offset* to *end*, ready or on their way."""
        with self._lock:
            if self._gone or self._closed:
                raise ObjectChanged(self._gone or f"{self._about}: closed")
            stream = self._stream(offset, end)
            chunks = self._cover(offset, end, stream)
            for chunk in chunks:
                chunk.waiting += 1
            self._go_ahead(stream)
            return chunks

    def _wait(self, chunk: _Chunk, cancellation: Cancellation) -> None:
        try:
            cancellation.wait(chunk.future)
        except S3Error as exc:
            with self._lock:
                self._failed(chunk)
                if self._gone:
                    raise ObjectChanged(self._gone) from exc
            raise

    def _fetch(self, chunk: _Chunk) -> None:
        entry = self._entry
        with memoryview(chunk.buffer) as buffer:
            self._s3.read_into(self._bucket, entry.key, entry.etag, chunk.start, buffer)
        chunk.ready = True

    @property
    def _about(self) -> str:
        return f"s3://{self._bucket}/{self._entry.key}"

    # The rest runs under the lock.

    def _stream(self, offset: int, end: int) -> _Stream:
        """Return the stream that this read belongs to, after it; the first of the list."""
        self._used_s = time.monotonic()
        self._reads += 1
        for stream in self._streams:
            if stream.near(offset):
                stream.go_on(end)
                self._bring_forward(stream)
                break
        else:
            stream = _Stream(offset, end)
            self._begin(stream)
        stream.used = self._reads
        return stream

    def _begin(self, stream: _Stream) -> None:
        self._streams.insert(0, stream)
        if len(self._streams) > _STREAMS:
            self._streams.pop()
            self._forget_passed()

    def _bring_forward(self, stream: _Stream) -> None:
        """Put *stream* first. Others that it has reached are the same reader, whose first
        reads arrived out of order."""
        if len(self._streams) > 1:
            others = [
                other
                for other in self._streams
                if other is not stream and not (stream.proven and stream.near(other.end))
            ]
            self._streams = [stream, *others]

    def _is_active(self, stream: _Stream) -> bool:
        return stream.proven and self._reads - stream.used < _STALE

    def _held(self, offset: int, end: int) -> list[_Chunk]:
        """Return the chunks from *offset* to *end*, [] unless they cover all of it."""
        found: list[_Chunk] = []
        while offset < end:
            chunk = self._at(offset)
            if chunk is None:
                return []
            found.append(chunk)
            offset = chunk.end
        return found

    def _at(self, place: int) -> _Chunk | None:
        """Return the chunk that has the byte at *place*, unless it failed."""
        index = bisect_right(self._chunks, place, key=_start) - 1
        if index < 0 or self._chunks[index].end <= place:
            return None
        chunk = self._chunks[index]
        if chunk.failed:  # nobody waited for it: who needs it asks again
            self._failed(chunk)
            return None
        return chunk

    def _failed(self, chunk: _Chunk) -> None:
        """Drop a chunk whose request failed. A version that is gone is gone for good."""
        if chunk in self._chunks:
            self._drop(chunk)
        error = None if chunk.future.cancelled() else chunk.future.exception()
        if isinstance(error, ObjectChanged | KeyNotFound):
            self._gone = f"{self._about}: changed in S3; open it again"

    def _cover(self, offset: int, end: int, stream: _Stream) -> list[_Chunk]:
        """Return chunks that cover *offset* to *end*; what is missing is asked of S3."""
        found: list[_Chunk] = []
        place = offset
        while place < end:
            chunk = self._at(place)
            if self._gone:
                raise ObjectChanged(self._gone)
            if chunk is None:
                chunk = self._ask_needed(place, end, stream)
            found.append(chunk)
            place = chunk.end
        return found

    def _ask_needed(self, place: int, end: int, stream: _Stream) -> _Chunk:
        """Ask for what a read waits for; of a stream, for more than that if there is room."""
        whole = self._entry.size <= _SMALL
        start, least = (0, self._entry.size) if whole else _rounded(place, end)
        if not whole and (stream.proven or place == 0):
            more = max(least, place + (self._chunk_size(self._window(stream)) or _SMALL))
            asked = self._ask(place, more, needed=False)
            if asked is not None:
                return asked
        asked = self._ask(start, least, needed=True, around=place)
        assert asked is not None  # for what is needed there is always room
        return asked

    def _ask(self, start: int, end: int, needed: bool, around: int = -1) -> _Chunk | None:
        """Ask S3 for *start* to *end*, as far as no chunk beside *around* has it. None: no
        room for it."""
        around = max(start, around)
        index = bisect_right(self._chunks, around, key=_start)
        if index:
            start = max(start, self._chunks[index - 1].end)
        if index < len(self._chunks):
            end = min(end, self._chunks[index].start)
        end = min(end, self._entry.size)
        if not self._budget.take(self, end - start, needed):
            return None
        chunk = _Chunk(start, end)
        try:
            chunk.future = self._s3.pool.submit(self._fetch, chunk)
        except BaseException:  # the pool is closed
            self._budget.give(self, end - start)
            raise
        self._chunks.insert(index, chunk)
        return chunk

    def _window(self, stream: _Stream) -> int:
        """Return how far ahead of its end a stream may ask."""
        if not self._is_active(stream):
            return 0
        streams = sum(self._is_active(other) for other in self._streams)
        most = self._options.requests_per_file * self._options.block_size
        most = min(most, self._budget.share()) // streams
        return min(max(_AHEAD * stream.run, _SMALL), max(most, _SMALL))

    def _chunk_size(self, window: int) -> int:
        """Return how much one request of a stream asks that has *window* ahead."""
        size = max(window // self._options.requests_per_file, min(_SMALL, window))
        return min(size // _BLOCK * _BLOCK, self._options.block_size)

    def _go_ahead(self, stream: _Stream) -> None:
        """Ask for what *stream* will want next, in whole chunks."""
        if stream.end < stream.ask_at:
            return
        size = self._entry.size
        if stream.end >= size:
            self._forget_passed()
            return
        window = self._window(stream)
        if not window or self._gone:
            return
        chunk_size = self._chunk_size(window)
        # Not for each read: looking costs 30 us. Several times in each chunk is enough.
        stream.ask_at = stream.end + chunk_size // 8
        place, limit = stream.end, min(size, stream.end + window)
        while (chunk := self._at(place)) is not None:
            place = chunk.end
        if not self._due(place, chunk_size, limit):
            return
        self._forget_passed()
        free = self._options.requests_per_file - self._on_their_way()
        while free > 0 and self._due(place, chunk_size, limit):
            chunk = self._at(place)
            if chunk is None:
                chunk = self._ask(place, place + chunk_size, needed=False)
                free -= 1
            if chunk is None:
                return
            place = chunk.end

    def _due(self, place: int, chunk_size: int, limit: int) -> bool:
        """Whether a chunk at *place* is wanted, and will not have to be a small one."""
        return place + chunk_size <= limit or place < limit == self._entry.size

    def _on_their_way(self) -> int:
        return sum(not (chunk.ready or chunk.failed) for chunk in self._chunks)

    def _forget_passed(self) -> None:
        """Drop the chunks that no stream will want."""
        wanted = list(self._wanted())
        for chunk in list(self._chunks):
            if not chunk.waiting and not any(
                start < chunk.end and chunk.start < end for start, end in wanted
            ):
                self._drop(chunk)

    def _wanted(self) -> Iterator[tuple[int, int]]:
        for stream in self._streams:
            # One chunk more: the window shrinks when others begin to read.
            window = self._window(stream)
            ahead = window + max(self._chunk_size(window), _BLOCK)
            behind = min(_BEHIND, max(stream.run, _BLOCK))
            yield stream.end - behind, stream.end + ahead

    def _drop(self, chunk: _Chunk) -> None:
        self._chunks.remove(chunk)
        chunk.future.cancel()
        # Its buffer lives until the request that fills it has ended.
        size = chunk.end - chunk.start
        chunk.future.add_done_callback(lambda _: self._budget.give(self, size))


def _start(chunk: _Chunk) -> int:
    return chunk.start


def _rounded(start: int, end: int) -> tuple[int, int]:
    """Return the blocks that *start* to *end* lie in."""
    return start // _BLOCK * _BLOCK, -(-end // _BLOCK) * _BLOCK


def _joined(chunks: list[_Chunk], offset: int, end: int) -> bytes | memoryview:
    pieces = [
        memoryview(chunk.buffer)[max(0, offset - chunk.start) : end - chunk.start]
        for chunk in chunks
    ]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
