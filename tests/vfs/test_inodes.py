"""Nodes: numbers, holds, and moving in the tree."""

import pytest

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO
from mimicfs.vfs.inodes import CONTROL_SLOT, Inodes, NodeKind


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
