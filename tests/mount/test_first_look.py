"""A mount shows what is stored, and tells the kernel of it (F3, F4, F10, F11)."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.mounts import let_others_in, run

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


def as_nobody(*words: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*NOBODY, *map(str, words)], capture_output=True, timeout=30, check=False)


def test_what_a_get_teaches_is_shown_by_the_next_stat(
    mount: Path, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"text", Metadata={"mode": "33152"})
    os.stat(mount / "a")
    with open(mount / "a", "rb") as file:
        assert file.read() == b"text"
        assert stat.filemode(os.fstat(file.fileno()).st_mode) == "-rw-------"
        assert stat.filemode(os.stat(mount / "a").st_mode) == "-rw-------"
    assert stat.filemode(os.stat(mount / "a").st_mode) == "-rw-------"


@needs_root
def test_nobody_opens_what_the_stored_mode_forbids_before_it_was_learned(
    mount_at: Any, client: Any, bucket: str, tmp_path: Path
) -> None:
    root = {"mode": "33152", "uid": "0", "gid": "0"}
    client.put_object(Bucket=bucket, Key="d/secret", Body=b"secret", Metadata=root)
    client.put_object(Bucket=bucket, Key="d/open", Body=b"open", Metadata={"mode": "33188"})
    path = mount_at(f"s3://{bucket}", "--allow-other").path
    let_others_in(tmp_path)
    (path / ".sync").touch()
    subprocess.run(["ls", "-l", path / "d"], check=True, stdout=subprocess.DEVNULL)
    found = as_nobody("cat", path / "d/secret")
    assert (found.returncode, found.stdout) == (1, b"")
    assert as_nobody("cat", path / "d/open").stdout == b"open"
    assert stat.filemode(os.stat(path / "d/secret").st_mode) == "-rw-------"


@needs_root
def test_setuid_ends_with_a_write_or_fallocate_by_others_and_the_kernel_knows(
    mount_at: Any, bucket: str, tmp_path: Path
) -> None:
    path = mount_at(f"s3://{bucket}", "--allow-other", "-o", "suid").path
    let_others_in(tmp_path)
    program = "import os, sys; print(os.stat(sys.argv[1]).st_mode & 0o7777)"
    change = "import os, sys; fd = os.open(sys.argv[1], os.O_WRONLY); "
    changes = ["os.write(fd, b'x')", "os.posix_fallocate(fd, 0, 9000)", "os.truncate(fd, 3)"]
    for number, call in enumerate(changes):
        name = path / f"p{number}"
        name.write_bytes(b"x" * 100)
        os.chmod(name, 0o6777)
        os.stat(name)
        done = as_nobody("python3", "-c", change + call, name)
        assert done.returncode == 0, (call, done.stderr)
        seen = subprocess.run(
            ["python3", "-c", program, name], capture_output=True, text=True, check=True
        )
        assert oct(int(seen.stdout)) == "0o777", call
    # Where the group may not execute it, set-group-id ends for those who are not in the group.
    shared = path / "shared"
    shared.write_bytes(b"x" * 100)
    os.chown(shared, 0, 7)
    os.chmod(shared, 0o2666)
    member = ["setpriv", "--reuid", "65534", "--regid", "65534", "--groups", "7"]
    for who, left in ((member, 0o2666), (NOBODY, 0o666)):
        words = [*who, "python3", "-c", change + "os.write(fd, b'x')", shared]
        subprocess.run(words, check=True, timeout=30)
        assert oct(os.stat(shared).st_mode & 0o7777) == oct(left)


@needs_root
def test_setuid_ends_with_a_chown_that_names_neither_owner_nor_group(
    mount_at: Any, bucket: str
) -> None:
    path = mount_at(f"s3://{bucket}", "-o", "suid").path
    (path / "d").mkdir()
    (path / "f").write_bytes(b"x")
    for name in ("f", "d"):
        os.chmod(path / name, 0o6777)
        os.chown(path / name, -1, -1)
    assert oct(os.stat(path / "f").st_mode & 0o7777) == "0o777"
    assert oct(os.stat(path / "d").st_mode & 0o7777) == "0o6777"  # as on ext4
    os.chmod(path / "f", 0o6777)
    with open(path / "f", "rb+") as file:
        os.fchown(file.fileno(), -1, -1)
    assert oct(os.stat(path / "f").st_mode & 0o7777) == "0o777"


def test_rmdir_of_a_marker_with_content_is_enotempty(mount: Path, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="only/", Body=b"the content")
    client.put_object(Bucket=bucket, Key="other/", Body=b"the content")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        os.rmdir(mount / "only")
    assert client.get_object(Bucket=bucket, Key="only/")["Body"].read() == b"the content"
    assert os.listdir(mount / "other") == ["%object"]
    assert (mount / "other/%object").read_bytes() == b"the content"
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        os.rmdir(mount / "other")


def test_a_second_mount_says_what_is_in_the_way(
    mount_at: Any, client: Any, bucket: str, store: str, proxy: Any
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"text")
    first = mount_at(f"s3://{bucket}")
    with open(first.path / "a", "rb"):
        subprocess.run(["fusermount3", "-u", "-z", first.path], check=True)
        again = run(
            *("mount", "--endpoint-url", proxy.url, "--store", store),
            *(f"s3://{bucket}", first.path),
        )
    assert again.returncode != 0
    assert f"process {first.process.pid} still serves a mount there" in again.stderr


def test_a_new_directory_is_newer_than_what_was_made_before_it(
    mount: Path, mount_at: Any, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "before").touch()
    (mount / "d").mkdir()
    other = mount_at(f"s3://{bucket}", name="other").path
    assert os.stat(other / "d").st_mtime_ns > os.stat(tmp_path / "before").st_mtime_ns
