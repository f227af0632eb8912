"""The ranges that a listing begins with.

Not thread-safe: the thread that merges takes them, as it needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mimicfs.entry import LIST_MAX
from mimicfs.mimicdb import Mirror
from mimicfs.sync.ranges import STRIDE_MIN, KeyRange
from mimicfs.sync.source import ListingScope

_RANGES = 32  # the number of ranges of a bucket, about: twice as many as may be listed at once


class Plan(Protocol):
    def next(self) -> KeyRange | None:
        """Return the next range; None: there is none."""
        ...

    def rest(self) -> list[tuple[str, str | None]]:
        """Return the ranges that were not given out."""
        ...


class GivenRanges:
    """Ranges that are known beforehand."""

    def __init__(self, ranges: Sequence[tuple[str, str | None]]) -> None:
        self._ranges = list(ranges)

    def next(self) -> KeyRange | None:
        return KeyRange(*self._ranges.pop(0)) if self._ranges else None

    def rest(self) -> list[tuple[str, str | None]]:
        return list(self._ranges)


class Known:
    """Ranges between keys that the mirror has, each of whole pages. *objects*: about how many
    there are in all."""

    def __init__(self, mimicdb: Mirror, scope: ListingScope, objects: int) -> None:
        self._mimicdb = mimicdb
        self._scope = scope
        self._stride = max(STRIDE_MIN, -(-objects // (_RANGES * LIST_MAX)) * LIST_MAX)
        self._next: KeyRange | None = self._ahead("")

    def next(self) -> KeyRange | None:
        part = self._next
        if part is None or part.upto is None:
            self._next = None
            return part
        following = self._ahead(part.upto)
        if following.upto is None and (following.expected or 0) * 2 < self._stride:
            # The end of the mirror is near: it is not worth a range, nor a request if nothing is
            # there.
            part.upto = None
            part.expected = (part.expected or 0) + (following.expected or 0)
            self._next = None
        else:
            self._next = following
        return part

    def rest(self) -> list[tuple[str, str | None]]:
        return [] if self._next is None else [(self._next.after, None)]

    def _ahead(self, after: str) -> KeyRange:
        at, passed = self._mimicdb.stride(
            self._scope.bucket, self._scope.prefix, after, self._stride
        )
        return KeyRange(after, at if passed == self._stride else None, passed)
