"""The meaning of a lock of all mounts for the handles of a file: whose it is, and when S3 has what
was written under it."""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.mounts import wait_until

from mimicfs.backends.memory import Memory
from mimicfs.backends.sessions import StoreSession, beat
from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.errors import ObjectChanged, PosixError, StoreUnavailable, UploadFailed
from mimicfs.files.journal import Journal
from mimicfs.locks.rows import END, Lock, row_of
from mimicfs.locks.shared import LOCKS, SharedLocks
from mimicfs.posix import ROOT_INO, Caller, Cancellation, FileLock, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())
PROCESS, OTHER = 7, 8
READ, WRITE = fcntl.F_RDLCK, fcntl.F_WRLCK


class Kernel:
    """One that believes what it is told, if it *hears* of it."""

    hears = True

    def flush(self, timeout_s):
        return self.hears

    def __getattr__(self, name):
        return lambda *_, **__: None


class Mount:
    """A mount with a file `x`, whose closed files go to S3 later."""

    def __init__(self, fs, kernel, s3, client, bucket):
        member = SimpleNamespace(id="m", beat_s=0.0, epoch="", dead=frozenset(), away=False)
        self.fs, self.kernel = fs, kernel
        self.follows = True  # what others change is known in time
        self.now_s = 0.0
        self.shared = SharedLocks(Memory(), member, lambda: self.now_s)
        self.locks = fs.locks(self.shared, lambda *_: self.follows)
        self.bucket = bucket
        self._asked = client, bucket
        s3.put(bucket, "x", b"old", 3)
        self.ino = fs.lookup(CALLER, ROOT_INO, b"x").ino

    def stored(self):
        client, bucket = self._asked
        return client.get_object(Bucket=bucket, Key="x")["Body"].read()

    def open(self):
        return self.fs.open(CALLER, self.ino, os.O_RDWR).handle

    def write(self, handle):
        self.fs.write(CALLER, handle, 0, memoryview(b"new"), append=False)

    def lock(self, handle, owner, kind=fcntl.F_WRLCK, start=0, end=END, *, flock=False):
        asked = FileLock(kind, start, end, 1, flock)
        self.locks.set(CALLER, handle, owner, asked, wait=False)

    def held(self):
        """Return what the store says is locked: (to write?, from, to)."""
        rows = self.shared._store.notes(LOCKS).values()
        return sorted(each[2:5] for row in rows for each in row_of(row).held)

    def is_free(self, handle, *, flock=False):
        asked = FileLock(fcntl.F_WRLCK, 0, END, 1, flock)
        return self.locks.get(handle, OTHER, asked) is None

    @contextmanager
    def in_doubt(self):
        """Within, the store is silent: no lock is certain."""
        self.shared._member.away, self.now_s = True, 1000.0
        yield
        self.shared._member.away, self.now_s = False, 0.0

    def close(self, handle, owner):
        self.fs.flush(CALLER, handle)
        self.locks.closed(handle, owner)

    def release(self, handle):
        self.locks.leaving(handle)
        self.locks.ending(handle)
        self.fs.release(handle)
        self.locks.released(handle)


@pytest.fixture
def mount(s3, client, mimicdb, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 2.0)
    kernel = Kernel()
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), kernel)
    options = FileOptions(tmp_path, write_back=True)
    fs = VFS(*parts, VFSOptions(Target(bucket)), options)
    mount = Mount(fs, kernel, s3, client, bucket)
    yield mount
    mount.shared.close()
    fs.close()


def test_a_release_that_comes_late_leaves_what_the_process_has_locked_since(mount):
    old, reader = mount.open(), mount.open()
    mount.lock(old, PROCESS)
    mount.close(old, PROCESS)
    assert mount.is_free(reader)
    new = mount.open()
    mount.lock(new, PROCESS)
    mount.release(old)
    assert not mount.is_free(reader)
    mount.close(new, PROCESS)
    assert mount.is_free(reader)


