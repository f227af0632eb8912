"""A SQLite store whose disk is full or whose file is damaged says so, and loses nothing more."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import disks

from mimicfs.backends import DOUBTED
from mimicfs.backends.sessions import epoch
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry, Scope
from mimicfs.errors import StoreCorrupt, StoreReplaced, StoreUnavailable


def batch(number: int) -> list[Entry]:
    return [Entry(f"{number:04}/{n:03}" + "x" * 100, 1) for n in range(200)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    with disks.small_disk(tmp_path / "disk", "2m") as disk:
        yield disk


def fill(store: SQLite) -> None:
    for number in range(1000):
        store.apply("b", batch(number))


def test_a_full_disk_is_an_error_and_nothing_is_half_there(small_disk: Path) -> None:
    store = SQLite(str(small_disk / "store.db"))
    with pytest.raises(StoreUnavailable, match=r"store\.db: no space left on its disk"):
        fill(store)
    bucket = store.bucket("b")
    assert bucket is not None
    assert bucket.objects % 200 == 0
    assert bucket.objects == len(store.scan("b", limit=10**6)) > 0
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    store.apply("b", [Entry("more")])  # with room again it goes on
    assert store.get("b", "more") == Entry("more")
    store.close()


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLite(str(path))
    for number in range(20):
        store.apply("b", batch(number))
    store.close()
    with open(path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096 * 50)
    with pytest.raises(StoreCorrupt, match="move the file away and sync again; S3 has everything"):
        read_all(path)


def test_a_file_that_was_cut_off_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLite(str(path))
    for number in range(20):
        store.apply("b", batch(number))
    store.close()
    os.truncate(path, 20 * 4096)
    with pytest.raises(StoreCorrupt, match=r"store\.db: .*move the file away"):
        read_all(path)


def read_all(path: Path) -> None:
    store = SQLite(str(path))
    try:
        store.scan("b", limit=10**6)
        store.children("b", "0007/")
    finally:
        store.close()


def test_threads_use_the_file_that_was_opened_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    store = SQLite("store.db")
    store.apply("b", [Entry("k", 1)])
    monkeypatch.chdir(elsewhere)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(store.get, "b", "k").result() == Entry("k", 1)
    store.close()
    assert os.listdir(elsewhere) == []


def test_a_thread_that_ends_leaves_no_file_open(tmp_path: Path) -> None:
    """boto3 makes threads for each file that it downloads."""
    store = SQLite(tmp_path / "store.db")
    store.apply("b", [Entry("k", 1)])
    counts = set()
    for _ in range(5):
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(store.get, "b", "k").result() == Entry("k", 1)
        counts.add(len(os.listdir("/proc/self/fd")))
    assert len(counts) == 1
    store.close()


def test_a_file_that_was_moved_away_is_not_written_and_no_thread_makes_another(
    tmp_path: Path,
) -> None:
    path, elsewhere = tmp_path / "store.db", tmp_path / "elsewhere.db"
    store = SQLite(str(path))
    store.apply("b", [Entry("k", 1)])
    path.rename(elsewhere)
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(StoreReplaced, match="put it back"):
            threads.submit(store.get, "b", "k").result()
        with pytest.raises(StoreReplaced):
            store.apply("b", [Entry("k", 2)])
        with pytest.raises(StoreReplaced):
            store.get("b", "k")
        assert not path.exists()
        elsewhere.rename(path)
        assert threads.submit(store.get, "b", "k").result() == Entry("k", 1)
    store.apply("b", [Entry("k", 2)])
    assert store.get("b", "k") == Entry("k", 2)
    store.close()


def test_a_file_whose_directory_is_replaced_by_a_file_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "d/store.db"
    path.parent.mkdir()
    store = SQLite(str(path))
    path.parent.rename(tmp_path / "elsewhere")
    (tmp_path / "d").touch()
    with pytest.raises(StoreReplaced, match="put it back"):
        store.identity()
    with pytest.raises(StoreReplaced):
        store.apply("b", [Entry("k", 1)])
    store.close()


def test_the_store_is_its_owners_whatever_the_umask(tmp_path):
    mask = os.umask(0o777)
    try:
        SQLite(tmp_path / "mirror.db").close()
    finally:
        os.umask(mask)
    modes = {each.name: oct(each.stat().st_mode & 0o777) for each in tmp_path.iterdir()}
    assert modes["mirror.db"] == "0o600"


# The machine stops


@pytest.fixture
def used(tmp_path: Path) -> Iterator[SQLite]:
    """A store in which the bucket `b` was listed, of an earlier run of the machine."""
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("b", [Entry("a", 1)])
    store.mark("b", Scope("", True, 1))
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("UPDATE run SET id='an earlier one'")
    other.close()
    yield store
    store.close()


def left_by(tmp_path: Path) -> SQLite:
    """The store as the disk has it now, opened after the machine has begun again."""
    for path in list(tmp_path.glob("store.db*")):
        if not path.name.endswith("-shm"):
            shutil.copy(path, tmp_path / path.name.replace("store", "after"))
    return SQLite(str(tmp_path / "after.db"))


def test_nothing_is_certain_in_a_store_that_was_open_when_the_machine_stopped(
    used: SQLite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = epoch(used)
    after = left_by(tmp_path)
    assert after.get("b", "a") == Entry("a", 1)
    assert (after.cover("b", ""), after.note("b", DOUBTED)) == (None, "1")
    assert epoch(after) not in ("", before)
    assert "its last changes may be lost" in caplog.text
    caplog.clear()
    after.mark("b", Scope("", True, 2))
    after.close()
    again = SQLite(str(tmp_path / "after.db"))
    assert again.cover("b", "") == Scope("", True, 2)
    again.close()


def test_a_store_that_was_closed_is_believed_when_the_machine_has_begun_again(
    used: SQLite, tmp_path: Path
) -> None:
    before = epoch(used)
    used.close()
    after = left_by(tmp_path)
    assert (after.cover("b", ""), after.note("b", DOUBTED)) == (Scope("", True, 1), None)
    assert epoch(after) == before
    after.close()


def test_a_store_whose_user_was_killed_is_believed_while_the_machine_goes_on(
    tmp_path: Path,
) -> None:
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("b", [Entry("a", 1)])
    store.mark("b", Scope("", True, 1))
    after = left_by(tmp_path)
    assert (after.cover("b", ""), after.note("b", DOUBTED)) == (Scope("", True, 1), None)
    after.close()
    store.close()
