"""A MemFS behind the FUSE protocol behaves as a tmpfs does: the same cases, on both."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cases
import pytest
from memfs import MemFS
from mounts import Client, Mount, mounted

from mimicfs.fuse.mounting import MountOptions
from mimicfs.fuse.session import SessionOptions


@pytest.fixture
def plain() -> Iterator[Path]:
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def open_to_all(mountpoint: Path) -> Iterator[Mount]:
    """As root with allow_other: some cases act as another user."""
    options = SessionOptions(MountOptions(allow_other=os.getuid() == 0))
    with mounted(MemFS(), mountpoint, options) as mount:
        yield mount


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_on_memfs(case: Callable[[Path], None], open_to_all: Mount, client: Client) -> None:
    client(case, open_to_all.path, timeout_s=40)


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_on_tmpfs(case: Callable[[Path], None], plain: Path, client: Client) -> None:
    client(case, plain, timeout_s=40)
