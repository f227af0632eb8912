"""The store has each change of S3 before and after it is made: real S3, real stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from botocore.exceptions import ClientError
from support import servers
from support.clients import plain
from support.mounts import costs, wait_until
from support.proxy import Drop, Fail, Hold, Lose, Proxy, Request

from mimicfs import intent, stragglers
from mimicfs.backends.open import open_store
from mimicfs.backends.sessions import StoreSession, beat
from mimicfs.entry import NS
from mimicfs.errors import StoreError, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.mimic import mimic

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


@contextmanager
def writer(proxy: Proxy, store: str) -> Iterator[tuple[Any, Mirror]]:
    """A program that writes through *store*, and its mirror."""
    mimicdb = Mirror(open_store(store))
    client = plain(proxy.url)
    try:
        yield mimic(client, mimicdb), mimicdb
    finally:
        mimicdb.close()
        client.close()


def of(kind: str, key: str) -> Callable[[Request], bool]:
    return lambda request: request.kind == kind and request.key == key


def etag(client: Any, bucket: str, key: str) -> str:
    found: str = client.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')
    return found


def test_a_change_costs_one_round_trip_before_s3_and_one_after(
    proxy: Proxy, bucket: str, redis_url: str
) -> None:
    with writer(proxy, redis_url) as (client, mimicdb), redis.Redis.from_url(redis_url) as other:
        client.put_object(Bucket=bucket, Key="first", Body=b"x")
        mimicdb.member.leave()  # no beats
        mimicdb.intents.close()
        with other.monitor() as monitor:
            client.put_object(Bucket=bucket, Key="second", Body=b"x")
            client.delete_object(Bucket=bucket, Key="first")
            other.echo("end")
            assert list(_sent(monitor)) == ["EVALSHA"] * 4


def _sent(monitor: Any) -> Iterator[str]:
    """Yield the commands that came before an ECHO, without those of scripts."""
    while True:
        said = monitor.next_command()
        name = said["command"].split()[0].upper()
        if name == "ECHO":
            return
        if said["client_type"] != "lua" and name not in ("HELLO", "CLIENT", "AUTH"):
            yield name


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_of_two_who_change_one_key_the_mirror_has_what_s3_has(
    proxy: Proxy, bucket: str, client: Any, kind: str, redis_url: str, tmp_path: Path
) -> None:
    store = redis_url if kind == "redis" else f"sqlite:{tmp_path}/s.db"
    with writer(proxy, store) as (one, mirror), writer(proxy, store) as (two, _):
        one.put_object(Bucket=bucket, Key="k", Body=b"old")
        with proxy.rule(Hold(of("DELETE", "k"), answers=True)) as late:
            deleting = threading.Thread(
                target=one.delete_object, kwargs={"Bucket": bucket, "Key": "k"}
            )
            deleting.start()
            assert late.reached.wait(30)  # S3 has deleted it, and one does not know
            two.put_object(Bucket=bucket, Key="k", Body=b"newer")
        deleting.join(30)
        entry = mirror.entry(bucket, "k")
        assert entry is not None and entry.etag == etag(client, bucket, "k")
        assert mirror.backend.unsettled(bucket) == []


def test_what_s3_did_and_nobody_heard_of_is_asked_of_s3(
    proxy: Proxy, bucket: str, tmp_path: Path
) -> None:
    with writer(proxy, f"sqlite:{tmp_path}/s.db") as (client, mimicdb):
        with (
            proxy.rule(Lose(of("PUT", "k"), times=99)),
            pytest.raises(Exception, match="onnection"),
        ):
            client.put_object(Bucket=bucket, Key="k", Body=b"there")
        mimicdb.intents.look_after()  # as the thread does that was woken
        entry = mimicdb.entry(bucket, "k")
        assert entry is not None and entry.size == 5
        assert mimicdb.backend.unsettled(bucket) == []


def test_a_copy_whose_caller_is_interrupted_while_s3_is_asked_of_it_is_asked_again(
    proxy: Proxy, bucket: str
) -> None:
    client = plain(proxy.url)
    ask, interrupted = client._make_api_call, [KeyboardInterrupt()]

    def asked(operation: str, params: Any) -> Any:
        if operation == "HeadObject" and interrupted:
            raise interrupted.pop()
        return ask(operation, params)

    client._make_api_call = asked
    mimicdb = Mirror(open_store("memory:"))
    mimic(client, mimicdb)
    client.put_object(Bucket=bucket, Key="a", Body=b"12345")
    client.put_object(Bucket=bucket, Key="k", Body=b"old")
    with pytest.raises(KeyboardInterrupt):
        client.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "a"})
    wait_until(lambda: mimicdb.backend.unsettled(bucket) == [])
    assert [entry.size for entry in mimicdb.listing(bucket)] == [5, 5]
    mimicdb.close()
    client.close()


@pytest.mark.parametrize(
    ("kind", "operation", "params", "size"),
    [
        ("PUT", "PutObject", {"Key": "k", "Body": b"there"}, 5),
        ("POST", "DeleteObjects", {"Delete": {"Objects": [{"Key": "k"}]}}, None),
    ],
)
def test_whoever_asks_whether_a_lost_change_was_done_is_told_by_s3(
    monkeypatch: pytest.MonkeyPatch,
    proxy: Proxy,
    bucket: str,
    kind: str,
    operation: str,
    params: dict[str, Any],
    size: int | None,
) -> None:
    with writer(proxy, "memory:") as (client, mimicdb):
        client.put_object(Bucket=bucket, Key="k", Body=b"old")
        client.put_object(Bucket=bucket, Key="l", Body=b"old")
        client.list_objects_v2(Bucket=bucket)
        client.head_object(Bucket=bucket, Key="k")
        monkeypatch.setattr(mimicdb.intents, "look_soon", lambda: None)
        losing = proxy.rule(Lose(lambda request: request.kind == kind, times=99))
        with losing, pytest.raises(Exception, match="onnection"):
            client._make_api_call(operation, {"Bucket": bucket} | params)
        for _ in range(2):  # what nobody has settled stays unsure
            with costs(proxy, LIST=1, HEAD=1):
                found = client.list_objects_v2(Bucket=bucket)["Contents"]
                assert {item["Key"]: item["Size"] for item in found}.get("k") == size
                with suppress(client.exceptions.ClientError):
                    assert client.head_object(Bucket=bucket, Key="k")["ContentLength"] == size
        mimicdb.intents.look_after()
        with costs(proxy):
            client.list_objects_v2(Bucket=bucket)


def test_a_change_that_the_store_did_not_take_is_shown_by_s3(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreError("away")

    with writer(proxy, "memory:") as (client, mimicdb):
        client.put_object(Bucket=bucket, Key="k", Body=b"old")
        client.list_objects_v2(Bucket=bucket)
        with monkeypatch.context() as broken:
            broken.setattr(mimicdb.backend, "apply", away)
            with pytest.raises(StoreError):
                client.put_object(Bucket=bucket, Key="k", Body=b"there")
        with costs(proxy, LIST=1):
            found = client.list_objects_v2(Bucket=bucket)["Contents"]
            assert [item["Size"] for item in found] == [5]


def test_a_key_that_was_settled_is_asked_for_at_once_when_it_is_unsettled_again(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str
) -> None:
    with writer(proxy, "memory:") as (client, mimicdb):
        monkeypatch.setattr(mimicdb.intents, "look_soon", lambda: None)
        for size in (1, 2):
            losing = proxy.rule(Lose(of("PUT", "k"), times=99))
            with losing, pytest.raises(Exception, match="onnection"):
                client.put_object(Bucket=bucket, Key="k", Body=b"x" * size)
            mimicdb.intents.look_after()
            assert [entry.size for entry in mimicdb.listing(bucket)] == [size]


def test_what_a_dead_mount_began_is_asked_of_s3_though_the_clock_of_the_store_is_set_back(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any
) -> None:
    with writer(proxy, "memory:") as (_, mimicdb):
        beat(mimicdb.backend, StoreSession("dead", "host", 7, "1", "/mnt", 0, 0, {}), 6000)
        mimicdb.backend.begin(bucket, ["k"], "dead:1", 300_000)
        client.put_object(Bucket=bucket, Key="k", Body=b"there")
        now_ns = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() - 7200 * NS)
        mimicdb.intents.look_everywhere()
        mimicdb.intents.look_after()
        entry = mimicdb.entry(bucket, "k")
        assert entry is not None and entry.size == 5


@pytest.mark.parametrize("times", [1, 3])
def test_what_s3_does_for_a_dead_mount_after_it_was_asked_is_seen(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any, times: int
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    with writer(proxy, "memory:") as (_, mimicdb):
        beat(mimicdb.backend, StoreSession("dead", "host", 7, "1", "/mnt", 0, 0, {}), 0)
        mimicdb.backend.begin(bucket, ["k"], "dead:1", 300_000)
        mimicdb.intents.look_everywhere()
        for _ in range(times):
            mimicdb.intents.look_after()
        assert (mimicdb.entry(bucket, "k"), mimicdb.backend.unsettled(bucket)) == (None, [])
        client.put_object(Bucket=bucket, Key="k", Body=b"there")  # S3 does it now
        wait_until(lambda: mimicdb.intents.look_after() or mimicdb.entry(bucket, "k") is not None)


def test_what_s3_does_after_its_caller_has_given_up_is_seen(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    monkeypatch.setattr(intent, "_AGAIN_S", 0.05)
    with writer(proxy, "memory:") as (writing, mimicdb):
        lost = Drop(of("PUT", "k"))
        lost.release()
        with proxy.rule(lost), pytest.raises(Exception, match="onnection"):
            writing.put_object(Bucket=bucket, Key="k", Body=b"there")
        wait_until(lambda: mimicdb.backend.unsettled(bucket) == [])
        assert mimicdb.entry(bucket, "k") is None
        client.put_object(Bucket=bucket, Key="k", Body=b"there")  # S3 does it now
        wait_until(lambda: mimicdb.entry(bucket, "k") is not None)


class _Unheard(Drop):
    """The first of the requests never has an answer."""

    def __init__(self, matches: Callable[[Request], bool]) -> None:
        super().__init__(matches)
        self.release()

    def applies(self, request: Request) -> bool:
        return not self.seen and super().applies(request)


def test_what_s3_does_of_an_attempt_after_it_has_refused_the_next_is_seen(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    monkeypatch.setattr(intent, "_AGAIN_S", 0.05)
    with writer(proxy, "memory:") as (writing, mimicdb):
        unheard, denied = _Unheard(of("PUT", "k")), Fail(of("PUT", "k"), 403, "AccessDenied")
        with proxy.rule(unheard), proxy.rule(denied), pytest.raises(ClientError, match="Denied"):
            writing.put_object(Bucket=bucket, Key="k", Body=b"there")
        assert (unheard.seen, denied.seen) == (1, 1)
        wait_until(lambda: mimicdb.backend.unsettled(bucket) == [])
        assert mimicdb.entry(bucket, "k") is None
        client.put_object(Bucket=bucket, Key="k", Body=b"there")  # S3 does the first now
        wait_until(lambda: mimicdb.entry(bucket, "k") is not None)


def test_what_s3_does_of_an_attempt_after_it_has_done_the_next_is_seen(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    monkeypatch.setattr(intent, "_AGAIN_S", 0.05)
    with writer(proxy, "memory:") as (writing, mimicdb):
        unheard = _Unheard(of("PUT", "k"))
        with proxy.rule(unheard):
            writing.put_object(Bucket=bucket, Key="k", Body=b"there")
        assert unheard.seen == 1
        writing.delete_object(Bucket=bucket, Key="k")
        assert mimicdb.entry(bucket, "k") is None
        client.put_object(Bucket=bucket, Key="k", Body=b"there")  # S3 does the first now
        wait_until(lambda: mimicdb.entry(bucket, "k") is not None)


def test_what_s3_does_late_for_a_dead_mount_is_seen_though_another_changed_the_key_beside(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, bucket: str, client: Any
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    with writer(proxy, "memory:") as (_, mimicdb):
        beat(mimicdb.backend, StoreSession("dead", "host", 7, "1", "/mnt", 0, 0, {}), 0)
        mimicdb.backend.begin(bucket, ["k"], "dead:1", 300_000)
        ours = mimicdb.intents.begin(bucket, ["k"])
        mimicdb.intents.look_everywhere()
        mimicdb.intents.look_after()
        mimicdb.intents.end(ours, unsure=False)
        wait_until(lambda: mimicdb.intents.look_after() or not mimicdb.backend.unsettled(bucket))
        assert mimicdb.entry(bucket, "k") is None
        client.put_object(Bucket=bucket, Key="k", Body=b"there")  # S3 does it for the dead now
        wait_until(lambda: mimicdb.intents.look_after() or mimicdb.entry(bucket, "k") is not None)


def test_a_change_that_has_ended_and_that_the_store_has_again_is_asked_of_s3_at_once(
    proxy: Proxy, bucket: str, redis_url: str
) -> None:
    with writer(proxy, redis_url) as (client, mimicdb):
        client.put_object(Bucket=bucket, Key="k", Body=b"there")
        token = f"{mimicdb.member.id}:1"
        mimicdb.backend.begin(bucket, ["k"], token, 300_000)  # a replica that lagged was promoted
        with proxy.rule(Hold(of("PUT", "slow"))) as late:
            put = {"Bucket": bucket, "Key": "slow", "Body": b"x"}
            putting = threading.Thread(target=client.put_object, kwargs=put)
            putting.start()
            assert late.reached.wait(30)
            mimicdb.intents.look_after()
            (open_one,) = mimicdb.backend.unsettled(bucket)
            assert (open_one.key, open_one.pending) == ("slow", True)
            late.release()
            putting.join()
        assert mimicdb.backend.unsettled(bucket) == []


def test_in_memory_s3_is_asked_until_it_says_what_it_did(
    proxy: Proxy, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent, "_AGAIN_S", 0.05)
    with writer(proxy, "memory:") as (writing, mimicdb):
        with (
            proxy.rule(Fail(of("HEAD", "k"), 503, "SlowDown")) as silent,
            proxy.rule(Lose(of("PUT", "k"), times=99)),
        ):
            with pytest.raises(Exception, match="onnection"):
                writing.put_object(Bucket=bucket, Key="k", Body=b"there")
            wait_until(lambda: silent.seen > 2)
            with monkeypatch.context() as broken:
                away = Mock(side_effect=StoreError("away"))
                broken.setattr(mimicdb.backend, "unsettled", away)
                wait_until(lambda: away.call_count > 3)
            seen = silent.seen
            wait_until(lambda: silent.seen > seen)
            assert mimicdb.entry(bucket, "k") is None
        wait_until(lambda: mimicdb.backend.unsettled(bucket) == [])
        entry = mimicdb.entry(bucket, "k")
        assert entry is not None and entry.size == 5


@pytest.mark.parametrize("log", ["yes", "no"])
def test_redis_that_dies_between_s3_and_the_record_leaves_nothing_wrong(
    proxy: Proxy,
    bucket: str,
    client: Any,
    log: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = servers.free_port()
    options = (tmp_path, port, "--appendonly", log, "--appendfsync", "always")
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        running.enter_context(servers.redis_at(*options))
        writing, mimicdb = stack.enter_context(writer(proxy, f"redis://127.0.0.1:{port}"))
        writing.put_object(Bucket=bucket, Key="k", Body=b"old")
        writing.list_objects_v2(Bucket=bucket, Force=True)
        failed: list[Exception] = []
        with proxy.rule(Hold(of("PUT", "k"), answers=True)) as late:
            put = threading.Thread(target=_put, args=(writing, bucket, failed))
            put.start()
            assert late.reached.wait(30)  # S3 has it
            running.close()
        put.join(30)
        assert [isinstance(exc, StoreError) for exc in failed] == [True]

        proxy.counted()
        _put(writing, bucket, failed)  # S3 is not asked
        assert isinstance(failed[-1], StoreError) and "PUT" not in proxy.counted()

        stack.enter_context(servers.redis_at(*options))
        mimicdb.member._beat()
        mimicdb.intents.look_after()
        with suppress(Unlisted):  # then S3 is asked
            found, _ = mimicdb.lookup(bucket, "", "k")
            assert found is not None and found.etag == etag(client, bucket, "k")
        assert mimicdb.backend.unsettled(bucket) == []
    caplog.clear()  # the store was silent, and may have lost something: seen above


READS: dict[str, list[dict[str, Any]]] = {
    "list_buckets": [{}],
    "head_bucket": [{}, {"Bucket": "missing"}],
    "list_objects": [{}, {"Delimiter": "/"}, {"Bucket": "missing"}],
    "list_objects_v2": [{}, {"Prefix": "k"}, {"Bucket": "missing"}],
    "list_object_versions": [{}],
    "list_multipart_uploads": [{}],
    "get_bucket_versioning": [{}],
    "get_bucket_location": [{}],
    "head_object": [{"Key": "k"}, {"Key": "none"}, {"Key": "k", "Range": "bytes=9-"}],
    "get_object_attributes": [{"Key": "k", "ObjectAttributes": ["ETag"]}],
    "get_object_tagging": [{"Key": "k"}],
}


def _told(call: Callable[..., Any], params: dict[str, Any]) -> Any:
    try:
        answer = call(**params)
    except ClientError as exc:
        return type(exc).__name__, str(exc).partition(" (reached")[0]
    answer.pop("ResponseMetadata")
    return answer


def test_while_the_store_is_away_s3_answers_every_read(
    proxy: Proxy, bucket: str, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    port = servers.free_port()
    with ExitStack() as running:
        running.enter_context(servers.redis_at(tmp_path, port))
        with writer(proxy, f"redis://127.0.0.1:{port}") as (reading, _):
            running.close()
            for name, calls in READS.items():
                for asked in calls:
                    params = asked if name == "list_buckets" else {"Bucket": bucket} | asked
                    expected = _told(getattr(client, name), dict(params))
                    assert _told(getattr(reading, name), dict(params)) == expected, (name, params)
            assert reading.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    caplog.clear()  # the store was silent


def _put(client: Any, bucket: str, failed: list[Exception]) -> None:
    try:
        client.put_object(Bucket=bucket, Key="k", Body=b"new")
    except StoreError as exc:
        failed.append(exc)
