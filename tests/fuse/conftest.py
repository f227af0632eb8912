"""Fixtures of the FUSE tests: a client process, and mounts that always end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from memfs import MemFS
from mounts import Client, Mount, mounted
from support.mounts import unmounted

# The needs of these tests: without it they are skipped, but never where CI is set.
_MISSING = [
    what
    for what, there in {
        "/dev/fuse": os.access("/dev/fuse", os.R_OK | os.W_OK),
        "fusermount3": any(
            os.access(os.path.join(folder, "fusermount3"), os.X_OK)
            for folder in os.environ.get("PATH", "").split(os.pathsep)
        ),
    }.items()
    if not there
]


@pytest.fixture
def needs_fuse() -> None:
    if _MISSING:
        missing = f"no {' and no '.join(_MISSING)} to mount with"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def fs() -> MemFS:
    return MemFS()


@pytest.fixture
def mountpoint(tmp_path: Path, needs_fuse: None) -> Iterator[Path]:
    """An empty directory on which nothing is mounted any more afterwards."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    if not unmounted(path):
        subprocess.run(
            ["fusermount3", "-u", "-z", str(path)], capture_output=True, timeout=10, check=False
        )


@pytest.fixture
def mount(fs: MemFS, mountpoint: Path) -> Iterator[Mount]:
    with mounted(fs, mountpoint) as mount:
        yield mount


@pytest.fixture(autouse=True)
def no_warning_unasked() -> None:
    """These tests provoke errors all the time; where the log matters, they look at it."""
