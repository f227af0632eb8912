"""A mount that has never seen a bucket shows at the first stat what is stored with its objects
(F3): a second mount, and a new store."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount, costs, wait_until
from support.proxy import Proxy

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

Mounts = Callable[..., Mount]
SECOND_NS = 1_600_000_000_123_456_789


def shown(path: Path) -> list[tuple[str, str, int, int, int]]:
    """What lstat says of everything below *path*: name, type and mode, owner, time of files."""
    found = []
    for at, directories, files in os.walk(path):
        for name in directories + files:
            status = os.lstat(Path(at, name))
            mtime_ns = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            mode = stat.filemode(status.st_mode)
            place = str(Path(at, name).relative_to(path))
            found.append((place, mode, status.st_uid, status.st_gid, mtime_ns))
    return sorted(found)


@pytest.fixture
def second(mount_at: Mounts, bucket: str, tmp_path: Path) -> Callable[..., Path]:
    """Mount the bucket by a store that knows nothing of it."""

    def make(*options: str, name: str = "second") -> Path:
        store = f"sqlite://{tmp_path}/{name}.db"
        return mount_at(f"s3://{bucket}", *options, name=name, store=store).path

    return make


@pytest.fixture
def posix_tree(mount: Path) -> Path:
    """Links, modes, owners, a pipe and directories, made through a first mount."""
    top = mount / "top"
    top.mkdir(mode=0o700)
    (top / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "run.sh").chmod(0o755)
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    os.utime(top / "secret", ns=(SECOND_NS, SECOND_NS))
    os.symlink("run.sh", top / "link")
    os.mkfifo(top / "pipe", 0o640)
    (top / "inner").mkdir(mode=0o711)
    for number in range(12):
        (top / f"inner/f{number}").write_text("x" * number)
        (top / f"inner/f{number}").chmod(0o600 + number)
    (mount / "closed").mkdir(mode=0o500)
    if os.geteuid() == 0:
        os.chown(top / "secret", 1234, 1235)
        os.chown(mount / "closed", 1234, 1235)
    return mount


def output(*words: Any) -> str:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_new_store_shows_all_at_the_first_stat(
    posix_tree: Path, second: Callable[..., Path], tmp_path: Path
) -> None:
    path = second()
    assert os.readlink(path / "top/link") == "run.sh"  # a path, before any directory was read
    assert stat.filemode(os.lstat(path / "top/pipe").st_mode) == "prw-r-----"
    assert stat.filemode(os.lstat(path / "closed").st_mode) == "dr-x------"
    assert shown(path) == shown(posix_tree)
    output("cp", "-a", path / "top", tmp_path / "copied")
    assert shown(tmp_path / "copied") == shown(posix_tree / "top")
    differing = output("rsync", "-anO", "--itemize-changes", f"{posix_tree}/", f"{path}/")
    assert differing == ""


def test_a_bucket_without_metadata_costs_four_heads_a_directory_once(
    client: Any, bucket: str, mount_at: Mounts, proxy: Proxy
) -> None:
    for directory in ("", "d/", "e/"):
        for number in range(10):
            client.put_object(Bucket=bucket, Key=f"{directory}{number}", Body=b"x" * number)
    first = mount_at(f"s3://{bucket}")
    with costs(proxy, LIST=1):
        os.listdir(first.path)
    with costs(proxy, LIST=2, HEAD=12):
        output("ls", "-lR", first.path)
    with costs(proxy):
        output("ls", "-lR", first.path)
        output("find", first.path, "-type", "l")
    assert first.end() == 0
    again = mount_at(f"s3://{bucket}").path
    with costs(proxy):
        output("ls", "-lR", again)
    client.put_object(Bucket=bucket, Key="d/link", Body=b"9", Metadata={"mode": "41471"})
    (again / ".sync").touch()
    assert os.readlink(again / "d/link") == "9"


def test_what_was_shown_while_a_directory_was_plain_is_shown_anew_once_it_is_rich(
    client: Any, bucket: str, mount: Path
) -> None:
    rich = {5: {"mode": "33152"}, 6: {"mode": "41471"}}
    for n in (5, 6, 0, 1, 2, 3, 4, 7, 8):  # neither 5 nor 6 is the smallest, or alone the newest
        body = b"x" * (n + 1)
        client.put_object(Bucket=bucket, Key=f"d/{n}", Body=body, Metadata=rich.get(n, {}))

    def modes() -> dict[int, int]:
        return {n: os.lstat(mount / f"d/{n}").st_mode for n in range(9)}

    shown_first = dict.fromkeys(range(9), 0o100644)
    assert modes() == shown_first
    assert (mount / "d/5").read_bytes() == b"xxxxxx"
    wait_until(lambda: modes() == shown_first | {5: 0o100600, 6: 0o120777}, 10)
    assert os.readlink(mount / "d/6") == "xxxxxxx"


def test_a_link_put_in_the_second_of_the_newest_is_one_for_a_mount_that_was_not_told(
    client: Any, bucket: str, mount_at: Mounts, proxy: Proxy
) -> None:
    tries = range(20)
    for n in tries:
        client.put_object(Bucket=bucket, Key=f"{n}/first", Body=b"first")
    looks = mount_at(f"s3://{bucket}").path
    assert len(os.listdir(looks)) == len(tries)

    def put_within_a_second(directory: str) -> bool:
        for n in "12":
            client.put_object(Bucket=bucket, Key=f"{directory}/{n}", Body=b"1" * 9)
        os.lstat(looks / directory / "1")
        body, meta = b"1", {"mode": "41471"}
        client.put_object(Bucket=bucket, Key=f"{directory}/link", Body=body, Metadata=meta)
        said = client.list_objects_v2(Bucket=bucket, Prefix=f"{directory}/")["Contents"]
        return len({each["LastModified"] for each in said if each["Key"][-5:] != "first"}) == 1

    directory = next(each for each in map(str, tries) if put_within_a_second(each))
    other = mount_at(f"s3://{bucket}", name="other").path
    (other / directory / ".sync").touch()
    with costs(proxy, HEAD=1, GET=1):
        assert os.readlink(other / directory / "link") == "1"
    assert stat.S_ISREG(os.lstat(other / directory / "first").st_mode)


def test_metadata_is_asked_for_as_the_option_says(
    client: Any, bucket: str, mount_at: Mounts, second: Callable[..., Path], proxy: Proxy
) -> None:
    for number in range(9):
        client.put_object(Bucket=bucket, Key=f"d/{number}", Body=b"", Metadata={"mode": "33152"})
    never = second("-o", "metadata=never", name="never")
    with costs(proxy, LIST=2):
        modes = {entry[1] for entry in shown(never) if entry[0] != "d"}
    assert modes == {"-rw-r--r--"}
    always = second("-o", "metadata=always", name="always")
    with costs(proxy, LIST=2, HEAD=10):  # of d/, too
        modes = {entry[1] for entry in shown(always) if entry[0] != "d"}
    assert modes == {"-rw-------"}


def test_a_refresh_shows_the_mode_that_others_gave_a_directory(
    mount: Path, client: Any, bucket: str
) -> None:
    (mount / "d").mkdir(mode=0o755)
    (mount / "e").mkdir(mode=0o755)
    assert stat.filemode(os.stat(mount / "d").st_mode) == "drwxr-xr-x"
    for key in ("d/", "e/"):
        client.put_object(Bucket=bucket, Key=key, Metadata={"mode": "16832"})
    (mount / "d/.sync").touch()
    os.setxattr(mount / "e", "user.mimicfs.sync", b"")
    assert [stat.filemode(os.stat(mount / each).st_mode) for each in "de"] == ["drwx------"] * 2
