"""One key has one File that may upload, whoever opens it, by whatever inode, and whatever happens
between the look at its name and the open."""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.onefile import check_one_file_of_each_key
from support.proxy import Fail, Hold, Ignore

from mimicfs.errors import ObjectChanged, PosixError, UploadFailed
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

BLIND = "x-amz-copy-source-if-match"
CALLER = Caller(os.getuid(), os.getgid(), 0, Cancellation())


def save(fs, name, text, directory=ROOT_INO):
    attr, opened = fs.create(CALLER, directory, name, 0o644, os.O_WRONLY | os.O_TRUNC)
    fs.write(CALLER, opened.handle, 0, memoryview(text), append=False)
    fs.flush(CALLER, opened.handle)
    fs.release(opened.handle)
    return attr.ino


def before(monkeypatch, owner, name, others):
    """Before the next call of *name*, *others* do something."""
    work = getattr(owner, name)

    def late(*args, **kwargs):
        monkeypatch.undo()
        others()
        return work(*args, **kwargs)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.O_RDONLY, b"new\0\0\0\0"),
        (os.O_RDWR, b"abc\0\0\0\0"),
        (os.O_WRONLY | os.O_TRUNC, b"abc"),
        (os.O_WRONLY | os.O_APPEND, b"new\0\0\0\0abc"),
    ],
    ids=["read", "write", "cut", "append"],
)
def test_who_opens_what_was_uploaded_since_it_was_looked_up_has_the_newest_version(
    fs, monkeypatch, client, bucket, flags, expected
):
    ino = save(fs, b"x", b"new")
    changed = NewAttr(mode=0o600, size=7)
    others = lambda: fs.setattr(CALLER, ino, changed, None)  # noqa: E731
    before(monkeypatch, fs._handles, "_open_known", others)
    handle = fs.open(CALLER, ino, flags).handle
    if flags == os.O_RDONLY:
        assert fs.read(CALLER, handle, 0, 99) == expected
    else:
        fs.write(CALLER, handle, 0, memoryview(b"abc"), append=bool(flags & os.O_APPEND))
        fs.flush(CALLER, handle)
    fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == expected
    assert fs.getattr(CALLER, ino, None).mode & 0o777 == 0o600


def test_what_was_uploaded_since_it_was_looked_up_is_opened_by_a_worker(fs, monkeypatch):
    ino = save(fs, b"x", b"new")
    others = lambda: fs.setattr(CALLER, ino, NewAttr(size=7), None)  # noqa: E731
    before(monkeypatch, fs._handles, "open_at_once", others)
    assert fs.open_at_once(CALLER, ino, os.O_RDONLY) is None
    assert fs.inodes.get(ino).file is None


def test_who_opens_a_name_that_is_gone_while_a_rename_brings_it_back_gets_the_file_of_that(
    fs, proxy, monkeypatch
):
    old, _ = (save(fs, b"x", b"old"), fs.unlink(CALLER, ROOT_INO, b"x"))
    save(fs, b"x", b"other")
    new = save(fs, b"new", b"new")
    deleted = Hold(lambda request: request.kind == "DELETE" and request.key == "new")
    renames = []

    def gone():
        fs.unlink(CALLER, ROOT_INO, b"x")
        before(monkeypatch, fs._handles, "_open_standing", back)

    def back():
        renames.append(pool.submit(fs.rename, CALLER, ROOT_INO, b"new", ROOT_INO, b"x", 0))
        assert deleted.reached.wait(60)

    with ThreadPoolExecutor() as pool, proxy.rule(deleted):
        before(monkeypatch, fs._handles, "_named", gone)
        opening = pool.submit(fs.open, CALLER, old, os.O_WRONLY)  # looked up before
        assert deleted.reached.wait(60)
        with pytest.raises(TimeoutError):
            opening.result(0.05)
        deleted.release()
        renames[0].result(10)
        handle = opening.result(10).handle
    assert fs._handles.node(handle).ino == new
    check_one_file_of_each_key(fs)
    fs.release(handle)


