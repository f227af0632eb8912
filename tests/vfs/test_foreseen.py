"""Which thread looks up the files that are foreseen."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry, Scope
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.neighbours import Neighbours
from mimicfs.vfs.nodes import NodeKind


class Reader:
    """One of which nobody reads."""

    def close(self):
        pass


def test_a_directory_is_put_in_order_by_a_thread_for_which_no_other_file_waits():
    mimicdb, inodes, by = Mirror(Memory()), Inodes("bucket"), []

    def thread(name):
        def has(work, *args):
            by.append(name)
            done = Future()
            done.set_result(work(*args))
            return done

        return has

    def opened(directory, slot):
        node = inodes.child(directory, slot, NodeKind.OBJECT, hold=True)
        neighbours.opened(node, mimicdb.entry("bucket", directory.key + slot))

    reader_of, fetch = lambda *_: Reader(), lambda _: None
    neighbours = Neighbours(
        mimicdb, inodes, reader_of, fetch, thread("the pool"), thread("the one that brings")
    )
    slots = [f"{number:02}" for number in range(20)]
    first, second = (
        inodes.child(inodes.root, slot, NodeKind.DIRECTORY, hold=True) for slot in ("a/", "b/")
    )
    for directory in (first, second):
        mimicdb.record_all("bucket", [Entry(directory.key + slot, 1, 0, "etag") for slot in slots])

    mimicdb.backend.mark("bucket", Scope("", True, 1))

    def by_number(directory):
        numbers = inodes.numbers(directory, slots)
        return [slot for _, slot in sorted(zip(numbers, slots, strict=True))]

    order = by_number(first)
    at = next(at for at in range(20) if order[at + 1] < order[at])  # it is no order of names
    for slot in order[at : at + 3]:
        opened(first, slot)
    assert by == ["the pool", "the one that brings"]
    for slot in by_number(second)[:2]:
        opened(second, slot)
    assert by[2:] == ["the pool", "the one that brings"]
    neighbours.close()


@pytest.mark.parametrize("raises", [True, False])
def test_where_no_thread_can_start_files_are_opened_and_foreseen_later(raises):
    mimicdb, inodes, asked = Mirror(Memory()), Inodes("bucket"), []
    slots = [f"{number:02}" for number in range(9)]
    mimicdb.record_all("bucket", [Entry(slot, 1, 0, "etag") for slot in slots])
    mimicdb.backend.mark("bucket", Scope("", True, 1))

    def submit(*what):
        asked.append(what)
        if raises:
            raise RuntimeError("can't start new thread")
        begun = Future()
        begun.cancel()
        return begun

    fails = Neighbours(mimicdb, inodes, lambda *_: Reader(), lambda _: None, submit, submit)
    for count, slot in enumerate(slots):
        node = inodes.child(inodes.root, slot, NodeKind.OBJECT, hold=True)
        assert fails.opened(node, mimicdb.entry("bucket", slot)) is None
        assert len(asked) == count  # for each file behind the first
    fails.close()
