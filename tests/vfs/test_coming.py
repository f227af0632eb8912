"""The answer to a walk that is made before it asks."""

from __future__ import annotations

import time

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.config.values import BucketOptions, Buckets, S3Options, VFSOptions
from mimicfs.entry import Entry, Scope
from mimicfs.mimicdb import Mirror
from mimicfs.posix import DirEntry
from mimicfs.s3.requests.client import S3
from mimicfs.vfs.attributes import Attributes
from mimicfs.vfs.coming import NextAnswers
from mimicfs.vfs.firstlook import FirstLook
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import Node, NodeKind
from mimicfs.vfs.readdir import Listing, Listings
from mimicfs.vfs.walking import Walking

ROOM = (32_000, 152)


class Walk:
    """A walk that is going to read the directory *below* next. S3 is never asked."""

    def __init__(self) -> None:
        self.mimicdb = Mirror(Memory())
        for name in "abc":
            self.mimicdb.record("bucket", Entry(f"d/{name}", 1))
        self.mimicdb.complete("bucket", Scope("", True, time.time_ns()))
        self.inodes = Inodes("bucket")
        self.listings = Listings(self.mimicdb)
        self.unsaved: list[str] = []
        attributes, never = Attributes(VFSOptions()), Buckets(BucketOptions(metadata="never"))
        self.coming = NextAnswers(
            self.mimicdb,
            self.inodes,
            self.listings,
            FirstLook(self.mimicdb, S3(S3Options(), self.mimicdb), never),
            Walking(),
            lambda _: attributes,
            lambda _: self.unsaved,
        )
        self.below = self.inodes.child(self.inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
        self.coming.take(self.below, self.begun(), ROOM)  # from now on it knows the room

    def begun(self) -> Listing:
        return self.listings.at(self.below, 0, lambda: self.unsaved)

    def foreseen(self) -> list[DirEntry] | None:
        self.listings.foresee(self.below, 1, lambda: self.unsaved)
        return self.coming.idle()

    def take(self, directory: Node | None = None) -> list[DirEntry] | None:
        return self.coming.take(directory or self.below, self.begun(), ROOM)


@pytest.fixture
def walk() -> Walk:
    return Walk()


def test_what_was_made_is_answered_and_held_from_then_on(walk: Walk) -> None:
    made = walk.foreseen()
    assert made is not None
    assert [(each.name, each.attr.size) for each in made] == [(b"a", 1), (b"b", 1), (b"c", 1)]
    assert walk.inodes.find(walk.below, "a") is None
    assert walk.take() is made
    held = [walk.inodes.get(each.attr.ino) for each in made]
    assert [(node.key, node.holds) for node in held] == [("d/a", 1), ("d/b", 1), ("d/c", 1)]


def test_the_kernel_is_told_of_changes_from_the_answer_on(walk: Walk) -> None:
    walk.foreseen()
    before = walk.below.asked
    assert walk.take() is not None
    assert walk.below.asked > before


def test_an_answer_is_made_once(walk: Walk) -> None:
    assert walk.foreseen() is not None
    assert walk.coming.idle() is None
    assert walk.take() is not None
    assert walk.take() is None


def test_what_was_made_before_a_change_is_not_answered(walk: Walk) -> None:
    walk.foreseen()
    walk.mimicdb.record("bucket", Entry("d/b", 2))
    assert walk.take() is None
    assert len(walk.inodes) == 2


def test_what_changes_while_it_is_answered_is_not_answered(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk.foreseen()
    hold_all = walk.inodes.hold_all

    def changed(*args: object) -> bool:
        walk.mimicdb.record("bucket", Entry("d/b", 2))
        return hold_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(walk.inodes, "hold_all", changed)
    assert walk.take() is None
    assert len(walk.inodes) == 2


def test_nothing_is_made_where_somebody_holds_a_name_or_a_directory_is_below(walk: Walk) -> None:
    walk.inodes.listed(walk.below, ["a"], hold=True)
    assert walk.foreseen() is None
    other = Walk()
    other.mimicdb.record("bucket", Entry("d/e/f", 1))
    assert other.foreseen() is None


def test_a_name_that_somebody_gets_meanwhile_is_answered_with_its_node(walk: Walk) -> None:
    walk.foreseen()
    walk.inodes.child(walk.below, "b", NodeKind.OBJECT, hold=True)
    assert walk.take() is None


def test_what_was_made_is_not_answered_where_a_file_is_not_saved_yet(walk: Walk) -> None:
    walk.foreseen()
    walk.unsaved.append("new")
    assert walk.take() is None


def test_a_link_is_not_made_an_answer_of(walk: Walk) -> None:
    walk.mimicdb.record("bucket", Entry("d/b", 1, meta={"mode": "41471"}))
    assert walk.foreseen() is None
