"""A file of the cache on disk: its blocks, which of them are looked up, compared and brought."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import threading
from functools import partial
from pathlib import Path

import pytest
from support.mounts import wait_until

from mimicfs.files.blocks import BLOCK, BlockFile
from mimicfs.files.bringing import Bringer
from mimicfs.files.direct import Direct
from mimicfs.s3.requests import checksums

MIB = 1 << 20


def test_of_a_million_blocks_only_those_around_are_looked_up(tmp_path: Path) -> None:
    size = 1_000_000 * BLOCK
    path = tmp_path / "huge"
    file = BlockFile(os.open(path, os.O_RDWR | os.O_CREAT), size)
    file.begin()
    last = size - BLOCK
    data = random.Random(1).randbytes(BLOCK)
    file.write(last, memoryview(data))
    again = BlockFile(os.open(path, os.O_RDWR), size)
    assert again.is_sound()
    assert again.read(last, size, wait=True) == data
    assert len(again._tables) == 1
    assert path.stat().st_blocks * 512 < MIB


def test_what_is_here_is_told_across_tables_and_no_further_than_was_asked(tmp_path: Path) -> None:
    size = 600 * BLOCK  # in two tables, of 512 records each
    file = BlockFile(os.open(tmp_path / "blocks", os.O_RDWR | os.O_CREAT), size)
    file.begin()
    file.write(500 * BLOCK, memoryview(bytes(30 * BLOCK)))
    kept = [file.here_until(500 * BLOCK, end * BLOCK) for end in (510, 512, 513, 530, 531, 600)]
    assert [end / BLOCK for end in kept] == [510, 512, 513, 530, 530, 530]
    file._tables[0][511] = 0
    assert file.here_until(500 * BLOCK, 511 * BLOCK) == 511 * BLOCK
    assert file.here_until(500 * BLOCK, 513 * BLOCK) == 511 * BLOCK


def in_memory(fd: int, size: int) -> set[int]:
    """Return which MiB of the file the kernel has pages of, without having it read any: a read
    that may not wait would begin to."""
    present = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE) as pages:
        first = ctypes.c_char.from_buffer(pages)
        assert ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(size), present) == 0
        del first
    return {page * mmap.PAGESIZE // MIB for page, here in enumerate(present) if here & 1}


def on_disk(path: Path, data: bytes) -> int:
    """Write a file of the cache, of which the kernel then has no pages; return it opened."""
    file = BlockFile(os.open(path, os.O_RDWR | os.O_CREAT), len(data))
    file.begin()
    file.write(0, memoryview(data))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel adds nothing of its own
    return fd


def test_the_second_block_read_in_two_mib_brings_all_of_them_from_the_disk(tmp_path: Path) -> None:
    size = 8 * MIB
    data = random.Random(2).randbytes(size)
    fd = on_disk(tmp_path / "blocks", data)
    again = BlockFile(fd, size)
    place, other = 4 * MIB, 4 * MIB + 5 * BLOCK
    assert again.read(place, place + 100, wait=True) == data[place : place + 100]
    assert 5 not in in_memory(fd, size)
    assert again.read(other, other + 100, wait=True) == data[other : other + 100]
    wait_until(lambda: 5 in in_memory(fd, size))
    assert {3, 6} & in_memory(fd, size) == set()


def test_where_a_file_is_read_all_over_the_first_block_brings_the_others(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(8 * MIB)
    fd = on_disk(tmp_path / "blocks", data)
    file = BlockFile(fd, len(data))
    for place in (0, 5 * BLOCK, 6 * MIB):
        assert file.read(place, place + 100, wait=True) == data[place : place + 100]
    wait_until(lambda: 7 in in_memory(fd, len(data)))
    assert {3, 4} & in_memory(fd, len(data)) == set()


def test_a_large_piece_goes_the_usual_way_where_others_write_for_long(tmp_path: Path) -> None:
    direct, data = Direct(), mmap.mmap(-1, MIB)
    fd = direct.open(os.open(tmp_path / "blocks", os.O_RDWR | os.O_CREAT))
    assert direct.write(fd, memoryview(data), 0) == MIB
    turns = [direct._turns.acquire() for _ in range(3)]
    assert direct.write(fd, memoryview(data), 0) == 0
    assert turns == [True] * 3
    direct._turns.release()
    assert direct.write(fd, memoryview(data), 0) == MIB


def test_of_the_parts_that_wait_while_the_disk_hangs_the_latest_are_brought() -> None:
    bringer, hangs, brought = Bringer(), threading.Event(), list[int]()
    begun = threading.Event()

    def hang() -> None:
        begun.set()
        hangs.wait(20)
        raise OSError(errno.EIO, "the disk is gone")  # which is no concern of the others

    bringer.submit(hang)
    assert begun.wait(20)
    for number in range(300):
        bringer.submit(partial(brought.append, number))
    hangs.set()
    wait_until(lambda: brought[-1:] == [299])
    assert brought == list(range(44, 300))
    bringer.close()


def test_kept_bytes_are_read_where_no_thread_can_start_to_bring_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    data = random.Random(3).randbytes(8 * MIB)
    fd = on_disk(tmp_path / "blocks", data)
    file = BlockFile(fd, len(data))
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", full)
        for place in (0, 5 * BLOCK):
            assert file.read(place, place + 100, wait=True) == data[place : place + 100]
    assert file.read(6 * MIB, 6 * MIB + 100, wait=True) == data[6 * MIB : 6 * MIB + 100]
    wait_until(lambda: 7 in in_memory(fd, len(data)))


def test_a_file_says_whether_it_is_whole_as_far_as_anybody_has_looked(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(33 * MIB + 5)  # two tables of records
    fd = on_disk(tmp_path / "blocks", data)
    file = BlockFile(fd, len(data))
    assert not file.is_whole
    assert file.read(0, 10, wait=True) == data[:10]
    assert not file.is_whole
    assert file.read(33 * MIB, 33 * MIB + 5, wait=True) == data[-5:]
    assert file.is_whole
    os.pwrite(fd, b"damaged", BLOCK)
    assert file.read(BLOCK, BLOCK + 10, wait=True) is None
    assert not file.is_whole
    file.write(BLOCK, memoryview(data)[BLOCK : 2 * BLOCK])
    assert file.is_whole


@pytest.mark.parametrize("damaged", [[], [0], [31], [32], [2, 9, 30], list(range(33))])
@pytest.mark.parametrize("awscrt", [True, False])
def test_of_blocks_that_are_compared_together_those_that_differ_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: list[int], awscrt: bool
) -> None:
    if not awscrt:
        monkeypatch.setattr(checksums, "crc32c", lambda: None)
    data = random.Random(5).randbytes(2 * MIB + 1000)
    fd = on_disk(tmp_path / "blocks", data)
    for index in damaged:
        at = min(index * BLOCK + 65_000, len(data) - 1)
        os.pwrite(fd, bytes([data[at] ^ 1]), at)
    file, buffer = BlockFile(fd, len(data)), bytearray(len(data))
    assert file.read_into(0, memoryview(buffer)) == (damaged == [])
    assert (buffer == data) == (damaged == [])
    found = [index for index in range(33) if file.here_until(index * BLOCK, index * BLOCK + 1)
             == index * BLOCK]  # fmt: skip
    assert found == damaged


def test_what_a_mount_with_awscrt_keeps_is_not_there_for_one_without_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * BLOCK
    data = random.Random(3).randbytes(size)
    path = tmp_path / "blocks"

    def opened() -> BlockFile:
        return BlockFile(os.open(path, os.O_RDWR | os.O_CREAT), size)

    opened().begin()
    opened().write(0, memoryview(data)[: 2 * BLOCK])
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "crc32c", lambda: None)
        without = opened()
        assert without.here_until(0, size) == 0
        assert without.read(0, 100, wait=True) is None
        without.write(BLOCK, memoryview(data)[BLOCK : 3 * BLOCK])
        assert without.read(BLOCK, 3 * BLOCK, wait=True) == data[BLOCK : 3 * BLOCK]
    again = opened()
    assert again.here_until(0, size) == 3 * BLOCK
    assert again.read(0, 3 * BLOCK, wait=True) == data[: 3 * BLOCK]
    os.pwrite(os.open(path, os.O_RDWR), b"damaged", 0)
    assert opened().read(0, 100, wait=True) is None
