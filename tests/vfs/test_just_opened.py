"""What an open has read, and what it leaves until somebody asks for it."""

from __future__ import annotations

import os
import stat

import pytest
from support.kernels import Kernel

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.errors import ObjectChanged
from mimicfs.files import standing
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


class Told(Kernel):
    """One that was told of all that changed."""

    def flush(self, timeout_s):
        return True


@pytest.fixture
def at_once(s3, mimicdb, bucket, tmp_path):
    """A file system with a file `x`, of which the kernel has no pages yet; its inode."""
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Told())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    s3.put(bucket, "x", b"abc", 3)
    yield fs, fs.lookup(CALLER, ROOT_INO, b"x").ino
    fs.close()


def test_the_attributes_of_what_was_just_opened_are_those_that_its_open_has_read(
    at_once, mimicdb, bucket, monkeypatch
):
    fs, ino = at_once
    asked, get = [], mimicdb.backend.get
    monkeypatch.setattr(standing, "_MOMENT_S", 60.0)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    with monkeypatch.context() as patch:
        patch.setattr(mimicdb.backend, "get", lambda *what: asked.append(what) or get(*what))
        assert fs.getattr(CALLER, ino, None).size == 3
        assert asked == []
    entry = mimicdb.entry(bucket, "x")
    mimicdb.record(bucket, entry._replace(meta={"mode": "33152"}))  # as somebody has told us
    assert stat.S_IMODE(fs.getattr(CALLER, ino, None).mode) == 0o600
    assert fs.release_at_once(handle)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    monkeypatch.setattr(standing, "_MOMENT_S", 0.0)
    other = entry._replace(meta={"mode": "33060"})
    mimicdb.backend.apply(bucket, [other])  # as another process does, of which we have not heard
    assert stat.S_IMODE(fs.getattr(CALLER, ino, None).mode) == 0o444
    assert fs.release_at_once(handle)


def test_an_open_file_that_nobody_reads_has_no_reader_and_a_closed_one_gets_none(at_once):
    fs, ino = at_once
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    origin = fs._handles.file(handle)._origin
    origin._reader = None  # as where the kernel has its pages
    assert fs.read(CALLER, handle, 0, 10) == b"abc"
    assert origin._reader is not None
    origin._reader = None
    assert fs.release_at_once(handle)
    with pytest.raises(ObjectChanged, match="closed"):
        origin.reader.read(0, 10, CALLER.cancellation)


def test_the_kernel_knows_that_a_file_is_longer_before_the_read_of_that_is_answered(
    at_once, client, bucket, monkeypatch
):
    """It gives the reader no more than the size that it knows; at the next read(2) it would say
    that this is the end."""
    fs, ino = at_once
    anew = []
    monkeypatch.setattr(fs._kernel._kernel, "asked_anew", anew.append, raising=False)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    client.put_object(Bucket=bucket, Key="x", Body=b"longer")
    assert fs.read(CALLER, handle, 0, 10) == b"longer"
    assert anew == [ino]
    assert fs.getattr(CALLER, ino, None).size == 6
    assert fs.release_at_once(handle)
