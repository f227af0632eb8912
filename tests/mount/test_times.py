"""The times that stat(2) shows while the mount lives."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32  # linux/mount.h


def forget(path: Path) -> None:
    """Have the kernel forget all names of the mount *path* that nobody uses: a remount does."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = MS_NOSUID | MS_NODEV | MS_REMOUNT
    if libc.mount(b"", bytes(path), None, flags, None):
        raise OSError(ctypes.get_errno(), "mount")
    for _ in range(32):  # the kernel tells of it when nothing else waits, or after nine requests
        os.statvfs(path)


def times(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ctime_ns


def test_the_time_of_a_directory_stays_when_the_kernel_forgets_it(mount: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can remount")
    (mount / "d").mkdir()
    made = times(mount / "d")
    (mount / "d/f").touch()
    filled = times(mount / "d")
    forget(mount)
    assert times(mount / "d") == filled > made
    (mount / "d/f").unlink()
    emptied = times(mount / "d")
    forget(mount)
    assert times(mount / "d") == emptied > filled


@pytest.mark.parametrize(
    "empty", [lambda path: open(path, "w").close(), lambda path: os.truncate(path, 0)]
)
def test_a_file_that_is_empty_already_has_the_time_when_it_was_emptied(
    mount: Path, empty: Any
) -> None:
    """Makefiles write their stamps so: `: > stamp`."""
    (mount / "stamp").touch()
    os.utime(mount / "stamp", ns=(10**18, 10**18))
    before = times(mount / "stamp")
    empty(mount / "stamp")
    after = times(mount / "stamp")
    assert (before[0], after[0] > before[1], after[1] > before[1]) == (10**18, True, True)


@pytest.mark.parametrize("by", ["unlink", "rename"])
def test_an_open_file_that_has_lost_its_name_keeps_its_time_until_it_changes(
    mount: Path, by: str
) -> None:
    for name in ("a", "b"):
        (mount / name).write_text("text")
    os.utime(mount / "a", ns=(10**18, 10**18))
    with open(mount / "a", "rb+", buffering=0) as file:
        (mount / "a").unlink() if by == "unlink" else (mount / "b").rename(mount / "a")
        assert os.fstat(file.fileno()).st_mtime_ns == 10**18
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_mtime_ns == 10**18
        os.utime(file.fileno(), ns=(10**18, 10**18 + 1))
        assert os.fstat(file.fileno()).st_mtime_ns == 10**18 + 1
        file.write(b"T")
        assert os.fstat(file.fileno()).st_mtime_ns > 10**18 + 1


def test_an_empty_file_that_is_emptied_again_replaces_what_others_have_put_there(
    mount: Path, client: Any, bucket: str
) -> None:
    (mount / "a").touch()
    client.put_object(Bucket=bucket, Key="a", Body=b"others")
    (mount / "a").write_text("ours")
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"ours"
