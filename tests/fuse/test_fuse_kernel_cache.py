"""The kernel holds what it has until we say otherwise, and then asks again at once.

Two GETATTRs are the kernel's own (fs/fuse): READ, READDIR and READLINK make it forget the time
of the last access, so that the next stat of that inode asks once; INVAL_ENTRY makes it forget
the attributes of the directory.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
import uses
from memfs import MemFS
from mounts import Client, Mount, mounted
from support.mounts import wait_until

from mimicfs.fuse.abi import Init
from mimicfs.fuse.session import SessionOptions
from mimicfs.posix import ROOT_INO, Attr, Caller

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(fs: MemFS, mount: Mount, client: Client) -> Path:
    """A directory `d` with the files `a` and `b`, never looked at; the root was."""
    client(os.stat, mount.path)
    mount.asked()
    fs.make("d", None)
    fs.make("d/a", b"aaaa")
    fs.make("d/b", b"bbbbbb")
    return mount.path / "d"


IN_DELETE_SELF, IN_IGNORED = 0x400, 0x8000  # linux/inotify.h


# Nothing is asked twice


def test_a_second_listing_asks_nothing(mount: Mount, client: Client, folder: Path) -> None:
    assert client(uses.ls_l, folder) == ["a", "b"]
    mount.asked()
    assert client(uses.ls_l, folder) == ["a", "b"]
    asked = mount.asked()
    assert asked.pop("GETXATTR", 0) <= 3  # each `ls` asks a few times, and then believes
    assert asked == {"GETATTR": 1}
    assert client(os.listdir, folder) == ["a", "b"]
    assert mount.asked() == {}


def test_a_listing_brings_the_attributes(mount: Mount, client: Client, folder: Path) -> None:
    client(os.listdir, folder)
    mount.asked()
    assert client(uses.size, folder / "a") == 4
    assert client(uses.size, folder / "b") == 6
    assert mount.asked() == {}


def test_a_second_stat_asks_nothing(mount: Mount, client: Client, folder: Path) -> None:
    client(uses.size, folder / "a")
    assert mount.asked() == {"LOOKUP": 2}  # d and a
    client(uses.size, folder / "a")
    assert mount.asked() == {}


def test_an_absent_name_is_asked_for_once(mount: Mount, client: Client, folder: Path) -> None:
    assert not client(uses.exists, folder / "none")
    assert mount.asked() == {"LOOKUP": 2}
    assert not client(uses.exists, folder / "none")
    assert mount.asked() == {}


def test_opendir_is_asked_at_most_once(mount: Mount, client: Client, folder: Path) -> None:
    for path in (folder, mount.path, folder, mount.path):
        client(os.listdir, path)
    assert mount.asked()["OPENDIR"] == 1


def test_other_requests_that_we_refuse_are_asked_at_most_once(
    mount: Mount, client: Client, folder: Path
) -> None:
    for path in (folder, folder, mount.path):
        client(os.access, path, os.R_OK)
        client(uses.keep_open, path)
        client(os.sync)
        client(uses.close_kept, path)
    asked = mount.asked()
    assert {name for name, count in asked.items() if count > 1} <= {"LOOKUP", "GETATTR"}


def test_ls_l_does_not_ask_for_attributes_of_each_file(
    mount: Mount, client: Client, fs: MemFS
) -> None:
    fs.make("large", None)
    for number in range(2000):
        fs.make(f"large/file-{number}")
    assert len(client(uses.ls_l, mount.path / "large")) == 2000
    asked = mount.asked()
    assert asked["GETXATTR"] <= 3
    assert asked.get("LISTXATTR", 0) == 0
    assert asked.get("LOOKUP", 0) <= 1
    assert asked.get("GETATTR", 0) <= 2
    assert fs.calls["getxattr"] == 0


def test_pages_are_kept_over_reopening(fs: MemFS, client: Client, mountpoint: Path) -> None:
    fs.keep_cache = True
    fs.make("file", b"x" * 10000)
    with mounted(fs, mountpoint) as mount:
        assert client(uses.read, mountpoint / "file") == b"x" * 10000
        client(os.stat, mountpoint / "file")
        mount.asked()
        assert client(uses.read, mountpoint / "file") == b"x" * 10000
        assert mount.asked() == {"OPEN": 1, "FLUSH": 1}


def test_a_direct_file_is_read_each_time_and_to_its_end(
    fs: MemFS, client: Client, mountpoint: Path
) -> None:
    fs.direct = True
    node = fs.make("file", b"short")
    with mounted(fs, mountpoint):
        assert client(uses.size, mountpoint / "file") == 5
        node.data[:] = b"much longer than the size that the kernel knows"
        assert client(uses.read, mountpoint / "file") == bytes(node.data)


def test_times_to_live_can_be_none(fs: MemFS, client: Client, mountpoint: Path) -> None:
    fs.make("file")
    with mounted(fs, mountpoint, entry_ttl_s=0, attr_ttl_s=0, negative_ttl_s=0) as mount:
        for _ in range(2):
            client(uses.exists, mountpoint / "file")
            client(uses.exists, mountpoint / "none")
            assert mount.asked()["LOOKUP"] == 2


# What is told is seen, and nothing else asked


def test_an_entry_that_appeared_is_seen(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    assert not client(uses.exists, folder / "new")
    client(uses.size, folder / "a")
    fs.make("d/new")
    assert not client(uses.exists, folder / "new")
    mount.kernel.entry_changed(fs.find("d").ino, b"new")
    mount.told()
    mount.asked()
    assert client(uses.exists, folder / "new")
    assert client(uses.size, folder / "a") == 4
    assert mount.asked() == {"LOOKUP": 1, "GETATTR": 1}


def test_an_entry_that_vanished_is_seen(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    assert client(uses.exists, folder / "a")
    fs.remove("d/a")
    assert client(uses.exists, folder / "a")
    mount.kernel.entry_changed(fs.find("d").ino, b"a")
    mount.told()
    mount.asked()
    assert not client(uses.exists, folder / "a")
    assert mount.asked() == {"LOOKUP": 1, "GETATTR": 1}


def test_whoever_watches_a_file_is_told_of_its_deletion(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    """By inotify. A process that watches the directory is told nothing: the kernel has no such
    message."""
    for path in (folder, folder / "a"):
        client(uses.watch, path)
    client(uses.noticed, folder)
    node = fs.find("d/a").ino
    fs.remove("d/a")
    mount.kernel.file_deleted(fs.find("d").ino, b"other", node)
    mount.kernel.file_deleted(fs.find("d").ino, b"b", node)  # which is another file
    mount.kernel.file_deleted(fs.find("d").ino, b"a", node)
    mount.told()
    masks = [mask for mask, _ in client(uses.noticed, folder / "a")]
    assert masks[-2:] == [IN_DELETE_SELF, IN_IGNORED]
    assert client(uses.noticed, folder) == []
    assert client(os.listdir, folder) == ["b"]
    fs.make("d/a", b"again")
    mount.kernel.entry_changed(fs.find("d").ino, b"a")
    mount.told()
    assert client(uses.read, folder / "a") == b"again"


def test_a_changed_listing_is_seen(mount: Mount, client: Client, folder: Path, fs: MemFS) -> None:
    for _ in range(2):
        assert client(os.listdir, folder) == ["a", "b"]
    fs.make("d/c")
    assert client(os.listdir, folder) == ["a", "b"]
    mount.kernel.listing_changed(fs.find("d").ino)
    mount.told()
    mount.asked()
    assert client(os.listdir, folder) == ["a", "b", "c"]
    asked = mount.asked()
    assert asked.pop("READDIRPLUS") >= 1
    assert asked == {"GETATTR": 1}
    for _ in range(2):
        assert client(os.listdir, folder) == ["a", "b", "c"]
    assert mount.asked() == {"GETATTR": 1}


def test_a_listing_that_was_on_its_way_is_not_kept(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    """The directory changes after it was read and before the kernel has the answer."""
    fs.quick = False
    stall: Future[None] = Future()
    fs.stalls["listed"] = stall
    reader = Client()
    try:
        directory = fs.find("d").ino
        client(uses.exists, folder)
        reading = threading.Thread(target=lambda: reader(os.listdir, folder), daemon=True)
        reading.start()
        wait_until(lambda: fs.stalled["listed"] == 1)
        before = fs.find("d").mtime_ns
        fs.remove("d/a")
        fs.find("d").mtime_ns = before  # else the kernel could notice by itself
        mount.kernel.listing_changed(directory)
        assert not mount.kernel.flush(0.2)  # waits for the reader
        del fs.stalls["listed"]
        stall.set_result(None)
        reading.join(10)
    finally:
        reader.close()
    mount.told()
    assert client(os.listdir, folder) == ["b"]


def test_changed_attributes_are_seen_and_pages_kept(
    fs: MemFS, client: Client, mountpoint: Path
) -> None:
    fs.keep_cache = True
    node = fs.make("file", b"x" * 4096)
    with mounted(fs, mountpoint) as mount:
        client(uses.read, mountpoint / "file")
        client(os.stat, mountpoint / "file")
        node.mtime_ns = 1_000_000_000
        assert client(os.stat, mountpoint / "file").st_mtime_ns != 1_000_000_000
        mount.kernel.attr_changed(node.ino)
        mount.told()
        mount.asked()
        assert client(os.stat, mountpoint / "file").st_mtime_ns == 1_000_000_000
        assert mount.asked() == {"GETATTR": 1}
        client(uses.read, mountpoint / "file")
        assert mount.asked() == {"OPEN": 1, "FLUSH": 1}


def test_changed_data_is_seen_also_in_files_that_are_open(
    fs: MemFS, client: Client, mountpoint: Path
) -> None:
    fs.keep_cache = True
    node = fs.make("file", b"old!")
    with mounted(fs, mountpoint) as mount:
        client(uses.keep_open, mountpoint / "file")
        assert client(uses.read_kept, mountpoint / "file", 100) == b"old!"
        node.data[:] = b"new and longer"
        assert client(uses.read_kept, mountpoint / "file", 100) == b"old!"
        mount.kernel.data_changed(node.ino)
        mount.told()
        mount.asked()
        assert client(uses.size_of_kept, mountpoint / "file") == 14
        assert client(uses.read_kept, mountpoint / "file", 100) == b"new and longer"
        assert mount.asked() == {"GETATTR": 1, "READ": 1}
        client(uses.close_kept, mountpoint / "file")


def test_a_size_of_which_the_kernel_is_to_ask_anew_makes_no_zeros_behind_its_pages(
    fs: MemFS, client: Client, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.keep_cache = True
    node = fs.make("file", b"old!")
    with mounted(fs, mountpoint) as mount:

        def early(_: Caller, ino: int, __: int | None) -> Attr:
            attr = fs._node(ino).attr()
            mount.kernel.asked_anew(ino)
            return attr

        client(uses.keep_open, mountpoint / "file")
        assert client(uses.read_kept, mountpoint / "file", 100) == b"old!"
        node.data[:] = b"new and longer"
        with monkeypatch.context() as patched:
            patched.setattr(fs, "getattr", early)
            mount.kernel.asked_anew(node.ino)
            assert client(uses.size_of_kept, mountpoint / "file") == 14
            assert client(uses.read_kept, mountpoint / "file", 100) == b"old!"
        mount.kernel.drop_data([node.ino], 30)
        assert client(uses.size_of_kept, mountpoint / "file") == 14
        assert client(uses.read_kept, mountpoint / "file", 100) == b"new and longer"
        client(uses.close_kept, mountpoint / "file")


def test_data_that_is_dropped_before_a_write_is_answered_is_read_anew(
    fs: MemFS, client: Client, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.keep_cache = True
    node = fs.make("file", b"old!")
    with mounted(fs, mountpoint) as mount:

        def write(_caller: Caller, _handle: int, _at: int, data: memoryview, **_: bool) -> int:
            node.data[:] = b"theirs" + data
            mount.kernel.drop_data([node.ino], 0.1)
            return len(data)

        monkeypatch.setattr(fs, "write", write)
        client(uses.keep_open, mountpoint / "file")
        for read in (b"old!", b"theirs+"):  # a page that the kernel has
            assert client(uses.read_kept, mountpoint / "file", 100) == read
            client(uses.append, mountpoint / "file", b"+")
        client(uses.append, mountpoint / "file", b"-")  # one that it has not, and has locked
        assert client(uses.read_kept, mountpoint / "file", 100) == b"theirs-"
        client(uses.close_kept, mountpoint / "file")


def test_data_is_dropped_only_when_told(fs: MemFS, client: Client, mountpoint: Path) -> None:
    """EXPLICIT_INVAL_DATA: a moved mtime or size alone leaves the pages."""
    fs.keep_cache = True
    node = fs.make("file", b"x" * 8192)
    with mounted(fs, mountpoint) as mount:
        assert Init.EXPLICIT_INVAL_DATA in mount.session.flags
        client(uses.read, mountpoint / "file")
        node.mtime_ns += 5_000_000_000
        mount.kernel.attr_changed(node.ino)
        mount.told()
        client(uses.size, mountpoint / "file")
        mount.asked()
        client(uses.read, mountpoint / "file")
        assert "READ" not in mount.asked()


def test_everything_changed_is_seen(mount: Mount, client: Client, folder: Path, fs: MemFS) -> None:
    if not mount.kernel.has_epoch:
        pytest.skip("INC_EPOCH needs kernel 6.16")
    client(uses.ls_l, mount.path)
    client(uses.ls_l, folder)
    assert not client(uses.exists, folder / "new")
    client(uses.keep_open, folder)  # its inode, and the listing in it, stay
    fs.make("d/new")
    fs.make("top")
    fs.remove("d/a")
    fs.find("d/b").data[:] = b"12345"
    mount.kernel.everything_changed()
    mount.told()
    assert client(uses.exists, folder / "new")
    assert not client(uses.exists, folder / "a")
    assert client(uses.size, folder / "b") == 5
    assert client(os.listdir, folder) == ["b", "new"]
    assert client(os.listdir, mount.path) == ["d", "top"]
    client(uses.close_kept, folder)


def test_what_the_kernel_does_not_have_is_told_without_a_word(
    mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    mount.kernel.entry_changed(ROOT_INO, b"never seen")
    mount.kernel.entry_changed(4711, b"never seen")
    mount.kernel.listing_changed(4711)
    mount.kernel.attr_changed(4711)
    mount.kernel.data_changed(4711)
    mount.told()
    assert caplog.text == ""


def test_a_name_that_does_not_fit_is_logged_and_the_next_told(
    mount: Mount, client: Client, folder: Path, fs: MemFS, caplog: pytest.LogCaptureFixture
) -> None:
    client(uses.exists, folder / "new")
    fs.make("d/new")
    mount.kernel.entry_changed(fs.find("d").ino, b"n" * 5000)
    mount.kernel.entry_changed(fs.find("d").ino, b"new")
    mount.told()
    assert "INVAL_ENTRY" in caplog.text
    assert "File name too long" in caplog.text
    assert client(uses.exists, folder / "new")


def test_telling_of_a_directory_in_which_a_lookup_waits_does_not_hang(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    """INVAL_ENTRY waits for the directory's lock, which a waiting lookup holds."""
    client(uses.exists, folder)
    fs.quick = False
    stall: Future[None] = Future()
    fs.stalls["lookup"] = stall
    other = Client()
    try:
        waiting = threading.Thread(target=lambda: other(uses.exists, folder / "slow"), daemon=True)
        waiting.start()
        wait_until(lambda: fs.stalled["lookup"] == 1)
        mount.kernel.entry_changed(fs.find("d").ino, b"a")
        assert not mount.kernel.flush(0.2)
        del fs.stalls["lookup"]
        stall.set_result(None)
        mount.told()
        waiting.join(10)
    finally:
        other.close()


