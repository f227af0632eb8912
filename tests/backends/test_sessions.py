"""Sessions of a store, and its epoch: over a real redis-server, a SQLite file and memory."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import redis
from support import servers

from mimicfs.backends import EPOCH, Backend
from mimicfs.backends.open import open_store
from mimicfs.backends.sessions import StoreSession, beat, epoch, leave, sessions
from mimicfs.entry import NS, Entry, Scope, StoreSaid
from mimicfs.errors import LogTrimmed, Unlisted
from mimicfs.mimicdb import Mirror

_numbers = itertools.count()
_ONE = StoreSession("one", "host", 7, "1.0", "/mnt", 5, 0, {"lag_ms": 3})


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Backend]:
    urls = {"memory": "memory:", "sqlite": f"sqlite:{tmp_path}/s.db", "redis": redis_url}
    found = open_store(urls[request.param], f"sessions-{os.getpid()}-{next(_numbers)}")
    yield found
    found.close()


def test_a_session_is_alive_until_its_time_of_the_stores_clock_is_over(store: Backend) -> None:
    beat(store, _ONE, 60_000)
    beat(store, _ONE._replace(id="two"), -1)
    shown = [(each.id, each.host, each.said, each.alive) for each in sessions(store)]
    assert shown == [("one", "host", {"lag_ms": 3}, True), ("two", "host", {"lag_ms": 3}, False)]
    leave(store, "one")
    assert [each.id for each in sessions(store)] == ["two"]


def test_a_session_that_has_been_dead_for_hours_is_forgotten(store: Backend) -> None:
    beat(store, _ONE, -3_700_000)
    assert sessions(store) == []
    assert [name for name in store.notes("") if name.startswith("session/")] == []


def test_of_a_session_of_a_later_version_is_read_what_this_one_knows(store: Backend) -> None:
    beat(store, _ONE, 60_000)
    said = json.loads(store.note("", "session/one") or "")
    store.set_note("", "session/one", json.dumps([*said, {"more": 1}]))
    assert [(each.id, each.alive) for each in sessions(store)] == [("one", True)]


@pytest.mark.parametrize(
    "text", ["", "{", "7", "[]", '["x"]', '{"id": 1}', "[" + "null," * 8 + "[]]"]
)
def test_a_note_that_is_of_no_session_stands_in_nobodys_way(
    store: Backend, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    beat(store, _ONE, 60_000)
    store.set_note("", "session/x", text)
    assert [each.id for each in sessions(store)] == ["one"]
    assert "the note session/x of the store is not of a session" in caplog.text
    assert store.note("", "session/x") is None


def test_an_epoch_stays_and_what_is_complete_with_it(store: Backend) -> None:
    store.mark("b", Scope("", True, 1))
    first = epoch(store)
    assert first and epoch(store) == first
    assert store.covered("b", "")


def _replaced(store: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server took the place of the one of *store*."""
    said = partial(StoreSaid, "another")
    monkeypatch.setattr(store, "said", lambda: said(store.note("", EPOCH)))


