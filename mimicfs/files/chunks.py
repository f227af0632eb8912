"""The chunks of a reader: ranges of an object that were asked of S3, with their bytes or still on
their way.

Threading: none of its own; a reader's lock protects the list. `ready` and `kept` are set by the
request.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Future

# A random read is rounded to blocks of this: 4 KiB reads fetch 16 times what they asked.
BLOCK = 64 << 10


class Chunk:
    """The bytes from *start* to *end*, once it is *ready*."""

    __slots__ = ("buffer", "end", "future", "kept", "ready", "start", "waiting")

    def __init__(self, start: int, end: int, buffer: bytearray | mmap.mmap) -> None:
        self.start = start
        self.end = end
        self.buffer = buffer
        self.future: Future[None]
        self.ready = False  # set by the request; quicker to ask than the future, for each read
        self.kept = False  # set by the request: it comes from the cache on disk, as it seems
        self.waiting = 0  # threads that wait for it: it is not dropped then

    def view(self) -> memoryview:
        """Return its place in memory: the buffer may be longer."""
        return memoryview(self.buffer)[: self.end - self.start]

    @property
    def failed(self) -> bool:
        return not self.ready and self.future.done()


class Chunks:
    """Chunks in order, without overlaps."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __contains__(self, chunk: Chunk) -> bool:
        return chunk in self._chunks

    def __iter__(self) -> Iterator[Chunk]:
        """Yield what there is now; it may be removed meanwhile."""
        return iter(tuple(self._chunks))

    def at(self, place: int) -> Chunk | None:
        """Return the chunk that has the byte at *place*."""
        index = bisect_right(self._chunks, place, key=_start) - 1
        if index < 0 or self._chunks[index].end <= place:
            return None
        return self._chunks[index]

    def free(self, start: int, end: int, around: int) -> tuple[int, int]:
        """Return what no chunk has of *start* to *end*, on both sides of the place *around*, which
        none has."""
        index = bisect_right(self._chunks, around, key=_start)
        if index:
            start = max(start, self._chunks[index - 1].end)
        if index < len(self._chunks):
            end = min(end, self._chunks[index].start)
        return start, end

    def add(self, chunk: Chunk) -> None:
        self._chunks.insert(bisect_right(self._chunks, chunk.start, key=_start), chunk)

    def remove(self, chunk: Chunk) -> None:
        self._chunks.remove(chunk)

    def on_their_way(self) -> int:
        """Return how many of them are."""
        return sum(not (chunk.ready or chunk.failed) for chunk in self._chunks)


def joined(chunks: list[Chunk], offset: int, end: int) -> bytes | memoryview:
    """Return the bytes from *offset* to *end* of *chunks*, which follow each other."""
    pieces = [chunk.view()[max(0, offset - chunk.start) : end - chunk.start] for chunk in chunks]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def rounded(start: int, end: int) -> tuple[int, int]:
    """Return the blocks that *start* to *end* lie in."""
    return start // BLOCK * BLOCK, -(-end // BLOCK) * BLOCK


def _start(chunk: Chunk) -> int:
    return chunk.start
