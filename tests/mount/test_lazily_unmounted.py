"""umount -l while files are open, mapped and locked: programs go on as before, the next mount
leaves the one that still lives alone, and S3 has everything when that has ended."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess

import pytest
from support.mounts import run, unmounted, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


def take_away(mount):
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    assert unmounted(mount.path)


def stored(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


@pytest.mark.parametrize("words", [(), ("--write-back",)], ids=["through", "write-back"])
def test_what_is_open_and_mapped_goes_on_and_is_in_s3_in_the_end(mount_at, client, bucket, words):
    for key in ("mapped", "open"):
        client.put_object(Bucket=bucket, Key=key, Body=b"old bytes")
    mount = mount_at(f"s3://{bucket}", *words)
    assert sorted(os.listdir(mount.path)) == ["mapped", "open"]
    mapped = os.open(mount.path / "mapped", os.O_RDWR)
    assert os.read(mapped, 9) == b"old bytes"  # a fault would hold up the thread that has them
    pages = mmap.mmap(mapped, 9)
    pages[:3] = b"NEW"
    os.close(mapped)
    opened = os.open(mount.path / "open", os.O_RDWR)
    made = os.open(mount.path / "made", os.O_WRONLY | os.O_CREAT)
    os.write(made, b"before")
    directory = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    take_away(mount)
    pages[4:9] = b"BYTES"
    os.write(made, b" and after")
    assert os.pread(opened, 9, 0) == b"old bytes"
    os.pwrite(opened, b"NEW", 0)
    assert sorted(os.listdir(directory)) == ["made", "mapped", "open"]
    late = os.open("late", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
    os.write(late, b"late")
    again = mount_at(f"s3://{bucket}", *words, name="again")
    assert mount.process.poll() is None
    assert "open" in os.listdir(again.path)
    pages.close()
    for fd in (opened, made, late, directory):
        os.close(fd)
    assert mount.process.wait(30) == 0
    assert stored(client, bucket, "mapped") == b"NEW BYTES"
    assert stored(client, bucket, "open") == b"NEW bytes"
    assert stored(client, bucket, "made") == b"before and after"
    assert stored(client, bucket, "late") == b"late"
    (again.path / ".sync").touch()
    assert (again.path / "open").read_bytes() == b"NEW bytes"


def test_the_place_of_a_mount_that_lives_is_refused_and_said_within_a_second(
    mount_at, client, bucket, proxy, store
):
    mount = mount_at(f"s3://{bucket}")
    opened = os.open(mount.path / "a", os.O_WRONLY | os.O_CREAT)
    os.write(opened, b"written")
    take_away(mount)
    words = ("--endpoint-url", proxy.url, "--store", store, f"s3://{bucket}", mount.path)
    done = run("mount", *words)
    assert done.returncode == 3
    assert f"process {mount.process.pid} still serves a mount there" in done.stderr
    os.close(opened)
    assert mount.process.wait(30) == 0
    assert stored(client, bucket, "a") == b"written"
    assert mount_at(f"s3://{bucket}").path.joinpath("a").read_bytes() == b"written"


def test_a_lock_that_was_held_when_its_mount_was_taken_away_stands_until_it_is_given_up(
    mount_at, client, bucket, redis_url
):
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    words = (f"s3://{bucket}", "-o", "locks=shared")
    mount = mount_at(*words, store=redis_url)
    other = mount_at(*words, store=redis_url, name="other")
    held = os.open(mount.path / "a", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    asked = os.open(other.path / "a", os.O_RDWR)
    take_away(mount)
    os.pwrite(held, b"new", 0)
    with pytest.raises(BlockingIOError):
        fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(held, fcntl.LOCK_UN)
    wait_until(lambda: locked(asked))
    assert os.pread(asked, 3, 0) == b"new"
    for fd in (held, asked):
        os.close(fd)
    assert mount.process.wait(30) == 0


def locked(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
