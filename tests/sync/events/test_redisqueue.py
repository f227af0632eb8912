"""MinIO's redis target in both of its formats, a stream, and a consumer that dies."""

from __future__ import annotations

import json
import time

import pytest
import redis

from mimicfs.backends.memory import Memory
from mimicfs.errors import ConfigError, StoreError, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events import consumer as consuming
from mimicfs.sync.events import redisqueue
from mimicfs.sync.events.claim import Claim
from mimicfs.sync.events.consumer import Consumer, Witness
from mimicfs.sync.events.hearing import Heard
from mimicfs.sync.events.messages import parse
from mimicfs.sync.events.redisqueue import RedisQueue


@pytest.fixture
def server(redis_port):
    client = redis.Redis(port=redis_port)
    yield client
    for name in ("events", "events:mimicfs"):
        client.delete(name)
    client.close()


@pytest.fixture
def queue(redis_url, server):
    return RedisQueue(f"{redis_url}#events")


def record(key):
    about = {"bucket": {"name": "photos"}, "object": {"key": key}}
    return {"eventSource": "minio:s3", "eventName": "s3:ObjectCreated:Put", "s3": about}


def access(key):
    return json.dumps([{"Event": [record(key)], "EventTime": "2026-01-15T12:00:00Z"}])


def keys(deliveries):
    return [told.key for each in deliveries for told in parse(each.body).told]


class Silence(Witness):
    """Ends its consumer at the first poll that brings nothing; keeps what was heard until then."""

    def __init__(self, source, tmp_path, monkeypatch):
        for name in ("_WAIT_S", "_SOON_S"):
            monkeypatch.setattr(consuming, name, 0.0)
        monkeypatch.setattr(consuming, "_GATHER_S", 60.0)
        monkeypatch.setattr(consuming, "backoff_s", lambda _: 0.0)
        self.keys = []
        self.consumer = Consumer(source, self, tmp_path / "aside", self)

    def hear(self, told, _cancellation):
        self.keys += [each.key for each in told]
        return Heard(echoes=len(told))

    def heard(self, told, until_ns):
        self.until_ns = until_ns
        if not told:
            self.consumer.close()


@pytest.mark.parametrize(("command", "number"), [("LMOVE", 120), ("_", 8)])
def test_what_was_taken_when_the_connection_broke_is_heard(
    queue, server, command, number, tmp_path, monkeypatch, caplog
):
    """The answer to a command is lost, in the middle of what is taken together. (The eighth that
    has no name is that to the second EXEC, which reads a stream.)"""
    for each in range(150):
        if command == "LMOVE":
            server.rpush("events", access(f"{each:03}"))
        else:
            server.xadd("events", {"data": access(f"{each:03}")})
    sent = []
    parse_response = redis.Redis.parse_response

    def broken(client, connection, name, **options):
        answer = parse_response(client, connection, name, **options)
        sent.append(name)
        if name == command and sent.count(name) == number:
            raise redis.ConnectionError("cut")
        return answer

    monkeypatch.setattr(redis.Redis, "parse_response", broken)
    silence = Silence(queue, tmp_path, monkeypatch)
    silence.consumer.run()
    assert sorted(set(silence.keys)) == [f"{each:03}" for each in range(150)]
    assert silence.until_ns == 0  # something may still come again
    assert server.exists("events:mimicfs") == 0
    assert "no answer" in caplog.text


def test_a_list_gives_each_message_until_it_is_acknowledged(queue, server, redis_url):
    server.rpush("events", access("a"), access("b+1"))
    found = queue.receive(0)
    assert keys(found) == ["a", "b 1"]
    assert queue.receive(0) == []
    after_a_crash = RedisQueue(f"{redis_url}#events")
    again = after_a_crash.receive(0)
    assert keys(again) == ["a", "b 1"]
    after_a_crash.acknowledge(again)
    assert server.exists("events", "events:mimicfs") == 0