def test_a_lock_of_an_open_file_ends_with_its_handle(mount):
    held, reader = mount.open(), mount.open()
    mount.lock(held, 9)  # F_OFD_SETLK: no close has that number
    mount.close(held, PROCESS)
    assert not mount.is_free(reader)
    mount.release(held)
    assert mount.is_free(reader)


def test_flock_knows_files_by_their_handles(mount):
    old, new = mount.open(), mount.open()
    mount.lock(old, 9, flock=True)
    with pytest.raises(PosixError, match="locked"):
        mount.lock(new, 9, flock=True)
    mount.release(old)
    mount.lock(new, 9, flock=True)
    mount.release(new)
    assert mount.shared.figures()["held"] == 0


class Elsewhere:
    """The locks of the same file that another mount on the store has."""

    def __init__(self, store, bucket):
        beat(store, StoreSession("m2", "there", 1, "1", "/m", 0, 0, {}), 3_600_000)
        member = SimpleNamespace(id="m2", beat_s=0.0, epoch="", dead=frozenset(), away=False)
        self.shared = SharedLocks(store, member, lambda: 0.0)
        self._name = f"{bucket}/x"

    def lock(self, kind=WRITE, *, flock):
        wanted = Lock("m2:1", flock, kind == WRITE, 0, END, 1)
        self.shared.lock(self._name, wanted, Cancellation(), wait=False)

    def unlock(self, *, flock):
        self.shared.unlock(self._name, "m2:1", flock=flock)


@pytest.fixture
def elsewhere(mount):
    found = Elsewhere(mount.shared._store, mount.bucket)
    yield found
    found.shared.close()


def test_a_flock_that_may_be_closed_already_is_waited_for_a_moment(mount, elsewhere, monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.locking._CLOSES_S", 60.0)
    handle = mount.open()
    elsewhere.lock(flock=True)
    with ThreadPoolExecutor(1) as pool:
        locked = pool.submit(mount.lock, handle, 9, flock=True)
        wait_until(lambda: mount.shared.figures()["waiting"] == 1)
        elsewhere.unlock(flock=True)  # its release has come
        locked.result(5)
    assert not mount.is_free(mount.open(), flock=True)


def test_only_a_flock_of_another_mount_is_waited_for(mount, elsewhere, monkeypatch):
    def refused(handle, *, flock):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EAGAIN):
            mount.lock(handle, OTHER, flock=flock)

    held, handle = mount.open(), mount.open()
    monkeypatch.setattr(mount.shared, "_wait", None)  # who waits fails otherwise
    elsewhere.lock(flock=False)
    refused(handle, flock=False)  # of fcntl
    mount.lock(held, 9, READ, flock=True)
    elsewhere.lock(READ, flock=True)
    refused(handle, flock=True)  # one that this mount has, too
    mount.release(held)
    monkeypatch.undo()
    monkeypatch.setattr("mimicfs.vfs.locking._CLOSES_S", 0.01)
    refused(handle, flock=True)  # and not for long


@pytest.mark.parametrize("flock", [False, True], ids=["fcntl", "flock"])
def test_s3_has_what_was_written_before_others_get_the_lock(mount, flock):
    handle = mount.open()
    mount.lock(handle, PROCESS, flock=flock)
    mount.write(handle)
    mount.close(handle, PROCESS)
    assert mount.stored() == b"new"


def test_s3_has_what_was_written_through_a_mapping_before_flock_ends(mount):
    handle, other = mount.open(), mount.open()
    mount.lock(handle, PROCESS, flock=True)
    mount.close(handle, PROCESS)
    mount.write(handle)
    mount.release(handle)
    assert mount.stored() == b"new"
    assert mount.is_free(other, flock=True)


@pytest.mark.parametrize("flock", [False, True], ids=["fcntl", "flock"])
def test_s3_has_what_was_written_before_others_may_read(mount, flock):
    handle = mount.open()
    mount.lock(handle, PROCESS, flock=flock)
    mount.write(handle)
    mount.lock(handle, PROCESS, fcntl.F_RDLCK, flock=flock)
    assert mount.stored() == b"new"


