"""Handles of inodes whose names stand for other nodes by now."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from support.kernels import Kernel
from support.proxy import Hold

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.entry import Entry, Scope
from mimicfs.errors import Interrupted, ObjectChanged, PosixError, Unlisted
from mimicfs.files.journal import Journal
from mimicfs.files.small import SmallStaging
from mimicfs.posix import NEVER, ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import FALLOC_PUNCH_HOLE, VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


def _saved(fs):
    """Make an empty file x, in the place of any other; return its inode."""
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY | os.O_TRUNC)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    return attr.ino


def test_a_file_that_was_opened_by_an_old_inode_is_changed_by_it_as_often_as_wanted(fs):
    old = _saved(fs)
    fs.unlink(CALLER, ROOT_INO, b"x")
    new = _saved(fs)
    handle = fs.open(CALLER, old, os.O_RDWR).handle  # looked up before the unlink
    for mode in (0o600, 0o640):
        fs.setattr(CALLER, old, NewAttr(mode=mode), None)
        assert fs.getattr(CALLER, old, None).mode & 0o777 == mode
        assert fs.getattr(CALLER, new, None).mode & 0o777 == mode
    fs.setxattr(CALLER, old, b"user.a", b"1", 0)
    assert fs.getxattr(CALLER, new, b"user.a") == b"1"
    fs.release(handle)


class Recorder(Kernel):
    """One that notes of which inodes it was told that bytes, or only attributes, have changed."""

    def __init__(self):
        self.told_of = set()

    def data_changed(self, ino, dropped):
        self.told_of.add((ino, "bytes"))

    def drop_data(self, inos, timeout_s, dropped):
        self.told_of.update((ino, "bytes") for ino in inos)

    def attr_changed(self, ino):
        self.told_of.add((ino, "attributes"))

    def news(self):
        told, self.told_of = self.told_of, set()
        return told


@pytest.fixture
def two_inodes(s3, mimicdb, bucket, tmp_path):
    """A file system, a kernel, and two inodes of one open file, with a handle of each: the name was
    looked up before others took it."""
    kernel = Recorder()
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), kernel)
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    inos = []
    for text in (b"old", b"new"):
        attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY | os.O_TRUNC)
        fs.write(CALLER, opened.handle, 0, memoryview(text), append=False)
        fs.flush(CALLER, opened.handle)
        fs.release(opened.handle)
        inos.append(attr.ino)
        if text == b"old":
            fs.unlink(CALLER, ROOT_INO, b"x")
    handles = [fs.open(CALLER, ino, os.O_RDWR).handle for ino in inos]
    kernel.news()
    yield fs, kernel, inos, handles
    for handle in handles:
        fs.release(handle)
    fs.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda fs, handle, _: fs.write(CALLER, handle, 0, memoryview(b"N"), append=False),
        lambda fs, handle, _: fs.write(CALLER, handle, 3, memoryview(b"!"), append=True),
        lambda fs, _, ino: fs.setattr(CALLER, ino, NewAttr(size=1), None),
        lambda fs, handle, ino: fs.setattr(CALLER, ino, NewAttr(size=9), handle),
        lambda fs, handle, _: fs.fallocate(CALLER, handle, 0, 0, 9),
        lambda fs, handle, _: fs.fallocate(CALLER, handle, FALLOC_PUNCH_HOLE, 0, 2),
    ],
    ids=["write", "append", "truncate", "ftruncate", "fallocate", "punch"],
)
def test_a_change_of_bytes_by_one_inode_of_a_file_is_told_of_the_other(two_inodes, change):
    fs, kernel, inos, handles = two_inodes
    for by, other in ((0, 1), (1, 0)):
        assert not fs.write_at_once(handles[by], 0, memoryview(b"N"))  # it would tell nobody
        change(fs, handles[by], inos[by])
        assert (inos[other], "bytes") in kernel.news()
    fs.release(handles.pop(0))
    kernel.news()
    fs.write(CALLER, handles[0], 0, memoryview(b"N"), append=False)
    assert kernel.news() == set()


def test_the_kernel_has_no_pages_of_an_inode_because_it_has_opened_another_one_of_the_file(
    two_inodes, client, bucket
):
    fs, _, (old, new), handles = two_inodes
    for handle in (*handles, fs.open(CALLER, new, os.O_RDONLY).handle):
        fs.release(handle)  # the kernel keeps the pages of *new*
    handles.clear()
    fs._mimicdb._listeners.clear()  # another mount has told the store, and the follower comes late
    client.put_object(Bucket=bucket, Key="x", Body=b"theirs")
    fs._syncer.sync(bucket)
    opened = [fs.open(CALLER, ino, os.O_RDONLY) for ino in (old, new)]
    handles += [each.handle for each in opened]
    assert [each.keep_cache for each in opened] == [False, False]


def test_a_change_of_attributes_by_one_inode_of_a_file_is_told_of_the_other(two_inodes):
    fs, kernel, inos, handles = two_inodes
    for by, other in ((0, 1), (1, 0)):
        for handle in (None, handles[by]):
            fs.setattr(CALLER, inos[by], NewAttr(mode=0o600), handle)
            assert (inos[other], "attributes") in kernel.news()


def test_what_others_write_is_told_of_both_inodes_of_a_file_that_follows_it(
    two_inodes, client, bucket
):
    fs, kernel, inos, handles = two_inodes
    for handle in handles:
        fs._handles.file(handle).follows = True  # as with -o locks=shared
        fs.read(CALLER, handle, 0, 3)
    client.put_object(Bucket=bucket, Key="x", Body=b"theirs")
    fs._syncer.sync(bucket)
    assert kernel.news() == {(ino, "bytes") for ino in inos}
    assert [bytes(fs.read(CALLER, handle, 0, 9)) for handle in handles] == [b"theirs"] * 2


def test_others_are_not_given_the_file_that_has_the_name_by_now(fs):
    """The kernel has looked at the mode and owner of the inode that it names."""
    other, inos = CALLER._replace(uid=65534), []
    for mode in (0o666, 0o600):
        attr, opened = fs.create(CALLER, ROOT_INO, b"x", mode, os.O_WRONLY | os.O_TRUNC)
        if mode == 0o666:
            fs.flush(CALLER, opened.handle)
            fs.release(opened.handle)
            fs.unlink(CALLER, ROOT_INO, b"x")
        inos.append(attr.ino)
    calls = (
        lambda: fs.open(other, inos[0], os.O_RDWR),
        lambda: fs.setattr(other, inos[0], NewAttr(mode=0o666), None),
        lambda: fs.setattr(other, inos[0], NewAttr(size=0), None),
        lambda: fs.setxattr(other, inos[0], b"user.a", b"1", 0),
    )
    for state in ("created", "uploaded", "opened by both inodes"):
        handles = []
        if state == "uploaded":
            fs.flush(CALLER, opened.handle)
            fs.release(opened.handle)
        elif state != "created":
            handles = [fs.open(CALLER, inos[0], os.O_RDWR).handle]
        for call in calls:
            with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ESTALE):
                call()
        for handle in handles:
            fs.release(handle)
    assert fs.getattr(CALLER, inos[1], None).mode & 0o777 == 0o600


def test_a_file_is_opened_for_appending_though_what_replaced_it_is_unlinked_meanwhile(
    fs, mimicdb, monkeypatch
):
    old = _saved(fs)
    fs.unlink(CALLER, ROOT_INO, b"x")
    _saved(fs)
    entry = mimicdb.entry

    def then_unlinked(*place):
        found = entry(*place)
        monkeypatch.undo()
        fs.unlink(CALLER, ROOT_INO, b"x")
        return found

    monkeypatch.setattr(mimicdb, "entry", then_unlinked)
    opened = fs.open(CALLER, old, os.O_WRONLY | os.O_APPEND)
    fs.write(CALLER, opened.handle, 0, memoryview(b"to nobody"), append=True)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
        fs.lookup(CALLER, ROOT_INO, b"x")


def test_whoever_asks_about_a_name_that_is_just_going_looks_it_up_again(fs, monkeypatch):
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY | os.O_TRUNC)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    unlink, answers = fs.inodes.unlink, []

    def asked(node):
        with pytest.raises(PosixError) as caught:
            fs.getattr(CALLER, attr.ino, None)
        answers.append(caught.value.errno)
        unlink(node)

    monkeypatch.setattr(fs.inodes, "unlink", asked)
    fs.unlink(CALLER, ROOT_INO, b"x")
    assert answers == [errno.ESTALE]  # ENOENT would be the answer to an open with O_CREAT


def test_who_opens_a_name_that_a_rename_is_giving_to_another_gets_the_file_of_that(fs, proxy):
    inos = []
    for name in (b"x", b"new"):
        attr, opened = fs.create(CALLER, ROOT_INO, name, 0o644, os.O_WRONLY | os.O_TRUNC)
        fs.flush(CALLER, opened.handle)
        fs.release(opened.handle)
        inos.append(attr.ino)
    fs.unlink(CALLER, ROOT_INO, b"x")
    deleted = Hold(lambda request: request.kind == "DELETE" and request.key == "new")
    with ThreadPoolExecutor() as pool, proxy.rule(deleted):
        renamed = pool.submit(fs.rename, CALLER, ROOT_INO, b"new", ROOT_INO, b"x", 0)
        assert deleted.reached.wait(60)
        opening = pool.submit(fs.open, CALLER, inos[0], os.O_WRONLY)  # looked up before
        with pytest.raises(TimeoutError):
            opening.result(0.05)
        deleted.release()
        renamed.result(10)
        handle = opening.result(10).handle
    assert fs._handles.node(handle).ino == inos[1]
    fs.release(handle)


def test_what_is_open_goes_on_where_the_store_has_lost_all_that_it_knew(fs, mimicdb, bucket):
    _, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.write(CALLER, opened.handle, 0, memoryview(b"kept"), append=False)
    fs.flush(CALLER, opened.handle)
    mimicdb.backend.drop_bucket(bucket)
    mimicdb.announce(bucket, None)
    assert bytes(fs.read(CALLER, opened.handle, 0, 9)) == b"kept"
    fs.write(CALLER, opened.handle, 4, memoryview(b", too"), append=False)
    fs.flush(CALLER, opened.handle)
    # Where it is known what there is, it is not.
    mimicdb.complete(bucket, Scope("", True, time.time_ns()))
    mimicdb.forget(bucket, "x")
    mimicdb.announce(bucket, None)
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
        fs.read(CALLER, opened.handle, 0, 9)
    fs.release(opened.handle)


@pytest.mark.parametrize("change", ["", "deleted"])
def test_what_the_kernel_holds_is_looked_for_in_s3_where_the_store_has_lost_all_that_it_knew(
    fs, mimicdb, bucket, client, change
):
    target = fs.symlink(CALLER, ROOT_INO, b"link", b"target").ino
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.write(CALLER, opened.handle, 0, memoryview(b"kept"), append=False)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    if change:
        client.delete_object(Bucket=bucket, Key="x")
    calls = [
        lambda: fs.open(CALLER, attr.ino, os.O_RDONLY),
        lambda: fs.setattr(CALLER, attr.ino, NewAttr(mode=0o600), None),
        lambda: fs.setxattr(CALLER, attr.ino, b"user.a", b"1", 0),
    ]
    for call in calls:
        mimicdb.backend.drop_bucket(bucket)
        if not change:
            call()
            continue
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
            call()
    mimicdb.backend.drop_bucket(bucket)
    assert fs.readlink(CALLER, target) == b"target"
    mimicdb.backend.drop_bucket(bucket)
    with pytest.raises(Unlisted):  # it does not wait: the caller has it learned
        fs.getattr(CALLER, target, None)


def test_a_chmod_of_what_others_have_just_replaced_leaves_no_pages_of_before(fs, client, bucket):
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.write(CALLER, opened.handle, 0, memoryview(b"old"), append=False)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)

    def keeps_pages():
        opened = fs.open(CALLER, attr.ino, os.O_RDONLY)
        fs.release(opened.handle)
        return opened.keep_cache

    fs.setattr(CALLER, attr.ino, NewAttr(mode=0o600), None)
    assert keeps_pages()
    client.put_object(Bucket=bucket, Key="x", Body=b"new")  # nobody has told of it yet
    fs.setattr(CALLER, attr.ino, NewAttr(mode=0o640), None)
    assert not keeps_pages()


def test_a_file_that_cannot_be_made_is_held_by_nobody(fs, monkeypatch):
    def full(*, small):
        raise PosixError(errno.ENOSPC, "the disk is full")

    before = len(fs.inodes)
    monkeypatch.setattr(fs._handles._tools.journal, "stage", full)
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOSPC):
        fs.create(CALLER, ROOT_INO, b"new", 0o644, os.O_WRONLY)
    assert len(fs.inodes) == before


def test_what_s3_keeps_with_an_object_that_was_removed_is_estale(fs):
    attr, opened = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.flush(CALLER, opened.handle)
    fs.unlink(CALLER, ROOT_INO, b"x")
    for name in (b"content_type", b"meta.a", b"tag.a", b"storage_class", b"restore"):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ESTALE):
            fs.setxattr(CALLER, attr.ino, b"user.mimicfs." + name, b"1", 0)
    fs.release(opened.handle)


def test_what_was_in_a_removed_directory_is_not_what_has_its_name_elsewhere(fs, mimicdb, bucket):
    directory = fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino
    old, opened = fs.create(CALLER, directory, b"x", 0o644, os.O_RDWR)
    fs.flush(CALLER, opened.handle)
    control = fs.lookup(CALLER, directory, b".sync").ino
    mimicdb.forget(bucket, "d/x")  # somebody else has deleted it
    fs.rmdir(CALLER, ROOT_INO, b"d")
    other, beside = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.flush(CALLER, beside.handle)
    for ino, new in ((old.ino, NewAttr(mode=0o600)), (control, NewAttr(mtime_ns=1))):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ESTALE):
            fs.setattr(CALLER, ino, new, None)
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ESTALE):
        fs.setxattr(CALLER, old.ino, b"user.a", b"1", 0)
    assert fs.getattr(CALLER, old.ino, None).nlink == 0
    assert fs.getattr(CALLER, other.ino, None).mode == 0o100644
    assert fs.listxattr(CALLER, other.ino) == []
    fs.release(opened.handle)
    fs.release(beside.handle)


def test_what_was_unlinked_in_a_removed_directory_is_not_what_has_its_name_elsewhere(fs):
    directory = fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino
    old, opened = fs.create(CALLER, directory, b"x", 0o644, os.O_RDWR)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    other, beside = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_RDWR)
    fs.write(CALLER, beside.handle, 0, b"theirs", append=False)
    fs.flush(CALLER, beside.handle)
    fs.release(beside.handle)
    fs.unlink(CALLER, directory, b"x")
    fs.rmdir(CALLER, ROOT_INO, b"d")
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
        fs.open(CALLER, old.ino, os.O_RDONLY)
    assert fs.getattr(CALLER, other.ino, None).size == 6


def test_a_staging_file_is_made_under_no_lock_that_others_need(fs, monkeypatch):
    handles, seen = fs._handles, []
    stage = handles._tools.journal.stage
    monkeypatch.setattr(
        handles._tools.journal,
        "stage",
        lambda **how: seen.append(handles._lock.locked()) or stage(**how),
    )
    opened = fs.create(CALLER, ROOT_INO, b"new", 0o644, os.O_WRONLY)[1]
    assert seen == [False]
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)


class Told(Kernel):
    """A kernel that was told of all that changed, or not yet."""

    told = True

    def flush(self, timeout_s):
        return self.told


@pytest.fixture
def at_once(s3, mimicdb, bucket, tmp_path):
    """A file system with a file `x`, of which the kernel has no pages yet; its inode."""
    kernel = Told()
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), kernel)
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    s3.put(bucket, "x", b"abc", 3)
    yield fs, fs.lookup(CALLER, ROOT_INO, b"x").ino, kernel
    fs.close()


def test_what_is_only_read_is_opened_and_closed_without_a_worker(at_once):
    fs, ino, _ = at_once
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        assert fs.open_at_once(CALLER, ino, flags) is None
    first, second = (fs.open_at_once(CALLER, ino, os.O_RDONLY) for _ in range(2))
    assert (first.keep_cache, second.keep_cache) == (False, True)
    assert fs.read(CALLER, first.handle, 0, 10) == b"abc"
    assert fs.release_at_once(first.handle)
    assert fs.read(CALLER, second.handle, 0, 10) == b"abc"
    assert fs.release_at_once(second.handle)
    with pytest.raises(PosixError, match="Bad file descriptor"):
        fs.read(CALLER, second.handle, 0, 10)
    assert fs._handles.figures()["handles"] == 0


def test_what_was_written_is_opened_and_closed_by_a_worker(at_once):
    fs, ino, _ = at_once
    handle = fs.open(CALLER, ino, os.O_WRONLY).handle
    fs.write(CALLER, handle, 0, memoryview(b"new"), append=False)
    assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    fs.flush(CALLER, handle)
    assert not fs.release_at_once(handle)  # its staging file is to be removed
    fs.release(handle)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    assert fs.read(CALLER, handle, 0, 10) == b"new"
    assert fs.release_at_once(handle)


def test_a_small_file_is_made_and_written_without_a_worker_with_write_back(
    s3, mimicdb, bucket, tmp_path
):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Told())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path, write_back=True))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    fs._mimicdb.complete(bucket, Scope("", True, 1))
    first = fs.create_at_once(CALLER, ROOT_INO, b"first", 0o644, flags)[1]
    assert not fs.write_at_once(first.handle, 0, memoryview(b"abc"))  # a segment is to be made
    assert fs.write(CALLER, first.handle, 0, memoryview(b"abc"), append=False) == 3
    assert fs.write_at_once(first.handle, 3, memoryview(b"def"))
    attr, second = fs.create_at_once(CALLER, ROOT_INO, b"second", 0o600, flags)
    assert (stat.S_IMODE(attr.mode), attr.size) == (0o600, 0)
    assert fs.write_at_once(second.handle, 0, memoryview(b"x" * 65_536))
    assert not fs.write_at_once(second.handle, 65_536, memoryview(b"y"))  # it gets a file
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EEXIST):
        fs.create_at_once(CALLER, ROOT_INO, b"second", 0o600, flags)
    fs.flush(CALLER, first.handle)
    assert fs.release_at_once(first.handle)
    assert not fs.release_at_once(second.handle)  # nobody has closed it: it is to be uploaded
    fs.release(second.handle)
    fs.close()
    assert s3.head(bucket, "first")[0].size == 6
    assert s3.head(bucket, "second")[0].size == 65_536


def test_the_mirror_is_not_asked_again_for_a_name_that_was_just_absent(fs, mimicdb, bucket):
    mimicdb.complete(bucket, Scope("", True, 1))
    asked = []
    look, mimicdb.lookup = mimicdb.lookup, lambda *place: asked.append(place[2]) or look(*place)

    def made(name):
        return fs.create_at_once(CALLER, ROOT_INO, name, 0o644, os.O_WRONLY | os.O_EXCL) is not None

    def absent(name):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
            fs.lookup(CALLER, ROOT_INO, name)

    absent(b"a")
    assert (made(b"a"), asked) == (True, ["a"])
    absent(b"b")
    assert (made(b"c"), asked) == (True, ["a", "b", "c"])  # another name
    absent(b"d")
    mimicdb.record(bucket, Entry("d", 1, 0, "e"))  # somebody has put it there
    for name in (b"d", b"a"):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EEXIST):
            made(name)


@pytest.mark.parametrize(
    ("flags", "said"), [(0, "ESTALE"), (os.O_TRUNC, "ESTALE"), (os.O_EXCL, "EEXIST")]
)
def test_of_a_name_that_others_have_just_made_only_who_wants_none_hears(
    fs, mimicdb, bucket, flags, said
):
    mimicdb.complete(bucket, Scope("", True, 1))
    mimicdb.backend.apply(bucket, [Entry("a", 1, 0, "e")])  # the kernel has found none
    for create in (fs.create, fs.create_at_once):
        with pytest.raises(PosixError, check=lambda exc: errno.errorcode[exc.errno] == said):
            create(CALLER, ROOT_INO, b"a", 0o644, os.O_WRONLY | os.O_CREAT | flags)


def test_the_mirror_is_asked_again_for_a_name_that_was_absent_some_time_ago(
    fs, mimicdb, bucket, monkeypatch
):
    monkeypatch.setattr("mimicfs.vfs.justabsent._JUST_S", -1.0)
    mimicdb.complete(bucket, Scope("", True, 1))
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
        fs.lookup(CALLER, ROOT_INO, b"a")
    mimicdb.backend.apply(bucket, [Entry("a", 1, 0, "e")])  # of which nothing was heard yet
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.EEXIST):
        fs.create_at_once(CALLER, ROOT_INO, b"a", 0o644, os.O_WRONLY | os.O_EXCL)


def test_no_file_is_made_in_a_directory_that_departs_though_its_name_was_just_absent(
    fs, mimicdb, bucket, monkeypatch
):
    monkeypatch.setattr("mimicfs.vfs.justabsent._JUST_S", 60.0)
    mimicdb.record(bucket, Entry("d/", 0, 0, "e", "", {}))
    mimicdb.complete(bucket, Scope("", True, 1))
    ino = fs.lookup(CALLER, ROOT_INO, b"d").ino
    with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENOENT):
        fs.lookup(CALLER, ino, b"a")
    with fs._handles.departures.leaving(fs.inodes.get(ino), NEVER):
        assert fs.create_at_once(CALLER, ino, b"a", 0o644, os.O_WRONLY) is None
    assert fs.create_at_once(CALLER, ino, b"a", 0o644, os.O_WRONLY) is not None


def test_attributes_that_no_object_has_are_absent_without_a_look_at_it(fs, mimicdb, bucket):
    mimicdb.complete(bucket, Scope("", True, 1))
    _, opened = fs.create_at_once(CALLER, ROOT_INO, b"a", 0o644, os.O_WRONLY)
    mimicdb.entry = None
    for name in (b"security.capability", b"system.posix_acl_access", b"trusted.x"):
        with pytest.raises(PosixError, check=lambda exc: exc.errno == errno.ENODATA):
            fs.getxattr(CALLER, fs._handles.node(opened.handle).ino, name)
    del mimicdb.entry


def test_a_file_that_is_only_written_has_nothing_to_read_it_with(fs):
    _, opened = fs.create(CALLER, ROOT_INO, b"a", 0o644, os.O_RDWR)
    fs.write(CALLER, opened.handle, 0, memoryview(b"abc"), append=False)
    fs.flush(CALLER, opened.handle)
    origin = fs._handles.file(opened.handle)._origin
    assert origin._reader is None
    fs.release(opened.handle)
    with pytest.raises(ObjectChanged):  # a thread that comes too late
        origin.reader.read(0, 3, Cancellation())


def test_what_was_just_renamed_away_lets_a_worker_make_the_new_file(s3, mimicdb, bucket, tmp_path):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Told())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path, write_back=True))
    s3.put(bucket, "x", b"abc", 3)
    fs._mimicdb.complete(bucket, Scope("", True, 1))
    fs.lookup(CALLER, ROOT_INO, b"x")
    fs.rename(CALLER, ROOT_INO, b"x", ROOT_INO, b"x~", 0)
    assert fs.create_at_once(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY) is None
    assert fs.create_at_once(CALLER, ROOT_INO, b"y", 0o644, os.O_WRONLY) is not None
    fs.close()


@contextmanager
def taken_elsewhere(lock):
    """Within, another thread has *lock*."""
    has_it, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            has_it.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    has_it.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_an_open_and_a_close_for_which_somebody_is_to_be_waited_for_are_left_to_a_worker(at_once):
    fs, ino, _ = at_once
    handles, node = fs._handles, fs.inodes.get(ino)
    walk = handles._neighbours._walk(node.bucket, "")
    for lock in (handles._lock, walk.lock):
        with taken_elsewhere(lock):
            assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
        assert (node.opens, node.file, node.pages_etag, walk.opened) == (0, None, "", 0)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    for lock in (handles._lock, node.file._change):  # an unlink that fetches its bytes has that
        with taken_elsewhere(lock):
            assert not fs.release_at_once(handle)
        assert fs.read(CALLER, handle, 0, 10) == b"abc"
    assert fs.release_at_once(handle)
    assert (node.opens, node.file) == (0, None)


def test_an_open_for_which_the_kernel_is_not_told_yet_leaves_no_trace_of_itself(at_once):
    fs, ino, kernel = at_once
    kernel.told = False
    assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    kernel.told = True
    opened = fs.open(CALLER, ino, os.O_RDONLY)
    assert not opened.keep_cache  # the kernel drops the pages that it has of an older version
    fs.release(opened.handle)


def test_what_is_unlinked_or_renamed_is_opened_by_a_worker(at_once):
    fs, ino, _ = at_once
    fs.rename(CALLER, ROOT_INO, b"x", ROOT_INO, b"y", 0)
    handle = fs.open_at_once(CALLER, ino, os.O_RDONLY).handle
    assert fs.read(CALLER, handle, 0, 10) == b"abc"
    with fs._handles.moving(fs.inodes.get(ino), CALLER.cancellation):
        assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    fs.unlink(CALLER, ROOT_INO, b"y")
    assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    assert not fs.release_at_once(handle)  # it lives on in a staging file
    assert fs.read(CALLER, handle, 0, 10) == b"abc"
    fs.release(handle)


def test_others_open_what_nobody_knows_the_mode_of_by_a_worker(at_once, mimicdb, bucket):
    fs, ino, _ = at_once
    other = Caller(os.getuid() + 1, os.getgid(), 0, Cancellation())
    assert fs.release_at_once(fs.open_at_once(other, ino, os.O_RDONLY).handle)
    mimicdb.record(bucket, Entry("x", 3, 1, "unknown", meta=None))
    assert fs.open_at_once(other, ino, os.O_RDONLY) is None


def test_a_copy_within_s3_waits_for_whoever_uploads_or_deletes_its_target(
    at_once, s3, client, bucket
):
    fs, ino, _ = at_once
    s3.put(bucket, "empty", b"", 0)
    node = fs.inodes.get(fs.lookup(CALLER, ROOT_INO, b"empty").ino)
    source, target = fs.open(CALLER, ino, os.O_RDONLY), fs.open(CALLER, node.ino, os.O_WRONLY)
    hurried = Caller(os.getuid(), os.getgid(), 0, Cancellation())
    hurried.cancellation.cancel()
    with taken_elsewhere(fs._handles.turn(node, CALLER.cancellation)), pytest.raises(Interrupted):
        fs.copy_file_range(hurried, source.handle, 0, target.handle, 0, 100)
    assert client.head_object(Bucket=bucket, Key="empty")["ContentLength"] == 0
    assert fs.copy_file_range(CALLER, source.handle, 0, target.handle, 0, 100) == 3
    for opened in (source, target):
        fs.release(opened.handle)


def test_what_is_not_safe_on_the_disk_at_its_last_close_is_in_the_log(
    s3, mimicdb, bucket, tmp_path, monkeypatch, caplog
):
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path, write_back=True))
    handle = fs.create(CALLER, ROOT_INO, b"x", 0o644, os.O_WRONLY)[1].handle
    fs.write(CALLER, handle, 0, memoryview(b"new"), append=False)

    def full(self):
        raise PosixError(errno.ENOSPC, str(self.path))

    monkeypatch.setattr(SmallStaging, "sync", full)
    fs.release(handle)
    [said] = [each.getMessage() for each in caplog.records]
    assert said.startswith(f"s3://{bucket}/x is not safe on the disk: No space left on device")
    fs.close()


def twice(monkeypatch, owner, name, again):
    """Before the first call of *name* returns, somebody else does *again*."""
    work, others = getattr(owner, name), [again]

    def hooked(*args, **kwargs):
        found = work(*args, **kwargs)
        if others:
            others.pop()()
        return found

    monkeypatch.setattr(owner, name, hooked)


@pytest.mark.parametrize("shared", [False, True], ids=["two-handles", "one-handle"])
def test_two_who_lock_at_once_what_others_have_replaced_see_one_file(
    at_once, client, bucket, mimicdb, s3, monkeypatch, shared
):
    fs, ino, _ = at_once
    handles = fs._handles
    first = fs.open(CALLER, ino, os.O_RDONLY).handle
    second = first if shared else fs.open(CALLER, ino, os.O_RDONLY).handle
    fs.read(CALLER, first, 0, 3)
    handles.file(first).expire()
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    s3.head(bucket, "x")
    twice(monkeypatch, mimicdb, "entry", lambda: handles.renew(second, CALLER.cancellation))
    handles.renew(first, CALLER.cancellation)
    assert fs.read(CALLER, first, 0, 10) == fs.read(CALLER, second, 0, 10) == b"newer"
    assert handles.file(first) is handles.file(second) is fs.inodes.get(ino).file
    for handle in {first, second}:
        fs.release(handle)
    assert (handles.figures()["open"], fs.inodes.get(ino).file) == (0, None)


@pytest.mark.parametrize("shared", [False, True], ids=["two-handles", "one-handle"])
def test_two_who_append_at_once_to_what_others_have_replaced_write_to_one_file(
    at_once, client, bucket, monkeypatch, shared
):
    fs, ino, _ = at_once
    handles = fs._handles
    first = fs.open(CALLER, ino, os.O_WRONLY).handle
    second = first if shared else fs.open(CALLER, ino, os.O_WRONLY).handle
    handles.file(first).expire()
    handles.file(first).follows = True
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")

    def append(handle):
        fs.write(CALLER, handle, 0, memoryview(b"+"), append=True)

    twice(monkeypatch, fs._s3, "head", lambda: append(second))
    append(first)
    assert handles.file(first) is handles.file(second) is fs.inodes.get(ino).file
    assert handles.file(first).follows
    for handle in {first, second}:
        fs.flush(CALLER, handle)
        fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"newer++"
    assert handles.figures()["open"] == 0


def test_whoever_appends_to_what_others_have_replaced_is_answered_when_the_old_pages_are_gone(
    at_once, client, bucket
):
    """The kernel has put the bytes behind those of the old version: a page of two."""
    fs, ino, kernel = at_once
    said = []  # of the inode that is open; what has its name now is another one

    def tell(told, how):
        if told == ino:
            said.append((told, how))

    kernel.data_changed = lambda told, _: tell(told, "in turn")
    kernel.drop_data = lambda told, *_: [tell(each, "at once") for each in told]
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 10) == b"abc"
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")

    def append(offset, data=b"+"):
        said.clear()
        fs.write(CALLER, handle, offset, memoryview(data), append=True)
        return said

    assert append(3) == [(ino, "at once")] * 2  # as it goes over, and before it is answered
    assert append(4) == [(ino, "in turn")]  # nobody has read since: there are no pages
    assert append(7) == []
    assert fs.read(CALLER, handle, 0, 10) == b"newer+++"
    assert append(6) == [(ino, "at once")] * 2  # as it comes, and before it is answered
    assert append(9, bytes(4096)) == []
    assert append(10, bytes(4096)) == [(ino, "at once")]  # a whole page is one that was read
    client.put_object(Bucket=bucket, Key="x", Body=b"again")
    said.clear()
    fs.fsync(CALLER, handle)
    assert said == [(ino, "at once")] * 2  # before the upload, and before fsync returns
    fs.release(handle)


def test_a_handle_that_another_lock_renews_is_closed_all_the_same(at_once, monkeypatch):
    fs, ino, _ = at_once
    handles = fs._handles
    first, second = (fs.open(CALLER, ino, os.O_RDONLY).handle for _ in range(2))
    fs.read(CALLER, first, 0, 3)
    handles.file(first).expire()
    lock = SimpleNamespace(release=handles._lock.release)
    lock.acquire = lambda blocking: (
        monkeypatch.undo(),
        handles.renew(second, CALLER.cancellation),
        handles._lock.acquire(blocking=blocking),
    )[-1]
    monkeypatch.setattr(handles, "_lock", lock)
    if not handles.release_at_once(first):
        fs.release(first)
    fs.release(second)
    assert (handles.figures()["open"], handles.figures()["handles"]) == (0, 0)


def test_a_small_file_is_uploaded_by_the_thread_that_closes_it(at_once, s3, monkeypatch):
    fs, ino, _ = at_once
    submitted = []
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_TRUNC).handle
    fs.write(CALLER, handle, 0, memoryview(b"new"), append=False)
    monkeypatch.setattr(s3.pool, "submit", submitted.append)
    fs.flush(CALLER, handle)
    assert submitted == []
    assert fs.pending() == (0, 0)
    fs.release(handle)


def test_a_chmod_answers_the_size_that_the_file_has_by_then(fs, monkeypatch):
    """The kernel takes it even if it was told of a change meanwhile."""
    ino = _saved(fs)
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    size = fs.getattr(CALLER, ino, None).size
    append = lambda _: fs.write(CALLER, handle, size, memoryview(b"+"), append=True)  # noqa: E731
    monkeypatch.setattr(fs._kernel, "attributes_changed", append)
    twin = fs.inodes.get(ino).parent
    monkeypatch.setattr(fs.inodes, "find", lambda *_: twin)  # it tells the kernel of another inode
    assert fs.setattr(CALLER, ino, NewAttr(mode=0o600), None).size == size + 1
    fs.release(handle)
