"""The directories of a bucket that a change is about. They are read, changed here, and written as
the commands that make the difference. The caller sees to it that nobody else writes meanwhile.

The first look reads the first chunk of each directory with its index, which says whether there are
more. So a directory of one chunk costs no round trip of its own.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mimicfs.backends.redis.layout import FULL, RedisCommand, chunk_key, index_key, place_of, split
from mimicfs.backends.redis.watching import Watch

RowPlaces = dict[str, str]  # by the tag of a bucket, where its rows were at the last look


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

    def commands(self, place: str, directory: str) -> Iterator[RedisCommand]:
        """Yield the commands that make Redis hold this directory."""
        for start, chunk in self.chunks.items():
            key, old = chunk_key(place, directory, start), self._old.get(start, {})
            for name in old.keys() - chunk.keys():
                yield "HDEL", key, name
            for name, record in chunk.items():
                if old.get(name) != record:
                    yield "HSET", key, name, record
        starts = {start for start in self.starts[1:] if self.chunks.get(start) != {}}
        for start in starts - self._old_starts:
            yield "ZADD", index_key(place, directory), 0, start
        for start in self._old_starts - starts:
            yield "ZREM", index_key(place, directory), start


class Directories:
    """The directories of a bucket, with their rows at *place*, of which *names*, by directory, are
    put or deleted, or read.
    First `asks` is asked, and the answers are given to `read`."""

    def __init__(self, place: str, names: Mapping[str, Collection[str]]) -> None:
        self._place = place
        self._names = names
        self._at: dict[str, _ChunkedDirectory] = {}

    def asks(self) -> list[RedisCommand]:
        """Return the commands whose answers `read` takes."""
        found: list[RedisCommand] = []
        for directory in self._names:
            found.append(("ZRANGE", index_key(self._place, directory), 0, -1))
            found.append(("HGETALL", chunk_key(self._place, directory, b"")))
        return found

    def read(self, answers: Sequence[Any], watch: Watch) -> None:
        """Take *answers*, and ask for the chunks that are missing."""
        missing: list[tuple[str, bytes]] = []
        for directory, starts, chunk in zip(self._names, answers[::2], answers[1::2], strict=True):
            at = self._at[directory] = _ChunkedDirectory(starts)
            at.came(b"", chunk)
            wanted = {at.start(name.encode()) for name in self._names[directory]}
            missing += [(directory, start) for start in wanted - {b""}]
        self._bring(missing, watch)

    def _bring(self, missing: Sequence[tuple[str, bytes]], watch: Watch) -> None:
        if missing:
            found = watch.ask(*(("HGETALL", chunk_key(self._place, *each)) for each in missing))
            for (directory, start), chunk in zip(missing, found, strict=True):
                self._at[directory].came(start, chunk)

    def some(self, directory: str, count: int, watch: Watch) -> list[str]:
        """Return *count* names of *directory*, or all."""
        at = self._at[directory]
        more = [start for start in at.starts[: count + 1] if start not in at.chunks]
        if sum(map(len, at.chunks.values())) < count:
            self._bring([(directory, start) for start in more], watch)
        names = (name.decode() for chunk in at.chunks.values() for name in chunk)
        return list(islice(names, count))

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
            yield from at.commands(self._place, directory)


def life_asked(tag: str) -> RedisCommand:
    """Return the command that asks in which life the bucket is (layout.py)."""
    return ("HGET", f"{tag}:meta", "life")


def asked_with(
    asks: Sequence[RedisCommand],
    watch: Watch,
    tag: str,
    names: Mapping[str, Collection[str]],
    places: RowPlaces,
) -> tuple[list[Any], Directories]:
    """Return the answers to *asks*, and the directories of *names*, which are read with them."""
    place = places.get(tag, tag)
    at = Directories(place, names)
    life, *answers = watch.ask(life_asked(tag), *asks, *at.asks())
    answers, read = answers[: len(asks)], answers[len(asks) :]
    places[tag] = place_of(tag, life)
    if places[tag] != place:  # and so it stays: its key is watched
        at = Directories(places[tag], names)
        read = watch.ask(*at.asks())
    at.read(read, watch)
    return answers, at


def names_about(keys: Iterable[str]) -> dict[str, set[str]]:
    """Return, by directory, the names that a thread must know to put or delete *keys*."""
    names: dict[str, set[str]] = {}
    for key in keys:
        if key.endswith("/"):
            names.setdefault(key, set())  # whether it is empty
        _note(names, key)
    return names


def _note(names: dict[str, set[str]], key: str) -> None:
    """Note the name of *key*, and those of the directories above it."""
    directory, name = split(key)
    while name not in names.setdefault(directory, set()):
        names[directory].add(name)
        if not directory:
            return
        directory, name = split(directory)
