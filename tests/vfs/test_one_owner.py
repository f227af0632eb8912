"""One key has one File that may upload, whoever opens it, by whatever inode, and whatever happens
between the look at its name and the open."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.onefile import check_one_file_of_each_key
from support.proxy import Hold

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.errors import ObjectChanged
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


def test_who_opens_a_name_that_is_gone_while_a_rename_brings_it_back_gets_the_file_of_that(
    fs, proxy, monkeypatch
):
    old, _ = (save(fs, b"x", b"old"), fs.unlink(CALLER, ROOT_INO, b"x"))
    save(fs, b"x", b"other")
    new = save(fs, b"new", b"new")
    deleted = Hold(lambda request: request.kind == "DELETE" and request.key == "new")
    renames = []

    def gone():
        fs.unlink(CALLER, ROOT_INO, b"x")
        before(monkeypatch, fs._handles, "_open_standing", back)

    def back():
        renames.append(pool.submit(fs.rename, CALLER, ROOT_INO, b"new", ROOT_INO, b"x", 0))
        assert deleted.reached.wait(10)

    with ThreadPoolExecutor() as pool, proxy.rule(deleted):
        before(monkeypatch, fs._handles, "_named", gone)
        opening = pool.submit(fs.open, CALLER, old, os.O_WRONLY)  # looked up before
        assert deleted.reached.wait(10)
        with pytest.raises(TimeoutError):
            opening.result(0.05)
        deleted.release()
        renames[0].result(10)
        handle = opening.result(10).handle
    assert fs._handles.node(handle).ino == new
    check_one_file_of_each_key(fs)
    fs.release(handle)


@pytest.fixture
def displaced(fs, s3, client, bucket):
    """A handle of `x` that others have replaced, and one of what is there now."""
    handle = fs.open(CALLER, save(fs, b"x", b"old"), os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 3) == b"old"
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    s3.head(bucket, "x")
    newer = fs.open(CALLER, fs.lookup(CALLER, ROOT_INO, b"x").ino, os.O_RDWR).handle
    assert fs._handles.node(newer) is not fs._handles.node(handle)
    return handle, newer


def test_who_appends_to_what_others_have_replaced_has_the_file_of_that(
    fs, displaced, client, bucket
):
    for handle in displaced:
        fs.write(CALLER, handle, 5, memoryview(b"+"), append=True)
        check_one_file_of_each_key(fs)
    assert fs._handles.file(displaced[0]) is fs._handles.file(displaced[1])
    for handle in displaced:
        fs.flush(CALLER, handle)
        fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"newer++"


def test_who_locks_what_others_have_replaced_has_the_file_of_that(fs, displaced):
    fs._handles.renew(displaced[0], CALLER.cancellation)
    assert fs._handles.file(displaced[0]) is fs._handles.file(displaced[1])
    check_one_file_of_each_key(fs)
    assert fs.read(CALLER, displaced[0], 0, 9) == b"newer"
    for handle in displaced:
        fs.release(handle)
    assert fs.figures()["open"] == 0


def test_who_appends_to_what_this_mount_has_replaced_meanwhile_gets_no_file_of_the_name(
    fs, monkeypatch
):
    handle = fs.open(CALLER, save(fs, b"x", b"old"), os.O_WRONLY).handle
    fs._handles.file(handle).expire()
    save(fs, b"new", b"new")
    renamed = lambda: fs.rename(CALLER, ROOT_INO, b"new", ROOT_INO, b"x", 0)  # noqa: E731
    before(monkeypatch, fs._handles, "_heir", renamed)
    with pytest.raises(ObjectChanged):
        fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    check_one_file_of_each_key(fs)
    fs.release(handle)


def test_of_two_handles_that_are_closed_at_once_the_last_uploads_what_was_mapped(
    fs, client, bucket, monkeypatch
):
    ino = save(fs, b"x", b"old")
    first, second = (fs.open(CALLER, ino, os.O_RDWR).handle for _ in range(2))
    fs.write(CALLER, first, 0, memoryview(b"new"), append=False)
    before(monkeypatch, fs._handles, "_leave", lambda: None)
    fs.release(first)
    fs.release(second)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"new"
