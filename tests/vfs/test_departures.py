"""In one mount, nobody meets the moment in which a rename deletes the originals of a directory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.kernels import Kernel
from support.mounts import wait_until
from support.proxy import Fail, Hold, Proxy, Request

from mimicfs.config.values import BucketOptions, Buckets, FileOptions, Target, VFSOptions
from mimicfs.entry import Difference, Entry
from mimicfs.errors import Departing, Interrupted, PosixError, StoreUnavailable
from mimicfs.files.journal import Journal
from mimicfs.files.turn import Turn
from mimicfs.files.upload import Uploader
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.departures import Departures
from mimicfs.vfs.filesystem import VFS
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.moves import Mover
from mimicfs.vfs.nodes import Node

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
Inos = dict[str, int]


@pytest.fixture
def fs(s3: S3, mimicdb: Mirror, client: Any, bucket: str, tmp_path: Path) -> Iterator[VFS]:
    for key in ("d/", "d/a", "d/b", "d/s/c"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() if key[-1] != "/" else b"")
    syncer = Syncer(mimicdb, s3)
    syncer.sync(bucket)
    options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
    parts = (mimicdb, s3, syncer, Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, options, FileOptions(tmp_path))
    yield fs
    fs.close()


@pytest.fixture
def inos(fs: VFS) -> Inos:
    found = {"d": fs.lookup(CALLER, ROOT_INO, b"d").ino}
    found |= {name: fs.lookup(CALLER, found["d"], name.encode()).ino for name in ("a", "b", "s")}
    return found


def _deletion(request: Request) -> bool:
    return request.kind == "DELETE" or "delete" in request.query


@contextmanager
def _deleting(fs: VFS, proxy: Proxy, pool: ThreadPoolExecutor) -> Iterator[Future[None]]:
    """Within, a rename of d to e waits for S3 to delete the originals; it ends behind it."""
    with proxy.rule(Hold(_deletion)) as deletion:
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert deletion.reached.wait(60)
        yield renaming
        deletion.release()
        renaming.result(30)


def _answered(fs: VFS, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what *call* answers to a caller that may wait, as the workers of a mount do."""
    while True:
        try:
            return call(CALLER, *arguments)
        except Departing as missing:
            fs.learn(CALLER, missing)


def _wait_until_it_waits(count: int) -> None:
    """Return when *count* threads wait for a rename."""
    wait_until(lambda: _waiting() == count, 10)


def _waiting() -> int:
    code = Departures.wait.__code__
    return sum(_is_in(frame, code) for frame in sys._current_frames().values())


def _is_in(frame: Any, code: Any) -> bool:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def test_what_is_changed_while_the_originals_are_deleted_is_changed_at_the_new_place(
    fs: VFS, inos: Inos, proxy: Proxy, client: Any, bucket: str
) -> None:
    d = inos["d"]
    calls: list[tuple[Any, ...]] = [
        (fs.setattr, inos["a"], NewAttr(mode=0o600), None),
        (fs.setxattr, inos["a"], b"user.x", b"1", 0),
        (fs.setattr, d, NewAttr(mode=0o700), None),
        (fs.unlink, d, b"b"),
        (fs.mkdir, d, b"made", 0o755),
        (fs.symlink, d, b"link", b"a"),
        (fs.create, d, b"new", 0o644, os.O_WRONLY),
        (fs.setattr, inos["s"], NewAttr(mode=0o711), None),
    ]
    with ThreadPoolExecutor(1 + len(calls)) as pool:
        with _deleting(fs, proxy, pool):
            done = [pool.submit(_answered, fs, *call) for call in calls]
            _wait_until_it_waits(len(calls))
        answers = [each.result(10) for each in done]
    fs.release(answers[6][1].handle)
    e = fs.lookup(CALLER, ROOT_INO, b"e").ino
    assert e == d
    assert fs.getattr(CALLER, e, None).mode & 0o777 == 0o700
    assert fs.lookup(CALLER, e, b"a").mode & 0o777 == 0o600
    assert fs.getxattr(CALLER, inos["a"], b"user.x") == b"1"
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    names = ["e/", "e/a", "e/link", "e/made/", "e/new", "e/s/", "e/s/c"]
    assert [each["Key"] for each in listed] == names
    said = client.head_object(Bucket=bucket, Key="e/a")["Metadata"]
    assert (said["mode"], "xattr" in said) == ("33152", True)