class Indexed(dict):
    """A table that is not gone through."""

    def items(self):
        raise AssertionError("gone through")


def test_the_end_of_a_file_that_is_not_locked_does_not_go_through_those_that_are(
    mount, s3, monkeypatch
):
    s3.put(mount.bucket, "y", b"other", 5)
    node = mount.fs.lookup(CALLER, ROOT_INO, b"y")
    held, other = mount.open(), mount.fs.open(CALLER, node.ino, os.O_RDWR).handle
    mount.lock(held, PROCESS)
    with monkeypatch.context() as patch:
        patch.setattr(mount.locks, "_names", Indexed(mount.locks._names))
        mount.close(other, PROCESS)
        mount.release(other)
    assert mount.held() == [(True, 0, END)]
    mount.close(held, PROCESS)
    assert mount.held() == []


def test_a_lock_that_is_lost_is_so_for_all_its_handles(mount):
    gone, held = mount.open(), mount.open()
    for handle in (gone, held):
        mount.lock(handle, PROCESS)
    mount.fs.release(gone)
    [name] = set(mount.locks._names.values())
    mount.locks._lost(name)
    with pytest.raises(ObjectChanged):
        mount.fs.read(CALLER, held, 0, 3)


# Where somebody does not answer


def refused():
    return pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOLCK)


@pytest.mark.parametrize("silent", ["follower", "kernel"])
@pytest.mark.parametrize("flock", [False, True], ids=["fcntl", "flock"])
def test_a_lock_is_refused_where_what_others_wrote_is_not_known(mount, silent, flock):
    handle = mount.open()
    if silent == "kernel":
        mount.kernel.hears = False
    else:
        mount.follows = False
    with refused():
        mount.lock(handle, PROCESS, flock=flock)
    assert mount.held() == []


def test_a_lock_that_is_refused_leaves_what_its_owner_had(mount):
    handle = mount.open()
    for had, asked in (
        ((WRITE, 0, 9), (WRITE, 5, 19)),
        ((WRITE, 5, 9), (READ, 0, 19)),
        ((READ, 0, 9), (WRITE, 5, 19)),
    ):
        mount.lock(handle, PROCESS, *had)
        before = mount.held()
        mount.follows = False
        with refused():
            mount.lock(handle, PROCESS, *asked)
        assert mount.held() == before == [(had[0] == WRITE, *had[1:])]
        mount.follows = True
        mount.lock(handle, PROCESS, fcntl.F_UNLCK)


@pytest.mark.parametrize("flock", [False, True], ids=["fcntl", "flock"])
def test_whoever_gives_up_a_part_of_his_lock_waits_for_no_news_of_others(mount, flock):
    handle, end = mount.open(), END if flock else 9
    mount.lock(handle, PROCESS, WRITE, 0, end, flock=flock)
    mount.follows = False
    mount.lock(handle, PROCESS, WRITE, 0, end, flock=flock)
    mount.lock(handle, PROCESS, READ, 0, end, flock=flock)
    assert mount.held() == [(False, 0, end)]
    with refused():
        mount.lock(handle, PROCESS, WRITE, 0, end, flock=flock)  # others may have written
    assert mount.held() == [(False, 0, end)]


def test_a_lock_shows_what_others_wrote_also_if_its_owner_had_it_by_another_handle(mount, s3):
    old = mount.fs.open(CALLER, mount.ino, os.O_RDONLY).handle
    assert bytes(mount.fs.read(CALLER, old, 0, 9)) == b"old"
    s3.put(mount.bucket, "x", b"newer", 5)
    with pytest.raises(PosixError, match="refers to a new version"):
        mount.open()  # the kernel looks the name up again
    mount.ino = mount.fs.lookup(CALLER, ROOT_INO, b"x").ino
    mount.lock(mount.open(), PROCESS, WRITE, 0, 9)
    mount.lock(old, PROCESS, READ, 0, 9)
    assert bytes(mount.fs.read(CALLER, old, 0, 9)) == b"newer"


