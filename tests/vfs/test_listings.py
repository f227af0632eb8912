"""Places in a directory while it changes."""

from __future__ import annotations

import time

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry, Scope
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.readdir import Listing, Listings


@pytest.fixture
def mimicdb() -> Mirror:
    mimicdb = Mirror(Memory())
    for key in "abcdef":
        mimicdb.record("bucket", Entry(key, 1))
    mimicdb.complete("bucket", Scope("", True, time.time_ns()))
    return mimicdb


@pytest.fixture
def listing(mimicdb: Mirror) -> Listing:
    return Listings(mimicdb).at(Inodes("bucket").root, 0, list)


def shown(mimicdb: Mirror, listing: Listing, index: int) -> list[tuple[str, int]]:
    rows = listing.rows(index, mimicdb.generation)
    return [(row[1], row[2].size) for row in rows]


def test_a_page_is_read_once(mimicdb: Mirror, listing: Listing) -> None:
    first = listing.rows(0, mimicdb.generation)
    again = listing.rows(3, mimicdb.generation)
    assert [row is other for row, other in zip(first[3:], again, strict=True)] == [True] * 3


def test_rows_that_were_dropped_are_read_again_by_who_goes_back(mimicdb: Mirror) -> None:
    for n in range(1000):
        mimicdb.record("bucket", Entry(f"n{n:03}", n))
    listing = Listings(mimicdb).at(Inodes("bucket").root, 0, list)
    assert shown(mimicdb, listing, 900)[0] == ("n894", 894)
    assert shown(mimicdb, listing, 10)[0] == ("n004", 4)
    assert len(listing.rows(10, mimicdb.generation, want=700)) >= 700


def test_what_changed_after_the_page_was_read_is_shown_as_it_is(
    mimicdb: Mirror, listing: Listing
) -> None:
    assert shown(mimicdb, listing, 0)[0] == ("a", 1)
    mimicdb.record("bucket", Entry("d", 2))
    assert shown(mimicdb, listing, 2) == [("c", 1), ("d", 2), ("e", 1), ("f", 1)]


def test_what_was_deleted_after_the_page_was_read_is_not_shown(
    mimicdb: Mirror, listing: Listing
) -> None:
    shown(mimicdb, listing, 0)
    mimicdb.forget("bucket", "e")
    mimicdb.forget("bucket", "a")  # seen already: the place stays
    assert shown(mimicdb, listing, 2) == [("c", 1), ("d", 1), ("f", 1)]


def test_what_appears_behind_the_place_is_shown_also_at_the_end(
    mimicdb: Mirror, listing: Listing
) -> None:
    shown(mimicdb, listing, 0)
    assert shown(mimicdb, listing, 6) == []
    assert listing.ended_at(6, mimicdb.generation)
    mimicdb.record("bucket", Entry("g", 7))
    assert not listing.ended_at(6, mimicdb.generation)
    assert shown(mimicdb, listing, 6) == [("g", 7)]


def test_what_appears_before_the_place_moves_nothing(mimicdb: Mirror, listing: Listing) -> None:
    shown(mimicdb, listing, 0)
    mimicdb.record("bucket", Entry("aa", 7))
    assert shown(mimicdb, listing, 4) == [("e", 1), ("f", 1)]


def test_rewinding_sees_all_anew(mimicdb: Mirror, listing: Listing) -> None:
    shown(mimicdb, listing, 4)
    mimicdb.record("bucket", Entry("aa", 7))
    mimicdb.forget("bucket", "f")
    assert [name for name, _ in shown(mimicdb, listing, 0)] == ["a", "aa", "b", "c", "d", "e"]