def test_who_looks_while_the_originals_are_deleted_sees_what_is_at_the_new_place(
    fs: VFS, inos: Inos, proxy: Proxy
) -> None:
    calls: list[tuple[Any, ...]] = [
        (fs.lookup, inos["d"], b"a"),
        (fs.getattr, inos["b"], None),
        (fs.readdir, inos["s"], 0, 4096, 152, True),
        (fs.open, inos["b"], os.O_RDONLY),
        (fs.getxattr, inos["a"], b"user.mimicfs.key"),
    ]
    with ThreadPoolExecutor(1 + len(calls)) as pool:
        with _deleting(fs, proxy, pool):
            for call, *arguments in calls:
                if call != fs.open:  # that waits by itself
                    with pytest.raises(Departing):
                        call(CALLER, *arguments)
            assert fs.open_at_once(CALLER, inos["b"], os.O_RDONLY) is None
            done = [pool.submit(_answered, fs, *call) for call in calls]
            _wait_until_it_waits(len(calls))
            gone = Cancellation()
            gone.cancel()
            with pytest.raises(Interrupted):
                fs.learn(CALLER._replace(cancellation=gone), Departing(""))
        found, attr, listed, opened, key = (each.result(10) for each in done)
    assert (found.size, attr.size) == (3, 3)
    assert [each.name for each in listed] == [b"c"]
    assert bytes(fs.read(CALLER, opened.handle, 0, 9)) == b"d/b"
    assert key == b"e/a"
    fs.release(opened.handle)


def test_a_rename_waits_for_changes_below_that_have_begun(
    fs: VFS, inos: Inos, proxy: Proxy, client: Any, bucket: str
) -> None:
    changing = Hold(lambda request: request.kind == "COPY" and request.key == "d/a")
    with proxy.rule(changing), ThreadPoolExecutor(2) as pool:
        changed = pool.submit(fs.setattr, CALLER, inos["a"], NewAttr(mode=0o600), None)
        assert changing.reached.wait(60)
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        wait_until(lambda: bool(fs._handles.departures._quiet), 10)
        assert [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]] == [
            *("d/", "d/a", "d/b", "d/s/c"),
            *("e/", "e/a", "e/b", "e/s/c"),
        ]
        changing.release()
        changed.result(10)
        renaming.result(30)
    assert client.head_object(Bucket=bucket, Key="e/a")["Metadata"]["mode"] == "33152"
    assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix="d/")


def _last_listing() -> Hold:
    """Hold the listing of d once everything in it was copied."""
    copied = threading.Event()

    def is_last(request: Request) -> bool:
        if request.kind == "COPY" and request.key == "e/s/c":
            copied.set()
        return copied.is_set() and request.kind == "LIST" and request.query["prefix"] == ["d/"]

    return Hold(is_last)


def test_a_rename_that_fails_lets_everybody_go_on_at_the_old_place(
    fs: VFS, inos: Inos, proxy: Proxy, client: Any, bucket: str
) -> None:
    gone = Cancellation()
    caller = CALLER._replace(cancellation=gone)
    listing = _last_listing()
    with proxy.rule(listing), ThreadPoolExecutor(2) as pool:
        renaming = pool.submit(fs.rename, caller, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert listing.reached.wait(60)
        changed = pool.submit(_answered, fs, fs.setattr, inos["a"], NewAttr(mode=0o600), None)
        _wait_until_it_waits(1)
        gone.cancel()
        listing.release()
        with pytest.raises(Interrupted):
            renaming.result(30)
        changed.result(10)
    assert client.head_object(Bucket=bucket, Key="d/a")["Metadata"]["mode"] == "33152"
    assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix="e/")


