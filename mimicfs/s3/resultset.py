"""The results of listings of the boto-shaped classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ResultSet(list[Any]):
    """One page: keys, then prefixes. *is_truncated*: another page follows, behind *next_marker*
    (for versions and uploads, behind *next_key_marker* and its companion)."""

    is_truncated = False
    next_marker: str | None = None
    next_key_marker: str | None = None
    next_version_id_marker: str | None = None
    next_upload_id_marker: str | None = None


class BucketListResultSet(Generic[T]):
    """All of a listing, page by page as it is read. Each iteration begins at the start."""

    def __init__(self, pages: Callable[[], Iterator[ResultSet]]) -> None:
        self._pages = pages

    def __iter__(self) -> Iterator[T]:
        for page in self._pages():
            yield from page
