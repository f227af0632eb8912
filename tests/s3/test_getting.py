"""Small objects that one thread gets together: each is read as if it were alone."""

from __future__ import annotations

import hashlib
import http.client
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials
from support.mounts import wait_until
from support.proxy import Cut, Fail, Hold, Lose, Proxy, Request, Rule, Spoil

from mimicfs.backends.sqlite import SQLite
from mimicfs.config.limits import parse_limit
from mimicfs.config.values import FileOptions, S3Options
from mimicfs.entry import Entry
from mimicfs.errors import (
    AccessDenied,
    KeyNotFound,
    ObjectChanged,
    S3Unavailable,
    StoreUnavailable,
    TooManyRequests,
)
from mimicfs.files.asking import fetch_ahead
from mimicfs.files.budget import Budget
from mimicfs.files.journal import Journal
from mimicfs.files.reader import Reader
from mimicfs.files.tools import Tools
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.getting import SmallGet

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

KEYS = ["a", "b", "c"]


def gets(request: Request) -> bool:
    return request.kind == "GET"


def gets_b(request: Request) -> bool:
    return gets(request) and request.key == "b"


def once(matches: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """Only the first one that *matches*: a slow machine would be refused at each attempt."""
    left = iter([True])
    return lambda request: matches(request) and next(left, False)


@pytest.fixture
def mimicdb(tmp_path: Path) -> Iterator[Mirror]:
    mimicdb = Mirror(SQLite(str(tmp_path / "store")))
    yield mimicdb
    mimicdb.close()


def warmed(s3: S3, bucket: str, proxy: Proxy) -> S3:
    """Return *s3* with three idle connections."""
    with proxy.rule(Hold(lambda request: request.kind == "HEAD")) as hold:
        warm = [s3.pool.submit(s3.head_bucket, bucket) for _ in range(3)]
        wait_until(lambda: hold.seen == 3)
        hold.release()
    for future in warm:
        future.result(10)
    proxy.counted()
    return s3


@pytest.fixture
def s3(proxy: Proxy, mimicdb: Mirror, bucket: str) -> Iterator[S3]:
    s3 = warmed(S3(S3Options(endpoint_url=proxy.url, attempts=3), mimicdb), bucket, proxy)
    yield s3
    s3.close()


@pytest.fixture
def known(mimicdb: Mirror, client: Any, bucket: str) -> list[Entry]:
    """Three objects with metadata, of which the mirror has what a listing says."""
    for key in KEYS:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() * 9, Metadata={"mode": "33188"})
    return [recorded(mimicdb, client, bucket, key) for key in KEYS]


def recorded(mimicdb: Mirror, client: Any, bucket: str, key: str) -> Entry:
    said = client.head_object(Bucket=bucket, Key=key)
    etag = said["ETag"].strip('"')
    entry = Entry(key, said["ContentLength"], int(said["LastModified"].timestamp()) * 10**9, etag)
    mimicdb.record(bucket, entry)
    return entry


class Got:
    """A GET, and the bytes that it has brought."""

    def __init__(self, s3: S3, bucket: str, entry: Entry) -> None:
        self.buffer = memoryview(bytearray(entry.size))
        self.future: Future[None] = Future()
        self.alone = 0  # how often it was asked for as any other

        def otherwise() -> None:
            self.alone += 1
            s3.read_into(bucket, entry.key, entry.etag, 0, self.buffer, "", entry.size)

        self.get = SmallGet(bucket, entry, self.buffer, self.future, lambda: None, otherwise)

    def result(self) -> bytes:
        self.future.result(20)
        return bytes(self.buffer)


def at_once(s3: S3, bucket: str, entries: list[Entry]) -> list[Got]:
    found = [Got(s3, bucket, entry) for entry in entries]
    s3.getter.get([each.get for each in found])
    return found


def test_a_group_is_read_after_one_look_at_the_number_of_the_latest_change(
    s3: S3, mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy, monkeypatch: Any
) -> None:
    looks: list[str] = []
    seq = mimicdb.backend.seq

    def seen(bucket: str) -> int:
        looks.append(bucket)
        return seq(bucket)

    monkeypatch.setattr(mimicdb.backend, "seq", seen)
    found = at_once(s3, bucket, known)
    assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]
    assert proxy.counted() == {"GET": 3}
    assert (looks, [each.alone for each in found]) == ([bucket], [0, 0, 0])
    entries = [mimicdb.entry(bucket, key) for key in KEYS]
    assert [each.meta for each in entries if each is not None] == [{"mode": "33188"}] * 3
    assert (s3.requests["GET"], s3.figures()["bytes_in"]) == (3, 27)
    assert s3.figures()["calls"]["GetObject"] == 3