@pytest.fixture
def displaced(fs, s3, client, bucket):
    """A handle of `x` that others have replaced, and one of what is there now."""
    handle = fs.open(CALLER, save(fs, b"x", b"old"), os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 3) == b"old"
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    s3.head(bucket, "x")
    newer = fs.open(CALLER, fs.lookup(CALLER, ROOT_INO, b"x").ino, os.O_RDWR).handle
    assert fs._handles.node(newer) is not fs._handles.node(handle)
    return handle, newer


def test_who_appends_to_what_others_have_replaced_has_the_file_of_that(
    fs, displaced, client, bucket
):
    for handle in displaced:
        fs.write(CALLER, handle, 5, memoryview(b"+"), append=True)
        check_one_file_of_each_key(fs)
    assert fs._handles.file(displaced[0]) is fs._handles.file(displaced[1])
    for handle in displaced:
        fs.flush(CALLER, handle)
        fs.release(handle)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"newer++"


def test_who_locks_what_others_have_replaced_has_the_file_of_that(fs, displaced):
    fs._handles.renew(displaced[0], CALLER.cancellation)
    assert fs._handles.file(displaced[0]) is fs._handles.file(displaced[1])
    check_one_file_of_each_key(fs)
    assert fs.read(CALLER, displaced[0], 0, 9) == b"newer"
    for handle in displaced:
        fs.release(handle)
    assert fs.figures()["open"] == 0


@pytest.mark.parametrize("how", ["append", "lock"])
def test_who_goes_on_with_what_others_have_replaced_twice_has_the_newest(
    fs, monkeypatch, displaced, how
):
    heir = fs._handles.node(displaced[1])
    wait_until_left, displacing = fs._handles._wait_until_left, []

    def displaced_then(node, cancellation):
        wait_until_left(node, cancellation)
        if node is heir and not displacing:
            displacing.append(fs._kernel.replaced(heir))

    monkeypatch.setattr(fs._handles, "_wait_until_left", displaced_then)
    if how == "lock":
        fs._handles.renew(displaced[0], CALLER.cancellation)
        assert fs.read(CALLER, displaced[0], 0, 9) == b"newer"
    fs.write(CALLER, displaced[0], 5, memoryview(b"+"), append=True)
    assert displacing
    assert fs.read(CALLER, displaced[0], 0, 9) == b"newer+"
    for handle in displaced:
        fs.release(handle)


def test_who_appends_to_what_this_mount_has_replaced_meanwhile_gets_no_file_of_the_name(
    fs, monkeypatch
):
    handle = fs.open(CALLER, save(fs, b"x", b"old"), os.O_WRONLY).handle
    fs._handles.file(handle).expire()
    save(fs, b"new", b"new")
    renamed = lambda: fs.rename(CALLER, ROOT_INO, b"new", ROOT_INO, b"x", 0)  # noqa: E731
    before(monkeypatch, fs._handles, "_heir", renamed)
    with pytest.raises(ObjectChanged):
        fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    check_one_file_of_each_key(fs)
    fs.release(handle)


@pytest.mark.parametrize("how", ["append", "lock"])
def test_who_goes_on_with_what_others_have_replaced_finds_it_in_the_renamed_directory(
    fs, s3, client, bucket, how
):
    directory = fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino
    handle = fs.open(CALLER, save(fs, b"x", b"old", directory), os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 3) == b"old"
    client.put_object(Bucket=bucket, Key="d/x", Body=b"newer")
    s3.head(bucket, "d/x")
    fs.rename(CALLER, ROOT_INO, b"d", ROOT_INO, b"e", 0)
    save(fs, b"x", b"other", fs.mkdir(CALLER, ROOT_INO, b"d", 0o755).ino)
    if how == "lock":
        fs._handles.renew(handle, CALLER.cancellation)
    fs.write(CALLER, handle, 5, memoryview(b"+"), append=True)
    check_one_file_of_each_key(fs)
    fs.flush(CALLER, handle)
    fs.release(handle)
    stored = [client.get_object(Bucket=bucket, Key=f"{name}/x")["Body"].read() for name in "de"]
    assert stored == [b"other", b"newer+"]
    assert fs.figures()["open"] == 0