def test_a_lock_to_read_gives_up_what_was_locked_to_write(mount):
    handle = mount.open()
    mount.lock(handle, PROCESS, WRITE, 5, 9)
    mount.lock(handle, PROCESS, READ, 7, 19)
    assert mount.held() == [(False, 7, 19), (True, 5, 6)]


@pytest.fixture
def away(mount, monkeypatch):
    """The store does not answer."""

    def is_away(*_, **__):
        raise StoreUnavailable("away")

    def begin():
        for call in ("note", "swap_note"):
            monkeypatch.setattr(mount.shared._store, call, is_away)

    return begin


@pytest.mark.parametrize("by", ["unlock", "close", "release"])
def test_all_locks_of_a_handle_end_where_the_store_is_away(mount, away, by):
    handle = mount.open()
    mount.lock(handle, PROCESS)
    if by == "release":
        mount.lock(handle, OTHER, flock=True)
    away()
    with refused():
        if by == "unlock":
            mount.lock(handle, PROCESS, fcntl.F_UNLCK)
        elif by == "close":
            mount.close(handle, PROCESS)
        else:
            mount.locks.released(handle)
    assert mount.shared.figures()["held"] == 0


def test_whoever_reads_keeps_his_version_where_others_change_the_mode(mount):
    handle = mount.fs.open(CALLER, mount.ino, os.O_RDONLY).handle
    mount.fs.setattr(CALLER, mount.ino, NewAttr(mode=0o600), None)
    file = mount.fs._handles.file(handle)
    assert not file.follows
    mount.open()
    assert file.follows


def test_what_an_uncertain_lock_holds_off_is_kept_and_the_log_says_where(mount, caplog):
    handle = mount.open()
    mount.lock(handle, PROCESS)
    mount.write(handle)
    with mount.in_doubt():
        for upload in (mount.fs.fsync, lambda _, handle: mount.close(handle, PROCESS)):
            caplog.clear()
            with pytest.raises(UploadFailed) as failed:
                upload(CALLER, handle)
            assert Path(failed.value.kept_at).read_bytes() == b"new"
            [said] = [each.getMessage() for each in caplog.records]
            assert said.startswith(f"s3://{mount.bucket}/x was not uploaded; its bytes are in ")
        assert mount.stored() == b"old"
    mount.fs.fsync(CALLER, handle)
    assert mount.stored() == b"new"


def test_what_was_written_through_a_mapping_is_not_kept_in_silence(mount, caplog):
    handle = mount.open()
    mount.lock(handle, PROCESS, flock=True)
    mount.close(handle, PROCESS)
    mount.write(handle)
    with mount.in_doubt():
        mount.release(handle)
    [said] = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert said.startswith(f"s3://{mount.bucket}/x was not uploaded; its bytes are in ")


def test_a_later_upload_that_an_uncertain_lock_holds_off_fails_as_others_do(mount):
    handle = mount.open()
    mount.lock(handle, PROCESS)
    mount.write(handle)
    file = mount.fs._handles.file(handle)
    held = mount.fs._handles.hold(mount.fs._handles.node(handle), file)
    assert mount.fs._handles.begin(file, held, Cancellation()) is None
    with mount.in_doubt(), pytest.raises(UploadFailed, match="no lock is certain"):
        mount.fs._handles.upload(file, held, Cancellation(), None)
    assert file.refused


def test_nothing_is_copied_within_s3_onto_a_file_whose_lock_is_uncertain(mount, s3):
    s3.put(mount.bucket, "y", b"other", 5)
    source = mount.fs.open(CALLER, mount.fs.lookup(CALLER, ROOT_INO, b"y").ino, os.O_RDONLY).handle
    target = mount.fs.open(CALLER, mount.ino, os.O_RDWR | os.O_TRUNC).handle
    mount.lock(target, PROCESS)
    with mount.in_doubt(), pytest.raises(StoreUnavailable):
        mount.fs.copy_file_range(CALLER, source, 0, target, 0, 100)
    assert mount.stored() == b"old"
    assert mount.fs.copy_file_range(CALLER, source, 0, target, 0, 100) == 5
    assert mount.stored() == b"other"
