"""Small objects that one thread puts together: each is put as if it were alone."""

from __future__ import annotations

import errno
import http.client
import io
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Fail, Hold, Lose, LoseOne, Proxy, Replace, Request, Rule

from mimicfs import intent, stragglers
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import S3Options
from mimicfs.entry import Entry
from mimicfs.errors import AccessDenied, Interrupted, PosixError, S3Unavailable, StoreUnavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests import putting
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.transport.plain import whole_answer

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

NEW = Condition(absent=True)
KEYS = ["a", "b", "c"]


def puts(request: Request) -> bool:
    return request.kind == "PUT"


@pytest.fixture
def mimicdb(tmp_path: Path) -> Iterator[Mirror]:
    mimicdb = Mirror(SQLite(str(tmp_path / "store")))
    yield mimicdb
    mimicdb.close()


@pytest.fixture
def endpoint(proxy: Proxy) -> str:
    return proxy.url


@pytest.fixture
def s3(endpoint: str, proxy: Proxy, mimicdb: Mirror, bucket: str) -> Iterator[S3]:
    """It knows what the server does with conditions, and has three idle connections."""
    s3 = S3(S3Options(endpoint_url=endpoint, attempts=3), mimicdb)
    s3.put(bucket, "warm", b"", 0, condition=NEW)
    with proxy.rule(Hold(puts)) as hold:
        warm = [s3.pool.submit(s3.put, bucket, f"warm{n}", b"", 0) for n in range(3)]
        wait_until(lambda: hold.seen == 3)
        hold.release()
    for future in warm:
        future.result(10)
    proxy.counted()
    yield s3
    s3.close()


def at_once(s3: S3, bucket: str, *keys: str, condition: Condition = NEW) -> list[Future[Entry]]:
    """Have *keys* put, all of which the thread that sends finds when it looks first."""
    s3.putter._thread = threading.Thread(target=s3.putter._run, daemon=True)
    content = Content("text/plain", {"Mode": "33188"})
    found = [s3.put_soon(bucket, key, key.encode() * 9, 9, content, condition) for key in keys]
    s3.putter._thread.start()
    return [future for future in found if future is not None]


def in_s3(client: Any, bucket: str) -> list[str]:
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    return [each["Key"] for each in found if not each["Key"].startswith("warm")]


def test_a_burst_is_begun_in_one_transaction_and_all_of_it_is_in_s3_and_in_the_mirror(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy, monkeypatch: Any
) -> None:
    begun: list[list[str]] = []
    begin = mimicdb.backend.begin

    def seen(bucket: str, keys: list[str], token: str, lasts_ms: int) -> None:
        begun.append(keys)
        begin(bucket, keys, token, lasts_ms)

    monkeypatch.setattr(mimicdb.backend, "begin", seen)
    entries = [future.result(10) for future in at_once(s3, bucket, *KEYS)]
    assert begun == [["a", "b", "c"]]
    assert proxy.counted() == {"PUT": 3}
    assert entries == [mimicdb.entry(bucket, key) for key in KEYS]
    assert [(each.size, each.meta) for each in entries] == [(9, {"mode": "33188"})] * 3
    assert client.get_object(Bucket=bucket, Key="b")["Body"].read() == b"bbbbbbbbb"
    assert client.head_object(Bucket=bucket, Key="b")["ETag"] == f'"{entries[1].etag}"'
    assert mimicdb.backend.unsettled(bucket) == []


def test_the_same_goes_over_tls(
    tls: str, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=tls, attempts=3), mimicdb)
    s3.put(bucket, "warm", b"", 0, condition=NEW)
    proxy.counted()
    future = s3.put_soon(bucket, "a", bytes(65_536), 65_536, Content(), NEW)
    assert future is not None
    assert future.result(10) == mimicdb.entry(bucket, "a")
    assert proxy.counted() == {"PUT": 1}
    assert client.head_object(Bucket=bucket, Key="a")["ContentLength"] == 65_536
    s3.close()


def test_where_somebody_else_was_quicker_he_stays_and_the_others_are_put(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="b", Body=b"another's")
    first, second, third = at_once(s3, bucket, *KEYS)
    with pytest.raises(PosixError) as refused:
        second.result(10)
    assert refused.value.errno == errno.EEXIST
    assert (first.result(10).size, third.result(10).size) == (9, 9)
    assert client.get_object(Bucket=bucket, Key="b")["Body"].read() == b"another's"
    entry = mimicdb.entry(bucket, "b")
    assert entry is not None
    assert entry.etag == client.head_object(Bucket=bucket, Key="b")["ETag"].strip('"')
    assert mimicdb.backend.unsettled(bucket) == []