@pytest.mark.slow
def test_of_large_messages_of_a_list_few_are_taken_and_all_come(queue, server, redis_url):
    large = "x" * (5 << 20)
    server.rpush("events", *(f"{number}{large}" for number in range(5)))
    assert [each.body[:1] for each in queue.receive(0)] == [b"0", b"1"]
    assert [each.body[:1] for each in queue.receive(0)] == [b"2", b"3"]
    after_a_crash = RedisQueue(f"{redis_url}#events")
    for numbers in ([b"0", b"1"], [b"2", b"3"], [b"4"]):
        found = after_a_crash.receive(0)
        assert [each.body[:1] for each in found] == numbers
        assert (after_a_crash.given_until_ns() == 0) == (numbers != [b"4"])
        after_a_crash.acknowledge(found)
    assert server.exists("events", "events:mimicfs") == 0


@pytest.mark.slow
def test_of_large_messages_of_a_stream_few_are_taken_and_all_come(queue, server, redis_url):
    for number in range(5):
        server.xadd("events", {"data": f"{number}" + "x" * (5 << 20)})
    assert [each.body[:1] for each in queue.receive(0)] == [b"0", b"1"]
    assert [each.body[:1] for each in queue.receive(0)] == [b"2", b"3"]
    after_a_crash = RedisQueue(f"{redis_url}#events")
    for numbers in ([b"0", b"1"], [b"2", b"3"], [b"4"]):
        found = after_a_crash.receive(0)
        assert [each.body[:1] for each in found] == numbers
        after_a_crash.acknowledge(found)
    assert after_a_crash.receive(0) == []


def test_of_large_messages_of_a_hash_few_are_held_and_all_come(queue, server, monkeypatch):
    monkeypatch.setattr(redisqueue, "_BYTES_MAX", 10_000)
    server.hset("events", mapping={f"b/{n}": f"{n:03}" + "x" * 1000 for n in range(200)})
    hscan, held = queue._client.hscan, []

    def measured(*args, **options):
        cursor, page = hscan(*args, **options)
        held.append(sum(map(len, page.values())))
        return cursor, page

    monkeypatch.setattr(queue._client, "hscan", measured)
    found = [queue.receive(0) for _ in range(20)]
    assert {len(page) for page in found} == {10}
    assert {each.body[:3] for page in found for each in page} == {b"%03d" % n for n in range(200)}
    assert (queue.receive(0), max(held) < 20_000) == ([], True)


def test_what_another_consumer_acknowledges_meanwhile_hides_nothing_that_was_left(
    queue, server, redis_url, monkeypatch
):
    monkeypatch.setattr(redisqueue, "_BATCH_MAX", 2)
    server.rpush("events", *(access(f"{number}") for number in range(4)))
    taken = [queue.receive(0), queue.receive(0)]
    after = RedisQueue(f"{redis_url}#events")
    first = after.receive(0)
    queue.acknowledge(taken[0])  # what is left moves to the front
    assert after.receive(0) == []
    assert after.given_until_ns() == 0
    after.acknowledge(first)
    assert (keys(first), keys(after.receive(0))) == (["0", "1"], ["2", "3"])


def test_what_could_not_be_applied_comes_again(queue, server):
    server.rpush("events", access("a"))
    queue.retry(queue.receive(0))
    assert keys(queue.receive(0)) == ["a"]


def test_a_list_that_is_empty_is_waited_for(queue, server):
    assert queue.receive(0.01) == []
    server.rpush("events", access("a"))
    assert keys(queue.receive(5)) == ["a"]


def test_a_stream_is_read_by_a_group(queue, server, redis_url):
    server.xadd("events", {"data": access("a")})
    assert keys(queue.receive(0)) == ["a"]
    again = RedisQueue(f"{redis_url}#events")
    found = again.receive(0)
    assert keys(found) == ["a"]
    again.acknowledge(found)
    assert RedisQueue(f"{redis_url}#events").receive(0) == []


