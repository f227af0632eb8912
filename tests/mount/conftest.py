"""Real mounts by the real command, over a counting proxy before a real S3 server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis as redis_library
from support.clients import plain
from support.mounts import Mount, mounted
from support.proxy import Proxy

_directories = itertools.count(1)


@pytest.fixture(scope="session")
def needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        message = "no /dev/fuse to mount with"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def all_need_fuse(needs_fuse: None) -> None:
    """Each test of this room mounts, by `mount_at` or by itself."""


@pytest.fixture
def metadata_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts ask nothing at the first look: the test counts other requests."""
    monkeypatch.setenv("MIMICFS_METADATA", "never")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def mount_at(
    needs_fuse: None, state: Path, tmp_path: Path, proxy: Proxy, store: str
) -> Iterator[Any]:
    """Mount with given arguments; unmounted at the end of the test, whatever happens."""
    made: list[Mount] = []

    def mount(*arguments: str, name: str = "mnt", store: str = store) -> Mount:
        common = ["--endpoint-url", proxy.url, "--store", store, "--log-level", "info"]
        made.append(Mount(tmp_path / name, [*common, *arguments], tmp_path / "mount.log"))
        return made[-1]

    yield mount
    for mount_ in made:
        mount_.close()


@pytest.fixture
def mount(mount_at: Any, bucket: str, proxy: Proxy) -> Path:
    """The root of *bucket*, mounted and never listed; nothing counted yet."""
    path: Path = mount_at(f"s3://{bucket}").path
    proxy.counted()
    return path


@pytest.fixture
def asked(proxy: Proxy) -> Callable[[], dict[str, int]]:
    """The requests to S3 since the last look."""
    return proxy.counted


class Shared(NamedTuple):
    """A mount that many tests use, each in a directory of its own."""

    path: Path
    client: Any
    bucket: str

    def body(self, path: Path) -> bytes:
        """What S3 has of the file *path*."""
        key = str(path.relative_to(self.path))
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def put(self, path: Path, body: bytes) -> None:
        """Somebody else replaces the file *path*, or makes it."""
        self.client.put_object(Bucket=self.bucket, Key=str(path.relative_to(self.path)), Body=body)


@pytest.fixture(scope="session")
def shared(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A synced bucket, mounted once. Nothing in its log may call for somebody's attention."""
    base = tmp_path_factory.mktemp("shared")
    client = plain(moto)
    client.create_bucket(Bucket="shared")
    with mounted(base, moto, "s3://shared") as mount:
        yield Shared(mount.path, client, "shared")
    client.close()
    said = [line.split()[2] for line in mount.log.read_text().splitlines() if line.strip()]
    assert set(said) <= {"INFO"}, mount.log.read_text()


@pytest.fixture
def here(shared: Shared) -> Path:
    """A new directory in the shared mount."""
    path = shared.path / f"t{next(_directories)}"
    path.mkdir()
    return path


@pytest.fixture(params=["sqlite", "scripts", "transactions"])
def meeting_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Each kind of store, by its URL."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/shared.db"
        return
    url = request.getfixturevalue("redis_url")
    if request.param == "scripts":
        yield url
        return
    with redis_library.Redis.from_url(url) as redis:
        rights = ["on", ">secret", "~*", "+@all", "-@scripting"]
        redis.execute_command("ACL", "SETUSER", "noscripts", *rights)
        yield url.replace("redis://", "redis://noscripts:secret@")
        redis.execute_command("ACL", "DELUSER", "noscripts")


@pytest.fixture
def two(
    mount_at: Any, bucket: str, meeting_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Path]:
    """Two mounts of *bucket* on one store."""
    if "@" in meeting_store:
        monkeypatch.setenv("MIMICFS_STORE_PASSWORD", "secret")
        meeting_store = meeting_store.replace(":secret@", "@")
    return [
        mount_at(
            f"s3://{bucket}",
            "--cache-dir",
            str(tmp_path / f"cache-{name}"),
            name=name,
            store=meeting_store,
        ).path
        for name in ("one", "two")
    ]
