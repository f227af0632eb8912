"""Every backend keeps the promises that an author of one can run against his own."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from mimicfs.backends import Backend
from mimicfs.backends.lease import Lease
from mimicfs.backends.memory import Memory
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.testing import BackendPromises

_numbers = itertools.count()


class TestMemory(BackendPromises):
    def open(self) -> Backend:
        return Memory()


class TestSQLiteInMemory(BackendPromises):
    def open(self) -> Backend:
        return SQLite()


class TestSQLite(BackendPromises):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    def open(self) -> Backend:
        return SQLite(str(self.path))


class TestReplica(BackendPromises):
    def open(self) -> Backend:
        replica = Replica(Memory(), SQLite(), Lease())
        replica.lease.renew()
        return replica


class TestRedis(BackendPromises):
    @pytest.fixture(autouse=True)
    def place(self, redis_url: str) -> None:
        self.url = redis_url

    def open(self) -> Backend:
        return RedisBackend.from_url(self.url, f"promises-{os.getpid()}-{next(_numbers)}")
