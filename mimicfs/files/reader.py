"""Reading an object, one version of it, in ranged GETs.

A reader holds chunks: ranges that were asked of S3, with their bytes or still on their way. Where
somebody reads on (streams.py), the reader asks for ever larger chunks ahead, several at once, and
drops them when they are passed. A read that belongs to no stream gets what it asked for, rounded to
small blocks, and may begin a stream. Once a sixteenth of the object was read so, each such read
brings a large block, if a cache on disk has room for these and for the whole object.

All readers of a mount share a Budget of bytes read ahead. Bytes that a caller waits for are asked
for in any case. The readers share the cache on disk, too (cache.py): bytes that are kept there are
answered from there, and chunks are filled from there as far as it has their bytes; bytes that a
chunk brings of S3 are kept.

asking.py, the layer below, asks for chunks, and drops them.

Locks: `Reader._lock` protects the streams and chunks. Requests run in other threads; a thread waits
for them without the lock. A reader takes another one's lock only without waiting (Budget.take).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

from mimicfs.config.sizes import MIB
from mimicfs.entry import Entry
from mimicfs.errors import S3Error
from mimicfs.files.asking import AskingReader
from mimicfs.files.chunks import BLOCK, Chunk, joined, rounded
from mimicfs.files.streams import Stream, Stride
from mimicfs.files.tools import Tools
from mimicfs.posix import Cancellation

KIB = 1 << 10
# one GET fetches an object up to this size; what is asked first from the start of one
_SMALL = 1 * MIB
_AHEAD = 8  # a stream may have so many times ahead what it has read
_STEADY = 2 * MIB  # a stream with so much ahead asks for so much at once
_DISK_AHEAD = 16 * MIB  # what a stream may have ahead of the cache on disk, which answers soon
_BEHIND = 1 * MIB  # kept behind a stream, for reads that arrive late
_STREAMS = 16  # remembered, with the small chunks of random reads
_ALL_OVER = 16  # an object is read all over once one part in so many was asked for block by block
_STALE = 256  # reads elsewhere after which a stream has nothing ahead any more
_INLINE = 128 * KIB  # the thread that reads requests reads so much from the cache on disk itself


class Reader(AskingReader):
    """Reads the version *entry* of an object in *bucket*; by the id *version*, if that is given."""

    def __init__(self, tools: Tools, bucket: str, entry: Entry, version: str = "") -> None:
        super().__init__(tools, bucket, entry, version)
        self._streams: list[Stream] = []  # the one used last comes first
        self._stride = Stride()
        self._reads = 0
        self._scattered = 0  # bytes that reads here and there asked for

    def read(self, offset: int, size: int, cancellation: Cancellation) -> bytes | memoryview:
        """Return up to *size* bytes from *offset*; less only at the end of the object.

        Raises ObjectChanged once the version is gone or the reader was closed, Interrupted, and the
        errors of S3.
        """
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        while True:
            chunks = coming = self._coming(offset, end)
            if not chunks:
                data = self._read_kept(offset, end, wait=True)
                if data is not None:
                    return data
                if self._is_fetched(cancellation):
                    continue
                chunks = self._chosen(offset, end)
            try:
                for chunk in chunks:
                    self._wait(chunk, cancellation)
                return joined(chunks, offset, end)
            except CancelledError:
                continue  # the reader was closed meanwhile: the next round finds out
            except S3Error:
                data = self._read_kept(offset, end, wait=True) if coming else None
                if data is None:
                    raise
                return data  # a block elsewhere in the chunk was damaged, and cannot be had anew
            finally:
                with self._lock:
                    for chunk in chunks:
                        chunk.waiting -= 1

    def _is_fetched(self, cancellation: Cancellation) -> bool:
        """Wait until the whole object was fetched, if somebody fetches it now; return whether
        somebody did. Raises Interrupted."""
        coming = self._kept.coming() if self._kept is not None else None
        if coming is not None:
            cancellation.wait(coming)
        return coming is not None

    def read_cached(self, offset: int, size: int) -> bytes | memoryview | None:
        """Return the bytes if they are here, in memory or in the kernel's pages of the cache on
        disk; else None."""
        end = min(offset + size, self._entry.size)
        if offset >= end:
            return b""
        if self._chunks:
            with self._lock:
                if self._gone or self._closed:
                    return None
                chunks = self._held(offset, end)
                if chunks and all(chunk.ready for chunk in chunks):
                    found = joined(chunks, offset, end)  # before any of them is passed, and dropped
                    self._go_ahead(self._stream(offset, end))
                    return found
        # The workers compare large reads with their checksums: they do so side by side.
        return self._read_kept(offset, end, wait=False) if end - offset <= _INLINE else None

    def _read_kept(self, offset: int, end: int, *, wait: bool) -> bytes | memoryview | None:
        """Return the bytes if the cache on disk has them. Nobody asks it under the lock."""
        kept = self._kept
        data = kept.read(offset, end, wait=wait) if kept is not None else None
        if data is None or kept is None:
            return None
        if end - offset <= BLOCK and kept.is_whole and not self._chunks:
            # Nothing is to be asked of S3. Neither of these two becomes false again, so the bytes
            # were there before either was set.
            return None if self._gone or self._closed else data
        with self._lock:
            if self._gone or self._closed:
                return None
            self._go_ahead(self._stream(offset, end))
        return data

    def _coming(self, offset: int, end: int) -> list[Chunk]:
        """Return the chunks from *offset* to *end* if they are here, or come from the disk: to read
        the same bytes there meanwhile would be quicker for nobody. Otherwise []."""
        if not self._chunks:
            return []
        with self._lock:
            chunks = self._held(offset, end) if not (self._gone or self._closed) else []
            if not chunks or not all(chunk.ready or chunk.kept for chunk in chunks):
                return []
            return self._awaited(chunks, offset, end)

    def _chosen(self, offset: int, end: int) -> list[Chunk]:
        """Return the chunks from *offset* to *end*, ready or on their way."""
        with self._lock:
            if self._gone or self._closed:
                raise self._why_not()
            stream = self._stream(offset, end)
            chunks = self._cover(offset, end, stream)
            for chunk in chunks:
                chunk.waiting += 1
            self._go_ahead(stream)
            return chunks

    def _wait(self, chunk: Chunk, cancellation: Cancellation) -> None:
        try:
            cancellation.wait(chunk.future)
        except S3Error as exc:
            with self._lock:
                self._failed(chunk)
                if self._gone:
                    raise self._why_not() from exc
            raise

    # The rest runs under the lock.

    def _awaited(self, chunks: list[Chunk], offset: int, end: int) -> list[Chunk]:
        """Return *chunks*, for which a thread waits from now on: a new stream drops none of
        them."""
        for chunk in chunks:
            chunk.waiting += 1
        self._go_ahead(self._stream(offset, end))
        return chunks

    def _stream(self, offset: int, end: int) -> Stream:
        """Return the stream that this read belongs to, moved to the front of the list."""
        self._used_s = time.monotonic()
        self._reads += 1
        for stream in self._streams:
            if stream.near(offset, end):
                stream.go_on(offset, end)
                self._bring_forward(stream)
                break
        else:
            stream = Stream(offset, end)
            self._begin(stream)
        stream.used = self._reads
        return stream

    def _begin(self, stream: Stream) -> None:
        self._streams.insert(0, stream)
        self._stride.begin(stream)
        if len(self._streams) > _STREAMS:
            self._streams.pop()
            self._forget_passed()

    def _bring_forward(self, stream: Stream) -> None:
        """Put *stream* first. Others that it has reached are the same reader, whose first
        reads arrived out of order."""
        if stream is self._streams[0] and not stream.proven:
            return
        others = [other for other in self._streams if other is not stream]
        if others and stream.proven:
            others = [other for other in others if not stream.near(other.at, other.at)]
        self._streams = [stream, *others]

    def _is_active(self, stream: Stream) -> bool:
        return stream.proven and self._reads - stream.used < _STALE

    def _held(self, offset: int, end: int) -> list[Chunk]:
        """Return the chunks from *offset* to *end*, [] unless they cover all of it."""
        found: list[Chunk] = []
        while offset < end:
            chunk = self._at(offset)
            if chunk is None:
                return []
            found.append(chunk)
            offset = chunk.end
        return found

    def _cover(self, offset: int, end: int, stream: Stream) -> list[Chunk]:
        """Return chunks that cover *offset* to *end*; what is missing is asked of S3."""
        found: list[Chunk] = []
        place = offset
        while place < end:
            chunk = self._at(place)
            if self._gone:
                raise self._why_not()
            if chunk is None:
                chunk = self._ask_needed(place, end, stream)
            found.append(chunk)
            place = chunk.end
        return found

    def _ask_needed(self, place: int, end: int, stream: Stream) -> Chunk:
        """Ask for what a read waits for, and for more where more will be read and there is room."""
        whole = self._entry.size <= _SMALL
        start, least = (0, self._entry.size) if whole else rounded(place, end)
        wide = (start, least) if whole else self._wide(place, start, least, stream)
        if wide != (start, least):
            asked = self._ask(*wide, needed=False, around=place)
            if asked is not None:
                return asked
        elif not whole:
            self._scattered += least - start
        asked = self._ask(start, least, needed=True, around=place)
        assert asked is not None  # there is always room for what a read needs
        return asked

    def _wide(self, place: int, start: int, least: int, stream: Stream) -> tuple[int, int]:
        """Return what to ask for where a read at *place* needs *start* to *least*: more of a
        stream; and more on both sides, of an object that is read all over and will be kept."""
        if stream.proven or place == 0:
            more = self._chunk_size(self._window(stream)) or _SMALL
            if stream.downwards:
                return max(0, min(start, least - more)), least
            return start, max(least, start + more)
        is_all_over = self._scattered * _ALL_OVER >= self._entry.size
        if is_all_over and self._kept is not None and self._kept.would_keep(_STEADY):
            start = start // _STEADY * _STEADY
            return start, max(least, start + _STEADY)
        return start, least

    def _window(self, stream: Stream) -> int:
        """Return how far ahead a stream may ask."""
        if not self._is_active(stream):
            return 0
        streams = sum(self._is_active(other) for other in self._streams)
        most = self._options.reads_per_file * self._options.block_size
        most = min(most, self._budget.share(), _DISK_AHEAD if self._from_disk else most) // streams
        return min(max(_AHEAD * stream.run, _SMALL), max(most, _SMALL))

    def _chunk_size(self, window: int) -> int:
        """Return how much one request of a stream asks for that has *window* ahead."""
        size = max(window // self._options.reads_per_file, min(_STEADY, window))
        size = size // _STEADY * _STEADY or size // BLOCK * BLOCK
        return min(size, self._options.block_size)

    def _go_ahead(self, stream: Stream) -> None:
        """Ask for what will be wanted next."""
        if not stream.is_due() or self._gone:
            return
        self._follow_stride(stream)
        ends = stream.at <= 0 if stream.downwards else stream.at >= self._entry.size
        if ends:
            self._forget_passed()
            return
        window = self._window(stream)
        if not window:
            return
        size = self._chunk_size(window)
        # Looking costs 30 us, so not each read looks: several times in each chunk is enough.
        stream.ask_after(size // 8)
        free = self._options.reads_per_file - self._chunks.on_their_way()
        forgotten = False
        for start, end in self._lacking(stream, window, size):
            if free <= 0:
                return
            if not forgotten:
                self._forget_passed()
                forgotten = True
            if self._ask(start, end, needed=False) is None:
                return
            free -= 1

    def _follow_stride(self, stream: Stream) -> None:
        """Ask for the next steps of a stride, if *stream* has just begun one."""
        if stream.reads > 1 or not (steps := self._stride.foreseen(self._entry.size)):
            return
        self._forget_passed()
        for begin, upto in steps:
            start, end = rounded(begin, min(upto, begin + _SMALL))
            if self._is_missing(start, end) and self._ask(start, end, needed=False) is None:
                return

    def _lacking(self, stream: Stream, window: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield what to ask for ahead of *stream*, in whole chunks of *size*: no small ones at the
        end of the window. A caller that does not ask for one must stop there."""
        if stream.downwards:
            yield from self._lacking_below(stream.at, window, size)
            return
        place, limit = stream.at, min(self._entry.size, stream.at + window)
        while True:
            place = self._here_until(place, limit)
            if place + size > limit and not place < limit == self._entry.size:
                return
            yield place, place + size

    def _lacking_below(self, place: int, window: int, size: int) -> Iterator[tuple[int, int]]:
        limit = max(0, place - window)
        place = -(-place // BLOCK) * BLOCK
        while place - size >= limit or 0 == limit < place:
            start = max(0, place - size)
            if self._is_missing(start, place):
                yield start, place
            place = start

    def _is_missing(self, start: int, end: int) -> bool:
        end = min(end, self._entry.size)
        return start < end and self._here_until(start, end) < end

    def _here_until(self, place: int, limit: int) -> int:
        """Return up to where, from *place* on, nothing needs to be asked for; about *limit* at
        most."""
        while place < limit and (chunk := self._at(place)) is not None:
            place = chunk.end
        return place

    def _forget_passed(self) -> None:
        """Drop the chunks that no stream will want."""
        if not self._chunks:
            return
        wanted = list(self._wanted())
        for chunk in self._chunks:
            if not chunk.waiting and not any(
                start < chunk.end and chunk.start < end for start, end in wanted
            ):
                self._drop(chunk)

    def _wanted(self) -> Iterator[tuple[int, int]]:
        for stream in self._streams:
            # One chunk more: the window shrinks when others begin to read.
            window = self._window(stream)
            ahead = window + max(self._chunk_size(window), BLOCK)
            behind = min(_BEHIND, max(stream.run, BLOCK))
            if stream.downwards:
                yield stream.at - ahead, stream.at + behind
            else:
                yield stream.at - behind, stream.at + ahead
        yield from self._stride.foreseen(self._entry.size)