def test_a_deletion_in_a_busy_directory_is_told_when_it_is_free(
    mount: Mount, client: Client, folder: Path, fs: MemFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup waits for S3 meanwhile: no name in the directory can be told."""
    monkeypatch.setattr("mimicfs.fuse.notify._PATIENCE_S", 0.02)
    fs.make("d/back", b"x")
    for name in ("a", "b", "back"):
        client(uses.watch, folder / name)
    fs.quick = False
    stall: Future[None] = Future()
    fs.stalls["lookup"] = stall
    other, directory = Client(), fs.find("d").ino
    try:
        waiting = threading.Thread(target=lambda: other(uses.exists, folder / "slow"), daemon=True)
        waiting.start()
        wait_until(lambda: fs.stalled["lookup"] == 1)
        for name in "ab":
            node = fs.find(f"d/{name}").ino
            fs.remove(f"d/{name}")
            mount.kernel.file_deleted(directory, name.encode(), node)
            mount.kernel.entry_changed(directory, name.encode())
        # This one is there again meanwhile.
        mount.kernel.file_deleted(directory, b"back", fs.find("d/back").ino)
        for _ in range(2):
            mount.kernel.entry_changed(directory, b"back")
        mount.kernel.flush(0.2)
        del fs.stalls["lookup"]
        stall.set_result(None)
        for name in "ab":
            seen: list[int] = []
            wait_until(partial(is_deleted, client, folder / name, seen))
        waiting.join(10)
        mount.told()
        assert client(uses.noticed, folder / "back") == []
        assert client(os.stat, folder / "back").st_nlink == 1
    finally:
        other.close()


def is_deleted(client: Client, path: Path, seen: list[int]) -> bool:
    """Whether whoever watches *path* was told of its deletion. *seen*: what was told before."""
    seen += [mask for mask, _ in client(uses.noticed, path)]
    return seen[-2:] == [IN_DELETE_SELF, IN_IGNORED]


def test_flush_after_the_unmount_does_not_wait(fs: MemFS, mountpoint: Path) -> None:
    with mounted(fs, mountpoint) as mount:
        mount.session.unmount()
        assert mount.ended(10)
        mount.kernel.entry_changed(ROOT_INO, b"x")
        mount.kernel.everything_changed()
        start = time.monotonic()
        assert mount.kernel.flush(60)
        assert time.monotonic() - start < 30


# Lookup counts


def test_lookup_counts_go_to_nothing_when_the_kernel_lets_go(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    """As after drop_caches, which would disturb every other mount of this machine."""
    for _ in range(3):
        client(uses.ls_l, folder)
        client(uses.size, folder / "a")
        client(uses.exists, folder / "none")
        mount.kernel.listing_changed(fs.find("d").ino)
        mount.told()
    client(uses.write, folder / "new", b"data")
    client(os.mkdir, folder / "sub")
    client(os.symlink, "a", folder / "link")
    client(os.rename, folder / "new", folder / "newer")
    assert fs.held() > 5
    mount.kernel.entry_changed(ROOT_INO, b"d")
    mount.told()
    wait_until(lambda: fs.held() == 0)
    assert mount.session.listed <= {ROOT_INO}
    assert client(uses.ls_l, folder)[:2] == ["a", "b"]


def test_a_file_removed_everywhere_is_given_up(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    ino = fs.find("d/a").ino
    client(uses.keep_open, folder / "a")
    client(os.unlink, folder / "a")
    assert ino in fs.nodes
    client(uses.close_kept, folder / "a")
    wait_until(lambda: ino not in fs.nodes)


def test_names_longer_than_255_bytes_are_possible(mount: Mount, client: Client, fs: MemFS) -> None:
    names = [b"n" * length for length in (256, 500, 1023, 1024)]
    for name in names:
        client(os.mkdir, bytes(mount.path) + b"/" + name)
    assert client(os.listdir, bytes(mount.path)) == names


def test_readdirplus_auto_is_asked_for_when_wanted(
    fs: MemFS, client: Client, mountpoint: Path
) -> None:
    fs.make("file")
    with mounted(fs, mountpoint, SessionOptions(readdirplus_auto=True)) as mount:
        assert Init.READDIRPLUS_AUTO in mount.session.flags
        assert client(os.listdir, mountpoint) == ["file"]


def test_attributes_have_the_right_blocks(mount: Mount, client: Client, folder: Path) -> None:
    found = client(os.stat, folder / "b")
    assert (found.st_size, found.st_blocks, found.st_blksize) == (6, 1, 65536)


def test_times_are_those_given_or_that_of_the_change() -> None:
    from mimicfs.fuse.packing import Packer

    packed = Packer(1, 1.5, 0).attributes(Attr(5, 0o100644, 0, 7_000_000_001, 0, 0))
    assert packed[:16] == (1).to_bytes(8, "little") + (500_000_000).to_bytes(8, "little")
    assert [int.from_bytes(packed[at : at + 8], "little") for at in (40, 48, 56)] == [7, 7, 7]
    assert [int.from_bytes(packed[at : at + 4], "little") for at in (64, 68, 72)] == [1, 1, 1]


def test_a_read_from_the_cache_needs_no_worker(fs: MemFS, client: Client, mountpoint: Path) -> None:
    node = fs.make("file", b"x" * 100)

    def cached(handle: int, offset: int, size: int) -> memoryview:
        return memoryview(node.data)[offset : offset + size]

    fs.read_cached = cached  # type: ignore[method-assign]
    with mounted(fs, mountpoint):
        assert client(uses.read, mountpoint / "file") == b"x" * 100
        assert fs.calls["read"] == 0


def test_a_caller_is_known_by_user_and_process(
    mount: Mount, client: Client, folder: Path, fs: MemFS
) -> None:
    client(uses.size, folder / "a")
    caller: Caller = fs.callers["lookup"]
    assert (caller.uid, caller.gid) == (os.getuid(), os.getgid())
    assert caller.pid == client.pid