def test_what_s3_throttles_is_put_again_with_the_same_intent(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Fail(puts, 503, "SlowDown")) as rule:
        futures = at_once(s3, bucket, *KEYS)
        assert rule.reached.wait(60)
    assert [future.result(20).size for future in futures] == [9, 9, 9]
    assert in_s3(client, bucket) == KEYS
    assert mimicdb.backend.unsettled(bucket) == []


def test_what_was_done_although_its_answer_was_lost_is_put_again(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Lose(puts)):
        [future] = at_once(s3, bucket, "a", condition=Condition())
        entry = future.result(20)
    assert proxy.counted() == {"PUT": 2}
    assert entry == mimicdb.entry(bucket, "a")
    assert mimicdb.backend.unsettled(bucket) == []


def test_a_server_that_says_more_than_s3_is_asked_one_at_a_time_from_then_on(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    error = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"
    with proxy.rule(Replace(puts, error)) as rule:
        [future] = at_once(s3, bucket, "a", condition=Condition())
        assert rule.reached.wait(60)
    assert future.result(20).size == 9
    assert s3.put_soon(bucket, "b", b"b", 1, Content(), Condition()) is None
    assert mimicdb.backend.unsettled(bucket) == []


def test_a_server_that_does_not_answer_holds_up_its_own_object_only(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Hold(lambda request: puts(request) and request.path.endswith("/b"))) as hold:
        first, second, third = at_once(s3, bucket, *KEYS)
        assert (first.result(10).size, third.result(10).size) == (9, 9)
        assert not second.done()
        assert [each.key for each in mimicdb.backend.unsettled(bucket)] == ["b"]
        hold.release()
    assert second.result(10).size == 9
    assert mimicdb.backend.unsettled(bucket) == []


def test_what_is_answered_too_late_is_put_again(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    s3.putter._patience_s = 0.1
    with proxy.rule(Hold(puts)) as hold:
        futures = at_once(s3, bucket, *KEYS, condition=Condition())
        wait_until(lambda: hold.seen > 3)
        hold.release()
    assert [future.result(20).size for future in futures] == [9, 9, 9]
    assert in_s3(client, bucket) == KEYS
    assert mimicdb.backend.unsettled(bucket) == []


def test_a_key_that_others_change_at_the_same_time_is_asked_of_s3(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Hold(puts)) as hold:
        futures = at_once(s3, bucket, *KEYS, condition=Condition())
        assert hold.reached.wait(60)
        other = mimicdb.intents.begin(bucket, ["b"])
        hold.release()
        assert [future.result(10).size for future in futures] == [9, 9, 9]
    assert proxy.counted() == {"PUT": 3, "HEAD": 1}
    assert [each.key for each in mimicdb.backend.unsettled(bucket)] == ["b"]
    entry = mimicdb.entry(bucket, "b")
    assert entry is not None
    assert entry.etag == client.head_object(Bucket=bucket, Key="b")["ETag"].strip('"')
    mimicdb.intents.end(other, unsure=False)
    assert mimicdb.intents.resolve is not None
    mimicdb.intents.resolve(bucket, "b")
    assert mimicdb.backend.unsettled(bucket) == []


def test_what_the_store_does_not_take_is_an_error_that_names_it_and_asked_for_later(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, monkeypatch: Any
) -> None:
    def full(*_: Any) -> set[str]:
        raise StoreUnavailable("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(mimicdb.backend, "apply", full)
        for key, future in zip(KEYS, at_once(s3, bucket, *KEYS), strict=True):
            with pytest.raises(StoreUnavailable, match=f"PutObject of s3://{bucket}/{key}, but"):
                future.result(10)
    assert in_s3(client, bucket) == KEYS
    assert [each.key for each in mimicdb.backend.unsettled(bucket)] == KEYS
    mimicdb.intents.look_after()
    assert [mimicdb.entry(bucket, key) is not None for key in KEYS] == [True] * 3


def test_what_was_not_begun_when_the_mount_ends_was_not_sent(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str
) -> None:
    s3.putter._thread = threading.Thread(target=int)
    future = s3.put_soon(bucket, "a", b"a", 1, Content(), NEW)
    assert future is not None
    s3.close()
    with pytest.raises(S3Unavailable, match="the mount has ended"):
        future.result(0)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix="a")
    assert mimicdb.backend.unsettled(bucket) == []


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_an_answer_is_whole_once_its_last_byte_is_here(server: str, end: str) -> None:
    lines = ["HTTP/1.1 200 OK", 'ETag: "e"', "Content-Length: 3", "", "abc"]
    data = end.join(lines).encode()
    assert [whole_answer(data[:n], "PUT") for n in range(len(data))] == [None] * len(data)
    found = whole_answer(data, "PUT")
    assert found is not None
    assert (found.status, found.joined["etag"], found.read()) == (200, '"e"', b"abc")


def test_however_many_are_put_those_who_read_have_a_connection(
    endpoint: str, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=endpoint, connections=2), mimicdb)
    s3.put(bucket, "warm", b"warm", 4, condition=NEW)
    with proxy.rule(Hold(puts)) as hold:
        futures = at_once(s3, bucket, *KEYS)
        assert hold.reached.wait(60)
        for _ in range(3):
            entry, _ = s3.pool.submit(s3.head, bucket, "warm").result(10)
            assert entry.size == 4
        assert hold.seen == 1
        hold.release()
        assert [future.result(10).size for future in futures] == [9, 9, 9]
    s3.close()


def test_however_many_are_put_again_those_who_read_have_a_connection(
    endpoint: str, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=endpoint, connections=2), mimicdb)
    s3.put(bucket, "warm", b"warm", 4, condition=NEW)
    s3.putter._patience_s = 0.1
    with proxy.rule(Hold(puts)) as hold:
        futures = at_once(s3, bucket, *KEYS, condition=Condition())
        wait_until(lambda: hold.seen > 1)  # the first one again
        for _ in range(3):
            entry, _ = s3.pool.submit(s3.head, bucket, "warm").result(10)
            assert entry.size == 4
        hold.release()
        assert [future.result(10).size for future in futures] == [9, 9, 9]
    s3.close()


