"""A write that S3 has confirmed is done, whatever the HEAD behind it says; one that the limit of
the day has not let go is certainly not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.faults import Fault
from support.proxy import Fail, Proxy

from mimicfs.errors import TooManyRequests
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.content import Content

pytestmark = [
    pytest.mark.parametrize("server", ["moto"], indirect=True),
    pytest.mark.usefixtures("caplog"),  # it is warned of the end of the day
]


def more_today(s3: S3, count: int) -> None:
    """Let *s3* send *count* requests more."""
    s3.limits.set("max-requests-per-day", "off")
    s3.list_buckets()  # a limit of 0 is none
    most = s3.limits.figures()["requests_today"] + count
    s3.limits.set("max-requests-per-day", str(most))


def contend(mimicdb: Mirror, bucket: str, *keys: str) -> None:
    """Somebody has changed *keys*, and nobody knows how."""
    mimicdb.intents.end(mimicdb.intents.begin(bucket, keys), unsure=True)


def unsettled(mimicdb: Mirror, bucket: str) -> list[tuple[str, bool]]:
    """The keys of which only S3 knows, and whether somebody may still be changing them."""
    return [(each.key, each.pending) for each in mimicdb.backend.unsettled(bucket)]


def test_an_upload_that_s3_has_completed_is_done_without_its_head(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str
) -> None:
    upload = s3.start_upload(bucket, "a", Content())
    etag = s3.upload_part(bucket, "a", upload, 1, b"12345", 5)
    more_today(s3, 1)
    assert s3.finish_upload(bucket, "a", upload, [etag], 5).size == 5
    assert client.head_object(Bucket=bucket, Key="a")["ContentLength"] == 5
    assert unsettled(mimicdb, bucket) == []


def test_a_contended_write_that_s3_has_confirmed_is_done_without_its_head(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str
) -> None:
    contend(mimicdb, bucket, "a")
    more_today(s3, 1)
    assert s3.put(bucket, "a", b"123", 3).size == 3
    assert unsettled(mimicdb, bucket) == [("a", False)]
    s3.limits.set("max-requests-per-day", "off")
    mimicdb.intents.look_after()
    assert unsettled(mimicdb, bucket) == []
    entry = mimicdb.entry(bucket, "a")
    assert entry is not None and entry.size == 3


WRITES: dict[str, Callable[[S3, str], Any]] = {
    "ours": lambda s3, bucket: s3.put(bucket, "a", b"x", 1),
    "botocore's": lambda s3, bucket: s3.delete(bucket, "a"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_the_limit_did_not_let_go_leaves_nothing_to_ask(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy, write: str
) -> None:
    more_today(s3, 0)
    proxy.counted()
    with pytest.raises(TooManyRequests):
        WRITES[write](s3, bucket)
    assert unsettled(mimicdb, bucket) == []
    s3.limits.set("max-requests-per-day", "off")
    mimicdb.intents.look_after()
    assert proxy.counted() == {}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_of_which_only_the_second_attempt_was_too_much_may_be_done(
    s3: S3, mimicdb: Mirror, bucket: str, proxy: Proxy, write: str
) -> None:
    more_today(s3, 1)
    fail = Fail(lambda request: request.kind in ("PUT", "DELETE"), 500, "InternalError")
    with proxy.rule(fail), pytest.raises(TooManyRequests):
        WRITES[write](s3, bucket)
    assert unsettled(mimicdb, bucket) == [("a", False)]


class NoLength(Fault):
    """The answers to HEAD and GET of the key "a" say neither how long it is nor its version."""

    def __init__(self) -> None:
        super().__init__(lambda request: request.key == "a", 99)

    def after(self, handler: Any, response: Any) -> bool:
        gone = {"connection", "transfer-encoding", "content-length", "content-range"}
        gone |= {"etag"} if handler.command == "GET" else set()
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in gone]
        handler.head(response.status, [*kept, ("Transfer-Encoding", "chunked")])
        if handler.command == "GET":
            handler.wfile.write(b"1\r\nx\r\n0\r\n\r\n")
        return True


def test_a_key_that_s3_says_nothing_of_keeps_nobody_from_looking_after_the_others(
    s3: S3, mimicdb: Mirror, client: Any, bucket: str, proxy: Proxy
) -> None:
    for key in ("a", "b"):
        s3.put(bucket, key, b"old", 3)
        client.put_object(Bucket=bucket, Key=key, Body=b"newer")
    contend(mimicdb, bucket, "a", "b")
    with proxy.rule(NoLength()):
        mimicdb.intents.look_after()
    assert unsettled(mimicdb, bucket) == [("a", False)]
    entry = mimicdb.entry(bucket, "b")
    assert entry is not None and entry.size == 5


def test_at_the_end_of_the_day_what_is_undone_waits(s3: S3, mimicdb: Mirror, bucket: str) -> None:
    s3.put(bucket, "a", b"x", 1)
    contend(mimicdb, bucket, "a", "b")
    more_today(s3, 0)
    mimicdb.intents.look_after()
    assert unsettled(mimicdb, bucket) == [("a", False), ("b", False)]
