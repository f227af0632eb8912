"""Copying into the root of a mount (F20): what no object can hold, the mirror remembers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

WAYS = (
    "rsync -a {src}/ {to}/",
    "cp -a {src}/. {to}",
    "tar -C {src} -c . | tar -C {to} -x",
)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A directory that belongs to somebody else, as old as nothing that the test makes."""
    src = tmp_path / "src"
    (src / "d").mkdir(parents=True)
    (src / "d/file").write_text("text")
    for path, mode in ((src / "d", 0o750), (src, 0o1775)):
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 1234, 1234)
        os.utime(path, ns=(10**18, 10**18))
    return src


def shown(path: Path) -> tuple[int, int, int, int]:
    stat = path.stat()
    return stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns


def copied(src: Path, to: Path) -> None:
    """Copy *src* into the directory *to* in all ways; each succeeds, and says all of it."""
    for way in WAYS:
        subprocess.run(way.format(src=src, to=to), shell=True, check=True, timeout=20)
        assert shown(to)[:3] == shown(src)[:3], way
    subprocess.run(["rsync", "-a", f"{src}/", f"{to}/"], check=True, timeout=20)
    assert [shown(to), shown(to / "d")] == [shown(src), shown(src / "d")]
    os.setxattr(to, "user.origin", b"elsewhere")


def test_the_root_and_buckets_remember_what_is_set(mount_at: Any, bucket: str, src: Path) -> None:
    all_buckets: Mount = mount_at()
    copied(src, all_buckets.path / bucket)
    all_buckets.path.chmod(0o711)
    all_buckets.end()
    one: Mount = mount_at(f"s3://{bucket}")
    assert [shown(one.path), shown(one.path / "d")] == [shown(src), shown(src / "d")]
    assert os.getxattr(one.path, "user.origin") == b"elsewhere"
    one.end()
    again: Mount = mount_at()
    assert again.path.stat().st_mode & 0o7777 == 0o711
    assert shown(again.path / bucket) == shown(src)


def test_directories_without_markers_remember_what_is_set(
    mount_at: Any, bucket: str, client: Any, src: Path
) -> None:
    first: Mount = mount_at(f"s3://{bucket}", "-o", "no_markers")
    copied(src, first.path)
    first.path.joinpath("empty").mkdir(0o700)
    first.path.joinpath("empty").rename(first.path / "renamed")
    assert [it["Key"] for it in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["d/file"]
    (first.path / ".sync").touch()
    first.end()
    again: Mount = mount_at(f"s3://{bucket}", "-o", "no_markers")
    assert [shown(again.path), shown(again.path / "d")] == [shown(src), shown(src / "d")]
    assert (again.path / "renamed").stat().st_mode & 0o7777 == 0o700
