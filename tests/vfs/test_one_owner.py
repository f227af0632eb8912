"""One key has one File that may upload, whoever opens it, by whatever inode, and whatever happens
between the look at its name and the open."""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

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


@pytest.fixture
def asks(fs, monkeypatch):
    """The kernel asks for the size of an inode; returns the sizes that it takes."""
    anew = []
    monkeypatch.setattr(fs._kernel._kernel, "asked_anew", anew.append, raising=False)

    def ask(ino, *handles):
        anew.clear()
        answers = [fs.getattr(CALLER, ino, each).size for each in (*handles, None)]
        if fs.inodes.get(ino).parent is not None:
            answers.append(fs.lookup(CALLER, ROOT_INO, b"x").size)
        assert len(anew) in (0, len(answers))
        return [] if anew else answers

    return ask


def test_a_size_is_taken_once_the_kernel_has_dropped_the_pages_that_end_before(
    fs, monkeypatch, client, bucket, asks
):
    """A page that ended before has zeros there."""
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    taken = []

    def drop(inos, within_s, dropped):
        taken.extend([asks(ino, handle), dropped(ino), asks(ino, handle)])

    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.fsync(CALLER, handle)
    # before the upload, and before fsync returns
    assert taken == [[], None, [6, 6, 6], [6, 6, 6], None, [6, 6, 6]]
    fs.release(handle)


def test_each_inode_of_a_file_has_its_size_once_its_own_pages_are_dropped(fs, monkeypatch, asks):
    old = save(fs, b"x", b"old")
    fs.unlink(CALLER, ROOT_INO, b"x")
    new = save(fs, b"x", b"new")
    handle = fs.open(CALLER, old, os.O_RDWR).handle  # looked up before the unlink
    fs.read(CALLER, handle, 0, 9)
    taken = []

    def drop(inos, within_s, dropped):
        if within_s:
            taken.append([asks(new), dropped(new), asks(new), asks(old), dropped(old), asks(old)])

    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handle, 2, memoryview(b"+"), append=True)
    assert taken == [[[], None, [4, 4], [], None, [4]]]
    fs.release(handle)


def test_an_answer_does_not_have_the_size_taken_of_an_append_that_others_still_make(
    fs, monkeypatch, client, bucket, asks
):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    fs.read(CALLER, handle, 0, 9)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    drops, stored = threading.Event(), threading.Event()

    def append():
        fs.write(CALLER, handle, 4, memoryview(b"+"), append=True)

    def drop(inos, within_s, dropped):
        if within_s == 2:  # the upload is done
            writes.start()
            assert drops.wait(30)
        elif within_s:
            drops.set()
            assert stored.wait(30)

    writes = threading.Thread(target=append)
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.fsync(CALLER, handle)
    assert asks(ino, handle) == []
    stored.set()
    writes.join()
    assert asks(ino, handle) == [7, 7, 7]  # its page may be locked, and dropped only after it
    fs.release(handle)


def test_the_size_of_an_append_that_the_kernel_has_put_elsewhere_is_taken_with_its_answer(
    fs, monkeypatch, asks
):
    """Until then its page may end with zeros where the bytes belong."""
    ino = save(fs, b"x", b"newer")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    assert fs.read(CALLER, handle, 0, 99) == b"newer"
    taken = []
    drop = lambda _, within_s, *__: taken.append((within_s, asks(ino)))  # noqa: E731
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    # when it comes, as its bytes are over others in the page; and when they are where they belong
    assert taken == [(0, [5, 5]), (0.1, [])]
    assert asks(ino) == [6, 6]
    fs.release(handle)


def test_an_append_does_not_count_on_a_drop_that_one_by_another_inode_waits_for(
    fs, monkeypatch, asks
):
    old = save(fs, b"x", b"old")
    fs.unlink(CALLER, ROOT_INO, b"x")
    new = save(fs, b"x", b"newer")
    handles = [fs.open(CALLER, ino, os.O_RDWR).handle for ino in (old, new)]
    fs.read(CALLER, handles[0], 0, 9)
    taken = []

    def drop(inos, within_s, dropped):
        if within_s:  # meanwhile another thread appends
            fs.write(CALLER, handles[1], 3, memoryview(b"+"), append=True)
            taken.extend([asks(old), asks(new)])
        elif len(inos) == 1:
            taken.append(inos)

    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handles[0], 3, memoryview(b"+"), append=True)
    # as the first append comes; as the second one is where it belongs
    assert taken == [[old], [old], [], [7, 7]]
    for each in handles:
        fs.release(each)


