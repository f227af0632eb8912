"""Bytes that were read through a mount are kept: in the kernel's pages, and on disk for the next
mount."""

from __future__ import annotations

import random
import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount, costs, run
from support.proxy import Proxy

MIB = 1 << 20
DATA = random.Random(1).randbytes(3 * MIB + 7)

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """Where a mount that is told nothing keeps blocks."""
    return tmp_path / ".cache" / "mimicfs" / "blocks"


@pytest.fixture
def film(client: Any, bucket: str) -> str:
    client.put_object(Bucket=bucket, Key="film", Body=DATA)
    return "film"


def again(mount_at: Any, before: Mount, *arguments: str) -> Mount:
    assert before.end() == 0
    mount: Mount = mount_at(*arguments)
    return mount


def test_after_a_remount_what_was_read_costs_no_request(
    mount_at: Any, bucket: str, film: str, proxy: Proxy, blocks: Path
) -> None:
    mount = mount_at(f"s3://{bucket}")
    assert (mount.path / film).read_bytes() == DATA
    mount = again(mount_at, mount, f"s3://{bucket}")
    with costs(proxy):
        assert (mount.path / film).read_bytes() == DATA
    assert stat.S_IMODE(blocks.stat().st_mode) == 0o700
    (kept,) = blocks.glob("??/*")
    with open(kept, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"damaged")
    mount = again(mount_at, mount, f"s3://{bucket}")
    with costs(proxy, GET=1):
        assert (mount.path / film).read_bytes() == DATA


def test_nothing_is_kept_where_nothing_is_to_be(
    mount_at: Any, bucket: str, film: str, proxy: Proxy, blocks: Path
) -> None:
    mount = mount_at("--cache-size", "0", f"s3://{bucket}")
    assert (mount.path / film).read_bytes() == DATA
    assert not blocks.exists()


def test_a_cache_directory_holds_what_was_read_and_what_is_to_be_uploaded(
    mount_at: Any, bucket: str, film: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    mount = mount_at("--cache-dir", str(cache), "--cache-size", "50M", f"s3://{bucket}")
    assert (mount.path / film).read_bytes() == DATA
    with open(mount.path / "new", "wb", buffering=0) as file:
        file.write(b"new")
        assert len(list((cache / "staging").glob("*.segment"))) == 1
    assert len(list((cache / "blocks").glob("??/*"))) == 1
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, *cache.iterdir())] == [0o700] * 3


def test_a_directory_removed_below_a_running_mount_is_no_trouble(
    mount_at: Any, bucket: str, film: str, client: Any, proxy: Proxy, blocks: Path
) -> None:
    client.put_object(Bucket=bucket, Key="other", Body=DATA)
    mount = mount_at(f"s3://{bucket}")
    with open(mount.path / film, "rb", buffering=0) as file:
        assert file.read(4096) == DATA[:4096]
        shutil.rmtree(blocks.parent)
        assert file.read() == DATA[4096:]
    assert (mount.path / "other").read_bytes() == DATA
    assert "the cache starts anew" in mount.log.read_text()
    mount = again(mount_at, mount, f"s3://{bucket}")
    with costs(proxy):
        assert (mount.path / "other").read_bytes() == DATA


def test_a_cache_directory_that_is_not_ours_alone_is_refused(
    server: str, bucket: str, tmp_path: Path, state: Path
) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    where = ("--endpoint-url", server, f"s3://{bucket}", tmp_path / "mnt")
    result = run("mount", "--cache-dir", tmp_path / "link", *where)
    assert result.returncode != 0
    assert f"{tmp_path}/link: a symbolic link; name the directory itself" in result.stderr
    result = run("mount", "--cache-size", "many", *where)
    assert "many: not a size; write 500M, 20G, or a number of bytes" in result.stderr


def test_the_kernels_pages_are_kept_over_opens_until_the_object_is_another(
    mount_at: Any, bucket: str, film: str, client: Any, proxy: Proxy
) -> None:
    mount = mount_at("--cache-size", "0", f"s3://{bucket}")  # else requests would prove nothing
    path = mount.path / film
    assert path.read_bytes() == DATA
    with costs(proxy):
        assert path.read_bytes() == DATA
    with costs(proxy, LIST=1):
        (mount.path / ".sync").touch()  # nothing has changed
    # A refresh tells the kernel all the same, which drops the pages of closed files.
    assert path.read_bytes() == DATA
    new = DATA[::-1]
    client.put_object(Bucket=bucket, Key=film, Body=new)
    (mount.path / ".sync").touch()
    proxy.counted()
    assert path.read_bytes() == new
    assert proxy.counted().get("GET", 0) >= 1
    with costs(proxy):
        assert path.read_bytes() == new


def test_more_files_can_be_open_than_the_usual_limit_allows(
    mount_at: Any, bucket: str, film: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        mount = mount_at(f"s3://{bucket}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limits = Path(f"/proc/{mount.process.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3] == line.split()[4]