def test_another_server_is_another_epoch_and_nothing_is_complete(
    store: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mimicdb = Mirror(store)
    mimicdb.record("b", Entry("d/ghost", 1))
    mimicdb.complete("b", Scope("", True, 1))
    first = epoch(store)
    mimicdb.join()
    assert mimicdb.lookup("b", "d/", "ghost")[0] == Entry("d/ghost", 1)
    told: list[str] = []
    mimicdb.subscribe(lambda bucket, difference: told.append(bucket))
    _replaced(store, monkeypatch)
    mimicdb.member._look()
    assert mimicdb.member.epoch != first and told == ["", "b"]
    with pytest.raises(Unlisted):  # what is found may be a ghost, until it is listed
        mimicdb.lookup("b", "d/", "ghost")
    another = Mirror(store)
    another.join()
    with pytest.raises(Unlisted):
        another.lookup("b", "d/", "ghost")
    another.member.leave()
    mimicdb.complete("b", Scope("", True, 2))  # was begun before
    with pytest.raises(Unlisted):
        mimicdb.lookup("b", "d/", "ghost")
    mimicdb.complete("b", Scope("", True, 1 << 62))
    assert mimicdb.lookup("b", "d/", "ghost")[0] == Entry("d/ghost", 1)
    mimicdb.member.leave()


@pytest.mark.usefixtures("caplog")  # it is said that the store may have lost changes
def test_what_is_listed_after_a_loss_is_complete_though_the_clock_is_set_back(
    store: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    mimicdb = Mirror(store)
    mimicdb.record("b", Entry("d/f", 1))
    mimicdb.join()
    _replaced(store, monkeypatch)
    mimicdb.member._look()
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - 5 * 3600 * NS)
    mimicdb.complete("b", Scope("", True, time.time_ns()))
    assert mimicdb.lookup("b", "d/", "f")[0] == Entry("d/f", 1)
    mimicdb.member.leave()


def test_an_epoch_that_another_has_begun_meanwhile_stays(
    store: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch(store)
    _replaced(store, monkeypatch)
    now_ms, others = store.now_ms, list[str]()

    def stopped() -> int:
        """While this mount is stopped, another one asks."""
        began = now_ms()
        monkeypatch.setattr(store, "now_ms", now_ms)
        others.append(epoch(store))
        return began

    monkeypatch.setattr(store, "now_ms", stopped)
    assert [epoch(store), epoch(store)] == others * 2


@pytest.fixture
def servers_of_redis(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(name: str) -> str:
            directory = tmp_path / name
            directory.mkdir()
            return f"redis://127.0.0.1:{stack.enter_context(servers.redis(directory))}"

        yield start


@pytest.mark.slow
def test_numbers_of_before_a_flush_are_told_from_those_of_after_it(
    servers_of_redis: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = servers_of_redis("one")
    mimicdb = Mirror(open_store(url))
    for number in range(5):
        mimicdb.record("b", Entry(f"k{number}"))
    since = mimicdb.seq("b")
    mimicdb.member._look()
    redis.Redis.from_url(url).flushall()
    mimicdb.member._look()
    for number in range(9):  # as many, and more
        mimicdb.record("b", Entry(f"k{number}"))
    with pytest.raises(LogTrimmed):
        mimicdb.backend.changes("b", since)
    with pytest.raises(LogTrimmed):
        mimicdb.record("b", Entry("old"), since)
    mimicdb.close()


def test_what_was_listed_just_before_a_flush_does_not_count_as_listed(redis_url: str) -> None:
    store = open_store(redis_url, f"sessions-{os.getpid()}-{next(_numbers)}")
    store.apply("b", [Entry("d/f", 1, NS, "e")])
    with redis.Redis.from_url(redis_url) as server:
        server.flushall()
    store.mark("b", Scope("d/", False, 1))
    assert not store.covered("b", "d/")
    store.mark("b", Scope("d/", False, 1))  # listed anew
    assert store.covered("b", "d/")
    store.close()


def test_a_change_by_another_thread_while_a_listing_is_marked_is_no_loss(redis_url: str) -> None:
    store = open_store(redis_url, f"sessions-{os.getpid()}-{next(_numbers)}")
    store.apply("b", [Entry("d/f", 1, NS, "e")])
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            store.apply("b", [Entry("d/f", 1, NS, "e")])

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        for _ in range(300):
            store.mark("b", Scope("d/", False, 1))
        over.set()
        changing.result(20)
    assert store.seq("b") < 1_000_000
    store.close()


def test_numbers_of_another_namespace_are_no_sign_of_a_loss(redis_url: str) -> None:
    name = f"sessions-{os.getpid()}-{next(_numbers)}"
    with closing(open_store(redis_url, f"{name}-b")) as store:
        store.apply("b", [Entry("d/f", 1, NS, "e")])
    with closing(open_store(redis_url, name)) as store:
        for _ in range(3):
            store.apply("b", [Entry("d/f", 1, NS, "e")])
        store.enter(f"{name}-b")
        assert store.seq_lately("b") == 1
        store.mark("b", Scope("d/", False, 1))
        assert store.scope("b", "d/") == Scope("d/", False, 1)


@pytest.mark.slow
def test_a_replica_that_lagged_and_was_promoted_is_another_epoch(
    servers_of_redis: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """As many changes follow as were lost: the numbers alone would look as before."""
    primary, lagging = servers_of_redis("primary"), servers_of_redis("lagging")
    first = open_store(primary)
    first.apply("b", [Entry("kept", 1)])
    first.mark("b", Scope("", True, 1))
    client = redis.Redis.from_url(lagging)
    host, _, port = primary.rpartition("//")[2].partition(":")
    client.replicaof(host, int(port))
    while client.info("replication").get("master_link_status") != "up":
        pass
    client.replicaof("NO", "ONE")
    first.apply("b", [Entry("lost", 1)])
    since = first.seq("b")
    before = epoch(first)
    promoted = open_store(lagging)
    assert epoch(promoted) != before and not promoted.covered("b", "")
    promoted.apply("b", [Entry("another", 1)])
    with pytest.raises(LogTrimmed):
        promoted.apply("b", [Entry("kept", 2)], since=since)
    first.close()
    promoted.close()


@pytest.mark.slow
def test_eviction_that_is_switched_on_later_is_noticed(
    servers_of_redis: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = servers_of_redis("one")
    mimicdb = Mirror(open_store(url))
    mimicdb.complete("b", Scope("", True, 1))
    assert mimicdb.lookup("b", "", "absent") == (None, None)
    client = redis.Redis.from_url(url)
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    mimicdb.member._look()
    with pytest.raises(Unlisted):
        mimicdb.lookup("b", "", "absent")
    mimicdb.close()


def _evicting(url: str, policy: str, maxmemory: str) -> redis.Redis:
    client = redis.Redis.from_url(url)
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", maxmemory)
    return client


@pytest.mark.slow
def test_when_nothing_is_evicted_any_more_directories_count_as_listed_again(
    servers_of_redis: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = servers_of_redis("one")
    mimicdb = Mirror(open_store(url))
    mimicdb.complete("b", Scope("", True, time.time_ns()))
    _evicting(url, "allkeys-lru", "100mb")
    mimicdb.member._look()
    mimicdb.complete("b", Scope("", True, time.time_ns()))  # says nothing, also not later
    _evicting(url, "noeviction", "100mb")
    for _ in range(2):
        mimicdb.member._look()
        with pytest.raises(Unlisted):
            mimicdb.lookup("b", "", "absent")
    mimicdb.complete("b", Scope("", True, time.time_ns()))
    assert mimicdb.lookup("b", "", "absent") == (None, None)
    mimicdb.close()


@pytest.mark.slow
def test_what_was_evicted_between_two_looks_is_another_epoch(
    servers_of_redis: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = servers_of_redis("one")
    mimicdb = Mirror(open_store(url))
    mimicdb.complete("b", Scope("", True, time.time_ns()))
    mimicdb.member._look()
    client = redis.Redis.from_url(url)
    for number in range(300):
        client.set(f"other:{number}", "x" * 10_000)
    used = client.info("memory")["used_memory"]
    _evicting(url, "allkeys-random", str(used - 1_000_000)).get("wakes it")
    while not client.info("stats")["evicted_keys"]:
        client.set("other:0", "y")
    _evicting(url, "noeviction", "0")
    mimicdb.member._look()
    with pytest.raises(Unlisted):
        mimicdb.lookup("b", "", "absent")
    mimicdb.close()


@pytest.mark.slow
def test_a_policy_that_evicts_what_expires_evicts_nothing_of_ours(
    servers_of_redis: Callable[[str], str],
) -> None:
    url = servers_of_redis("one")
    mimicdb = Mirror(open_store(url))
    mimicdb.complete("b", Scope("", True, time.time_ns()))
    _evicting(url, "volatile-lru", "100mb")
    mimicdb.member._look()
    assert mimicdb.lookup("b", "", "absent") == (None, None)
    mimicdb.close()


@pytest.mark.slow
def test_a_bucket_that_was_evicted_from_the_list_counts_as_listed_no_more(
    servers_of_redis: Callable[[str], str],
) -> None:
    url = servers_of_redis("one")
    store = open_store(url)
    store.mark("b", Scope("", True, 1))
    assert redis.Redis.from_url(url).delete("mimicfs:{/}:d:") == 1
    store.begin_epoch()
    store.add_bucket("b", 1)
    assert not store.covered("b", "")
    store.close()


@pytest.mark.slow
def test_a_store_without_an_epoch_may_have_lost_more(
    servers_of_redis: Callable[[str], str],
) -> None:
    url = servers_of_redis("one")
    store = open_store(url)
    store.mark("b", Scope("", True, 1))
    assert redis.Redis.from_url(url).delete("mimicfs:{/}:notes") == 1
    another = open_store(url)
    assert not another.covered("b", "")
    store.close()
    another.close()