def test_a_kernel_that_does_not_drop_its_pages_has_the_size_after_ten_seconds(
    fs, monkeypatch, asks
):
    ino = save(fs, b"x", b"newer")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.read(CALLER, handle, 0, 99)
    clock, taken = SimpleNamespace(monotonic=lambda: now[0], time_ns=time.time_ns), []
    now = [100.0]

    def drop(inos, within_s, dropped):
        if within_s:
            for now[0] in (109.9, 110.0):
                taken.append(asks(ino))

    monkeypatch.setattr("mimicfs.files.standing.time", clock)
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    assert taken == [[], [6, 6]]
    fs.release(handle)


def test_an_append_that_goes_over_to_another_object_has_the_pages_of_the_old_one_dropped(
    fs, s3, monkeypatch, client, bucket, asks
):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    fs.read(CALLER, handle, 0, 9)
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    s3.head(bucket, "x")
    taken = []
    append = type(fs.inodes.get(ino).file).append

    def late(file, *args):
        taken.append(asks(ino))
        return append(file, *args)

    monkeypatch.setattr(type(fs.inodes.get(ino).file), "append", late)
    dropped = []
    drop = lambda inos, *_: dropped.append(ino in inos)  # noqa: E731
    monkeypatch.setattr(fs._kernel._kernel, "drop_data", drop, raising=False)
    fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)
    assert taken == [[3], []]  # by the old object, and by the new one
    assert dropped == [True, True]
    fs.release(handle)


def test_who_has_read_what_others_have_replaced_does_not_read_it_beside_an_append_to_the_new(
    fs, monkeypatch, client, bucket
):
    """The kernel has one set of pages for both."""
    ino = save(fs, b"x", b"new")
    reads, appends = (fs.open(CALLER, ino, os.O_RDWR).handle for _ in range(2))
    assert fs.read(CALLER, reads, 0, 1) == b"n"  # the rest is in memory now
    client.put_object(Bucket=bucket, Key="x", Body=b"newer")
    # the news comes when the append has gone over to the new one
    monkeypatch.setattr(fs._kernel, "_version_changed", lambda *_: None)
    fs.write(CALLER, appends, 3, memoryview(b"+"), append=True)
    with pytest.raises(ObjectChanged):
        fs.read(CALLER, reads, 0, 1)
    assert fs.read(CALLER, appends, 0, 9) == b"newer+"
    for each in (reads, appends):
        fs.release(each)


def test_a_size_that_has_changed_before_it_is_answered_is_not_taken(fs, monkeypatch):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    anew = []

    def others():
        monkeypatch.setattr(fs._kernel._kernel, "asked_anew", anew.append, raising=False)
        fs.write(CALLER, handle, 3, memoryview(b"+"), append=True)

    before(monkeypatch, fs._handles, "told", others)
    assert fs.getattr(CALLER, ino, None).size == 3
    assert anew == [ino]
    fs.release(handle)


@pytest.mark.parametrize("late", ["write", "drop"])
def test_pages_are_dropped_once_more_however_long_the_write_or_the_drop_takes(
    fs, monkeypatch, late
):
    monkeypatch.setattr("mimicfs.files.standing._WAY_S", 0)
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    node, kernel = fs.inodes.get(ino), fs._kernel._kernel
    told, again = [], []
    monkeypatch.setattr(kernel, "data_changed", lambda *each: told.append(each), raising=False)
    monkeypatch.setattr(kernel, "drop_data", lambda inos, *_: again.extend(inos), raising=False)
    if late == "drop":  # the kernel waits with it, for a page that somebody reads
        fs._kernel.grew(node)
    comes = Caller(os.getuid(), os.getgid(), 0, Cancellation())
    if late == "write":  # it waits here, for an upload
        fs._kernel.grew(node)
    [(_, dropped)] = told
    if late == "drop":
        dropped()
    fs.read(CALLER, handle, 0, 99)
    fs.write(comes, handle, 0, memoryview(b"NEW"), append=False)
    assert again == [ino]
    fs.release(handle)


def test_pages_are_dropped_once_more_though_the_file_was_opened_for_a_chmod_meanwhile(
    fs, monkeypatch
):
    ino = save(fs, b"x", b"new")
    handle = fs.open(CALLER, ino, os.O_RDWR).handle
    node, again = fs.inodes.get(ino), []

    def others():
        monkeypatch.setattr("mimicfs.files.standing._WAY_S", 0)
        fs._kernel.grew(node)
        fs.read(CALLER, handle, 0, 99)
        fs.setattr(CALLER, ino, NewAttr(mode=0o600), None)  # the kernel drops nothing for that
        tell = lambda inos, *_: again.extend(inos)  # noqa: E731
        monkeypatch.setattr(fs._kernel._kernel, "drop_data", tell, raising=False)

    before(monkeypatch, node.file, "write", others)
    fs.write(CALLER, handle, 0, memoryview(b"NEW"), append=False)
    assert again == [ino]
    fs.release(handle)


def test_an_open_of_a_name_whose_open_file_stands_at_another_key_ends(fs, s3, client, bucket):
    """No rename leaves one; an open that looked again for ever would take all of a core."""
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
