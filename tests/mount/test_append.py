"""O_APPEND means the end: of the object as it is when the bytes arrive in S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import if_match
from support.posix import PUNCH_HOLE, fallocate
from support.proxy import Hold, Rule

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

_CHANGES_A_MAPPING = """
import mmap, os, sys
with mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 6) as mapping:
    assert mapping[:] == b"first\\n"
    print("mapped", flush=True)
    sys.stdin.readline()
    mapping[0:1] = b"F"
    mapping.flush()
"""


def body(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def append(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


@pytest.mark.parametrize("words", [(), ("-o", "consistency=open")], ids=["mirror", "open"])
def test_an_append_keeps_what_somebody_else_has_put_there(mount_at, client, bucket, words):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = mount_at(f"s3://{bucket}", *words).path / "log"
    assert log.read_bytes() == b"first\n"
    client.put_object(Bucket=bucket, Key="log", Body=b"first\nSECOND LINE OF ANOTHER WRITER\n")
    append(log, b"mine\n")
    whole = b"first\nSECOND LINE OF ANOTHER WRITER\nmine\n"
    assert body(client, bucket, "log") == whole
    assert log.read_bytes() == whole


def test_an_append_goes_behind_what_came_while_it_was_open(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    with open(mount / "log", "ab", buffering=0) as log:
        log.write(b"one\n")
        client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
        log.write(b"two\n")
        os.fsync(log.fileno())
        assert body(client, bucket, "log") == b"another\none\ntwo\n"
        client.put_object(Bucket=bucket, Key="log", Body=b"again\n")
        log.write(b"three\n")
    assert body(client, bucket, "log") == b"again\nthree\n"
    assert (mount / "log").read_bytes() == b"again\nthree\n"


def test_descriptors_that_append_to_what_others_replaced_share_one_file(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    flags = os.O_RDWR | os.O_APPEND
    one, other = os.open(mount / "log", flags), os.open(mount / "log", flags)
    assert os.read(one, 3) == b"fir"  # so it does not go over to the new version by itself
    client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
    os.write(one, b"one\n")
    os.write(other, b"two\n")
    whole = b"another\none\ntwo\n"
    assert os.fstat(one).st_size == len(whole)
    assert os.pread(one, 99, 0) == os.pread(other, 99, 0) == whole
    os.close(one)
    assert body(client, bucket, "log") == whole
    os.close(other)
    assert body(client, bucket, "log") == whole


def test_what_was_appended_is_read_behind_what_others_have_put_there_if_that_is_as_long(
    mount, client, bucket
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR | os.O_APPEND)
    assert os.pread(log, 99, 0) == b"first\n"
    client.put_object(Bucket=bucket, Key="log", Body=b"FIRST\n")
    os.write(log, b"mine\n")
    assert os.pread(log, 99, 0) == b"FIRST\nmine\n"
    os.close(log)


def test_what_was_appended_is_read_where_it_is_however_long_the_kernel_waits_for_a_directory(
    mount, client, bucket, proxy
):
    """The kernel is told of one thing after the other; who has appended is answered behind that."""
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR | os.O_APPEND)
    assert os.pread(log, 99, 0) == b"first\n"
    making = Hold(lambda request: request.kind == "PUT" and request.key == "d/")
    with proxy.rule(making), ThreadPoolExecutor(1) as pool:
        made = pool.submit(os.mkdir, mount / "d")
        assert making.reached.wait(60)
        client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
        os.write(log, b"one\n")
        assert os.pread(log, 99, 0) == b"another\none\n"
        client.put_object(Bucket=bucket, Key="log", Body=b"again\n")
        os.fsync(log)
        assert os.pread(log, 99, 0) == b"again\none\n"
        making.release()
        made.result()
    os.close(log)


def test_what_was_appended_is_read_behind_what_others_have_put_there_while_it_is_uploaded(
    mount, client, bucket, proxy
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR | os.O_APPEND)
    assert os.pread(log, 99, 0) == b"first\n"
    os.write(log, b"one\n")
    client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
    both = Hold(lambda request: request.kind == "PUT" and request.headers["Content-Length"] == "12")
    with proxy.rule(both), ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, log)
        assert both.reached.wait(60)
        read = os.pread(log, 99, 0)
        both.release()
        synced.result()
    assert read == os.pread(log, 99, 0) == b"another\none\n"
    os.close(log)


def test_a_large_object_is_appended_to_without_being_fetched(mount, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="log", Body=b"x" * (40 << 20))
    with open(mount / "log", "ab", buffering=0) as log:
        log.write(b"mine\n")
        client.put_object(Bucket=bucket, Key="log", Body=b"y" * (41 << 20))
        fetched = Rule(lambda request: request.kind == "GET" and "acl" not in request.query)
        with proxy.rule(fetched):
            log.close()
    assert not fetched.reached.is_set()
    assert body(client, bucket, "log") == b"y" * (41 << 20) + b"mine\n"


def test_a_new_file_that_two_append_to_has_what_both_wrote(mount, client, bucket):
    with open(mount / "new", "ab") as mine:
        mine.write(b"mine\n")
        client.put_object(Bucket=bucket, Key="new", Body=b"theirs\n")
    assert body(client, bucket, "new") == b"theirs\nmine\n"


def test_what_is_no_append_still_keeps_its_bytes_aside(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR)
    os.pwrite(log, b"mine\n", 6)
    client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
    for end in (os.fsync, os.close):
        with pytest.raises(OSError, match="Stale"):
            end(log)
    assert body(client, bucket, "log") == b"another\n"


@pytest.mark.parametrize(
    "write",
    [
        lambda fd: os.pwrite(fd, b"mine\n", os.lseek(fd, 0, os.SEEK_END)),
        lambda fd: os.pwritev(fd, [b"mine\n"], 0, os.RWF_APPEND),
        lambda fd: os.pwrite(fd, b"mine\n", 8),
        lambda fd: os.ftruncate(fd, os.fstat(fd).st_size + 3),
        lambda fd: os.posix_fallocate(fd, 0, 8),
    ],
)
def test_a_change_at_the_old_end_is_estale_where_others_have_moved_the_end(
    mount, client, bucket, write
):
    """Its place was chosen by a size that is another by now: it would be among their bytes. It is
    so, too, for a program that does not heed that, and writes the next line there."""
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR)
    client.put_object(Bucket=bucket, Key="log", Body=b"first\nsecond of another\n")
    with pytest.raises(OSError, match="Stale"):
        write(log)
    with pytest.raises(OSError, match="Stale"):
        os.pwrite(log, b"next\n", 11)
    os.close(log)
    assert body(client, bucket, "log") == b"first\nsecond of another\n"


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (lambda fd: os.pwrite(fd, b"x", 8), b"\0\0x"),
        (lambda fd: os.posix_fallocate(fd, 4, 4), b"\0\0"),
    ],
    ids=["write", "allocate"],
)
def test_a_change_behind_the_end_is_made_where_the_new_version_has_the_same_size(
    mount, client, bucket, change, end
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR)
    client.put_object(Bucket=bucket, Key="log", Body=b"FIRST\n")
    change(log)
    os.close(log)
    assert body(client, bucket, "log") == b"FIRST\n" + end


@pytest.mark.parametrize(
    "later",
    [
        lambda fd: os.pwrite(fd, b"mine\n", 6),
        lambda fd: os.pwrite(fd, b"mine\n", 4),
        lambda fd: os.ftruncate(fd, 9),
        lambda fd: fallocate(fd, PUNCH_HOLE, 4, 5),
    ],
    ids=["at-the-end", "across-the-end", "truncate", "punch"],
)
@pytest.mark.parametrize("first", ["write", "open"])
def test_a_later_change_is_judged_by_the_end_that_its_program_knows(
    mount, client, bucket, first, later
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR)
    client.put_object(Bucket=bucket, Key="log", Body=b"first\nsecond of another\n")
    if first == "write":
        os.pwrite(log, b"FIRST", 0)
    else:  # the mirror learns of the new version, and the open file goes over to it
        (mount / ".sync").touch()
        assert (mount / "log").stat().st_size == 24
    for _ in range(2):
        with pytest.raises(OSError, match="Stale"):
            later(log)
    os.close(log)
    expected = b"FIRST" if first == "write" else b"first"
    assert body(client, bucket, "log") == expected + b"\nsecond of another\n"


def test_a_write_at_the_end_that_the_file_has_now_is_made(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_RDWR)
    client.put_object(Bucket=bucket, Key="log", Body=b"first\nsecond\n")
    (mount / ".sync").touch()
    assert os.lseek(log, 0, os.SEEK_END) == 13
    os.write(log, b"mine\n")
    os.write(log, b"and mine\n")
    os.close(log)
    assert body(client, bucket, "log") == b"first\nsecond\nmine\nand mine\n"


def test_a_copy_onto_what_was_empty_does_not_replace_what_others_put_there(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="empty", Body=b"")
    client.put_object(Bucket=bucket, Key="source", Body=b"copied")
    source, target = os.open(mount / "source", os.O_RDONLY), os.open(mount / "empty", os.O_RDWR)
    client.put_object(Bucket=bucket, Key="empty", Body=b"theirs")
    with pytest.raises(OSError, match="Stale"):
        os.copy_file_range(source, target, 6)
    os.close(target)
    os.close(source)
    assert body(client, bucket, "empty") == b"theirs"


def test_whoever_has_read_the_old_version_reads_nothing_behind_which_others_append(
    mount, client, bucket
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    reader = os.open(mount / "log", os.O_RDWR)
    assert os.pread(reader, 99, 0) == b"first\n"
    append_to = os.open(mount / "log", os.O_WRONLY | os.O_APPEND)
    os.write(append_to, b"mine\n")
    assert os.pread(reader, 99, 0) == b"first\nmine\n"
    client.put_object(Bucket=bucket, Key="log", Body=b"ANOTHER LINE\n")
    os.close(append_to)
    for change in (lambda: os.pread(reader, 99, 0), lambda: os.pwrite(reader, b"x", 0)):
        with pytest.raises(OSError, match="Stale"):
            change()
    os.close(reader)
    assert body(client, bucket, "log") == b"ANOTHER LINE\nmine\n"
    assert (mount / "log").read_bytes() == b"ANOTHER LINE\nmine\n"


def test_a_mapping_of_the_old_version_is_not_written_into_that_behind_which_appends_went(
    mount, client, bucket
):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    words = [sys.executable, "-c", _CHANGES_A_MAPPING, mount / "log"]
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL) as program:
        assert program.stdout.readline() == b"mapped\n"
        append_to = os.open(mount / "log", os.O_RDWR | os.O_APPEND)
        os.write(append_to, b"mine\n")
        client.put_object(Bucket=bucket, Key="log", Body=b"ANOTHER LINE\n")
        os.fsync(append_to)
        program.communicate(b"\n", timeout=60)
    assert program.returncode in (1, -signal.SIGBUS)
    os.close(append_to)
    assert body(client, bucket, "log") == b"ANOTHER LINE\nmine\n"


def test_a_deleted_object_is_not_brought_back_by_an_append(mount, client, bucket):
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    log = os.open(mount / "log", os.O_WRONLY | os.O_APPEND)
    os.write(log, b"mine\n")
    client.delete_object(Bucket=bucket, Key="log")
    for end in (os.fsync, os.close):
        with pytest.raises(OSError, match="Stale"):
            end(log)
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []


def test_no_append_of_two_mounts_and_somebody_else_is_missing(mount_at, client, bucket, request):
    """`--appends 1000` for more than the suite has time for."""
    each = request.config.getoption("appends") // 3
    client.put_object(Bucket=bucket, Key="log", Body=b"")
    mounts = [mount_at(f"s3://{bucket}", name=f"mnt{n}").path for n in range(2)]
    said = if_match(client, bucket)  # None: nobody else can write safely there
    acknowledged, lock = [], threading.Lock()

    def through(mount, name):
        for number in range(each):
            line = f"{name}-{number}\n".encode()
            append(mount / "log", line)
            with lock:
                acknowledged.append(line)

    def beside():
        for number in range(each if said else 0):
            line = f"outside-{number}\n".encode()
            while True:
                old = client.get_object(Bucket=bucket, Key="log")
                new, etag = old["Body"].read() + line, said(old["ETag"])
                try:
                    client.put_object(Bucket=bucket, Key="log", Body=new, IfMatch=etag)
                except client.exceptions.ClientError:
                    continue
                break
            with lock:
                acknowledged.append(line)

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(through, mount, f"m{n}") for n, mount in enumerate(mounts)]
        for job in [*jobs, pool.submit(beside)]:
            job.result()
    lines = body(client, bucket, "log").splitlines(keepends=True)
    assert sorted(lines) == sorted(acknowledged)


def test_of_two_who_make_a_lock_file_one_is_refused(mount, client, bucket):
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    for name, more in (("empty", 0), ("appended", os.O_APPEND)):
        lock = os.open(mount / name, flags | more)
        if more:
            os.write(lock, b"mine")
        client.put_object(Bucket=bucket, Key=name, Body=b"theirs")
        with pytest.raises(FileExistsError):
            os.close(lock)
        assert body(client, bucket, name) == b"theirs"
