"""The streams by which an object is read: the places where a reader goes on, upwards or downwards,
and the distances between them.

A *stream* is a place from which somebody reads on. The kernel's reads arrive several at once and
out of order, so a read near the place of a stream counts as one at it. A reader that goes
downwards, so that each piece ends where the one before began, is recognised by its fourth piece.
Streams that begin at equal distances are the steps of a *stride*.

Threading: none of its own; a reader's lock protects all of it.
"""

from __future__ import annotations

from mimicfs.config.sizes import MIB

# bytes that were read in a row, by more than one read: such a stream will go on
_PROVEN = 128 << 10
_NEAR = 2 * MIB  # a stream's next read may be this far from its place, at most
_LEAST = 64 << 10  # and may be so far in any case
_TURN = 3  # pieces below each other, after which a stream goes downwards
_STEPS_MOST = 16  # of a stride, foreseen at once


class Stream:
    """A place from which somebody reads on: *at*, the end of what was read, or its beginning where
    the stream goes *downwards*. *run* is how much was read in a row. *used* is the number of the
    reader's latest read that belongs here. *ask_at* is the place at which to look whether there is
    something to ask for; None: look now."""

    __slots__ = (
        "ask_at",
        "at",
        "down",
        "downwards",
        "last",
        "reach",
        "reads",
        "run",
        "start",
        "used",
    )

    def __init__(self, offset: int, end: int) -> None:
        self.start = offset
        self.last = offset  # where the latest read began
        self.at = end
        self.run = end - offset
        self.reach = _reach(self.run)  # kept, because each read looks at it in each stream
        self.used = 0
        self.down = 0  # pieces in a row, each below the one before
        self.downwards = False
        self.ask_at: int | None = None
        self.reads = 1 if offset else 2  # a reader that begins at the start is taken to go on

    def near(self, offset: int, end: int) -> bool:
        """Whether a read goes on from here. A stream that has read little reaches only a little."""
        away = (end if self.downwards else offset) - self.at
        return -self.reach <= away <= self.reach or end == self.last

    def go_on(self, offset: int, end: int) -> None:
        self.reads += 1
        self.down = self.down + 1 if end == self.last else 0
        self.last = offset
        if self.downwards != (self.down >= _TURN):
            self._turn(offset, end)
        elif self.downwards:
            self.run += self.at - offset
            self.at = offset
        elif end > self.at:
            self.run += end - self.at
            self.at = end
        self.reach = _reach(self.run)

    def _turn(self, offset: int, end: int) -> None:
        self.downwards = not self.downwards
        self.at = offset if self.downwards else end
        self.run = (self.down + 1) * (end - offset)
        self.ask_at = None

    @property
    def proven(self) -> bool:
        """Whether the stream will go on, as far as one can tell."""
        known = self.down == 0 or self.downwards
        return known and self.reads > 1 and self.run >= _PROVEN

    def is_due(self) -> bool:
        """Whether to look for something to ask for."""
        if self.ask_at is None:
            return True
        return self.at <= self.ask_at if self.downwards else self.at >= self.ask_at

    def ask_after(self, size: int) -> None:
        """Let it be due again when *size* more bytes were read."""
        self.ask_at = self.at - size if self.downwards else self.at + size


def _reach(run: int) -> int:
    """Return how far from its place the next read of a stream that has read *run* may be."""
    return min(_NEAR, max(_LEAST, 2 * run))


class Stride:
    """Streams that begin at equal distances."""

    def __init__(self) -> None:
        self._last: Stream | None = None
        self._distance = 0
        self._length = 0  # of one piece
        self._row = 0  # distances in a row that were the same

    def begin(self, stream: Stream) -> None:
        """Note that *stream* begins."""
        before, self._last = self._last, stream
        if before is None:
            return
        distance = stream.start - before.start
        self._row = self._row + 1 if distance == self._distance != 0 else 0
        self._distance = distance
        self._length = max(before.run, stream.run)

    def foreseen(self, size: int) -> list[tuple[int, int]]:
        """Return the next pieces that will be read, of an object of *size* bytes."""
        if not self._row or self._last is None:
            return []
        steps = min(_STEPS_MOST, 2 << min(self._row, 8))
        places = [self._last.start + n * self._distance for n in range(1, steps + 1)]
        return [(place, min(place + self._length, size)) for place in places if 0 <= place < size]
