"""Clients that mimic, as a program makes them, before each server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import CONFIG
from support.proxy import Proxy

from mimicfs import MimicDB
from mimicfs.backends import Backend
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite


@pytest.fixture
def backend(server: str, rclone: str, tmp_path: Path) -> Backend:
    """A store: what is answered does not depend on which. Each server has another one."""
    return Memory() if server == rclone else SQLite(str(tmp_path / "mimicdb.db"))


@pytest.fixture
def library(backend: Backend) -> Iterator[MimicDB]:
    mimicdb = MimicDB(backend)
    yield mimicdb
    mimicdb.close()


@pytest.fixture
def mimicked(library: MimicDB, proxy: Proxy) -> Iterator[Any]:
    """A client that mimics, through the counting proxy."""
    client = library.client(endpoint_url=proxy.url, config=CONFIG)
    yield client
    client.close()
