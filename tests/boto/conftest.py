"""Connections as a boto program makes them, before each server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.proxy import Proxy

from mimicfs import MimicDB
from mimicfs.backends.default import Redis
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.s3.connection import S3Connection

_numbers = itertools.count()


@pytest.fixture
def library_store() -> Iterator[MimicDB]:
    mimicdb = MimicDB(Memory())
    yield mimicdb
    mimicdb.close()


@pytest.fixture
def conn(
    server: str, rclone: str, redis_port: int, proxy: Proxy, tmp_path: Path
) -> Iterator[S3Connection]:
    """What a program has after MimicDB() and S3Connection(): over moto with SQLite as the
    store, over rclone with Redis."""
    if server == rclone:
        MimicDB(Redis(port=redis_port), namespace=f"boto-{os.getpid()}-{next(_numbers)}")
    else:
        MimicDB(SQLite(str(tmp_path / "mimicdb.db")))
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    conn = S3Connection("AKIDEXAMPLE", "very-secret-key", False, int(port), host=host)
    yield conn
    conn.close()
    conn.mimicdb.close()
