"""How often a Redis that is far away is asked: what belongs together goes there together."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis.connection import AbstractConnection
from support.clients import plain
from support.far import Far, far

from mimicfs.backends import EPOCH
from mimicfs.backends.lease import Lease
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import FileOptions, S3Options, Target, VFSOptions
from mimicfs.entry import KEPT, LISTED, Entry, Scope
from mimicfs.errors import Unlisted
from mimicfs.files.journal import Journal
from mimicfs.following import Follower
from mimicfs.locks.rows import END, Lock
from mimicfs.locks.shared import SharedLocks
from mimicfs.mimicdb import Mirror
from mimicfs.posix import NEVER, ROOT_INO, Caller, Cancellation, DirEntry
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS

T = TypeVar("T")

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


def test_what_was_learned_costs_one_round_trip(replica: Replica, way: Far) -> None:
    for directory in ("", "a/"):
        replica.bring("b", directory)
    replica.apply("b", [Entry("a/0", 3)])  # the server is given the scripts
    way.trips()
    replica.apply("b", [Entry("a/0", 2)])
    assert way.trips() == 1
    replica.catch_up("b", replica.seq("b"))
    assert way.trips() == 1  # the number: the copy has all
    replica.mark("b", Scope("a/", False, 2))
    assert way.trips() == 1
    assert replica.get("b", "a/0") == Entry("a/0", 2)


def test_what_others_did_meanwhile_is_asked(
    replica: Replica, way: Far, store: RedisBackend
) -> None:
    for directory in ("", "a/"):
        replica.bring("b", directory)
    other = RedisBackend(store.client, store._prefix.split(":")[1])
    other.apply("b", [Entry("a/1", 5)])
    replica.apply("b", [Entry("a/0", 3)])
    assert (replica.get("b", "a/0"), replica.get("b", "a/1")) == (Entry("a/0", 3), Entry("a/1", 5))
    way.trips()
    replica.apply("b", [Entry("new/x", 1)])  # of a directory that is new, too
    assert way.trips() == 1
    assert replica.children("b", "")[-1].key == "new/"
    replica.apply("b", [Entry("new/y", 1)])  # of a directory that is not copied
    assert way.trips() == 1
    replica.apply("b", [Entry(f"new/{n}", 1) for n in range(200)])  # one line of the log
    assert way.trips() == 1
    assert replica.covered("b", "")
    assert way.trips() == 0


_DIRECTORIES = ("", "d/", "d/e/", "d/e/f/", "g/")


def _some_changes(chance: random.Random) -> tuple[list[Entry], list[str]]:
    keys = [directory + name for directory in _DIRECTORIES for name in ("x", "y", "e", "e/", "f/")]
    puts = [Entry(key, chance.randrange(9)) for key in chance.sample(keys, chance.randrange(3))]
    deletes = chance.sample(keys, chance.randrange(6))
    if chance.random() < 0.1:
        puts += [Entry(f"g/{n:03}", 1) for n in range(150)]
    if chance.random() < 0.1:
        deletes += [f"g/{n:03}" for n in range(150)]
    kinds = {each.key: chance.choice((0, LISTED, KEPT)) for each in puts if each.key[-1] == "/"}
    return [each._replace(kind=kinds.get(each.key, 0)) for each in puts], deletes


@pytest.mark.parametrize("kind", ["scripts", "transactions"])
@pytest.mark.parametrize("seed", range(4))
def test_the_copy_has_what_we_have_stored_and_deleted_without_asking_for_it(
    store: RedisBackend, way: Far, kind: str, seed: int
) -> None:
    chance = random.Random(seed)
    other = RedisBackend(store.client, store._prefix.split(":")[1])
    store.apply("b", [Entry("d/e/f/x", 1), Entry("g/x", 1)])
    store.mark("b", Scope("", True, 1))
    if kind == "transactions":
        store._steps = Transactions(store.client)
    replica = Replica(store, SQLite(), Lease())
    replica._ahead.close()
    for _ in range(50):
        replica.lease.renew()
        meets = chance.random() < 0.2
        if meets:
            other.apply("b", *_some_changes(chance))
        changes = _some_changes(chance)
        way.trips()
        replica.apply("b", *changes)
        if not meets and kind == "scripts":
            assert way.trips() == 1
        for directory in _DIRECTORIES:
            assert replica.children("b", directory) == store.children("b", directory)


def test_a_number_from_a_moment_ago_is_not_older_than_what_we_have_stored_ourselves(
    store: RedisBackend, way: Far
) -> None:
    for step in (
        lambda: store.apply("b", [Entry("a", 1)]),
        lambda: store.apply_told("b", [Entry("a", 2)], ["c"]),
    ):
        store.seq("b")
        step()
        assert store.seq_lately("b") == store.seq("b")
    way.trips()
    store.seq_lately("b")
    assert way.trips() == 0


class _Kernel:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: True


def test_a_directory_that_nobody_has_listed_costs_six_round_trips(
    store: RedisBackend, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `ls -l`: what is stored with its objects is asked, too. Behind the caller's back, what
    was found out is noted, and that the listing has ended."""
    sent, send = list[threading.Thread](), AbstractConnection.send_packed_command

    def counted(self: AbstractConnection, *packed: Any, **how: Any) -> None:
        sent.append(threading.current_thread())
        send(self, *packed, **how)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    client = plain(moto)
    client.create_bucket(Bucket="far")
    for key in [f"{directory}/{name}" for directory in ("a", "b", "c") for name in "xyz"]:
        client.put_object(Bucket="far", Key=key, Body=b"1")
    client.close()
    replica = Replica(store, SQLite(), Lease())
    replica._ahead.close()
    mimicdb = Mirror(replica)
    mimicdb.add_bucket("far", 1)
    with closing(S3(S3Options(endpoint_url=moto), mimicdb)) as s3:
        parts = (mimicdb, s3, Syncer(mimicdb, s3), Journal.open(tmp_path), _Kernel())
        fs = VFS(*parts, VFSOptions(Target("far")), FileOptions(tmp_path))
        follower = Follower(mimicdb, "far", lease=replica.lease)
        follower.begin()
        caller = Caller(0, 0, 0, Cancellation())

        def ask(call: Callable[[], T]) -> T:
            while True:
                try:
                    return call()
                except Unlisted as missing:
                    fs.learn(caller, missing)

        def shown(ino: int) -> list[DirEntry]:
            return ask(lambda: fs.readdir(caller, ino, 0, 4096, 152, True))

        trips = []
        for each in shown(ROOT_INO):
            sent.clear()
            ino = ask(partial(fs.lookup, caller, ROOT_INO, each.name)).ino
            found = [ask(partial(fs.lookup, caller, ino, it.name)).size for it in shown(ino)]
            assert found == [1, 1, 1]
            trips.append(sent.count(threading.current_thread()))
            replica.lease.renew()
        assert trips[1:] == [6, 6]
        fs.close()


