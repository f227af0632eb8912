"""--write-back: close returns when the bytes are on the local disk, and S3 gets them after that."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mounts import MIMICFS, costs, succeed, unmounted, wait_until
from support.proxy import Fail, Hold

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def puts(request):
    return request.kind in ("PUT", "POST")


def in_s3(client, bucket):
    found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {each["Key"]: each["Size"] for each in found}


def test_close_does_not_wait_for_s3_and_fsync_does(mount_at, client, bucket, proxy):
    path = mount_at(f"s3://{bucket}", "--write-back").path
    with proxy.rule(Hold(puts)) as hold:
        (path / "a").write_bytes(b"behind")
        assert (path / "a").read_bytes() == b"behind"
        assert os.listdir(path) == ["a"]
        assert in_s3(client, bucket) == {}
        hold.release()
    wait_until(lambda: in_s3(client, bucket) == {"a": 6})
    with costs(proxy, PUT=1), open(path / "b", "wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
        assert in_s3(client, bucket) == {"a": 6, "b": 6}


def test_what_is_changed_or_removed_before_its_upload_is_uploaded_once_or_never(
    mount_at, client, bucket, proxy
):
    path = mount_at(f"s3://{bucket}", "--write-back").path
    with proxy.rule(Fail(puts, 503, "SlowDown")) as rule:
        (path / "gone").write_bytes(b"x")
        for size in range(1, 4):
            (path / "kept").write_bytes(b"x" * size)
        (path / "gone").unlink()
        os.utime(path / "kept", ns=(5, 5_000_000_000))
        assert rule.reached.wait(60)
    wait_until(lambda: in_s3(client, bucket) == {"kept": 3})
    assert (path / "kept").stat().st_mtime_ns == 5_000_000_000
    head = client.head_object(Bucket=bucket, Key="kept")
    assert head["Metadata"]["mtime"] == "5.000000000"


def test_what_is_appended_and_closed_without_a_pause_is_in_s3_meanwhile(mount_at, client, bucket):
    log = mount_at(f"s3://{bucket}", "--write-back").path / "log"
    ends, lines = threading.Event(), []

    def write():
        while not ends.wait(0.03):
            lines.append(f"{len(lines)}\n")
            with open(log, "a") as file:
                file.write(lines[-1])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            wait_until(lambda: "log" in in_s3(client, bucket))
        finally:
            ends.set()
        writing.result(60)
    assert log.read_text() == "".join(lines)
    wait_until(lambda: in_s3(client, bucket) == {"log": len("".join(lines))})


def test_an_append_to_what_others_replaced_is_seen_under_the_name_at_once(mount_at, client, bucket):
    log = mount_at(f"s3://{bucket}", "--write-back").path / "log"
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    fd = os.open(log, os.O_RDWR | os.O_APPEND)
    assert os.read(fd, 99) == b"first\n"
    client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
    os.write(fd, b"mine\n")
    os.close(fd)
    assert log.read_bytes() == b"another\nmine\n"
    wait_until(lambda: in_s3(client, bucket) == {"log": len("another\nmine\n")})
    assert client.get_object(Bucket=bucket, Key="log")["Body"].read() == b"another\nmine\n"


def test_an_append_that_was_closed_outlives_kill_9_whatever_others_put_there(
    mount_at, client, bucket, proxy
):
    mount = mount_at(f"s3://{bucket}", "--write-back")
    client.put_object(Bucket=bucket, Key="log", Body=b"first\n")
    fd = os.open(mount.path / "log", os.O_RDWR | os.O_APPEND)
    assert os.read(fd, 99) == b"first\n"
    client.put_object(Bucket=bucket, Key="log", Body=b"another\n")
    with proxy.rule(Hold(lambda request: puts(request) and request.key == "log")) as hold:
        os.write(fd, b"mine\n")
        os.close(fd)  # S3 has not seen it
        assert (mount.path / "log").read_bytes() == b"another\nmine\n"
        assert hold.reached.wait(60)
        client.put_object(Bucket=bucket, Key="log", Body=b"again\n", Metadata={"mode": "33152"})
        mount.process.kill()
        mount.process.wait()
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    again = mount_at(f"s3://{bucket}", "--write-back", name="again").path
    wait_until(lambda: in_s3(client, bucket) == {"log": len("again\nmine\n")})
    assert (again / "log").read_bytes() == b"again\nmine\n"
    assert stat.S_IMODE((again / "log").stat().st_mode) == 0o600


def test_umount_waits_for_what_is_not_uploaded_yet(mount_at, client, bucket, proxy):
    mount = mount_at(f"s3://{bucket}", "--write-back")
    with proxy.rule(Hold(puts)) as hold:
        for name in "abc":
            (mount.path / name).write_bytes(b"bytes")
        words = [str(MIMICFS), "umount", str(mount.path)]
        umount = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: unmounted(mount.path))
        assert umount.poll() is None
        hold.release()
    assert umount.wait(20) == 0
    umount.communicate()
    assert in_s3(client, bucket) == {"a": 5, "b": 5, "c": 5}


def test_what_s3_does_not_take_before_the_end_is_uploaded_by_the_next_mount(
    mount_at, client, bucket, proxy
):
    mount = mount_at(f"s3://{bucket}", "--write-back")
    assert os.listdir(mount.path) == []
    with proxy.rule(Fail(lambda request: True, 503, "SlowDown")):
        (mount.path / "a").write_bytes(b"first")
        (mount.path / "b").write_bytes(b"second")
        assert mount.end(60) == 1
    assert in_s3(client, bucket) == {}
    mount_at(f"s3://{bucket}")
    assert in_s3(client, bucket) == {"a": 5, "b": 6}


def test_a_directory_is_renamed_with_the_files_in_it_that_are_not_uploaded_yet(
    mount_at, client, bucket, proxy
):
    path = mount_at(f"s3://{bucket}", "--write-back").path
    (path / "d").mkdir()
    with proxy.rule(Fail(puts, 503, "SlowDown")):
        (path / "d/a").write_bytes(b"12345")
    (path / "d").rename(path / "e")
    assert in_s3(client, bucket) == {"e/": 0, "e/a": 5}
    assert (path / "e/a").read_bytes() == b"12345"


def test_status_shows_what_is_pending_and_why(mount_at, client, bucket, proxy):
    path = mount_at(f"s3://{bucket}", "--write-back").path
    assert os.listdir(path) == []
    with proxy.rule(Fail(puts, 403, "AccessDenied")):
        (path / "a").write_bytes(b"12345")
        wait_until(lambda: "AccessDenied" in succeed("status", path))
        said = succeed("status", path)
        assert "1 closed file with 5 B still to be uploaded" in said
        [told] = json.loads(succeed("status", "--json", path))
        assert (told["files"]["write_back"]["files"], told["files"]["pending"]) == (1, 1)


class HoldAndLose(Hold):
    """S3 does what the first request asks; its answer waits until `release`, and is lost then."""

    def applies(self, request):
        return self.matches(request) and self.seen == 0

    def after(self, handler, response):
        response.read()
        handler.close_connection = True
        return True


@pytest.mark.parametrize("change", ["removed", "added to"])
def test_what_is_changed_while_the_answer_to_its_upload_is_lost_is_its_own_object(
    mount_at, client, bucket, proxy, change
):
    path = mount_at(f"s3://{bucket}", "--write-back").path
    with ThreadPoolExecutor(1) as thread, proxy.rule(HoldAndLose(puts, answers=True)) as rule:
        (path / "a").write_bytes(b"first")
        assert rule.reached.wait(60)
        work = (path / "a").unlink if change == "removed" else lambda: add(path / "a", b" second")
        changed = thread.submit(work)
        concurrent.futures.wait([changed], timeout=0.5)
        rule.release()
        changed.result(20)
    wanted = {} if change == "removed" else {"a": 12}
    wait_until(lambda: in_s3(client, bucket) == wanted)
    assert os.listdir(path) == list(wanted)


def add(path, data):
    with open(path, "ab") as file:
        file.write(data)


@pytest.mark.parametrize("size", [5, 5_000, 200_000])
@pytest.mark.parametrize("change", ["added to", "cut and added to", "replaced"])
def test_what_is_changed_while_its_upload_is_under_way_outlives_kill_9(
    mount_at, client, bucket, proxy, size, change
):
    mount = mount_at(f"s3://{bucket}", "--write-back")
    first, second = b"1" * size, b"2" * size
    kept = {"added to": size, "cut and added to": size // 2, "replaced": 0}[change]
    with proxy.rule(Hold(puts, answers=True)) as rule:  # S3 has the first, and nobody knows
        (mount.path / "a").write_bytes(first)
        assert rule.reached.wait(60)
        with open(mount.path / "a", "ab") as file:
            file.truncate(kept)
            file.write(second)
        mount.process.kill()
        mount.process.wait()
        rule.release()
    assert in_s3(client, bucket) == {"a": size}
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    assert unmounted(mount.path)
    again = mount_at(f"s3://{bucket}", "--write-back", name="again").path
    assert (again / "a").read_bytes() == first[:kept] + second
    wait_until(lambda: in_s3(client, bucket) == {"a": kept + size})


# Power


@pytest.fixture
def disk(tmp_path):
    """A file system of its own in a file: what was not synced is not in that file."""
    if os.geteuid() != 0:
        message = "only root can mount a disk"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    image, place = tmp_path / "disk", tmp_path / "cache"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=30)
    place.mkdir()
    mounted = []

    def mount(image: Path) -> Path:
        target = place if not mounted else tmp_path / f"cache{len(mounted)}"
        target.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True, timeout=30)
        mounted.append(target)
        return target

    yield image, mount
    for target in mounted:
        subprocess.run(["umount", "-l", str(target)], check=False, timeout=30)


def write_out(path):
    """Have the bytes of *path* written to its disk; what its directory says is not."""
    fd = os.open(path, os.O_RDONLY)
    wait, write, wait_again = 1, 2, 4  # linux/fs.h, SYNC_FILE_RANGE_*
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    assert libc.sync_file_range(fd, 0, 0, wait | write | wait_again) == 0
    os.close(fd)


@pytest.mark.parametrize("size", [70_000, 4_096])
def test_what_was_closed_and_is_changed_again_is_uploaded_after_a_power_cut(
    mount_at, client, bucket, proxy, disk, tmp_path, size
):
    image, attach = disk
    cache = attach(image)
    (cache / "of").mkdir(mode=0o700)
    words = ["--write-back", "--cache-size", "0", "--cache-dir"]
    mount = mount_at(f"s3://{bucket}", *words, str(cache / "of"))
    with proxy.rule(Fail(puts, 503, "SlowDown")):
        (mount.path / "a").write_bytes(b"a" * size)
        fd = os.open(mount.path / "a", os.O_WRONLY)
        os.write(fd, b"changed")
        for path in (cache / "of/staging").glob("*.data"):  # which the disk may do in any order
            write_out(path)
        after = tmp_path / "after"
        shutil.copyfile(image, after)  # not by a process: its end would close the file
        mount.process.kill()
        mount.process.wait()
    with contextlib.suppress(OSError):  # not connected
        os.close(fd)
    mount_at(f"s3://{bucket}", *words, str(attach(after) / "of"), name="again")
    body = client.get_object(Bucket=bucket, Key="a")["Body"].read()
    assert body in (b"a" * size, b"changed" + b"a" * (size - 7))


def test_what_was_closed_is_uploaded_after_a_power_cut(
    mount_at, client, bucket, proxy, disk, tmp_path
):
    image, attach = disk
    cache = attach(image)
    (cache / "of").mkdir(mode=0o700)
    words = ["--write-back", "--cache-size", "0", "--cache-dir"]
    mount = mount_at(f"s3://{bucket}", *words, str(cache / "of"))
    with proxy.rule(Fail(puts, 503, "SlowDown")):
        for number in range(20):  # small ones are in a segment of the journal
            size = 70_000 if number % 2 else 4_096
            (mount.path / f"closed{number}").write_bytes(bytes([number]) * size)
        unsynced = os.open(mount.path / "open", os.O_CREAT | os.O_WRONLY)
        os.write(unsynced, b"nobody was told that this is safe")
        after = tmp_path / "after"  # the power goes: only what is in the image is left
        subprocess.run(["cp", "--sparse=always", str(image), str(after)], check=True, timeout=30)
        mount.process.kill()
        mount.process.wait()
    with contextlib.suppress(OSError):  # not connected
        os.close(unsynced)
    mount_at(f"s3://{bucket}", *words, str(attach(after) / "of"), name="again")
    found = in_s3(client, bucket)
    assert {key: size for key, size in found.items() if key != "open"} == {
        f"closed{number}": 70_000 if number % 2 else 4_096 for number in range(20)
    }
    for key, bytes_ in {"closed7": b"\7" * 70_000, "closed8": b"\10" * 4_096}.items():
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == bytes_


def test_what_was_closed_is_shown_after_a_power_cut_took_it_from_the_store(
    mount_at, bucket, disk, tmp_path
):
    image, attach = disk
    (attach(image) / "of").mkdir(mode=0o700)
    store = tmp_path / "cache/of/store.db"
    mount = mount_at(f"s3://{bucket}", store=f"sqlite://{store}")
    (mount.path / "old").write_bytes(b"1")
    assert os.listdir(mount.path) == ["old"]
    with sqlite3.connect(store) as other:  # what was committed so far is synced with this
        other.execute("PRAGMA synchronous=FULL")
        other.execute("UPDATE run SET id='an earlier run of the machine'")
    other.close()
    (mount.path / "new").write_bytes(b"22")
    (mount.path / "old").write_bytes(b"333")
    after = tmp_path / "after"
    subprocess.run(["cp", "--sparse=always", str(image), str(after)], check=True, timeout=30)
    mount.process.kill()
    mount.process.wait()
    kept = f"sqlite://{attach(after)}/of/store.db"
    again = mount_at(f"s3://{bucket}", store=kept, name="again")
    assert (again.path / "new").read_bytes() == b"22"
    assert (again.path / "old").read_bytes() == b"333"
    assert sorted(os.listdir(again.path)) == ["new", "old"]


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A directory that 4 MiB fill, and what makes it larger."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("only root can mount a small disk")

    def grow():
        words = ["mount", "-o", "remount,size=64m", str(path)]
        subprocess.run(words, check=True, timeout=10)

    yield path, grow
    subprocess.run(["umount", "-l", str(path)], capture_output=True, timeout=10, check=True)


@pytest.mark.parametrize("filler", [0, 1, 3000])  # bytes that others leave on the disk
def test_what_was_closed_before_and_while_the_disk_was_full_outlives_kill_9(
    mount_at, client, bucket, proxy, small_disk, filler
):
    disk, grow = small_disk
    words = ["--write-back", "--cache-size", "0", "--cache-dir", str(disk)]
    mount = mount_at(f"s3://{bucket}", *words)
    chance, told, unsure, refused = random.Random(filler), dict[str, bytes](), set[str](), 0
    assert os.listdir(mount.path) == []
    with proxy.rule(Fail(puts, 403, "AccessDenied")):
        for number in range(160):
            if number == 100 and filler:  # somebody else fills the disk
                fill(disk / "theirs", filler)
            name = f"f{chance.randrange(80)}"
            data = chance.randbytes(chance.choice([10, 5000, 60_000, 100_000]))
            how = chance.choice(["wb", "ab"])
            try:
                with open(mount.path / name, how, 0) as file:
                    if file.write(data) < len(data):
                        raise OSError(errno.ENOSPC, name)
            except OSError:
                refused += 1
                unsure.add(name)  # it may be what was there, or some of what is new
                told.pop(name, None)
            else:
                unsure -= {name} if how == "wb" else set()
                if name not in unsure:
                    told[name] = data if how == "wb" else told.get(name, b"") + data
        mount.process.kill()
        mount.process.wait()
    subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=True, timeout=10)
    assert refused > 5
    grow()
    again = mount_at(f"s3://{bucket}", *words, name="again")
    for name, data in told.items():
        found = (again.path / name).read_bytes()
        assert (len(found), found) == (len(data), data), name
    assert again.end(60) == 0
    assert not list((disk / "staging").glob("recovered/*"))


def fill(path, left):
    """Have *path* take all of its disk but about *left* bytes."""
    with open(path, "wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    if left > 1:
        os.truncate(path, max(0, path.stat().st_size - 4096))
