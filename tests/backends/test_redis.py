"""Redis in its forms, and what goes wrong with it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support import servers
from support.mounts import wait_until

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend, layout, scripts, transactions, watching
from mimicfs.backends.redis.layout import RedisCommand
from mimicfs.backends.redis.scripts import Scripts
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.entry import BucketEntry, Entry, Scope
from mimicfs.errors import StoreCorrupt, StoreUnavailable
from mimicfs.testing import BackendPromises

pytestmark = pytest.mark.slow  # starts Redis servers and clusters

_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with servers.redis_cluster(tmp_path_factory.mktemp("cluster")) as port:
        yield port


class TestCluster(BackendPromises):
    """A cluster of three nodes keeps the promises too."""

    @pytest.fixture(autouse=True)
    def place(self, cluster: int) -> None:
        self.port = cluster

    def open(self) -> Backend:
        return open_store(f"redis+cluster://127.0.0.1:{self.port}", f"c{next(_numbers)}")

    def test_buckets_are_spread_over_the_nodes(self) -> None:
        with self.opened() as backend:
            for n in range(30):
                backend.apply(f"bucket-{n}", [Entry("d/a", 1)])
            assert len(backend.buckets()) == 30
            assert isinstance(backend, RedisBackend)
            nodes = backend._client.get_primaries()
            assert all(backend._client.dbsize(target_nodes=node) for node in nodes)

    @pytest.mark.parametrize("moved", [0, 2, 100])
    def test_while_keys_move_to_another_node_nothing_is_missing_or_half_changed(
        self, moved: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scripts, "_MOVES_S", 0.0)
        with self.opened() as backend:
            assert isinstance(backend, RedisBackend)
            backend.apply("b", [Entry("d/a", 1), Entry("d/b", 1)])
            backend.mark("b", Scope("", True, 1, 1))
            with moving(backend, "b") as move:
                move(moved)
                with pytest.raises(StoreUnavailable, match="try again when they have moved"):
                    backend.apply("b", [Entry("d/c", 1)], ["d/a"])
                with pytest.raises(StoreUnavailable):
                    backend.begin("b", ["d/a"], "token", 1000)
                with pytest.raises(StoreUnavailable):
                    backend.children("b", "d/")
            assert backend.seq("b") == 2
            assert backend.scan("b", "") == _AB
            backend.apply("b", [Entry("d/c", 1)], ["d/a"])
            assert backend.children("b", "d/") == [Entry("d/b", 1), Entry("d/c", 1)]


_AB = [Entry("d/a", 1), Entry("d/b", 1)]


@contextmanager
def moving(store: RedisBackend, bucket: str) -> Iterator[Callable[[int], None]]:
    """Within, the keys of *bucket* move to another node of its cluster: so many as it is told, and
    the rest at the end."""
    client = store._client
    slot = client.keyslot(store._tag(bucket))
    here = client.get_node_from_key(store._tag(bucket))
    there = next(node for node in client.get_primaries() if node != here)
    # (Before redis-py 8, a node is no key of a dict.)
    nodes = {node.name: redis.Redis(host=node.host, port=node.port) for node in (here, there)}
    ids = {name: it.execute_command("CLUSTER MYID").decode() for name, it in nodes.items()}

    def move(count: int) -> None:
        keys = nodes[here.name].execute_command("CLUSTER GETKEYSINSLOT", slot, count)
        for key in keys:
            place = (there.host, there.port, "", 0, 5000, "KEYS", key)
            assert nodes[here.name].execute_command("MIGRATE", *place) == b"OK"

    nodes[there.name].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[here.name])
    nodes[here.name].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[there.name])
    try:
        yield move
    finally:
        move(1000)
        for node in (there, here):
            nodes[node.name].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[there.name])
        for connection in nodes.values():
            connection.close()


def test_a_change_waits_until_keys_have_moved(cluster: int) -> None:
    with closing(open_store(f"redis+cluster://127.0.0.1:{cluster}", "moves")) as store:
        assert isinstance(store, RedisBackend)
        store.apply("b", [Entry("d/a", 1)])
        with ThreadPoolExecutor() as pool:
            with moving(store, "b") as move:
                move(2)
                change = pool.submit(store.apply, "b", [Entry("d/b", 1)])
            assert change.result() == set()
        assert store.children("b", "d/") == _AB


RULES = ("on", ">hunter2", "~mimicfs:*", "+@all", "-@scripting")


@pytest.fixture(scope="module")
def unscripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a Redis for a user who may not run scripts."""
    with servers.redis(tmp_path_factory.mktemp("unscripted")) as port:
        with redis.Redis(port=port) as plain:
            plain.execute_command("ACL SETUSER", "mirror", *RULES)
        yield f"redis://mirror:hunter2@127.0.0.1:{port}"


