"""The directories of a bucket that a change is about. They are read, changed here, and written as
the commands that make the difference. The caller sees to it that nobody else writes meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Any

from mimicfs.backends.redis.layout import FULL, RedisCommand, chunk_key, index_key, split


class _ChunkedDirectory:
    """One directory: the first names of all its chunks, and those chunks that were read."""

    def __init__(self, starts: list[bytes]) -> None:
        self.starts = [b"", *starts]
        self.chunks: dict[bytes, dict[bytes, bytes]] = {}
        self._old_starts = set(starts)
        self._old: dict[bytes, dict[bytes, bytes]] = {}

    def came(self, start: bytes, chunk: dict[bytes, bytes]) -> None:
        self.chunks[start] = chunk
        self._old[start] = dict(chunk)

    def start(self, name: bytes) -> bytes:
        """Return the first name of the chunk that has *name*, or would have it."""
        return self.starts[bisect_right(self.starts, name) - 1]

    def put(self, name: bytes, record: bytes) -> None:
        chunk = self.chunks[self.start(name)]
        chunk[name] = record
        if len(chunk) > FULL:  # so that names which come in order fill their chunks
            names = sorted(chunk)
            moved = names[-1:] if names[-1] == name else names[len(names) // 2 :]
            self.chunks[moved[0]] = {each: chunk.pop(each) for each in moved}
            insort(self.starts, moved[0])

    def exists(self) -> bool:
        return any(self.chunks.values()) or len(self.starts) > len(self.chunks)

    def commands(self, tag: str, directory: str) -> Iterator[RedisCommand]:
        """Yield the commands that make Redis hold this directory."""
        for start, chunk in self.chunks.items():
            key, old = chunk_key(tag, directory, start), self._old.get(start, {})
            for name in old.keys() - chunk.keys():
                yield "HDEL", key, name
            for name, record in chunk.items():
                if old.get(name) != record:
                    yield "HSET", key, name, record
        starts = {start for start in self.starts[1:] if self.chunks.get(start) != {}}
        for start in starts - self._old_starts:
            yield "ZADD", index_key(tag, directory), 0, start
        for start in self._old_starts - starts:
            yield "ZREM", index_key(tag, directory), start


class Directories:
    """The directories that a thread must know to put or delete *keys* of a bucket."""

    def __init__(self, client: Any, tag: str, keys: Iterable[str]) -> None:
        self._tag = tag
        names: dict[str, set[str]] = {}  # of each directory, the names that matter
        for key in keys:
            if key.endswith("/"):
                names.setdefault(key, set())  # whether it is empty
            _note(names, key)
        self._at = self._read(client, names)

    def _read(self, client: Any, names: dict[str, set[str]]) -> dict[str, _ChunkedDirectory]:
        with client.pipeline(transaction=False) as pipe:
            for directory in names:
                pipe.zrange(index_key(self._tag, directory), 0, -1)
            at = {
                directory: _ChunkedDirectory(starts)
                for directory, starts in zip(names, pipe.execute(), strict=True)
            }
        wanted = [
            (directory, start)
            for directory, found in at.items()
            for start in {b"", *(found.start(name.encode()) for name in names[directory])}
        ]
        with client.pipeline(transaction=False) as pipe:
            for directory, start in wanted:
                pipe.hgetall(chunk_key(self._tag, directory, start))
            for (directory, start), chunk in zip(wanted, pipe.execute(), strict=True):
                at[directory].came(start, chunk)
        return at

    def get(self, directory: str, name: str) -> bytes | None:
        at = self._at[directory]
        return at.chunks[at.start(name.encode())].get(name.encode())

    def put(self, directory: str, name: str, record: bytes) -> None:
        self._at[directory].put(name.encode(), record)

    def remove(self, directory: str, name: str) -> None:
        at = self._at[directory]
        at.chunks[at.start(name.encode())].pop(name.encode(), None)

    def exists(self, directory: str) -> bool:
        return self._at[directory].exists()

    def commands(self) -> Iterator[RedisCommand]:
        """Yield the commands that make Redis hold the changes that were made here."""
        for directory, at in self._at.items():
            yield from at.commands(self._tag, directory)


def _note(names: dict[str, set[str]], key: str) -> None:
    """Note the name of *key*, and those of the directories above it."""
    directory, name = split(key)
    while name not in names.setdefault(directory, set()):
        names[directory].add(name)
        if not directory:
            return
        directory, name = split(directory)
