"""The way that the tokens of a listing lead. A page may be empty and lead on, many times in a row:
so S3 passes deleted keys. But a server that leads back to a place of the listing leads in a circle,
and a caller that follows never comes to an end.

Threading: one thread at a time.
"""

from __future__ import annotations

from collections.abc import Hashable

from mimicfs.errors import MalformedListing

_MOST = 100_000  # empty pages in a row; S3 looks at a thousand keys and more for each


class Trail:
    """The places to which a listing was led since it last came further."""

    def __init__(self) -> None:
        self._passed: set[Hashable] = set()

    def further(self) -> None:
        """Note that the listing has come further: the places before cannot come again."""
        self._passed.clear()

    def on(self, listing: object, place: Hashable) -> None:
        """Note that *listing* is led to *place*. Raises MalformedListing."""
        if place in self._passed:
            raise MalformedListing(f"{listing}: its pages lead in a circle")
        if len(self._passed) == _MOST:
            raise MalformedListing(f"{listing}: {_MOST} pages in a row are empty")
        self._passed.add(place)
