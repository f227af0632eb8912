"""Of a directory or a bucket that is made, only what is certain counts as listed."""

import os
from types import SimpleNamespace

import pytest
from support.kernels import Kernel
from support.proxy import Fail

from mimicfs.backends.memory import Memory
from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import Scope
from mimicfs.errors import S3Unavailable
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.filesystem import VFS
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.making import Making


def test_a_new_directory_counts_as_listed_before_its_key_is_known_and_not_if_that_fails():
    mimicdb, parent = Mirror(Memory()), Inodes("bucket").root
    mimicdb.complete("bucket", Scope("", False, 1))
    known = []

    def make(bucket, key, _meta):
        known.append((key, mimicdb.covered(bucket, key, deep=True)))
        if key == "fails/":
            raise S3Unavailable("S3 is away")

    nobody = SimpleNamespace(inherited_group=lambda *_: None, of_new=lambda *_: (0, 0))
    stored = SimpleNamespace(markers=SimpleNamespace(make=make, are_kept=True))
    claims = RenameClaims(mimicdb)
    making = Making(mimicdb, *[None] * 3, stored, None, nobody, claims, VFSOptions(), None)
    making._make_directory(None, parent, "d/", 0o755)
    with pytest.raises(S3Unavailable):
        making._make_directory(None, parent, "fails/", 0o755)
    assert known == [("d/", True), ("fails/", True)]
    covered = [mimicdb.covered("bucket", key, deep=True) for key in ("d/", "fails/")]
    assert covered == [True, False]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_bucket_that_was_there_already_does_not_count_as_empty(
    s3, mimicdb, client, proxy, tmp_path
):
    """S3 answers 200 for it, as it does in us-east-1; only a LIST says what is in it."""
    name = f"there-{os.getpid()}"
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target("")), FileOptions(tmp_path))
    mimicdb.replace_buckets([], 0)
    client.create_bucket(Bucket=name)
    client.put_object(Bucket=name, Key="a", Body=b"x")
    caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        fs.mkdir(caller, ROOT_INO, name.encode(), 0o755)
    assert not mimicdb.covered(name, "")
    fs.close()