@pytest.mark.parametrize("flags", [os.O_TRUNC, os.O_EXCL])
def test_a_file_that_is_made_anew_with_its_old_bytes_behind_its_copy_is_at_the_new_place(
    fs: VFS, inos: Inos, proxy: Proxy, mimicdb: Mirror, client: Any, bucket: str, flags: int
) -> None:
    copying = Hold(lambda request: request.kind == "COPY" and request.key == "e/s/c")
    listing = _last_listing()
    with ThreadPoolExecutor(2) as pool, proxy.rule(listing), proxy.rule(copying):
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert copying.reached.wait(60)
        wait_until(lambda: mimicdb.entry(bucket, "e/a") is not None, 10)
        fs.unlink(CALLER, inos["d"], b"a")
        handle = fs.create(CALLER, inos["d"], b"a", 0o644, os.O_WRONLY | flags)[1].handle
        fs.write(CALLER, handle, 0, memoryview(b"d/a"), append=False)
        copying.release()
        assert listing.reached.wait(60)
        closed = pool.submit(fs.flush, CALLER, handle)
        wait_until(lambda: closed.done() or _waiting() == 1, 10)
        listing.release()
        renaming.result(30)
        closed.result(10)
    fs.release(handle)
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [each["Key"] for each in listed] == ["e/", "e/a", "e/b", "e/s/c"]


def test_what_is_closed_while_a_rename_waits_for_another_file_is_read_by_the_old_name(
    fs: VFS, inos: Inos, proxy: Proxy, client: Any, bucket: str
) -> None:
    a, b = (fs.open(CALLER, inos[name], os.O_RDWR).handle for name in ("a", "b"))
    copying = Hold(lambda request: request.kind == "COPY" and request.key == "e/s/c")
    sending = Hold(lambda request: request.kind == "PUT" and request.key == "d/b")
    with ThreadPoolExecutor(2) as pool, proxy.rule(copying), proxy.rule(sending):
        renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert copying.reached.wait(60)
        fs.write(CALLER, b, 0, memoryview(b"new"), append=False)
        sent = pool.submit(fs.fsync, CALLER, b)
        assert sending.reached.wait(60)
        copying.release()
        wait_until(_is_waiting_for_a_turn, 10)
        fs.write(CALLER, a, 0, memoryview(b"new"), append=False)
        fs.flush(CALLER, a)
        fs.release(a)
        again = fs.open(CALLER, inos["a"], os.O_RDWR).handle
        assert fs.read(CALLER, again, 0, 9) == b"new"
        sending.release()
        sent.result(10)
        renaming.result(30)
    for handle in (again, b):
        fs.release(handle)
    stored = [client.get_object(Bucket=bucket, Key=f"e/{name}")["Body"].read() for name in "ab"]
    assert stored == [b"new", b"new"]


def _is_waiting_for_a_turn() -> bool:
    """Whether the rename waits for somebody who uploads a file."""
    code = Mover._open_below.__code__
    frames = list(sys._current_frames().values())
    return any(_is_in(each, code) and _is_in(each, Turn._take.__code__) for each in frames)


# What an open file uploads, and the copies of a rename


