"""One key has one File that may upload, whoever opens it, by whatever inode, and whatever happens
between the look at its name and the open."""

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
    """One that believes what it is told."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.fixture
def fs(s3, mimicdb, bucket, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    yield fs
    fs.close()


def save(fs, name, text):
    attr, opened = fs.create(CALLER, ROOT_INO, name, 0o644, os.O_WRONLY | os.O_TRUNC)
    fs.write(CALLER, opened.handle, 0, memoryview(text), append=False)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    return attr.ino


def before(monkeypatch, owner, name, others):
    """Before the next call of *name*, *others* do something."""
    work = getattr(owner, name)

    def late(*args, **kwargs):
        monkeypatch.undo()
        others()
        return work(*args, **kwargs)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.O_RDONLY, b"new\0\0\0\0"),
        (os.O_RDWR, b"abc\0\0\0\0"),
        (os.O_WRONLY | os.O_TRUNC, b"abc"),
        (os.O_WRONLY | os.O_APPEND, b"new\0\0\0\0abc"),
    ],
    ids=["read", "write", "cut", "append"],
)
def test_who_opens_what_was_uploaded_since_it_was_looked_up_has_the_newest_version(
    fs, monkeypatch, client, bucket, flags, expected
):
    ino = save(fs, b"x", b"new")
    changed = NewAttr(mode=0o600, size=7)
    others = lambda: fs.setattr(CALLER, ino, changed, None)  # noqa: E731
    before(monkeypatch, fs._handles, "_open_known", others)
    handle = fs.open(CALLER, ino, flags).handle
    if flags == os.O_RDONLY:
        assert fs.read(CALLER, handle, 0, 99) == expected
    else:
        fs.write(CALLER, handle, 0, memoryview(b"abc"), append=bool(flags & os.O_APPEND))
        fs.flush(CALLER, handle)
    fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == expected
    assert fs.getattr(CALLER, ino, None).mode & 0o777 == 0o600


def test_what_was_uploaded_since_it_was_looked_up_is_opened_by_a_worker(fs, monkeypatch):
    ino = save(fs, b"x", b"new")
    others = lambda: fs.setattr(CALLER, ino, NewAttr(size=7), None)  # noqa: E731
    before(monkeypatch, fs._handles, "open_at_once", others)
    assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    assert fs.inodes.get(ino).file is None
