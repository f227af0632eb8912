"""Reading an open file: which requests it makes, what it holds, and that versions never mix."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Fail, Hold, Proxy

from mimicfs.backends.memory import Memory
from mimicfs.config.values import FileOptions, S3Options
from mimicfs.entry import Entry
from mimicfs.errors import Interrupted, ObjectChanged, S3Error
from mimicfs.files.budget import Budget
from mimicfs.files.file import File
from mimicfs.files.journal import Journal
from mimicfs.files.layout import Layout
from mimicfs.files.tools import Tools
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import S3, Content

pytestmark = pytest.mark.slow

KIB = 1 << 10
MIB = 1 << 20
PIECE = 128 * KIB  # what the kernel asks by default

Background = Callable[[Callable[[], object]], threading.Thread]


def read_through(file: File, piece: int = PIECE) -> bytes:
    calm, data = Cancellation(), bytearray()
    while got := file.read(len(data), piece, calm):
        data += got
    return bytes(data)


def test_a_file_read_in_order_is_asked_in_few_large_requests_several_at_once(files: Any) -> None:
    data = random.Random(1).randbytes(64 * MIB)
    files.put("large", data)
    assert read_through(files.open("large")) == data
    assert files.s3.fetched == 64 * MIB  # nothing twice
    assert files.s3.requests["GET"] <= 32
    assert 2 <= files.s3.most_at_once <= 12


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_two_readers_in_order_of_one_file_do_not_disturb_each_other(
    files: Any, calm: Cancellation
) -> None:
    data = random.Random(2).randbytes(32 * MIB)
    files.put("large", data)
    file, half = files.open("large"), 16 * MIB
    for at in range(0, half, PIECE):
        for place in (at, half + at):
            assert file.read(place, PIECE, calm) == data[place : place + PIECE]
    assert files.s3.fetched <= 34 * MIB
    assert files.s3.requests["GET"] <= 32


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_reads_that_arrive_out_of_order_are_still_one_reader(
    files: Any, calm: Cancellation
) -> None:
    data = random.Random(3).randbytes(32 * MIB)
    files.put("large", data)
    file = files.open("large")
    order = list(range(0, len(data), PIECE))
    shuffle = random.Random(4).shuffle
    for start in range(0, len(order), 8):  # 1 MiB of reads in flight, in any order
        window = order[start : start + 8]
        shuffle(window)
        order[start : start + 8] = window
    with ThreadPoolExecutor(4) as kernel:
        got = kernel.map(
            lambda at: bytes(file.read(at, PIECE, calm)) == data[at : at + PIECE], order
        )
        assert all(got)
    assert files.s3.fetched <= 34 * MIB
    assert files.s3.requests["GET"] <= 40


def test_random_reads_of_4_kib_fetch_at_most_16_times_what_was_asked(
    files: Any, calm: Cancellation
) -> None:
    data = random.Random(5).randbytes(16 * MIB)
    files.put("large", data)
    file, places = files.open("large"), random.Random(6)
    for _ in range(80):
        at = places.randrange(16 * MIB // 4096) * 4096
        assert file.read(at, 4096, calm) == data[at : at + 4096]
    assert files.s3.fetched <= 16 * 80 * 4096


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_jumping_after_reading_in_order_drops_what_was_read_ahead(
    files: Any, calm: Cancellation
) -> None:
    files.put("large", bytes(32 * MIB))
    file = files.open("large")
    for at in range(0, MIB, PIECE):
        file.read(at, PIECE, calm)
    assert files.budget.used >= MIB
    for n in range(24):  # more jumps than places are remembered, beyond what was read ahead
        file.read(16 * MIB + n * 600 * KIB, 4096, calm)
    wait_until(lambda: files.budget.used <= 16 * 128 * KIB)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("piece", [128 * KIB, MIB])
def test_a_file_read_from_its_end_is_asked_in_large_requests_ahead(
    files: Any, calm: Cancellation, piece: int
) -> None:
    data = random.Random(14).randbytes(32 * MIB)
    files.put("large", data)
    file = files.open("large")
    for at in range(32 * MIB - piece, -1, -piece):
        assert file.read(at, piece, calm) == data[at : at + piece]
    assert files.s3.fetched <= 33 * MIB
    assert files.s3.requests["GET"] <= 40
    assert files.s3.most_at_once >= 2


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("step", [MIB, -MIB])
def test_pieces_at_equal_distances_are_asked_ahead_and_nothing_between_them(
    files: Any, calm: Cancellation, step: int
) -> None:
    data = random.Random(15).randbytes(48 * MIB)
    files.put("large", data)
    file, foreseen = files.open("large"), 0
    for n in range(40):
        at = 24 * MIB + n * step - (20 * step) + 12_288
        wait_until(lambda: files.s3.at_once == 0)
        found = file.read_cached(at, 4096)
        foreseen += found is not None
        assert (found or file.read(at, 4096, calm)) == data[at : at + 4096]
    assert foreseen >= 36
    assert files.s3.fetched <= 16 * 4096 * 48


@pytest.mark.parametrize("size", [1, 4096, MIB])
def test_a_small_object_is_one_request(files: Any, size: int) -> None:
    data = random.Random(7).randbytes(size)
    files.put("small", data)
    assert read_through(files.open("small")) == data
    assert files.s3.requests == {"GET": 1}


def test_a_small_object_is_one_request_wherever_it_is_read_first(
    files: Any, calm: Cancellation
) -> None:
    data = random.Random(8).randbytes(500 * KIB)
    files.put("small", data)
    file = files.open("small")
    assert file.read(490 * KIB, 4096, calm) == data[490 * KIB :][:4096]
    assert read_through(file) == data
    assert files.s3.requests == {"GET": 1}


def test_an_empty_object_is_no_request(files: Any, calm: Cancellation) -> None:
    files.put("empty", b"")
    file = files.open("empty")
    assert file.read(0, 4096, calm) == b""
    assert file.read_cached(0, 4096) == b""
    assert files.s3.requests == {}


def test_a_read_is_short_only_at_the_end(files: Any, calm: Cancellation) -> None:
    files.put("ten", b"0123456789")
    file = files.open("ten")
    assert file.read(4, 3, calm) == b"456"
    assert file.read(8, 100, calm) == b"89"
    assert file.read(10, 100, calm) == b""
    assert file.read(99, 1, calm) == b""


def test_what_is_in_memory_is_answered_without_waiting(files: Any, calm: Cancellation) -> None:
    files.put("ten", b"0123456789")
    file = files.open("ten")
    assert file.read_cached(0, 4) is None
    file.read(0, 1, calm)
    assert file.read_cached(4, 3) == b"456"


def test_no_bytes_are_answered_of_what_is_given_up_meanwhile(
    files: Any, calm: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("ten", b"0123456789")
    file = files.open("ten")
    file.write(0, b"x", calm)
    staging = file._staging
    read = staging.read

    def given_up(start: int, size: int) -> bytes:
        file._staging = None
        return bytes(read(start, size))

    monkeypatch.setattr(staging, "read", given_up)
    assert file.read_cached(0, 4) is None
    file._staging = staging
    assert file.read_cached(4, 3) is None


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
def test_reading_96_mib_holds_at_most_64(files: Any, client: Any, calm: Cancellation) -> None:
    piece = random.Random(9).randbytes(MIB)
    client.put_object(Bucket=files.bucket, Key="huge", Body=piece * 96)
    files.s3.head(files.bucket, "huge")
    file, most = files.open("huge"), 0
    for at in range(0, 96 * MIB, MIB):
        assert file.read(at, MIB, calm) == piece
        most = max(most, files.budget.used)
    assert most <= 64 * MIB
    assert files.budget.used <= 2 * 8 * MIB  # at the end, what was passed is dropped
    file.close()
    assert files.budget.used == 0


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_many_files_together_hold_no_more_than_the_budget(files: Any) -> None:
    files.budget = Budget(16 * MIB)
    data = random.Random(10).randbytes(24 * MIB)
    for n in range(4):
        files.put(f"file{n}", data)
    most = 0

    def read(n: int) -> bool:
        nonlocal most
        file, calm = files.open(f"file{n}"), Cancellation()
        for at in range(0, len(data), PIECE):
            if file.read(at, PIECE, calm) != data[at : at + PIECE]:
                return False
            most = max(most, files.budget.used)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [True] * 4
    assert most <= 18 * MIB  # and what a reader waits for, of which each has at most 128 KiB


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_file_that_nobody_reads_gives_its_memory_to_one_that_is_read(
    files: Any, calm: Cancellation
) -> None:
    files.budget = Budget(8 * MIB)
    files.put("idle", bytes(32 * MIB))
    files.put("read", bytes(32 * MIB))
    idle, other = files.open("idle"), files.open("read")
    for at in range(0, 4 * MIB, PIECE):
        idle.read(at, PIECE, calm)
    time.sleep(1.1)  # the time after which a reader counts as idle
    files.s3.requests.clear()
    assert len(read_through(other)) == 32 * MIB
    assert files.s3.requests["GET"] <= 40  # of 1 MiB; without room it would be 256 of 128 KiB


def test_an_object_overwritten_elsewhere_is_read_as_it_was_or_not_at_all(
    files: Any, client: Any, calm: Cancellation
) -> None:
    old, new = b"o" * (32 * MIB), b"n" * (32 * MIB)
    files.put("key", old)
    file = files.open("key")
    assert file.read(0, PIECE, calm) == old[:PIECE]
    client.put_object(Bucket=files.bucket, Key="key", Body=new)

    def read_on() -> None:
        for at in range(0, 32 * MIB, PIECE):
            assert set(bytes(file.read(at, PIECE, calm))) == {ord("o")}

    with pytest.raises(ObjectChanged):
        read_on()
    with pytest.raises(ObjectChanged) as raised:  # for good, also where it had bytes
        file.read(0, PIECE, calm)
    assert raised.value.errno == 116  # ESTALE
    assert file.read_cached(0, PIECE) is None
    assert read_through(files.open("key")) == new


def test_an_object_deleted_elsewhere_is_stale(files: Any, client: Any, calm: Cancellation) -> None:
    files.put("key", bytes(4 * MIB))
    file = files.open("key")
    client.delete_object(Bucket=files.bucket, Key="key")
    with pytest.raises(ObjectChanged) as raised:
        file.read(0, PIECE, calm)
    assert raised.value.errno == 116


def test_an_expired_file_gives_nothing_any_more(files: Any, calm: Cancellation) -> None:
    files.put("key", b"0123456789")
    file = files.open("key")
    file.read(0, 10, calm)
    file.expire()
    with pytest.raises(ObjectChanged):
        file.read(0, 10, calm)
    with pytest.raises(ObjectChanged):
        file.read_cached(0, 10)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_staged_read_looks_once_which_bytes_are_where(
    files: Any, calm: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, looks, pieces = files.create("key"), [], Layout.pieces
    file.write(0, memoryview(b"0123456789"), calm)
    monkeypatch.setattr(Layout, "pieces", lambda *all_: looks.append(1) or pieces(*all_))
    assert file.read_cached(2, 3) == file.read(2, 3, calm) == b"234"
    assert len(looks) == 2


def test_an_error_is_not_remembered(files: Any, proxy: Proxy, calm: Cancellation) -> None:
    data = random.Random(11).randbytes(16 * MIB)
    files.put("key", data)
    file = files.open("key")
    assert file.read(0, PIECE, calm) == data[:PIECE]
    with proxy.rule(Fail(lambda request: request.kind == "GET", 500, "InternalError")):
        with pytest.raises(S3Error):
            read_through(file)
    assert read_through(file) == data


def test_a_read_ends_when_its_caller_is_interrupted(
    files: Any, proxy: Proxy, background: Background
) -> None:
    data = random.Random(12).randbytes(4 * MIB)
    files.put("key", data)
    file, cancellation = files.open("key"), Cancellation()
    with proxy.rule(Hold(lambda request: request.kind == "GET")) as hold:
        background(lambda: hold.reached.wait(60) and cancellation.cancel())
        started = time.monotonic()
        with pytest.raises(Interrupted):
            file.read(0, PIECE, cancellation)
        assert time.monotonic() - started < 5
    assert file.read(0, PIECE, Cancellation()) == data[:PIECE]


def test_a_server_that_never_answers_does_not_hold_an_interrupted_reader(
    tmp_path: Path, background: Background
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        s3 = S3(S3Options(endpoint_url=url, attempts=1), Mirror(Memory()))
        options = FileOptions(staging=tmp_path / "staging")
        entry = Entry("key", 4 * MIB, etag="e")
        tools = Tools(s3, Journal.open(options.staging), options, Budget())
        file, cancellation = File(tools, "bucket", "key", entry, Content()), Cancellation()
        accepted: list[socket.socket] = []

        def interrupt() -> None:
            accepted.append(silent.accept()[0])
            cancellation.cancel()

        background(interrupt)
        with pytest.raises(Interrupted):
            file.read(0, PIECE, cancellation)
        accepted[0].close()
        file.close()
        s3.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_reader_is_not_disturbed_by_a_rename(
    files: Any, client: Any, background: Background
) -> None:
    data = random.Random(13).randbytes(24 * MIB)
    entry = files.put("old", data)
    moved = files.put("new", data)
    file, calm, done = files.open("old"), Cancellation(), threading.Event()

    def rename() -> None:
        while not done.is_set():
            file.move(files.bucket, "new", moved)
            file.move(files.bucket, "old", entry)

    background(rename)
    try:
        for at in range(0, len(data), MIB):
            assert file.read(at, MIB, calm) == data[at : at + MIB]
    finally:
        done.set()


def test_after_a_rename_reading_goes_on_at_the_new_key(
    files: Any, client: Any, calm: Cancellation
) -> None:
    data = os.urandom(4 * MIB)
    files.put("old", data)
    file = files.open("old")
    file.read(0, 1, calm)
    moved = files.put("new", data)
    client.delete_object(Bucket=files.bucket, Key="old")
    file.move(files.bucket, "new", moved)
    assert read_through(file) == data


def test_a_read_far_behind_a_reader_that_has_come_to_the_end_has_its_bytes(
    files: Any, calm: Cancellation
) -> None:
    data = random.Random(1).randbytes(8 * MIB)
    files.put("key", data)
    file = files.open("key")
    assert read_through(file) == data
    place = len(data) - 3 * MIB // 2
    for offset in (place, place + 4 * KIB):  # the second one is answered from memory
        assert file.read(offset, 4 * KIB, calm) == data[offset : offset + 4 * KIB]
        cached = file.read_cached(offset, 4 * KIB)
        assert cached in (None, data[offset : offset + 4 * KIB])
