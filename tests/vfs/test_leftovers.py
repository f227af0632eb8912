"""A directory goes with what mimicfs has left in it, and with nothing else."""

from __future__ import annotations

import errno
import os
import time

import pytest
from support.kernels import Kernel

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
TWO_HOURS_NS = 2 * 3600 * 10**9
HEX = "0123456789abcdef"
ZEROS = [f"d/.mimicfs-zeros-{number:016x}" for number in range(3)]
LEFT = [
    *ZEROS,
    f"d/.mimicfs-{HEX}{HEX}",
    f"d/.mimicfs-{HEX}{HEX[::-1]}/",
    f"d/.mimicfs-{HEX[::-1]}{HEX}/a",
]
NEEDED_BY_NOBODY = [
    f"d/.mimicfs-check-{HEX}",
    f"d/.mimicfs-doctor-{HEX}-copy",
    f"d/.mimicfs-doctor-{HEX}-d/",
    f"d/.mimicfs-doctor-{HEX}-d/x",
]


@pytest.mark.parametrize(
    ("others", "removed"),
    [
        (NEEDED_BY_NOBODY, True),
        (["d/.mimicfs-zeros-ffffffffffffffff"], False),
        ([f"d/.mimicfs-{HEX[::-1]}{HEX}/theirs"], False),
        ([f"d/.mimicfs-{HEX[::-1]}{HEX}/b/theirs"], False),
        (["d/x"], False),
    ],
    ids=["nothing else", "needed by an upload", "a file in one", "a file below one", "a file"],
)
def test_a_directory_goes_with_all_that_mimicfs_left_in_it(
    s3, mimicdb, client, bucket, tmp_path, monkeypatch, others, removed
):
    monkeypatch.setattr(replacing, "_PAGE", 2, raising=False)
    for key in ("d/", *LEFT, *others):
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key == "d/" else b"0")
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + TWO_HOURS_NS)
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
    assert {each["Key"] for each in listed} == (set() if removed else {"d/", *LEFT, *others})
