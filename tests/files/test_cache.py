"""The cache on disk: what it keeps, for which version, and what it does when the disk does not."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import disks
from support.mounts import wait_until

from mimicfs.config.sizes import parse_size
from mimicfs.entry import Entry
from mimicfs.errors import ConfigError, Interrupted
from mimicfs.files.blocks import BLOCK
from mimicfs.files.cache import BlockCache, CachedObject
from mimicfs.posix import Cancellation

MIB = 1 << 20
DATA = random.Random(1).randbytes(3 * BLOCK + 1000)
ENTRY = Entry("photos/a.jpg", len(DATA), etag="e1")

Make = Callable[..., BlockCache]


def kept(cache: BlockCache, entry: Entry = ENTRY, bucket: str = "b") -> CachedObject:
    made = cache.object(bucket, entry)
    assert made is not None
    return made


def keep(cache: BlockCache, entry: Entry = ENTRY, data: bytes = DATA, start: int = 0) -> None:
    with closing(kept(cache, entry)) as made:
        made.write(start, memoryview(data))


def read(cache: BlockCache, start: int = 0, end: int = len(DATA)) -> bytes | None:
    with closing(kept(cache)) as made:
        data = made.read(start, end, wait=True)
        return None if data is None else bytes(data)


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("??/*") if path.is_file())


def test_what_was_kept_is_there_after_a_remount(cache: Make) -> None:
    keep(cache())
    assert read(cache()) == DATA
    assert read(cache(), 70_000, 140_000) == DATA[70_000:140_000]


def test_it_is_of_this_version_of_this_key_bucket_and_endpoint_only(cache: Make) -> None:
    first = cache()
    keep(first)
    others = [
        kept(first, ENTRY._replace(etag="e2")),
        kept(first, ENTRY._replace(key="photos/b.jpg")),
        kept(first, ENTRY._replace(size=ENTRY.size + 1)),
        kept(first, bucket="other"),
        kept(cache("http://localhost")),
    ]
    assert [each.here_until(0, ENTRY.size) for each in others] == [0] * 5


def test_an_object_without_an_etag_is_not_kept(cache: Make) -> None:
    assert cache().object("b", Entry("a", 5)) is None


def test_whole_blocks_are_kept_and_the_last_one(cache: Make) -> None:
    keep(cache(), data=DATA[1000:], start=1000)
    assert read(cache(), 1000, 2000) is None
    assert read(cache(), BLOCK, len(DATA)) == DATA[BLOCK:]
    with closing(kept(cache())) as made:
        assert made.here_until(0, len(DATA)) == 0
        assert made.here_until(BLOCK, len(DATA)) == len(DATA)


def test_a_buffer_is_filled_from_both_ends_and_what_lacks_is_told(cache: Make) -> None:
    first = cache()
    keep(first, data=DATA[:BLOCK])
    keep(first, data=DATA[2 * BLOCK :], start=2 * BLOCK)
    with closing(kept(cache())) as made:
        buffer = bytearray(len(DATA))
        assert made.fill(0, memoryview(buffer)) == (BLOCK, 2 * BLOCK)
    assert buffer == DATA[:BLOCK] + bytes(BLOCK) + DATA[2 * BLOCK :]


def test_names_tell_nothing_and_nobody_else_may_look(cache: Make, directory: Path) -> None:
    keep(cache(), Entry("../../secret", len(DATA), etag="e1"))
    (file,) = files_in(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in str(file)
    assert b"secret" not in file.read_bytes()


@pytest.mark.parametrize("place", [5, BLOCK + 5, len(DATA) - 1])
def test_a_damaged_block_is_not_there_and_the_others_are(
    cache: Make, directory: Path, place: int
) -> None:
    keep(cache())
    with open(files_in(directory)[0], "r+b") as file:
        file.seek(place)
        file.write(bytes([DATA[place] ^ 1]))
    damaged = place // BLOCK
    again = cache()
    found = [read(again, n * BLOCK, min((n + 1) * BLOCK, len(DATA))) for n in range(4)]
    assert [n for n in range(4) if found[n] is None] == [damaged]
    keep(again)
    assert read(cache()) == DATA


@pytest.mark.parametrize("size", [0, 1000, len(DATA), len(DATA) + 10, len(DATA) + 20])
def test_a_file_that_was_cut_is_not_there_and_is_made_anew(
    cache: Make, directory: Path, size: int
) -> None:
    keep(cache())
    os.truncate(files_in(directory)[0], size)
    assert read(cache()) is None
    keep(cache())
    assert read(cache()) == DATA


def test_a_file_that_is_cut_while_it_is_read_costs_a_request_and_no_more(
    cache: Make, directory: Path
) -> None:
    first = cache()
    keep(first)
    with closing(kept(first)) as made:
        assert made.read(0, 10, wait=True) == DATA[:10]
        os.truncate(files_in(directory)[0], BLOCK)
        assert made.read(2 * BLOCK, 3 * BLOCK, wait=True) is None
        assert made.here_until(2 * BLOCK, 3 * BLOCK) == 2 * BLOCK


def test_what_another_mount_reads_stays_as_it_is_when_its_file_is_made_anew(
    cache: Make, directory: Path
) -> None:
    first = cache()
    keep(first)
    with closing(kept(first)) as made:
        assert made.read(0, len(DATA), wait=True) == DATA
        with open(files_in(directory)[0], "r+b") as file:
            file.seek(len(DATA))
            file.write(b"damaged!")
        keep(cache())
        assert made.read(0, len(DATA), wait=True) == DATA


def test_only_what_needs_no_disk_is_read_without_a_wait(cache: Make) -> None:
    keep(cache())
    with closing(kept(cache())) as made:
        assert made.read(0, 100, wait=False) is None  # the file is not open
        assert made.read(0, 100, wait=True) == DATA[:100]
        assert made.read(BLOCK, BLOCK + 100, wait=False) == DATA[BLOCK : BLOCK + 100]


def test_what_was_not_used_for_the_longest_time_goes_first(cache: Make, directory: Path) -> None:
    first = cache()
    size = MIB
    for number in range(20):
        keep(first, Entry(f"{number}", size, etag="e"), bytes(size))
    names = {number: kept(first, Entry(f"{number}", size, etag="e")).name for number in range(20)}
    for number, name in names.items():
        os.utime(directory / name, (0, 1_000_000 + number))
    first.close()
    with closing(kept(cache(), Entry("3", size, etag="e"))) as used:  # a use that is noted
        used.here_until(0, size)
    small = cache(limit=10 * MIB)
    wait_until(lambda: small.usage().used >= 20 * MIB)
    with closing(kept(small, Entry("4", size, etag="e"))) as open_now:
        open_now.here_until(0, size)
        os.utime(directory / names[4], (0, 0))
        keep(small, Entry("more", size, etag="e"), bytes(size))  # there is no room for it
        wait_until(lambda: small.usage().used <= 9 * MIB)
    left = {number for number, name in names.items() if (directory / name).exists()}
    assert left <= {3, 4, *range(13, 20)}
    assert {3, 4, 19, 18, 17} <= left


def test_room_is_made_for_a_piece_larger_than_a_tenth_of_the_limit(cache: Make) -> None:
    mount = cache(limit=1_000_000)
    for number in range(4):
        keep(mount, Entry(f"{number}", len(DATA), etag="e"))
    wait_until(lambda: mount.usage().used >= 4 * len(DATA))
    wait_until(lambda: mount.has_room(len(DATA)))


def test_what_is_pinned_stays_and_its_next_version_takes_its_place(
    cache: Make, directory: Path
) -> None:
    mount = cache(limit=2_000_000)
    entries = [Entry(f"{number}", len(DATA), etag="e") for number in range(40)]
    keep(mount, entries[0])
    mount.pin("b", entries[0])
    for path in files_in(directory):
        os.utime(path, (0, 0))  # nothing is older
    for entry in entries[1:]:
        keep(mount, entry)
    wait_until(lambda: len(files_in(directory)) < 30)
    with closing(kept(mount, entries[0])) as made:
        assert made.here_until(0, len(DATA)) == len(DATA)
    new = entries[0]._replace(etag="new")
    wait_until(lambda: mount.has_room(len(DATA)))
    keep(mount, new)
    mount.pin("b", new)
    pinned = [stat.S_IMODE(path.stat().st_mode) for path in files_in(directory)]
    assert pinned.count(0o1600) == 1
    assert [mount.unpin_all(), mount.unpin_all()] == [1, 0]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_in(directory)} == {0o600}


def test_an_object_that_became_empty_keeps_nothing_pinned(cache: Make, directory: Path) -> None:
    mount = cache()
    keep(mount)
    mount.pin("b", ENTRY)
    mount.pin("b", ENTRY._replace(size=0, etag="empty"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_in(directory)} == {0o600}
    assert mount.unpin_all() == 0


def test_by_default_a_quarter_of_what_is_free_is_used(cache: Make, directory: Path) -> None:
    made = cache(limit=None)
    free = os.statvfs(directory)
    quarter = free.f_bavail * free.f_frsize // 4
    assert 0.9 < made.usage().limit / quarter < 1.1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with disks.small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def test_the_disk_is_never_filled(small_disk: Path) -> None:
    with closing(BlockCache(small_disk / "blocks", "aws", 100 * MIB)) as cache:
        for number in range(100):
            keep(cache, Entry(f"{number}", len(DATA), etag="e"))
            found = os.statvfs(small_disk)
            assert found.f_bavail * found.f_frsize >= 4 * MIB // 20


def test_a_disk_that_others_fill_is_said_once_and_reading_goes_on(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(BlockCache(small_disk / "blocks", "aws", 100 * MIB)) as cache:
        keep(cache)
        free = os.statvfs(small_disk)
        (small_disk / "others").write_bytes(bytes(free.f_bavail * free.f_frsize))
        for number in range(3):
            keep(cache, Entry(f"{number}", len(DATA), etag="e"))
        wait_until(lambda: not files_in(small_disk / "blocks"))  # all that is ours to give
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) <= 1  # none where the eviction was quicker
    assert all("reading continues without it" in text for text in said)


def test_a_directory_that_is_removed_is_made_again(
    cache: Make, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = cache()
    with closing(kept(first)) as made:
        made.write(0, memoryview(DATA)[:BLOCK])
        shutil.rmtree(directory)
        assert made.read(0, BLOCK, wait=True) == DATA[:BLOCK]  # as long as it is open
    assert read(first) is None
    keep(first)
    keep(first, ENTRY._replace(etag="e2"))
    assert read(first) == DATA
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{directory} was removed: the cache starts anew"]


def test_a_directory_that_cannot_be_made_again_is_said_once(
    cache: Make, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = cache()
    shutil.rmtree(directory)
    directory.write_text("in the way")
    for _ in range(3):
        keep(first)
    assert read(first) is None
    said = [record.getMessage() for record in caplog.records if "continues" in record.getMessage()]
    assert len(said) == 1


def test_a_link_or_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    with pytest.raises(ConfigError, match="others can enter it; chmod 700 "):
        BlockCache(tmp_path / "open", "aws")
    with pytest.raises(ConfigError, match="a symbolic link; name the directory itself"):
        BlockCache(tmp_path / "link", "aws")


def test_a_tag_tells_backups_to_leave_it_out(cache: Make, directory: Path) -> None:
    cache()
    tag = (directory / "CACHEDIR.TAG").read_bytes()
    assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def test_sizes_are_said_with_units_of_1024() -> None:
    said = ["0", "500", "64K", "1.5M", "20G", "20GiB", "1t"]
    assert [parse_size(text) for text in said] == [
        *(0, 500, 65_536, 1_572_864, 20 << 30, 20 << 30, 1 << 40)
    ]
    for wrong in ("", "G", "-1", "nan", "inf", "1e999", "10 apples"):
        with pytest.raises(ConfigError, match="not a size"):
            parse_size(wrong)


LARGE = random.Random(2).randbytes(3 * MIB + 5)


@pytest.mark.parametrize("way", ["direct", "shared memory", "unaligned"])
def test_large_pieces_are_kept_and_read_in_any_place_of_disk_and_memory(
    tmp_path: Path, way: str
) -> None:
    place = Path("/dev/shm") if way == "shared memory" else tmp_path
    entry = Entry("large", len(LARGE), etag="e")
    pages = mmap.mmap(-1, len(LARGE) + 1)
    start = 1 if way == "unaligned" else 0
    pages[start : start + len(LARGE)] = LARGE
    with tempfile.TemporaryDirectory(dir=place) as directory:
        with closing(BlockCache(Path(directory) / "blocks", "aws", 100 * MIB)) as cache:
            with memoryview(pages)[start : start + len(LARGE)] as data:
                kept(cache, entry).write(0, data)
            with closing(kept(cache, entry)) as made, memoryview(pages) as buffer:
                buffer[:] = bytes(len(buffer))
                assert made.fill(0, buffer[start : start + len(LARGE)]) == (len(LARGE),) * 2
                assert buffer[start : start + len(LARGE)] == LARGE
                assert made.read(MIB + 1, 2 * MIB, wait=True) == LARGE[MIB + 1 : 2 * MIB]
        for file in files_in(Path(directory) / "blocks"):
            assert file.read_bytes()[: len(LARGE)] == LARGE


def test_nothing_goes_for_what_is_larger_than_the_cache(cache: Make, directory: Path) -> None:
    mount = cache(limit=MIB)
    keep(mount)
    wait_until(lambda: mount.usage().used > 0)
    assert not mount.has_room(2 * MIB)
    assert not mount.make_room(2 * MIB, lambda: None)
    assert len(files_in(directory)) == 1
    assert read(mount) == DATA


def test_whoever_may_wait_gets_the_room_of_what_is_older(cache: Make, directory: Path) -> None:
    mount = cache(limit=10 * MIB)
    for number in range(9):
        keep(mount, Entry(f"{number}", MIB, etag="e"), bytes(MIB))
    for path in files_in(directory):
        os.utime(path, (0, 1_000_000))
    assert mount.make_room(5 * MIB, lambda: None)
    assert len(files_in(directory)) == 4
    mount.keep_what_comes(lambda: None)
    for path in files_in(directory):
        os.utime(path, (0, time.time() + 60))
    assert not mount.make_room(9 * MIB, lambda: None)
    assert len(files_in(directory)) == 4
    token = Cancellation()
    token.cancel()
    with pytest.raises(Interrupted):
        mount.make_room(9 * MIB, token.check)


def test_what_is_used_at_once_after_it_is_to_stay_stays(cache: Make, directory: Path) -> None:
    mount = cache(limit=MIB)
    entry = Entry("k", 600_000, etag="e")
    for _ in range(50):  # the clock of files stands still for milliseconds
        mount.keep_what_comes(lambda: None)
        keep(mount, entry, bytes(600_000))
        assert not mount.make_room(900_000, lambda: None)
        [path] = files_in(directory)
        os.utime(path, (0, 0))
        assert mount.make_room(900_000, lambda: None)


def test_what_was_used_just_before_and_is_found_again_stays(cache: Make, directory: Path) -> None:
    keep(cache(), Entry("k", 600_000, etag="e"), bytes(600_000))
    [path] = files_in(directory)
    os.utime(path, (0, time.time() - 30))
    mount = cache(limit=MIB)
    mount.keep_what_comes(lambda: None)
    with closing(kept(mount, Entry("k", 600_000, etag="e"))) as made:
        assert made.here_until(0, 600_000) == 600_000
    assert not mount.make_room(900_000, lambda: None)
    assert files_in(directory) == [path]
