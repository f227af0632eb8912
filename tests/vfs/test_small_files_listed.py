"""Small files of a directory that is listed are fetched, within bounds (-o small_files)."""

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from support.mounts import wait_until

from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry, Scope
from mimicfs.errors import AccessDenied, S3Unavailable
from mimicfs.files.cache import BlockCache
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.nodes import NodeKind
from mimicfs.vfs.smallfiles import SmallFiles


class Objects:
    """An S3 of which each object is all one letter, the last one of its key. *gate* holds answers
    back until it is set."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(32)
        self.waiting = 0
        self.asked, self.at_once, self.most_at_once = [], 0, 0
        self.refusals = {}
        self.gate = threading.Event()
        self._lock = threading.Lock()

    def read_into(self, bucket, key, etag, start, buffer):
        with self._lock:
            self.asked.append(key)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.gate.wait(20)
        with self._lock:
            self.at_once -= 1
        if key in self.refusals:
            raise self.refusals[key]
        buffer[:] = key[-1:].encode() * len(buffer)


class Place:
    """A mirror, a cache, and what fetches from one to the other."""

    def __init__(self, directory, limit=1 << 30, most=1000):
        self.mimicdb = Mirror(Memory())
        self.mimicdb.add_bucket("b", 0)
        self.root = Inodes("b", "", {}).root
        self.s3 = Objects()
        self.cache = BlockCache(directory, "endpoint", limit)
        self.small = SmallFiles(self.mimicdb, self.s3, self.cache, most, 32)
        wait_until(lambda: self.cache.has_spare([1]))  # it has counted what is here

    def hold(self, *entries):
        self.mimicdb.record_all("b", entries)
        self.mimicdb.complete("b", Scope("", True, time.time_ns()))

    def figures(self, **expected):
        """Wait until the figures have *expected*."""
        told = self.small.figures
        wait_until(lambda: {name: told()[name] for name in expected} == expected)

    def close(self):
        self.s3.gate.set()
        self.small.close()
        self.cache.close()
        self.s3.pool.shutdown()


@pytest.fixture
def place(tmp_path):
    with contextlib.closing(Place(tmp_path)) as place:
        yield place


def entries(count, size=100):
    return [Entry(f"{number:04}", size, 1, f"e{number}") for number in range(count)]


def test_what_is_small_and_can_be_read_is_fetched_and_nothing_else(place):
    archived = Entry("archived", 10, 1, "e", "GLACIER")
    special = [Entry("large", 1001, 1, "e"), Entry("empty", 0, 1, "e"), archived,
               Entry("no-etag", 10, 1), Entry("d/below", 10, 1, "e")]  # fmt: skip
    pages = Entry("pages", 10, 1, "of-the-kernel")
    inodes = Inodes("b", "", {})
    place.root = inodes.root
    inodes.child(inodes.root, "pages", NodeKind.OBJECT, hold=True).pages_etag = "of-the-kernel"
    place.hold(*entries(3), *special, pages)
    place.s3.gate.set()
    place.small.listed(place.root)
    place.figures(fetched=3, bytes=300, directories=1, waiting=0)
    assert sorted(place.s3.asked) == ["0000", "0001", "0002"]
    kept = place.cache.object("b", entries(3)[2])
    assert bytes(kept.read(0, 100, wait=True)) == b"2" * 100


def test_eight_are_fetched_at_once_and_none_while_others_wait(place):
    place.hold(*entries(50))
    place.s3.waiting = 1
    place.small.listed(place.root)
    place.figures(directories=1)
    assert place.s3.asked == []
    place.s3.waiting = 0
    wait_until(lambda: place.s3.at_once == 8)
    place.s3.gate.set()
    place.figures(fetched=50)
    assert place.s3.most_at_once == 8


def test_one_that_is_refused_keeps_no_other_back_and_an_s3_that_is_away_all(place):
    place.hold(*entries(20))
    place.s3.refusals["0003"] = AccessDenied("s3://b/0003")
    place.s3.gate.set()
    place.small.listed(place.root)
    place.figures(fetched=19, refused=1)
    assert len(place.s3.asked) == 20  # each once


def test_a_reader_waits_for_what_is_on_its_way(place):
    place.hold(*entries(1))
    place.small.listed(place.root)
    wait_until(lambda: place.s3.at_once == 1)
    kept = place.cache.object("b", entries(1)[0])
    assert kept.read(0, 3, wait=True) is None
    coming = kept.coming()
    assert not coming.done()
    place.s3.gate.set()
    coming.result(10)
    assert kept.coming() is None and bytes(kept.read(0, 3, wait=True)) == b"000"


def test_what_somebody_reads_now_is_not_fetched_beside(place):
    place.hold(*entries(3))
    place.s3.gate.set()
    read = Future()
    place.cache.object("b", entries(3)[1]).is_read(read)
    place.small.listed(place.root)
    place.figures(fetched=2, already=1)
    read.set_result(None)
    assert place.cache.object("b", entries(3)[1]).expect() is not None
    assert sorted(place.s3.asked) == ["0000", "0002"]


def test_nothing_is_evicted_for_it(tmp_path):
    with contextlib.closing(Place(tmp_path, limit=2_000_000, most=20_000)) as place:
        place.hold(*entries(200, 20_000))
        place.s3.gate.set()
        place.small.listed(place.root)
        place.figures(no_room=1)
        wait_until(lambda: place.small.figures()["fetched"] == len(place.s3.asked))
        assert 30 < len(place.s3.asked) < 95
        fetched = [entry for entry in entries(200, 20_000) if entry.key in place.s3.asked]
        kept = [place.cache.object("b", entry) for entry in fetched]
        assert all(each.here_until(0, 20_000) == 20_000 for each in kept)


def test_what_is_on_its_way_has_room_before_more_is_asked_for(tmp_path):
    with contextlib.closing(Place(tmp_path, limit=220_000)) as place:
        place.hold(*entries(20, 1000))
        place.small.listed(place.root)
        place.figures(no_room=1, waiting=0)
        wait_until(lambda: place.s3.at_once == 3)  # 64 KiB and their bytes each


def keep_a_block(place, entry):
    kept = place.cache.object("b", entry)
    kept.write(0, memoryview(bytes(1 << 16)))
    kept.close()
    assert not place.cache._in_use


@pytest.mark.parametrize("why", ["already", "no_room", "over", "no_pool"])
def test_what_is_here_in_part_and_not_fetched_can_be_evicted(tmp_path, why):
    with contextlib.closing(Place(tmp_path, most=1 << 20)) as place:
        [entry] = entries(1, 200_000)
        keep_a_block(place, entry)
        place.hold(entry)
        if why == "already":
            place.cache.object("b", entry).is_read(Future())
        elif why == "no_room":
            place.cache.has_spare = lambda sizes: False
        elif why == "over":
            place.s3.waiting = 1
        else:
            place.s3.pool.shutdown()
        place.small.listed(place.root)
        place.figures(directories=1, waiting=0)
        if why in ("already", "no_room"):
            place.figures(**{why: 1})
        elif why == "over":
            wait_until(lambda: place.cache._in_use)  # and there it waits
        place.small.close()
        assert not place.cache._in_use


def test_a_directory_listed_again_at_once_is_not_looked_through_again_and_many_are_bounded(place):
    place.hold(*entries(1))
    place.s3.gate.set()
    place.small.listed(place.root)
    place.figures(fetched=1)
    place.small.listed(place.root)
    place.figures(waiting=0)
    assert place.small.figures()["already"] == 0


def test_the_end_waits_for_no_request(place):
    place.hold(*entries(50))
    place.small.listed(place.root)
    wait_until(lambda: place.s3.at_once == 8)
    place.s3.refusals = {each.key: S3Unavailable("away") for each in entries(50)}
    begun = time.monotonic()
    place.small.close()
    assert time.monotonic() - begun < 5 and place.s3.at_once == 8