class InTurn:
    """A lock that each of two threads has had before one of them takes it again."""

    def __init__(self, lock):
        self._lock = lock
        self._had = set()
        self._both = threading.Event()

    def __enter__(self):
        if threading.current_thread() in self._had:
            assert self._both.wait(10)
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()
        self._had.add(threading.current_thread())
        if len(self._had) == 2:
            self._both.set()


def test_of_two_handles_that_are_closed_at_once_the_last_uploads_what_was_mapped(
    fs, client, bucket, monkeypatch
):
    ino = save(fs, b"x", b"old")
    handles = [fs.open(CALLER, ino, os.O_RDWR).handle for _ in range(2)]
    fs.write(CALLER, handles[0], 0, memoryview(b"new"), append=False)
    monkeypatch.setattr(fs._handles, "_lock", InTurn(fs._handles._lock))
    closing = [threading.Thread(target=fs.release, args=(handle,)) for handle in handles]
    for each in closing:
        each.start()
    for each in closing:
        each.join()
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == b"new"


def test_who_opens_a_file_whose_attributes_are_being_changed_waits_for_that(
    fs, s3, client, bucket, monkeypatch
):
    """The copy of an object that was made of parts has another ETag."""
    place = {"Bucket": bucket, "Key": "x"}
    upload = client.create_multipart_upload(**place)["UploadId"]
    etag = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"old")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)
    s3.head(bucket, "x")
    ino = fs.lookup(CALLER, ROOT_INO, b"x").ino
    reader = fs.open(CALLER, ino, os.O_RDONLY).handle
    assert fs.read(CALLER, reader, 0, 9) == b"old"
    opening = []

    def opens():
        opening.append(pool.submit(fs.open, CALLER, ino, os.O_RDWR))
        with pytest.raises(TimeoutError):
            opening[0].result(0.05)

    with ThreadPoolExecutor() as pool:
        before(monkeypatch, fs._kernel, "copied", opens)
        fs.setattr(CALLER, ino, NewAttr(mode=0o600), None)
        handle = opening[0].result(10).handle
    assert fs._handles.file(handle) is fs._handles.file(reader)
    for each in (handle, reader):
        fs.release(each)


class Threads:
    """Threads that do at random to `x` what programs do, each as the kernel would let it, and look
    each time whether its key has one File."""

    def __init__(self, fs, seed):
        self.fs = fs
        self.seed = seed
        self.directory = threading.Lock()  # the kernel's
        self.found = {}  # the name that the kernel holds: its inode

    def run(self, rounds):
        with ThreadPoolExecutor() as pool:
            chances = [random.Random(self.seed + number) for number in range(4)]
            running = [pool.submit(self._many, chance, rounds) for chance in chances]
        for each in running:
            each.result()

    def _many(self, chance, rounds):
        steps = [self._write, self._append, self._change, self._cut, self._unlink, self._replace]
        for _ in range(rounds):
            step = chance.choice(steps)
            for _ in range(5):  # ESTALE: the kernel looks the name up again
                try:
                    step(chance)
                    break
                except PosixError as exc:
                    if exc.errno not in (errno.ENOENT, errno.ESTALE):
                        raise
                    self.found.clear()

    def _ino(self, chance):
        if chance.random() < 0.8 and (ino := self.found.get("x")):
            return ino
        with self.directory:
            self.found["x"] = self.fs.lookup(CALLER, ROOT_INO, b"x").ino
            return self.found["x"]

    def _opened(self, chance, flags, data):
        handle = self.fs.open(CALLER, self._ino(chance), flags).handle
        try:
            check_one_file_of_each_key(self.fs)
            self.fs.write(CALLER, handle, 0, memoryview(data), append=bool(flags & os.O_APPEND))
            self.fs.flush(CALLER, handle)
        finally:
            check_one_file_of_each_key(self.fs)
            self.fs.release(handle)

    def _write(self, chance):
        self._opened(chance, os.O_WRONLY | os.O_TRUNC, b"w" * chance.choice((1, 5000)))

    def _append(self, chance):
        self._opened(chance, os.O_WRONLY | os.O_APPEND, b"appended")

    def _change(self, chance):
        self._opened(chance, os.O_RDWR, b"change")

    def _cut(self, chance):
        ino = self._ino(chance)
        self.fs.setattr(CALLER, ino, NewAttr(size=chance.randrange(9000), mode=0o600), None)

    def _unlink(self, _):
        with self.directory:
            self.found.clear()
            self.fs.unlink(CALLER, ROOT_INO, b"x")

    def _replace(self, chance):
        name = b"mine-%d" % chance.randrange(1 << 30)
        with self.directory:
            ino = save(self.fs, name, b"new")
            self.fs.rename(CALLER, ROOT_INO, name, ROOT_INO, b"x", 0)
            self.found["x"] = ino


