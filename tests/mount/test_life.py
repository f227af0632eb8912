"""The life of a mount: readiness, one-line errors, signals, kill -9, remount."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from support.mounts import run, succeed, unmounted, wait_until
from support.proxy import Hold
from support.signals import to_another_thread

from mimicfs.backends.sqlite import SQLite
from mimicfs.files.journal import Journal

pytestmark = [
    pytest.mark.parametrize("server", ["moto"], indirect=True),
    pytest.mark.usefixtures("really_started"),
]


@pytest.fixture
def point(tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    yield point
    if not unmounted(point):
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, timeout=10)


def body(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_mount_returns_when_the_mount_answers_and_umount_when_all_is_done(
    state, point, client, bucket, proxy, store
):
    common = ["--endpoint-url", proxy.url, "--store", store]
    succeed("mount", *common, f"s3://{bucket}", point)
    assert not unmounted(point)
    (point / "a").write_text("hello")
    link = point.with_name("link")
    link.symlink_to(point)
    status = succeed("status", *common, link)
    assert f"s3://{bucket}/ at {point} (pid " in status
    assert f"{bucket}: 1 key, 5 B" in status
    (point / "d").mkdir()
    inside = run("umount", point / "d")
    assert inside.stderr == f"mimicfs: {point}/d: in the mount at {point}; name that\n"
    assert inside.returncode == 3
    succeed("umount", link)
    assert unmounted(point)
    assert succeed("status", *common) == "nothing is mounted\n"
    assert body(client, bucket, "a") == b"hello"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["s3://no-such-bucket", "{point}"], 6, "s3://no-such-bucket: no such bucket"),
        (["{point}/missing"], 3, "missing: no such directory; mkdir"),
        (["--endpoint-url", "http://127.0.0.1:9", "{point}"], 7, "check --endpoint-url"),
        (["--store", "mongodb://x", "{point}"], 2, "not a store; write sqlite:///PATH"),
        (["--store", "sqlite:////proc/store.db", "{point}"], 4, "--store"),
        (["--store", "sqlite:///no/x.db", "{point}"], 2, "there is no directory /no; correct"),
        (
            ["-o", "colour=red", "{point}"],
            2,
            "-o colour=red: not an option; mimicfs mount --help lists the options",
        ),
        (["-o", "umask=9", "{point}"], 2, "-o umask=9: not an octal number"),
        (["--profile", "nobody", "{point}"], 5, "nobody"),
        (["--events", "foo:", "{point}"], 2, "--events foo:: not a source of messages; write sqs:"),
        (["photos", "{point}"], 2, "photos: not an S3 URL; write s3://photos"),
    ],
)
def test_a_mount_that_fails_says_why_in_one_line(state, point, proxy, arguments, code, says):
    words = [word.format(point=point) for word in arguments]
    result = run("mount", "--endpoint-url", proxy.url, *words)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "very-secret-key" not in result.stderr
    assert result.returncode == code
    assert unmounted(point)


def test_a_store_of_a_newer_version_is_not_touched(state, point, proxy, bucket, tmp_path):
    path = tmp_path / "new.db"
    SQLite(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    result = run("mount", "--endpoint-url", proxy.url, "--store", f"sqlite://{path}", point)
    assert "written by a newer mimicfs" in result.stderr
    assert result.returncode == 4


def test_no_credentials_says_what_to_do(state, point, proxy, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    result = run("mount", "--endpoint-url", proxy.url, point)
    assert "no credentials found: run `aws configure`" in result.stderr
    assert result.returncode == 5


def test_a_mount_point_in_use_is_refused(mount_at, bucket, proxy):
    mount = mount_at(f"s3://{bucket}")
    result = run("mount", "--endpoint-url", proxy.url, "--store", "memory:", mount.path)
    assert "already mounted; unmount it first" in result.stderr
    assert result.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_uploads_what_is_open_and_unmounts(mount_at, client, bucket, number):
    mount = mount_at(f"s3://{bucket}")
    with open(mount.path / "a", "wb", buffering=0) as file:
        file.write(b"not closed yet")
        mount.process.send_signal(number)
        wait_until(lambda: unmounted(mount.path))
    assert mount.process.wait(40) == 0
    assert body(client, bucket, "a") == b"not closed yet"


def test_a_signal_ends_a_mount_at_once_where_nothing_that_is_open_was_changed(
    mount_at, client, bucket
):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"read only")
    mount = mount_at(f"s3://{bucket}")
    here = os.open(mount.path / "d", os.O_RDONLY)
    with open(mount.path / "d/a", "rb", buffering=0) as file:
        assert file.read(4) == b"read"
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(20) == 0  # files that are changed have 30 seconds
        with pytest.raises(OSError, match="not connected"):
            os.stat("a", dir_fd=here)
    os.close(here)


def test_a_signal_ends_the_process_while_s3_does_not_answer_a_reader(
    mount_at, client, bucket, proxy
):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    mount = mount_at(f"s3://{bucket}")
    reads = "import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY), 3)"
    command = [sys.executable, "-c", reads, str(mount.path / "a")]
    holds = Hold(lambda request: request.kind == "GET")
    with (
        proxy.rule(holds) as hold,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as reader,
    ):
        assert hold.reached.wait(60)
        (mount.path / "b").write_bytes(b"new")
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(20) == 0  # the answer is held for 30 seconds
        assert reader.wait(20) == 1
    assert body(client, bucket, "b") == b"new"


def test_a_signal_waits_for_what_was_stored_through_a_mapping(mount_at, client, bucket):
    """It is in the kernel's pages only: the daemon knows of no change."""
    client.put_object(Bucket=bucket, Key="a", Body=b"o" * 8192)
    mount = mount_at(f"s3://{bucket}")
    program = (  # not here: it holds the lock of the interpreter that the server of S3 needs
        "import mmap, sys; file = open(sys.argv[1], 'r+b'); mapping = mmap.mmap(file.fileno(), 0);"
        "mapping[:3] = b'new'; print(flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(mount.path / "a")]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as writer:
        writer.stdout.readline()
        mount.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            mount.process.wait(1.5)  # it ended after half a second
    assert mount.process.wait(20) == 0
    assert body(client, bucket, "a") == b"new" + b"o" * 8189


def test_what_is_still_mapped_after_30_seconds_is_uploaded(mount_at, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"o" * 8192)
    mount = mount_at(f"s3://{bucket}")
    program = (
        "import mmap, os, sys; file = os.open(sys.argv[1], os.O_RDWR);"
        "mapping = mmap.mmap(file, 0); os.close(file); mapping[:3] = b'new';"
        "print(flush=True); sys.stdin.read(); os._exit(0)"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(mount.path / "a")]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as writer:
        writer.stdout.readline()
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(60) == 0
    assert body(client, bucket, "a") == b"new" + b"o" * 8189


def test_a_signal_that_another_thread_takes_ends_an_idle_mount(mount_at, bucket):
    mount = mount_at(f"s3://{bucket}")
    to_another_thread(mount.process.pid, signal.SIGTERM)
    assert mount.process.wait(20) == 0


def test_after_kill_9_the_next_mount_uploads_what_was_written(
    mount_at, client, bucket, state, tmp_path
):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    mount = mount_at(f"s3://{bucket}")
    (mount.path / "closed").write_text("in S3")
    file = os.open(mount.path / "open", os.O_CREAT | os.O_WRONLY)
    os.write(file, b"nobody closed this")
    mount.process.kill()
    mount.process.wait()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.path)
    with contextlib.suppress(OSError):
        os.close(file)
    again = mount_at(f"s3://{bucket}")
    assert sorted(os.listdir(again.path)) == ["a", "closed", "open"]
    assert body(client, bucket, "open") == b"nobody closed this"
    said = f"uploaded what a dead mount had written of s3://{bucket}/open"
    assert said in (tmp_path / "mount.log").read_text()
    assert Journal.open(state / "staging").orphans() == []


