"""A file behaves as a bytearray does, whatever is done to it in whatever order."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mimicfs.posix import Cancellation

pytestmark = pytest.mark.slow

KIB = 1 << 10
MOST = 300 * KIB

places = st.one_of(st.integers(0, 40), st.integers(0, MOST), st.sampled_from([0, 64 * KIB, MOST]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), places, st.integers(0, 70 * KIB)),
        st.tuples(st.just("read"), places, st.integers(0, 70 * KIB)),
        st.tuples(st.just("truncate"), places, st.just(0)),
        st.tuples(st.just("append"), st.just(0), st.integers(1, 5000)),
        st.tuples(st.sampled_from(["flush", "reopen", "rename"]), st.just(0), st.just(0)),
    ),
    max_size=14,
)


class Pair:
    """A file, and what it must be."""

    def __init__(self, files: Any) -> None:
        self.files = files
        self.calm = Cancellation()
        self.key = "a"
        self.model = bytearray()
        self.file = files.create(self.key)
        self.letters = random.Random(0)

    def write(self, offset: int, size: int) -> None:
        data = self.letters.randbytes(size)
        if size and offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + size] = data
        self.file.write(offset, memoryview(data), self.calm)

    def append(self, _: int, size: int) -> None:
        self.write(len(self.model), size)

    def read(self, offset: int, size: int) -> None:
        want = bytes(self.model[offset : offset + size])
        cached = self.file.read_cached(offset, size)
        assert cached is None or cached == want
        assert self.file.read(offset, size, self.calm) == want

    def truncate(self, size: int, _: int) -> None:
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        self.file.truncate(size, self.calm)

    def flush(self, *_: int) -> None:
        self.file.flush(self.calm)
        entry = self.files.mimicdb.entry(self.files.bucket, self.key)
        assert entry.size == len(self.model) and entry.etag == self.file.etag

    def reopen(self, *_: int) -> None:
        self.flush()
        self.file.close()
        self.file = self.files.open(self.key)

    def rename(self, *_: int) -> None:
        """Flushes, copies and moves on, as a mount does."""
        self.flush()
        new = "b" if self.key == "a" else "a"
        entry = self.files.mimicdb.entry(self.files.bucket, self.key)
        moved = self.files.s3.copy((self.files.bucket, entry), self.files.bucket, new)
        self.files.s3.delete(self.files.bucket, self.key)
        self.key = new
        self.file.move(self.files.bucket, new, moved)

    def check(self) -> None:
        assert self.file.size == len(self.model)
        assert self.file.read(0, MOST * 2, self.calm) == bytes(self.model)


@pytest.mark.parametrize(
    ("server", "part_size"),
    [("moto", 5 << 20), ("rclone", 64 * KIB)],  # S3 and moto refuse smaller parts than 5 MiB
    indirect=["server"],
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
@example(steps=[("write", 1, 0)])
def test_a_file_is_a_bytearray(
    files: Any, part_size: int, steps: list[tuple[str, int, int]]
) -> None:
    files.options = replace(files.options, block_size=64 * KIB, part_size=part_size)
    pair = Pair(files)
    for name, place, size in steps:
        getattr(pair, name)(place, size)
    pair.check()
    pair.reopen()
    pair.check()
    pair.file.close()
