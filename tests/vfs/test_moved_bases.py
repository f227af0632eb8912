"""Whatever programs and others do to one file, and in whatever order: no bytes of two versions come
together that nobody has put together, and none that were acknowledged are gone.

`--orders N` looks at more of them.
"""

from __future__ import annotations

import os
import random

import pytest
from support.kernels import Kernel
from support.mounts import wait_until
from support.orders import CALLER, SIZE, World, orders, usable

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.errors import MimicError, PosixError, Unlisted
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]


@pytest.fixture
def mount(s3, mimicdb, bucket, tmp_path):
    mounts = []

    def mount(**options):
        journal = Journal.open(tmp_path / str(len(mounts)))
        parts = (mimicdb, s3, Syncer(mimicdb, s3), journal, Kernel())
        files = FileOptions(journal.directory, **options)
        mounts.append(VFS(*parts, VFSOptions(Target(bucket)), files))
        listed(mounts[-1])
        return mounts[-1]

    yield mount
    for each in mounts:
        each.close()


@pytest.fixture
def fs(mount):
    return mount()


def listed(fs):
    try:
        fs.lookup(CALLER, ROOT_INO, b"none")
    except Unlisted as missing:
        fs.learn(CALLER, missing)
    except PosixError:
        pass


_MORE = {"": [], "mapped": ["store", "write_page"], "write-back": ["close"], "two mounts": []}


@pytest.mark.parametrize("how", _MORE)
def test_no_order_of_steps_mixes_versions_or_loses_bytes(
    mount, client, bucket, tmp_path, caplog, request, how
):
    count = request.config.getoption("orders")
    fs, beside = mount(write_back=how == "write-back"), mount() if how == "two mounts" else None
    chosen, more = random.Random(count), _MORE[how]
    short, long = ([each for each in orders(n, more) if usable(each, more)] for n in (3, 4))
    wanted = chosen.sample(short, min(count // 2, len(short))) + chosen.sample(long, count // 2)
    worlds, failed = [], []
    for number, steps in enumerate(wanted):
        place = (bucket, f"k{number}", tmp_path / "0" / "recovered")
        world = World(fs, client, *place, steps, beside)
        try:
            for step in steps:
                world.step(step)
            world.leave()
            worlds.append((steps, world))
        except AssertionError as exc:
            failed.append((steps, str(exc).splitlines()[0]))
    wait_until(lambda: not fs._handles.queued())  # once, as each closed file is left alone at first
    for steps, world in worlds:
        try:
            world.judge()
        except AssertionError as exc:
            failed.append((steps, str(exc).splitlines()[0]))
    caplog.clear()  # each loss is in the log
    assert failed == []


@pytest.mark.parametrize("how", ["descriptor", "path", "second descriptor"])
def test_what_others_replaced_by_as_many_bytes_can_be_extended(fs, client, bucket, how):
    client.put_object(Bucket=bucket, Key="f", Body=b"A" * SIZE)
    fs._s3.head(bucket, "f")
    ino = fs.lookup(CALLER, ROOT_INO, b"f").ino
    handles = [fs.open(CALLER, ino, os.O_RDWR).handle]
    if how == "second descriptor":
        handles.append(fs.open(CALLER, ino, os.O_RDWR).handle)
    client.put_object(Bucket=bucket, Key="f", Body=b"B" * SIZE)
    fs.setattr(CALLER, ino, NewAttr(size=SIZE + 2), None if how == "path" else handles[-1])
    for handle in handles:
        fs.flush(CALLER, handle)
        assert bytes(fs.read(CALLER, handle, 0, 99)) == b"BBBBBB\0\0"
    assert client.get_object(Bucket=bucket, Key="f")["Body"].read() == b"BBBBBB\0\0"


def test_two_descriptors_that_read_nothing_show_what_others_put_there(fs, client, bucket):
    client.put_object(Bucket=bucket, Key="f", Body=b"A" * SIZE)
    fs._s3.head(bucket, "f")
    ino = fs.lookup(CALLER, ROOT_INO, b"f").ino
    handles = [fs.open(CALLER, ino, os.O_RDONLY).handle for _ in range(2)]
    client.put_object(Bucket=bucket, Key="f", Body=b"B" * SIZE)
    assert [bytes(fs.read(CALLER, handle, 0, 99)) for handle in handles] == [b"BBBBBB"] * 2


def test_what_was_read_before_a_file_was_closed_is_not_mixed_with_what_comes_next(
    fs, client, bucket
):
    client.put_object(Bucket=bucket, Key="f", Body=b"A" * SIZE)
    fs._s3.head(bucket, "f")
    ino = fs.lookup(CALLER, ROOT_INO, b"f").ino
    first = fs.open(CALLER, ino, os.O_RDONLY)
    fs.read(CALLER, first.handle, 0, 2)
    fs.release(first.handle)
    second = fs.open(CALLER, ino, os.O_RDONLY)
    assert second.keep_cache  # the kernel has two bytes, of which this may have got some
    client.put_object(Bucket=bucket, Key="f", Body=b"B" * SIZE)
    with pytest.raises(MimicError, match="changed in S3"):
        fs.read(CALLER, second.handle, 2, 99)
