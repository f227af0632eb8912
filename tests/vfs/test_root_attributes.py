"""Mode, owner and extended attributes of buckets, which the mirror notes."""

from __future__ import annotations

import errno
import json
import os
from functools import partial

import pytest
from support.kernels import Kernel

from mimicfs.backends.lease import Lease
from mimicfs.backends.memory import Memory
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import (
    BucketOptions,
    Buckets,
    FileOptions,
    S3Options,
    Target,
    VFSOptions,
)
from mimicfs.entry import Difference, Scope
from mimicfs.errors import PosixError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr, PassingAttr
from mimicfs.s3.requests.client import S3
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS
from mimicfs.vfs.rootattributes import RootAttributes

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


@pytest.fixture
def fs(s3, mimicdb, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target("")), FileOptions(tmp_path))
    yield fs
    fs.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_set_of_a_removed_directory_is_set_of_no_bucket(fs):
    top = fs.mkdir(CALLER, ROOT_INO, f"top-{os.getpid()}".encode(), 0o755)
    for directory, over in [(b"removed", b""), (b"replaced", b"over")]:
        ino = fs.mkdir(CALLER, top.ino, directory, 0o750).ino
        fs.setxattr(CALLER, ino, b"user.a", b"1", 0)
        if over:
            fs.mkdir(CALLER, top.ino, over, 0o750)
            fs.rename(CALLER, top.ino, over, top.ino, directory, 0)
        else:
            fs.rmdir(CALLER, top.ino, directory)
        assert fs.setattr(CALLER, ino, NewAttr(mode=0o700, uid=7), None).nlink == 0
        fs.setxattr(CALLER, ino, b"user.b", b"2", 0)
        found = fs.getattr(CALLER, ino, None)
        assert (found.mode, found.uid, found.nlink) == (0o40700, 7, 0)
        assert fs.listxattr(CALLER, ino) == [b"user.a", b"user.b"]
        for call in (
            fs.opendir,
            partial(fs.setxattr, name=b"user.mimicfs.sync", value=b"", flags=0),
        ):
            with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
                call(CALLER, ino)
    now = fs.getattr(CALLER, top.ino, None)
    assert (now.mode, now.uid, now.nlink) == (top.mode, top.uid, 1)
    assert fs.listxattr(CALLER, top.ino) == []


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_bucket_that_is_made_anew_has_nothing_of_the_one_before(fs):
    name = f"anew-{os.getpid()}"
    fresh = fs.mkdir(CALLER, ROOT_INO, name.encode(), 0o755)
    fs.setattr(CALLER, fresh.ino, NewAttr(mode=0o700), None)
    fs.setxattr(CALLER, fresh.ino, b"user.a", b"1", 0)
    fs.rmdir(CALLER, ROOT_INO, name.encode())
    again = fs.mkdir(CALLER, ROOT_INO, name.encode(), 0o755)
    assert (fresh.mode, again.mode) == (0o40755, 0o40755)
    assert fs.listxattr(CALLER, again.ino) == []


@pytest.mark.parametrize(
    "told",
    [
        ("", Difference([], [], ["b"], 0)),
        ("", Difference(["b"], [], [], 0)),
        ("", None),
        ("b", None),
    ],
)
def test_what_others_have_removed_or_made_is_asked_for_again(told):
    mirror = Mirror(Memory())
    roots = RootAttributes(mirror, Buckets())
    roots.set("b", {"mode": "16832"})
    mirror.subscribe(roots.changed)
    mirror.set_note("b", "attributes", None)
    mirror.announce(*told)
    assert roots.entry("b") is None


def test_what_was_read_before_a_change_is_not_remembered_after_it():
    class Slow(Mirror):
        """One in which a note is changed while it is on its way to the reader."""

        def note(self, bucket, name):
            found = super().note(bucket, name)
            roots.set(bucket, {"mode": "new"})
            return found

    mirror = Slow(Memory())
    mirror.set_note("b", "attributes", json.dumps({"mode": "old"}))
    roots = RootAttributes(mirror, Buckets())
    roots.entry("b")
    assert roots.entry("b").meta == {"mode": "new"}


class Store(Memory):
    """A shared one that says which buckets' attributes it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []
        for name in ("a", "b", "plain"):
            self.add_bucket(name, 1)
            self.set_note(name, "attributes", json.dumps({"mode": str(0o40700)}))
        self.mark("", Scope("", False, 1))

    def note(self, bucket, name):
        if name == "attributes":
            self.asked.append(bucket)
        return super().note(bucket, name)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_buckets_are_shown_while_the_store_is_away_and_asked_for_once(server, tmp_path):
    store, lease = Store(), Lease()
    lease.renew()
    mirror = Mirror(Replica(store, SQLite(), lease))
    s3 = S3(S3Options(endpoint_url=server), mirror)
    buckets = Buckets(BucketOptions(), {"plain": BucketOptions(metadata="no")})
    parts = (mirror, s3, Syncer(mirror, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(""), buckets=buckets), FileOptions(tmp_path))
    mirror.bring("", "")

    def listed():
        found = fs.readdir(CALLER, ROOT_INO, 0, 4096, 24, False)
        return {each.name: (each.attr.mode, type(each.attr) is PassingAttr) for each in found}

    assert fs.lookup(CALLER, ROOT_INO, b"a").mode == 0o40700
    assert fs.lookup(CALLER, ROOT_INO, b"plain").mode == 0o40755
    store.asked.clear()
    lease.lose()
    assert fs.lookup(CALLER, ROOT_INO, b"a").mode == 0o40700
    assert type(fs.lookup(CALLER, ROOT_INO, b"b")) is PassingAttr  # the kernel asks again
    assert listed() == {b"a": (0o40700, True), b"b": (0o40755, True), b"plain": (0o40755, True)}
    lease.renew()
    assert listed() == {b"a": (0o40700, False), b"b": (0o40700, False), b"plain": (0o40755, False)}
    listed()
    assert store.asked == ["b"]
    fs.close()
    s3.close()
    mirror.close()
