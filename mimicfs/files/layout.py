"""The layout of a file: which bytes are in its staging file, and which are still only in the
version in S3.

Values only; `File` protects them with its lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mimicfs.files.ranges import PlannedPart, Ranges, equal_plan, plan


class Layout:
    """The first *base* of the *size* bytes of a file are those of the version in S3, but for what
    was changed since. *partial*: the staging file has nothing of that version yet.

    INVARIANT: of a partial file, all bytes behind `base` are in the staging file.
    """

    def __init__(self, size: int, base: int = 0, *, partial: bool = False) -> None:
        self.size = size
        self.base = base
        self.front = 0  # how many bytes were written in a row, from the start on
        self._changed = Ranges()
        self._staged = Ranges() if partial else None  # None: every byte is

    @classmethod
    def resumed(
        cls, size: int, base: int, changes: Iterable[tuple[int, int | None]], *, partial: bool
    ) -> Layout:
        """Return the layout after *changes*, which a journal has kept (Staging.ranges)."""
        layout = cls(size, min(base, size), partial=partial)
        for start, end in changes:
            if end is not None:
                layout._changed.add(start, end)
            else:
                layout._changed.cut(start)
                layout.base = min(layout.base, start)
        if layout._staged is not None:
            for start, end in layout._changed:
                layout._staged.add(start, end)
            layout._staged.add(layout.base, size)
        else:  # only partial files note what was changed
            layout._changed.add(0, size)
        return layout

    @property
    def partial(self) -> bool:
        return self._staged is not None

    def wrote(self, start: int, end: int) -> None:
        """Note that the staging file has new bytes from *start* to *end*."""
        if self._staged is not None:
            self._staged.add(start, end)
        if self.base:
            self._changed.add(start, end)
        self.size = max(self.size, end)

    def fetched(self, spans: Iterable[tuple[int, int]]) -> None:
        """Note that the staging file has got *spans* of the version in S3."""
        if self._staged is not None:
            for start, end in spans:
                self._staged.add(start, end)

    def fetched_all(self) -> None:
        self._staged = None

    def cut(self, size: int) -> None:
        """Note that the file ends at *size* now."""
        if self._staged is not None:
            self._staged.cut(size)
        self._changed.cut(size)
        self.base = min(self.base, size)
        self.front = min(self.front, size)
        self.size = size

    def uploaded(self) -> None:
        """Note that the version in S3 is this file now."""
        self.base = self.size
        self._changed = Ranges()

    def arrived(self, size: int) -> None:
        """Note that the version in S3 is the first *size* bytes of this file now."""
        self.base = size

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (start, end, whether the staging file has it), from *start* to *end*."""
        if self._staged is None or self._staged.covers(start, end):
            yield start, end, True
        else:
            yield from self._staged.pieces(start, end)

    def missing(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what the staging file lacks of *spans*."""
        if self._staged is None:
            return []
        return [hole for start, end in spans for hole in self._staged.holes(start, end)]

    def plan(self, part: int, least: int, copy_max: int, count_max: int) -> list[PlannedPart]:
        """Return what ranges.plan does, but at most *count_max* parts: more changes than that share
        parts, with the bytes between them."""
        while True:
            place = (self._changed, self.base, self.size)
            parts = plan(*place, max(part, least), least, copy_max)
            if len(parts) <= count_max:
                return parts
            least *= 2

    def equal_plan(self, part: int) -> list[PlannedPart]:
        """Return what ranges.equal_plan does."""
        return equal_plan(self._changed, self.base, self.size, part)
