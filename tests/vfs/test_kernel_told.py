"""The messages to the kernel when somebody asks for a refresh."""

from contextlib import suppress

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import Difference, Entry
from mimicfs.errors import Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.kernel import Kernel, asked
from mimicfs.vfs.nodes import NodeKind


class Told(list):
    """A kernel that remembers what it is told, as (verb, inode)."""

    def __getattr__(self, verb):
        return lambda *about: self.append((verb, *about[:1]))


@pytest.fixture
def inodes():
    return Inodes("bucket")


def test_a_directory_that_is_distrusted_is_told_with_all_below_it(inodes):
    mimicdb, told = Mirror(Memory()), Told()
    mimicdb.record("bucket", Entry("d/a", 1, etag="e"))
    directory = inodes.child(inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
    file = inodes.child(directory, "a", NodeKind.OBJECT, hold=True)
    inodes.child(inodes.root, "beside", NodeKind.OBJECT, hold=True)
    Kernel(mimicdb, inodes, told).distrusted(directory)
    assert told == [
        ("listing_changed", directory.ino),
        ("data_changed", file.ino),
        ("names_changed",),
    ]


def test_directories_that_others_emptied_are_told_of_once_when_they_fill_them_again(inodes):
    mimicdb, told = Mirror(Memory()), Told()
    kernel = Kernel(mimicdb, inodes, told)
    above = inodes.child(inodes.root, "c/", NodeKind.DIRECTORY, hold=True)
    held = inodes.child(above, "d/", NodeKind.DIRECTORY, hold=True)
    kernel.changed("bucket", Difference([], [], ["c/d/a"], 0))
    told.clear()
    mimicdb.record("bucket", Entry("c/d/x", 1, etag="e"))
    kernel.changed("bucket", Difference(["c/d/x"], [], [], 0))
    assert told == [
        ("entry_changed", above.ino),
        ("listing_changed", above.ino),
        ("entry_changed", inodes.root.ino),
        ("listing_changed", inodes.root.ino),
    ]
    told.clear()
    kernel.changed("bucket", Difference(["c/d/y", "c/d/"], [], [], 0))
    assert told == [("attr_changed", held.ino)]


def test_a_directory_that_the_kernel_keeps_locked_is_not_told_by_name(inodes):
    told = Told()
    kernel = Kernel(Mirror(Memory()), inodes, told)
    with kernel.locked(inodes.root.ino):
        kernel.changed("bucket", None)
    assert told == [("data_changed", inodes.root.ino), ("everything_changed",)]


def test_whoever_watches_a_file_that_others_deleted_is_told_before_its_name_goes(inodes):
    told = Told()
    file = inodes.child(inodes.root, "a", NodeKind.OBJECT, hold=True)
    inodes.child(inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
    kernel = Kernel(Mirror(Memory()), inodes, told)
    root = inodes.root.ino
    kernel.changed("bucket", Difference([], [], ["a", "d/b"], 0))
    assert [verb for verb, *_ in told][:3] == ["file_deleted", "file_deleted", "entry_changed"]
    assert [about for about in told if about[0] == "file_deleted"] == [("file_deleted", root)] * 2
    told.clear()
    with kernel.locked(root):  # the kernel would wait for us, and we for it
        kernel.changed("bucket", Difference([], [], ["a"], 0))
    assert ("file_deleted", root) not in told
    assert ("data_changed", file.ino) in told


def test_a_directory_that_was_looked_up_before_its_news_came_is_listed_again(inodes):
    mimicdb, told = Mirror(Memory()), Told()
    kernel = Kernel(mimicdb, inodes, told)
    above = inodes.child(inodes.root, "c/", NodeKind.DIRECTORY, hold=True)
    [held] = inodes.listed(above, ["listed/"], hold=True)
    above.asked = True  # the kernel has listed it
    mimicdb.record_all("bucket", [Entry("c/made/"), Entry("c/implied/a"), Entry("c/listed/a")])
    made, _ = (
        inodes.child(above, slot, NodeKind.DIRECTORY, hold=True) for slot in ("made/", "implied/")
    )
    kernel.changed("bucket", Difference(["c/made/"], [], [], 0))
    assert told == [("attr_changed", made.ino), ("listing_changed", above.ino)]
    told.clear()
    kernel.changed("bucket", Difference(["c/implied/a"], [], [], 0))
    assert told == [("listing_changed", above.ino)]
    told.clear()
    kernel.changed("bucket", Difference(["c/implied/a", "c/listed/a"], [], [], 0))
    assert told == []
    held.asked = True
    kernel.changed("bucket", Difference(["c/listed/a"], [], [], 0))
    assert told == [("entry_changed", held.ino)] * 2 + [("listing_changed", held.ino)]


def test_a_directory_that_its_keys_alone_make_may_have_been_gone_between_two_of_them(inodes):
    mimicdb, told = Mirror(Memory()), Told()
    kernel = Kernel(mimicdb, inodes, told)
    above = inodes.child(inodes.root, "c/", NodeKind.DIRECTORY, hold=True)
    for slot in ("implied/", "marked/"):
        inodes.child(above, slot, NodeKind.DIRECTORY, hold=True)
    inodes.root.asked = above.asked = True
    mimicdb.record_all("bucket", [Entry("c/"), Entry("c/marked/"), Entry("c/implied/new")])
    kernel.changed("bucket", Difference([], [], ["c/marked/old"], 0))
    assert ("listing_changed", above.ino) not in told
    kernel.changed("bucket", Difference([], [], ["c/implied/old"], 0))
    assert ("listing_changed", above.ino) in told
    assert ("listing_changed", inodes.root.ino) not in told


def test_whoever_gets_no_answer_does_not_take_back_that_another_thread_got_one(inodes):
    ways = asked(inodes.root), asked(inodes.root)
    for each in ways:  # both read at once
        each.__enter__()
    ways[0].__exit__(Unlisted, None, None)
    assert inodes.root.asked
    ways[1].__exit__(None, None, None)
    assert inodes.root.asked


def test_a_directory_of_which_nobody_got_an_answer_is_not_told_of(inodes):
    ways = asked(inodes.root), asked(inodes.root)
    for each in ways:
        each.__enter__()
    for each in reversed(ways):
        each.__exit__(Unlisted, None, None)
    assert not inodes.root.asked


def test_of_a_change_that_fails_after_it_has_changed_the_mirror_it_is_told(inodes):
    mimicdb, told = Mirror(Memory()), Told()
    kernel = Kernel(mimicdb, inodes, told)
    directory = inodes.child(inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
    with pytest.raises(Unlisted), kernel.changing((directory, b"a")):
        raise Unlisted("bucket")
    with kernel.changing((directory, b"a")):
        mimicdb.record("bucket", Entry("d/a", 1, etag="e"))
    assert told == []
    with suppress(Unlisted), kernel.changing((directory, b"a"), (inodes.root, b"b")):
        mimicdb.record("bucket", Entry("d/a", 1, etag="f"))
        raise Unlisted("bucket")
    assert told == [
        ("entry_changed", directory.ino),
        ("listing_changed", directory.ino),
        ("entry_changed", inodes.root.ino),
        ("listing_changed", inodes.root.ino),
    ]
