"""Fixtures of the tests of open files: an S3 that measures, a journal, files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.proxy import Proxy

from mimicfs.config.values import FileOptions, S3Options
from mimicfs.entry import Entry
from mimicfs.files.budget import Budget
from mimicfs.files.cache import BlockCache
from mimicfs.files.file import File
from mimicfs.files.journal import Journal
from mimicfs.files.tools import Tools
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Condition, Content

MIB = 1 << 20


class Metered(S3):
    """S3 that also tells how many bytes were asked of it, and how many GETs at once."""

    def __init__(self, options: S3Options, mimicdb: Mirror) -> None:
        super().__init__(options, mimicdb)
        self.fetched = 0
        self.at_once = 0
        self.most_at_once = 0
        self._meter = threading.Lock()

    def read_into(
        self,
        bucket: str,
        key: str,
        etag: str,
        start: int,
        buffer: memoryview,
        version: str = "",
        size: int = -1,
    ) -> None:
        with self._meter:
            self.fetched += buffer.nbytes
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            super().read_into(bucket, key, etag, start, buffer, version, size)
        finally:
            with self._meter:
                self.at_once -= 1


class Files:
    """Makes files of one bucket, as a mount does, and closes them."""

    def __init__(self, s3: Metered, mimicdb: Mirror, bucket: str, staging: Path) -> None:
        self.s3 = s3
        self.mimicdb = mimicdb
        self.bucket = bucket
        self.journal = Journal.open(staging)
        self.options = FileOptions(staging=staging, part_size=5 * MIB)
        self.budget = Budget()
        self._open: list[File] = []

    def put(self, key: str, data: bytes, content: Content = Content()) -> Entry:  # noqa: B008
        """Store an object, which the mirror then knows."""
        entry = self.s3.put(self.bucket, key, data, len(data), content)
        self.s3.requests.clear()
        return entry

    def open(self, key: str) -> File:
        """Open what the mirror has as *key*."""
        entry = self.mimicdb.entry(self.bucket, key)
        assert entry is not None
        return self._file(key, entry, Content("guessed/by-name", entry.meta or {}))

    def create(
        self,
        key: str,
        content: Content = Content(),  # noqa: B008
        *,
        absent: bool = False,
    ) -> File:
        return self._file(key, None, content, absent=absent)

    def _file(
        self, key: str, entry: Entry | None, content: Content, *, absent: bool = False
    ) -> File:
        tools = Tools(self.s3, self.journal, self.options, self.budget)
        file = File(tools, self.bucket, key, entry, content, absent=absent)
        self._open.append(file)
        return file

    def know_conditions(self) -> None:
        """Have the client find out whether the server looks at conditions of writes."""
        self.s3.conditions.params(self.bucket, "any", Condition("any"))
        self.s3.requests.clear()

    def close(self) -> None:
        for file in self._open:
            file.close()


@pytest.fixture
def s3(proxy: Proxy, mimicdb: Mirror) -> Iterator[Metered]:
    s3 = Metered(S3Options(endpoint_url=proxy.url, attempts=3), mimicdb)
    yield s3
    s3.close()


@pytest.fixture
def files(s3: Metered, mimicdb: Mirror, bucket: str, tmp_path: Path) -> Iterator[Files]:
    files = Files(s3, mimicdb, bucket, tmp_path / "staging")
    yield files
    files.close()


@pytest.fixture
def calm() -> Cancellation:
    """Nobody interrupts."""
    return Cancellation()


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Runs something in a thread, which is joined at the end."""
    threads: list[threading.Thread] = []

    def run(work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        threads.append(thread)
        return thread

    yield run
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def cache(directory: Path) -> Iterator[Callable[..., BlockCache]]:
    """Makes caches in one directory, as one mount after the other does."""
    made: list[BlockCache] = []

    def make(endpoint: str = "aws", limit: int | None = 100 * MIB) -> BlockCache:
        made.append(BlockCache(directory, endpoint, limit))
        return made[-1]

    yield make
    for each in made:
        each.close()
