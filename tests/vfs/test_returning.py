"""A directory that others emptied comes again, while somebody here holds it all the time."""

from __future__ import annotations

import errno
import os
from contextlib import closing

import pytest

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import Difference
from mimicfs.errors import PosixError
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


class Kernel:
    """One that believes that a name is absent, and a listing right, until it is told."""

    def __init__(self):
        self.absent = set()
        self.listed = {}

    def stat(self, fs, parent, name):
        if (parent, name) in self.absent:
            return None
        try:
            return fs.lookup(CALLER, parent, name).ino
        except PosixError as exc:
            if exc.errno != errno.ENOENT:
                raise
            self.absent.add((parent, name))
            return None

    def list(self, fs, ino):
        if ino not in self.listed:
            page = fs.readdir(CALLER, ino, 0, 4096, 152, hold=False)
            self.listed[ino] = [each.name for each in page]
        return self.listed[ino]

    def entry_changed(self, parent, name):
        self.absent.discard((parent, name))

    def listing_changed(self, ino):
        self.listed.pop(ino, None)

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def parts(s3, mimicdb, tmp_path, kernel):
    return (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), kernel)


@pytest.fixture
def fs(parts, bucket, tmp_path):
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    yield fs
    fs.close()


def others_put(fs, d, s3):
    node = fs.inodes.get(d)
    key = f"{node.key}x"
    s3.put(node.bucket, key, b"", 0)
    s3.mimicdb.announce(node.bucket, Difference([key], [], [], 0))


def write(fs, d, _=None):
    _, opened = fs.create(CALLER, d, b"x", 0o644, os.O_WRONLY)
    fs.write(CALLER, opened.handle, 0, memoryview(b"1"), append=False)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)


def rename_into(fs, d, _):
    write(fs, ROOT_INO)
    fs.rename(CALLER, ROOT_INO, b"x", d, b"x", 0)


@pytest.mark.parametrize(
    "fill",
    [
        others_put,
        write,
        rename_into,
        lambda fs, d, _: fs.mkdir(CALLER, d, b"x", 0o755),
        lambda fs, d, _: fs.symlink(CALLER, d, b"x", b"target"),
        lambda fs, d, _: fs.mknod(CALLER, d, b"x", 0o010644, 0),
    ],
)
def test_a_directory_that_is_held_is_found_again_whoever_fills_it(
    fs, kernel, s3, mimicdb, bucket, fill
):
    up = fs.mkdir(CALLER, ROOT_INO, b"up", 0o755).ino
    d = fs.mkdir(CALLER, up, b"d", 0o755).ino
    for key in ("up/d/", "up/"):
        s3.delete(bucket, key)
    mimicdb.announce(bucket, Difference([], [], ["up/d/", "up/"], 0))
    assert (kernel.stat(fs, ROOT_INO, b"up"), kernel.stat(fs, up, b"d")) == (None, None)
    assert (kernel.list(fs, ROOT_INO), kernel.list(fs, up)) == ([], [])
    fill(fs, d, s3)
    assert (kernel.stat(fs, ROOT_INO, b"up"), kernel.stat(fs, up, b"d")) == (up, d)
    assert b"up" in kernel.list(fs, ROOT_INO)
    assert kernel.list(fs, up) == [b"d"]


@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda fs, d: fs.setattr(CALLER, d, NewAttr(mode=0o700), None),
        lambda fs, d: fs.setattr(CALLER, d, NewAttr(mtime_ns=1), None),
        lambda fs, d: fs.setxattr(CALLER, d, b"user.a", b"1", 0),
    ],
)
def test_attributes_of_a_directory_that_others_deleted_are_enoent_and_make_nothing(
    parts, s3, mimicdb, client, bucket, tmp_path, change, markers
):
    options = VFSOptions(Target(bucket), markers=markers)
    with closing(VFS(*parts, options, FileOptions(tmp_path))) as fs:
        d = fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino
        s3.delete(bucket, "d/")
        mimicdb.announce(bucket, Difference([], [], ["d/"], 0))
        with pytest.raises(PosixError) as raised:
            change(fs, d)
        assert raised.value.errno == errno.ENOENT
        with pytest.raises(PosixError) as raised:
            fs.lookup(CALLER, ROOT_INO, b"d")
        assert raised.value.errno == errno.ENOENT
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_file_that_others_deleted_is_found_again_when_its_writer_has_replaced_it(
    fs, kernel, s3, mimicdb, bucket
):
    write(fs, ROOT_INO)
    ino = kernel.stat(fs, ROOT_INO, b"x")
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_TRUNC).handle
    s3.delete(bucket, "x")
    mimicdb.announce(bucket, Difference([], [], ["x"], 0))
    assert (kernel.stat(fs, ROOT_INO, b"x"), kernel.list(fs, ROOT_INO)) == (None, [])
    fs.write(CALLER, handle, 0, memoryview(b"2"), append=False)
    fs.flush(CALLER, handle)
    assert (kernel.stat(fs, ROOT_INO, b"x"), kernel.list(fs, ROOT_INO)) == (ino, [b"x"])
    fs.release(handle)


def test_a_directory_that_was_looked_for_between_two_changes_is_told_of(fs, kernel, s3, bucket):
    d = fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino
    s3.delete(bucket, "d/")  # of which nobody has told the kernel
    assert kernel.stat(fs, ROOT_INO, b"d") is None
    write(fs, d)
    assert kernel.stat(fs, ROOT_INO, b"d") == d
