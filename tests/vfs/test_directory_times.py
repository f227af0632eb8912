"""The time of a directory: when this mount has changed its names, or what is stored with it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.kernels import Kernel

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import NS
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Attr, Caller, Cancellation, NewAttr
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs import inodes
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


def times(attr: Attr) -> tuple[int, int]:
    return attr.mtime_ns, attr.mtime_ns if attr.ctime_ns == -1 else attr.ctime_ns


def made(fs: VFS, name: bytes) -> tuple[int, tuple[int, int]]:
    """Make the directory *name* and an entry in it; return its number, and its times."""
    ino = fs.mkdir(CALLER, ROOT_INO, name, 0o755).ino
    fs.forget(fs.mkdir(CALLER, ino, b"e", 0o755).ino, 1)
    return ino, times(fs.getattr(CALLER, ino, None))


def looked_up(fs: VFS, name: bytes) -> tuple[int, int]:
    attr = fs.lookup(CALLER, ROOT_INO, name)
    fs.forget(attr.ino, 1)
    return times(attr)


def test_a_directory_that_was_forgotten_has_the_time_of_the_change_in_it(fs: VFS) -> None:
    ino, before = made(fs, b"d")
    fs.forget(ino, 1)
    assert [looked_up(fs, b"d"), looked_up(fs, b"d")] == [before, before]
    ino = fs.lookup(CALLER, ROOT_INO, b"d").ino
    fs.rmdir(CALLER, ino, b"e")
    after = times(fs.getattr(CALLER, ino, None))
    fs.forget(ino, 1)
    assert looked_up(fs, b"d") == after > before


def test_the_time_goes_along_when_the_directory_is_renamed(fs: VFS) -> None:
    ino, before = made(fs, b"d")
    fs.forget(ino, 1)
    fs.rename(CALLER, ROOT_INO, b"d", ROOT_INO, b"f", 0)
    assert looked_up(fs, b"f")[0] == before[0]


def test_a_directory_that_takes_the_name_of_a_removed_one_has_its_own_time(fs: VFS) -> None:
    ino, before = made(fs, b"d")
    fs.rmdir(CALLER, ino, b"e")
    fs.rmdir(CALLER, ROOT_INO, b"d")
    fs.forget(ino, 1)
    fs.forget(fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino, 1)
    assert looked_up(fs, b"d")[0] > before[0]
    assert not fs.inodes._touched


def test_the_times_of_the_directories_that_were_forgotten_last_are_remembered(
    fs: VFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inodes, "_TOUCHED_MAX", 2)
    every = {name: made(fs, name) for name in (b"a", b"b", b"c")}
    for ino, _ in every.values():
        fs.forget(ino, 1)
    assert {name: looked_up(fs, name) == every[name][1] for name in every} == {
        b"a": False,
        b"b": True,
        b"c": True,
    }


def test_what_a_program_sets_holds_until_a_name_changes(fs: VFS) -> None:
    ino, before = made(fs, b"d")
    fs.setattr(CALLER, ino, NewAttr(mtime_ns=NS), None)
    fs.forget(ino, 1)
    mtime_ns, ctime_ns = looked_up(fs, b"d")
    assert (mtime_ns, ctime_ns > before[1]) == (NS, True)
    ino = fs.lookup(CALLER, ROOT_INO, b"d").ino
    fs.rmdir(CALLER, ino, b"e")
    fs.forget(ino, 1)
    assert looked_up(fs, b"d")[0] > before[0]


def test_what_another_mount_sets_later_is_shown(fs: VFS, client: Any, bucket: str) -> None:
    ino, _ = made(fs, b"d")
    fs.setattr(CALLER, ino, NewAttr(mtime_ns=5 * NS), None)
    client.put_object(Bucket=bucket, Key="d/", Body=b"", Metadata={"mtime": "3", "mode": "16877"})
    fs._s3.head(bucket, "d/")
    assert times(fs.getattr(CALLER, ino, None))[0] == 3 * NS


def test_a_change_of_the_mode_stores_the_time_that_is_shown(
    fs: VFS, client: Any, bucket: str
) -> None:
    ino, before = made(fs, b"d")
    fs.setattr(CALLER, ino, NewAttr(mode=0o700), None)
    stored = client.head_object(Bucket=bucket, Key="d/")["Metadata"]["mtime"]
    assert stored == f"{before[0] // NS}.{before[0] % NS:09}"
    assert times(fs.getattr(CALLER, ino, None))[0] == before[0]


def test_a_directory_without_a_marker_has_the_ctime_of_its_latest_change(
    s3: S3, mimicdb: Mirror, bucket: str, tmp_path: Path
) -> None:
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    options = VFSOptions(Target(bucket), markers=False)
    fs = VFS(*parts, options, FileOptions(tmp_path))
    before_ns = time.time_ns()
    mtime_ns, ctime_ns = times(fs.mkdir(CALLER, ROOT_INO, b"d", 0o755))
    assert ctime_ns == mtime_ns >= before_ns
    ino = fs.lookup(CALLER, ROOT_INO, b"d").ino
    for set_ns in (NS, 4 * 10**18):
        before_ns = time.time_ns()
        found = times(fs.setattr(CALLER, ino, NewAttr(mtime_ns=set_ns), None))
        assert found == (set_ns, pytest.approx(before_ns, abs=10 * NS))
        assert found[1] >= before_ns
    fs.close()