def test_all_that_a_dead_consumer_had_taken_of_a_stream_comes_again(queue, server, redis_url):
    for number in range(250):
        server.xadd("events", {"data": access(f"{number:03}")})
    for _ in range(3):
        queue.receive(0)
    again = RedisQueue(f"{redis_url}#events")
    found = [key for _ in range(4) for key in keys(again.receive(0))]
    assert found == [f"{number:03}" for number in range(250)]


def test_a_stream_that_comes_later_or_anew_is_read(queue, server):
    """It is there after the consumer began, is deleted before a look, and between two."""
    assert queue.receive(0) == []
    for number, seen in enumerate((False, True, False)):
        server.xadd("events", {"data": access(f"{number}")})
        found = [key for _ in range(2) for key in keys(queue.receive(0))]  # the first may fail
        assert (found, queue.lost) == ([f"{number}"], number)
        server.delete("events")
        if seen:
            assert queue.receive(0) == []


def test_entries_that_were_cut_off_unread_are_counted_as_lost(queue, server, redis_url):
    server.xadd("events", {"data": access("a")})
    queue.acknowledge(queue.receive(0))
    server.xadd("events", {"data": access("b")})
    queue.receive(0)
    for number in range(9):
        server.xadd("events", {"data": access(f"{number}")}, maxlen=5, approximate=False)
    again = RedisQueue(f"{redis_url}#events")
    found = [key for _ in range(3) for key in keys(again.receive(0))]
    assert found == ["4", "5", "6", "7", "8"]
    assert again.lost == 5  # "b", taken and not applied, and four that nobody took


def cut_to(server, length, names):
    """Add entries in one go, and keep *length* of the stream: nobody can read in between."""
    with server.pipeline(transaction=True) as pipeline:
        for name in names:
            pipeline.xadd("events", {"data": access(name)}, maxlen=length, approximate=False)
        pipeline.execute()


def test_what_is_cut_off_while_the_consumer_runs_is_lost_once(queue, server, redis_url):
    cut_to(server, 10, ["first"])
    queue.acknowledge(queue.receive(0))
    assert queue.lost == 0
    cut_to(server, 10, [f"{number}" for number in range(50)])
    found = queue.receive(0)
    assert (keys(found), queue.lost) == ([f"{number}" for number in range(40, 50)], 40)
    queue.acknowledge(found)
    queue.resume()
    assert (queue.receive(0), queue.lost) == ([], 40)
    cut_to(server, 0, [f"{number}" for number in range(7)])
    assert (queue.receive(0.01), queue.lost) == ([], 47)
    cut_to(server, 1000, ["last"])
    next_consumer = RedisQueue(f"{redis_url}#events")
    found = next_consumer.receive(0)
    assert (keys(found), next_consumer.lost) == (["last"], 0)
    next_consumer.acknowledge(found)
    cut_to(server, 0, ["x"])  # while another one had its turn
    assert (next_consumer.receive(0), next_consumer.lost) == ([], 1)
    queue.resume()
    assert (queue.receive(0), queue.lost) == ([], 47)


def test_a_stream_that_is_cut_off_while_it_is_waited_for_is_counted(queue, server, monkeypatch):
    cut_to(server, 10, ["first"])
    queue.acknowledge(queue.receive(0))
    waiting = queue._client.xread

    def woken(*args, **options):
        cut_to(server, 10, [f"{number}" for number in range(50)])
        return waiting(*args, **options)

    monkeypatch.setattr(queue._client, "xread", woken)
    assert keys(queue.receive(5)) == [f"{number}" for number in range(40, 50)]
    assert queue.lost == 40


def test_a_large_hash_is_read_in_pages(queue, server):
    server.hset("events", mapping={f"b/{n}": access(f"{n}") for n in range(1000)})
    found = [queue.receive(0) for _ in range(11)]
    assert max(map(len, found)) == 100
    assert {key for page in found for key in keys(page)} == {f"{n}" for n in range(1000)}
    assert queue.receive(0) == []


