"""Directories from all over a bucket: what most of it is like is not seen in the directories that
a walk comes to first.

Threading: no state; reads the mirror.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from mimicfs.entry import OBJECT, Entry
from mimicfs.errors import Unlisted
from mimicfs.mimicdb import Mirror

T = TypeVar("T")

_PAGE = 256  # names of a directory that are looked at
_DEPTH = 32  # of the tree


def directories(mimicdb: Mirror, bucket: str, most: int) -> dict[str, list[Entry]]:
    """Return the first objects of up to *most* directories of *bucket* that have objects. At each
    depth as many directories are read, from the first to the last that are known there."""
    found: list[tuple[str, list[Entry]]] = []
    level = [""]
    for _ in range(_DEPTH):
        below: list[str] = []
        for directory in _evenly(level, most):
            entries = _children(mimicdb, bucket, directory)
            objects = [entry for entry in entries if not entry.key.endswith("/")]
            if objects:
                found.append((directory, objects))
            below += [entry.key for entry in entries if entry.key.endswith("/")]
        if not below:
            break
        level = below
    return dict(_evenly(found, most))


def _children(mimicdb: Mirror, bucket: str, directory: str) -> Iterable[Entry]:
    try:
        entries = mimicdb.children(bucket, directory, "", _PAGE)
    except Unlisted:
        return ()
    return [entry for entry in entries if entry.kind == OBJECT or entry.key.endswith("/")]


def _evenly(items: Sequence[T], most: int) -> list[T]:
    """Return up to *most* of *items*, as far apart as they can be: with the first and the last."""
    gaps = min(len(items), most) - 1
    return [items[number * (len(items) - 1) // max(gaps, 1)] for number in range(gaps + 1)]
