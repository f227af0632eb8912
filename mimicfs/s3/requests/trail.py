"""The way that the tokens of a listing lead. A page may be empty and lead on, many times in a row:
S3 shows so what was deleted. But a server that leads to where the listing has been leads in a
circle, and whoever follows never comes to an end.

Threading: one thread at a time.
"""

from __future__ import annotations

from collections.abc import Hashable

from mimicfs.errors import MalformedListing

_MOST = 100_000  # empty pages in a row; S3 looks at a thousand keys and more for each


class Trail:
    """The places that a listing was led to since it last came further."""

    def __init__(self) -> None:
        self._passed: set[Hashable] = set()

    def further(self) -> None:
        """Something was listed that had not been: nothing of what was passed comes again."""
        self._passed.clear()

    def on(self, listing: object, place: Hashable) -> None:
        """*listing* is led to *place*. Raises MalformedListing."""
        if place in self._passed:
            raise MalformedListing(f"{listing}: its pages lead in a circle")
        if len(self._passed) == _MOST:
            raise MalformedListing(f"{listing}: {_MOST} pages in a row are empty")
        self._passed.add(place)