def test_what_was_written_before_kill_9_is_kept_beside_what_somebody_else_has_written_since(
    mount_at, client, bucket, state, tmp_path
):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    mount = mount_at(f"s3://{bucket}")
    file = os.open(mount.path / "a", os.O_WRONLY)
    os.write(file, b"OUR")
    mount.process.kill()
    mount.process.wait()
    with contextlib.suppress(OSError):
        os.close(file)
    client.put_object(Bucket=bucket, Key="a", Body=b"theirs")
    again = mount_at(f"s3://{bucket}", name="again")
    assert (again.path / "a").read_bytes() == b"theirs"
    [kept] = [path for path in (state / "staging/recovered").iterdir() if path.suffix != ".json"]
    assert kept.read_bytes() == b"OUR"
    assert str(kept) in (tmp_path / "mount.log").read_text()
    assert Journal.open(state / "staging").orphans() == []


def test_fusermount_ends_the_daemon(mount_at, bucket):
    assert mount_at(f"s3://{bucket}").end() == 0


def test_a_read_only_mount_refuses_to_write(mount_at, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    path = mount_at(f"s3://{bucket}", "-o", "ro").path
    assert (path / "a").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (path / "b").write_text("x")


def test_owner_and_modes_can_be_chosen(mount_at, client, bucket):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"x")
    path = mount_at(f"s3://{bucket}", "-o", "uid=12,gid=34,umask=027").path
    found = (path / "d/a").stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o100640, 12, 34)
    assert (path / "d").stat().st_mode == 0o40750


def test_ls_goes_on_while_s3_is_stalled_and_down(mount_at, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    path = mount_at(f"s3://{bucket}").path
    (path / ".sync").touch()
    proxy.close()
    started = time.monotonic()
    assert os.listdir(path) == ["a"]
    assert (path / "a").stat().st_size == 1
    assert time.monotonic() - started < 5


def test_no_secret_is_in_logs_and_files_are_ours_alone(mount_at, bucket, state, tmp_path):
    mount = mount_at(f"s3://{bucket}", "--log-level", "debug")
    (mount.path / "a").write_text("x")
    (mount.path / ".sync").touch()
    mount.end()
    assert "very-secret-key" not in (tmp_path / "mount.log").read_text()
    for directory in (state, state / "staging", state / "mounts"):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store.db").stat().st_mode & 0o777 == 0o600


def test_redis_can_be_the_store(mount_at, client, bucket, redis_url):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"hello")
    path = mount_at(f"s3://{bucket}", store=redis_url).path
    assert os.listdir(path / "d") == ["a"]
    (path / "d/b").write_text("new")
    (path / ".sync").touch()
    assert sorted(os.listdir(path / "d")) == ["a", "b"]
    assert (path / "d/a").read_text() == "hello"
