"""Files that are closed before S3 has them (--write-back): safe on the disk, then on their way."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.mounts import wait_until
from support.proxy import Fail, Hold

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import Difference, Scope
from mimicfs.errors import Interrupted, UploadFailed
from mimicfs.files import segment
from mimicfs.files.journal import Journal
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Told:
    def flush(self, timeout_s):
        return True

    def __getattr__(self, name):
        return lambda *_, **__: None


class Flushed:
    """What a close comes to."""

    def __init__(self):
        self.done = threading.Event()
        self.error = None

    def __call__(self, error):
        self.error = error
        self.done.set()


@pytest.fixture
def fs(s3, mimicdb, bucket, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Told())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path, write_back=True))
    mimicdb.complete(bucket, Scope("", True, 1))
    saved(fs, "warm", b"warm")  # there is a segment, and it is known what the server does
    wait_until(lambda: fs.pending() == (0, 0))
    yield fs
    fs.close()


def made(fs, name, data=b""):
    """Make a file; return the handle that it is open with."""
    _, opened = fs.create(CALLER, ROOT_INO, name.encode(), 0o644, NEW)
    if data:
        fs.write(CALLER, opened.handle, 0, memoryview(data), append=False)
    return opened.handle


def saved(fs, name, data):
    handle = made(fs, name, data)
    fs.flush(CALLER, handle)
    fs.release(handle)


def puts(request):
    return request.kind == "PUT"


# Safe on the disk


def test_one_sync_makes_all_safe_that_are_closed_while_another_one_goes_on(fs, monkeypatch):
    go, synced = threading.Event(), []

    def fdatasync(fd):
        synced.append(fd)
        assert go.wait(20)

    monkeypatch.setattr(segment.os, "fdatasync", fdatasync)
    handles = [made(fs, name, b"data") for name in "abc"]
    closed = [Flushed() for _ in handles]
    assert fs.flush_later(handles[0], closed[0])
    wait_until(lambda: synced)
    assert [fs.flush_later(*each) for each in zip(handles[1:], closed[1:], strict=True)] == [
        True
    ] * 2
    assert not any(each.done.is_set() for each in closed)
    go.set()
    assert all(each.done.wait(20) for each in closed)
    assert [each.error for each in closed] == [None] * 3
    assert len(synced) == 2
    for handle in handles:
        fs.release(handle)


def test_what_the_disk_does_not_take_in_the_segment_is_safe_in_a_file_of_its_own(
    fs, tmp_path, monkeypatch, client, bucket
):
    def fails(fd):
        raise OSError(errno.EIO, "no")

    handle, closed = made(fs, "a", b"data"), Flushed()
    with monkeypatch.context() as patch:
        patch.setattr(segment.os, "fdatasync", fails)
        assert fs.flush_later(handle, closed)
        assert closed.done.wait(20)
    assert closed.error is None
    fs.release(handle)
    wait_until(lambda: fs.pending() == (0, 0))
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"data"


@pytest.mark.parametrize("threads", [True, False])
def test_a_close_has_an_answer_whatever_happens_to_the_sync(fs, monkeypatch, threads):
    def fails(fd):
        raise ValueError("unforeseen")

    start = threading.Thread.start

    def refuses(thread):
        if thread.name == "closing":
            raise RuntimeError("can't start new thread")
        start(thread)

    handle, closed = made(fs, "a", b"data"), Flushed()
    with monkeypatch.context() as patch:
        patch.setattr(segment.os, "fdatasync", fails)
        if not threads:
            patch.setattr(threading.Thread, "start", refuses)
        assert fs.flush_later(handle, closed)
        assert closed.done.wait(20)
    assert closed.error is None
    fs.release(handle)
    wait_until(lambda: fs.pending() == (0, 0))


def test_closes_go_on_after_no_thread_could_be_started_for_them(fs, monkeypatch, client, bucket):
    def refuses(thread):
        raise RuntimeError("can't start new thread")

    handle, closed = made(fs, "a", b"data"), Flushed()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError):  # then a worker closes it
            fs.flush_later(handle, closed)
    assert fs.flush_later(handle, closed)
    assert closed.done.wait(20)
    fs.release(handle)
    wait_until(lambda: fs.pending() == (0, 0))
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"data"


def test_a_close_that_the_disk_does_not_make_safe_waits_for_s3(
    fs, monkeypatch, client, bucket, proxy, caplog
):
    def fails(fd):
        raise OSError(errno.EIO, "no")

    handle, closed = made(fs, "a", b"data"), Flushed()
    with monkeypatch.context() as patch, proxy.rule(Hold(puts)) as hold:
        patch.setattr(segment.os, "fdatasync", fails)
        patch.setattr(segment.os, "fsync", fails)
        assert fs.flush_later(handle, closed)
        assert hold.reached.wait(60)
        assert not closed.done.is_set()
        hold.release()
        assert closed.done.wait(20)
    assert closed.error is None
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"data"
    fs.release(handle)


def test_a_close_that_neither_the_disk_nor_s3_takes_is_an_error(fs, monkeypatch, proxy, caplog):
    def fails(fd):
        raise OSError(errno.EIO, "no")

    handle, closed = made(fs, "a", b"data"), Flushed()
    with monkeypatch.context() as patch, proxy.rule(Fail(puts, 403, "AccessDenied")):
        patch.setattr(segment.os, "fdatasync", fails)
        patch.setattr(segment.os, "fsync", fails)
        assert fs.flush_later(handle, closed)
        assert closed.done.wait(20)
    assert isinstance(closed.error, UploadFailed)
    assert closed.error.errno == errno.EACCES
    fs.release(handle)


def test_what_waits_for_more_than_the_disk_is_closed_by_a_worker(fs):
    empty, large, ours = made(fs, "empty"), made(fs, "large", bytes(65_537)), made(fs, "x", b"x")
    assert not fs.flush_later(empty, Flushed())
    assert not fs.flush_later(large, Flushed())  # it has a file of its own
    with fs._handles.file(ours).still(Cancellation()):
        turn = threading.Thread(target=lambda: taken.append(fs.flush_later(ours, Flushed())))
        taken = []
        turn.start()
        turn.join(20)
        assert taken == [False]
    for handle in (empty, large, ours):
        fs.flush(CALLER, handle)
        assert not fs.flush_later(handle, Flushed()) or handle == ours
        fs.release(handle)


# On its way


def test_more_closed_files_are_on_their_way_than_threads_wait(fs, client, bucket, proxy):
    names = [f"f{n:02}" for n in range(24)]
    with proxy.rule(Hold(puts)) as hold:
        for name in names:
            saved(fs, name, name.encode())
        wait_until(lambda: hold.seen == 24)
        hold.release()
        wait_until(lambda: fs.pending() == (0, 0))
    for name in names:
        assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == name.encode()
    wait_until(lambda: fs._handles.figures()["handles"] == 0)


@pytest.mark.parametrize("change", ["write", "unlink", "rename"])
def test_who_changes_a_file_does_not_wait_for_its_upload(fs, client, bucket, proxy, change):
    with proxy.rule(Hold(puts)) as hold:
        saved(fs, "a", b"first")
        assert hold.reached.wait(60)
        if change == "write":
            handle = fs.open(CALLER, fs.lookup(CALLER, ROOT_INO, b"a").ino, os.O_WRONLY).handle
            fs.write(CALLER, handle, 0, memoryview(b"other"), append=False)
            fs.flush(CALLER, handle)
            fs.release(handle)
        hold.release()
        if change == "unlink":
            fs.unlink(CALLER, ROOT_INO, b"a")
        elif change == "rename":
            fs.rename(CALLER, ROOT_INO, b"a", ROOT_INO, b"b", 0)
        wait_until(lambda: fs.pending() == (0, 0))
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    expected = {"write": {"a": b"other"}, "unlink": {}, "rename": {"b": b"first"}}[change]
    keys = [each["Key"] for each in found]
    assert {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
    } == expected | {"warm": b"warm"}
    wait_until(lambda: fs._handles.figures()["handles"] == 0)


def test_a_copy_within_s3_onto_a_file_waits_for_its_upload_that_is_on_its_way(
    fs, client, bucket, proxy
):
    for name in ("source", "target"):
        saved(fs, name, name.encode())
    wait_until(lambda: fs.pending() == (0, 0))
    source, target = (fs.lookup(CALLER, ROOT_INO, name).ino for name in (b"source", b"target"))
    with proxy.rule(Hold(puts)) as hold, ThreadPoolExecutor(1) as pool:
        emptied = fs.open(CALLER, target, os.O_WRONLY | os.O_TRUNC).handle
        fs.flush(CALLER, emptied)
        fs.release(emptied)
        assert hold.reached.wait(60)
        opened = fs.open(CALLER, source, os.O_RDONLY), fs.open(CALLER, target, os.O_WRONLY)
        asked = (CALLER, opened[0].handle, 0, opened[1].handle, 0, 100)
        copied = pool.submit(fs.copy_file_range, *asked)
        with pytest.raises(TimeoutError):
            copied.result(0.3)
        hold.release()
        assert copied.result(20) == 6
    fs.write(CALLER, opened[1].handle, 6, memoryview(b", and more"), append=False)
    fs.flush(CALLER, opened[1].handle)
    for each in opened:
        fs.release(each.handle)
    wait_until(lambda: fs.pending() == (0, 0))
    found = client.get_object(Bucket=bucket, Key="target")["Body"].read()
    assert found == b"source, and more"


def test_neither_an_open_nor_a_refresh_drops_the_pages_of_a_file_that_is_being_written(
    fs, mimicdb, bucket, proxy, monkeypatch
):
    saved(fs, "a", b"first")
    wait_until(lambda: fs.pending() == (0, 0))
    before = mimicdb.entry(bucket, "a").etag
    ino, gone = fs.lookup(CALLER, ROOT_INO, b"a").ino, Cancellation()
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_APPEND).handle
    with proxy.rule(Hold(puts, answers=True)) as hold, ThreadPoolExecutor(1) as pool:
        fs.write(CALLER, handle, 5, memoryview(b"1"), append=True)
        synced = pool.submit(fs.fsync, CALLER._replace(cancellation=gone), handle)
        assert hold.reached.wait(60)
        gone.cancel()
        with pytest.raises(Interrupted):
            synced.result(20)
        fs.write(CALLER, handle, 6, memoryview(b"2"), append=True)
    wait_until(lambda: mimicdb.entry(bucket, "a").etag != before)
    dropped = []
    tell = lambda ino, _: dropped.append(ino)  # noqa: E731
    monkeypatch.setattr(fs._kernel._kernel, "data_changed", tell, raising=False)
    fs._kernel.changed(bucket, Difference([], ["a"], [], 0))
    assert dropped == []
    opened = fs.open(CALLER, ino, os.O_RDONLY)
    assert opened.keep_cache
    for each in (handle, opened.handle):
        fs.release(each)


def test_a_copy_within_s3_is_of_its_source_as_it_was_when_that_is_written_meanwhile(
    fs, client, bucket, proxy
):
    saved(fs, "source", b"source")
    wait_until(lambda: fs.pending() == (0, 0))
    ino = fs.lookup(CALLER, ROOT_INO, b"source").ino
    source, writer = (fs.open(CALLER, ino, flags).handle for flags in (os.O_RDONLY, os.O_WRONLY))
    target = fs.create(CALLER, ROOT_INO, b"target", 0o644, os.O_WRONLY)[1].handle
    turn = fs._handles.file(writer)._change

    def write():
        fs.write(CALLER, writer, 6, memoryview(b", and more"), append=False)
        fs.fsync(CALLER, writer)

    copying = Hold(lambda request: request.kind == "COPY")
    with proxy.rule(copying), ThreadPoolExecutor(2) as pool:
        copied = pool.submit(fs.copy_file_range, CALLER, source, 0, target, 0, 100)
        assert copying.reached.wait(60)
        written = pool.submit(write)
        wait_until(lambda: written.done() or bool(turn._waiting))
        copying.release()
        assert copied.result(20) == 6
        written.result(20)
    for each in (source, writer, target):
        fs.release(each)
    found = [
        client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in ("target", "source")
    ]
    assert found == [b"source", b"source, and more"]


def test_what_s3_refuses_is_tried_again_with_all_it_says(
    fs, client, bucket, proxy, monkeypatch, caplog
):
    monkeypatch.setattr("mimicfs.vfs.writeback._AGAIN_S", (0.1, 0.1))
    with proxy.rule(Fail(puts, 403, "AccessDenied")) as rule:
        saved(fs, "a", b"data")
        wait_until(lambda: rule.seen > 1)
        wait_until(lambda: [each.error for each in fs.queued()] != [""])
    wait_until(lambda: fs.pending() == (0, 0))
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"data"


def test_what_is_on_its_way_when_the_mount_ends_is_waited_for(fs, client, bucket, proxy):
    with proxy.rule(Hold(puts)) as hold:
        saved(fs, "a", b"data")
        assert hold.reached.wait(60)
        end = threading.Thread(target=fs._handles._behind.close)
        end.start()
        end.join(0.2)
        assert end.is_alive()
        hold.release()
        end.join(20)
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"data"
    assert fs.queued() == []
