"""Handles of inodes whose names stand for other nodes by now."""

from __future__ import annotations

import os

import pytest

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


class Kernel:
    """One that holds what it has looked up, and believes what it is told."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.fixture
def fs(s3, mimicdb, bucket, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    yield fs
    fs.close()


def test_a_file_that_was_opened_by_an_old_inode_is_changed_by_it_as_often_as_wanted(fs):
    def save():
        attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY | os.O_TRUNC)
        fs.flush(CALLER, opened.handle)
        fs.release(opened.handle)
        return attr.ino

    old = save()
    fs.unlink(CALLER, ROOT_INO, b"x")
    new = save()
    handle = fs.open(CALLER, old, os.O_RDWR).handle  # looked up before the unlink
    for mode in (0o600, 0o640):
        fs.setattr(CALLER, old, NewAttr(mode=mode), None)
        assert fs.getattr(CALLER, old, None).mode & 0o777 == mode
        assert fs.getattr(CALLER, new, None).mode & 0o777 == mode
    fs.setxattr(CALLER, old, b"user.a", b"1", 0)
    assert fs.getxattr(CALLER, new, b"user.a") == b"1"
    fs.release(handle)


def test_a_staging_file_is_made_under_no_lock_that_others_need(fs, monkeypatch):
    handles, seen = fs._handles, []
    stage = handles._journal.stage
    monkeypatch.setattr(
        handles._journal, "stage", lambda: seen.append(handles._lock.locked()) or stage()
    )
    opened = fs.create(CALLER, ROOT_INO, b"new", 0o644, os.O_WRONLY)[1]
    assert seen == [False]
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