class TestWithoutScripts(BackendPromises):
    """Where scripts are denied, transactions keep the promises."""

    @pytest.fixture(autouse=True)
    def place(self, unscripted: str) -> None:
        self.url = unscripted

    def open(self) -> Backend:
        store = RedisBackend.from_url(self.url, f"w{next(_numbers)}")
        assert isinstance(store._steps, Transactions)
        return store


class TestClusterWithoutScripts(TestCluster):
    """And so they do in a cluster."""

    def open(self) -> Backend:
        store = super().open()
        assert isinstance(store, RedisBackend)
        store._steps = Transactions(store._client)
        return store


@pytest.fixture
def two_of_one(unscripted: str) -> Iterator[tuple[RedisBackend, RedisBackend]]:
    """Two writers of one mirror: the second may run scripts, the first may not."""
    namespace = f"w{next(_numbers)}"
    first = RedisBackend.from_url(unscripted, namespace)
    second = RedisBackend.from_url(unscripted.replace("mirror:hunter2@", ""), namespace)
    assert isinstance(first._steps, Transactions)
    assert isinstance(second._steps, Scripts)
    yield first, second
    first.close()
    second.close()


def test_writers_with_and_without_scripts_lose_nothing(
    two_of_one: tuple[RedisBackend, RedisBackend],
) -> None:
    def write(store: RedisBackend, part: int) -> None:
        for n in range(0, 300, 3):
            names = [f"d/{n + k:03}-{part}" for k in range(3)]
            store.apply("b", [Entry(name, 1) for name in names])
            store.apply("b", [], names[:1])

    threads = [
        threading.Thread(target=write, args=(two_of_one[part % 2], part)) for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [f"d/{n:03}-{part}" for n in range(300) if n % 3 for part in range(4)]
    for store in two_of_one:
        assert [entry.key for entry in store.children("b", "d/")] == expected
        assert store.bucket("b") == BucketEntry("b", 0, 800, 800, 1600)
        assert [change.seq for change in store.changes("b", 0)] == list(range(1, 1601))


def test_what_the_dead_have_begun_ends_however_much_others_change(
    two_of_one: tuple[RedisBackend, RedisBackend],
) -> None:
    names = map(str, itertools.count())
    for store, other in (two_of_one, two_of_one[::-1]):
        store.begin("b", ["x"], "dead:1", 60_000)

        def lives(_: str, other: RedisBackend = other) -> bool:
            other.apply("b", [Entry(next(names), 1)])
            return False

        store.reap("b", lives)
        (left,) = store.unsettled("b")
        assert (left.key, left.pending) == ("x", False)


def test_what_a_transaction_is_about_may_change_while_it_is_prepared(
    two_of_one: tuple[RedisBackend, RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_of_one
    first.apply("b", [Entry("d/a", 5)])
    since = first.seq("b")
    prepare, prepared = transactions._apply, itertools.count()

    def late(*args: Any) -> Any:
        plan = prepare(*args)
        if next(prepared) == 0:
            second.apply("b", [Entry("d/b", 7)], ["d/a"])
        return plan

    monkeypatch.setattr(transactions, "_apply", late)
    assert first.apply("b", [Entry("d/b", 1), Entry("d/c", 2)], ["d/a"], since) == {"d/a", "d/b"}
    assert next(prepared) == 2
    assert first.scan("b") == [Entry("d/b", 7), Entry("d/c", 2)]


def test_a_transaction_whose_connection_breaks_or_is_refused_is_begun_anew(
    two_of_one: tuple[RedisBackend, RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_of_one
    first.apply("b", [Entry("a", 1)])
    prepare, prepared = transactions._apply, itertools.count()

    def late(*args: Any) -> Any:
        plan = prepare(*args)
        if next(prepared) == 0:  # between the look and the change
            second.client.client_kill_filter(_type="normal", skipme=True)
        return plan

    monkeypatch.setattr(transactions, "_apply", late)
    assert first.apply("b", [Entry("b", 1)]) == set()
    assert next(prepared) == 2
    second.client.client_kill_filter(_type="normal", skipme=True)  # while it is idle
    second.client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="out of memory"):
        first.apply("b", [Entry("c", 1)])
    second.client.config_set("maxmemory", 0)
    assert first.apply("b", [Entry("d", 1)]) == set()
    assert first.scan("b") == [Entry("a", 1), Entry("b", 1), Entry("d", 1)]
    assert [change.first for change in first.changes("b", 0)] == ["a", "b", "d"]


def test_a_connection_that_watches_keys_is_not_made_anew_by_a_check_of_its_health(
    two_of_one: tuple[RedisBackend, RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_of_one
    first.apply("b", [Entry("a", 1)])
    prepare, prepared = transactions._apply, itertools.count()

    def late(watch: Any, *args: Any) -> Any:
        plan = prepare(watch, *args)
        if next(prepared) == 0:
            second.apply("b", [Entry("b", 1)])
            second.client.client_kill_filter(_type="normal", skipme=True)
            watch._connection.health_check_interval = 1
            watch._connection.next_health_check = 0.0
        return plan

    monkeypatch.setattr(transactions, "_apply", late)
    assert first.apply("b", [Entry("c", 1)]) == set()
    assert [change.first for change in first.changes("b", 0)] == ["a", "b", "c"]


def test_nobody_waits_for_a_redis_that_answers_looks_and_no_changes(
    two_of_one: tuple[RedisBackend, RedisBackend],
) -> None:
    first, second = two_of_one
    first.apply("b", [Entry("a", 1)])
    pool = first.client.connection_pool
    pool.connection_kwargs["socket_timeout"] = 0.1
    pool.disconnect()
    pool.reset()
    second.client.client_pause(20_000, all=False)
    try:
        with pytest.raises(StoreUnavailable, match="no answer"):
            first.apply("b", [Entry("b", 1)])
    finally:
        second.client.client_unpause()
    assert first.scan("b") == [Entry("a", 1)]


def test_a_log_that_grows_while_a_transaction_is_prepared_was_not_cut(
    two_of_one: tuple[RedisBackend, RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_of_one
    first.apply("b", [Entry("a", 1)])
    since = first.seq("b")
    second.apply("b", [Entry("b", 1)])
    ask, looks = watching.ConnectionWatch.ask, itertools.count()

    def late(watch: watching.ConnectionWatch, *commands: RedisCommand) -> list[Any]:
        if next(looks):
            return ask(watch, *commands)
        before = ask(watch, *commands[:2])  # its number is read before, and others write meanwhile
        second.apply("b", [Entry("c", 1)])
        return [*before, *ask(watch, *commands[2:])]

    monkeypatch.setattr(watching.ConnectionWatch, "ask", late)
    assert first.apply("b", [Entry("a", 2), Entry("c", 2)], (), since) == {"c"}
    assert first.scan("b") == [Entry("a", 2), Entry("b", 1), Entry("c", 1)]


def test_that_a_directory_counts_no_more_as_listed_is_in_the_log_for_those_who_copied_it(
    redis_url: str,
) -> None:
    store = open_store(redis_url, f"unmark-{next(_numbers)}")
    store.apply("b", [Entry("d/a", 1)])
    store.mark("b", Scope("d/", True, 1))
    store.mark("b", Scope("", True, 2))  # replaces the one inside: what counts as listed still does
    assert store.seq("b") == 1
    store.unmark("b", "")
    store.unmark("b", "")  # nothing is there any more
    (line,) = store.changes("b", 1)
    assert (line.seq, line.first, line.last > "zzz") == (2, "", True)
    store.mark("b", Scope("", True, 3))
    store.unmark("b", "d/")  # of which the one above says that it is listed
    (line,) = store.changes("b", 2)
    assert (line.seq, line.first, line.last > "d/zzz") == (3, "d/", True)
    store.mark("", Scope("", False, 1))
    store.unmark("", "")
    assert [(line.first, line.last > "zzz") for line in store.changes("", 1)] == [("", True)]
    store.close()


def test_a_directory_reads_as_one_state_while_its_chunks_are_divided(
    two_of_one: tuple[RedisBackend, RedisBackend],
) -> None:
    names = [f"d/{n:04}" for n in range(0, 2000, 2)]
    reader, writer = two_of_one
    writer.apply("b", [Entry(name, 1) for name in names])
    done = threading.Event()

    def divide() -> None:
        for n in range(1, 2000, 100):
            writer.apply("b", [Entry(f"d/{n + k:04}", 1) for k in range(0, 100, 2)])
        done.set()

    thread = threading.Thread(target=divide)
    thread.start()
    whole = range(1000, 2001, 50)
    while not done.is_set():
        assert len(reader.children("b", "d/", limit=10_000)) in whole
        assert reader.lookup("b", "d/", "0998") == (Entry("d/0998", 1), None)
    thread.join()


@pytest.mark.parametrize("url", ["redis_url", "unscripted"])
def test_directories_of_any_size_are_changed_and_read(
    url: str, request: pytest.FixtureRequest
) -> None:
    """Against a dict: names that come in order, against it and at random, and go again."""
    chance = random.Random(7)
    url = request.getfixturevalue(url)
    with closing(RedisBackend.from_url(url, f"w{next(_numbers)}")) as store:
        names = [f"d/{n:04}" for n in range(600)]
        known: set[str] = set()
        for order in (names[:200], names[600:400:-1], chance.sample(names, 400)):
            for at in range(0, len(order), 50):
                store.apply("b", [Entry(name, 1) for name in order[at : at + 50]])
                known.update(order[at : at + 50])
        assert [entry.key for entry in store.scan("b")] == sorted(known)
        for _ in range(20):
            gone, new = chance.sample(names, 40), chance.sample(names, 20)
            store.apply("b", [Entry(name, 1) for name in new], gone)
            known = (known - set(gone)) | set(new)
            after, limit = chance.choice(names), chance.choice([1, 7, 130, 1000])
            expected = [name for name in sorted(known) if name > after][:limit]
            assert [e.key for e in store.children("b", "d/", after, limit)] == expected
            assert [name for name in new if store.get("b", name) is None] == []
        store.apply("b", [], names)
        assert not store.has_below("b", "")
        left = {key.partition(b"}")[2] for key in store._client.keys(f"{store._tag('b')}:*")}
        assert left == {b":meta", b":log"}


def test_a_store_of_the_first_schema_is_taken_over(redis_url: str) -> None:
    namespace = f"w{next(_numbers)}"
    store = RedisBackend.from_url(redis_url, namespace)
    store.apply("b", [Entry("d/x", 1)])
    record = layout.packed(Entry("", 1))
    large = {f"{n:04}": record for n in range(2500)}
    store._client.hset(f"{store._tag('b')}:d:d/", mapping=large)
    store._client.zadd(f"{store._tag('b')}:z:d/", dict.fromkeys(large, 0))
    store._client.set(f"mimicfs:{namespace}:version", 1)
    store.close()
    store = RedisBackend.from_url(redis_url, namespace)
    assert not store._client.exists(f"{store._tag('b')}:z:d/")
    store.apply("b", [Entry("d/1000a", 1)], ["d/x"])
    expected = sorted([f"d/{name}" for name in large] + ["d/1000a"])
    assert [entry.key for entry in store.children("b", "d/", limit=10_000)] == expected
    store.close()


def test_a_bucket_whose_adder_was_killed_is_listed_when_it_is_added_again(redis_url: str) -> None:
    store = RedisBackend.from_url(redis_url, f"w{next(_numbers)}")
    store._client.hset(f"{store._tag('b')}:meta", "known", 1)  # as far as he came
    assert store.buckets() == []
    store.add_bucket("b", 5)
    store.add_bucket("b", 5)
    assert store.buckets() == [BucketEntry("b", 5)]
    assert store.seq("") == 1
    store.close()


def test_a_sentinel_says_where_the_primary_is(tmp_path: Path) -> None:
    with servers.redis(tmp_path) as primary:
        port = servers.free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor photos 127.0.0.1 {primary} 1\n")
        command = [servers.command("redis-server"), str(config), "--sentinel", "--port", str(port)]
        with servers.running(command, port, tmp_path / "sentinel.log"):
            store = open_store(f"redis+sentinel://127.0.0.1:{port}/photos")
            store.apply("b", [Entry("a", 1)])
            assert store.get("b", "a") == Entry("a", 1)
            store.close()
            with pytest.raises(StoreUnavailable, match="'other': no sentinel knows its primary"):
                open_store(f"redis+sentinel://127.0.0.1:{port}/other")
        with redis.Redis(port=primary) as plain:
            assert plain.exists("mimicfs:{b}:d:")


def test_redis_may_be_behind_tls(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-keyout", key, "-out", certificate]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    port = servers.free_port()
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", certificate, "--tls-key-file", key]
    with servers.redis_at(tmp_path, port, *options, "--tls-ca-cert-file", certificate):
        store = open_store(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        store.apply("b", [Entry("a", 1)])
        assert store.get("b", "a") == Entry("a", 1)
        store.close()
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            open_store(f"rediss://127.0.0.1:{port}/0")


def test_a_sentinel_needs_a_service() -> None:
    with pytest.raises(StoreUnavailable, match=r"write redis\+sentinel://HOST:26379/SERVICE"):
        open_store("redis+sentinel://127.0.0.1:9")


def test_a_cluster_that_is_not_there_says_so() -> None:
    with pytest.raises(StoreUnavailable, match=r"Redis cluster at 127\.0\.0\.1:9"):
        open_store("redis+cluster://:hunter2@127.0.0.1:9")


def fill(store: Backend) -> None:
    for batch in range(1000):
        store.apply("b", [Entry(f"{batch:03}/{n:03}", 1) for n in range(200)])


def test_memory_that_is_full_is_an_error_and_nothing_is_half_there(tmp_path: Path) -> None:
    with servers.redis(tmp_path, "--maxmemory", "4mb") as port:
        store = RedisBackend.from_url(f"redis://127.0.0.1:{port}")
        with pytest.raises(StoreUnavailable, match="Redis is out of memory; raise maxmemory"):
            fill(store)
        bucket = store.bucket("b")
        assert bucket is not None
        assert bucket.objects % 200 == 0
        assert bucket.objects == len(store.scan("b", limit=10**6)) > 0
        store.close()


def test_a_replica_is_refused(tmp_path: Path, redis_port: int) -> None:
    (tmp_path / "replica").mkdir()
    options = ("--replicaof", f"127.0.0.1 {redis_port}")
    with (
        servers.redis(tmp_path / "replica", *options) as port,
        pytest.raises(
            StoreUnavailable, match="this is a replica, which takes no writes; name its primary"
        ),
    ):
        RedisBackend.from_url(f"redis://127.0.0.1:{port}")


def test_keys_of_another_program_are_an_error_and_stay(redis_url: str) -> None:
    plain = redis.Redis.from_url(redis_url)
    plain.set("mimicfs:theirs:{b}:d:", "theirs")
    store = RedisBackend.from_url(redis_url, "theirs")
    with pytest.raises(
        StoreCorrupt, match="another program uses these keys; give another --namespace"
    ):
        store.apply("b", [Entry("a")])
    assert plain.get("mimicfs:theirs:{b}:d:") == b"theirs"
    store.close()
    plain.close()


@pytest.mark.parametrize("scripts", ["+@scripting", "-@scripting"])
def test_a_user_that_may_not_write_is_told_what_he_needs(tmp_path: Path, scripts: str) -> None:
    with servers.redis(tmp_path) as port:
        with redis.Redis(port=port) as plain:
            plain.execute_command("ACL SETUSER", "mirror", *RULES, scripts, "-xadd")
        url = f"redis://mirror:hunter2@127.0.0.1:{port}"
        with pytest.raises(StoreUnavailable, match="the user has no permission") as raised:
            with closing(RedisBackend.from_url(url)) as store:
                store.apply("b", [Entry("a")])
        assert "hunter2" not in str(raised.value)
        with redis.Redis(port=port) as plain:
            assert not plain.exists("mimicfs:{b}:d:")


def test_a_server_without_scripts_serves_too(tmp_path: Path) -> None:
    with servers.redis(tmp_path, "--rename-command", "EVALSHA", "") as port:
        store = RedisBackend.from_url(f"redis://127.0.0.1:{port}")
        store.apply("b", [Entry("a", 1)])
        assert store.scan("b") == [Entry("a", 1)]
        store.close()


def loaded(port: int) -> bool:
    """Whether a Redis that was started again has read what it had."""
    try:
        with redis.Redis(port=port) as plain:
            return bool(plain.ping())
    except redis.ConnectionError:
        return False


def test_a_redis_that_was_killed_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with servers.redis(tmp_path, *options) as port:
        plain = redis.Redis(port=port)
        store = RedisBackend.from_url(f"redis://127.0.0.1:{port}")
        store.apply("b", [Entry("a", 1)])
        os.kill(plain.info("server")["process_id"], signal.SIGKILL)
        plain.close()
        with pytest.raises(StoreUnavailable, match="no answer; is redis-server running there"):
            store.get("b", "a")
        with servers.redis_at(tmp_path, port, *options):
            wait_until(lambda: loaded(port))
            assert store.get("b", "a") == Entry("a", 1)
            store.apply("b", [Entry("c", 2)])
            assert store.seq("b") == 2
        store.close()
