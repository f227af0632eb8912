"""A directory goes with what old uploads have left in it, and with nothing else."""

from __future__ import annotations

import errno
import os
import time

import pytest

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.errors import PosixError
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs import replacing
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
TWO_DAYS_NS = 2 * 86_400 * 10**9
ZEROS = [f"d/.mimicfs-zeros-{number:016x}" for number in range(3)]


class Kernel:
    """One that believes what it is told."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.mark.parametrize(
    ("others", "removed"),
    [([], True), (["d/.mimicfs-zeros-ffffffffffffffff"], False), (["d/x"], False)],
    ids=["nothing else", "one that an upload may need", "a file"],
)
def test_a_directory_goes_with_all_that_old_uploads_left_in_it(
    s3, mimicdb, client, bucket, tmp_path, monkeypatch, others, removed
):
    monkeypatch.setattr(replacing, "_PAGE", 2, raising=False)
    for key in ("d/", *ZEROS, *others):
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key == "d/" else b"0")
    syncer = Syncer(mimicdb, s3)
    syncer.sync(bucket)
    old = [mimicdb.entry(bucket, key) for key in ZEROS]
    two_days_ago = time.time_ns() - TWO_DAYS_NS
    mimicdb.backend.apply(bucket, [each._replace(mtime_ns=two_days_ago) for each in old])
    parts = (mimicdb, s3, syncer, Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    if removed:
        fs.rmdir(CALLER, ROOT_INO, b"d")
    else:
        with pytest.raises(PosixError) as refused:
            fs.rmdir(CALLER, ROOT_INO, b"d")
        assert refused.value.errno == errno.ENOTEMPTY
    fs.close()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    assert {each["Key"] for each in listed} == (set() if removed else {"d/", *ZEROS, *others})
