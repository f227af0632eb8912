"""What others store with an object, without a change of its bytes, survives the next upload."""

from __future__ import annotations

import os

import pytest

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import NS
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
WRITES = os.O_WRONLY | os.O_TRUNC


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


def write(fs, handle, text):
    fs.write(CALLER, handle, 0, memoryview(text), append=False)


@pytest.fixture
def ino(fs):
    """The inode of `x`, which this mount has written."""
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, WRITES)
    write(fs, opened.handle, b"old")
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    return attr.ino


def others_store(client, bucket):
    """As a chmod by another mount does, or `aws s3 cp` of the object onto itself."""
    place = {"Bucket": bucket, "Key": "x"}
    stored = {"Metadata": {"mode": "33152", "own": "new"}, "CacheControl": "max-age=1"}
    client.copy_object(**place, CopySource=place, MetadataDirective="REPLACE", **stored)


def stored(client, bucket):
    found = client.get_object(Bucket=bucket, Key="x")
    meta = found["Metadata"]
    return found["Body"].read(), meta["mode"], meta["own"], found["CacheControl"]


@pytest.mark.parametrize("before", ["opened", "stored", "written"])
def test_what_others_store_with_an_open_file_stays(fs, s3, client, bucket, ino, before):
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    if before != "opened":
        write(fs, handle, b"1st")
    if before == "stored":
        fs.flush(CALLER, handle)
    others_store(client, bucket)
    s3.head(bucket, "x")  # the mirror comes to know of it
    write(fs, handle, b"new")
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket) == (b"new", "33152", "new", "max-age=1")


def test_what_a_program_has_set_of_an_open_file_stays_beside_that(fs, s3, client, bucket, ino):
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    write(fs, handle, b"1st")
    fs.setattr(CALLER, ino, NewAttr(mode=0o640), None)
    others_store(client, bucket)
    s3.head(bucket, "x")
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket) == (b"1st", str(0o100640), "new", "max-age=1")


def test_what_this_mount_remembers_of_an_object_is_not_stored_where_that_was_stored_anew(
    fs, mimicdb, client, bucket, ino
):
    others_store(client, bucket)
    known = mimicdb.entry(bucket, "x")  # a listing shows a later time
    mimicdb.repair(bucket, "x", known._replace(mtime_ns=known.mtime_ns + 9 * NS, meta=None))
    handle = fs.open(CALLER, ino, WRITES).handle
    write(fs, handle, b"new")
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket) == (b"new", "33152", "new", "max-age=1")


def test_an_append_keeps_what_is_stored_with_the_version_behind_which_it_goes(
    fs, client, bucket, ino
):
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_APPEND).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    said = {"Metadata": {"mode": "33152", "own": "new"}, "CacheControl": "max-age=1"}
    client.put_object(Bucket=bucket, Key="x", Body=b"theirs", Tagging="a=b", **said)
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket) == (b"theirs+", "33152", "new", "max-age=1")
    tags = client.get_object_tagging(Bucket=bucket, Key="x")["TagSet"]
    assert tags == [{"Key": "a", "Value": "b"}]
