"""What others store with an object, without a change of its bytes, survives the next upload."""

from __future__ import annotations

import errno
import os

import pytest
from support.kernels import Kernel
from support.proxy import Fail

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import NS
from mimicfs.errors import UploadFailed
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
WRITES = os.O_WRONLY | os.O_TRUNC


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


ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
STORED = {
    "ContentType": "text/x-own",
    "CacheControl": "max-age=1",
    "Metadata": {"mode": "33152", "own": "new"},
    "StorageClass": "STANDARD_IA",
}
NEW = ("text/x-own", "max-age=1", "33152", "new", "STANDARD_IA", {"a": "b"}, True)


def others_store(client, bucket):
    """As a chmod by another mount does, or `aws s3 cp` of the object onto itself."""
    place = {"Bucket": bucket, "Key": "x"}
    more = {"Tagging": "a=b", "TaggingDirective": "REPLACE", "ACL": "public-read"}
    client.copy_object(**place, CopySource=place, MetadataDirective="REPLACE", **STORED, **more)


def stored(client, bucket, key="x"):
    """The bytes of the object, and what is stored with it."""
    place = {"Bucket": bucket, "Key": key}
    found = client.get_object(**place)
    meta = found["Metadata"]
    tags = client.get_object_tagging(**place)["TagSet"]
    acl = client.get_object_acl(**place)["Grants"]
    return (
        found["Body"].read(),
        found["ContentType"],
        found.get("CacheControl"),
        meta["mode"],
        meta.get("own"),
        found.get("StorageClass"),
        {each["Key"]: each["Value"] for each in tags},
        any(each["Grantee"].get("URI") == ALL_USERS for each in acl),
    )


def truncates_to(size):
    def truncate(fs, ino, handle):
        fs.setattr(CALLER, ino, NewAttr(size=size), handle)

    return truncate


def appends(fs, _ino, handle):
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)


def opens_with_o_trunc(fs, ino, _handle):
    other = fs.open(CALLER, ino, WRITES).handle
    write(fs, other, b"!")
    fs.flush(CALLER, other)
    fs.release(other)


def syncs_between(fs, _ino, handle):
    write(fs, handle, b"2nd")
    fs.fsync(CALLER, handle)
    write(fs, handle, b"3rd")


def changes_after_a_rename(fs, _ino, handle):
    fs.rename(CALLER, ROOT_INO, b"x", ROOT_INO, b"y", 0)
    write(fs, handle, b"new")


CHANGES = {
    "write": (lambda fs, _ino, handle: write(fs, handle, b"new"), b"new", "x"),
    "append": (appends, b"1st+", "x"),
    "ftruncate": (truncates_to(2), b"1s", "x"),
    "ftruncate to nothing": (truncates_to(0), b"", "x"),
    "O_TRUNC": (opens_with_o_trunc, b"!", "x"),
    "fsync": (syncs_between, b"3rd", "x"),
    "rename": (changes_after_a_rename, b"new", "y"),
}


@pytest.mark.parametrize("known", ["told", "asked"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_others_store_with_a_file_that_is_open_stays(
    fs, s3, client, bucket, ino, change, known
):
    """The mirror is told that S3 has stored the object anew; or it is not, and what this mount has
    heard is too old."""
    do, content, key = CHANGES[change]
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    write(fs, handle, b"1st")
    fs.flush(CALLER, handle)
    others_store(client, bucket)
    if known == "told":
        s3.head(bucket, "x")
    else:
        s3.kept.lately_s = 0
    do(fs, ino, handle)
    fs.flush(CALLER, handle)
    fs.release(handle)
    new = list(NEW)
    if (change, known) == ("rename", "asked"):
        new[4] = None  # a copy has the storage class that the mirror knows
    assert stored(client, bucket, key) == (content, *new)


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
    assert stored(client, bucket) == (b"new", *NEW)


def test_what_a_program_has_set_of_an_open_file_stays_beside_that(fs, s3, client, bucket, ino):
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    write(fs, handle, b"1st")
    fs.setattr(CALLER, ino, NewAttr(mode=0o640), None)
    others_store(client, bucket)
    s3.head(bucket, "x")
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket)[3:5] == (str(0o100640), "new")


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
    assert stored(client, bucket) == (b"new", *NEW)


def test_an_append_keeps_what_is_stored_with_the_version_behind_which_it_goes(
    fs, client, bucket, ino
):
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_APPEND).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    said = {"Tagging": "a=b", "ACL": "public-read"}
    client.put_object(Bucket=bucket, Key="x", Body=b"theirs", **STORED, **said)
    fs.flush(CALLER, handle)
    fs.release(handle)
    assert stored(client, bucket) == (b"theirs+", *NEW)


def test_a_link_that_others_make_of_an_open_file_is_not_written_to(
    fs, s3, client, bucket, ino, caplog
):
    """Where both are empty, they have the same ETag."""
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.setattr(CALLER, ino, NewAttr(size=0), handle)
    fs.flush(CALLER, handle)
    link = {"mode": str(0o120777), "symlink-target": "a"}
    client.put_object(Bucket=bucket, Key="x", Body=b"", Metadata=link)
    s3.kept.lately_s = 0
    write(fs, handle, b"new")
    with pytest.raises(UploadFailed) as refused:
        fs.flush(CALLER, handle)
    assert refused.value.errno == errno.ESTALE
    fs.release(handle)
    found = client.get_object(Bucket=bucket, Key="x")
    assert (found["Body"].read(), found["Metadata"]) == (b"", link)
    assert "is no regular file" in caplog.text


@pytest.mark.parametrize("lately_s", [60.0, 0.0])
def test_an_upload_asks_s3_once_if_its_last_answer_is_old(fs, s3, proxy, ino, lately_s):
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    write(fs, handle, b"1st")
    fs.flush(CALLER, handle)
    s3.kept.lately_s = lately_s
    proxy.counted()
    for text in (b"2nd", b"3rd"):
        write(fs, handle, text)
        fs.flush(CALLER, handle)
    fs.release(handle)
    asked = {} if lately_s else {"HEAD": 2}
    assert {kind: n for kind, n in proxy.counted().items() if kind != "GET"} == {"PUT": 2, **asked}


def test_what_is_known_is_stored_where_s3_does_not_let_us_ask(fs, s3, client, bucket, proxy, ino):
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    write(fs, handle, b"1st")
    fs.flush(CALLER, handle)
    s3.kept.lately_s = 0
    with proxy.rule(Fail(lambda request: request.kind == "HEAD", 403, "AccessDenied")):
        write(fs, handle, b"2nd")
        fs.flush(CALLER, handle)
    fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"2nd"
