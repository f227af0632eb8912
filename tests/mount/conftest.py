"""Real mounts by the real command, over a counting proxy before a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounts import Mount
from support.proxy import Proxy


@pytest.fixture(scope="session", autouse=True)
def needs_fuse() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        message = "no /dev/fuse to mount with"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def mount_at(state: Path, tmp_path: Path, proxy: Proxy, store: str) -> Iterator[Any]:
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
    """What S3 was asked since the last look."""
    return proxy.counted
