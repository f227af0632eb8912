"""-o ttl= and -o consistency=open: when S3 is asked although the mirror knows."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.mounts import costs, wait_until
from support.proxy import Fail, Proxy

TTL_S = 1


@pytest.fixture
def server(moto: str) -> str:
    return moto


@pytest.fixture
def aging(mount_at: Any, client: Any, bucket: str) -> Path:
    """A mount whose directories are believed for a second."""
    client.put_object(Bucket=bucket, Key="d/a", Body=b"old")
    client.put_object(Bucket=bucket, Key="e/x", Body=b"x")
    path: Path = mount_at(f"s3://{bucket}", "-o", f"ttl={TTL_S}").path
    (path / ".sync").touch()
    assert sorted(os.listdir(path)) == ["d", "e"]
    assert os.listdir(path / "d") == ["a"]
    return path


def grow_old() -> None:
    """Wait for what this is about: that time goes by."""
    time.sleep(TTL_S + 0.1)


def test_a_directory_that_is_older_is_listed_when_it_is_visited_and_only_then(
    aging: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with costs(proxy):
        assert os.listdir(aging / "d") == ["a"]
    client.put_object(Bucket=bucket, Key="d/b", Body=b"new")
    client.put_object(Bucket=bucket, Key="d/a", Body=b"changed")
    client.delete_object(Bucket=bucket, Key="e/x")
    grow_old()
    with costs(proxy, LIST=2):  # the root, on the way, and `d`; `e` was not visited
        assert sorted(os.listdir(aging / "d")) == ["a", "b"]
    with costs(proxy, GET=1):
        assert (aging / "d/a").read_bytes() == b"changed"
        assert (aging / "d/a").stat().st_size == 7
    with costs(proxy):
        assert os.listdir(aging) == ["d"]


def test_a_name_is_looked_up_again_too_also_one_that_was_missing(
    aging: Path, client: Any, bucket: str
) -> None:
    assert not (aging / "d/b").exists()
    assert (aging / "d/a").stat().st_size == 3
    client.put_object(Bucket=bucket, Key="d/b", Body=b"new")
    client.put_object(Bucket=bucket, Key="d/a", Body=b"longer than before")
    wait_until((aging / "d/b").exists)
    wait_until(lambda: (aging / "d/a").stat().st_size == 18)


def test_the_list_of_buckets_ages_too(mount_at: Any, client: Any, bucket: str) -> None:
    root: Path = mount_at("-o", f"ttl={TTL_S}").path
    assert bucket in os.listdir(root)
    client.create_bucket(Bucket=f"{bucket}-later")
    wait_until(lambda: f"{bucket}-later" in os.listdir(root))


def test_a_directory_that_cannot_be_looked_at_again_is_an_error(aging: Path, proxy: Proxy) -> None:
    grow_old()
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            os.listdir(aging / "d")
    assert os.listdir(aging / "d") == ["a"]


@pytest.fixture
def asking(mount_at: Any, client: Any, bucket: str) -> Path:
    """A mount in which each open asks S3."""
    client.put_object(Bucket=bucket, Key="a", Body=b"old")
    path: Path = mount_at(f"s3://{bucket}", "-o", "consistency=open").path
    (path / ".sync").touch()
    assert (path / "a").read_bytes() == b"old"
    return path


def test_an_open_reads_what_was_closed_before_elsewhere(
    asking: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    with costs(proxy, HEAD=1):
        assert (asking / "a").read_bytes() == b"old"  # from the kernel's pages
    client.put_object(Bucket=bucket, Key="a", Body=b"newer")
    with costs(proxy, HEAD=1, GET=1):
        assert (asking / "a").read_bytes() == b"newer"
    assert (asking / "a").stat().st_size == 5


def test_an_open_sees_that_it_is_gone_or_a_link_now(asking: Path, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="b", Body=b"target")
    client.put_object(Bucket=bucket, Key="a", Body=b"b", Metadata={"mode": "41471"})
    (asking / ".sync").touch()
    assert (asking / "a").read_bytes() == b"target"
    client.delete_object(Bucket=bucket, Key="b")
    with pytest.raises(FileNotFoundError):
        (asking / "b").read_bytes()
    assert os.listdir(asking) == ["a"]


def test_who_has_it_open_keeps_the_version_and_a_new_open_has_the_new_one(
    asking: Path, client: Any, bucket: str
) -> None:
    with open(asking / "a", "rb") as before:
        client.put_object(Bucket=bucket, Key="a", Body=b"newer")
        assert (asking / "a").read_bytes() == b"newer"
        try:
            assert before.read() == b"old"
        except OSError as exc:
            assert exc.errno == errno.ESTALE  # noqa: PT017


def test_what_is_being_written_here_is_not_asked_for(asking: Path, proxy: Proxy) -> None:
    with open(asking / "new", "wb") as file:
        file.write(b"text")
        file.flush()
        with costs(proxy, PUT=1):  # a descriptor is closed
            assert (asking / "new").read_bytes() == b"text"
