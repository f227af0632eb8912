"""The results of listings of the boto-shaped classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ResultSet(list[Any]):
    """One page: keys, then prefixes. *is_truncated*: there is another, behind *next_marker*
    (of versions and uploads: *next_key_marker* and its companion)."""

    is_truncated = False
    next_marker: str | None = None
    next_key_marker: str | None = None
    next_version_id_marker: str | None = None
    next_upload_id_marker: str | None = None


class BucketListResultSet(Generic[T]):
    """All of a listing, page by page as it is read, from the start each time."""

    def __init__(self, pages: Callable[[], Iterator[ResultSet]]) -> None:
        self._pages = pages

    def __iter__(self) -> Iterator[T]:
        for page in self._pages():
            yield from page
