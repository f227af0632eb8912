"""-o ttl= and -o consistency=open: when S3 is asked although the mirror knows."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import costs, mounted, wait_until
from support.proxy import Fail, Proxy

from mimicfs.backends.open import open_store
from mimicfs.entry import Scope
from mimicfs.mimicdb import Mirror

pytestmark = pytest.mark.slow

TTL_S = 3600
_numbers = itertools.count(1)


@pytest.fixture
def server(moto: str) -> str:
    return moto


class Place(NamedTuple):
    """A directory `t…/` of a mount that many tests use."""

    path: Path
    client: Any
    proxy: Proxy
    store: str
    prefix: str = ""

    def put(self, key: str, body: bytes, **more: Any) -> None:
        """Somebody else writes."""
        self.client.put_object(Bucket="fresh", Key=self.prefix + key, Body=body, **more)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket="fresh", Key=self.prefix + key)

    def grow_old(self) -> None:
        """Let the whole bucket have been listed longer ago than the mount's time-to-live."""
        with closing(Mirror(open_store(self.store))) as mimicdb:
            before_ns = time.time_ns() - 2 * TTL_S * 10**9
            mimicdb.complete("fresh", Scope("", True, before_ns))

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
    made = {each["Name"] for each in client.list_buckets()["Buckets"]}
    if "fresh" not in made:  # most servers refuse to make one twice
        client.create_bucket(Bucket="fresh")
    with mounted(base, proxy.url, "s3://fresh", "-o", word) as mount:
        yield Place(mount.path, client, proxy, f"sqlite://{base}/store.db")
    proxy.close()
    client.close()


@pytest.fixture(scope="module")
def aging_mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(moto, tmp_path_factory.mktemp("aging"), f"ttl={TTL_S},metadata=never") as place:
        yield place


@pytest.fixture
def aging(aging_mount: Place) -> Place:
    """A directory in a mount whose directories are believed for an hour."""
    place = aging_mount.new(d_a=b"old", e_x=b"x")
    assert sorted(os.listdir(place.path)) == ["d", "e"]
    assert os.listdir(place.path / "d") == ["a"]
    return place


@pytest.fixture(scope="module")
def asking_mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(
        moto, tmp_path_factory.mktemp("asking"), "consistency=open,metadata=never"
    ) as place:
        yield place


@pytest.fixture
def asking(asking_mount: Place) -> Place:
    """A directory in a mount in which each open asks S3."""
    place = asking_mount.new(a=b"old")
    assert (place.path / "a").read_bytes() == b"old"
    return place


def test_a_directory_that_is_older_is_listed_when_it_is_visited_and_only_then(
    aging: Place,
) -> None:
    with costs(aging.proxy):
        assert os.listdir(aging.path / "d") == ["a"]
    aging.put("d/b", b"new")
    aging.put("d/a", b"changed")
    aging.delete("e/x")
    aging.grow_old()
    with costs(aging.proxy, LIST=1):  # of `d`: the kernel knows the way, `e` was not visited
        assert sorted(os.listdir(aging.path / "d")) == ["a", "b"]
    with costs(aging.proxy, GET=1):
        assert (aging.path / "d/a").read_bytes() == b"changed"
        assert (aging.path / "d/a").stat().st_size == 7
    with costs(aging.proxy):
        assert sorted(os.listdir(aging.path / "d")) == ["a", "b"]
    with costs(aging.proxy, LIST=1):
        assert os.listdir(aging.path) == ["d"]


def test_names_and_buckets_are_looked_up_again_too_also_those_that_were_missing(
    mount_at: Any, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="d/a", Body=b"old")
    root: Path = mount_at("-o", "ttl=1").path
    later = f"{bucket}-later"
    assert os.listdir(root / bucket) == ["d"]
    assert not (root / bucket / "d/b").exists()
    assert not (root / later).exists()
    assert (root / bucket / "d/a").stat().st_size == 3
    client.put_object(Bucket=bucket, Key="d/b", Body=b"new")
    client.put_object(Bucket=bucket, Key="d/a", Body=b"longer than before")
    client.create_bucket(Bucket=later)
    wait_until((root / bucket / "d/b").exists)
    wait_until(lambda: (root / bucket / "d/a").stat().st_size == 18)
    wait_until(lambda: later in os.listdir(root))


def test_a_directory_that_cannot_be_looked_at_again_is_an_error(aging: Place) -> None:
    aging.grow_old()
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


def test_an_open_that_creates_makes_what_others_have_deleted(asking: Place) -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        asking.put("a", b"old")
        (asking.path / ".sync").touch()
        assert (asking.path / "a").read_bytes() == b"old"
        asking.delete("a")
        os.close(os.open(asking.path / "a", os.O_CREAT | flags))
        assert (asking.path / "a").read_bytes() == b""
        asking.delete("a")
        with pytest.raises(FileNotFoundError):
            os.open(asking.path / "a", flags)


def test_whoever_has_it_open_keeps_the_version_and_a_new_open_has_the_new_one(
    asking: Place,
) -> None:
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