@contextmanager
def _renaming(fs: VFS, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Within, d is being renamed to e; it is renamed in the end."""
    renaming = pool.submit(fs.rename, CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
    yield
    renaming.result(30)


def _append(fs: VFS, handle: int, data: bytes) -> None:
    fs.write(CALLER, handle, 0, memoryview(data), append=True)


def _give_up(fs: VFS, handle: int, sending: Hold, pool: ThreadPoolExecutor) -> None:
    """Upload the file of *handle*, and give that up where *sending* holds it."""
    gone = Cancellation()
    sent = pool.submit(fs.fsync, CALLER._replace(cancellation=gone), handle)
    assert sending.reached.wait(60)
    gone.cancel()
    with pytest.raises(Interrupted):
        sent.result(10)


def _is(kind: str, key: str, nth: int = 1) -> Callable[[Request], bool]:
    """Return what is true of the *nth* request of that kind for *key*."""
    seen = count(1)
    return lambda each: (each.kind, each.key) == (kind, key) and next(seen) == nth


def _waits_in(code: Any) -> bool:
    return any(_is_in(frame, code) for frame in list(sys._current_frames().values()))


@pytest.fixture
def appender(fs: VFS, inos: Inos) -> Iterator[int]:
    handle = fs.open(CALLER, inos["a"], os.O_WRONLY | os.O_APPEND).handle
    yield handle
    fs.release(handle)


def test_what_s3_has_got_of_an_upload_that_was_given_up_is_at_the_new_place(
    fs: VFS, appender: int, proxy: Proxy, client: Any, bucket: str
) -> None:
    copying = Hold(_is("COPY", "e/a"))
    sending = Hold(_is("PUT", "d/a"), answers=True)
    with ThreadPoolExecutor(2) as pool, _renaming(fs, pool), proxy.rule(copying):
        assert copying.reached.wait(60)
        with proxy.rule(sending):
            _append(fs, appender, b"1")
            _give_up(fs, appender, sending, pool)
            _append(fs, appender, b"2")
            copying.release()  # S3 refuses it: there is another version by now
    fs.fsync(CALLER, appender)
    assert client.get_object(Bucket=bucket, Key="e/a")["Body"].read() == b"d/a12"


def test_what_s3_gets_of_an_upload_that_was_given_up_while_it_is_copied_is_there_once(
    fs: VFS, appender: int, proxy: Proxy, client: Any, bucket: str
) -> None:
    copying, listing = Hold(_is("COPY", "e/s/c")), _last_listing()
    sending, refusing = Hold(_is("PUT", "d/a")), Hold(_is("PUT", "e/a"), answers=True)
    with ThreadPoolExecutor(2) as pool, proxy.rule(refusing):
        with _renaming(fs, pool), proxy.rule(listing), proxy.rule(copying), proxy.rule(sending):
            assert copying.reached.wait(60)
            _append(fs, appender, b"1")
            _give_up(fs, appender, sending, pool)
            _append(fs, appender, b"2")
            copying.release()
            wait_until(lambda: listing.reached.is_set() or _waits_in(Uploader.settle.__code__), 10)
            sending.release()
            assert listing.reached.wait(60)
            wait_until(
                lambda: client.head_object(Bucket=bucket, Key="d/a")["ContentLength"] == 4, 10
            )
            synced = pool.submit(fs.fsync, CALLER, appender)
            wait_until(lambda: refusing.reached.is_set() or _waiting() == 1, 10)
        refusing.release()
        synced.result(10)
    assert client.get_object(Bucket=bucket, Key="e/a")["Body"].read() == b"d/a12"


def test_no_copy_replaces_what_an_open_file_uploads_to_the_new_place(
    fs: VFS, appender: int, proxy: Proxy, client: Any, bucket: str
) -> None:
    listing, copying = _last_listing(), Hold(_is("COPY", "e/a", nth=2))
    first = Hold(_is("COPY", "e/s/c"))
    rules = (proxy.rule(listing), proxy.rule(copying), proxy.rule(first))
    with ThreadPoolExecutor(2) as pool, _renaming(fs, pool), rules[0], rules[1], rules[2]:
        assert first.reached.wait(60)
        _append(fs, appender, b"1")
        first.release()
        assert listing.reached.wait(60)
        client.put_object(Bucket=bucket, Key="d/a", Body=b"theirs")
        listing.release()
        assert copying.reached.wait(60)
        synced = pool.submit(fs.fsync, CALLER, appender)
        taking = Turn._take.__code__
        wait_until(lambda: synced.done() or _waits_in(taking), 10)
        copying.release()
        synced.result(10)
    assert client.get_object(Bucket=bucket, Key="e/a")["Body"].read() == b"theirs1"


def test_an_append_to_what_others_replace_before_it_is_copied_is_behind_that(
    fs: VFS, appender: int, proxy: Proxy, client: Any, bucket: str
) -> None:
    copying = Hold(_is("COPY", "e/a"))
    with ThreadPoolExecutor(1) as pool, _renaming(fs, pool), proxy.rule(copying):
        assert copying.reached.wait(60)
        _append(fs, appender, b"1")
        client.put_object(Bucket=bucket, Key="d/a", Body=b"theirs")
        copying.release()
    fs.fsync(CALLER, appender)
    assert client.get_object(Bucket=bucket, Key="e/a")["Body"].read() == b"theirs1"


@pytest.mark.parametrize("theirs", [b"", b"theirs"])
@pytest.mark.parametrize("moved", ["directory", "file"])
def test_news_of_the_old_name_are_not_of_an_open_file_that_stands_at_the_new_one(
    fs: VFS,
    inos: Inos,
    mimicdb: Mirror,
    client: Any,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    moved: str,
    theirs: bytes,
) -> None:
    handle = fs.open(CALLER, inos["a"], os.O_RDWR | os.O_APPEND).handle
    move = Inodes.move

    def told_just_before(inodes: Inodes, node: Node, parent: Node, component: str) -> None:
        if theirs:  # others have put another one there
            etag = client.put_object(Bucket=bucket, Key="d/a", Body=theirs)["ETag"].strip('"')
            mimicdb.record(bucket, Entry("d/a", len(theirs), time.time_ns(), etag, meta={}))
            fs._kernel.changed(bucket, Difference(["d/a"], [], [], 0))
        else:
            fs._kernel.changed(bucket, Difference([], [], ["d/a"], 0))
        move(inodes, node, parent, component)

    monkeypatch.setattr(Inodes, "move", told_just_before)
    old = (ROOT_INO, b"d") if moved == "directory" else (inos["d"], b"a")
    fs.rename(CALLER, *old, ROOT_INO, b"e", 0)
    key, name = ("e/a", b"a") if moved == "directory" else ("e", b"e")
    opened = fs.open(CALLER, inos["a"], os.O_RDONLY).handle
    _append(fs, handle, b"1")
    assert bytes(fs.read(CALLER, opened, 0, 99)) == b"d/a1"
    for each in (handle, opened):
        fs.flush(CALLER, each)
        fs.release(each)
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"d/a1"
    above = inos["d"] if moved == "directory" else ROOT_INO
    assert fs.lookup(CALLER, above, name).ino == inos["a"]


@contextmanager
def _interrupted_rename(fs: VFS, proxy: Proxy, handle: int) -> Iterator[None]:
    """Within, d was copied to e, and the file of *handle* has uploaded b"1" there; then the rename
    is interrupted."""
    gone, first, listing = Cancellation(), Hold(_is("COPY", "e/s/c")), _last_listing()
    caller = CALLER._replace(cancellation=gone)
    with proxy.rule(listing), proxy.rule(first), ThreadPoolExecutor(1) as pool:
        renaming = pool.submit(fs.rename, caller, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert first.reached.wait(60)
        _append(fs, handle, b"1")
        first.release()
        assert listing.reached.wait(60)
        fs.fsync(CALLER, handle)
        yield
        gone.cancel()
        listing.release()
        with pytest.raises(Interrupted):
            renaming.result(30)


@pytest.mark.parametrize("closed", [False, True])
def test_what_an_open_file_uploads_while_a_rename_fails_is_at_the_old_place(
    fs: VFS, inos: Inos, proxy: Proxy, client: Any, bucket: str, closed: bool
) -> None:
    handle = fs.open(CALLER, inos["a"], os.O_WRONLY | os.O_APPEND).handle
    with _interrupted_rename(fs, proxy, handle):
        _release_if(fs, handle, closed)
    if not closed:
        _append(fs, handle, b"2")
    _release_if(fs, handle, not closed)
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [each["Key"] for each in listed] == ["d/", "d/a", "d/b", "d/s/c"]
    found = client.get_object(Bucket=bucket, Key="d/a")["Body"].read()
    assert found == (b"d/a1" if closed else b"d/a12")


def test_what_others_put_at_the_old_place_unseen_stays_there_when_a_rename_fails(
    fs: VFS,
    appender: int,
    proxy: Proxy,
    client: Any,
    bucket: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with _interrupted_rename(fs, proxy, appender):
        client.put_object(Bucket=bucket, Key="d/a", Body=b"theirs")
    _append(fs, appender, b"2")
    fs.fsync(CALLER, appender)
    d = fs.lookup(CALLER, ROOT_INO, b"d").ino
    again = fs.open(CALLER, fs.lookup(CALLER, d, b"a").ino, os.O_RDONLY).handle
    assert bytes(fs.read(CALLER, again, 0, 99)) == b"theirs2"
    fs.release(again)
    found = {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in ("d/a", "e/a")
    }
    assert found == {"d/a": b"theirs2", "e/a": b"d/a1"}
    assert f"others have changed s3://{bucket}/d/a" in caplog.text


@pytest.mark.usefixtures("caplog")
def test_an_open_file_is_at_the_old_place_though_the_store_is_away_when_a_rename_fails(
    fs: VFS,
    inos: Inos,
    proxy: Proxy,
    mimicdb: Mirror,
    client: Any,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_away(*_: object) -> None:
        raise StoreUnavailable("no answer")

    gone, listing = Cancellation(), _last_listing()
    caller = CALLER._replace(cancellation=gone)
    handles = [fs.open(CALLER, inos[name], os.O_WRONLY | os.O_APPEND).handle for name in "ab"]
    with proxy.rule(listing), ThreadPoolExecutor(1) as pool:
        renaming = pool.submit(fs.rename, caller, ROOT_INO, b"d", ROOT_INO, b"e", 0)
        assert listing.reached.wait(60)
        monkeypatch.setattr(mimicdb, "entry", is_away)
        gone.cancel()
        listing.release()
        with pytest.raises(Interrupted):
            renaming.result(30)
    monkeypatch.undo()
    for handle in handles:
        _append(fs, handle, b"1")
        fs.fsync(CALLER, handle)
        fs.release(handle)
    found = [client.get_object(Bucket=bucket, Key=f"d/{each}")["Body"].read() for each in "ab"]
    assert found == [b"d/a1", b"d/b1"]


@pytest.mark.usefixtures("caplog")
def test_what_is_open_is_at_the_new_place_though_not_all_originals_can_be_deleted(
    fs: VFS,
    s3: S3,
    mimicdb: Mirror,
    inos: Inos,
    appender: int,
    proxy: Proxy,
    client: Any,
    bucket: str,
) -> None:
    with proxy.rule(Fail(_deletion, 403, "AccessDenied")):
        with pytest.raises(PosixError, match="still at both places"):
            fs.rename(CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
    assert fs.lookup(CALLER, ROOT_INO, b"e").ino == inos["d"]
    assert fs.lookup(CALLER, inos["d"], b"a").ino == inos["a"]
    left = fs.lookup(CALLER, fs.lookup(CALLER, ROOT_INO, b"d").ino, b"a").ino
    assert left not in inos.values()
    client.put_object(Bucket=bucket, Key="d/a", Body=b"theirs")
    Syncer(mimicdb, s3).sync(bucket)
    _append(fs, appender, b"1")
    fs.fsync(CALLER, appender)
    for ino, expected in ((left, b"theirs"), (inos["a"], b"d/a1")):
        opened = fs.open(CALLER, ino, os.O_RDONLY).handle
        assert bytes(fs.read(CALLER, opened, 0, 99)) == expected
        fs.release(opened)


def _release_if(fs: VFS, handle: int, condition: bool) -> None:
    if condition:
        fs.release(handle)