def test_a_hash_is_compared_with_what_it_was(queue, server):
    def put(key):
        server.hset("events", f"photos/{key}", json.dumps({"Records": [record(key)]}))

    def read():
        queue._read_s -= 10
        found = queue.receive(0)
        told = [told for each in found for told in parse(each.body).told]
        return found, [(each.key, each.removed) for each in told]

    put("a")
    put("b")
    found, told = read()
    assert sorted(told) == [("a", False), ("b", False)]
    queue.acknowledge(found)
    server.hdel("events", "photos/a")
    put("c")
    for _ in range(2):  # what could not be applied comes again, deletions too
        found, told = read()
        assert told == [("c", False), ("a", True)]
        queue.retry(found)
    queue.acknowledge(found)
    server.hdel("events", "photos/b", "photos/c")  # the last ones: then Redis has no such key
    found, told = read()
    assert sorted(told) == [("b", True), ("c", True)]
    queue.acknowledge(found)
    assert read() == ([], [])


def test_a_hash_is_told_of_until_its_last_whole_reading_began(queue, server, tmp_path, monkeypatch):
    consumer = Silence(queue, tmp_path, monkeypatch).consumer
    server.hset("events", mapping={f"photos/{n}": access(f"{n}") for n in range(101)})
    began_ns = time.time_ns()
    first = queue.receive(0)
    assert (len(first), queue.given_until_ns()) == (100, 0)
    last = queue.receive(0)
    between_ns = time.time_ns()
    consumer.consume(first + last)
    server.hset("events", "photos/new", access("new"))
    found, until_ns = consumer.received(0)
    assert found == []
    assert began_ns < until_ns < between_ns


def test_a_reading_of_a_hash_that_fails_begins_anew(queue, server, tmp_path, monkeypatch, caplog):
    server.hset("events", mapping={f"photos/{n}": access(f"{n}") for n in range(1000)})
    calls = iter(range(10**6))
    hscan = queue._client.hscan

    def broken(*args, **options):
        if next(calls) == 5:
            raise redis.ConnectionError("cut")
        return hscan(*args, **options)

    monkeypatch.setattr(queue._client, "hscan", broken)
    silence = Silence(queue, tmp_path, monkeypatch)
    silence.consumer.run()
    assert set(silence.keys) == {f"{n}" for n in range(1000)}
    assert "no answer" in caplog.text


def test_a_key_of_another_kind_is_named(queue, server):
    server.set("events", "text")
    with pytest.raises(StoreError, match="key events: a string, which cannot hold messages"):
        queue.receive(0)


def test_an_address_without_a_key_or_a_server_is_named(redis_url):
    with pytest.raises(ConfigError, match="has no key"):
        RedisQueue(redis_url)
    with pytest.raises(StoreUnavailable, match="no answer"):
        RedisQueue("redis://127.0.0.1:1/0#events").receive(0)


def test_a_user_without_rights_to_the_mark_knows_the_source_by_its_run(queue, server, redis_port):
    """`~KEY ~KEY:mimicfs` is enough to take messages."""
    server.execute_command(
        "ACL SETUSER", "listener", "on", ">hunter2", "~events", "~events:mimicfs", "+@all"
    )
    server.rpush("events", access("a"))
    few = RedisQueue(f"redis://listener@127.0.0.1:{redis_port}/0#events", "hunter2")
    assert few.identity() == server.info("server")["run_id"]
    assert queue.identity().endswith(f" {few.identity()}")
    assert keys(few.receive(1)) == ["a"]
    claim = Claim(Mirror(Memory()), few)
    claim.stake()
    assert (claim.may_take, claim.alone_until_ns(5)) == (
        True,
        5,
    )  # of other stores nothing is known
    server.delete("events:mimicfs:id")
    server.execute_command("ACL DELUSER", "listener")