@pytest.mark.timeout(3600)
def test_threads_that_change_one_name_have_one_file_of_it(fs, request, tmp_path):
    save(fs, b"x", b"old")
    Threads(fs, seed=7).run(request.config.getoption("rounds") or 3)
    assert not (tmp_path / "recovered").exists()


def test_the_kernel_keeps_its_pages_of_what_it_has_written_in_the_moment_an_upload_ends(
    fs, monkeypatch
):
    ino = save(fs, b"x", b"new")
    fs.release(fs.open(CALLER, ino, os.O_RDONLY).handle)
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_APPEND).handle
    kept = []
    read = lambda: kept.append(fs.open(CALLER, ino, os.O_RDONLY).keep_cache)  # noqa: E731
    for offset in (3, 5):
        fs.write(CALLER, handle, offset, memoryview(b"er"), append=True)
        before(monkeypatch, fs._handles, "_wrote", read)
        fs.flush(CALLER, handle)
    assert kept == [True, True]


@pytest.mark.parametrize("how", ["lookup", "getattr", "listing", "row"])
def test_the_kernel_gets_no_size_from_before_an_upload_that_ended_while_it_asked(
    fs, monkeypatch, how
):
    ino = save(fs, b"x", b"new")
    fs.lookup(CALLER, ROOT_INO, b"x")
    handle = fs.open(CALLER, ino, os.O_WRONLY | os.O_APPEND).handle
    fs.write(CALLER, handle, 3, memoryview(b"er"), append=True)

    def uploaded():
        fs.flush(CALLER, handle)
        fs.release(handle)

    if how in ("listing", "row"):
        before(monkeypatch, fs._tree, "_created_ns" if how == "listing" else "_row_attr", uploaded)
        listed = fs.readdir(CALLER, ROOT_INO, 0, 4096, 24, True)
        sizes = [each.attr.size for each in listed if each.name == b"x"]
    elif how == "lookup":
        before(monkeypatch, fs._tree, "_object_attr", uploaded)
        sizes = [fs.lookup(CALLER, ROOT_INO, b"x").size]
    else:
        before(monkeypatch, fs._tree, "_file_attr", uploaded)
        sizes = [fs.getattr(CALLER, ino, None).size]
    assert sizes == [5]


@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize(("read", "again"), [(True, 1), (False, 0)])
def test_pages_that_were_dropped_and_read_before_a_write_came_here_are_dropped_once_more(
    fs, monkeypatch, append, read, again
):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.read(CALLER, handle, 0, 99)
    node = fs.inodes.get(ino)

    dropped = []

    def others():  # the kernel has the bytes in its page already, and sends the WRITE
        fs._kernel.grew(node)
        if read:
            fs.read(CALLER, handle, 0, 99)
        monkeypatch.setattr(fs._kernel._kernel, "drop_data", lambda told, *_: dropped.extend(told))

    before(monkeypatch, node.file, "append" if append else "write", others)
    fs.write(CALLER, handle, 3, memoryview(b"er"), append=append)
    fs.write(CALLER, handle, 5, memoryview(b"!"), append=append)
    assert dropped == [ino] * again
    fs.release(handle)


