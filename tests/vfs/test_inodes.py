"""Nodes: numbers, holds, and moving in the tree."""

import sys
import tracemalloc
from collections import Counter

import pytest

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import CONTROL_SLOT, NodeKind


def make(inodes, *path):
    """Make the nodes along *path* (slots), each held once; return the last."""
    node = inodes.root
    for slot in path:
        kind = NodeKind.DIRECTORY if slot.endswith("/") else NodeKind.OBJECT
        node = inodes.child(node, slot, kind, hold=True)
    return node


def test_a_node_knows_its_bucket_and_key():
    inodes = Inodes()
    node = make(inodes, "photos/", "2024/", "a.jpg")
    assert (node.bucket, node.key) == ("photos", "2024/a.jpg")
    assert (node.parent.bucket, node.parent.key) == ("photos", "2024/")
    assert (node.parent.parent.bucket, node.parent.parent.key) == ("photos", "")


def test_the_root_of_a_prefix_has_that_key():
    inodes = Inodes("photos", "2024/")
    assert inodes.root.key == "2024/"
    assert make(inodes, "a.jpg").key == "2024/a.jpg"
    assert make(inodes, "may/", "b.jpg").key == "2024/may/b.jpg"


def test_empty_components_are_components():
    inodes = Inodes("photos")
    assert make(inodes, "/", "lead").key == "/lead"
    assert make(inodes, "a/", "/", "b").key == "a//b"
    assert make(inodes, "a/", "").key == "a/"


def test_an_object_and_a_directory_of_one_name_are_two_nodes():
    inodes = Inodes("photos")
    assert make(inodes, "a").ino != make(inodes, "a/").ino


def test_the_control_file_is_nobodys_key():
    inodes = Inodes("photos")
    control = inodes.child(inodes.root, CONTROL_SLOT, NodeKind.CONTROL, hold=True)
    empty = make(inodes, "/")
    assert control is not empty
    assert inodes.child(inodes.root, CONTROL_SLOT, NodeKind.CONTROL, hold=False) is control


def test_numbers_are_the_same_after_a_remount():
    first, second = Inodes(), Inodes()
    make(first, "other/")
    assert make(first, "photos/", "a.jpg").ino == make(second, "photos/", "a.jpg").ino


def test_a_node_is_dropped_when_all_its_holds_are_forgotten():
    inodes = Inodes("photos")
    node = make(inodes, "a")
    make(inodes, "a")
    inodes.forget(node.ino, 1)
    assert inodes.get(node.ino) is node
    inodes.forget(node.ino, 1)
    assert len(inodes) == 1
    with pytest.raises(PosixError):
        inodes.get(node.ino)


def test_a_directory_stays_while_something_below_it_is_held():
    inodes = Inodes("photos")
    below = make(inodes, "d/", "a")
    directory = below.parent
    inodes.forget(directory.ino, 1)
    assert below.key == "d/a"
    inodes.forget(below.ino, 1)
    assert len(inodes) == 1


def test_an_open_node_stays_until_it_is_closed():
    inodes = Inodes("photos")
    node = make(inodes, "a")
    inodes.opened(node)
    inodes.unlink(node)
    inodes.forget(node.ino, 1)
    assert inodes.get(node.ino) is node
    inodes.closed(node)
    assert len(inodes) == 1


def test_a_name_can_be_used_again_while_the_unlinked_file_is_open():
    inodes = Inodes("photos")
    old = make(inodes, "a")
    inodes.opened(old)
    inodes.unlink(old)
    new = make(inodes, "a")
    assert new is not old
    assert new.ino != old.ino


def test_moving_a_directory_moves_what_is_below():
    inodes = Inodes()
    below = make(inodes, "one/", "d/", "x/", "a")
    target = make(inodes, "two/")
    inodes.move(below.parent.parent, target, "e")
    assert (below.bucket, below.key) == ("two", "e/x/a")
    assert inodes.find(target, "e/") is below.parent.parent
    assert inodes.find(inodes.find(inodes.root, "one/"), "d/") is None


