"""The budget that all readers of a mount share: memory for what they read ahead, and the cache on
disk.

Threading: any thread. `_lock` is a leaf, taken below that of a reader.
"""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Protocol

from mimicfs.config.sizes import MIB
from mimicfs.config.values import READ_MEMORY
from mimicfs.files.cache import BlockCache

_HUGE = 2 * MIB  # a page that the kernel can give at once
_MAPPED = 256 << 10  # bytes; a buffer of as much is a mapping, of a multiple of this
_SPARE = 8 * MIB  # buffers that are kept for the next chunks


class Holder(Protocol):
    """A reader, as the others see it."""

    def shrink(self) -> bool:
        """Give up what nobody waits for, if nobody has read for a while; return whether there was
        any. Never waits."""


class Budget:
    """The number of bytes that all readers together may hold ahead of what is asked of them, and
    the *cache* on disk."""

    def __init__(self, limit: int = READ_MEMORY, cache: BlockCache | None = None) -> None:
        self.cache = cache
        self.limit = limit
        self._lock = threading.Lock()  # protects all below
        self._held: dict[Holder, int] = {}
        self.used = 0  # bytes
        self._huge = _has_huge_pages()
        self._spare: list[mmap.mmap] = []

    def share(self) -> int:
        """Return the fair share, in bytes, of each reader that holds some."""
        return self.limit // max(1, len(self._held))

    def take(self, reader: Holder, size: int, needed: bool) -> bool:
        """Take *size* bytes if there is room, or if a read waits for them (*needed*). Idle readers
        make room."""
        if self._taken(reader, size, needed):
            return True
        for other in self._others(reader):
            if other.shrink() and self._taken(reader, size, needed):
                return True
        return False

    def _taken(self, reader: Holder, size: int, needed: bool) -> bool:
        with self._lock:
            if not needed and self.used + size > self.limit:
                return False
            self.used += size
            self._held[reader] = self._held.get(reader, 0) + size
            return True

    def _others(self, reader: Holder) -> list[Holder]:
        with self._lock:
            return [other for other in self._held if other is not reader]

    def give(self, reader: Holder, size: int) -> None:
        with self._lock:
            self.used -= size
            self._held[reader] -= size
            if not self._held[reader]:
                del self._held[reader]

    def buffer(self, size: int) -> bytearray | mmap.mmap:
        """Return memory for *size* bytes, with any bytes in it. A mapping may be longer than that.

        A large piece is a mapping, which is given back to the system once it is not used: what a
        thread has freed, malloc keeps for that thread (60 MiB of pieces of 2 MiB, 15 MiB of those
        of 1 MiB). A new one costs a fault for each 4 KiB, or for 2 MiB where there are huge pages,
        so that some are kept for the next pieces.
        """
        if size < _MAPPED or not self._huge:
            return bytearray(size)
        length = -(-size // _MAPPED) * _MAPPED
        with self._lock:
            for place, spare in enumerate(self._spare):
                if len(spare) == length:
                    return self._spare.pop(place)
            self._drop_spare()
        made = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if length >= _HUGE:
            made.madvise(mmap.MADV_HUGEPAGE)
        return made

    def reuse(self, buffer: bytearray | mmap.mmap) -> None:
        """Take *buffer* back, which its owner does not use any more, and has given the bytes of. If
        another thread still has a view of it (an answer that is being sent), the buffer stays that
        thread's."""
        if isinstance(buffer, bytearray):
            return
        try:
            buffer.resize(len(buffer))  # changes nothing; refused while there are views
        except BufferError:
            return
        with self._lock:
            self._spare.append(buffer)
            self._drop_spare()

    def _drop_spare(self) -> None:
        """Drop the oldest spare buffers that there is no room for. Under the lock."""
        room = min(_SPARE, self.limit - self.used)
        held = sum(map(len, self._spare))
        while self._spare and held > room:
            held -= len(self._spare.pop(0))


def _has_huge_pages() -> bool:
    try:
        said = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return "[never]" not in said
