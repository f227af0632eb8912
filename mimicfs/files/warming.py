"""Filling the cache on disk before anybody reads: `mimicfs warmup`.

Blocks that are here already are not asked for again, so a run that was interrupted goes on when it
is started anew. If S3 does not give an object (archived, denied, replaced meanwhile), or it cannot
be pinned, the reason is told, and the others come. What was in the cache before makes room for
them; what the same run brought or found here does not.

An object on a shelf (shelves.py) is here already, but to be pinned it is copied to a file of its
own. An object that is fetched gets one anyway, since a shelf gives its slots to others.

Threading: the thread that calls keeps count; requests are made in the threads of the S3 object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mimicfs.entry import Entry
from mimicfs.errors import NOTHING_SAID, S3Error
from mimicfs.files.cache import BlockCache, CachedObject
from mimicfs.files.shelves import MOST
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync.flights import Flights

_PIECE = 8 << 20  # bytes of one GET; whole blocks
_AT_ONCE = 16  # GETs, and so 128 MiB of memory at most


class _Piece(NamedTuple):
    entry: Entry
    kept: CachedObject
    start: int
    end: int


class Shortage(Enum):
    """The place that had no room for all."""

    LIMIT = "limit"
    CACHE = "cache"
    DISK = "disk"


@dataclass
class Warmed:
    """The result of a warm-up. *refused*: why, by key."""

    objects: int = 0  # how many are here as a whole now
    here: int = 0  # how many of them were here before
    bytes: int = 0  # fetched from S3
    refused: dict[str, str] = field(default_factory=dict)
    shortage: Shortage | None = None  # the first one; objects after it may be here or not

    @property
    def full(self) -> bool:
        return self.shortage is not None


class Warming:
    """Brings objects of *bucket* into *cache*, at most *limit* bytes (None: as many as there is
    room for). *pin*: they stay. *show* is called with what is done so far."""

    def __init__(
        self,
        s3: S3,
        cache: BlockCache,
        bucket: str,
        cancellation: Cancellation,
        show: Callable[[Warmed], None],
        *,
        limit: int | None = None,
        pin: bool = False,
    ) -> None:
        self._s3 = s3
        self._cache = cache
        self._bucket = bucket
        self._show = show
        self._left = limit
        self._pins = pin
        self._flights: Flights[_Piece] = Flights(s3.wide, cancellation)
        self._cancellation = cancellation
        self._under_way = 0  # bytes of pieces that are to come; some may be here already
        self._missing: Counter[str] = Counter()  # pieces under way, by key
        self.warmed = Warmed()

    def run(self, entries: Iterable[Entry]) -> Warmed:
        """Bring *entries*. Raises Interrupted, NOTHING_SAID; what had come by then stays."""
        self._cache.keep_what_comes(self._cancellation.check)
        try:
            for piece in self._pieces(entries):
                while len(self._flights) >= _AT_ONCE:
                    self._take()
                self._flights.send(piece, self._fetch, piece)
            while len(self._flights):
                self._take()
        finally:
            self._flights.give_up()
        return self.warmed

    def _pieces(self, entries: Iterable[Entry]) -> Iterator[_Piece]:
        """Yield the missing pieces of *entries*, until there is no room for the whole of the next
        one."""
        for entry in entries:
            self._cancellation.check()
            kept = self._cache.object(self._bucket, entry, stays=True)
            holes = list(_holes(kept, entry.size)) if kept is not None else []
            if kept is None or not holes or self._is_on_shelf(entry, kept):
                self.warmed.here += self._done(entry, kept)
                continue
            size = sum(end - start for start, end in holes)
            shortage = self._shortage(size)
            if shortage is not None:
                kept.close()
                self._short_of(shortage)
                return
            self._missing[entry.key] = len(holes)
            self._under_way += size
            yield from (_Piece(entry, kept, *hole) for hole in holes)

    def _is_on_shelf(self, entry: Entry, kept: CachedObject) -> bool:
        """Whether *entry* is here on a shelf. If it is to be pinned, *kept* has it afterwards."""
        found = self._cache.object(self._bucket, entry) if entry.size <= MOST else None
        if found is None:
            return False
        with closing(found):
            if not self._pins:
                return not any(_holes(found, entry.size))
            data = found.read(0, entry.size, wait=True)
        if data is None or not self._has_room(entry.size):
            return False
        kept.write(0, memoryview(data))
        return not any(_holes(kept, entry.size))

    def _shortage(self, size: int) -> Shortage | None:
        """Return the place that has no room for *size* more bytes."""
        if self._left is not None:
            if size > self._left:
                return Shortage.LIMIT
            self._left -= size
        return None if self._has_room(size) else Shortage.CACHE

    def _has_room(self, size: int) -> bool:
        if self._cache.has_room(size + self._under_way):
            return True
        while len(self._flights):
            self._take()
        return self._cache.make_room(size, self._cancellation.check)

    def _short_of(self, what: Shortage) -> None:
        self.warmed.shortage = self.warmed.shortage or what

    def _fetch(self, piece: _Piece) -> None:
        buffer = memoryview(bytearray(piece.end - piece.start))
        entry = piece.entry
        self._s3.read_into(self._bucket, entry.key, entry.etag, piece.start, buffer)
        piece.kept.write(piece.start, buffer)

    def _take(self) -> None:
        piece, answer = self._flights.take()
        key = piece.entry.key
        self._missing[key] -= 1
        self._under_way -= piece.end - piece.start
        try:
            answer.result()
            self.warmed.bytes += piece.end - piece.start
        except NOTHING_SAID:
            raise
        except S3Error as exc:
            self.warmed.refused.setdefault(key, str(exc))
        if not self._missing[key]:
            del self._missing[key]
            if key in self.warmed.refused:
                piece.kept.close()
            elif any(_holes(piece.kept, piece.entry.size)):  # not written
                self._short_of(Shortage.DISK)
            else:
                self._done(piece.entry, piece.kept)
        self._show(self.warmed)

    def _done(self, entry: Entry, kept: CachedObject | None) -> bool:
        """Note that *entry* is here. Return whether that was all that was asked for."""
        try:
            if self._pins:
                self._cache.pin(self._bucket, entry)
        except OSError as exc:
            self.warmed.refused[entry.key] = f"not pinned: {exc}"
            return False
        finally:
            if kept is not None:  # closed only now: an open file is not evicted before it is pinned
                kept.close()
        self.warmed.objects += 1
        return True


def _holes(kept: CachedObject, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are not kept, in pieces."""
    for start in range(0, size, _PIECE):
        end = min(start + _PIECE, size)
        here = kept.here_until(start, end)
        if here < end:
            yield here, end
