"""Small objects in the cache on disk, which share files."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mimicfs.entry import Entry
from mimicfs.files.cache import BlockCache, CachedObject

MIB = 1 << 20
DATA = random.Random(1).randbytes(4096)

Make = Callable[..., BlockCache]


def small(number: int, size: int = len(DATA)) -> Entry:
    return Entry(f"{number}", size, etag="e")


def kept(cache: BlockCache, entry: Entry, *, stays: bool = False) -> CachedObject:
    made = cache.object("b", entry, stays=stays)
    assert made is not None
    return made


def keep(cache: BlockCache, entry: Entry, data: bytes, *, stays: bool = False) -> None:
    with closing(kept(cache, entry, stays=stays)) as made:
        made.write(0, memoryview(data))


def read(cache: BlockCache, entry: Entry, start: int = 0, end: int = -1) -> bytes | None:
    with closing(kept(cache, entry)) as made:
        data = made.read(start, entry.size if end < 0 else end, wait=True)
        return None if data is None else bytes(data)


def body(number: int) -> bytes:
    return number.to_bytes(4) * 1024


def files_in(directory: Path) -> list[str]:
    found = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(directory)) for path in found)


def test_a_thousand_small_objects_are_in_one_file_and_there_after_a_remount(
    cache: Make, directory: Path
) -> None:
    first = cache()
    for number in range(1000):
        keep(first, small(number), body(number))
    assert files_in(directory) == ["CACHEDIR.TAG", "small/4096-2048"]
    again = cache()
    there = sum(read(again, small(number)) == body(number) for number in range(1000))
    assert there >= 990  # of a set that is full, the one that was written first is gone
    assert again.usage().hit == there * 4096


def test_a_part_of_one_is_read_and_a_buffer_filled(cache: Make) -> None:
    keep(cache(), small(1), DATA)
    assert read(cache(), small(1), 100, 200) == DATA[100:200]
    with closing(kept(cache(), small(1))) as made:
        buffer = bytearray(4096)
        assert made.fill(0, memoryview(buffer)) == (4096, 4096)
        assert buffer == DATA
        assert made.here_until(0, 4096) == 4096


def test_sizes_have_shelves_of_their_own_and_larger_ones_a_file_each(
    cache: Make, directory: Path
) -> None:
    first = cache()
    for size in (1, 4096, 4097, 16 << 10, (16 << 10) + 1):
        keep(first, small(size, size), b"x" * size)
        assert read(cache(), small(size, size)) == b"x" * size
    names = files_in(directory)
    own = [name for name in names if name[2] == "/"]
    assert len(own) == 1
    others = ["CACHEDIR.TAG", "small/16384-512", "small/4096-2048"]
    assert [name for name in names if name not in own] == others
    assert [(directory / name).stat().st_mode & 0o777 for name in names] == [0o600] * 4


def test_another_version_is_not_found(cache: Make) -> None:
    first = cache()
    keep(first, small(1), DATA)
    others = [small(1)._replace(etag="f"), small(2), small(1, 4095)]
    assert [read(first, other) for other in others] == [None] * 3


@pytest.mark.parametrize("part", ["the bytes", "the record"])
def test_what_is_damaged_is_not_there_and_kept_anew(
    cache: Make, directory: Path, part: str
) -> None:
    keep(cache(), small(1), DATA)
    path = directory / "small/4096-2048"
    found = path.read_bytes()
    place = found.index(DATA) + 77 if part == "the bytes" else found.index(b"\0\x10\0\0") + 4
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes([found[place] ^ 1]))
    again = cache()
    assert read(again, small(1)) is None
    with closing(kept(again, small(1))) as made:
        assert made.here_until(0, 4096) == 0
    keep(again, small(1), DATA)
    assert read(cache(), small(1)) == DATA


def test_one_that_was_cut_has_nothing_and_keeps_anew(cache: Make, directory: Path) -> None:
    keep(cache(), small(1), DATA)
    os.truncate(directory / "small/4096-2048", 0)
    assert read(cache(), small(1)) is None
    keep(cache(), small(1), DATA)
    assert read(cache(), small(1)) == DATA


def test_of_a_full_set_the_one_that_was_written_first_goes(
    cache: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount, clock = cache(limit=3 * MIB), [1000.0]  # 64 slots
    monkeypatch.setattr("time.time", lambda: clock[0])
    for number in range(640):
        clock[0] += 1
        keep(mount, small(number), body(number))
    left = [number for number in range(640) if read(mount, small(number)) is not None]
    assert len(left) == 64
    assert min(left) > 400
    assert (directory / "small/4096-64").stat().st_size == 64 * (4096 + 32)


def test_a_cache_that_is_too_small_for_a_shelf_has_a_file_for_each(
    cache: Make, directory: Path
) -> None:
    mount = cache(limit=MIB)
    keep(mount, small(1), DATA)
    assert read(mount, small(1)) == DATA
    assert [name for name in files_in(directory) if name.startswith("small")] == []


def test_the_shelf_stays_where_the_limit_is_twice_or_half_as_large(
    cache: Make, directory: Path
) -> None:
    keep(cache(), small(1), DATA)
    for limit in (200 * MIB, 50 * MIB):
        assert read(cache(limit=limit), small(1)) == DATA
    keep(cache(limit=400 * MIB), small(1), DATA)
    assert files_in(directory)[1:] == ["small/4096-2048", "small/4096-8192"]


def test_what_is_to_stay_has_a_file_of_its_own_and_can_be_pinned(
    cache: Make, directory: Path
) -> None:
    mount = cache()
    keep(mount, small(1), DATA)
    with closing(kept(mount, small(1), stays=True)) as made:
        assert made.here_until(0, 4096) == 0
    keep(mount, small(1), DATA, stays=True)
    mount.pin("b", small(1))
    assert [name for name in files_in(directory) if name[2] == "/"] != []
    (directory / "small/4096-2048").unlink()
    assert read(cache(), small(1)) == DATA
    assert mount.unpin_all() == 1


def test_a_shelf_that_nobody_has_used_for_the_longest_time_makes_room(
    cache: Make, directory: Path
) -> None:
    mount = cache(limit=3 * MIB)
    keep(mount, small(1), DATA)
    os.utime(directory / "small/4096-64", (0, 0))  # nothing is older
    size = 256 << 10
    for number in range(2, 40):
        keep(mount, small(number, size), bytes(size))
    deadline = time.monotonic() + 20
    while (directory / "small/4096-64").exists():
        assert time.monotonic() < deadline
        keep(mount, small(random.randrange(1 << 30), size), bytes(size))
        time.sleep(0.01)
    assert read(mount, small(1)) is None
    while read(mount, small(1)) is None:  # there is room for it again
        assert time.monotonic() < deadline
        keep(mount, small(1), DATA)
        time.sleep(0.01)
    assert read(mount, small(1)) == DATA


def test_a_directory_that_is_removed_is_made_again(
    cache: Make, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mount = cache()
    keep(mount, small(1), DATA)
    shutil.rmtree(directory)
    keep(mount, small(2), DATA)
    assert read(cache(), small(2)) == DATA
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{directory} was removed: the cache starts anew"]


def test_threads_and_mounts_that_write_at_once_mix_no_bytes(cache: Make) -> None:
    mounts = [cache(limit=3 * MIB), cache(limit=3 * MIB)]  # 64 slots, for 200 objects
    wrong: list[int] = []

    def work(seed: int) -> None:
        mount, order = mounts[seed % 2], random.Random(seed)
        for _ in range(1500):
            number = order.randrange(200)
            found = read(mount, small(number))
            if found is None:
                keep(mount, small(number), body(number))
            elif found != body(number):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