def test_a_line_of_which_the_kernel_sends_two_halves_has_nothing_of_others_in_it(
    fs, client, bucket
):
    """It sends what goes into a page that it has not read in a WRITE of its own."""
    ino = save(fs, b"x", b"." * (mmap.PAGESIZE - 96))
    line, other = (fs.open(CALLER, ino, os.O_RDWR).handle for _ in range(2))
    fs.write(CALLER, line, mmap.PAGESIZE - 96, memoryview(b"a" * 96), append=True)
    comes = threading.Event()  # to its end, or to the wait for the other half

    class Watched(Cancellation):
        def wait(self, future, timeout_s=None):
            if timeout_s is not None:
                comes.set()
            return super().wait(future, timeout_s)

    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(fs.fsync, CALLER._replace(cancellation=Watched()), other)
        synced.add_done_callback(lambda _: comes.set())
        assert comes.wait(30)
        theirs = client.get_object(Bucket=bucket, Key="x")["Body"].read() + b"theirs"
        client.put_object(Bucket=bucket, Key="x", Body=theirs)
        fs.write(CALLER, line, mmap.PAGESIZE, memoryview(b"a" * 104), append=True)
        synced.result()
    fs.fsync(CALLER, line)
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == theirs + b"a" * 200
    for handle in (line, other):
        fs.release(handle)


