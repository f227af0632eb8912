"""What a handle knows of its file, and whether a change through it still goes where it was meant to
go.

Others can replace the version that a file stands on, and the file then goes over to theirs: it
follows them where nobody had got a byte, and appends go behind their bytes. A place that a program
had chosen before may then be somewhere among their bytes.

Threading: a File changes the views of its handles under its lock; `got` may be set by any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class HandleView:
    """What one handle knows of its file."""

    got: bool = False  # it has read bytes, or has written some at a place of its own choice
    appends: bool = False  # it has appended, and so goes on with whatever is there by then
    end: int | None = None  # the least end that the file had before others changed it
    stale: bool = False  # it has read bytes of a version that is gone: it gets none of the next
    # a change at a place of its choice went, or would go, among the bytes of others
    astray: bool = False

    @property
    def outdated(self) -> bool:
        """Whether its program may know an end that has changed."""
        return self.astray or self.end is not None

    def base_moved(self, old: int, new: int) -> None:
        """Note that others have replaced the *old* bytes that the file stood on by *new* ones."""
        if old != new:
            self.end = old if self.end is None else min(self.end, old)

    def went_behind(self) -> None:
        """Note that appended bytes have gone behind a version of others, and that somebody has seen
        the version before. (The kernel may send what was written through a mapping by any handle.)
        """
        self.stale = self.stale or (self.got and not self.appends)
        self.astray = True

    def is_astray(self, place: int, reach: int, size: int) -> bool:
        """Whether a change of the bytes from *place* to *reach* was meant for an older version: it
        goes behind the end that its program may know. A change at *size*, the end that the file has
        now, was not."""
        self.astray |= self.end is not None and reach > self.end and place != size
        return self.astray

    def emptied(self) -> None:
        """Note that the file was cut to nothing: it has no bytes of others."""
        self.end, self.astray = None, False

    def renewed(self) -> None:
        """Note that its program has locked the file, and looks at it anew."""
        self.got = self.stale = self.astray = False
        self.end = None


class ChosenPlace(NamedTuple):
    """A place that a program has chosen for a change, by *view*: the bytes from *start* to *reach*,
    which is the new end where the file is cut or extended."""

    view: HandleView
    start: int
    reach: int