def test_what_is_moved_onto_has_no_name_any_more():
    inodes = Inodes("photos")
    old, new = make(inodes, "b"), make(inodes, "a")
    inodes.move(new, inodes.root, "b")
    assert old.parent is None
    assert inodes.find(inodes.root, "b") is new
    inodes.forget(old.ino, 1)
    assert inodes.find(inodes.root, "b") is new


def test_the_root_is_never_forgotten():
    inodes = Inodes()
    inodes.forget(ROOT_INO, 100)
    assert inodes.get(ROOT_INO) is inodes.root


def test_what_is_closed_late_takes_no_number_from_its_successor():
    inodes = Inodes("photos")
    late = inodes.child(inodes.root, "x", NodeKind.OBJECT, hold=False)
    inodes.opened(late)
    inodes.closed(late)
    successor = make(inodes, "x")
    inodes.opened(late)
    inodes.closed(late)
    assert inodes.get(successor.ino) is successor


def test_what_was_renamed_keeps_its_number_when_nobody_holds_it():
    inodes = Inodes("photos")
    old, there = make(inodes, "a"), make(inodes, "d/")
    inodes.move(old, there, "b")
    inodes.forget(old.ino, 1)
    found = inodes.listed(there, ["b", "c"], hold=True)[0]
    assert found is not old
    assert found.ino == old.ino
    assert make(inodes, "a").ino != old.ino
    inodes.unlink(found)
    assert make(inodes, "d/", "b").ino != old.ino


def test_one_renamed_name_makes_the_others_no_slower(monkeypatch):
    inodes = Inodes("photos")
    old = make(inodes, "a")
    inodes.move(old, inodes.root, "b")
    inodes.forget(old.ino, 1)
    slow = []
    whole = Inodes._make
    monkeypatch.setattr(Inodes, "_make", lambda *args: slow.append(args[2]) or whole(*args))
    found = inodes.listed(inodes.root, ["b", "c", "d", "e/"], hold=True)
    assert slow == ["b", "e/"]
    assert found[0].ino == old.ino


def test_what_is_below_a_renamed_directory_keeps_its_number():
    inodes = Inodes("photos")
    old = make(inodes, "d/", "a")
    inodes.move(old.parent, inodes.root, "e")
    inodes.forget(old.ino, 1)
    assert make(inodes, "e/", "a").ino == old.ino


def test_what_is_below_a_removed_directory_has_no_name_either():
    inodes = Inodes("bucket")
    before = len(inodes)
    d = inodes.child(inodes.root, "d/", NodeKind.DIRECTORY, hold=True)
    e = inodes.child(d, "e/", NodeKind.DIRECTORY, hold=True)
    a = inodes.child(e, "a", NodeKind.OBJECT, hold=True)
    unheld = inodes.child(d, "f/", NodeKind.DIRECTORY, hold=False)
    inodes.child(unheld, "b", NodeKind.OBJECT, hold=False)
    inodes.unlink(d)
    assert [each.key for each in (d, e, a)] == ["", "", ""]
    assert all(each.is_nameless for each in (d, e, a))
    for each in (a, e, d):
        inodes.forget(each.ino, 1)
    assert len(inodes) == before


def test_a_small_table_is_not_copied_for_each_name_that_is_forgotten():
    inodes = Inodes("photos")
    nodes = [make(inodes, f"f{number}") for number in range(1000)]
    table = inodes._nodes
    for node in nodes:
        inodes.forget(node.ino, 1)
    assert inodes._nodes is table
    assert len(inodes) == 1


def test_it_is_told_that_most_of_many_names_are_forgotten():
    inodes, told = Inodes("photos"), []
    inodes.when_sparse = lambda: told.append(len(inodes))
    nodes = [make(inodes, f"f{number}") for number in range(20_000)]
    for node in nodes:
        inodes.forget(node.ino, 1)
    assert told == [5000, 1249]
    assert len(inodes) == 1


def files(count):
    return [f"f{number:02}" for number in range(count)]