def test_an_upload_that_goes_behind_others_does_not_wait_for_the_kernel(
    fs, monkeypatch, client, bucket
):
    """The longer it takes, the likelier others are quicker again."""
    handle = fs.open(CALLER, save(fs, b"x", b"new"), os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    waits = []
    tell = lambda _, within_s, *__: waits.append(within_s)  # noqa: E731
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", tell, raising=False)
    fs.fsync(CALLER, handle)
    assert waits == [0, 2]
    fs.release(handle)


@pytest.mark.parametrize(
    ("theirs", "in_parts"),
    [(b"their", False), (b"longer", False), (b"longer", True)],
    ids=["another MD5", "longer", "no MD5, but longer"],
)
def test_what_is_written_during_a_chmod_goes_over_no_bytes_of_others(
    fs, s3, proxy, monkeypatch, caplog, client, bucket, theirs, in_parts
):
    """Some servers copy whatever is there, whichever version was asked for."""
    ino = save(fs, b"x", b"first")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle

    def others():
        fs.write(CALLER, handle, 0, memoryview(b"ours"), append=False)
        put(client, bucket, theirs, in_parts=in_parts)

    before(monkeypatch, s3, "copy", others)
    with proxy.rule(Ignore(BLIND)):
        fs.setattr(CALLER, ino, NewAttr(mode=0o600), None)
    with pytest.raises(UploadFailed, match="changed in S3"):
        fs.fsync(CALLER, handle)
    assert "its bytes are in" in caplog.text
    assert client.get_object(Bucket=bucket, Key="x")["Body"].read() == theirs
    fs.release(handle)


def put(client, bucket, body, *, in_parts):
    """Store *body* as `x`; *in_parts*: the ETag does not say its MD5."""
    where = {"Bucket": bucket, "Key": "x"}
    if not in_parts:
        client.put_object(**where, Body=body)
        return
    upload = where | {"UploadId": client.create_multipart_upload(**where)["UploadId"]}
    part = client.upload_part(**upload, PartNumber=1, Body=body)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    client.complete_multipart_upload(**upload, MultipartUpload=parts)


@pytest.mark.parametrize("more", [b"", b"longer\n"], ids=["as long", "longer"])
@pytest.mark.parametrize("ours", [b"", b"one\n"], ids=["opened", "written"])
@pytest.mark.parametrize("says", [True, False], ids=["", "no HEAD"])
def test_a_chmod_of_what_others_have_replaced_does_not_make_their_bytes_ours(
    fs, s3, proxy, monkeypatch, client, bucket, more, ours, says
):
    """It is done then, even if S3 does not say what it has copied."""
    ino = save(fs, b"x", b"first\n")
    handle = fs.open(CALLER, ino, os.O_RDWR | os.O_APPEND).handle
    fs.write(CALLER, handle, 6, memoryview(ours), append=True)
    fs.fsync(CALLER, handle)
    theirs = b"their\n" + ours + more
    silent = Fail(lambda it: not says and it.kind == "HEAD" and it.key == "x", 503, "SlowDown")
    with ExitStack() as stack:

        def others():
            put(client, bucket, theirs, in_parts=False)
            stack.enter_context(proxy.rule(silent))

        before(monkeypatch, s3, "copy", others)
        stack.enter_context(proxy.rule(Ignore(BLIND)))
        fs.setattr(CALLER, ino, NewAttr(mode=0o600), None)
    fs.write(CALLER, handle, 10, memoryview(b"two\n"), append=True)
    fs.fsync(CALLER, handle)
    answer = client.get_object(Bucket=bucket, Key="x")
    assert answer["Body"].read() == theirs + b"two\n"
    assert answer["Metadata"]["mode"] == str(stat.S_IFREG | 0o600)
    fs.release(handle)


def test_a_size_is_shown_once_the_kernel_has_dropped_the_pages_that_end_before(
    fs, monkeypatch, client, bucket
):
    """A page that ended before has zeros there."""
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    shown = []

    def size():
        return (
            fs.getattr(CALLER, ino, handle).size,
            fs.getattr(CALLER, ino, None).size,
            fs.lookup(CALLER, ROOT_INO, b"x").size,
        )

    def drop(inos, within_s, then=lambda: None):
        shown.extend([size(), then(), size()])

    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.fsync(CALLER, handle)
    # before the upload, and before fsync returns
    assert shown == [(4, 4, 4), True, (6, 6, 6), (6, 6, 6), False, (6, 6, 6)]
    fs.release(handle)


def test_who_changes_a_file_sees_its_size_though_the_kernel_has_old_pages(
    fs, monkeypatch, client, bucket
):
    """The kernel drops a page that it has locked for a WRITE only after the answer."""
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    shown = []

    def never(inos, within_s, then):
        if within_s == 2:  # the upload is done
            shown.append(fs.getattr(CALLER, ino, None).size)
            fs.write(CALLER, handle, 4, memoryview(b"+"), append=True)
            shown.append(fs.getattr(CALLER, ino, None).size)

    monkeypatch.setattr(fs._kernel._kernel, "drop_data", never, raising=False)
    fs.fsync(CALLER, handle)
    assert shown == [4, 7]
    fs.release(handle)


def test_who_stores_a_file_sees_its_size_though_the_kernel_has_old_pages(
    fs, monkeypatch, client, bucket
):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", lambda *_: None, raising=False)
    fs.fsync(CALLER, handle)
    assert fs.getattr(CALLER, ino, None).size == 6
    fs.release(handle)


def test_the_size_of_an_append_that_the_kernel_has_put_elsewhere_is_shown_with_its_answer(
    fs, monkeypatch
):
    """Until then its page may end with zeros where the bytes belong."""
    ino = save(fs, b"x", b"newer")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 99) == b"newer"
    shown = []
    drop = lambda *_: shown.append(fs.getattr(CALLER, ino, None).size)  # noqa: E731
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    assert shown == [5]
    assert fs.getattr(CALLER, ino, None).size == 6
    fs.release(handle)


def test_an_open_of_a_name_whose_open_file_stands_at_another_key_ends(fs, s3, client, bucket):
    """A rename of a directory that fails half done may leave one."""
    ino = save(fs, b"x", b"first")
    handle = fs.open(CALLER, ino, os.O_RDONLY).handle
    assert fs.read(CALLER, handle, 0, 5) == b"first"
    fs.inodes.get(ino).file.key = "elsewhere"
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    s3.head(bucket, "x")
    with pytest.raises(PosixError) as raised:
        fs.open(CALLER, ino, os.O_RDONLY)
    assert raised.value.errno == errno.ESTALE
    fs.release(handle)
