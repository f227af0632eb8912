"""What reads teach and nobody sees is written in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """The mirror of a mount: four objects of which nobody knows what is stored with them."""
    mirror = Mirror(SQLite(str(tmp_path / "store.db")))
    mirror.record_all("b", [Entry(key, 4, 1_000, "etag") for key in ("a", "b", "c", "d")])
    mirror.later.begin()
    yield mirror
    mirror.close()


def read(mirror: Mirror, key: str) -> bool:
    """A GET has shown that nothing is stored with *key*; return whether that may wait."""
    known = mirror.entry("b", key)
    assert known is not None
    return mirror.later.takes("b", known, known._replace(meta={}))


def metas(mirror: Mirror) -> list[object]:
    return [entry.meta for entry in mirror.listing("b")]


def test_a_group_is_written_at_once_and_is_no_change(mirror: Mirror) -> None:
    names = [f"many/{number:02}" for number in range(64)]
    mirror.record_all("b", [Entry(name, 4, 1_000, "etag") for name in names])
    before = mirror.seq("b")
    assert all(read(mirror, name) for name in names[:63])
    assert metas(mirror) == [None] * 68
    assert read(mirror, names[63])
    assert metas(mirror) == [None] * 4 + [{}] * 64
    assert (mirror.seq("b"), mirror.backend.changes("b", before)) == (before, [])


def test_another_thread_writes_a_group_once_as_long_as_there_is_one(mirror: Mirror) -> None:
    names = [f"many/{number:03}" for number in range(130)]
    mirror.record_all("b", [Entry(name, 4, 1_000, "etag") for name in names])
    asked: list[Callable[[], None]] = []
    mirror.later.begin(asked.append)
    assert all(read(mirror, name) for name in names[:66])
    assert (len(asked), metas(mirror)) == (1, [None] * 134)
    asked.pop()()
    assert metas(mirror) == [None] * 4 + [{}] * 66 + [None] * 64

    def has_no_more_threads(_: object) -> None:
        raise RuntimeError

    mirror.later.begin(has_no_more_threads)
    assert all(read(mirror, name) for name in names[66:])
    assert metas(mirror) == [None] * 4 + [{}] * 130


def test_what_is_another_version_by_then_is_left_alone(mirror: Mirror) -> None:
    assert all(read(mirror, key) for key in "abcd")
    mirror.record("b", Entry("a", 4, 2_000, "etag"))
    mirror.record("b", Entry("b", 4, 1_000, "other"))
    mirror.record("b", Entry("c", 4, 1_000, "etag", meta={"mode": "33152"}))
    mirror.later.close()
    assert metas(mirror) == [None, None, {"mode": "33152"}, {}]


def test_what_waits_is_written_when_the_mirror_is_closed(mirror: Mirror, tmp_path: Path) -> None:
    assert read(mirror, "a")
    mirror.close()
    with_next = Mirror(SQLite(str(tmp_path / "store.db")))
    assert metas(with_next) == [{}, None, None, None]
    with_next.close()


def test_whatever_is_seen_is_written_at_once(mirror: Mirror) -> None:
    known = Entry("a", 4, 1_000, "etag")
    assert not mirror.later.takes("b", known, known._replace(meta={"mode": "33152"}))
    assert not mirror.later.takes("b", known, known._replace(meta={}, storage_class="GLACIER"))
    assert not mirror.later.takes("b", known._replace(meta={}), known._replace(meta={}))


def test_programs_and_stores_that_cannot_be_told_so_wait_for_nothing(tmp_path: Path) -> None:
    known = Entry("a", 4, 1_000, "etag")
    program, memory = Mirror(SQLite(str(tmp_path / "other.db"))), Mirror(Memory())
    memory.later.begin()
    for mirror in (program, memory):
        assert not mirror.later.takes("b", known, known._replace(meta={}))
        mirror.close()