def test_what_became_known_after_a_group_was_sent_is_not_overridden_by_what_it_shows(
    s3: S3, mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    newer = known[1]._replace(etag="of-another", size=7)
    with proxy.rule(Hold(gets, answers=True)) as hold:
        found = at_once(s3, bucket, known)
        assert hold.reached.wait(60)
        mimicdb.record(bucket, newer)
        mimicdb.forget(bucket, "c")
        hold.release()
        assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]
    assert mimicdb.entry(bucket, "b") == newer
    assert mimicdb.entry(bucket, "c") is None


def test_a_refusal_does_not_override_what_became_known_after_it_was_asked_for(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    client.delete_object(Bucket=bucket, Key="b")
    with proxy.rule(Hold(gets, answers=True)) as hold:
        [found] = at_once(s3, bucket, known[1:2])
        assert hold.reached.wait(60)
        client.put_object(Bucket=bucket, Key="b", Body=b"newer")
        newer = recorded(mimicdb, client, bucket, "b")
        hold.release()
        with pytest.raises(KeyNotFound):
            found.result()
    assert mimicdb.entry(bucket, "b") == newer


def test_what_the_mirror_must_be_changed_for_holds_up_no_other_object(
    s3: S3, mimicdb: Mirror, bucket: str, known: list[Entry], tmp_path: Path
) -> None:
    for entry in known[1:]:
        mimicdb.record(bucket, entry._replace(meta={"mode": "33188"}))
    with closing(sqlite3.connect(tmp_path / "store", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a process that writes the store for long
        first, second, third = at_once(s3, bucket, known)
        assert (second.result(), third.result()) == (b"b" * 9, b"c" * 9)
        assert not first.future.done()
        other.execute("ROLLBACK")
        assert first.result() == b"a" * 9
    assert [each.alone for each in (first, second, third)] == [0, 0, 0]
    now = mimicdb.entry(bucket, "a")
    assert now is not None
    assert now.meta == {"mode": "33188"}


def test_a_version_that_is_gone_is_an_error_after_one_request_and_the_mirror_knows_the_next_one(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"another")
    client.delete_object(Bucket=bucket, Key="b")
    proxy.counted()
    first, second, third = at_once(s3, bucket, known)
    with pytest.raises(ObjectChanged):
        first.result()
    with pytest.raises(KeyNotFound):
        second.result()
    assert third.result() == b"c" * 9
    assert (proxy.counted()["GET"], s3.requests["GET"]) == (3, 3)
    assert s3.figures()["calls"]["GetObject"] == 3
    now = mimicdb.entry(bucket, "a")
    assert now is not None
    assert (now.size, now.etag) == (7, hashlib.md5(b"another").hexdigest())
    assert mimicdb.entry(bucket, "b") is None


@pytest.mark.parametrize(
    "rule",
    [
        lambda: Fail(once(gets_b), 503, "SlowDown"),
        lambda: Lose(gets_b),
        lambda: Cut(gets_b, 4, 1),
    ],
)
def test_what_does_not_come_is_asked_for_again_as_any_other(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy, rule: Any
) -> None:
    with proxy.rule(rule()) as kept:
        found = at_once(s3, bucket, known)
        assert kept.reached.wait(60)
        assert [found[0].result(), found[2].result()] == [b"a" * 9, b"c" * 9]
        wait_until(lambda: found[1].alone == 1)
    assert found[1].result() == b"b" * 9
    assert [each.alone for each in found] == [0, 1, 0]


def test_a_server_that_does_not_answer_holds_up_its_own_object_only(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    with proxy.rule(Hold(gets_b)) as hold:
        first, second, third = at_once(s3, bucket, known)
        assert (first.result(), third.result()) == (b"a" * 9, b"c" * 9)
        assert not second.future.done()
        hold.release()
    assert second.result() == b"b" * 9


def test_what_is_answered_too_late_is_asked_for_again(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    s3.getter._patience_s = 0.1
    with proxy.rule(Hold(gets_b)) as hold:
        [found] = at_once(s3, bucket, known[1:2])
        wait_until(lambda: hold.seen == 2)
        hold.release()
        assert found.result() == b"b" * 9
    assert found.alone == 1


def test_bytes_without_their_checksum_are_not_believed(
    s3: S3, client: Any, mimicdb: Mirror, bucket: str, proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="b", Body=b"bytes", ChecksumAlgorithm="SHA256")
    entry = recorded(mimicdb, client, bucket, "b")
    with proxy.rule(Spoil(gets)):
        [found] = at_once(s3, bucket, [entry])
        with pytest.raises(S3Unavailable, match=r"checksum \(sha256\)"):
            found.result()
    assert proxy.counted()["GET"] == 1 + 3


class Written(Rule):
    """Answers to the first request are *text* of bytes; then the connection ends if *ends*."""

    def __init__(self, text: bytes, *, ends: bool = False) -> None:
        super().__init__(gets_b)
        self.text = text
        self.ends = ends

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        if self.seen > 1:
            return False
        response.read()
        etag, time = (response.getheader(name) or "" for name in ("ETag", "Last-Modified"))
        said = b"ETag: %s\r\nLast-Modified: %s\r\n" % (etag.encode(), time.encode())
        handler.wfile.write(self.text.replace(b"said\r\n", said))
        handler.close_connection = self.ends
        return True


OK = b"HTTP/1.1 200 OK\r\nsaid\r\n"


@pytest.mark.parametrize(
    ("text", "ends", "alone"),
    [
        (OK + b"Content-Length: 8\r\n\r\nbbbbbbbb", False, 1),
        (OK + b"Content-Length: 10\r\n\r\nbbbbbbbbbb", False, 1),
        (OK + b"Content-Length: 9\r\n\r\nbbbb", True, 1),
        (OK + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\nbbbbbbbbb", True, 1),
        (OK + b"Content-Length: 9\r\nContent-Range: bytes 0-8/9\r\n\r\nbbbbbbbbb", False, 1),
        (b"HTTP/1.1 206 Partial\r\nsaid\r\nContent-Length: 9\r\n\r\nbbbbbbbbb", False, 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbbbbbbbbb", False, 1),
        (b"HTTP/1.0 200 OK\r\nsaid\r\nContent-Length: 9\r\n\r\nbbbbbbbbb", True, 1),
        (b"HTTP/1.1 304 Not Modified\r\nsaid\r\n\r\n", False, 1),
        (b"HTTP/1.1 204 No Content\r\nsaid\r\n\r\n", False, 1),
        (b"HTTP/1.1 307 T\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", False, 1),
        (b"no answer at all", True, 1),
        (OK + b"Connection: close\r\nContent-Length: 9\r\n\r\nbbbbbbbbb", True, 0),
        (OK + b"Content-Length: 9\r\n\r\nbbbbbbbbbmore", True, 0),
    ],
)
def test_the_bytes_are_those_of_the_object_whatever_the_first_answer_is_like(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy, text: bytes, ends: bool, alone: int
) -> None:
    with proxy.rule(Written(text, ends=ends)):
        found = at_once(s3, bucket, known)
        assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]
    assert found[1].alone == alone
    assert [each.result() for each in at_once(s3, bucket, known)] == [b"a" * 9, b"b" * 9, b"c" * 9]


GONE = b"<Error><Code>NoSuchKey</Code></Error>"
IN_CHUNKS = b"HTTP/1.1 404 N\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GONE) + GONE


@pytest.mark.parametrize(
    ("text", "ends", "requests"),
    [
        (IN_CHUNKS + b"\r\n0\r\n\r\n", False, 3),
        (b"HTTP/1.1 404 N\r\nContent-Length: %d\r\n\r\n" % len(GONE) + GONE, False, 3),
        (b"HTTP/1.1 412 P\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False, 3),
        (IN_CHUNKS, True, 4),  # not all of it has come
        (b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", False, 4),  # perhaps not S3's
    ],
)
def test_the_word_of_s3_that_a_version_is_gone_needs_no_other_request(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy, text: bytes, ends: bool, requests: int
) -> None:
    with proxy.rule(Written(text, ends=ends)):
        found = at_once(s3, bucket, known)
        if requests == 3:
            with pytest.raises((KeyNotFound, ObjectChanged)):
                found[1].result()
        else:
            assert found[1].result() == b"b" * 9
        assert (found[0].result(), found[2].result()) == (b"a" * 9, b"c" * 9)
    assert proxy.counted()["GET"] == requests
    assert s3.requests["GET"] == requests


def test_one_object_waits_for_new_credentials_and_not_all(
    s3: S3, bucket: str, known: list[Entry]
) -> None:
    come = threading.Event()

    def renewed() -> dict[str, str]:
        come.wait(20)
        return dict.fromkeys(("access_key", "secret_key", "token"), "new") | soon

    soon = {"expiry_time": (datetime.now(UTC) + timedelta(minutes=12)).isoformat()}
    old = {**dict.fromkeys(("access_key", "secret_key", "token"), "old"), **soon}
    found = RefreshableCredentials.create_from_metadata(old, renewed, "test")
    s3.getter._wire.credentials._now = found
    gets = at_once(s3, bucket, known)
    wait_until(lambda: sum(each.future.done() for each in gets) == 2)
    come.set()
    assert [each.result() for each in gets] == [b"a" * 9, b"b" * 9, b"c" * 9]


def test_a_refusal_is_told_to_whoever_asked_for_that_object(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    with proxy.rule(Fail(gets_b, 403, "AccessDenied")):
        first, second, third = at_once(s3, bucket, known)
        with pytest.raises(AccessDenied):
            second.result()
        assert (first.result(), third.result()) == (b"a" * 9, b"c" * 9)
    assert [first.alone, second.alone, third.alone] == [0, 1, 0]


def test_small_objects_are_read_together_over_tls(
    tls: str, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="whole", Body=b"x" * 65_536)
    entry = recorded(mimicdb, client, bucket, "whole")
    s3 = warmed(S3(S3Options(endpoint_url=tls), mimicdb), bucket, proxy)
    found = at_once(s3, bucket, [entry])
    assert found[0].result() == b"x" * 65_536
    assert found[0].alone == 0
    s3.close()


class InChunks(Rule):
    """Answers have no length."""

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        body = response.read()
        named = ("ETag", "Last-Modified")
        said = [(name, response.getheader(name)) for name in named]
        handler.head(response.status, [*said, ("Transfer-Encoding", "chunked")])
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        return True


def test_a_server_whose_answers_are_not_plain_is_asked_one_at_a_time_from_then_on(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    with proxy.rule(InChunks(gets)):
        [first] = at_once(s3, bucket, known[:1])
        assert first.result() == b"a" * 9
        assert proxy.counted() == {"GET": 2}
        found = at_once(s3, bucket, known[1:])
        assert [each.result() for each in found] == [b"b" * 9, b"c" * 9]
    assert proxy.counted() == {"GET": 2}


class OfAnother(Rule):
    """Answers are of another version than was asked for."""

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        response.read()
        said = [("ETag", '"another"'), ("Last-Modified", "Sat, 28 Nov 2026 10:00:00 GMT")]
        handler.send(200, said, b"x" * 9)
        return True


def test_a_server_that_does_not_look_at_the_version_is_not_believed(
    s3: S3, mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    with proxy.rule(OfAnother(gets)):
        [found] = at_once(s3, bucket, known[:1])
        with pytest.raises(ObjectChanged):
            found.result()
    now = mimicdb.entry(bucket, "a")
    assert now is not None
    assert now.etag == "another"


def test_without_the_store_reading_goes_on(
    s3: S3, mimicdb: Mirror, bucket: str, known: list[Entry], monkeypatch: Any
) -> None:
    def away(*_: Any) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(mimicdb.backend, "seq", away)
    found = at_once(s3, bucket, known)
    assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]


@pytest.mark.parametrize("method", ["number_before_read", "has_read"])
def test_an_error_that_nobody_has_foreseen_ends_only_what_it_is_about(
    s3: S3, bucket: str, known: list[Entry], monkeypatch: Any, method: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(s3.getter._learner, method, fails)
        found = at_once(s3, bucket, known)
        told = [each.future.exception(10) for each in found]
    assert all(each is None or str(each) == "unforeseen" for each in told)
    later = at_once(s3, bucket, known)
    assert [each.result() for each in later] == [b"a" * 9, b"b" * 9, b"c" * 9]
    assert [each.alone for each in later] == [0, 0, 0]


def test_what_was_given_up_before_it_was_sent_is_not_sent(
    s3: S3, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    s3.getter._thread = threading.Thread(target=s3.getter._run, daemon=True)
    first, second, third = at_once(s3, bucket, known)
    assert second.future.cancel()
    s3.getter._thread.start()
    assert (first.result(), third.result()) == (b"a" * 9, b"c" * 9)
    with pytest.raises(CancelledError):
        second.result()
    assert proxy.counted() == {"GET": 2}


def test_what_was_not_sent_when_the_mount_ends_has_an_end(
    s3: S3, bucket: str, known: list[Entry]
) -> None:
    s3.getter._thread = threading.Thread(target=int)
    [found] = at_once(s3, bucket, known[:1])
    s3.close()
    with pytest.raises(S3Unavailable, match="the mount has ended"):
        found.result()
    with pytest.raises(S3Unavailable, match="the mount has ended"):
        at_once(s3, bucket, known)


def test_without_an_idle_connection_all_are_read_as_any_other(
    mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=proxy.url), mimicdb)
    found = at_once(s3, bucket, known)
    assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]
    assert [each.alone for each in found] == [1, 1, 1]
    assert proxy.counted() == {"GET": 3}
    s3.close()


def test_however_many_are_read_ahead_others_have_a_connection(
    mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    s3 = S3(S3Options(endpoint_url=proxy.url, connections=2), mimicdb)
    s3.head_bucket(bucket)
    with proxy.rule(Hold(gets)) as hold:
        found = at_once(s3, bucket, known)
        assert hold.reached.wait(60)
        s3.pool.submit(s3.head_bucket, bucket).result(10)
        assert hold.seen == 1
        hold.release()
        assert [each.result() for each in found] == [b"a" * 9, b"b" * 9, b"c" * 9]
    s3.close()


def test_where_others_have_all_threads_each_is_read_in_its_turn(
    mimicdb: Mirror, bucket: str, known: list[Entry], proxy: Proxy
) -> None:
    s3 = warmed(S3(S3Options(endpoint_url=proxy.url, connections=3), mimicdb), bucket, proxy)
    before, after = threading.Event(), threading.Event()
    others = [s3.pool.submit(before.wait) for _ in range(3)]
    wait_until(s3.pool._work_queue.empty)
    [found] = at_once(s3, bucket, known[:1])
    wait_until(lambda: not (s3.getter._new or s3.baton.at_work))
    others += [s3.pool.submit(after.wait) for _ in range(6)]
    before.set()
    try:
        assert found.result() == b"a" * 9
    finally:
        after.set()
    assert all(each.result(10) for each in others)
    s3.close()


def test_where_one_cannot_be_asked_for_those_before_it_are_not_waited_for(
    s3: S3, bucket: str, known: list[Entry], tmp_path: Path
) -> None:
    large = Entry("large", 65_537, etag="e")
    tools = Tools(s3, Journal(tmp_path), FileOptions(tmp_path), Budget())
    readers = [Reader(tools, bucket, each) for each in (known[0], large)]
    s3.pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        fetch_ahead(s3, readers)
    assert readers[0].coming(0) is None


def test_a_day_that_has_no_more_requests_is_told(
    mimicdb: Mirror,
    bucket: str,
    known: list[Entry],
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = S3Options(endpoint_url=proxy.url, requests_per_day=4)
    s3 = warmed(S3(options, mimicdb), bucket, proxy)
    found = at_once(s3, bucket, known)
    told = [each.future.exception(10) for each in found]
    assert [type(each) for each in told] == [type(None), TooManyRequests, TooManyRequests]
    assert proxy.counted() == {"GET": 1}
    assert "4 of the 4 requests of today are sent" in caplog.text
    s3.close()


@pytest.mark.parametrize(
    ("options", "size", "etag", "together"),
    [
        ({}, 65_536, "e", True),
        ({}, 65_537, "e", False),
        ({}, 0, "e", False),
        ({}, 10, "", False),
        ({"connections": 1}, 10, "e", False),
        ({"download_limit": parse_limit("1M")}, 10, "e", False),
    ],
)
def test_small_objects_are_read_together_unless_something_holds_requests_back(
    mimicdb: Mirror, server: str, options: Any, size: int, etag: str, together: bool
) -> None:
    s3 = S3(S3Options(endpoint_url=server, **options), mimicdb)
    assert s3.gets_together("bucket", Entry("key", size, etag=etag)) is together
    s3.close()
