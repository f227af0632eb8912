"""A directory of a moment is listed to its end, whatever names are in it."""

from __future__ import annotations

from mimicfs.s3.requests.past import PastPages
from mimicfs.s3.requests.versions import Marker, Version, VersionPage

_LAST = "\U0010ffff"


class _Versions:
    """One version of each of *keys*, in pages of ten; counts requests, of which there are few."""

    def __init__(self, keys: list[str]) -> None:
        self._keys = keys
        self.asked = 0

    def version_page(
        self, bucket: str, prefix: str, after: Marker, limit: int = 1000, delimiter: str = ""
    ) -> VersionPage:
        self.asked += 1
        assert self.asked < 20
        left = [key for key in self._keys if key > after.key]
        page = [Version(key, "v", latest=True, deleted=False) for key in left[:10]]
        return VersionPage(page, Marker(left[9]) if len(left) > 10 else None)


def test_a_directory_with_a_page_of_the_last_names_that_there_are_is_listed_once() -> None:
    names = [f"d/{_LAST}{n:02}" for n in range(35)]
    source = _Versions(["a", *names, "e"])
    page = PastPages(source, 0).list_page("b", "", "/", "", None, 1000)
    assert [entry.key for entry in page.entries] == ["a", "d/", "e"]
    assert source.asked == 4


def test_what_is_in_a_directory_is_passed_over_by_one_jump() -> None:
    source = _Versions(["a", *(f"d/{n:03}" for n in range(500)), "e"])
    page = PastPages(source, 0).list_page("b", "", "/", "", None, 1000)
    assert [entry.key for entry in page.entries] == ["a", "d/", "e"]
    assert source.asked == 2
