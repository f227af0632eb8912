"""What is stored with an object of which nobody has asked stays, and keeps others out."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from support.kernels import Kernel

from mimicfs.config.values import BucketOptions, Buckets, FileOptions, Target, VFSOptions
from mimicfs.errors import MimicError
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
OTHER = Caller(65534, 65534, 0, Cancellation())
STORED = {"mode": "33184", "uid": "7", "gid": "8", "mtime": "5.000000000"}  # 0640
LINK = {"mode": str(stat.S_IFLNK | 0o777), "uid": "7", "gid": "8", "mtime": "5.000000000"}


@pytest.fixture
def fs(s3, mimicdb, bucket, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
    fs = VFS(*parts, options, FileOptions(tmp_path))
    yield fs
    fs.close()


def _listed(fs, client, bucket, body=b"text", **stored):
    client.put_object(Bucket=bucket, Key="d/x", Body=body, Metadata=stored)
    fs._syncer.sync(bucket)
    directory = fs.lookup(CALLER, ROOT_INO, b"d").ino
    attr = fs.lookup(CALLER, directory, b"x")
    assert (stat.filemode(attr.mode), attr.uid) == ("-rw-r--r--", os.getuid())
    return attr.ino


def _refused(code, call, *arguments):
    with pytest.raises(MimicError) as refused:
        call(*arguments)
    assert errno.errorcode[refused.value.errno] == errno.errorcode[code]


@pytest.mark.parametrize(
    ("new", "changed"),
    [
        (NewAttr(mode=0o600), {"mode": "33152"}),
        (NewAttr(uid=1), {"uid": "1"}),
        (NewAttr(gid=1), {"gid": "1"}),
        (NewAttr(mtime_ns=9), {"mtime": "0.000000009"}),
        (NewAttr(atime_ns=9), {"atime": "0.000000009"}),
    ],
)
def test_a_change_of_one_attribute_leaves_the_others_as_they_are_stored(
    fs, client, bucket, new, changed
):
    ino = _listed(fs, client, bucket, **STORED, team="a")
    attr = fs.setattr(CALLER, ino, new, None)
    said = client.head_object(Bucket=bucket, Key="d/x")["Metadata"]
    assert {**said, "ctime": ""} == {**STORED, "team": "a", **changed, "ctime": ""}
    assert (attr.gid, attr.mode & 0o7707) == (int(said["gid"]), 0o600)


def test_a_change_of_one_attribute_leaves_the_forms_of_others(fs, client, bucket):
    theirs = {"file-permissions": "0604", "file-owner": "7", "file-mtime": "5000000000ns"}
    ino = _listed(fs, client, bucket, **theirs)
    attr = fs.setattr(CALLER, ino, NewAttr(gid=1), None)
    assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.mtime_ns) == (0o604, 7, 1, 5 * 10**9)


def test_bits_that_the_mount_does_not_believe_are_stored_still_after_a_touch(fs, client, bucket):
    ino = _listed(fs, client, bucket, **{**STORED, "mode": str(stat.S_IFREG | 0o4755)})
    assert fs.setattr(CALLER, ino, NewAttr(mtime_ns=9), None).mode & 0o7777 == 0o755
    stored = client.head_object(Bucket=bucket, Key="d/x")["Metadata"]
    assert oct(int(stored["mode"])) == "0o104755"


@pytest.mark.parametrize(
    "change",
    [
        lambda fs, ino: fs.setattr(CALLER, ino, NewAttr(mode=0o600), None),
        lambda fs, ino: fs.setattr(CALLER, ino, NewAttr(mtime_ns=9), None),
        lambda fs, ino: fs.setattr(CALLER, ino, NewAttr(uid=3), None),
        lambda fs, ino: fs.setxattr(CALLER, ino, b"user.a", b"1", 0),
        lambda fs, ino: fs.removexattr(CALLER, ino, b"user.a"),
    ],
    ids=["mode", "mtime", "uid", "setxattr", "removexattr"],
)
def test_a_link_that_was_shown_as_a_file_is_no_file_after_a_change_of_attributes(
    fs, client, bucket, change
):
    ino = _listed(fs, client, bucket, b"target", **LINK)
    _refused(errno.ESTALE, change, fs, ino)
    assert client.head_object(Bucket=bucket, Key="d/x")["Metadata"] == LINK
    directory = fs.lookup(CALLER, ROOT_INO, b"d").ino
    again = fs.lookup(CALLER, directory, b"x")  # as the kernel does after ESTALE
    assert stat.filemode(again.mode) == "lrwxrwxrwx"
    assert fs.readlink(CALLER, again.ino) == b"target"


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_TRUNC, os.O_WRONLY, os.O_RDWR])
def test_a_link_that_was_shown_as_a_file_is_not_written_over(fs, client, bucket, flags):
    ino = _listed(fs, client, bucket, b"target", **LINK)

    def save():
        handle = fs.open(CALLER, ino, flags).handle
        try:
            fs.write(CALLER, handle, 0, memoryview(b"lost"), append=False)
        finally:
            fs.release(handle)

    _refused(errno.ESTALE, save)
    found = client.get_object(Bucket=bucket, Key="d/x")
    assert (found["Body"].read(), found["Metadata"]) == (b"target", LINK)


@pytest.mark.parametrize(
    "change",
    [
        lambda fs, ino: fs.open(OTHER, ino, os.O_RDONLY),
        lambda fs, ino: fs.open(OTHER, ino, os.O_WRONLY | os.O_TRUNC),
        lambda fs, ino: fs.setattr(OTHER, ino, NewAttr(size=0), None),
        lambda fs, ino: fs.setattr(OTHER, ino, NewAttr(mode=0o666), None),
        lambda fs, ino: fs.setxattr(OTHER, ino, b"user.a", b"1", 0),
    ],
    ids=["read", "truncate at open", "truncate", "chmod", "setxattr"],
)
def test_others_are_admitted_by_what_is_stored_and_not_by_what_was_shown(
    fs, client, bucket, change
):
    ino = _listed(fs, client, bucket, **STORED)
    _refused(errno.ESTALE, change, fs, ino)
    found = client.get_object(Bucket=bucket, Key="d/x")
    assert (found["Body"].read(), found["Metadata"]) == (b"text", STORED)
    assert stat.filemode(fs.getattr(OTHER, ino, None).mode) == "-rw-r-----"


def test_others_get_no_link_to_an_object_and_ask_s3_for_nothing(fs, client, bucket):
    ino = _listed(fs, client, bucket)
    _refused(errno.EACCES, fs.getxattr, OTHER, ino, b"user.mimicfs.url")
    _refused(errno.EACCES, fs.setxattr, OTHER, ino, b"user.mimicfs.tag.a", b"1", 0)
    _refused(errno.EACCES, fs.removexattr, OTHER, ino, b"user.mimicfs.tag.a")
    assert fs.getxattr(OTHER, ino, b"user.mimicfs.key") == b"d/x"
    assert fs.getxattr(CALLER, ino, b"user.mimicfs.url").startswith(b"http")