def test_without_an_idle_connection_too_those_who_read_have_one(
    endpoint: str, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=endpoint, connections=2), mimicdb)
    with proxy.rule(Hold(puts)) as hold:
        futures = at_once(s3, bucket, *KEYS, condition=Condition())
        assert hold.reached.wait(60)
        s3.pool.submit(s3.head_bucket, bucket).result(10)
        assert hold.seen == 1
        hold.release()
        assert [future.result(10).size for future in futures] == [9, 9, 9]
    s3.close()


def test_what_no_thread_can_be_had_for_is_not_sent_when_there_is_one(
    s3: S3, client: Any, bucket: str, monkeypatch: Any
) -> None:
    def refuses(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError):
            s3.put_soon(bucket, "a", b"a", 1, Content(), NEW)
    later = s3.put_soon(bucket, "b", b"b", 1, Content(), NEW)
    assert later is not None
    assert later.result(10).size == 1
    assert in_s3(client, bucket) == ["b"]


def test_over_one_connection_nothing_is_put_together(
    endpoint: str, mimicdb: Mirror, bucket: str
) -> None:
    s3 = S3(S3Options(endpoint_url=endpoint, connections=1), mimicdb)
    assert s3.put_soon(bucket, "a", b"a", 1, Content(), Condition()) is None
    s3.close()


class Chunked(Rule):
    """Answers have an ETag, and an empty body of no length."""

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        response.read()
        handler.head(200, [("ETag", response.getheader("ETag")), ("Transfer-Encoding", "chunked")])
        handler.wfile.write(b"0\r\n\r\n")
        return True


def test_a_server_whose_answers_are_not_plain_is_asked_one_at_a_time_from_then_on(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Chunked(puts)):
        [future] = at_once(s3, bucket, "a", condition=Condition())
        assert future.result(20).size == 9
        assert proxy.counted() == {"PUT": 2}
    assert s3.put_soon(bucket, "b", b"b", 1, Content(), Condition()) is None
    assert mimicdb.backend.unsettled(bucket) == []