def test_a_listed_object_is_a_number_until_somebody_asks_for_its_node():
    inodes = Inodes("photos")
    [light] = inodes.listed(inodes.root, ["a"], hold=True)
    assert light == make(Inodes("photos"), "a").ino
    node = inodes.get(light)
    assert (node.ino, node.bucket, node.key, node.holds) == (light, "photos", "a", 1)
    assert inodes.find(inodes.root, "a") is node


def test_the_number_of_a_light_name_is_allocated_with_two_digits():
    inodes = Inodes("photos")
    slots = [f"{i}.jpg" for i in range(1000)]
    tracemalloc.start()
    try:
        light = inodes.listed(inodes.root, slots, hold=True)
        made = Counter(trace.size for trace in tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    assert made[sys.getsizeof(light[0])] >= 1000
    assert made[sys.getsizeof(1 << 60)] < 100  # three digits would take 48 bytes, not 32


@pytest.mark.parametrize("by", ["find", "child", "below", "number"])
def test_a_light_name_gets_one_node_whoever_asks_for_it(by):
    inodes = Inodes("photos")
    numbers = inodes.listed(inodes.root, files(3), hold=True)
    found = {
        "find": lambda: inodes.find(inodes.root, "f01"),
        "child": lambda: inodes.child(inodes.root, "f01", NodeKind.OBJECT, hold=False),
        "below": lambda: next(node for node in inodes.below(inodes.root) if node.key == "f01"),
        "number": lambda: inodes.get(numbers[1]),
    }[by]()
    assert (found.ino, found.key, found.holds) == (numbers[1], "f01", 1)
    assert inodes.get(numbers[1]) is found is inodes.find(inodes.root, "f01")


def test_nodes_are_found_by_number_also_of_names_that_were_listed_later():
    inodes = Inodes("photos")
    first = inodes.listed(inodes.root, ["a", "b"], hold=True)
    assert inodes.get(first[0]).key == "a"
    later = inodes.listed(inodes.root, ["c"], hold=True)
    assert [inodes.get(ino).key for ino in (*later, first[1])] == ["c", "b"]


def test_names_of_two_directories_that_are_asked_for_in_turn_are_gone_through_once():
    inodes = Inodes("photos")
    directories = [make(inodes, slot) for slot in ("a/", "b/")]
    slots = [f"{number}.jpg" for number in range(100)]
    numbers = [inodes.listed(directory, slots, True) for directory in directories]
    found = [[inodes.get(each[at]).component for each in numbers] for at in range(2)]
    assert found == [["0.jpg", "0.jpg"], ["1.jpg", "1.jpg"]]
    tables = [inodes._slots[directory] for directory in directories]
    for at in (2, 3):
        for each in numbers:
            assert inodes.get(each[at]).component == f"{at}.jpg"
    assert inodes._slots[directories[0]] is tables[0]
    assert inodes._slots[directories[1]] is tables[1]


def test_a_name_that_is_listed_twice_is_forgotten_when_both_holds_are():
    inodes = Inodes("photos")
    [light] = inodes.listed(inodes.root, ["a"], hold=True)
    [again] = inodes.listed(inodes.root, ["a"], hold=True)
    assert (again.ino, again.holds) == (light, 2)
    inodes.forget(light, 1)
    assert inodes.get(light) is again
    inodes.forget(light, 1)
    assert len(inodes) == 1


def test_a_light_name_that_the_kernel_has_forgotten_is_nobodys():
    inodes = Inodes("photos")
    numbers = inodes.listed(inodes.root, files(10), hold=True)
    inodes.forget(numbers[0], 1)
    with pytest.raises(PosixError):
        inodes.get(numbers[0])
    assert inodes.find(inodes.root, "f00") is None
    assert [node.key for node in inodes.below(inodes.root)] == files(10)[1:]


def test_a_forgotten_light_name_that_is_listed_again_is_held_again():
    inodes = Inodes("photos")
    numbers = inodes.listed(inodes.root, files(10), hold=True)
    inodes.forget(numbers[3], 1)
    assert inodes.listed(inodes.root, files(10)[3:4], hold=True) == [numbers[3]]
    assert inodes.get(numbers[3]).holds == 1


def test_a_table_is_empty_once_all_light_names_are_forgotten():
    inodes = Inodes("photos")
    below = make(inodes, "d/")
    numbers = inodes.listed(below, files(100), hold=True)
    inodes.forget(below.ino, 1)
    assert inodes.get(below.ino) is below
    for ino in numbers[:60]:
        inodes.forget(ino, 1)
    assert len(inodes) == 2 + 50 - 10 + 10  # half were taken out when half had faded
    for ino in numbers[60:]:
        inodes.forget(ino, 1)
    assert len(inodes) == 1
    assert below.children is None


def test_faded_names_do_not_keep_a_directory_whose_last_node_goes():
    inodes = Inodes("photos")
    below = make(inodes, "d/")
    light, _ = inodes.listed(below, ["a", "b"], hold=True)
    kept = [make(inodes, "d/", slot) for slot in ("b", "c", "d")]
    inodes.forget(light, 1)
    inodes.forget(kept[0].ino, 1)  # the listing's
    inodes.forget(below.ino, 4)
    for node in kept:
        inodes.forget(node.ino, 1)
    assert len(inodes) == 1


def test_two_light_names_whose_numbers_collide_have_two(monkeypatch):
    class Same:
        def copy(self):
            return self

        def update(self, _):
            pass

        def digest(self):
            return (1000).to_bytes(8, "big")

    monkeypatch.setattr("mimicfs.vfs.inodes.blake2b", lambda *_, **__: Same())
    inodes = Inodes("photos")
    assert inodes.listed(inodes.root, ["a", "b", "c"], hold=True) == [1000, 1001, 1002]
    inodes.forget(1000, 1)  # its number stays taken while it fades
    assert inodes.listed(inodes.root, ["d", "a"], hold=True) == [1003, 1000]
    assert [inodes.get(ino).key for ino in (1000, 1001, 1002, 1003)] == ["a", "b", "c", "d"]
    assert not inodes.hold_all(make(inodes, "e/"), ["x"], [1002])


def test_light_names_below_a_removed_directory_have_no_name_either():
    inodes = Inodes("bucket")
    below = make(inodes, "d/")
    first, second = inodes.listed(below, ["a", "b"], hold=True)
    inodes.unlink(below)
    assert [inodes.get(ino).is_nameless for ino in (first, second)] == [True, True]
    for ino in (below.ino, first, second):
        inodes.forget(ino, 1)
    assert len(inodes) == 1


def test_what_is_moved_onto_a_light_name_takes_it():
    inodes = Inodes("photos")
    [light] = inodes.listed(inodes.root, ["b"], hold=True)
    new = make(inodes, "a")
    inodes.move(new, inodes.root, "b")
    assert inodes.find(inodes.root, "b") is new
    assert inodes.get(light).is_nameless


def test_light_names_move_with_their_directory_to_another_bucket():
    inodes = Inodes()
    below = make(inodes, "one/", "d/")
    [light] = inodes.listed(below, ["a"], hold=True)
    inodes.move(below, make(inodes, "two/"), "e")
    assert (inodes.get(light).bucket, inodes.get(light).key) == ("two", "e/a")


def test_names_are_held_all_at_once_only_where_nobody_has_any():
    inodes = Inodes("photos")
    below = make(inodes, "d/")
    numbers = inodes.numbers(below, ["a", "b"])
    assert inodes.hold_all(below, ["a", "b"], numbers)
    assert [inodes.get(ino).key for ino in numbers] == ["d/a", "d/b"]
    assert not inodes.hold_all(below, ["c"], inodes.numbers(below, ["c"]))
    other = make(inodes, "e/")
    inodes.move(make(inodes, "f"), other, "g")
    inodes.unlink(inodes.find(other, "g"))
    assert inodes.hold_all(other, ["h"], inodes.numbers(other, ["h"]))
