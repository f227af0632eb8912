"""What several tests of this room need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernels import Kernel

from mimicfs.config.values import FileOptions, Target, VFSOptions
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync.syncer import Syncer
from mimicfs.vfs.filesystem import VFS


@pytest.fixture
def fs(s3: S3, mimicdb: Mirror, bucket: str, tmp_path: Path) -> Iterator[VFS]:
    parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), Kernel())
    fs = VFS(*parts, VFSOptions(Target(bucket)), FileOptions(tmp_path))
    yield fs
    fs.close()
