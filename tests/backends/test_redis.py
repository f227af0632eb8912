"""Redis in its forms, and what goes wrong with it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support import servers

from mimicfs.backends import Backend
from mimicfs.backends.open import open_store
from mimicfs.backends.redis import RedisBackend
from mimicfs.entry import Entry
from mimicfs.errors import StoreCorrupt, StoreUnavailable
from mimicfs.testing import BackendPromises

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
            nodes = backend._client.get_primaries()
            assert all(backend._client.dbsize(target_nodes=node) for node in nodes)


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
    options = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
    options += ("--tls-cert-file", certificate, "--tls-key-file", key)
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
        with pytest.raises(StoreUnavailable, match="out of memory; raise maxmemory"):
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
        pytest.raises(StoreUnavailable, match="a replica, which takes no writes; name its primary"),
    ):
        RedisBackend.from_url(f"redis://127.0.0.1:{port}")


def test_keys_of_another_program_are_an_error_and_stay(redis_url: str) -> None:
    plain = redis.Redis.from_url(redis_url)
    plain.set("mimicfs:theirs:{b}:d:", "theirs")
    store = RedisBackend.from_url(redis_url, "theirs")
    with pytest.raises(StoreCorrupt, match="keys of another program; give another --namespace"):
        store.apply("b", [Entry("a")])
    assert plain.get("mimicfs:theirs:{b}:d:") == b"theirs"
    store.close()
    plain.close()


def test_a_user_that_may_not_is_told_what_he_needs(tmp_path: Path) -> None:
    with servers.redis(tmp_path) as port:
        with redis.Redis(port=port) as plain:
            rules = ("on", ">hunter2", "~mimicfs:*", "+@all", "-@scripting")
            plain.execute_command("ACL SETUSER", "mirror", *rules)
        store = RedisBackend.from_url(f"redis://mirror:hunter2@127.0.0.1:{port}")
        with pytest.raises(StoreUnavailable, match="not allowed to this user") as raised:
            store.apply("b", [Entry("a")])
        assert "hunter2" not in str(raised.value)
        store.close()


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
            assert store.get("b", "a") == Entry("a", 1)
            store.apply("b", [Entry("c", 2)])
            assert store.seq("b") == 2
        store.close()
