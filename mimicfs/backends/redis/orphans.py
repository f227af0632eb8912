"""Orphans: records of a bucket in Redis to which none of its directories leads, and directories
that lead to nothing. `layout.py` says how it should be. For `mimicfs store check`.

Threading: as redis-py's client. Others may write meanwhile, so a finding may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mimicfs.backends.redis.layout import chunk_key, index_key, place_of, split
from mimicfs.backends.redis.scripts import Scripts
from mimicfs.backends.redis.transactions import Transactions

_PAGE = 500  # keys that are looked at in one round trip


def quoted(text: str) -> str:
    """Return the pattern that matches *text* and nothing else."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in text)


def orphans(client: Any, tag: str, steps: Scripts | Transactions) -> Iterator[str]:
    """Yield the faults of the keys below *tag*."""
    place = place_of(tag, client.hget(f"{tag}:meta", "life"))
    for page in _pages(client, place, "d"):
        yield from _not_named(steps, tag, page)
        yield from _empty(client, place, {chunk_key(place, each, b""): each for each in page})
    for page in _pages(client, place, "c"):
        yield from _not_indexed(client, place, page)
        parts = {each: split(each) for each in page}
        chunks = {chunk_key(place, at, name.encode()): at for at, name in parts.values()}
        yield from _empty(client, place, chunks)
    for page in _pages(client, place, "i"):
        yield from _without_chunks(client, place, page)


def _pages(client: Any, place: str, kind: str) -> Iterator[list[str]]:
    """Yield the rest of the names of the keys of *kind*, a page at a time."""
    start = f"{place}:{kind}:"
    keys = client.scan_iter(f"{quoted(start)}*", count=1000)
    while some := list(islice(keys, _PAGE)):
        yield sorted({key.decode().removeprefix(start) for key in some})


def _not_named(steps: Scripts | Transactions, tag: str, directories: list[str]) -> Iterator[str]:
    """Yield the *directories* that are missing in the directory above."""
    parts = [split(each) for each in directories if each]
    below = [(parent, [name]) for parent, name in parts]
    for (parent, (name,)), found in zip(below, steps.records_of(tag, below), strict=True):
        if found == [None]:
            yield parent + name


def _not_indexed(client: Any, place: str, chunks: list[str]) -> Iterator[str]:
    pipe = client.pipeline(transaction=False)
    for each in chunks:
        directory, name = split(each)
        pipe.zscore(index_key(place, directory), name)
    for each, score in zip(chunks, pipe.execute(), strict=True):
        if score is None:
            yield each


def _without_chunks(client: Any, place: str, directories: list[str]) -> Iterator[str]:
    for directory in directories:
        starts = client.zrange(index_key(place, directory), 0, -1)
        pipe = client.pipeline(transaction=False)
        for start in starts:
            pipe.exists(chunk_key(place, directory, start))
        for start, there in zip(starts, pipe.execute(), strict=True):
            if not there:
                yield directory + start.decode()


def _empty(client: Any, place: str, chunks: dict[bytes, str]) -> Iterator[str]:
    """Yield the subdirectories in *chunks* that have no entry and nothing in them. *chunks* has the
    directory of each chunk."""
    pipe = client.pipeline(transaction=False)
    for key in chunks:
        pipe.hgetall(key)
    found = zip(chunks.values(), pipe.execute(), strict=True)
    implied = [
        directory + name.decode()
        for directory, names in found
        for name, record in names.items()
        if not record
    ]
    pipe = client.pipeline(transaction=False)
    for directory in implied:
        pipe.exists(chunk_key(place, directory, b""), index_key(place, directory))
    for directory, there in zip(implied, pipe.execute(), strict=True):
        if not there:
            yield directory
