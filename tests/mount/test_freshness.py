"""-o ttl= and -o consistency=open: when S3 is asked although the mirror knows."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import costs, mounted, wait_until
from support.proxy import Fail, Proxy

TTL_S = 1
_numbers = itertools.count(1)


@pytest.fixture
def server(moto: str) -> str:
    return moto


class Place(NamedTuple):
    """A directory `t…/` of a mount that many tests use."""

    path: Path
    client: Any
    proxy: Proxy
    prefix: str = ""

    def put(self, key: str, body: bytes, **more: Any) -> None:
        """Somebody else writes."""
        self.client.put_object(Bucket="fresh", Key=self.prefix + key, Body=body, **more)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket="fresh", Key=self.prefix + key)

    def new(self, **objects: bytes) -> Place:
        """Return a directory with *objects*, that the mirror knows."""
        name = f"t{next(_numbers)}"
        place = self._replace(path=self.path / name, prefix=f"{name}/")
        place.path.mkdir()
        for key, body in objects.items():
            place.put(key.replace("_", "/"), body)
        (place.path / ".sync").touch()
        return place


@contextmanager
def serving(moto: str, base: Path, word: str) -> Iterator[Place]:
    client, proxy = plain(moto), Proxy(moto)
    client.create_bucket(Bucket="fresh")
    with mounted(base, proxy.url, "s3://fresh", "-o", word) as mount:
        yield Place(mount.path, client, proxy)
    proxy.close()
    client.close()


@pytest.fixture(scope="module")
def aging_mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(moto, tmp_path_factory.mktemp("aging"), f"ttl={TTL_S}") as place:
        yield place


@pytest.fixture
def aging(aging_mount: Place) -> Place:
    """A directory in a mount whose directories are believed for a second."""
    place = aging_mount.new(d_a=b"old", e_x=b"x")
    assert sorted(os.listdir(place.path)) == ["d", "e"]
    assert os.listdir(place.path / "d") == ["a"]
    return place


@pytest.fixture(scope="module")
def asking_mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(moto, tmp_path_factory.mktemp("asking"), "consistency=open") as place:
        yield place


@pytest.fixture
def asking(asking_mount: Place) -> Place:
    """A directory in a mount in which each open asks S3."""
    place = asking_mount.new(a=b"old")
    assert (place.path / "a").read_bytes() == b"old"
    return place


def grow_old() -> None:
    """Wait for what this is about: that time goes by."""
    time.sleep(TTL_S + 0.1)


def test_a_directory_that_is_older_is_listed_when_it_is_visited_and_only_then(
    aging: Place,
) -> None:
    with costs(aging.proxy):
        assert os.listdir(aging.path / "d") == ["a"]
    aging.put("d/b", b"new")
    aging.put("d/a", b"changed")
    aging.delete("e/x")
    grow_old()
    with costs(aging.proxy, LIST=3):  # the two on the way, and `d`; `e` was not visited
        assert sorted(os.listdir(aging.path / "d")) == ["a", "b"]
    with costs(aging.proxy, GET=1):
        assert (aging.path / "d/a").read_bytes() == b"changed"
        assert (aging.path / "d/a").stat().st_size == 7
    with costs(aging.proxy):
        assert os.listdir(aging.path) == ["d"]


def test_a_name_is_looked_up_again_too_also_one_that_was_missing(aging: Place) -> None:
    assert not (aging.path / "d/b").exists()
    assert (aging.path / "d/a").stat().st_size == 3
    aging.put("d/b", b"new")
    aging.put("d/a", b"longer than before")
    wait_until((aging.path / "d/b").exists)
    wait_until(lambda: (aging.path / "d/a").stat().st_size == 18)


def test_the_list_of_buckets_ages_too(mount_at: Any, client: Any, bucket: str) -> None:
    root: Path = mount_at("-o", f"ttl={TTL_S}").path
    assert bucket in os.listdir(root)
    client.create_bucket(Bucket=f"{bucket}-later")
    wait_until(lambda: f"{bucket}-later" in os.listdir(root))


def test_a_directory_that_cannot_be_looked_at_again_is_an_error(aging: Place) -> None:
    grow_old()
    with aging.proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            os.listdir(aging.path / "d")
    assert os.listdir(aging.path / "d") == ["a"]


def test_an_open_reads_what_was_closed_before_elsewhere(asking: Place) -> None:
    with costs(asking.proxy, HEAD=1):
        assert (asking.path / "a").read_bytes() == b"old"  # from the kernel's pages
    asking.put("a", b"newer")
    with costs(asking.proxy, HEAD=1, GET=1):
        assert (asking.path / "a").read_bytes() == b"newer"
    assert (asking.path / "a").stat().st_size == 5


def test_an_open_sees_that_it_is_gone_or_a_link_now(asking: Place) -> None:
    asking.put("b", b"target")
    asking.put("a", b"b", Metadata={"mode": "41471"})
    (asking.path / ".sync").touch()
    assert (asking.path / "a").read_bytes() == b"target"
    asking.delete("b")
    with pytest.raises(FileNotFoundError):
        (asking.path / "b").read_bytes()
    assert os.listdir(asking.path) == ["a"]


def test_who_has_it_open_keeps_the_version_and_a_new_open_has_the_new_one(asking: Place) -> None:
    with open(asking.path / "a", "rb") as before:
        asking.put("a", b"newer")
        assert (asking.path / "a").read_bytes() == b"newer"
        try:
            assert before.read() == b"old"
        except OSError as exc:
            assert exc.errno == errno.ESTALE  # noqa: PT017


def test_what_is_being_written_here_is_not_asked_for(asking: Place) -> None:
    with open(asking.path / "new", "wb") as file:
        file.write(b"text")
        file.flush()
        with costs(asking.proxy, PUT=1):  # a descriptor is closed
            assert (asking.path / "new").read_bytes() == b"text"
