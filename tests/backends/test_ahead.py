"""Listings that were read ahead are those that the store gives one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicfs.backends.ahead import Ahead, Rows
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import LISTED, Entry

pytestmark = pytest.mark.slow  # each example has a store of its own

KEYS = st.lists(st.text("ab/-", min_size=1, max_size=7), max_size=30, unique=True)


def directories(keys: list[str]) -> list[str]:
    return sorted({key[: n + 1] for key in keys for n, letter in enumerate(key) if letter == "/"})


@given(KEYS, st.integers(1, 5))
def test_each_whole_directory_has_its_children(keys: list[str], size: int) -> None:
    memory = Memory()
    memory.apply("b", [Entry(key) for key in keys])
    for directory in directories(keys):
        rows = Rows(directory)
        ended = False
        while not ended:
            page = memory.scan("b", "", rows.last, size)
            ended = len(page) < size
            rows.add(page, ended=ended)
        below = [name for name in directories(keys) if name >= directory]
        assert rows.whole == {name: memory.children("b", name) for name in below}


def test_what_began_before_the_rows_or_goes_on_behind_them_is_not_whole() -> None:
    rows = Rows("a/b/")
    rows.add([Entry("a/b/1"), Entry("a/c/2"), Entry("d/e/3"), Entry("d/f/4")], ended=False)
    assert rows.whole == {
        "a/b/": [Entry("a/b/1")],
        "a/c/": [Entry("a/c/2")],
        "d/e/": [Entry("d/e/3")],
    }
    assert rows.within("d/")
    assert not rows.within("a/")
    rows.add([], ended=True)
    assert rows.whole["d/"] == [Entry("d/e/", kind=LISTED), Entry("d/f/", kind=LISTED)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@settings(deadline=None)  # a store each, on a busy machine
@given(KEYS, st.lists(st.integers(0, 40), max_size=12))
def test_a_walk_sees_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], steps: list[int]
) -> None:
    sqlite = SQLite(str(tmp_path_factory.mktemp("ahead") / "store.sqlite"))
    memory = Memory()
    for backend in (sqlite, memory):
        backend.apply("b", [Entry(key) for key in keys])
    known = ["", *directories(keys)]
    for directory in [*known, *(known[step % len(known)] for step in steps)]:
        assert sqlite.children("b", directory) == memory.children("b", directory)
    sqlite.close()


def test_a_directory_has_its_marker_again_after_a_walk_through_all_below_it(path: Path) -> None:
    sqlite = SQLite(str(path))
    marker = Entry("g/p/", 5, meta={"mode": "16832"})
    below = [f"g/p/d{n:04}/" for n in range(900)]
    walk = ["a/", "a/x/", "b/", "b/x/", "c/", "c/x/", "g/", "g/p/", *below]
    files = [Entry(name + each) for name in [*walk[1:6:2], *below, "h/"] for each in "123"]
    sqlite.apply("b", [marker, *files])
    # The rows below the directory are read in several scans, and it goes on.
    for directory in [*walk, "g/p/"]:
        with sqlite.one_state():
            sqlite.children("b", directory)
            assert sqlite.get("b", directory) == (marker if directory == "g/p/" else None)
    sqlite.close()


def test_after_a_change_a_walk_reads_little_ahead_at_first() -> None:
    memory, asked = Memory(), list[int]()
    memory.apply("b", [Entry(f"d{n:03}/f") for n in range(400)])

    def scan(after: str, most: int) -> list[Entry]:
        asked.append(most)
        return memory.scan("b", "", after, most)

    ahead = Ahead()
    for n in range(400):
        ahead.take(("b", 1 if n < 300 else 2), f"d{n:03}/", 1000, scan)
    assert asked == [64, 1000, 64, 1000]


@pytest.mark.parametrize("other", [False, True], ids=["this connection", "another process"])
def test_a_change_during_a_walk_is_seen_at_once(path: Path, other: bool) -> None:
    sqlite = SQLite(str(path))
    writer = SQLite(str(path)) if other else sqlite
    names = [f"d{n:02}/" for n in range(20)]
    sqlite.apply("b", [Entry(name + "old") for name in names])
    for n, name in enumerate(names[:-1]):
        assert sqlite.children("b", name) == [Entry(name + "old")]
        following = names[n + 1]
        assert sqlite.scan("b", following) == [Entry(following + "old")]
        writer.apply("b", [Entry(following + "new")])
        both = [Entry(following + "new"), Entry(following + "old")]
        assert sqlite.children("b", following) == both
        assert sqlite.scan("b", following) == both
        writer.apply("b", (), [following + "new"])
    sqlite.close()
    if other:
        writer.close()
