"""Reading an open file with a cache on disk: what was read once is not asked of S3 again."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Fail, Proxy

from mimicfs.errors import ObjectChanged
from mimicfs.files.asking import fetch_ahead
from mimicfs.files.blocks import BLOCK
from mimicfs.files.budget import Budget
from mimicfs.files.cache import BlockCache
from mimicfs.files.file import File
from mimicfs.posix import Cancellation

KIB = 1 << 10
MIB = 1 << 20
PIECE = 128 * KIB
CALM = Cancellation()

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def kept(files: Any, directory: Path) -> Iterator[Any]:
    """Files that are read over a cache on disk."""
    cache = BlockCache(directory, "moto")
    files.budget = Budget(cache=cache)
    yield files
    files.close()
    cache.close()


def remount(kept: Any) -> None:
    """Nothing in memory, and nothing asked yet."""
    kept.close()
    kept.budget = Budget(cache=kept.budget.cache)
    kept.s3.requests.clear()
    kept.s3.fetched = 0


def read_through(file: File, piece: int = PIECE) -> bytes:
    data = bytearray()
    while got := file.read(len(data), piece, CALM):
        data += got
    return bytes(data)


def test_what_was_read_is_read_again_without_a_request(kept: Any) -> None:
    data = random.Random(1).randbytes(20 * MIB + 5)
    kept.put("large", data)
    assert read_through(kept.open("large")) == data
    remount(kept)
    assert read_through(kept.open("large")) == data
    assert kept.s3.requests == {}


def test_what_is_read_ahead_from_the_disk_is_read_there_once(kept: Any) -> None:
    data = random.Random(1).randbytes(20 * MIB)
    kept.put("large", data)
    read_through(kept.open("large"))
    remount(kept)
    before = kept.budget.cache.usage().hit
    assert read_through(kept.open("large"), MIB) == data
    # But for the first pieces, before anything was read ahead.
    assert kept.budget.cache.usage().hit - before <= 24 * MIB


def test_a_damaged_block_that_s3_does_not_have_now_fails_no_read_of_others(
    kept: Any, directory: Path, proxy: Proxy
) -> None:
    data = random.Random(5).randbytes(16 * MIB)
    kept.put("large", data)
    read_through(kept.open("large"))
    remount(kept)
    (path,) = directory.glob("??/*")
    with open(path, "r+b") as file:
        file.seek(9 * MIB + 77)
        file.write(b"damaged")
    with proxy.rule(Fail(lambda _request: True, 503, "SlowDown")):
        file, place = kept.open("large"), 0
        while place < 9 * MIB:
            assert file.read(place, PIECE, CALM) == data[place : place + PIECE]
            place += PIECE


@pytest.mark.parametrize("size", [1, 4096, BLOCK, BLOCK + 1, MIB])
def test_small_objects_are_kept_whole(kept: Any, size: int) -> None:
    data = random.Random(2).randbytes(size)
    kept.put("small", data)
    assert read_through(kept.open("small")) == data
    remount(kept)
    assert read_through(kept.open("small")) == data
    assert kept.s3.requests == {}


def test_of_what_was_read_in_part_only_the_rest_is_asked(kept: Any) -> None:
    data = random.Random(3).randbytes(16 * MIB)
    kept.put("large", data)
    file = kept.open("large")
    places = [3 * MIB + 4096, 9 * MIB, 9 * MIB + 300 * KIB]
    for at in places:
        assert file.read(at, 4096, CALM) == data[at : at + 4096]
    assert kept.s3.fetched == len(places) * BLOCK
    remount(kept)
    file = kept.open("large")
    for at in places:
        assert file.read(at, 4096, CALM) == data[at : at + 4096]
    assert kept.s3.requests == {}
    assert read_through(file) == data
    assert kept.s3.fetched <= 16 * MIB


def test_an_object_that_is_read_all_over_comes_in_large_blocks_after_a_sixteenth(kept: Any) -> None:
    data = random.Random(9).randbytes(32 * MIB)
    kept.put("large", data)
    file, places = kept.open("large"), [number * BLOCK + 100 for number in range(1, 512)]
    random.Random(19).shuffle(places)  # of which no two distances in a row are the same
    for at in places[:32]:
        assert file.read(at, 4096, CALM) == data[at : at + 4096]
    assert (kept.s3.requests, kept.s3.fetched) == ({"GET": 32}, 2 * MIB)
    for at in places[32:]:
        assert file.read(at, 4096, CALM) == data[at : at + 4096]
    assert kept.s3.requests["GET"] <= 32 + 16 + 16  # large ones, cut by what is in memory
    assert kept.s3.fetched <= 34 * MIB


@pytest.mark.parametrize(("limit", "others"), [(4 * MIB, 0), (10 * MIB, 9 * MIB)])
def test_large_blocks_are_not_fetched_for_a_cache_that_has_no_room_for_them(
    kept: Any, tmp_path: Path, limit: int, others: int
) -> None:
    cache = BlockCache(tmp_path / "small", "moto", limit)
    kept.budget = Budget(cache=cache)
    kept.put("others", b"o" * others)
    read_through(kept.open("others"))  # which stays open, and so in the cache
    data = random.Random(9).randbytes(8 * MIB)
    kept.put("large", data)
    kept.s3.fetched = 0
    file, places = kept.open("large"), [number * BLOCK + 100 for number in range(1, 128)]
    random.Random(19).shuffle(places)
    for at in places[:32]:
        assert file.read(at, 4096, CALM) == data[at : at + 4096]
    assert (kept.s3.requests, kept.s3.fetched) == ({"GET": 32}, 2 * MIB)
    cache.close()


def test_what_is_kept_is_read_at_once_by_whoever_must_not_wait(kept: Any) -> None:
    data = random.Random(4).randbytes(200 * KIB)  # less than what goes past the kernel's pages
    kept.put("some", data)
    read_through(kept.open("some"))
    remount(kept)
    file = kept.open("some")
    assert file.read_cached(64 * KIB, 4096) is None  # nobody has opened it yet
    assert file.read(64 * KIB, 4096, CALM) == data[64 * KIB : 68 * KIB]
    assert file.read_cached(150 * KIB, 4096) == data[150 * KIB : 154 * KIB]
    assert file.read_cached(200 * KIB - 5, 4096) == data[-5:]


def test_a_damaged_block_is_asked_again_and_kept_again(kept: Any, directory: Path) -> None:
    data = random.Random(5).randbytes(4 * MIB)
    kept.put("four", data)
    read_through(kept.open("four"))
    remount(kept)
    (path,) = directory.glob("??/*")
    with open(path, "r+b") as file:
        file.seek(2 * MIB + 77)
        file.write(b"damaged")
    assert read_through(kept.open("four")) == data
    assert 0 < kept.s3.fetched <= MIB
    remount(kept)
    assert read_through(kept.open("four")) == data
    assert kept.s3.requests == {}


def test_a_new_version_is_asked_of_s3(kept: Any) -> None:
    old, new = b"o" * (2 * MIB), b"n" * (2 * MIB)
    kept.put("key", old)
    assert read_through(kept.open("key")) == old
    kept.put("key", new)
    assert read_through(kept.open("key")) == new
    assert kept.s3.fetched == 4 * MIB


def test_whoever_has_met_a_new_version_reads_nothing_of_the_old_one_any_more(
    kept: Any, client: Any
) -> None:
    kept.put("key", b"o" * (8 * MIB))
    file = kept.open("key")
    file.read(0, 4096, CALM)
    client.put_object(Bucket=kept.bucket, Key="key", Body=b"n" * (8 * MIB))
    with pytest.raises(ObjectChanged):
        file.read(7 * MIB, 4096, CALM)
    with pytest.raises(ObjectChanged):
        file.read(0, 4096, CALM)
    assert file.read_cached(0, 4096) is None


def test_what_is_kept_is_read_while_s3_is_down(kept: Any, proxy: Proxy) -> None:
    data = random.Random(6).randbytes(3 * MIB)
    kept.put("three", data)
    read_through(kept.open("three"))
    remount(kept)
    with proxy.rule(Fail(lambda request: True, 503, "SlowDown")):
        assert read_through(kept.open("three")) == data


def test_a_file_read_ahead_that_is_kept_asks_for_nothing(kept: Any) -> None:
    kept.put("small", b"small")
    read_through(kept.open("small"))
    remount(kept)
    fetch_ahead(kept.s3, [kept.open("small")._origin.reader])
    assert kept.s3.requests == {}
    assert kept.budget.used == 0


def test_where_the_system_has_no_memory_for_more_what_is_needed_is_read_and_nothing_is_counted(
    kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(9).randbytes(4 * MIB + 1)
    kept.put("large", data)
    kept.put("other", data)
    file, budget, most = kept.open("large"), kept.budget, [PIECE]
    buffer = budget.buffer

    def made(size: int) -> Any:
        if size > most[0]:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return buffer(size)

    monkeypatch.setattr(budget, "buffer", made)
    assert read_through(file) == data
    most[0] = 0
    with pytest.raises(OSError, match="memory"):
        read_through(kept.open("other"))
    kept.close()
    wait_until(lambda: budget.used == 0)