@pytest.mark.parametrize("method", ["begin_puts", "put_together"])
def test_an_error_that_nobody_has_foreseen_is_that_of_each_and_the_next_are_put(
    s3: S3, bucket: str, monkeypatch: Any, method: str
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(s3.putter._learner, method, fails)
        for future in at_once(s3, bucket, *KEYS):
            with pytest.raises(RuntimeError, match="unforeseen"):
                future.result(10)
    later = s3.put_soon(bucket, "d", b"d", 1, Content(), NEW)
    assert later is not None
    assert later.result(10).size == 1


class InChunks(Rule):
    """Answers are S3's refusals as AWS sends them: with a body of no length."""

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        response.read()
        body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
        handler.head(503, [("Content-Type", "text/xml"), ("Transfer-Encoding", "chunked")])
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        return True


def test_a_refusal_in_chunks_says_nothing_of_how_the_server_confirms(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(InChunks(puts)) as rule:
        futures = at_once(s3, bucket, *KEYS, condition=Condition())
        assert rule.reached.wait(60)
    assert [future.result(20).size for future in futures] == [9, 9, 9]
    later = s3.put_soon(bucket, "d", b"d", 1, Content(), Condition())
    assert later is not None
    assert later.result(10).size == 1
    assert mimicdb.backend.unsettled(bucket) == []


@pytest.mark.parametrize("together", [True, False])
def test_what_is_refused_after_a_lost_answer_is_asked_of_s3(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy, together: bool
) -> None:
    with proxy.rule(LoseOne(puts)):
        if together:
            [future] = at_once(s3, bucket, "a", condition=Condition())
        else:
            future = s3.pool.submit(s3.put, bucket, "a", b"aaaaaaaaa", 9)
        with pytest.raises(AccessDenied):
            future.result(20)
    wait_until(lambda: not mimicdb.backend.unsettled(bucket))
    entry = mimicdb.entry(bucket, "a")
    assert entry is not None
    assert entry.etag == client.head_object(Bucket=bucket, Key="a")["ETag"].strip('"')


@pytest.mark.parametrize("together", [True, False])
def test_what_s3_does_of_a_put_that_it_has_not_answered_is_seen_though_the_next_was_refused(
    s3: S3,
    mimicdb: Mirror,
    client: Any,
    bucket: str,
    proxy: Proxy,
    together: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stragglers, "FIRST_S", 0.05)
    monkeypatch.setattr(intent, "_AGAIN_S", 0.05)
    unheard = Drop(lambda request: puts(request) and not unheard.seen)
    unheard.release()
    with proxy.rule(unheard), proxy.rule(Fail(puts, 403, "AccessDenied")):
        if together:
            [future] = at_once(s3, bucket, "a", condition=Condition())
        else:
            future = s3.pool.submit(s3.put, bucket, "a", b"aaaaaaaaa", 9)
        with pytest.raises(AccessDenied):
            future.result(20)
    wait_until(lambda: not mimicdb.backend.unsettled(bucket))
    assert mimicdb.entry(bucket, "a") is None
    client.put_object(Bucket=bucket, Key="a", Body=b"aaaaaaaaa")  # S3 does the first now
    wait_until(lambda: mimicdb.entry(bucket, "a") is not None)


class GivenUp(io.BytesIO):
    """A body that nobody wants any more once it was sent."""

    def seek(self, place: int, whence: int = 0) -> int:
        raise Interrupted("given up")


def test_what_was_given_up_meanwhile_is_not_put_again(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    with proxy.rule(Fail(puts, 503, "SlowDown")) as rule:
        future = s3.put_soon(bucket, "a", GivenUp(b"a"), 1, Content(), NEW)
        assert future is not None
        with pytest.raises(Interrupted):
            future.result(20)
        assert rule.seen == 1
    wait_until(lambda: not mimicdb.backend.unsettled(bucket))
    assert mimicdb.entry(bucket, "a") is None


def test_what_fails_before_it_is_sent_is_put_again_and_after_it_was_confirmed_is_told(
    s3: S3, mimicdb: Mirror, bucket: str, monkeypatch: Any
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(s3._wire, "sending", fails)
        assert [future.result(10).size for future in at_once(s3, bucket, *KEYS)] == [9, 9, 9]
        patch.undo()
        patch.setattr(s3.kept, "written", fails)
        later = s3.put_soon(bucket, "d", b"d", 1, Content(), NEW)
        assert later is not None
        with pytest.raises(RuntimeError, match="unforeseen"):
            later.result(10)
    assert mimicdb.entry(bucket, "d") is not None
    assert mimicdb.backend.unsettled(bucket) == []


def test_what_waits_for_the_pool_when_the_mount_ends_has_an_end(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    go = threading.Event()
    busy = [s3.pool.submit(go.wait, 30) for _ in range(s3.pool._max_workers - 3)]
    with proxy.rule(Fail(puts, 503, "SlowDown")) as rule:
        futures = at_once(s3, bucket, *KEYS)
        assert rule.reached.wait(60)
        busy += [s3.pool.submit(go.wait, 30) for _ in range(3)]
    s3.close()
    go.set()
    for future in futures:
        assert future.exception(20) is None or isinstance(future.exception(), S3Unavailable)
    assert [each.result(10) for each in busy if not each.cancelled()]


def test_those_who_put_first_at_the_same_time_share_one_thread(s3: S3, monkeypatch: Any) -> None:
    both, made = threading.Barrier(2), []
    init = putting.Putter.__init__

    def slow(self: Any, *args: Any) -> None:
        made.append(self)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        init(self, *args)

    monkeypatch.setattr(putting.Putter, "__init__", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: s3.putter, range(2)))
    assert found[0] is found[1]
    assert len(made) == 1