def test_what_others_record_while_a_directory_is_listed_stands(
    store: RedisBackend, way: Far, moto: str
) -> None:
    client = plain(moto)
    client.create_bucket(Bucket="meanwhile")
    for key in ("d/gone", "d/stays"):
        client.put_object(Bucket="meanwhile", Key=key, Body=b"1")
    replica = Replica(store, SQLite(), Lease())
    replica._ahead.close()
    mimicdb = Mirror(replica)
    mimicdb.add_bucket("meanwhile", 1)
    store.apply("meanwhile", [Entry("d/gone", 1), Entry("d/old", 1)])
    store.mark("meanwhile", Scope("", False, 1))
    Follower(mimicdb, "meanwhile", lease=replica.lease).begin()
    for directory in ("", "d/"):
        replica.bring("meanwhile", directory)
    seen = replica.seen_lately("meanwhile", "d/")
    assert seen is not None
    assert [each.key for each in seen.rows] == ["d/gone", "d/old"]
    client.put_object(Bucket="meanwhile", Key="d/new", Body=b"1")
    client.delete_object(Bucket="meanwhile", Key="d/gone")
    client.close()
    store.apply("meanwhile", [Entry("d/new", 1)], ["d/gone"])
    with closing(S3(S3Options(endpoint_url=moto), mimicdb)) as s3:
        Syncer(mimicdb, s3).list_directory("meanwhile", "d/")
    assert [each.key for each in replica.children("meanwhile", "d/")] == ["d/new", "d/stays"]


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
