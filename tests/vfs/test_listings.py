"""Places in a directory while it changes."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry, Scope
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import Node, NodeKind
from mimicfs.vfs.readdir import Listing, Listings
from mimicfs.vfs.walking import Walking


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


def test_rows_that_were_dropped_are_read_again_by_whoever_goes_back(mimicdb: Mirror) -> None:
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


@pytest.mark.parametrize("ends", ["known", "asked"])
def test_whoever_has_read_all_gives_way_to_whoever_is_on_the_way(ends: str) -> None:
    mimicdb = Mirror(Memory())
    for n in range(400):
        mimicdb.record("bucket", Entry(f"t{n:03}/f", 1))
    mimicdb.complete("bucket", Scope("", True, time.time_ns()))
    inodes, listings = Inodes("bucket"), Listings(mimicdb)
    above = listings.at(inodes.root, 0, list)
    for slot, _ in [row[1:] for row in above.rows(0, mimicdb.generation, 300)][:300]:
        below = inodes.child(inodes.root, slot, NodeKind.DIRECTORY, hold=True)
        reader = listings.at(below, 0, list)
        assert shown(mimicdb, reader, 0) == [("f", 1)]
        if ends == "known":
            assert listings.ended(below, reader.cookie(1))
        mimicdb.forget("bucket", f"{slot}f")
        if ends == "asked":
            assert shown(mimicdb, reader, 1) == []
    later = listings.at(inodes.root, above.cookie(300), list)
    assert shown(mimicdb, later, 300)[0] == ("t300/", 0)


def test_rewinding_sees_all_anew(mimicdb: Mirror, listing: Listing) -> None:
    shown(mimicdb, listing, 4)
    mimicdb.record("bucket", Entry("aa", 7))
    mimicdb.forget("bucket", "f")
    assert [name for name, _ in shown(mimicdb, listing, 0)] == ["a", "aa", "b", "c", "d", "e"]


def foreseen(mimicdb: Mirror, unsaved: list[str]) -> tuple[Listings, Node, Listing]:
    """Foresee the root; return what is taken for it afterwards, too."""
    listings, root = Listings(mimicdb), Inodes("bucket").root
    listings.foresee(root, 1, lambda: unsaved)
    return listings, root, listings.at(root, 0, lambda: unsaved)


def test_what_was_foreseen_is_not_read_again(mimicdb: Mirror) -> None:
    _, _, listing = foreseen(mimicdb, [])
    assert listing.ended_at(6, mimicdb.generation)
    assert [name for name, _ in shown(mimicdb, listing, 0)] == list("abcdef")


def test_what_was_foreseen_is_read_again_after_a_change(mimicdb: Mirror) -> None:
    listings, root = Listings(mimicdb), Inodes("bucket").root
    listings.foresee(root, 1, list)
    mimicdb.forget("bucket", "c")
    assert [name for name, _ in shown(mimicdb, listings.at(root, 0, list), 0)] == list("abdef")


def test_what_was_foreseen_is_one_readers_and_of_that_directory(mimicdb: Mirror) -> None:
    listings, root, first = foreseen(mimicdb, [])
    second = listings.at(root, 0, list)
    assert second is not first
    assert not second.ended_at(6, mimicdb.generation)
    listings.foresee(root, 1, list)
    other = Inodes("bucket").child(root, "d/", NodeKind.DIRECTORY, hold=False)
    assert not listings.at(other, 0, list).ended_at(6, mimicdb.generation)


def test_a_file_that_s3_lacks_is_shown_in_what_was_foreseen(mimicdb: Mirror) -> None:
    unsaved = list[str]()
    listings, root = Listings(mimicdb), Inodes("bucket").root
    listings.foresee(root, 1, lambda: unsaved)
    unsaved.append("new")
    listing = listings.at(root, 0, lambda: unsaved)
    assert [name for name, _ in shown(mimicdb, listing, 0)] == [*"abcdef", "new"]


def walked(*steps: tuple[int, list[int]]) -> list[int]:
    """Return what is expected after each of *steps*: a directory, and those in it."""
    walking, expected = Walking(), list[int]()
    for directory, below in steps:
        walking.begins(directory)
        walking.shows(below)
        expected.append(walking.coming())
    return expected


def test_a_walk_is_foreseen_from_the_third_step_on() -> None:
    steps = [(1, [2, 6]), (2, [3, 5]), (3, [4]), (4, []), (5, []), (6, [])]
    assert walked(*steps) == [0, 0, 0, 5, 6, 0]


def test_whoever_goes_elsewhere_begins_anew() -> None:
    steps = [(1, [2, 6]), (2, [3, 5]), (3, [4]), (4, []), (6, [7]), (7, [])]
    assert walked(*steps) == [0, 0, 0, 5, 0, 0]


def test_several_who_walk_at_once_end_nobody() -> None:
    walking = Walking()

    def walk(start: int) -> None:
        for directory in range(start, start + 10_000):
            walking.begins(directory)
            walking.shows([directory + 1])
            walking.coming()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(walk, start) for start in (1, 1, 2, 2)]:
                done.result()
    finally:
        sys.setswitchinterval(interval_s)
    assert walking.coming() <= 10_002


@pytest.mark.parametrize("new", ["a", "e", "dd"])
def test_a_directory_that_is_renamed_while_it_is_read_shows_each_name_once(
    mimicdb: Mirror, new: str
) -> None:
    inodes, slots = Inodes("bucket"), ["1", "2", "3/", "4", "5"]
    node = inodes.child(inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
    for key in ("d/", *(f"d/{slot}" for slot in slots)):
        mimicdb.record("bucket", Entry(key, 0))
    listing = Listings(mimicdb).at(node, 0, list)
    found = [slot for slot, _ in shown(mimicdb, listing, 0)[:3]]
    for key in ("", *slots):
        mimicdb.record("bucket", Entry(f"{new}/{key}", 0))
        mimicdb.forget("bucket", f"d/{key}")
    inodes.move(node, inodes.root, new)
    found += [slot for slot, _ in shown(mimicdb, listing, 3)]
    assert found == slots
