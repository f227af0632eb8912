"""Connections as a boto program makes them, before each server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.proxy import Proxy

from mimicfs import MimicDB
from mimicfs.backends import Backend
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


@pytest.fixture(params=["moto SQLite", "moto memory", "rclone Redis"])
def place(request: pytest.FixtureRequest) -> str:
    """A server and a store: each once or twice."""
    return str(request.param)


@pytest.fixture
def server(place: str, request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(place.split(maxsplit=1)[0])
    return url


@pytest.fixture
def conn(place: str, redis_port: int, proxy: Proxy, tmp_path: Path) -> Iterator[S3Connection]:
    """What a program has after MimicDB() and S3Connection()."""
    stores: dict[str, Callable[[], Backend]] = {
        "SQLite": lambda: SQLite(str(tmp_path / "mimicdb.db")),
        "memory": Memory,
        "Redis": lambda: Redis(port=redis_port),
    }
    MimicDB(stores[place.split()[1]](), namespace=f"boto-{os.getpid()}-{next(_numbers)}")
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    conn = S3Connection("AKIDEXAMPLE", "very-secret-key", False, int(port), host=host)
    yield conn
    conn.close()
    conn.mimicdb.close()
