"""How often a Redis that is far away is asked: what belongs together goes there together."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.far import Far, far

from mimicfs.backends import EPOCH
from mimicfs.backends.lease import Lease
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry, Scope
from mimicfs.following import Follower
from mimicfs.locks.rows import END, Lock
from mimicfs.locks.shared import SharedLocks
from mimicfs.mimicdb import Mirror
from mimicfs.posix import NEVER

_KEYS = [f"{directory}/{name}" for directory in "abcdefgh" for name in range(3)]


@pytest.fixture
def way(redis_port: int) -> Iterator[Far]:
    with far(redis_port) as way:
        yield way


@pytest.fixture
def store(way: Far) -> Iterator[RedisBackend]:
    name = os.urandom(8).hex()
    store = RedisBackend.from_url(f"redis://127.0.0.1:{way.port}/0", name)
    yield store
    store.close()


@pytest.fixture
def replica(store: RedisBackend, way: Far) -> Replica:
    store.apply("b", [Entry(key, 1) for key in _KEYS])
    store.mark("b", Scope("", True, 1))
    replica = Replica(store, SQLite(), Lease())
    replica.lease.renew()
    replica._ahead.close()
    way.trips()
    return replica


def test_a_directory_is_copied_in_one_round_trip(replica: Replica, way: Far) -> None:
    replica.bring("b", "")
    assert way.trips() == 2  # the first needs to know where the log is
    replica.bring("b", "a/")
    assert way.trips() == 1
    replica._copies.bring_all("b", [f"{each}/" for each in "bcdefgh"])
    assert way.trips() == 1
    assert [each.key for each in replica.children("b", "h/")] == ["h/0", "h/1", "h/2"]
    assert way.trips() == 0


def test_what_was_learned_costs_its_record_and_two_looks_at_the_log(
    replica: Replica, way: Far
) -> None:
    for directory in ("", "a/"):
        replica.bring("b", directory)
    replica.apply("b", [Entry("a/0", 3)])  # the server is given the scripts
    way.trips()
    replica.apply("b", [Entry("a/0", 2)])
    assert way.trips() == 3  # the record; the lines; the rows of these
    replica.mark("b", Scope("a/", False, 2))
    assert way.trips() == 1
    assert replica.get("b", "a/0") == Entry("a/0", 2)


def test_a_lock_costs_two_round_trips_and_its_end_one(store: RedisBackend, way: Far) -> None:
    store.set_note("", EPOCH, f"old {store.identity()}")  # a new one is settled after a while
    mimicdb = Mirror(store)
    mimicdb.join("/mnt")
    mimicdb.member._over.set()  # no beats
    assert mimicdb.member._thread is not None
    mimicdb.member._thread.join()
    store.add_bucket("b", 0)
    locks = SharedLocks(store, mimicdb.member)
    follower = Follower(mimicdb, "b")
    follower.begin()
    for name in ("b/first", "b/second"):
        owner, trips = locks.owner(1), []
        way.trips()
        locks.lock(name, Lock(owner, False, True, 0, END, 1), NEVER, wait=True)
        trips.append(way.trips())
        assert follower.reach("b", 5)
        trips.append(way.trips())
        locks.unlock(name, owner, flock=False)
        trips.append(way.trips())
    assert trips == [1, 1, 1]
    locks.close()
    mimicdb.close()


def test_a_server_that_has_forgotten_the_scripts_is_given_them_again(
    replica: Replica, store: RedisBackend
) -> None:
    replica.bring("b", "")
    store._client.script_flush()
    replica.bring("b", "a/")
    assert [each.key for each in replica.children("b", "a/")] == ["a/0", "a/1", "a/2"]
    store._client.script_flush()
    assert store.swap_note_told("/locks", "n", None, "x", tell=True)[:2] == (True, "x")
