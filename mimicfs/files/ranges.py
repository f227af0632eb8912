"""Sets of byte ranges, and the plan of an upload that is made of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Ranges:
    """A set of bytes, as ranges [start, end) in order that neither touch nor overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first that reaches *start*
        last = bisect_right(self._starts, end)  # the first that begins behind *end*
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def cut(self, size: int) -> None:
        """Take out all from *size* on."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._ends[keep:]
        if self._ends and self._ends[-1] > size:
            self._ends[-1] = size

    def clear(self) -> None:
        self.cut(0)

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte from *start* to *end* is in."""
        at = bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and self._ends[at] >= end)

    def holes(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges from *start* to *end* that are not in."""
        found: list[tuple[int, int]] = []
        for index in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[index] >= end:
                break
            if start < self._starts[index]:
                found.append((start, self._starts[index]))
            start = self._ends[index]
        if start < end:
            found.append((start, end))
        return found

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (start, end, whether it is in), from *start* to *end* without a gap."""
        for hole, stop in self.holes(start, end):
            if start < hole:
                yield start, hole, True
            yield hole, stop, False
            start = stop
        if start < end:
            yield start, end, True


class PlannedPart(NamedTuple):
    """The bytes from *start* to *end* of an object to be. They are sent, or *copied* from the
    object that is there, or, where all are *zeros*, from an object of zeros (zeros.py)."""

    start: int
    end: int
    copied: bool
    zeros: bool = False


def plan(
    changed: Ranges, base: int, size: int, part: int, least: int, copy_max: int
) -> list[PlannedPart]:
    """Return the parts of an object of *size* bytes that is to replace one whose first *base*
    bytes are still its own, except for those in *changed*.

    Every part but the last has at least *least* bytes (S3: 5 MiB). Parts that are sent have about
    *part* bytes (not less than *least*), copied ones up to *copy_max* (S3: 5 GiB). So a few
    unchanged bytes between changed ones are sent, too; the sender must fetch them first.
    """
    spans = _merged(_spans(changed, base, size), size, least)
    parts: list[PlannedPart] = []
    for start, end, copied, _ in spans:
        parts += _divided(start, end, copied, copy_max if copied else part, least)
    return parts


def equal_plan(changed: Ranges, base: int, size: int, part: int) -> list[PlannedPart]:
    """Return the same in parts of *part* bytes each, except the last, which has what is left:
    Cloudflare R2 takes no others. A part is copied if nothing in it is changed."""
    parts = []
    for start in range(0, size, part):
        end = min(start + part, size)
        unchanged = end <= base and changed.holes(start, end) == [(start, end)]
        parts.append(PlannedPart(start, end, unchanged))
    return parts


def are_equal(parts: list[PlannedPart]) -> bool:
    """Whether all *parts* but the last are of one size, and the last is no larger."""
    sizes = [part.end - part.start for part in parts]
    return len({*sizes[:-1]}) <= 1 and (not sizes or sizes[-1] <= sizes[0])


def _spans(changed: Ranges, base: int, size: int) -> list[PlannedPart]:
    """Return what is to be sent or copied, in order, however small."""
    pieces = changed.pieces(0, min(base, size))
    spans = [PlannedPart(start, end, not inside) for start, end, inside in pieces]
    if base < size:
        spans.append(PlannedPart(base, size, False))
    return spans


def _merged(spans: list[PlannedPart], size: int, least: int) -> list[PlannedPart]:
    """Return spans that are all large enough to be parts: a small span that could be copied is
    sent, and a small one that is sent takes what it lacks from the copied one behind it."""
    merged: list[PlannedPart] = []
    for span in spans:
        small = span.end - span.start < least and span.end < size
        if merged and not merged[-1].copied:
            _join(merged, span, least)
        elif span.copied and small:
            merged.append(span._replace(copied=False))
        else:
            merged.append(span)
    return merged


def _join(merged: list[PlannedPart], span: PlannedPart, least: int) -> None:
    """Add *span* behind one that is sent."""
    first = merged[-1].start
    cut = max(span.start, min(span.end, first + least)) if span.copied else span.end
    if span.end - cut < least:
        cut = span.end
    merged[-1] = PlannedPart(first, cut, False)
    if cut < span.end:
        merged.append(PlannedPart(cut, span.end, True))


def _divided(start: int, end: int, copied: bool, most: int, least: int) -> Iterator[PlannedPart]:
    """Yield parts of *most* bytes; if too little is left for the last one, the last two share
    it."""
    while end - start > most:
        stop = start + most
        if end - stop < least:
            stop = end - least
        yield PlannedPart(start, stop, copied)
        start = stop
    yield PlannedPart(start, end, copied)
